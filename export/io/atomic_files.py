"""Atomic writing: a file is written under a temporary name in its folder and renamed once it is on the disk.

What is half written is called a draft. While a process writes one it holds a lock on it, so that a draft
without a lock is one that a killed process left.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from camrt.errors import CamrtError, StorageError

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

__all__ = [
    "Draft",
    "is_same_file",
    "open_atomic",
    "open_draft",
    "remove_drafts",
    "storage_errors",
    "try_lock",
    "write_atomic",
]

DRAFT = re.compile(r"\.camrt-[0-9a-f]{16}\.part(\.[a-z0-9]+)?")

_FULL = {errno.ENOSPC: "the disk is full", errno.EFBIG: "a file must not grow so large here"}
if hasattr(errno, "EDQUOT"):
    _FULL[errno.EDQUOT] = "the disk quota is used up"
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP}
"""What file systems that know no locks answer."""


@dataclass(frozen=True)
class Draft:
    """A file that is being written.

    Attributes:
        path: Where it lies until it is whole.
        file: Open for writing, in bytes.
    """

    path: Path
    file: IO[bytes]


def write_atomic(path: Path, content: bytes) -> None:
    """Writes a file beside its place, and moves it there when all of it is on the disk.

    Raises:
        StorageError: It cannot be written; what was in its place is still there.
    """
    with open_atomic(path) as file:
        file.write(content)


@contextmanager
def open_atomic(path: Path) -> Iterator[IO[bytes]]:
    """A file to be filled in a block, which takes its place when the block ends without an error.

    Raises:
        StorageError: It cannot be written; what was in its place is still there.
    """
    with open_draft(path) as draft:
        yield draft.file


@contextmanager
def open_draft(path: Path, suffix: str = "") -> Iterator[Draft]:
    """As `open_atomic`, for content that must be read by its own name before it takes its place.

    Args:
        path: Its place. The folder is made if missing; the file's mode follows the umask.
        suffix: What the draft's name ends in, such as ".onnx".

    Raises:
        StorageError: It cannot be written; what was in its place is still there.
    """
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        place, handle = _new_draft(path.parent, suffix)
        draft = Draft(place, os.fdopen(handle, "w+b"))
        try:
            with draft.file:
                yield draft
                draft.file.flush()
                os.fsync(draft.file.fileno())
                if sys.platform != "win32":  # while it is locked
                    place.replace(path)
            if sys.platform == "win32":
                place.replace(path)
        finally:
            with suppress(OSError):
                place.unlink(missing_ok=True)


def _new_draft(folder: Path, suffix: str) -> tuple[Path, int]:
    """A new file with a lock on it."""
    while True:
        place = folder / f".camrt-{secrets.token_hex(8)}.part{suffix}"
        handle = os.open(place, os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), 0o666)
        if sys.platform == "win32" or (try_lock(handle) and is_same_file(handle, place)):
            return place, handle
        os.close(handle)  # taken for a dead one's in the moment between


def try_lock(handle: int) -> bool:
    """Locks an open file for this process until it is closed, or answers that another has it.

    File systems without locks grant it.

    Raises:
        OSError: The file system fails.
    """
    try:
        if sys.platform == "win32":
            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
        else:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN, errno.EDEADLK):
            return False
        if error.errno not in _NO_LOCKS:
            raise
    return True


def is_same_file(handle: int, path: Path) -> bool:
    """Whether an open file still is the one of that name: another may have removed it meanwhile."""
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False


def remove_drafts(folder: Path) -> None:
    """Removes what killed processes left half written in a folder; the drafts of living ones stay."""
    with os.scandir(folder) as listing:
        names = [entry.name for entry in listing if DRAFT.fullmatch(entry.name)]
    for name in names:
        place = folder / name
        with suppress(OSError):  # it took its place meanwhile, or is another user's
            if sys.platform == "win32":
                place.unlink()  # refused while it is open
                continue
            handle = os.open(place, os.O_RDWR | os.O_NOFOLLOW)
            try:
                if try_lock(handle) and is_same_file(handle, place):
                    place.unlink()
            finally:
                os.close(handle)


@contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turns what a file system refuses in a block into an error that names a file.

    Raises:
        StorageError: It refuses something.
    """
    try:
        yield
    except CamrtError:
        raise
    except OSError as error:
        reason = _FULL.get(error.errno or 0) or error.strerror or str(error) or type(error).__name__
        elsewhere = error.filename is not None and Path(os.fsdecode(error.filename)) in path.parents
        of = f" ({os.fsdecode(error.filename)})" if elsewhere else ""
        failure = StorageError(f"{path}: cannot be written: {reason}{of}")
        failure.errno = error.errno
        raise failure from error
