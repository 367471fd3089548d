"""Reading untrusted text files, up to a size limit."""

from __future__ import annotations

import errno
from pathlib import Path

from camrt.export.limits import human_bytes

__all__ = ["MAX_BYTES", "read_file_bytes", "read_text_file"]

MAX_BYTES = 1 << 30


def read_file_bytes(path: Path, most: int = MAX_BYTES) -> bytes:
    """The bytes of a file or pipe, which may not be longer than `most`.

    Args:
        path: The file.
        most: Bytes that it may have.

    Raises:
        OSError: It cannot be read, or there is more of it.
    """
    with path.open("rb") as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise OSError(errno.EFBIG, f"more than {human_bytes(most)}", str(path))
    return content


def read_text_file(path: Path, most: int = MAX_BYTES) -> str:
    """The text of a file in UTF-8, without the byte order mark that it may begin with.

    Raises:
        OSError: It cannot be read, or there is more of it.
        UnicodeDecodeError: It is not UTF-8.
    """
    return read_file_bytes(path, most).decode("utf-8-sig")
