"""From a graph to a TensorRT plan."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, cast, get_args

import onnx
from onnx import TensorProto

from camrt.engine.caller_warnings import warn_caller
from camrt.engine.tensorrt_plans.bindings import Bindings, TensorRTModule
from camrt.errors import BackendError, ClampedConstantWarning, InputError
from camrt.export.adjoint import is_gradient
from camrt.export.rewrites.float_types import cast_floats, largest_finite

__all__ = ["BuildOptions", "PlanBuilder", "Precision", "cast_to_precision", "check_precision"]

Precision: TypeAlias = Literal["fp32", "fp16", "bf16"]
ELEMENT_TYPES: Mapping[str, int] = {
    "fp32": TensorProto.FLOAT,
    "fp16": TensorProto.FLOAT16,
    "bf16": TensorProto.BFLOAT16,
}


@dataclass(frozen=True)
class BuildOptions:
    """How plans are built.

    Attributes:
        precision: What graphs compute in. It is put into the graph: TensorRT takes it from there. Graphs of
            gradients stay in float32, whose range they need.
        batches: The least, usual and most rows of a run. TensorRT chooses what is fastest for the usual.

    Raises:
        InputError: One of them makes no sense.
    """

    precision: Precision = "fp32"
    batches: tuple[int, int, int] = (1, 8, 32)

    def __post_init__(self) -> None:
        check_precision(self.precision)
        whole = all(isinstance(rows, int) and not isinstance(rows, bool) for rows in self.batches)
        if (
            len(self.batches) != 3
            or not whole
            or not 1 <= self.batches[0] <= self.batches[1] <= self.batches[2]
        ):
            raise InputError(
                f"batches={self.batches!r} must be three whole numbers above zero that do not fall: the "
                "least, usual and most rows of a run"
            )


def check_precision(precision: str) -> Precision:
    """A precision by its name.

    Raises:
        InputError: There is none of that name.
    """
    if precision not in get_args(Precision):
        raise InputError(
            f"precision={precision!r} must be one of {', '.join(map(repr, get_args(Precision)))}"
        )
    return cast(Precision, precision)


class PlanBuilder:
    """Builds plans, one after another, with one timing cache.

    Args:
        trt: TensorRT.
        recipe: How.
        cache: A timing cache of earlier builds; what does not fit this TensorRT is left out.
    """

    def __init__(self, trt: Bindings, recipe: BuildOptions, cache: bytes = b"") -> None:
        self._trt = trt.module
        self._times = trt.flavour == "tensorrt"  # TensorRT for RTX times nothing when it builds
        self._recipe = recipe
        self._messages = _logger(trt.module)
        self._builder = trt.module.Builder(self._messages)
        self.cache = cache

    def build(
        self, model: onnx.ModelProto, *, label: str, shapes: Mapping[str, tuple[int, ...]], batch: int | None
    ) -> bytes:
        """The plan of a graph, whose inputs and outputs keep their names.

        Args:
            model: The graph; it is not changed.
            label: What it is, for error messages.
            shapes: Of its inputs by name, without the batch axis.
            batch: Its fixed batch size; None where it is open.

        Raises:
            BackendError: TensorRT refuses the graph.
        """
        self._messages.errors.clear()
        network = self._builder.create_network(0)
        parser = self._trt.OnnxParser(network, self._messages)
        if not parser.parse(cast_to_precision(model, self._recipe.precision).SerializeToString()):
            said = "; ".join(parser.get_error(number).desc() for number in range(parser.num_errors))
            raise BackendError(f"TensorRT does not understand the {label}: {said}")
        config = self._builder.create_builder_config()
        if self._times:
            config.set_timing_cache(config.create_timing_cache(self.cache), True)
        profile = self._builder.create_optimization_profile()
        for number in range(network.num_inputs):
            given = network.get_input(number)
            if -1 in given.shape:
                rows = self._recipe.batches if batch is None else (batch,) * 3
                profile.set_shape(given.name, *((count, *shapes[given.name]) for count in rows))
        config.add_optimization_profile(profile)
        plan = self._builder.build_serialized_network(network, config)
        if plan is None:
            said = "; ".join(self._messages.errors[-3:]) or "it does not say why"
            raise BackendError(f"TensorRT cannot build the {label}: {said}")
        if self._times:
            self.cache = bytes(config.get_timing_cache().serialize())
        return bytes(plan)


def cast_to_precision(model: onnx.ModelProto, precision: Precision) -> onnx.ModelProto:
    """A graph that computes in a precision; that of a gradient stays as it is."""
    if precision == "fp32" or is_gradient(model):
        return model
    own = onnx.ModelProto()
    own.CopyFrom(model)
    clamped = cast_floats(own, ELEMENT_TYPES[precision])
    if clamped:
        named = ", ".join(map(repr, clamped[:3])) + (", ..." if len(clamped) > 3 else "")
        warn_caller(
            f"{precision} ends at {largest_finite(ELEMENT_TYPES[precision]):g}: larger numbers in "
            f"{len(clamped)} of the "
            f"model's constants ({named}) became that",
            ClampedConstantWarning,
        )
    return own


def _logger(trt: TensorRTModule) -> Any:
    """A TensorRT logger that keeps errors."""

    class Messages(trt.ILogger):  # type: ignore[misc, name-defined]  # made of a module that is known only now
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: list[str] = []

        def log(self, severity: Any, message: str) -> None:
            if severity <= trt.ILogger.Severity.ERROR:
                self.errors.append(message)

    return Messages()
