"""What a model answers to noise: where its graph does not say what its answers are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from camrt.engine.backends import Backend
from camrt.engine.noise import noise
from camrt.errors import BackendError
from camrt.export.readings import Prober

__all__ = ["pictures_of_ranges", "prober"]

Array = npt.NDArray[Any]

# Mean and standard deviation of each picture's numbers: a model may take pictures of any of these ranges, and
# what saturates on one does not on all.
RANGES = ((0.0, 0.1), (0.0, 1.0), (0.0, 3.0), (128.0, 64.0))


def pictures_of_ranges(shape: Sequence[int]) -> Array:
    """(4, C, H, W) pictures of normal noise (C, H, W), each of another range."""
    drawn = noise((len(RANGES), *shape))
    return np.stack(
        [mean + deviation * one for (mean, deviation), one in zip(RANGES, drawn, strict=True)]
    ).astype(np.float32)


def prober(runtime: Backend) -> Prober:
    """A prober that runs the model once, on four pictures; one by one where it does not take them together.

    A model that cannot be run so teaches nothing.
    """

    def probe(model: onnx.ModelProto, input_shape: tuple[int, ...], name: str) -> Array | None:
        tapped = onnx.ModelProto()
        tapped.CopyFrom(model)
        del tapped.graph.output[:]
        tapped.graph.output.append(onnx.ValueInfoProto(name=name))
        pictures = pictures_of_ranges(input_shape[1:])
        fixed = model.graph.input[0].type.tensor_type.shape.dim[0].dim_value
        for batch in (fixed or None, 1):
            try:
                (values,) = runtime.runner(tapped, label="model", batch=batch)(pictures)
            except BackendError:
                if batch is not None:
                    return None
            else:
                return np.asarray(values)
        return None

    return probe
