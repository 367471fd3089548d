"""Weights kept in files beside the model: read only from where a model may keep them.

A location is text from the model file, and whoever made the file chose it. It must name a regular file
inside the model's own folder, reached without a symbolic link and with no other name (a hard link can
point at any file of the same file system). Each component is opened relative to the one before and without
following links, and what was opened is checked again, so that nothing can be swapped in between.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PureWindowsPath
from typing import Protocol

from onnx import TensorProto

from camrt.errors import ModelFileError, UnsafeModelError
from camrt.export.graph.traversal import LabelledTensor
from camrt.export.limits import ReadingLimits, claimed_bytes, human_bytes, quote_name

__all__ = ["check_locations", "read_external_data"]

_HAS_DIR_FD = os.open in os.supports_dir_fd and os.stat in os.supports_dir_fd
_NO_FOLLOW = getattr(os, "O_NOFOLLOW", 0)
_READ = os.O_RDONLY | _NO_FOLLOW | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
_FOLDER = os.O_RDONLY | getattr(os, "O_DIRECTORY", 0)


class _Hash(Protocol):
    def update(self, data: bytes, /) -> None: ...


def check_locations(tensors: Sequence[LabelledTensor]) -> None:
    """Check where tensors say their data is, without touching any file.

    Args:
        tensors: Any tensors; those with data of their own are passed over.

    Raises:
        ModelFileError: A location, offset or length that is missing, given twice or not a number.
        UnsafeModelError: A location outside the model's folder.
    """
    for item in tensors:
        if item.tensor.data_location == TensorProto.EXTERNAL:
            _place(item)


def read_external_data(
    tensors: Sequence[LabelledTensor], folder: Path, digest: _Hash, held: int, limits: ReadingLimits
) -> None:
    """Read external data into the tensors it belongs to, which then hold it themselves.

    Args:
        tensors: Any tensors; those with data of their own are passed over.
        folder: The folder of the model file.
        digest: A hash, updated with every range that is read.
        held: Bytes that the model takes already.
        limits: What is allowed.

    Raises:
        ModelFileError: A file that is missing or too short, or data that does not fit a tensor.
        UnsafeModelError: A file that is not the model's own: reached through a link, or not a regular file.
    """
    outside = [item for item in tensors if item.tensor.data_location == TensorProto.EXTERNAL]
    if not outside:
        return
    sizes = [_size(item, limits) for item in outside]
    total = held + sum(sizes)
    if total > limits.max_file_bytes:
        raise ModelFileError(
            f"takes {human_bytes(total)} with its external data; protobuf handles "
            f"{human_bytes(limits.max_file_bytes)} at most: "
            "convert the weights to float16, or use a smaller model"
        )
    for item, size in zip(outside, sizes, strict=True):
        parts, offset, _ = _place(item)
        data = _read(folder, parts, offset, size, item.label)
        digest.update(data)
        item.tensor.raw_data = data
        item.tensor.ClearField("external_data")
        item.tensor.ClearField("data_location")


def _size(item: LabelledTensor, limits: ReadingLimits) -> int:
    if item.tensor.data_type == TensorProto.STRING:
        raise ModelFileError(f"{item.label} keeps strings as external data, which ONNX does not allow")
    size = claimed_bytes(item.tensor.data_type, item.tensor.dims, item.label, limits)
    _, _, length = _place(item)
    if length is not None and length != size:
        raise ModelFileError(
            f"{item.label} has {length} bytes of external data where its dimensions "
            f"{list(item.tensor.dims)} need {size}; the file is damaged: download or export it again"
        )
    return size


def _place(item: LabelledTensor) -> tuple[list[str], int, int | None]:
    """Where a tensor's data is: the components of the path, the offset, and the length if it is given."""
    entries: dict[str, str] = {}
    for entry in item.tensor.external_data:
        if entry.key in entries:
            raise ModelFileError(f"{item.label} gives the {quote_name(entry.key)} of its external data twice")
        entries[entry.key] = entry.value
    parts = _components(entries.get("location", ""), item.label)
    offset = _number(entries.get("offset", "0"), "offset", item.label)
    length = _number(entries["length"], "length", item.label) if "length" in entries else None
    return parts, offset, length


