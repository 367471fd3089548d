"""Options of methods as text, KEY=VALUE."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from camrt.errors import InputError

__all__ = ["parse_options", "split_method"]

_NOT_OPTIONS = {"batch": "IMAGES", "method": "--method", "size": "--size", "targets": "--target"}


def split_method(text: str) -> list[str]:
    """A method's name and its options, "score:definition=torchcam" -> ["score", "definition=torchcam"]."""
    return re.split(r":(?=\w+=)", text)


def parse_options(texts: Sequence[str]) -> dict[str, Any]:
    """The method's options: values are JSON where they can be, text otherwise; lists become tuples."""

    def frozen(value: Any) -> Any:
        return tuple(map(frozen, value)) if isinstance(value, list) else value

    options: dict[str, Any] = {}
    for text in texts:
        key, equals, value = text.partition("=")
        key = key.strip().replace("-", "_")
        if not (equals and key.isidentifier()):
            raise InputError(f"--option must be KEY=VALUE, got {text!r}")
        if key in _NOT_OPTIONS:
            raise InputError(f"--option {key}: not an option of a method; use {_NOT_OPTIONS[key]}")
        if key in options:
            raise InputError(f"--option {key}: given twice")
        try:
            options[key] = frozen(json.loads(value))
        except (ValueError, RecursionError):
            options[key] = value
    return options
