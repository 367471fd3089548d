"""Evaluation: how far an explanation can be trusted, one protocol a file."""
