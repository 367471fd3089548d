"""Untrusted text (names of files, classes, methods, models) as it may be shown."""

from __future__ import annotations

__all__ = ["escape_chart", "replace_unprintable"]


def escape_chart(text: str) -> str:
    """Text for matplotlib: "$" begins no formula, and "_" in front hides nothing."""
    safe = replace_unprintable(text).replace("$", r"\$")
    return f" {safe}" if safe.startswith("_") else safe


def replace_unprintable(text: str) -> str:
    """Without characters that are not printed or that turn the line around; space of any kind is " "."""
    return "".join(
        c if c.isprintable() else " " if c.isspace() else "\N{REPLACEMENT CHARACTER}" for c in text
    )
