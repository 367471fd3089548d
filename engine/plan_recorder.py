"""Which graphs a model is run by, and on what shapes: found by running them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from typing_extensions import override

from camrt.engine.engine import Engine
from camrt.engine.runtime.ort_cpu import OnnxRuntime, OnnxRuntimeRunner
from camrt.errors import AdjointError, MethodError
from camrt.export.budget import reserve_array

__all__ = ["GraphRecorder", "RecordedGraph", "run_every_graph"]

Array = npt.NDArray[Any]
FORWARD_METHODS = ("pixab", "ablation")
"""Methods that between them need every graph without a gradient."""
GRADIENT_METHODS = ("gradcam", "gradient")
"""Methods that between them need every graph of gradients but the guided ones."""


@dataclass(eq=False)
class RecordedGraph:
    """A graph that was made ready.

    Attributes:
        label: What it is.
        model: The graph.
        batch: Its fixed batch size, None where it is open.
        shapes: Of its inputs when it was run, without the batch axis, by name; none when it was not run.
    """

    label: str
    model: onnx.ModelProto
    batch: int | None
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)


class GraphRecorder(OnnxRuntime):
    """ONNX Runtime on the CPU, which notes the graphs it runs; it makes them as TensorRT needs them."""

    supports_scatter_add = False
    splits_last_layer = False

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._made: list[RecordedGraph] = []

    @override
    def make_runner(self, model: onnx.ModelProto, *, label: str, batch: int | None = None) -> Any:
        own = onnx.ModelProto()
        own.CopyFrom(model)
        self._made.append(RecordedGraph(label, own, batch))
        return RecordingRunner(super().make_runner(model, label=label, batch=batch), self._made[-1])

    @property
    def graphs(self) -> Iterator[RecordedGraph]:
        """The graphs that were run."""
        return (ran for ran in self._made if ran.shapes)


class RecordingRunner:
    """A runner that notes the shapes of what it is given."""

    def __init__(self, runner: OnnxRuntimeRunner, note: RecordedGraph) -> None:
        self._runner = runner
        self._note = note
        self.outputs = runner.outputs

    def allocate_rows(self, shape: tuple[int, ...]) -> Array:
        """Allocates a buffer for rows that this runner is given."""
        return self._runner.allocate_rows(shape)

    def __call__(
        self,
        batch: Array,
        fetch: Sequence[str] | None = None,
        extra_inputs: Mapping[str, Array] | None = None,
    ) -> list[Array]:
        given = {self._note.model.graph.input[0].name: batch, **(extra_inputs or {})}
        self._note.shapes.update({name: tuple(values.shape[1:]) for name, values in given.items()})
        return self._runner(batch, fetch, extra_inputs)


def run_every_graph(engine: Engine, size: tuple[int, int], *, gradients: bool, guided: bool = False) -> None:
    """Runs every graph of an engine once, on noise.

    Args:
        engine: The engine.
        size: (H, W) of the images.
        gradients: Whether those of gradients too, where the model has any.
        guided: Whether that of guided back-propagation too.
    """
    shape = (2, engine.interface.channels, *size)
    reserve_array(shape, "the batch that a plan is tried on")
    batch = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    names = [*FORWARD_METHODS, *(GRADIENT_METHODS if gradients else ()), *(("guided",) if guided else ())]
    if engine.has_joint:
        names.append("calm")
    for method in names:
        try:
            engine.explain(batch, method)
        except (AdjointError, MethodError):  # the model has no such question
            continue
