"""What was measured on each block of images: kept in a folder, so that a run can go on, or in memory."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from camrt.engine.run_folder import RunFolder
from camrt.errors import DataError, InputError
from camrt.evaluation.suite.measurement import Measurements
from camrt.evaluation.suite.report.figures import FIGURES
from camrt.evaluation.suite.tables import TABLES, join_parquet, read_tables, write_parquet
from camrt.export.io.atomic_files import write_atomic

__all__ = [
    "RESULTS",
    "BlockStore",
    "BlocksInMemory",
    "FileHashes",
    "FinishedTables",
    "MeasuredBlocks",
]

RESULTS = "results.json"
BLOCKS_FOLDER = "parts"
BLOCK_FILES = (*(f"{table}.parquet" for table in TABLES), "note.json")
REPORT_FILES = ("table.md", "table.csv", "table.tex", "report.html", *FIGURES)
FILES = (*(f"{table}.parquet" for table in TABLES), *REPORT_FILES, RESULTS)

FileHashes = list[list[str | None]]
"""Names of files with hashes of their contents."""


class MeasuredBlocks(Protocol):
    """What was measured on the blocks of a run."""

    contents: dict[int, FileHashes]
    """The files of each block that was measured."""

    def __contains__(self, number: int) -> bool:
        """Whether a block was measured."""

    def __iter__(self) -> Iterator[Measurements]:
        """The blocks, in their order."""

    def write(self, number: int, measured: Measurements, contents: FileHashes) -> None:
        """Keeps a block of images whose files had those contents."""

    def check_unchanged(self, number: int, contents: FileHashes) -> None:
        """Refuses to go on where files of a block are others than those that were measured."""


class BlocksInMemory:
    """The blocks of a run that writes nothing."""

    def __init__(self) -> None:
        self.contents: dict[int, FileHashes] = {}
        self._blocks: dict[int, Measurements] = {}

    def __contains__(self, number: int) -> bool:
        return number in self._blocks

    def __iter__(self) -> Iterator[Measurements]:
        return (self._blocks[number] for number in sorted(self._blocks))

    def write(self, number: int, measured: Measurements, contents: FileHashes) -> None:
        """Keeps a block."""
        self._blocks[number], self.contents[number] = measured, contents

    def check_unchanged(self, number: int, contents: FileHashes) -> None:
        """Nothing: what is measured was read a moment ago."""


class FinishedTables:
    """The rows of a run that came to its end, read when they are asked for.

    Args:
        folder: Of the results.
        passes: Of the whole run.
    """

    def __init__(self, folder: Path, passes: int) -> None:
        self.folder = folder
        self.passes = passes

    def __iter__(self) -> Iterator[Measurements]:
        yield replace(read_tables(self.folder), passes=self.passes)


class BlockStore:
    """The parts of a run in a folder, each written when a block of images was measured.

    The folder is `held` as long as parts are written.

    Args:
        folder: Of the results.
        fingerprint: Everything that the results depend on, but for the contents of images and masks. A run
            goes on only where it is the same.
        resume: Whether to go on with a run that is there.
        overwrite: Whether to replace it.

    Raises:
        InputError: There is a run and neither was asked for, or it was another one.
        StorageError: A file that no run wrote lies where results are to be.
    """

    def __init__(
        self, folder: Path, fingerprint: Mapping[str, Any], *, resume: bool, overwrite: bool = False
    ) -> None:
        self.run = RunFolder(folder, "evaluation", fingerprint, resume=resume, overwrite=overwrite)
        self.run.check(FILES)
        self.folder = folder / BLOCKS_FOLDER
        self.contents: dict[int, FileHashes] = {
            note["block"]: note.get("contents", [])
            for note in self.run.finished
            if isinstance(note.get("block"), int)
        }

    def __contains__(self, number: int) -> bool:
        return number in self.contents

    def __iter__(self) -> Iterator[Measurements]:
        return (self.read(number) for number in sorted(self.contents))

    @property
    def completed(self) -> dict[str, Any] | None:
        """The results of a run that came to its end; None of one that did not."""
        path = self.folder.parent / RESULTS
        if RESULTS not in self.run.claimed or not path.exists():
            return None
        try:
            results: dict[str, Any] = json.loads(path.read_bytes())
        except ValueError as error:
            raise DataError(f"{path}: damaged: {error}") from error
        return results

    def join(self) -> None:
        """Writes the rows of all blocks as one file a table."""
        for table in TABLES:
            parts = (self._path(number, f"{table}.parquet") for number in sorted(self.contents))
            join_parquet(self.folder.parent / f"{table}.parquet", table, parts)

    def clear(self) -> None:
        """Removes the parts of a run whose results are written."""
        self.run.remove([name for name in self.run.claimed if name.startswith(f"{BLOCKS_FOLDER}/")])
        with suppress(OSError):  # something else is in it
            self.folder.rmdir()

    def write(self, number: int, measured: Measurements, contents: FileHashes) -> None:
        """Keeps a block of images whose files had those contents."""
        self.run.claim([*FILES, *(f"{BLOCKS_FOLDER}/{number:06d}-{name}" for name in BLOCK_FILES)])
        for table in TABLES:
            write_parquet(self._path(number, f"{table}.parquet"), table, getattr(measured, table))
        note = {"passes": measured.passes, "problems": measured.problems}
        write_atomic(self._path(number, "note.json"), json.dumps(note).encode())
        # Last: a block without it counts as not measured.
        self.run.finish({"block": number, "contents": contents})
        self.contents[number] = contents

    def read(self, number: int) -> Measurements:
        """A block that was kept."""
        tables = read_tables(self.folder, f"{number:06d}-")
        path = self._path(number, "note.json")
        try:
            note = json.loads(path.read_bytes())
            return replace(tables, passes=note["passes"], problems=list(note["problems"]))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(f"{path}: damaged: {error!r}") from error

    def check_unchanged(self, number: int, contents: FileHashes) -> None:
        """Refuses to go on where files of a block are others than those that were measured.

        Raises:
            InputError: They are; it names one.
        """
        kept = self.contents[number]
        if kept == contents:
            return
        known = {tuple(pair) for pair in kept} if isinstance(kept, list) else set()
        changed = next((name for name, digest in contents if (name, digest) not in known), "an image")
        raise InputError(
            f"{self.run.folder} holds another evaluation: {changed} has changed since; replace it "
            "(--overwrite), or choose another folder"
        )

    def _path(self, number: int, name: str) -> Path:
        return self.folder / f"{number:06d}-{name}"
