"""A table of where each image's evidence lies, of a folder of any size.

    python examples/folder_to_parquet.py photos/ table.parquet
    python examples/folder_to_parquet.py photos/ table.parquet --model resnet50.onnx --preprocessing imagenet

Columns: path, class, answer, peak_x and peak_y (where the map is largest, from 0 to 1), half_area (the share
of the image that is at least half as salient as the peak), error. `camrt explain --write maps` keeps whole
maps instead.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import typer

import camrt
from camrt.engine.runs.stream import StreamedImage

SCHEMA = pa.schema(
    {
        "path": pa.string(),
        "class": pa.string(),
        "answer": pa.string(),
        "peak_x": pa.float32(),
        "peak_y": pa.float32(),
        "half_area": pa.float32(),
        "error": pa.string(),
    }
)
ROWS = 256


def describe(image: StreamedImage) -> dict[str, object]:
    """A row of the table."""
    found = image.explanation
    if found is None:
        return {"path": image.address, "error": image.error}
    saliency = found.maps[0]
    y, x = np.unravel_index(saliency.argmax(), saliency.shape)
    height, width = saliency.shape
    return {
        "path": image.address,
        "class": found.label(0),
        "answer": found.answer(0),
        "peak_x": (x + 0.5) / width,
        "peak_y": (y + 0.5) / height,
        "half_area": float((saliency >= saliency.max() / 2).mean()) if saliency.any() else 0.0,
    }


def main(
    source: str,
    table: Path,
    model: str = "default",
    preprocessing: str | None = None,
    method: Annotated[str, typer.Option("--method", "-m")] = "pixab",
) -> None:
    """Explain SOURCE, a folder, pattern, list or archive, and write TABLE."""
    engine = camrt.load(model, preprocessing=preprocessing)
    count, rows = 0, []
    with pq.ParquetWriter(table, SCHEMA) as writer:
        for image in engine.explain_stream(source, method):
            rows.append(describe(image))
            count += 1
            if len(rows) == ROWS:
                writer.write_table(pa.Table.from_pylist(rows, SCHEMA))
                rows = []
        if rows:
            writer.write_table(pa.Table.from_pylist(rows, SCHEMA))
    typer.echo(f"{count} images in {table}")


if __name__ == "__main__":
    typer.run(main)
