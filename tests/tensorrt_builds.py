"""Builds TensorRT engines without a GPU, of the graphs that a loaded model is run by.

TensorRT for RTX parses ONNX and builds engines where there is no card. It stands in for TensorRT proper: what
it refuses, TensorRT is expected to refuse.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import tensorrt_rtx_bindings as trt

import camrt
from camrt.engine.backends.onnxruntime import OnnxRuntime, OnnxRuntimeRunner
from camrt.errors import AdjointError, MethodError

__all__ = ["BATCHES", "Ran", "build", "graphs_of"]

Array = np.ndarray[Any, Any]
BATCHES = (1, 8, 32)
"""The least, usual and most rows of an engine."""
ASKED = ("pixab", "ablation", "gradcam", "gradient", "guided-backprop")
"""Methods that between them need every graph there is."""


@dataclass(eq=False)
class Ran:
    """A graph that was run.

    Attributes:
        label: What it is.
        model: The graph.
        batch: Its fixed batch size, None when it is open.
        shapes: Of its inputs in one run, without the batch axis, by name.
    """

    label: str
    model: onnx.ModelProto
    batch: int | None
    shapes: dict[str, tuple[int, ...]]


class Spy:
    """A runner that notes the shapes of what it is given."""

    def __init__(self, runner: OnnxRuntimeRunner, note: Ran) -> None:
        self.runner = runner
        self.outputs = runner.outputs
        self._note = note

    def __call__(
        self, batch: Array, fetch: Sequence[str] | None = None, beside: Mapping[str, Array] | None = None
    ) -> list[Array]:
        first = self._note.model.graph.input[0].name
        given = {first: batch, **(beside or {})}
        self._note.shapes.update({name: values.shape[1:] for name, values in given.items()})
        return self.runner(batch, fetch, beside)


def graphs_of(
    monkeypatch: pytest.MonkeyPatch, path: Path, size: tuple[int, int], **options: Any
) -> list[Ran]:
    """Every graph that ran while a model was loaded and explained in all ways it admits.

    Args:
        monkeypatch: Replaces the runtime's way of making graphs ready.
        path: The model file.
        size: (H, W) of the pictures.
        options: Of `camrt.load`.
    """
    made: list[Ran] = []
    ready = OnnxRuntime.runner

    def runner(self: OnnxRuntime, model: onnx.ModelProto, *, label: str, batch: int | None = None) -> Spy:
        own = onnx.ModelProto()
        own.CopyFrom(model)
        made.append(Ran(label, own, batch, {}))
        return Spy(ready(self, model, label=label, batch=batch), made[-1])

    monkeypatch.setattr(OnnxRuntime, "runner", runner)
    monkeypatch.setattr(OnnxRuntime, "scatters", False)
    engine = camrt.load(path, **options)
    batch = np.random.default_rng(0).standard_normal((2, 3, *size)).astype(np.float32)
    for method in (*ASKED, *(("calm",) if engine.interface.joint else ())):
        try:
            engine.explain(batch, method)
        except (AdjointError, MethodError):  # this model has no such question
            continue
    return [ran for ran in made if ran.shapes]


class Messages(trt.ILogger):
    """Keeps what TensorRT calls an error."""

    def __init__(self) -> None:
        trt.ILogger.__init__(self)
        self.errors: list[str] = []

    def log(self, severity: Any, message: str) -> None:
        if severity <= trt.ILogger.Severity.ERROR:
            self.errors.append(message)


def build(ran: Ran, change: Callable[[onnx.ModelProto], None] | None = None) -> int:
    """Parses a graph and builds its engine, with a profile of `BATCHES` where the batch is open.

    Args:
        ran: The graph.
        change: Alters the graph first.

    Returns:
        Bytes of the engine.
    """
    model = onnx.ModelProto()
    model.CopyFrom(ran.model)
    if change is not None:
        change(model)
    messages = Messages()
    builder = trt.Builder(messages)
    network = builder.create_network(0)
    parser = trt.OnnxParser(network, messages)
    if not parser.parse(model.SerializeToString()):
        errors = [parser.get_error(i).desc() for i in range(parser.num_errors)]
        raise AssertionError(f"TensorRT does not parse the {ran.label}: {errors[:3]}")
    config = builder.create_builder_config()
    profile = builder.create_optimization_profile()
    for number in range(network.num_inputs):
        given = network.get_input(number)
        if -1 in given.shape:
            rows = BATCHES if given.shape[0] == -1 else (ran.batch,) * 3
            profile.set_shape(given.name, *((count, *ran.shapes[given.name]) for count in rows))
    config.add_optimization_profile(profile)
    plan = builder.build_serialized_network(network, config)
    assert plan is not None, f"TensorRT does not build the {ran.label}: {messages.errors[-1:]}"
    return int(plan.nbytes)
