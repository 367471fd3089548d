"""Reading the results of a run: its rows as a table, and each as an explanation that draws."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from camrt.engine.explanation import FLAG_NAMES, Explanation
from camrt.engine.extras import import_extra
from camrt.engine.images.framing import Framing
from camrt.engine.images.preprocess import Preprocessing
from camrt.engine.images.read import read_image
from camrt.engine.map_placement import check_index
from camrt.engine.passes import PassCounts
from camrt.engine.run_folder import read_notes
from camrt.engine.runs.addresses import is_remote
from camrt.engine.runs.block_writer import rows_name
from camrt.engine.runs.rows import BOX, READ
from camrt.engine.runs.run_notes import MANIFEST, read_finished
from camrt.engine.runs.sources import find_address
from camrt.engine.runs.zarr_store import write_zarr
from camrt.errors import ImageError, InputError
from camrt.export.geometry.region import Region

if TYPE_CHECKING:
    import pyarrow

__all__ = ["OpenedRun", "open_run"]

MAX_MANIFEST = 1 << 28  # bytes


def open_run(folder: str | os.PathLike[str]) -> OpenedRun:
    """The results of `camrt explain --write maps`.

    Args:
        folder: Of the run; it may still be going on, or have been stopped: what is finished is there.

    Raises:
        InputError: There is no such run, or it is damaged.
        MissingExtraError: pyarrow is not installed (`camrt[runs]`).

    Example:
        run = camrt.open_run("results")
        run.table.to_pandas()
        run[0].overlay(0).save("first.png")
    """
    import_extra("pyarrow", "runs")
    path = Path(folder)
    manifest = path / MANIFEST
    try:
        if manifest.stat().st_size > MAX_MANIFEST:
            raise InputError(f"{manifest}: larger than {MAX_MANIFEST} bytes, which is no manifest of a run")
        described: dict[str, Any] = json.loads(manifest.read_bytes())
        made = dict(described["made of"])
        steps = Preprocessing.from_json(json.dumps(made["model"]["preprocessing"]))
        labels = None if made["labels"] is None else tuple(map(str, list(made["labels"])))
        method, working = str(made["method"]["name"]), str(described["working folder"])
    except FileNotFoundError as error:
        raise InputError(
            f"{path}: no run with maps here ({MANIFEST} is missing): camrt explain --write maps makes one"
        ) from error
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(f"{manifest}: cannot be read, or is damaged: {error!r}") from error
    finished = read_finished(read_notes(path))
    files = [
        path / rows_name(number) for number in sorted(finished) if rows_name(number) in finished[number].files
    ]
    return OpenedRun(path, described, files, method, steps, labels, working)


class OpenedRun:
    """The rows of a run, in the order of its images: one for each image and target class.

    Attributes:
        folder: Of the run.
        manifest: Its settings, the model's hash, versions.
    """

    def __init__(
        self,
        folder: Path,
        manifest: Mapping[str, Any],
        files: list[Path],
        method: str,
        preprocessing: Preprocessing,
        labels: tuple[str, ...] | None,
        working_folder: str,
    ) -> None:
        self.folder = folder
        self.manifest = manifest
        self._files = files
        self._method = method
        self._working_folder = working_folder
        self._preprocessing = preprocessing
        self._labels = labels

    @cached_property
    def table(self) -> pyarrow.Table:
        """All rows; the columns are those of `camrt.engine.runs.rows.schema`, maps as Arrow's tensors.

        Raises:
            InputError: A file of rows is missing or damaged.
        """
        pa = import_extra("pyarrow", "runs")
        parts = list(self._read_files())
        try:
            table = pa.concat_tables(parts)
        except pa.ArrowException as error:
            raise InputError(f"{self.folder}: files of rows with other columns: {error}") from error
        for number, field in enumerate(table.schema):
            if pa.types.is_fixed_size_list(field.type):
                chunks = [as_tensors(chunk) for chunk in table.column(number).chunks]
                table = table.set_column(number, field.name, pa.chunked_array(chunks))
        return table

    def _read_files(self) -> Iterator[pyarrow.Table]:
        pa, parquet = import_extra("pyarrow", "runs"), import_extra("pyarrow.parquet", "runs")
        if not self._files:
            raise InputError(f"{self.folder}: no image is finished yet")
        for file in self._files:
            try:
                yield parquet.read_table(file)
            except (OSError, pa.ArrowException) as error:
                raise InputError(f"{file}: no whole Parquet file: {error}") from error

    def to_zarr(self, folder: str | os.PathLike[str]) -> None:
        """Writes the rows as a Zarr group (format 3), one file of rows after the other, for xarray and Dask.

        Each column is an array along the rows: `map` (rows, H, W) float16, `raw` (rows, h, w), and the others
        (rows,). Where a row has no value, as of an image that failed, numbers are NaN or -1 and texts empty.

        Args:
            folder: Where; it appears when it is whole.

        Raises:
            InputError: A file of rows is missing or damaged.
            StorageError: There is something in its place, or it cannot be written.
            MissingExtraError: zarr is not installed (`camrt[zarr]`).

        Example:
            camrt.open_run("results").to_zarr("results.zarr")
            xarray.open_zarr("results.zarr", consolidated=False)
        """
        write_zarr(self._read_files(), Path(folder))

    def __repr__(self) -> str:
        return f"<camrt.OpenedRun {self.folder}: {self._method}, {len(self._files)} files of rows>"

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def __iter__(self) -> Iterator[Explanation[Any]]:
        return (self[i] for i in range(len(self)) if self.table["status"][i].as_py() == READ)

    def __getitem__(self, number: int) -> Explanation[Any]:
        """A row as the explanation of one image for one class; its image is read again to be drawn on.

        What rows do not keep is NaN in it: the logits and probabilities of other classes.

        Raises:
            NoSuchImageError: There is no such row.
            ImageError: The row's image could not be read when it was to be explained, or cannot be now.
        """
        number = check_index(number, len(self), "row")
        row = {name: self.table[name][number] for name in self.table.column_names}
        if row["status"].as_py() != READ:
            raise ImageError(f"row {number} has no map: {row['error'].as_py()}")
        value = {name: row[name].as_py() for name in ("class", "logit", "probability", "score", "flag")}
        target = value["class"]
        classes = max(target + 1, len(self._labels or ()))
        answers = np.full((2, 1, classes), np.nan, np.float32)
        answers[:, 0, target] = value["logit"], value["probability"]
        framing = Framing(
            (row["height"].as_py(), row["width"].as_py()), Region(*(row[edge].as_py() for edge in BOX))
        )
        maps = {
            name: np.array(row[name].to_numpy(), np.float32)[None]
            for name in ("map", "raw", "uncertainty")
            if name in row
        }
        item = find_address(self._find_path(row["path"].as_py()))
        return Explanation(
            method=self._method,
            maps=maps["map"],
            raw=maps["raw"],
            targets=np.array([target]),
            scores=np.array([value["score"]], np.float32),
            logits=answers[0],
            probabilities=answers[1],
            flags=np.array([FLAG_NAMES.index(value["flag"])], np.uint8),
            passes=PassCounts(),
            seconds=0.0,
            labels=self._labels,
            views=(self._preprocessing.view(read_image(item.read())),),
            framings=(framing,),
            sources=(item.path,),
            uncertainty=maps.get("uncertainty"),
        )

    def _find_path(self, address: str) -> str:
        """Where an image is: what is relative counts from where the run was begun."""
        if is_remote(address) or Path(address).is_absolute():
            return address
        return str(Path(self._working_folder) / address)


def as_tensors(column: pyarrow.FixedSizeListArray) -> pyarrow.FixedShapeTensorArray:
    """A column of nested lists as one of Arrow's tensors, in the same memory."""
    pa = import_extra("pyarrow", "runs")
    height, width = column.type.list_size, column.type.value_type.list_size
    numbers = column.values.values
    kind = pa.fixed_shape_tensor(numbers.type, [height, width])
    held = pa.FixedSizeListArray.from_arrays(numbers, height * width, mask=column.is_null())
    return pa.ExtensionArray.from_storage(kind, held)
