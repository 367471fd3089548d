"""The tables of an evaluation as Parquet, a part for each block of images, so that a run can go on."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from camrt.engine.extras import import_extra
from camrt.engine.run_folder import RunFolder
from camrt.errors import DataError, InputError
from camrt.evaluation.suite.measurement import Measurements, TableRow
from camrt.evaluation.suite.metric_registry import METRICS
from camrt.export.io.atomic_files import write_atomic

if TYPE_CHECKING:
    import pyarrow

__all__ = ["FILES", "RESULTS", "TABLES", "BlockStore", "FileHashes", "read_parquet", "write_parquet"]

TABLES = ("images", "objects", "maps")
RESULTS = "results.json"
BLOCKS_FOLDER = "parts"
BLOCK_FILES = (*(f"{table}.parquet" for table in TABLES), "note.json")
FILES = (*(f"{table}.parquet" for table in TABLES), "table.md", "report.html", RESULTS)

FileHashes = list[list[str | None]]
"""Names of files with hashes of their contents."""


def schema(table: str) -> pyarrow.Schema:
    """The columns of a table."""
    pa = import_extra("pyarrow")
    text, whole, number, truth, raw = pa.string(), pa.int64(), pa.float64(), pa.bool_(), pa.binary()
    numbers, truths = pa.list_(pa.float64()), pa.list_(pa.bool_())
    columns = {
        "images": {
            "image": text,
            "label": whole,
            "predicted": whole,
            "probability": number,
            "right_after_random_removal": truths,
        },
        "objects": {
            "image": text,
            "class": whole,
            "boxes": whole,
            "share": number,
            "inside": raw,
            "ignored": raw,
        },
        "maps": {
            "image": text,
            "method": text,
            "class": whole,
            "is_label": truth,
            "is_predicted": truth,
            "probability": number,
            "flag": whole,
            "probability_masked": number,
            **{
                name: number if metric.values == "number" else truth
                for name, metric in METRICS.items()
                if metric.values
            },
            "deletion_curve": numbers,
            "insertion_curve": numbers,
            "roadmorf_curve": numbers,
            "roadlerf_curve": numbers,
            "right_after_removal": truths,
            "box_hits": raw,
            "largest_box_hits": raw,
            "raw": raw,
            "grid": pa.list_(pa.int64()),
        },
    }
    return pa.schema(list(columns[table].items()))


def write_parquet(path: Path, table: str, rows: list[TableRow]) -> None:
    """Writes the rows of a table; what a row lacks is null."""
    pa, pq = import_extra("pyarrow"), import_extra("pyarrow.parquet")
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, schema=schema(table)), buffer, compression="zstd")
    write_atomic(path, buffer.getvalue())


def read_parquet(path: Path) -> list[TableRow]:
    """The rows of a table.

    Raises:
        DataError: The file is missing or damaged.
    """
    pa, pq = import_extra("pyarrow"), import_extra("pyarrow.parquet")
    try:
        rows: list[TableRow] = pq.read_table(io.BytesIO(path.read_bytes())).to_pylist()
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path}: no whole Parquet file: {error}") from error
    return rows


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
        self.contents = {
            note["block"]: note.get("contents")
            for note in self.run.finished
            if isinstance(note.get("block"), int)
        }

    def __contains__(self, number: int) -> bool:
        return number in self.contents

    @property
    def completed(self) -> tuple[dict[str, Any], Measurements] | None:
        """The results and rows of a run that came to its end; None of one that did not."""
        path = self.folder.parent / RESULTS
        if RESULTS not in self.run.claimed or not path.exists():
            return None
        try:
            results: dict[str, Any] = json.loads(path.read_bytes())
        except ValueError as error:
            raise DataError(f"{path}: damaged: {error}") from error
        tables = {table: read_parquet(path.with_name(f"{table}.parquet")) for table in TABLES}
        return results, Measurements(**tables, passes=results["passes"])

    def clear(self) -> None:
        """Removes the parts of a run whose results are written."""
        self.run.remove([name for name in self.run.claimed if name.startswith(f"{BLOCKS_FOLDER}/")])
        with suppress(OSError):  # something else is in it
            self.folder.rmdir()

    def write(self, number: int, measured: Measurements, problems: list[str], contents: FileHashes) -> None:
        """Keeps a block of images whose files had those contents."""
        self.run.claim([*FILES, *(f"{BLOCKS_FOLDER}/{number:06d}-{name}" for name in BLOCK_FILES)])
        for table in TABLES:
            write_parquet(self._path(number, f"{table}.parquet"), table, getattr(measured, table))
        note = {"passes": measured.passes, "problems": problems}
        write_atomic(self._path(number, "note.json"), json.dumps(note).encode())
        # Last: a block without it counts as not measured.
        self.run.finish({"block": number, "contents": contents})

    def read(self, number: int) -> tuple[Measurements, list[str]]:
        """A block that was kept."""
        tables = {table: read_parquet(self._path(number, f"{table}.parquet")) for table in TABLES}
        path = self._path(number, "note.json")
        try:
            note = json.loads(path.read_bytes())
            return Measurements(**tables, passes=note["passes"]), list(note["problems"])
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
