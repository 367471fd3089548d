"""The tables of an evaluation as Parquet."""

from __future__ import annotations

import io
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from camrt.engine.extras import import_extra
from camrt.errors import DataError
from camrt.evaluation.suite.measurement import Measurements, TableRow
from camrt.evaluation.suite.metric_registry import METRICS
from camrt.export.io.atomic_files import open_atomic, write_atomic

if TYPE_CHECKING:
    import pyarrow

__all__ = ["TABLES", "join_parquet", "read_tables", "write_parquet"]

TABLES = ("images", "objects", "maps")
GROUP_ROWS, GROUP_BYTES = 50_000, 64 << 20
"""Of a row group of the joined tables, at least, where there are so many."""


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


def join_parquet(path: Path, table: str, parts: Iterable[Path]) -> None:
    """Writes the rows of several files of a table as one, without holding them all."""
    pa, pq = import_extra("pyarrow"), import_extra("pyarrow.parquet")
    with open_atomic(path) as file, pq.ParquetWriter(file, schema(table), compression="zstd") as writer:
        held: list[Any] = []
        for part in parts:
            held.append(open_parquet(part))
            rows, size = sum(one.num_rows for one in held), sum(one.nbytes for one in held)
            if rows >= GROUP_ROWS or size >= GROUP_BYTES:
                writer.write_table(pa.concat_tables(held))
                held = []
        if held:
            writer.write_table(pa.concat_tables(held))


def open_parquet(path: Path) -> Any:
    """The table of a file, as pyarrow has it.

    Raises:
        DataError: The file is missing or damaged.
    """
    pa, pq = import_extra("pyarrow"), import_extra("pyarrow.parquet")
    try:
        return pq.read_table(io.BytesIO(path.read_bytes()))
    except (OSError, pa.ArrowException) as error:
        raise DataError(f"{path}: no whole Parquet file: {error}") from error


def read_parquet(path: Path) -> list[TableRow]:
    """The rows of a table.

    Raises:
        DataError: The file is missing or damaged.
    """
    rows: list[TableRow] = open_parquet(path).to_pylist()
    return rows


def read_tables(folder: Path, prefix: str = "") -> Measurements:
    """The rows of all tables in a folder.

    Args:
        folder: The folder.
        prefix: Of the files' names.

    Raises:
        DataError: A file is missing or damaged.
    """
    images, objects, maps = (read_parquet(folder / f"{prefix}{table}.parquet") for table in TABLES)
    return Measurements(images, objects, maps)
