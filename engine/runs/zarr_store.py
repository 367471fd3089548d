"""The rows of a run as a Zarr group: an array a column, along the rows, for those who read maps by slices."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from camrt.engine.extras import import_extra
from camrt.errors import StorageError
from camrt.export.io.atomic_files import storage_errors

if TYPE_CHECKING:
    import pyarrow

__all__ = ["write_zarr"]

CHUNK_BYTES = 4 << 20
"""Of an array's chunk, about."""

AXES = {
    "map": ("row", "y", "x"),
    "raw": ("row", "cell_y", "cell_x"),
    "uncertainty": ("row", "cell_y", "cell_x"),
}
"""The names of an array's axes, which xarray reads; of a column without maps it is the first alone."""


def write_zarr(tables: Iterable[pyarrow.Table], place: Path) -> None:
    """Writes rows, some at a time, to a folder that appears when it is whole.

    Args:
        tables: Rows, in their order; all with the same columns.
        place: Of the folder.

    Raises:
        StorageError: There is something in its place, or it cannot be written.
        MissingExtraError: zarr is not installed (`camrt[zarr]`).
    """
    zarr = import_extra("zarr", "zarr")
    if place.exists():
        raise StorageError(f"{place} exists: name a folder that does not, or remove it")
    draft = place.with_name(f".camrt-{secrets.token_hex(8)}.part.zarr")
    with storage_errors(place):
        try:
            group: Any = None
            for table in tables:
                columns = {name: to_array(table.column(name)) for name in table.column_names}
                if group is None:
                    group = zarr.open_group(draft, mode="w-", zarr_format=3)
                    for name, values in columns.items():
                        make_array(group, name, values)
                for name, values in columns.items():
                    group[name].append(values)
            draft.rename(place)
        finally:
            shutil.rmtree(draft, ignore_errors=True)


def make_array(group: Any, name: str, like: NDArray[Any]) -> None:
    """An array without rows, for values as they are in a column."""
    text = like.dtype == object
    size = 64 if text else int(np.prod(like.shape[1:])) * like.dtype.itemsize
    group.create_array(
        name,
        shape=(0, *like.shape[1:]),
        chunks=(max(CHUNK_BYTES // size, 1), *like.shape[1:]),
        dtype=str if text else like.dtype,
        fill_value="" if text else like.dtype.type(np.nan if like.dtype.kind == "f" else -1),
        dimension_names=AXES.get(name, ("row",)),
    )


def to_array(column: pyarrow.ChunkedArray) -> NDArray[Any]:
    """A column's values; what is null is NaN, -1 or no text."""
    pa = import_extra("pyarrow", "runs")
    kind = column.type
    if pa.types.is_string(kind):
        return np.array(column.fill_null("").to_pylist(), object)
    if pa.types.is_integer(kind):
        return np.asarray(column.fill_null(-1).to_numpy())
    if pa.types.is_floating(kind):
        return np.asarray(column.fill_null(np.nan).to_numpy())
    height, width = kind.list_size, kind.value_type.list_size
    number = kind.value_type.value_type.to_pandas_dtype()
    maps = np.full((len(column), height, width), np.nan, number)
    start = 0
    for chunk in column.chunks:
        there = np.asarray(chunk.is_valid())
        held = chunk.flatten().flatten().to_numpy(zero_copy_only=False)  # of the rows that are not null
        maps[start : start + len(chunk)][there] = held.reshape(-1, height, width)
        start += len(chunk)
    return maps
