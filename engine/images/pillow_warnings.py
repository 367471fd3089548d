"""Decoding without Pillow's warnings, in several threads at once, and what of them is an error here."""

from __future__ import annotations

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock
from typing import Any, cast

from PIL import Image

from camrt.kernels.fork_safety import renew_after_fork

__all__ = ["refuse_bomb", "silence_pillow"]


class _PillowFilter:
    """A filter that silences Pillow's modules while anything is being decoded.

    The warning filters belong to the whole process: the first thread that decodes adds this one, and the last
    takes it away. Nothing else of them is changed, and no lock is held while images are decoded.
    """

    def __init__(self) -> None:
        self._count = 0
        self._entry = ("ignore", None, Warning, re.compile(r"PIL(\.|$)"), 0)
        self._lock = Lock()
        renew_after_fork(self)

    def renew(self) -> None:
        self._lock = Lock()
        self._count = 0
        self._remove()

    def begin(self) -> None:
        with self._lock:
            self._count += 1
            filters = cast("list[Any]", warnings.filters)
            if not filters or filters[0] is not self._entry:  # whoever resets filters may have dropped it
                self._remove()
                filters.insert(0, self._entry)

    def end(self) -> None:
        with self._lock:
            self._count -= 1
            if self._count <= 0:
                self._remove()

    def _remove(self) -> None:
        filters = cast("list[Any]", warnings.filters)
        while self._entry in filters:
            filters.remove(self._entry)


_FILTER = _PillowFilter()


@contextmanager
def silence_pillow() -> Iterator[None]:
    """Pillow's warnings are not given while the block runs."""
    _FILTER.begin()
    try:
        yield
    finally:
        _FILTER.end()


def refuse_bomb(image: Image.Image) -> None:
    """Refuses what Pillow only warns of: an image of more pixels than it takes without doubt.

    Raises:
        Image.DecompressionBombError: It has more.
    """
    most = Image.MAX_IMAGE_PIXELS
    if most is not None and image.width * image.height > most:
        raise Image.DecompressionBombError