def _number(text: str, what: str, label: str) -> int:
    if not re.fullmatch(r"[0-9]{1,18}", text):
        raise ModelFileError(
            f"the {what} of the external data of {label} is {quote_name(text)}, not a whole number of bytes"
        )
    return int(text)


def _components(location: str, label: str) -> list[str]:
    where = f"external data of {label} is at {quote_name(location)}"
    if not location:
        raise ModelFileError(f"{label} keeps its data outside the file and does not say where")
    if "\0" in location:
        raise UnsafeModelError(f"{where}, a path with a NUL character")
    windows = PureWindowsPath(location)
    if location.startswith("/") or windows.drive or windows.root:
        raise UnsafeModelError(f"{where}, an absolute path; only files in the model's folder are read")
    if ".." in re.split(r"[/\\]", location):
        raise UnsafeModelError(f"{where}, which leaves the model's folder")
    if "\\" in location:
        raise ModelFileError(f"{where}; save the model again with forward slashes in the path")
    parts = [part for part in location.split("/") if part not in ("", ".")]
    if not parts:
        raise ModelFileError(f"{where}, which names no file")
    return parts


def _read(folder: Path, parts: Sequence[str], offset: int, size: int, label: str) -> bytes:
    """Read one range of a file below `folder`, having checked what was opened."""
    shown = "/".join(parts)
    with _opened(folder, parts, label) as file:
        found = os.fstat(file)
        _check_status(found, shown, label)
        if offset + size > found.st_size:
            raise ModelFileError(
                f"external data file {quote_name(shown)} has {found.st_size} bytes; {label} needs "
                f"bytes {offset} to {offset + size}: the file is incomplete or belongs to another model"
            )
        with os.fdopen(file, "rb", buffering=0, closefd=False) as stream:
            stream.seek(offset)
            data = stream.read(size)
            while len(data) < size and (more := stream.read(size - len(data))):
                data += more
    if len(data) != size:
        raise ModelFileError(f"external data file {quote_name(shown)} changed while it was read")
    return data


def _check_status(status: os.stat_result, shown: str, label: str) -> None:
    where = f"external data file {quote_name(shown)} of {label}"
    if stat.S_ISLNK(status.st_mode):
        raise UnsafeModelError(f"{where} is reached through a symbolic link; put the file itself there")
    if not stat.S_ISREG(status.st_mode):
        raise UnsafeModelError(f"{where} is not a regular file")
    if status.st_nlink != 1:
        raise UnsafeModelError(f"{where} is a hard link (it has {status.st_nlink} names); put a copy there")


@contextmanager
def _opened(folder: Path, parts: Sequence[str], label: str) -> Iterator[int]:
    """Open a file below a folder, following no link, and yield its descriptor."""
    descriptors: list[int] = []
    shown = "/".join(parts)
    try:
        if _HAS_DIR_FD:
            parent = os.open(folder, _FOLDER)
            descriptors.append(parent)
            for index, part in enumerate(parts):
                _check_component(os.stat(part, dir_fd=parent, follow_symlinks=False), index, parts, label)
                last = index == len(parts) - 1
                parent = os.open(part, _READ if last else _FOLDER | _NO_FOLLOW, dir_fd=parent)
                descriptors.append(parent)
        else:  # Windows: the components are checked by name, and the file again once it is open
            for index in range(len(parts)):
                _check_component(os.lstat(folder.joinpath(*parts[: index + 1])), index, parts, label)
            descriptors.append(os.open(folder.joinpath(*parts), _READ))
        yield descriptors[-1]
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENOTDIR):
            raise ModelFileError(
                f"external data file {quote_name(shown)}, which holds {label}, is missing from {folder}: "
                "keep it in the model's folder (models saved with external data are two files or more)"
            ) from None
        if error.errno == errno.ELOOP:
            raise UnsafeModelError(
                f"external data file {quote_name(shown)} of {label} is a symbolic link"
            ) from None
        reason = error.strerror or str(error)
        raise ModelFileError(
            f"external data file {quote_name(shown)} of {label} cannot be read: {reason}"
        ) from error
    finally:
        for descriptor in reversed(descriptors):
            os.close(descriptor)


def _check_component(status: os.stat_result, index: int, parts: Sequence[str], label: str) -> None:
    shown = "/".join(parts[: index + 1])
    if index == len(parts) - 1 or stat.S_ISLNK(status.st_mode):
        _check_status(status, shown, label)
