"""Compares what each graph answers first with what ONNX Runtime answers on the CPU.

A runtime may read a graph in another way than it is meant, or have a fault of its own, and answers that are
wrong look like others. So where another runtime than ONNX Runtime on the CPU runs a graph, one row of the
first batch is run by that too, and what disagrees is an error.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from camrt.engine.runtime import Backend, Runner
from camrt.engine.runtime.wrapped_runner import WrappedRunner
from camrt.errors import WrongAnswerError
from camrt.export.adjoint import is_gradient
from camrt.export.graph.operators import ROUNDING
from camrt.kernels.fork_safety import ForkSafeLock

__all__ = ["FirstRunCheck", "FirstRunChecked"]

# A last bit before a rounding to 8 bits is a step behind it: answers of MobileNetV2 were off by 0.04, and the
# gradient of its image, whose way is open or closed by such steps, by 0.37. What is read wrongly is off by 1.
QUANTISED_ANSWER, QUANTISED_GRADIENT = 0.2, 0.7
NEGLIGIBLE = 1e-6  # errors of numbers of this size are none: a gradient may be zero but for rounding


class FirstRunChecked:
    """Makes the runners of a runtime, whose first answers are compared.

    Args:
        runtime: On the host.
        reference: ONNX Runtime on the CPU.
        tolerance: Largest error of an output, as a share of its size (both by sums of squares); graphs that
            round are allowed more.
    """

    def __init__(self, runtime: Backend, reference: Backend, tolerance: float) -> None:
        self.name = runtime.name
        self.precision = runtime.precision
        self.supports_scatter_add = runtime.supports_scatter_add
        self.splits_last_layer = runtime.splits_last_layer
        self.first_run_tolerance: float | None = tolerance
        self.device = runtime.device
        self._runtime = runtime
        self._reference = reference
        self._tolerance = tolerance

    def make_runner(self, model: onnx.ModelProto, *, label: str, batch: int | None = None) -> FirstRunCheck:
        """Makes a graph ready to run, see `Backend`."""
        runner = self._runtime.make_runner(model, label=label, batch=batch)
        what = f"{self.name} does not answer what onnxruntime answers for the {label}"
        return FirstRunCheck(
            runner,
            lambda: self._reference.make_runner(model, label=label, batch=batch),
            max(self._tolerance, quantised_tolerance(model)),
            what,
        )


class FirstRunCheck(WrappedRunner):
    """A runner whose first answers are compared.

    Args:
        runner: It.
        reference: Makes what it is compared with, once.
        tolerance: See `FirstRunChecked`.
        what: What is wrong where they disagree, for the message.
    """

    def __init__(self, runner: Runner, reference: Callable[[], Runner], tolerance: float, what: str) -> None:
        super().__init__(runner)
        self._reference: Callable[[], Runner] | None = reference
        self._tolerance = tolerance
        self._what = what
        self._lock = ForkSafeLock()

    def __call__(
        self, batch: Any, fetch: Sequence[str] | None = None, extra_inputs: Mapping[str, Any] | None = None
    ) -> list[Any]:
        """Runs a batch, see `camrt.engine.runtime.Runner`.

        Raises:
            WrongAnswerError: The answers are not those that they should be.
        """
        if self._reference is not None and len(batch):
            with self._lock:
                self._compare(batch, extra_inputs)
        return super().__call__(batch, fetch, extra_inputs)

    def _compare(self, batch: Any, extra_inputs: Mapping[str, Any] | None) -> None:
        if self._reference is None:  # another thread has
            return
        row = batch[:1], None, {name: values[:1] for name, values in (extra_inputs or {}).items()}
        for name, found, expected in zip(
            self.outputs, super().__call__(*row), self._reference()(*row), strict=True
        ):
            error = size_of_error(found, expected)
            if not error <= self._tolerance:
                how = f"is off by {error:.2g} of its size, and {self._tolerance:g} is allowed"
                if error == math.inf:
                    how = "has another shape, or other numbers that are not finite"
                raise WrongAnswerError(
                    f"{self._what}: {name!r} {how}; run the model in another precision, or with "
                    "backend='onnxruntime'"
                )
        self._reference = None


def quantised_tolerance(model: onnx.ModelProto) -> float:
    """What a graph that rounds between its layers is allowed; zero for others."""
    # What is put in front to make whole numbers of images rounds nothing that is compared.
    if all(node.op_type not in ROUNDING or node.output[0].startswith("camrt_") for node in model.graph.node):
        return 0.0
    return QUANTISED_GRADIENT if is_gradient(model) else QUANTISED_ANSWER


def size_of_error(found: npt.NDArray[Any], expected: npt.NDArray[Any]) -> float:
    """The error of an answer as a share of its size; infinity where shapes differ, or what is finite."""
    if np.shape(found) != np.shape(expected):
        return math.inf
    wide = np.asarray(expected, np.float64)
    finite = np.isfinite(wide)
    if (np.isfinite(found) != finite).any():
        return math.inf
    error = np.where(finite, found, 0) - np.where(finite, wide, 0)
    size = np.sqrt(np.square(wide[finite]).sum()) + NEGLIGIBLE * np.sqrt(finite.sum())
    return float(np.sqrt(np.square(error).sum()) / size) if error.any() else 0.0
