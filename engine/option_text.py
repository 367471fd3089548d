"""Options of methods as text, KEY=VALUE."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from camrt.errors import InputError

__all__ = ["freeze_lists", "parse_options", "parse_value", "split_method"]

_NOT_OPTIONS = {"batch": "IMAGES", "method": "--method", "size": "--size", "targets": "--target"}


def split_method(text: str) -> list[str]:
    """A method's name and its options, "score:definition=torchcam" -> ["score", "definition=torchcam"]."""
    return re.split(r":(?=\w+=)", text)


def parse_options(texts: Sequence[str]) -> dict[str, Any]:
    """The method's options, see `parse_value`."""
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
        options[key] = parse_value(value)
    return options


def parse_value(text: str) -> Any:
    """An option's value: JSON where it can be, text otherwise; lists become tuples."""
    try:
        return freeze_lists(json.loads(text))
    except (ValueError, RecursionError):
        return text


def freeze_lists(value: Any) -> Any:
    """A value of JSON with tuples for its lists."""
    return tuple(map(freeze_lists, value)) if isinstance(value, list) else value
