"""Docstrings on the site: what stands under "Example:" is code."""

from __future__ import annotations

import re
from textwrap import dedent
from typing import Any

import griffe

EXAMPLE = re.compile(r"^Example:\n((?:[ ]{4}.*\n?|\n)+)", re.MULTILINE)


class Examples(griffe.Extension):
    """Puts examples into fenced blocks."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rewrites an object's docstring."""
        if obj.docstring:
            text = EXAMPLE.sub(
                lambda found: f"**Example**\n\n```python\n{dedent(found[1]).strip()}\n```\n",
                obj.docstring.value,
            )
            obj.docstring.value = text
