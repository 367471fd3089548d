"""Lists of images' paths: text files with one a line, and tables with a column of them.

A line of a text file that begins with "# " is a comment, and so is "#" alone; a file whose name begins so is
written "./# name".
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from camrt.engine.extras import import_extra
from camrt.engine.runs.addresses import is_remote, open_remote
from camrt.errors import InputError

__all__ = ["LIST_SUFFIXES", "ListError", "read_paths"]

LIST_SUFFIXES = frozenset({".txt", ".csv", ".parquet"})
PATH_COLUMN = "path"
MAX_LINE = 1 << 16  # characters of a path


@dataclass(frozen=True)
class ListError:
    """An entry of a list that is no path.

    Attributes:
        text: Which one.
    """

    text: str


def read_paths(source: str, column: str | None = None) -> Iterator[str | ListError]:
    """The paths in a list, as they count from where you are; an entry that is none gives an error instead.

    Args:
        source: The list's path or address; its suffix says which kind it is.
        column: Of a table; "path", or the only one, when left out.

    Raises:
        InputError: It cannot be read, or has no such column of text.
        MissingExtraError: pyarrow is not installed, for a Parquet file.
    """
    reading = _read_table if source.lower().endswith(".parquet") else _read_text
    try:
        with _open(source) as file:
            for number, path in enumerate(reading(file, source, column), 1):
                if not path or "\0" in path or len(path) > MAX_LINE:
                    yield ListError(f"{source}: entry {number} is no path: {path!r:.80}")
                else:
                    yield _from_list(path, source)
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{source}: cannot be read as a list of paths: {error}") from error


def _open(source: str) -> IO[bytes]:
    return open_remote(source) if is_remote(source) else Path(source).open("rb")


def _read_text(file: IO[bytes], source: str, column: str | None) -> Iterator[str]:
    with io.TextIOWrapper(file, encoding="utf-8-sig", newline="") as lines:
        if source.lower().endswith(".txt"):
            for line in _bounded_lines(lines, source):
                if (text := line.strip()) and text != "#" and not text.startswith("# "):
                    yield text
            return
        try:
            rows = csv.reader(_bounded_lines(lines, source))
            header = next(rows, [])
            place = _find_column(header, column, source)
            for row in rows:
                if row:
                    yield row[place] if place < len(row) else ""
        except csv.Error as error:
            raise InputError(f"{source}: no CSV table: {error}") from error


def _bounded_lines(lines: io.TextIOWrapper, source: str) -> Iterator[str]:
    while line := lines.readline(MAX_LINE + 1):
        if len(line) > MAX_LINE:
            raise InputError(f"{source}: a line of more than {MAX_LINE} characters is no path")
        yield line


def _read_table(file: IO[bytes], source: str, column: str | None) -> Iterator[str]:
    pa, parquet = import_extra("pyarrow", "runs"), import_extra("pyarrow.parquet", "runs")
    try:
        table = parquet.ParquetFile(file)
        names: list[str] = table.schema_arrow.names
        name = names[_find_column(names, column, source)]
        kind = table.schema_arrow.field(name).type
        if not (pa.types.is_string(kind) or pa.types.is_large_string(kind)):
            raise InputError(f"{source}: the column {name!r} holds {kind}, and paths are text")
        for batch in table.iter_batches(columns=[name]):
            values: list[Any] = batch.column(0).to_pylist()
            for value in values:
                yield value if isinstance(value, str) else ""
    except pa.ArrowException as error:
        raise InputError(f"{source}: no Parquet table: {error}") from error


def _find_column(names: Sequence[str], column: str | None, source: str) -> int:
    """The place of the column of paths.

    Raises:
        InputError: There is none.
    """
    wanted = column or (names[0] if len(names) == 1 else PATH_COLUMN)
    if wanted not in names:
        raise InputError(
            f"{source}: no column {wanted!r} among {', '.join(map(repr, names))[:300]}: say which column "
            "holds the paths (column=)"
        )
    return list(names).index(wanted)


def _from_list(path: str, source: str) -> str:
    """A path in a list, which counts from the list's own folder."""
    if is_remote(path) or os.path.isabs(path):  # noqa: PTH117  # an address is no Path
        return path
    if is_remote(source):
        return f"{source.rpartition('/')[0]}/{path}"
    return str(Path(source).parent / path)
