"""Names of files that are made from any text: safe on every file system, and different from each other."""

from __future__ import annotations

import re
import unicodedata

__all__ = ["FileNames", "overlay_name", "to_safe_stem"]

_LONGEST_STEM = 120  # bytes; file systems allow 255 for the whole name
_LONGEST_LABEL = 40
_RESERVED = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|(com|lpt)[0-9\u00b9\u00b2\u00b3])", re.IGNORECASE)
"""What Windows takes for a device, whatever follows behind a dot."""


class FileNames:
    """The beginnings of file names of one run; no two are the same on any file system."""

    def __init__(self) -> None:
        self._taken: set[str] = set()
        self._count: dict[str, int] = {}

    def unique_stem(self, text: str) -> str:
        """A safe beginning of a file name, unlike all that were given before, in whatever capitals.

        What is safe already and was not given before is kept as it is. Else "-2", "-3", ... is added.

        Args:
            text: Any text, such as a file name without its suffix.
        """
        safe = stem = to_safe_stem(text)
        number = self._count.get(_key(safe), 1)
        while _key(stem) in self._taken:
            number += 1
            ending = f"-{number}"
            stem = _cut(safe, _LONGEST_STEM - len(ending)) + ending
        self._count[_key(safe)] = number
        self._taken.add(_key(stem))
        return stem

    def take(self, stem: str) -> None:
        """Notes a beginning that is in use already."""
        self._taken.add(_key(stem))


def to_safe_stem(text: str) -> str:
    """Letters, digits, "_", "-" and inner "." of a text, everything else as "_"; long texts are cut."""
    safe = re.sub(r"[^\w.-]", "_", unicodedata.normalize("NFC", text)).strip(".")
    safe = _cut(safe, _LONGEST_STEM) or "image"
    if _RESERVED.fullmatch(safe.partition(".")[0]):
        safe = _cut(f"_{safe}", _LONGEST_STEM)
    return safe


def overlay_name(stem: str, rank: int, target: int, label: str | None, suffix: str = "png") -> str:
    """The name of an image's overlay for one of its targets, `rank` counting from 1."""
    safe = "" if label is None else _safe_label(label)
    return f"{stem}_{rank}_{'-'.join(filter(None, (str(target), safe)))}.{suffix}"


def _safe_label(label: str) -> str:
    ascii_label = unicodedata.normalize("NFKD", label).encode("ascii", "ignore").decode()
    return re.sub(r"[^A-Za-z0-9]+", "-", ascii_label)[:_LONGEST_LABEL].strip("-")


def _cut(text: str, longest: int) -> str:
    return text.encode("utf-8")[:longest].decode("utf-8", "ignore").rstrip(".")


def _key(stem: str) -> str:
    """The same for names that some file system takes for one: in other capitals, or composed otherwise."""
    folded = unicodedata.normalize("NFKD", stem).upper().casefold()
    return unicodedata.normalize("NFKD", folded)
