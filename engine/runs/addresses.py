"""Addresses such as s3://bucket/folder, through fsspec: no client of our own."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import PurePosixPath
from typing import IO, Any, cast

from camrt.engine.extras import import_extra
from camrt.engine.images.read import is_image_name
from camrt.engine.runs.items import MAX_IMAGE_BYTES, ImageItem, failed_item
from camrt.errors import ImageError, InputError

__all__ = ["find_remote", "is_remote", "open_remote"]

CHAIN = "::"
# What a file system says of a file that changes when the file does.
VERSION_KEYS = ("ETag", "etag", "md5Hash", "size", "LastModified", "mtime", "updated", "created")


def is_remote(source: str) -> bool:
    """Whether a source is an address."""
    return "://" in source


def open_remote(source: str) -> IO[bytes]:
    """A file at an address, opened for reading; it can be sought in.

    Raises:
        InputError: There is none, or it cannot be read.
        MissingExtraError: fsspec, or what it needs for such an address, is not installed.
    """
    files, path = _connect(source)
    try:
        return cast("IO[bytes]", files.open(path, "rb"))
    except Exception as error:  # each file system has errors of its own
        raise InputError(f"{source}: cannot be read: {_describe(error)}") from error


def find_remote(source: str, *, exact: bool = False) -> Iterator[ImageItem]:
    """The images at an address: of a file, of a folder with its sub-folders, or of a pattern; by name.

    Args:
        source: The address.
        exact: Whether it is a file's, and nothing else.

    Raises:
        InputError: The address is of no kind that fsspec knows.
        MissingExtraError: fsspec, or what it needs for such an address, is not installed.
    """
    files, path = _connect(source)
    stem = PurePosixPath(path).stem
    try:
        if not exact and any(character in path for character in "*?[") and not files.exists(path):
            found = files.glob(path, detail=True)
        elif not exact and files.isdir(path):
            found = {
                name: info for name, info in files.find(path, detail=True).items() if is_shown_image(name)
            }
        else:
            found = {path: files.info(path)}
    except Exception as error:
        yield failed_item(source, stem, f"{source}: cannot be listed: {_describe(error)}")
        return
    if not found:
        yield failed_item(source, stem, f"{source}: no image there")
    for name in sorted(found):
        if found[name].get("type") != "directory":
            yield _remote_item(files, name, found[name])


def is_shown_image(name: str) -> bool:
    """Whether a file counts where nobody named it: an image's name, and not a hidden one."""
    return is_image_name(name) and not PurePosixPath(name).name.startswith(".")


def _remote_item(files: Any, name: str, info: dict[str, Any]) -> ImageItem:
    address = str(files.unstrip_protocol(name))
    size = info.get("size")
    versions = [f"{key}={info[key]}" for key in VERSION_KEYS if info.get(key) is not None]
    if isinstance(size, int) and size > MAX_IMAGE_BYTES:
        return failed_item(
            address, PurePosixPath(name).stem, f"{address}: larger than {MAX_IMAGE_BYTES} bytes"
        )
    return ImageItem(address, PurePosixPath(name).stem, "; ".join(versions) or None, partial(_read, address))


def _read(address: str) -> bytes:
    try:
        with open_remote(address) as file:
            content = file.read(MAX_IMAGE_BYTES + 1)
    except InputError as error:
        raise ImageError(str(error)) from error
    except Exception as error:  # each file system has errors of its own
        raise ImageError(f"{address}: cannot be read: {_describe(error)}") from error
    if len(content) > MAX_IMAGE_BYTES:
        raise ImageError(f"{address}: larger than {MAX_IMAGE_BYTES} bytes")
    return content


def _connect(source: str) -> tuple[Any, str]:
    """The file system of an address, and the path in it."""
    if CHAIN in source:
        raise InputError(
            f"{source}: file systems within each other ({CHAIN}) are not read: unpack it, or make it a tar"
        )
    fsspec = import_extra("fsspec", "runs")
    core = import_extra("fsspec.core", "runs")
    protocol = source.partition("://")[0]
    try:
        files, path = core.url_to_fs(source)
    except ImportError as error:
        raise InputError(f"{source}: fsspec needs another package for {protocol}://: {error}") from error
    except ValueError as error:
        known = ", ".join(sorted(fsspec.available_protocols())[:60])
        raise InputError(f"{source}: {error}; fsspec knows {known}") from error
    except Exception as error:  # credentials, names of hosts: whatever a file system looks at first
        raise InputError(f"{source}: {_describe(error)}") from error
    return files, str(path)


def _describe(error: Exception) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
