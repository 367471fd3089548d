"""The tables of an evaluation as Parquet, a part for each block of pictures, so that a run can go on."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from camrt.errors import DataError, InputError
from camrt.evaluation.extras import needed
from camrt.evaluation.suite.measuring import Measured, Row
from camrt.export.files import write_whole

if TYPE_CHECKING:
    import pyarrow

__all__ = ["RESULTS", "TABLES", "Parts", "read_table", "write_table"]

TABLES = ("pictures", "objects", "maps")
RESULTS = "results.json"


def schema(table: str) -> pyarrow.Schema:
    """The columns of a table."""
    pa = needed("pyarrow")
    text, whole, number, truth, raw = pa.string(), pa.int64(), pa.float64(), pa.bool_(), pa.binary()
    numbers, truths = pa.list_(pa.float64()), pa.list_(pa.bool_())
    columns = {
        "pictures": {
            "picture": text,
            "label": whole,
            "predicted": whole,
            "probability": number,
            "right_after_random_removal": truths,
        },
        "objects": {
            "picture": text,
            "class": whole,
            "boxes": whole,
            "share": number,
            "inside": raw,
            "ignored": raw,
        },
        "maps": {
            "picture": text,
            "method": text,
            "class": whole,
            "is_label": truth,
            "is_predicted": truth,
            "probability": number,
            "flag": whole,
            "probability_masked": number,
            "drop": number,
            "increase": number,
            "compactness": number,
            "deletion": number,
            "insertion": number,
            "deletion_curve": numbers,
            "insertion_curve": numbers,
            "right_after_removal": truths,
            "pointing": truth,
            "energy": number,
            "box_hits": raw,
            "largest_box_hits": raw,
            "mu": number,
            "raw": raw,
            "grid": pa.list_(pa.int64()),
        },
    }
    return pa.schema(list(columns[table].items()))


def write_table(path: Path, table: str, rows: list[Row]) -> None:
    """Writes the rows of a table; what a row lacks is null."""
    pa, pq = needed("pyarrow"), needed("pyarrow.parquet")
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, schema=schema(table)), buffer, compression="zstd")
    write_whole(path, buffer.getvalue())


def read_table(path: Path) -> list[Row]:
    """The rows of a table.

    Raises:
        DataError: The file is missing or damaged.
    """
    pa, pq = needed("pyarrow"), needed("pyarrow.parquet")
    try:
        rows: list[Row] = pq.read_table(io.BytesIO(path.read_bytes())).to_pylist()
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path}: no whole Parquet file: {error}") from error
    return rows


class Parts:
    """The parts of a run in a folder, each written when a block of pictures was measured.

    Args:
        folder: Of the results.
        fingerprint: Everything that the results depend on. A run goes on only where it is the same.
        resume: Whether to go on with a run that is there.

    Raises:
        InputError: There is a run and `resume` is false, or it was another one.
    """

    def __init__(self, folder: Path, fingerprint: Mapping[str, Any], *, resume: bool) -> None:
        self.folder = folder / "parts"
        description = folder / "run.json"
        text = json.dumps(fingerprint, indent=1, sort_keys=True, ensure_ascii=False)
        if description.exists():
            if not resume:
                raise InputError(
                    f"{folder} holds an evaluation: go on with it (--resume), or choose another folder"
                )
            differing = _differences(description, fingerprint)
            if differing:
                raise InputError(
                    f"{folder} holds another evaluation: {', '.join(differing)} differ; choose another folder"
                )
        else:
            write_whole(description, text.encode())

    def __contains__(self, number: int) -> bool:
        return self._path(number, "note.json").exists()

    @property
    def finished(self) -> tuple[dict[str, Any], Measured] | None:
        """The results and rows of a run that came to its end; None of one that did not."""
        path = self.folder.parent / RESULTS
        if not path.exists():
            return None
        try:
            results: dict[str, Any] = json.loads(path.read_bytes())
        except ValueError as error:
            raise DataError(f"{path}: damaged: {error}") from error
        tables = {table: read_table(path.with_name(f"{table}.parquet")) for table in TABLES}
        return results, Measured(**tables, passes=results["passes"])

    def clear(self) -> None:
        """Removes the parts of a run whose results are written."""
        shutil.rmtree(self.folder, ignore_errors=True)

    def write(self, number: int, measured: Measured, problems: list[str]) -> None:
        """Keeps a block. The note is written last: a block without one counts as not measured."""
        for table in TABLES:
            write_table(self._path(number, f"{table}.parquet"), table, getattr(measured, table))
        note = {"passes": measured.passes, "problems": problems}
        write_whole(self._path(number, "note.json"), json.dumps(note, ensure_ascii=False).encode())

    def read(self, number: int) -> tuple[Measured, list[str]]:
        """A block that was kept."""
        tables = {table: read_table(self._path(number, f"{table}.parquet")) for table in TABLES}
        try:
            note = json.loads(self._path(number, "note.json").read_bytes())
        except ValueError as error:
            raise DataError(f"{self._path(number, 'note.json')}: damaged: {error}") from error
        return Measured(**tables, passes=note["passes"]), note["problems"]

    def _path(self, number: int, name: str) -> Path:
        return self.folder / f"{number:06d}-{name}"


def _differences(path: Path, fingerprint: Mapping[str, Any]) -> list[str]:
    try:
        found = json.loads(path.read_bytes())
    except ValueError as error:
        raise DataError(f"{path}: damaged: {error}") from error
    wanted = json.loads(json.dumps(fingerprint))
    return sorted(key for key in {*found, *wanted} if found.get(key) != wanted.get(key))
