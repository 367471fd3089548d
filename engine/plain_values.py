"""Dataclasses as JSON and back: of classes that are named, of plain fields, exactly.

Floats keep their value, and tuples, sets and mappings what they are. Nothing in the text chooses what is
called but a name out of the list.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np

__all__ = ["decode_plain", "encode_plain"]

KIND, CONTENT = "is", "of"


def encode_plain(value: Any) -> Any:
    """A value as JSON has it.

    Raises:
        TypeError: It is of a type that has no form.
    """
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, (np.integer, np.floating, np.bool_)):
        return encode_plain(value.item())
    if isinstance(value, (int, float)):
        return value
    if isinstance(value, list):
        return [encode_plain(part) for part in value]
    if isinstance(value, tuple):
        return {KIND: "tuple", CONTENT: [encode_plain(part) for part in value]}
    if isinstance(value, Mapping):
        pairs = [[encode_plain(key), encode_plain(part)] for key, part in value.items()]
        return {KIND: "dict", CONTENT: pairs}
    if is_dataclass(value) and not isinstance(value, type):
        parts = {
            field.name: encode_plain(getattr(value, field.name)) for field in fields(value) if field.init
        }
        return {KIND: type(value).__name__, CONTENT: parts}
    raise TypeError(f"a {type(value).__name__} has no plain form")


def decode_plain(value: Any, classes: Mapping[str, type]) -> Any:
    """The inverse of `encode_plain`.

    Args:
        value: What JSON had.
        classes: The dataclasses that may be made, by name.

    Raises:
        KeyError: A class that is not among them.
        TypeError: Fields that a class has not.
        ValueError: Nothing that was written by `encode_plain`.
    """
    if isinstance(value, list):
        return [decode_plain(part, classes) for part in value]
    if not isinstance(value, dict):
        return value
    kind, content = value[KIND], value[CONTENT]
    if kind == "tuple":
        return tuple(decode_plain(part, classes) for part in content)
    if kind == "dict":
        return {decode_plain(key, classes): decode_plain(part, classes) for key, part in content}
    return classes[kind](**{name: decode_plain(part, classes) for name, part in content.items()})
