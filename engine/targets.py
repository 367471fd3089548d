"""The classes that a caller asks for: indices or names, for all images or each, or the most probable."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from typing import Any

import numpy as np
import numpy.typing as npt

from camrt.engine.arrays import is_masked, library, to_numpy
from camrt.engine.device import Device
from camrt.errors import TargetError

__all__ = ["TargetChooser", "find_class", "make_target_chooser", "parse_targets"]

SYNSET = re.compile(r"^n\d{8}\s+")  # WordNet's number before a name
Array = Any  # of NumPy or of torch, see `camrt.engine.arrays`


def parse_targets(
    targets: Any, count: int, classes: int, labels: Sequence[str] | None = None
) -> tuple[npt.NDArray[np.int64], bool]:
    """Target classes as (N, T), and whether the caller thinks of them as (N, T) rather than (N,).

    Args:
        targets: One class, (N,) or (N, T), of any library; classes are indices or names.
        count: Images.
        classes: How many classes there are.
        labels: Their names, where known.

    Raises:
        TargetError: Neither whole numbers nor names of classes, of the wrong shape, or out of range.
    """
    if is_masked(targets):
        raise TargetError("targets are a masked array, whose mask would be lost: give a plain array")
    try:
        array = to_numpy(names_to_indices(targets, labels))
    except ValueError as error:
        if isinstance(error, TargetError):
            raise
        raise TargetError(f"targets have rows of different lengths, or are no array: {error}") from error
    if array.dtype.kind not in "iu":
        raise TargetError(
            f"targets are class indices (whole numbers), these are {array.dtype}; or names of classes"
        )
    if array.ndim == 0:
        array = np.full(count, array)
    if array.ndim not in (1, 2) or len(array) != count or array.size == 0:
        raise TargetError(
            f"targets have shape {array.shape}; for a batch of {count} give None, one class, "
            f"({count},) or ({count}, T)"
        )
    if array.min() < 0 or array.max() >= classes:
        wrong = array[(array < 0) | (array >= classes)].flat[0]
        raise TargetError(f"class {wrong} is out of range: the model has classes 0 to {classes - 1}")
    several = array.ndim == 2
    return np.ascontiguousarray(array if several else array[:, None], dtype=np.int64), several


TargetChooser = Callable[[slice, Array], tuple[Array, bool]]


def make_target_chooser(
    targets: Any,
    count: int,
    classes: int,
    device: Device,
    give: Callable[[Array], Any],
    labels: Sequence[str] | None = None,
    top_k: int | None = None,
) -> TargetChooser:
    """What chooses the target classes of some images of a batch, given their logits.

    Args:
        targets: What the caller asked for; see `camrt.Engine.explain`.
        count: Images in the batch.
        classes: How many classes there are.
        device: Where the engine computes.
        give: Makes logits the caller's, for a function that chooses.
        labels: The classes' names, where known.
        top_k: How many of the most probable classes to take instead.

    Returns:
        A function from a slice of the batch and its logits (n, C) to target classes (n, T) where the engine
        computes, and whether the caller thinks of them as (n, T) rather than (n,).

    Raises:
        TargetError: Neither whole numbers nor names, of the wrong shape, or out of range; or both targets and
            `top_k`.
    """
    if top_k is not None:
        if targets is not None:
            raise TargetError("give targets= or top_k=, not both")
        if isinstance(top_k, bool) or not isinstance(top_k, (int, np.integer)) or not 1 <= top_k <= classes:
            raise TargetError(
                f"top_k={top_k!r} must be a whole number from 1 to {classes}, the classes there are"
            )

    def predicted(_: slice, logits: Array) -> tuple[Array, bool]:
        xp = library(logits)
        return xp.astype(xp.argmax(logits, axis=1), xp.int64)[:, None], False

    def chosen_by_function(some: slice, logits: Array) -> tuple[Array, bool]:
        chosen = targets(give(logits))
        if chosen is None:
            return predicted(some, logits)
        found, several = parse_targets(chosen, len(logits), classes, labels)
        return device.put(found), several

    def best(_: slice, logits: Array) -> tuple[Array, bool]:
        xp = library(logits)
        order = xp.argsort(-logits, axis=1, stable=True)
        return xp.astype(order[:, :top_k], xp.int64), True

    if top_k is not None:
        return best
    if targets is None:
        return predicted
    if callable(targets):
        return chosen_by_function
    given, several = parse_targets(targets, count, classes, labels)
    held = device.put(given)
    return lambda some, _: (held[some], several)


def names_to_indices(targets: Any, labels: Sequence[str] | None) -> Any:
    """Targets with every name in them replaced by its class's index; all else stays as it is.

    Args:
        targets: A name, or lists of names and of numbers, one in another.
        labels: The names of the model's classes; None where they are not known.

    Raises:
        TargetError: No class of a name, or several; or the names are not known.
    """
    if isinstance(targets, str):
        return index_of(str(targets), labels)
    if isinstance(targets, np.ndarray) and targets.dtype.kind in "UO":
        return names_to_indices(targets.tolist(), labels)
    if isinstance(targets, (list, tuple)):
        return [names_to_indices(target, labels) for target in targets]
    return targets


def index_of(name: str, labels: Sequence[str] | None) -> int:
    """The index of a class of that name."""
    if labels is None:
        raise TargetError(
            f"targets={name!r}: the class names are not known: give an index, or labels= to camrt.load"
        )
    try:
        return find_class(name, labels)
    except TargetError as error:
        hint = f"; an index is a number: {int(name)}" if name.strip().isdecimal() else ""
        raise TargetError(f"targets={name!r}: {error}{hint}") from None


def find_class(name: str, labels: Sequence[str]) -> int:
    """The index of the class of a name, in any capitals.

    A label equal to the name goes before labels that list it among their synonyms ("tabby, tabby cat").

    Args:
        name: What to look for.
        labels: The names of the C classes.

    Raises:
        TargetError: No class of that name (the message offers similar ones), or several.
    """
    wanted = name.strip().casefold()
    folded = [label.casefold() for label in labels]
    synonyms = [[part.strip() for part in label.split(",")] for label in folded]
    found = [k for k, label in enumerate(folded) if label.strip() == wanted]
    found = found or [k for k, names in enumerate(synonyms) if wanted in names]
    if len(found) == 1:
        return found[0]
    if found:
        raise TargetError(f"classes {', '.join(map(str, found))} bear that name; give an index")
    known = {name: name for names in synonyms for name in names}
    for label, names in zip(labels, synonyms, strict=True):  # "n02123045 tabby" for who says "tabby"
        for name in (*names, *(SYNSET.sub("", name) for name in names)):
            known.setdefault(name, label.strip())
    close = dict.fromkeys(known[name] for name in get_close_matches(wanted, known))
    hint = f"; did you mean {' or '.join(map(repr, close))}?" if close else ""
    raise TargetError(f"no class of that name{hint}")
