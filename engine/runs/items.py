"""An image of a source, before it is read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from camrt.engine.images.read import ImageSource
from camrt.errors import ImageError

__all__ = ["MAX_IMAGE_BYTES", "ImageItem"]

MAX_IMAGE_BYTES = 1 << 28
"""Bytes that an image's file has at most, where it is taken out of an archive or off a network."""


@dataclass(frozen=True)
class ImageItem:
    """An image that can be read, at any time, by any thread, and by another process that was sent it.

    Attributes:
        address: Where it is: a path, an address, or ARCHIVE.tar#MEMBER. It names the image in results.
        stem: How its own files are called.
        version: What changes when its content does, such as its size and time; None where nobody knows.
        read: Gives what `camrt.engine.images.read.read_image` takes, or raises an `ImageError`.
        error: Why there is no image here; `read` is not called then.
        path: Of its file, where that is one on this machine.
    """

    address: str
    stem: str
    version: str | None
    read: Callable[[], ImageSource]
    error: str | None = None
    path: Path | None = None


def failed_item(address: str, stem: str, error: str) -> ImageItem:
    """What stands in the place of images that cannot be come to."""
    return ImageItem(address, stem, None, partial(_refuse, error), error)


def _refuse(error: str) -> ImageSource:
    raise ImageError(error)
