"""What callers of `camrt.load` say of a file or a torch module: targets, labels, preprocessing."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from camrt.engine.preprocessing import METADATA_KEY, Preprocessing
from camrt.errors import InputError
from camrt.export.input_form import InputForm

__all__ = ["labels_of", "preprocessing_of", "wanted_targets"]


def wanted_targets(target: str | Sequence[str] | None) -> list[str | None]:
    """The targets asked for, one by one; None stands for the one that is found."""
    if target is None or isinstance(target, str):
        return [target]
    wanted: list[str | None] = list(target)
    if not wanted or not all(isinstance(name, str) for name in wanted) or len(set(wanted)) < len(wanted):
        raise InputError(f"target={target!r} must be a name, or a list of different names")
    return wanted


def preprocessing_of(
    given: Preprocessing | str | Mapping[str, Any] | None, metadata: dict[str, str], form: InputForm
) -> Preprocessing | None:
    """The preprocessing asked for, or the one in the file's metadata."""
    size = None if form.height is None or form.width is None else (form.height, form.width)
    if given is None and METADATA_KEY in metadata:
        return Preprocessing.from_json(metadata[METADATA_KEY], size)
    return Preprocessing.coerce(given, size)


def labels_of(
    given: Sequence[str] | str | os.PathLike[str] | None, metadata: dict[str, str], classes: int
) -> tuple[str, ...] | None:
    """Class names, checked against the number of classes."""
    names: Sequence[str] | None
    if given is None:
        names = json_labels(metadata["camrt.labels"]) if "camrt.labels" in metadata else None
    elif isinstance(given, (str, os.PathLike)):
        try:
            names = Path(given).read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"labels file {os.fspath(given)!r} cannot be read: {error}") from error
        while names and not names[-1].strip():
            names = names[:-1]
    else:
        names = list(given)
    if names is None:
        return None
    if len(names) != classes:
        raise InputError(f"{len(names)} labels were given for a model with {classes} classes")
    return tuple(str(name) for name in names)


def json_labels(text: str) -> list[str]:
    """The labels in a file's metadata."""
    try:
        names = json.loads(text)
    except json.JSONDecodeError as error:
        raise InputError(f"the file's metadata entry camrt.labels is not JSON: {error}") from error
    if not isinstance(names, list):
        raise InputError("the file's metadata entry camrt.labels is not a list of names")
    return names
