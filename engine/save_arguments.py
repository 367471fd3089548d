"""Where and under which names a caller wants files: understood, or refused before anything is written."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from PIL import Image

from camrt.errors import InputError, StorageError
from camrt.export.io.file_kinds import is_address

__all__ = ["check_file_name", "check_result_folder", "one_per_image", "stem_of"]


def check_result_folder(folder: Any) -> Path:
    """A folder for results, which need not be there yet.

    Raises:
        InputError: It is no path, or an address.
        StorageError: A file is there.
    """
    if not isinstance(folder, (str, os.PathLike)) or not isinstance(os.fspath(folder), str):
        raise InputError(f"folder={folder!r:.80} must be the path of a folder for the results")
    if not os.fspath(folder) or "\0" in os.fspath(folder):
        raise InputError(f"folder={os.fspath(folder)!r:.80} is no path; '.' is the folder that you are in")
    if is_address(folder):
        raise InputError(f"folder={os.fspath(folder)!r:.80} is an address: camrt writes on this machine only")
    path = Path(folder)
    if os.path.exists(path) and not path.is_dir():  # noqa: PTH110  # which takes names of any length
        raise StorageError(f"{path}: is there and no folder: name a folder for the results, new or not")
    return path


def check_file_name(option: str, name: Any) -> None:
    """Refuses what is no file's name by itself.

    Raises:
        InputError: It is no text, or empty, or leads to another folder.
    """
    if not isinstance(name, str) or not name or {"/", "\\", "\0"} & set(name) or name in (".", ".."):
        raise InputError(f"{option}={name!r:.80} must be the name of a file, without folders and suffix")


def one_per_image(what: str, given: Any, count: int) -> list[Any]:
    """What was given for each image, or by itself for a single one.

    Raises:
        InputError: It is another number of them.
    """
    single = isinstance(given, (str, bytes, os.PathLike, Image.Image)) or not isinstance(given, Iterable)
    listed = [given] if single else list(given)
    if len(listed) != count:
        raise InputError(f"expected {count} {what}, one an image, got {len(listed)}")
    return listed


def stem_of(given: Any) -> str:
    """The beginning of file names that a text or a path means.

    Raises:
        InputError: It is neither.
    """
    if isinstance(given, str):
        return given
    if isinstance(given, os.PathLike) and isinstance(os.fspath(given), str):
        return Path(given).stem
    raise InputError(f"a stem is text, how an image's files begin, not {given!r:.80}")
