"""Pictures that are in memory or behind an open file: their bytes, so many and no more."""

from __future__ import annotations

import io
from typing import Any

from camrt.errors import PictureError
from camrt.export.limits import human_bytes

__all__ = ["MOST_BYTES", "is_stream", "picture_bytes"]

MOST_BYTES = 256 << 20  # of a picture's file


def is_stream(source: Any) -> bool:
    """Whether something is a picture's bytes, or an open file of them."""
    return isinstance(source, (bytes, bytearray)) or hasattr(source, "read")


def picture_bytes(source: Any, name: str) -> io.BytesIO:
    """What is in a picture's file, from its beginning where that can be gone back to.

    Args:
        source: See `is_stream`.
        name: What to call it in a message.

    Raises:
        PictureError: It is a text file, or closed, or cannot be read, or has more than `MOST_BYTES`.
    """
    if isinstance(source, (bytes, bytearray)):
        content: Any = bytes(source)
    else:
        try:
            if getattr(source, "seekable", bool)():
                source.seek(0)
            content = source.read(MOST_BYTES + 1)
        except (OSError, ValueError, TypeError, AttributeError, UnicodeDecodeError) as error:
            raise PictureError(f"{name}: cannot be read: {error}") from error
        if not isinstance(content, (bytes, bytearray)):
            raise PictureError(f"{name}: gives {type(content).__name__}, not bytes: open the file with 'rb'")
    if len(content) > MOST_BYTES:
        raise PictureError(
            f"{name}: more than {human_bytes(MOST_BYTES)}, which is no picture for a classifier"
        )
    return io.BytesIO(content)
