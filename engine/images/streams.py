"""Images that are in memory or behind an open file: their bytes, so many and no more."""

from __future__ import annotations

import io
from typing import Any

from camrt.errors import ImageError
from camrt.export.limits import human_bytes

__all__ = ["MAX_FILE_BYTES", "image_bytes", "is_open_file", "is_stream"]

MAX_FILE_BYTES = 256 << 20  # of an image's file


def is_stream(source: Any) -> bool:
    """Whether something is an image's bytes, or an open file of them."""
    return isinstance(source, (bytes, bytearray)) or is_open_file(source)


def is_open_file(source: Any) -> bool:
    """Whether something is read from, and so may be closed or elsewhere later."""
    return hasattr(source, "read")


def image_bytes(source: Any, name: str) -> io.BytesIO:
    """What is in an image's file, from its beginning where that can be gone back to.

    Args:
        source: See `is_stream`.
        name: What to call it in a message.

    Raises:
        ImageError: It is a text file, or closed, or cannot be read, or has more than `MAX_FILE_BYTES`.
    """
    if isinstance(source, (bytes, bytearray)):
        content: Any = bytes(source)
    else:
        try:
            if getattr(source, "seekable", bool)():
                source.seek(0)
            content = source.read(MAX_FILE_BYTES + 1)
        except (OSError, ValueError, TypeError, AttributeError, UnicodeDecodeError) as error:
            raise ImageError(f"{name}: cannot be read: {error}") from error
        if not isinstance(content, (bytes, bytearray)):
            raise ImageError(f"{name}: gives {type(content).__name__}, not bytes: open the file with 'rb'")
    if len(content) > MAX_FILE_BYTES:
        raise ImageError(
            f"{name}: more than {human_bytes(MAX_FILE_BYTES)}, which is no image for a classifier"
        )
    return io.BytesIO(content)
