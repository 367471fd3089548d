"""Cutting a classifier into trunk and head, and factoring the head."""
