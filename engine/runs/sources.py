"""Where images come from: files, folders, patterns, lists of paths, tar archives, and addresses of fsspec."""

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path, PurePosixPath

from camrt.engine.images.read import find_images
from camrt.engine.runs.addresses import find_remote, is_remote
from camrt.engine.runs.items import ImageItem, failed_item
from camrt.engine.runs.path_lists import LIST_SUFFIXES, read_paths
from camrt.engine.runs.tar_archives import ARCHIVE_SUFFIXES, SEPARATOR, find_members
from camrt.errors import ImageError, InputError
from camrt.export.io.file_kinds import describe_missing

__all__ = ["Source", "count_items", "find_address", "find_items"]

Source = str | os.PathLike[str]
"""A file, folder, pattern, list of paths, tar archive, or an address such as s3://bucket/folder."""

MAX_LISTS = 8  # lists that name lists


def find_items(
    sources: Source | Iterable[Source],
    *,
    column: str | None = None,
    on_results: Callable[[Path, int], None] | None = None,
) -> Iterator[ImageItem]:
    """The images of some sources, one by one, always in the same order.

    A folder is walked as `camrt.engine.images.read.find_images` does. A pattern (`photos/*.jpg`) is that of
    `glob`. A list is a text file with a path a line, or a table (.csv, .parquet) with a column of them; paths
    count from the list's own folder. A tar archive gives the images in it, as WebDataset has them. An address
    with "://" is read through fsspec. What cannot be found is an item with an error, in its place.

    Args:
        sources: Them.
        column: The column of paths in tables; "path", or the only one, when left out.
        on_results: Called with each folder of which results that camrt wrote were left out.

    Raises:
        InputError: A list is no list, has no such column, or lists name each other without an end; an archive
            is none.
        MissingExtraError: A library that an address or a table needs is not installed.
    """
    given = [sources] if isinstance(sources, (str, os.PathLike)) else sources
    for source in given:
        yield from _find(os.fspath(source), column, on_results, 0)


def count_items(sources: Iterable[Source], stopped: Callable[[], bool]) -> int | None:
    """How many images some sources have; None where only a network or an archive knows, or it was stopped."""
    total = 0
    for given in sources:
        source = os.fspath(given)
        if is_remote(source) or PurePosixPath(source).suffix.lower() in (LIST_SUFFIXES | ARCHIVE_SUFFIXES):
            return None
        for _ in _find_local(source, None):
            if stopped():
                return None
            total += 1
    return total


def _find(
    source: str, column: str | None, on_results: Callable[[Path, int], None] | None, depth: int
) -> Iterator[ImageItem]:
    suffix = PurePosixPath(source).suffix.lower()
    if suffix in LIST_SUFFIXES and (is_remote(source) or Path(source).is_file()):
        if depth == MAX_LISTS:
            raise InputError(f"{source}: lists name lists {MAX_LISTS} times over")
        for path in read_paths(source, column):
            yield from _find(path, column, on_results, depth + 1)
    elif suffix in ARCHIVE_SUFFIXES and (is_remote(source) or Path(source).is_file()):
        yield from find_members(source)
    elif is_remote(source):
        yield from find_remote(source)
    else:
        yield from _find_local(source, on_results)


def _find_local(source: str, on_results: Callable[[Path, int], None] | None) -> Iterator[ImageItem]:
    path = Path(source)
    if not os.path.lexists(path):
        found = sorted(glob.glob(source, recursive=True))  # noqa: PTH207  # absolute ones too if glob.has_magic(source) else []
        if not found:
            what = (
                "no file has such a name"
                if glob.has_magic(source)
                else describe_missing(source).replace("no such file", "no such file or folder")
            )
            yield failed_item(source, path.stem, f"{source}: {what}")
        for one in found:
            yield from _find_local(one, on_results)
        return
    if not path.is_dir():
        yield local_item(path)
        return
    errors: list[ImageError] = []
    for image in find_images([path], on_error=errors.append, on_results=on_results):
        yield from _failures(source, errors)
        yield local_item(image)
    yield from _failures(source, errors)


def _failures(folder: str, errors: list[ImageError]) -> Iterator[ImageItem]:
    for error in errors:
        yield failed_item(folder, Path(folder).name, str(error))
    errors.clear()


def find_address(address: str) -> ImageItem:
    """The image that results name by its address.

    Raises:
        ImageError: It is not there any more.
    """
    archive, separator, member = address.rpartition(SEPARATOR)
    is_member = bool(separator) and archive.lower().endswith(".tar") and not Path(address).exists()
    if not is_member:
        items = _find_remote_or_local(address)
    else:
        items = (item for item in find_members(archive) if item.address == f"{archive}{SEPARATOR}{member}")
    found = next(items, None)
    if found is None or found.error is not None:
        raise ImageError(f"{address}: is not there any more" if found is None else str(found.error))
    return found


def _find_remote_or_local(address: str) -> Iterator[ImageItem]:
    return find_remote(address) if is_remote(address) else iter([local_item(Path(address))])


def local_item(path: Path) -> ImageItem:
    """A file of this machine."""
    try:
        status = path.stat()
        version = f"{status.st_size}-{status.st_mtime_ns}"
    except OSError:
        version = None  # who reads it will say why
    return ImageItem(str(path), path.stem, version, partial(Path, path))
