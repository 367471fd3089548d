"""Which of a model's classes an annotation names."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence

from camrt.errors import InputError

__all__ = ["ClassIndex"]

_WNID = re.compile(r"(n\d{8})[\s,:]+(.+)", re.DOTALL)
_INTEGER = re.compile(r"[0-9]{1,9}")


class ClassIndex:
    """Looks up classes by index, label or synonym, as often as wanted: each look-up is a dictionary's.

    Names are compared without regard to capitals, to "_" in place of spaces, and to how accents are encoded.

    Args:
        labels: The names of the model's C classes, such as "tench", "n01440764 tench" or "tabby, tabby cat";
            None where they are not known, so that only indices are found.
        num_classes: C.

    Raises:
        InputError: No class at all, or another number of labels than of classes.
    """

    def __init__(self, labels: Sequence[str] | None, num_classes: int) -> None:
        if num_classes < 1:
            raise InputError(f"num_classes={num_classes} must be at least 1")
        if labels is not None and len(labels) != num_classes:
            raise InputError(f"expected {num_classes} labels, one a class, got {len(labels)}")
        self.num_classes = num_classes
        self._labels = _build_lookup((k, [label]) for k, label in enumerate(labels or ()))
        self._synonyms = _build_lookup((k, _synonyms(label)) for k, label in enumerate(labels or ()))

    def find(self, text: str) -> int | None:
        """The index of the class that a text names; None for no class or several, see `reason`.

        A whole number from 0 to C − 1 is an index; else a whole label goes before its parts: a WordNet id
        that it begins with, what follows the id, and every name between commas.
        """
        found = self._found(text)
        return found[0] if len(found) == 1 else None

    def reason(self, text: str) -> str:
        """Why `find` gives None for a text, in words."""
        shown = repr(text if len(text) <= 60 else text[:57] + "...")
        found = self._found(text)
        if found:
            return f"several classes are called {shown}: {', '.join(map(str, found))}; give an index"
        if _INTEGER.fullmatch(text.strip()):
            return f"there is no class {shown}; the model's go from 0 to {self.num_classes - 1}"
        if not self._labels:
            return f"the model's labels are not known, so {shown} must be an index"
        return f"no class is called {shown}"

    def _found(self, text: str) -> Sequence[int]:
        if _INTEGER.fullmatch(text.strip()) and int(text) < self.num_classes:
            return [int(text)]
        key = _normalise_name(text)
        return self._labels.get(key) or self._synonyms.get(key) or ()


def _build_lookup(entries: Iterable[tuple[int, list[str]]]) -> dict[str, list[int]]:
    table: dict[str, list[int]] = {}
    for index, names in entries:
        for name in {_normalise_name(name) for name in names} - {""}:
            table.setdefault(name, []).append(index)
    return table


def _synonyms(label: str) -> list[str]:
    match = _WNID.fullmatch(label.strip())
    wnid, rest = match.groups() if match else ("", label)
    return [wnid, rest, *rest.split(",")]


def _normalise_name(text: str) -> str:
    return " ".join(unicodedata.normalize("NFC", text).casefold().replace("_", " ").split())
