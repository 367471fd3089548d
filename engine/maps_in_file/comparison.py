"""Whether a file with maps gives what the model and the engine give."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort

from camrt.engine.caller_warnings import warn_caller
from camrt.engine.engine import Engine
from camrt.engine.methods import Method
from camrt.engine.noise import normal_noise
from camrt.engine.queries import Need
from camrt.engine.runtime.ort_cpu import FAILURES
from camrt.engine.runtime.worker_threads import run_with_deadline
from camrt.errors import RoundingWarning, WrongAnswerError
from camrt.export.onnx_sessions import describe_failure, open_session
from camrt.export.outputs.declared_maps import DeclaredMaps
from camrt.export.rewrites.input_form import INTEGER_RANGES
from camrt.export.rewrites.interface import Interface

__all__ = ["OwnFile", "compare_with_engine"]

Array = npt.NDArray[Any]
MAP_TOLERANCE = 2e-3  # of maps in [0, 1]
SCORE_ROUNDING = (
    1e-4  # of scores of about one: what is left of two that are nearly the same has no more digits
)
SUM_ROUNDING = 1e-6  # of a sum over channels, relative to its terms
MOST_TOLERANCE = 0.1
ROUNDING = 1e-5  # of an output's largest number: ONNX Runtime optimises another graph otherwise
PIXEL_TOLERANCE = 0.05  # of gradients at pixels: rounding turns some of a network's many steps on or off
TRIED_IMAGES = 2


@dataclass(frozen=True)
class OwnFile:
    """A model before maps are added.

    Attributes:
        content: Its bytes.
        input_name: Its input.
        outputs: Its outputs.
        batch: Its batch size; None when it is open.
    """

    content: bytes
    input_name: str
    outputs: tuple[str, ...]
    batch: int | None

    @classmethod
    def of(cls, model: onnx.ModelProto) -> OwnFile:
        """What is remembered of a model."""
        given = model.graph.input[0]
        axes = given.type.tensor_type.shape.dim
        return cls(
            model.SerializeToString(),
            given.name,
            tuple(value.name for value in model.graph.output),
            (axes[0].dim_value if axes else 0) or None,
        )


def compare_with_engine(
    content: bytes,
    own: OwnFile,
    engine: Engine,
    methods: Sequence[Method],
    declared: DeclaredMaps,
) -> None:
    """Runs a file with maps on noise.

    Args:
        content: The file.
        own: What it was made of.
        engine: Its engine.
        methods: What the file holds, in order.
        declared: Likewise.

    Raises:
        WrongAnswerError: An output of the model has other numbers, or a map is another than the engine's.
        DeadlineError: It took too long.
    """
    interface = engine.interface
    size = None if engine.preprocessing is None else engine.preprocessing.size
    shape = interface.probe_shape(own.batch or TRIED_IMAGES, size)
    images = normal_noise(shape, levels=engine.front.levels)
    feeds = {own.input_name: as_file_input(images, interface)}
    names = own.outputs
    plain = run(own.content, names, feeds)
    classes = np.arange(len(images)) % engine.num_classes
    if declared.target is not None:
        feeds[declared.target] = classes[:, None] if declared.several else classes
    found = run(content, [*names, *(one.saliency for one in declared.maps)], feeds)
    for name, before, after in zip(names, plain, found, strict=False):
        if np.array_equal(before, after, equal_nan=before.dtype.kind == "f"):
            continue
        apart = relative_difference(before, after)
        if not apart <= ROUNDING:
            raise WrongAnswerError(
                f"with maps in it the file's output {name!r} has other numbers than before, by {apart:.2g} "
                "of the largest"
            )
        warn_caller(
            f"with maps in it ONNX Runtime rounds the file's output {name!r} otherwise, by {apart:.2g} of "
            "its largest number: it puts nodes together in another order",
            RoundingWarning,
        )
    asked = None if declared.target is None else classes
    batch = images_as_taken(images, interface)
    terms = None
    if any(Need.GRADIENTS in method.needs for method in methods):
        terms = engine.explain(batch, "gradcam-elementwise", targets=asked).raw
    for method, maps in zip(methods, found[len(names) :], strict=True):
        expected = engine.explain(batch, method=method, targets=asked)
        errors = np.abs(maps.reshape(expected.maps.shape) - expected.maps).max(axis=(-2, -1))
        if not (errors <= allowed_errors(method, expected.raw, terms)).all():
            raise WrongAnswerError(
                f"{method.name}: the file's map is off by {errors.max():.2g} from the engine's, on noise"
            )


def relative_difference(before: Array, after: Array) -> float:
    """How far two outputs are apart, of the largest number; infinity where they cannot be compared."""
    if before.dtype != after.dtype or before.shape != after.shape or before.dtype.kind != "f":
        return math.inf
    if not np.array_equal(np.isfinite(before), np.isfinite(after)):
        return math.inf
    there = np.isfinite(before)
    largest = float(np.abs(before[there]).max(initial=0.0))
    apart = float(np.abs(before[there].astype(np.float64) - after[there]).max(initial=0.0))
    return apart / largest if largest else math.inf


def allowed_errors(method: Method, raw: Array, terms: Array | None) -> Array:
    """The largest error of each map.

    Args:
        method: Which one.
        raw: Its raw maps (..., h, w).
        terms: For methods by gradients, the sums over channels of what is positive of gradient times
            activation. Where they cancel, as HiResCAM's do behind a LayerNorm, rounding is all that is left.
    """
    if Need.PIXELS in method.needs:
        return np.full(raw.shape[:-2], PIXEL_TOLERANCE)
    largest = np.maximum(np.abs(raw).max(axis=(-2, -1)), 1e-30)
    if Need.ALTERATIONS in method.needs:
        rounded = SCORE_ROUNDING / largest
    elif Need.GRADIENTS in method.needs and terms is not None:
        rounded = SUM_ROUNDING * terms.max(axis=(-2, -1)) / largest
    else:
        rounded = np.zeros_like(largest)
    allowed: Array = np.clip(rounded, MAP_TOLERANCE, MOST_TOLERANCE)
    return allowed


def images_as_taken(images: Array, interface: Interface) -> Array:
    """Images (N, C, H, W) as the file sees them, once rounded to its own type."""
    if interface.element in INTEGER_RANGES:
        return np.clip(np.floor(images + 0.5), *INTEGER_RANGES[interface.element])
    kind = onnx.helper.tensor_dtype_to_np_dtype(interface.element)
    return images.astype(kind).astype(np.float32)


def as_file_input(images: Array, interface: Interface) -> Array:
    """Images (N, C, H, W) as the file's own input."""
    kind = onnx.helper.tensor_dtype_to_np_dtype(interface.element)
    taken = images_as_taken(images, interface).astype(kind)
    return taken.transpose(0, 2, 3, 1) if interface.layout == "NHWC" else taken


def run(content: bytes, outputs: Sequence[str], feeds: dict[str, Array]) -> list[Array]:
    """A file's answers.

    Raises:
        WrongAnswerError: ONNX Runtime refuses it.
        DeadlineError: It took too long.
    """
    options = ort.SessionOptions()
    options.log_severity_level = 3
    running = ort.RunOptions()

    def stop() -> None:
        running.terminate = True

    try:
        session = open_session(content, options)
        found: list[Array] = run_with_deadline(lambda: session.run(list(outputs), feeds, running), stop)
    except FAILURES as error:
        raise WrongAnswerError(f"ONNX Runtime refuses the file: {describe_failure(error)}") from error
    return found
