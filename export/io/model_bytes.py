"""The bytes of a model's file: read whole, known by their hash, and not looked into."""

from __future__ import annotations

import hashlib
import os
import stat
from dataclasses import dataclass
from pathlib import Path

from camrt.errors import CamrtError, ModelFileError
from camrt.export.io.file_kinds import describe_kind, describe_missing
from camrt.export.limits import ReadingLimits, human_bytes

__all__ = ["ModelBytes", "read_bytes"]

_DEFAULT_LIMITS = ReadingLimits()


@dataclass(frozen=True)
class ModelBytes:
    """A file's bytes, of which only the first were looked at.

    Attributes:
        given: The file as it was named.
        path: The file, links resolved.
        data: Its bytes.
        digest: Their SHA-256.
    """

    given: Path
    path: Path
    data: bytearray
    digest: hashlib._Hash

    @property
    def sha256(self) -> str:
        """Their SHA-256 in hexadecimal digits: the model's own where it has no external data."""
        return self.digest.hexdigest()


def read_bytes(path: str | os.PathLike[str], *, limits: ReadingLimits = _DEFAULT_LIMITS) -> ModelBytes:
    """The bytes of an ONNX file; see `camrt.export.io.model_file.read_model`.

    Raises:
        ModelFileError: Missing, not a regular file, of another kind, or over 2 GiB.
    """
    given = Path(path)
    try:
        resolved, data = _file_bytes(given, limits)
    except CamrtError as error:
        raise type(error)(f"{given}: {error}") from None
    return ModelBytes(given, resolved, data, hashlib.sha256(data))


def _file_bytes(path: Path, limits: ReadingLimits) -> tuple[Path, bytearray]:
    """Read a regular file whole, having looked at its size and its first bytes; never waits for a pipe."""
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    try:
        resolved = path.resolve(strict=True)
        size = _regular_size(resolved.stat(), limits)
        descriptor = os.open(resolved, flags)
        with os.fdopen(descriptor, "rb", buffering=0) as file:
            size = _regular_size(os.fstat(descriptor), limits)
            head = file.read(min(size, 4096))
            kind = describe_kind(head)
            if kind is not None:
                raise ModelFileError(f"is not an ONNX file: it looks like {kind[0]}; {kind[1]}")
            file.seek(0)
            data = bytearray(size)
            found = file.readinto(data)
    except FileNotFoundError:
        raise ModelFileError(describe_missing(path)) from None
    except (OSError, RuntimeError, ValueError) as error:  # a loop of links, a NUL in the name, no permission
        if isinstance(error, CamrtError):
            raise
        raise ModelFileError(f"cannot be read: {getattr(error, 'strerror', None) or error}") from None
    if found != size:
        raise ModelFileError("changed while it was read; try again")
    return resolved, data


def _regular_size(status: os.stat_result, limits: ReadingLimits) -> int:
    if stat.S_ISDIR(status.st_mode):
        raise ModelFileError("is a folder; give the .onnx file in it")
    if not stat.S_ISREG(status.st_mode):
        raise ModelFileError("is not a regular file")
    if status.st_size == 0:
        raise ModelFileError("is empty; download or export it again")
    if status.st_size > limits.max_file_bytes:
        raise ModelFileError(
            f"has {human_bytes(status.st_size)}; an ONNX file holds {human_bytes(limits.max_file_bytes)} "
            "at most (a limit of protobuf): save it with its weights as external data"
        )
    return status.st_size
