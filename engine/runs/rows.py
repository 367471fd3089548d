"""The rows of a run as tables: one for each image and target class, or for an image that failed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from camrt.engine.arrays import to_numpy
from camrt.engine.explanation import FLAG_NAMES, Explanation
from camrt.engine.extras import import_extra
from camrt.engine.runs.stream import ExplainedBatch, MapShapes

if TYPE_CHECKING:
    import pyarrow

__all__ = ["FAILED", "READ", "answer_columns", "make_rows", "schema", "to_text"]

READ, FAILED = "ok", "failed"
BOX = ("left", "upper", "right", "lower")
MAPS = ("map", "raw", "uncertainty")


def schema(shapes: MapShapes) -> pyarrow.Schema:
    """The columns of a run's rows.

    `path`: where the image is. `status`: "ok", or "failed" and then `error` and nothing else. `rank`: which
    of the image's targets, from 1. `class`, `label`: that class. `logit`, `probability`: what the model says
    of it; `score`: what the method explained. `flag`: "ok", or why the map is all zeros. `map`: (H, W)
    float16 in [0, 1]. `raw`: (h, w) float32 before ReLU and normalisation, and `uncertainty`, its standard
    error, of methods that draw at random. `height`, `width` of the image, and the `left`, `upper`, `right`,
    `lower` edge of what the model saw of it, in its pixels.
    """
    pa = import_extra("pyarrow", "runs")

    def grid(kind: pyarrow.DataType, size: tuple[int, int]) -> pyarrow.DataType:
        return pa.list_(pa.list_(kind, size[1]), size[0])

    columns = {
        "path": pa.string(),
        "status": pa.string(),
        "error": pa.string(),
        "rank": pa.int16(),
        "class": pa.int32(),
        "label": pa.string(),
        "logit": pa.float32(),
        "probability": pa.float32(),
        "score": pa.float32(),
        "flag": pa.string(),
        "map": grid(pa.float16(), shapes.map),
        "raw": grid(pa.float32(), shapes.raw),
        "height": pa.int32(),
        "width": pa.int32(),
        **{edge: pa.float32() for edge in BOX},
    }
    if shapes.has_uncertainty:
        columns["uncertainty"] = grid(pa.float32(), shapes.raw)
    return pa.schema(list(columns.items()))


def make_rows(batch: ExplainedBatch, shapes: MapShapes) -> pyarrow.RecordBatch:
    """The rows of some images, in their order."""
    pa = import_extra("pyarrow", "runs")
    explanation = None if batch.explanation is None else batch.explanation.numpy()
    targets = 1 if explanation is None else explanation.targets_per_image
    # Of each row, its image, and its row among the explained ones; -1 of one that failed.
    owners: list[int] = []
    places: list[int] = []
    explained = 0
    for number, image in enumerate(batch.images):
        count = 1 if image.error is not None else targets
        owners += [number] * count
        places += [-1] if image.error is not None else range(explained, explained + count)
        explained += 0 if image.error is not None else count
    failed = np.array([place < 0 for place in places], bool)
    columns: dict[str, Any] = {
        "path": [to_text(batch.images[owner].item.address) for owner in owners],
        "status": [FAILED if fails else READ for fails in failed],
        "error": [to_text(batch.images[owner].error) for owner in owners],
    }
    values = {} if explanation is None else explained_columns(explanation)
    table = schema(shapes)
    arrays = []
    for field in table:
        if field.name in columns:
            arrays.append(pa.array(columns[field.name], field.type))
        elif field.name in MAPS:
            arrays.append(grid_column(values.get(field.name), places, failed, field.type))
        else:
            taken = values.get(field.name)
            listed = [None if taken is None or place < 0 else taken[place] for place in places]
            arrays.append(pa.array(listed, field.type))
    return pa.RecordBatch.from_arrays(arrays, schema=table)


def to_text(name: str | None) -> str | None:
    r"""A name as UTF-8 can have it: bytes of a file's name that are none are written as \xff."""
    if name is None:
        return None
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def answer_columns(explanation: Explanation[Any]) -> dict[str, Sequence[Any]]:
    """By column, what the model says of each image's targets, and the method made of it; arrays of NumPy."""
    count, each = len(explanation), explanation.targets_per_image
    classes = explanation.targets.reshape(count, each)
    return {
        "rank": list(range(1, each + 1)) * count,
        "class": classes.ravel().tolist(),
        "label": [
            None if explanation.labels is None else explanation.label(i, t)
            for i in range(count)
            for t in range(each)
        ],
        "logit": np.take_along_axis(explanation.logits, classes, axis=1).ravel().tolist(),
        "probability": np.take_along_axis(explanation.probabilities, classes, axis=1).ravel().tolist(),
        "score": explanation.scores.ravel().tolist(),
        "flag": [FLAG_NAMES[flag] for flag in explanation.flags.ravel()],
    }


def explained_columns(explanation: Explanation[Any]) -> dict[str, Sequence[Any] | NDArray[Any]]:
    """By column, a value for each image and target."""
    each = explanation.targets_per_image
    columns: dict[str, Sequence[Any] | NDArray[Any]] = {
        **answer_columns(explanation),
        "map": to_float16(explanation.maps).reshape(-1, *explanation.maps.shape[-2:]),
        "raw": explanation.raw.reshape(-1, *explanation.raw.shape[-2:]),
    }
    if explanation.uncertainty is not None:
        columns["uncertainty"] = explanation.uncertainty.reshape(-1, *explanation.raw.shape[-2:])
    if explanation.framings is not None:
        framings = [framing for framing in explanation.framings for _ in range(each)]
        columns["height"], columns["width"] = zip(*(framing.size for framing in framings), strict=True)
        for number, edge in enumerate(BOX):
            columns[edge] = [framing.region.box[number] for framing in framings]
    return columns


def to_float16(maps: Any) -> NDArray[np.float16]:
    values: NDArray[np.float16] = np.asarray(to_numpy(maps)).astype(np.float16)
    return values


def grid_column(
    maps: Any, places: Sequence[int], failed: NDArray[np.bool_], kind: pyarrow.DataType
) -> pyarrow.Array:
    """A column of maps, null in the rows that failed."""
    pa = import_extra("pyarrow", "runs")
    height, width = kind.list_size, kind.value_type.list_size
    number = kind.value_type.value_type
    held = np.zeros((len(places), height, width), number.to_pandas_dtype())
    if maps is not None:
        held[~failed] = maps[[place for place in places if place >= 0]]
    lines = pa.FixedSizeListArray.from_arrays(pa.array(held.reshape(-1)), width)
    return pa.FixedSizeListArray.from_arrays(lines, height, mask=pa.array(failed))
