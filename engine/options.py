"""What callers of `camrt.load` say of a file or a torch module: targets, labels, preprocessing."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping, Sequence, Set
from operator import index
from pathlib import Path
from typing import Any, Literal

import numpy as np

from camrt.engine.images.preprocess import METADATA_KEY, Preprocessing
from camrt.errors import InputError
from camrt.export.io import text_files
from camrt.export.io.file_kinds import describe_missing
from camrt.export.rewrites.input_form import InputForm

__all__ = [
    "LABELS_KEY",
    "Verify",
    "check_pair",
    "list_targets",
    "read_label_file",
    "read_text_file",
    "resolve_labels",
    "resolve_preprocessing",
    "resolve_threads",
]

LABELS_KEY = "camrt.labels"
THREADS_VARIABLE = "CAMRT_THREADS"
Verify = bool | Literal["thorough"]


def list_targets(target: str | Sequence[str] | None) -> list[str | None]:
    """The targets asked for, one by one; None stands for the one that is found."""
    if target is None or isinstance(target, str):
        return [target]
    wanted: list[str | None] = list(target) if isinstance(target, Iterable) else []
    if not wanted or not all(isinstance(name, str) for name in wanted) or len(set(wanted)) < len(wanted):
        raise InputError(f"target={target!r} must be a name, or a list of different names")
    return wanted


def resolve_preprocessing(
    given: Preprocessing | str | Mapping[str, Any] | None, metadata: dict[str, str], form: InputForm
) -> Preprocessing | None:
    """The preprocessing asked for, or the one in the file's metadata."""
    size = None if form.height is None or form.width is None else (form.height, form.width)
    if given is None and METADATA_KEY in metadata:
        return Preprocessing.from_json(metadata[METADATA_KEY], size)
    return Preprocessing.coerce(given, size)


def resolve_threads(threads: Any) -> int | None:
    """How many threads an engine takes: as said, or as the environment says; None where neither does.

    Raises:
        InputError: It is no number of threads.
    """
    if threads is None:
        text = os.environ.get(THREADS_VARIABLE, "").strip()
        if text and not (text.isdecimal() and int(text) >= 1):
            raise InputError(f"{THREADS_VARIABLE}={text!r} in the environment must be a whole number >= 1")
        return int(text) if text else None
    if isinstance(threads, bool) or not isinstance(threads, int) or threads < 1:
        raise InputError(f"threads={threads!r} must be None or a whole number >= 1")
    return threads


def check_pair(name: str, value: Any) -> tuple[int, int] | None:
    """Two whole numbers above zero, or None."""
    if value is None:
        return None
    try:
        first, second = (index(side) for side in value)
    except (TypeError, ValueError):
        first = second = 0
    if min(first, second) < 1:
        raise InputError(f"{name}={value!r} must be two whole numbers above zero, height and width")
    return first, second


def resolve_labels(
    given: Sequence[str] | Mapping[int, str] | str | os.PathLike[str] | None,
    metadata: dict[str, str],
    classes: int,
) -> tuple[str, ...] | None:
    """Class names, checked against the number of classes."""
    if given is None:
        if LABELS_KEY not in metadata:
            return None
        names: Any = parse_json_labels(metadata[LABELS_KEY], f"the file's metadata entry {LABELS_KEY}")
    elif isinstance(given, (str, os.PathLike)):
        names = read_label_file(Path(given), f"labels={os.fspath(given)!r}")
    else:
        names = given
    if isinstance(names, Mapping):
        names = order_labels(names, classes)
    if isinstance(names, (bytes, bytearray, memoryview, Set)) or not isinstance(names, Iterable):
        raise InputError(
            f"labels={names!r:.80} must be the class names in order, a mapping of each index to its name, or "
            "a file"
        )
    listed = tuple(names)
    if len(listed) != classes:
        raise InputError(f"{len(listed)} labels were given for a model with {classes} classes")
    if strange := [name for name in listed if not isinstance(name, (str, int, np.integer))]:
        raise InputError(f"a label is text, and {strange[0]!r:.80} is not")
    # Half a letter, which JSON can hold, cannot be written.
    return tuple(str(name).encode(errors="replace").decode() for name in listed)


def order_labels(names: Mapping[Any, Any], classes: int) -> list[Any]:
    """The names of a mapping from classes' indices, numbers or the digits of such.

    Raises:
        InputError: Its keys are no indices, or an index is missing.
    """
    found: dict[int, Any] = {}
    for key, name in names.items():
        if isinstance(key, str) and key.strip().isdecimal() and len(key) < 10:
            key = int(key)  # as JSON has it
        if isinstance(key, bool) or not isinstance(key, (int, np.integer)) or not 0 <= key < classes:
            hint = ""
            if isinstance(key, str) and isinstance(name, int):
                hint = "; turn it around: {index: name for name, index in labels.items()}"
            raise InputError(f"labels={{...}} has the key {key!r:.80}; classes are 0 to {classes - 1}{hint}")
        found[int(key)] = name
    missing = [number for number in range(classes) if number not in found]
    if missing:
        shown = ", ".join(map(str, missing[:5])) + (", ..." if len(missing) > 5 else "")
        raise InputError(f"labels={{...}} names no class {shown}: a model with {classes} classes needs all")
    return [found[number] for number in range(classes)]


def read_label_file(path: Path, what: str) -> Any:
    """What a file of labels says: a JSON array or object, or else one a line.

    Args:
        path: The file.
        what: What to call it in a message.

    Raises:
        InputError: It cannot be read, or is no such file.
    """
    text = read_text_file(path, what)
    if text.lstrip()[:1] in ("[", "{"):
        return parse_json_labels(text, what)
    return [line.strip() for line in text.rstrip().splitlines()]


def parse_json_labels(text: str, what: str) -> Any:
    """The labels that some JSON holds, in order or by their indices."""
    try:
        names = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{what}: not valid JSON: {error}") from None
    listed = names.values() if isinstance(names, dict) else names if isinstance(names, list) else [None]
    if not all(isinstance(name, str) for name in listed):
        raise InputError(f"{what}: expected a JSON array of texts, or an object from indices to texts")
    return names


def read_text_file(path: Path, what: str) -> str:
    """A text file's content, of a bounded size; a byte order mark is left out.

    Args:
        path: The file.
        what: What to call it in a message.

    Raises:
        InputError: It cannot be read, is no text, or too large.
    """
    try:
        return text_files.read_text_file(path)
    except FileNotFoundError:
        raise InputError(f"{what}: cannot be read: {describe_missing(path)}") from None
    except OSError as error:
        raise InputError(f"{what}: cannot be read: {error.strerror or error}") from error
    except ValueError:
        raise InputError(f"{what}: not a text file") from None
