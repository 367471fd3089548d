"""Hashes of files' contents, by which a run knows again what it has read."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

__all__ = ["combined_digest", "file_digest"]

_PART = 1 << 20


def file_digest(path: Path) -> str | None:
    """A hash of a file's bytes, read part by part; None of what is no file that can be read."""
    digest = hashlib.blake2b(digest_size=20)
    try:
        if not path.is_file():
            return None
        with path.open("rb") as file:
            while part := file.read(_PART):
                digest.update(part)
    except OSError:
        return None
    return digest.hexdigest()


def combined_digest(parts: Iterable[object]) -> str:
    """One hash of many, in their order."""
    digest = hashlib.blake2b(digest_size=20)
    for part in parts:
        digest.update(f"{part}\0".encode("utf-8", "surrogatepass"))
    return digest.hexdigest()
