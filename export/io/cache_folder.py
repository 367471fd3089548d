"""The user's folder of what camrt found out about files, so that it need not be found out again.

    $CAMRT_CACHE, or $XDG_CACHE_HOME/camrt, or the user's own folder of caches

An entry is a file of bytes by the name of its key, with a checksum in front. It is read back only where the
folder is the user's alone, and whole; nothing in it is run or unpickled. What cannot be read is not there,
and what cannot be written is left out: a cache is no reason to fail. Entries that were used longest ago are
removed when all of them hold more than `MAX_CACHE_BYTES`.
"""

from __future__ import annotations

import hashlib
import os
import stat
import sys
from contextlib import suppress
from pathlib import Path

from camrt.errors import StorageError
from camrt.export.io.atomic_files import remove_drafts, write_atomic

__all__ = ["MAX_CACHE_BYTES", "find_cache_folder", "read_entry", "write_entry"]

VARIABLE = "CAMRT_CACHE"
OFF = frozenset({"", "0", "no", "off", "false"})
SUFFIX = ".camrt-entry"
MAGIC = b"camrt entry 1\n"
HEADER_BYTES = len(MAGIC) + hashlib.sha256().digest_size
MAX_ENTRY_BYTES = 256 << 20
MAX_CACHE_BYTES = 1 << 30
MAX_ENTRIES = 1000


def find_cache_folder() -> Path | None:
    """The folder; None where the user wants none, or has no home."""
    given = os.environ.get(VARIABLE)
    if given is not None:
        return None if given.strip().lower() in OFF else Path(given)
    try:
        if sys.platform == "win32":
            local = os.environ.get("LOCALAPPDATA")
            return (Path(local) if local else Path.home() / "AppData" / "Local") / "camrt" / "Cache"
        if sys.platform == "darwin":
            return Path.home() / "Library" / "Caches" / "camrt"
        shared = os.environ.get("XDG_CACHE_HOME", "")
        # A relative path there is to be ignored, says the XDG Base Directory Specification.
        return (Path(shared) if shared.startswith("/") else Path.home() / ".cache") / "camrt"
    except RuntimeError:  # there is no home
        return None


def read_entry(folder: Path, key: str) -> bytes | None:
    """The content of an entry; None where there is none that is whole, or others may write into the folder.

    Args:
        folder: The folder.
        key: Hexadecimal digits.
    """
    place = folder / (key + SUFFIX)
    try:
        if not is_private(folder):
            return None
        flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
        with open(os.open(place, flags | getattr(os, "O_NONBLOCK", 0)), "rb") as file:  # noqa: PTH123  # by number
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode) or not HEADER_BYTES < status.st_size <= MAX_ENTRY_BYTES:
                return None
            data = file.read(MAX_ENTRY_BYTES + 1)
    except (OSError, ValueError):
        return None
    content = memoryview(data)[HEADER_BYTES:]
    if data[:HEADER_BYTES] != MAGIC + hashlib.sha256(content).digest():
        return None
    with suppress(OSError):
        os.utime(place)  # it was used last now
    return bytes(content)


def write_entry(folder: Path, key: str, content: bytes) -> bool:
    """Writes an entry, and removes those that were used longest ago where there are too many.

    Args:
        folder: The folder; it is made, for the user alone, where it is missing.
        key: Hexadecimal digits.
        content: The content.

    Returns:
        Whether it was written.
    """
    if HEADER_BYTES + len(content) > MAX_ENTRY_BYTES:
        return False
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir(mode=0o700, exist_ok=True)
        if not is_private(folder):
            return False
        write_atomic(folder / (key + SUFFIX), MAGIC + hashlib.sha256(content).digest() + content)
        remove_drafts(folder)
        remove_oldest(folder)
    except (OSError, StorageError, ValueError):
        return False
    return True


def is_private(folder: Path) -> bool:
    """Whether a folder is the user's own, and nobody else may write into it."""
    status = folder.stat()
    if sys.platform == "win32":
        return stat.S_ISDIR(status.st_mode)  # under the user's profile, whose access lists say so
    return stat.S_ISDIR(status.st_mode) and status.st_uid == os.geteuid() and not status.st_mode & 0o022


def remove_oldest(folder: Path) -> None:
    """Removes the entries that were used longest ago, until those left are few and small enough."""
    entries = []
    with os.scandir(folder) as listing:
        for entry in listing:
            if entry.name.endswith(SUFFIX):
                with suppress(FileNotFoundError):
                    status = entry.stat(follow_symlinks=False)
                    entries.append((status.st_mtime_ns, status.st_size, entry.name))
    held = 0
    for number, (_, size, name) in enumerate(sorted(entries, reverse=True)):
        held += size
        if held > MAX_CACHE_BYTES or number >= MAX_ENTRIES:
            with suppress(FileNotFoundError):
                (folder / name).unlink()
