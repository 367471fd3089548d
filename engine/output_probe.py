"""What a model answers to noise: where its graph does not say what its answers are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from camrt.engine.noise import normal_noise
from camrt.engine.runtime import Backend
from camrt.errors import BackendError
from camrt.export.outputs.score_kinds import Prober

__all__ = ["images_in_ranges", "make_output_prober"]

Array = npt.NDArray[Any]

# Mean and standard deviation of each image's numbers: a model may take images of any of these ranges, and
# what saturates on one does not on all.
NOISE_RANGES = ((0.0, 0.1), (0.0, 1.0), (0.0, 3.0), (128.0, 64.0))


def images_in_ranges(shape: Sequence[int]) -> Array:
    """(4, C, H, W) images of normal noise (C, H, W), each of another range."""
    drawn = normal_noise((len(NOISE_RANGES), *shape))
    return np.stack(
        [mean + deviation * one for (mean, deviation), one in zip(NOISE_RANGES, drawn, strict=True)]
    ).astype(np.float32)


def make_output_prober(runtime: Backend) -> Prober:
    """A prober that runs the model once, on four images; one by one where it does not take them together.

    It returns None for a model that cannot be run.
    """

    def probe(model: onnx.ModelProto, input_shape: tuple[int, ...], name: str) -> Array | None:
        tapped = onnx.ModelProto()
        tapped.CopyFrom(model)
        del tapped.graph.output[:]
        tapped.graph.output.append(onnx.ValueInfoProto(name=name))
        images = images_in_ranges(input_shape[1:])
        fixed = model.graph.input[0].type.tensor_type.shape.dim[0].dim_value
        for batch in (fixed or None, 1):
            try:
                (values,) = runtime.make_runner(tapped, label="model", batch=batch)(images)
            except BackendError:
                if batch is not None:
                    return None
            else:
                return np.asarray(values)
        return None

    return probe
