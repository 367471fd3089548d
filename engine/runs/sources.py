"""Where images come from: files, folders, patterns, lists of paths, tar archives, and addresses of fsspec."""

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path, PurePosixPath

from camrt.engine.images.read import find_images
from camrt.engine.runs.addresses import find_remote, is_remote
from camrt.engine.runs.decoding import Reading, read_ahead
from camrt.engine.runs.items import ImageItem, failed_item
from camrt.engine.runs.path_lists import LIST_SUFFIXES, ListError, read_paths
from camrt.engine.runs.tar_archives import ARCHIVE_SUFFIXES, SEPARATOR, find_members
from camrt.errors import ImageError, InputError
from camrt.export.io.file_kinds import describe_missing

__all__ = ["Source", "find_address", "find_items", "list_ahead", "lists_quickly"]

Source = str | os.PathLike[str]
"""A file, folder, pattern, list of paths, tar archive, or an address such as s3://bucket/folder."""

MAX_LISTS = 8  # lists that name lists
MOST_LISTED = 1_000_000  # paths that are held before they are taken


def find_items(
    sources: Source | Iterable[Source],
    *,
    column: str | None = None,
    on_results: Callable[[Path, int], None] | None = None,
) -> Iterator[ImageItem]:
    """The images of some sources, one by one, always in the same order.

    A folder is walked as `camrt.engine.images.read.find_images` does. A pattern (`photos/*.jpg`) is that of
    `glob`. A list is a text file with a path a line, but for comments that begin with "# ", or a table
    (.csv, .parquet) with a column of them; paths count from the list's own folder. A tar archive gives the
    images in it, as WebDataset has them. An address with "://" is read through fsspec. What cannot be found
    is an item with an error, in its place.

    Args:
        sources: Them.
        column: The column of paths in tables; "path", or the only one, when left out.
        on_results: Called with each folder of which results that camrt wrote were left out.

    Raises:
        InputError: A list is no list, has no such column, or lists name each other without an end; an archive
            is none.
        MissingExtraError: A library that an address or a table needs is not installed.
    """
    for source in check_sources(sources):
        yield from map(to_item, _find(source, column, on_results, 0))


def check_sources(sources: Source | Iterable[Source]) -> list[str]:
    """Sources as text.

    Raises:
        InputError: One is no path or address, or there is none.
    """
    single = isinstance(sources, (str, os.PathLike)) or not isinstance(sources, Iterable)
    listed: list[object] = [sources] if single else list(sources)  # type: ignore[arg-type]  # which is checked
    found = []
    for source in listed:
        text = os.fspath(source) if isinstance(source, (str, os.PathLike)) else None
        if not isinstance(text, str) or not text or "\0" in text:
            raise InputError(
                "a source of images is the path of a file, folder or list, or an address, not "
                f"{source!r:.80}; arrays and images go to engine.explain"
            )
        found.append(text)
    if not found:
        raise InputError("there is no source of images: the list of them is empty")
    return found


def lists_quickly(sources: Iterable[Source]) -> bool:
    """Whether `list_ahead` would read no network, list or archive to list the images."""
    return not any(
        is_remote(source) or PurePosixPath(source).suffix.lower() in LIST_SUFFIXES | ARCHIVE_SUFFIXES
        for source in (os.fspath(given) for given in sources)
    )


@contextmanager
def list_ahead(
    sources: Source | Iterable[Source],
    *,
    on_total: Callable[[int], None],
    on_results: Callable[[Path, int], None] | None = None,
) -> Iterator[Iterator[ImageItem]]:
    """The images of some sources, as `find_items` gives them, listed ahead by a thread of its own.

    Args:
        sources: Them.
        on_total: Called with how many images there are, once that is known: at most a million of them are
            listed before they are taken.
        on_results: See `find_items`.
    """

    def find() -> Iterator[ImageItem | str | Callable[[], ImageItem | str]]:
        count = 0
        for source in check_sources(sources):
            for found in _find(source, None, on_results, 0):
                count += 1
                yield found
        on_total(count)

    listing: AbstractContextManager[Reading[ImageItem | str]]
    listing = read_ahead(find(), threads=1, ahead=MOST_LISTED)
    with listing as listed:
        yield map(to_item, listed)


def _find(
    source: str, column: str | None, on_results: Callable[[Path, int], None] | None, depth: int
) -> Iterator[ImageItem | str]:
    """The images of a source; of those that are files here, the paths."""
    suffix = PurePosixPath(source).suffix.lower()
    if suffix in LIST_SUFFIXES and (is_remote(source) or Path(source).is_file()):
        if depth == MAX_LISTS:
            raise InputError(f"{source}: lists name lists {MAX_LISTS} times over")
        empty = True
        for path in read_paths(source, column):
            empty = False
            if isinstance(path, ListError):
                yield failed_item(source, PurePosixPath(source).stem, path.text)
                continue
            try:
                yield from _find(path, column, on_results, depth + 1)
            except InputError as error:  # one of many
                yield failed_item(path, PurePosixPath(path).stem, str(error))
        if empty:
            yield failed_item(source, PurePosixPath(source).stem, f"{source}: no path in this list")
    elif suffix in ARCHIVE_SUFFIXES and (is_remote(source) or Path(source).is_file()):
        yield from find_members(source)
    elif is_remote(source):
        yield from find_remote(source)
    else:
        yield from _find_local(source, on_results)


def _find_local(source: str, on_results: Callable[[Path, int], None] | None) -> Iterator[ImageItem | str]:
    path = Path(source)
    if not os.path.lexists(path):
        found = sorted(glob.glob(source, recursive=True))  # noqa: PTH207  # absolute ones too
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
        yield str(path)
        return
    errors: list[ImageError] = []
    for image in find_images([path], on_error=errors.append, on_results=on_results):
        yield from _failures(source, errors)
        yield str(image)
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
    items = _find_remote_or_local(address)
    if is_remote(address) or not Path(address).exists():
        places = [place for place, letter in enumerate(address) if letter == SEPARATOR]
        archives = [address[:place] for place in places if address[:place].lower().endswith(".tar")]
        for archive in archives:
            if is_remote(archive) or Path(archive).is_file():
                items = (item for item in find_members(archive) if item.address == address)
                break
    found = next(items, None)
    if found is None or found.error is not None:
        raise ImageError(f"{address}: is not there any more" if found is None else str(found.error))
    return found


def _find_remote_or_local(address: str) -> Iterator[ImageItem]:
    return find_remote(address, exact=True) if is_remote(address) else iter([local_item(Path(address))])


def to_item(found: ImageItem | str) -> ImageItem:
    """An image that was found."""
    return local_item(Path(found)) if isinstance(found, str) else found


def local_item(path: Path) -> ImageItem:
    """A file of this machine."""
    try:
        status = path.stat()
        version = f"{status.st_size}-{status.st_mtime_ns}"
    except OSError:
        version = None  # who reads it will say why
    return ImageItem(str(path), path.stem, version, partial(Path, path), path=path)
