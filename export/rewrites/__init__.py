"""Rewriting a model in place: operator sets, float types, its input and output, its batch axis."""
