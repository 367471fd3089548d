"""Images in tar archives, such as the shards of WebDataset: read where they lie, and never unpacked."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO

from camrt.engine.images.read import is_image_name
from camrt.engine.runs.addresses import is_remote, open_remote
from camrt.engine.runs.items import MAX_IMAGE_BYTES, ImageItem, failed_item
from camrt.errors import ImageError, InputError

__all__ = ["ARCHIVE_SUFFIXES", "SEPARATOR", "find_members"]

ARCHIVE_SUFFIXES = frozenset({".tar", ".tgz", ".gz", ".bz2", ".xz", ".zst"})
LOOKED_AT = 1 << 16  # bytes behind the end, which archives fill up with zeros to 10 kB
SEPARATOR = "#"  # between an archive and what is in it, in an image's address


def find_members(source: str) -> Iterator[ImageItem]:
    """The images in a tar archive, in its order; each is read later, by whoever wants it.

    Where an archive is damaged, an item with an error takes the place of what is left of it.

    Args:
        source: The archive's path or address.

    Raises:
        InputError: It is compressed.
    """
    if not source.lower().endswith(".tar"):
        raise InputError(
            f"{source}: a compressed archive, of which no image can be read without all before it; unpack it "
            "to a plain .tar (images are compressed already)"
        )
    empty = True
    names: set[int] = set()  # hashes of those that were met
    try:
        with _open(source) as file, tarfile.open(fileobj=file, mode="r:") as archive:
            for member in archive:
                archive.members = []  # type: ignore[attr-defined]  # it would keep the headers of them all
                if not is_image_name(member.name) or PurePosixPath(member.name).name.startswith("."):
                    continue
                if member.isfile() or member.islnk() or member.issym():
                    empty = False
                    yield _member_item(source, member, names)
            _check_end(file, archive.offset)
    except (tarfile.TarError, OSError, EOFError, ValueError) as error:
        yield failed_item(source, PurePosixPath(source).stem, f"{source}: no whole tar archive: {error}")
        return
    if empty:
        yield failed_item(source, PurePosixPath(source).stem, f"{source}: no image in this archive")


def _check_end(file: IO[bytes], offset: int) -> None:
    """Looks at what follows the last member, which tarfile takes for the end whatever it is.

    Raises:
        tarfile.ReadError: It is none.
    """
    file.seek(offset)
    rest = file.read(LOOKED_AT)
    if len(rest) < tarfile.BLOCKSIZE or any(rest[: tarfile.BLOCKSIZE]):
        raise tarfile.ReadError("it is cut off, or damaged, behind its last image")
    if any(rest):
        raise tarfile.ReadError("another archive follows in the same file, which is not read")


def _member_item(source: str, member: tarfile.TarInfo, names: set[int]) -> ImageItem:
    name, number = member.name, 2
    while hash(name) in names:  # the archive has two of one name
        name, number = f"{member.name}{SEPARATOR}{number}", number + 1
    names.add(hash(name))
    address = f"{source}{SEPARATOR}{name}"
    stem = PurePosixPath(member.name).stem
    if not member.isfile():
        return failed_item(address, stem, f"{address}: a link in an archive, which is not followed")
    if member.issparse():
        return failed_item(address, stem, f"{address}: a sparse file in an archive, which is not read")
    if not 0 <= member.size <= MAX_IMAGE_BYTES:
        return failed_item(address, stem, f"{address}: larger than {MAX_IMAGE_BYTES} bytes, or of no size")
    read = partial(_read, source, member.offset_data, member.size, address)
    return ImageItem(address, stem, f"{member.size}-{member.mtime}-{member.offset_data}", read)


def _read(source: str, start: int, size: int, address: str) -> bytes:
    try:
        with _open(source) as file:
            file.seek(start)
            content = file.read(size)
    except InputError as error:
        raise ImageError(str(error)) from error
    except (OSError, ValueError) as error:
        raise ImageError(f"{address}: cannot be read: {error}") from error
    if len(content) < size:
        raise ImageError(f"{address}: the archive ends within it")
    return content


def _open(source: str) -> IO[bytes]:
    return open_remote(source) if is_remote(source) else Path(source).open("rb")
