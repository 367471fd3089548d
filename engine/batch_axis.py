"""The batch axis of a file: opened where that changes nothing, and shared by what computes sizes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx

from camrt.engine.backends import Backend
from camrt.engine.backends.shaped import ShapedRunner
from camrt.engine.matching import levels_of
from camrt.engine.noise import noise
from camrt.engine.preprocessing import Preprocessing
from camrt.errors import BackendError, ModelFileError
from camrt.export.batching import computes_shapes, open_batch, share_sizes, simplify_reshapes
from camrt.export.branches import take_branches
from camrt.export.front import Front
from camrt.export.graph import Graph, Observer
from camrt.export.interface import LOGITS, Interface
from camrt.export.picture_gathers import gather_by_picture, may_count_pictures

__all__ = ["settle_batch"]

# A batch size that no other axis of a classifier is likely to have: what follows it is the batch axis.
PROBE_BATCH = 5
# Largest relative difference between a graph and the same graph with its batch axis opened.
SAME_RESULT = 1e-4


def settle_batch(
    model: onnx.ModelProto,
    interface: Interface,
    runtime: Backend,
    steps: Preprocessing | None,
    watch: Observer,
) -> tuple[Interface, Graph, list[str]]:
    """Opens a fixed batch axis where that gives the same results, and indexes the graph."""
    size = None if steps is None else steps.size
    fixed_size = interface.fixed_size

    def index(batch: int) -> Graph:
        return Graph(model, interface.probe_shape(batch, size), watch)

    notes: list[str] = []
    if interface.batch is None:
        try:
            graph = index(PROBE_BATCH)
            fits = gives_logits(graph, interface) or not gives_logits(index(1), interface)
        except ModelFileError:
            fits = False
        if not fits:
            interface = replace(interface, batch=1)
            notes.append("the file declares an open batch axis, but its inside holds for one picture only")
    batch = interface.batch
    if batch is not None:
        gather_by_picture(model, [index(batch)])
        fixed = onnx.ModelProto()
        fixed.CopyFrom(model)
        if fixed_size:
            simplify_reshapes(model, index(batch))
        if computes_shapes(model):
            share_sizes(model, [index(batch)], fixed_size=fixed_size)
            take_branches(model, index(batch))
        open_batch(model, interface)
        if same_when_opened(fixed, model, interface, size, runtime):
            notes.append(f"the batch axis, fixed at {interface.batch} in the file, was opened")
            interface = replace(interface, batch=None)
            return interface, index(PROBE_BATCH), notes
        model.CopyFrom(fixed)
        if computes_shapes(model):
            share_sizes(model, [index(batch)], fixed_size=fixed_size, batch_is_fixed=True)
            take_branches(model, index(batch))
        notes.append(f"the batch axis is fixed at {interface.batch} and could not be opened")
        return interface, index(batch), notes
    if fixed_size:
        simplify_reshapes(model, graph)
        graph = index(PROBE_BATCH)
    branched = True
    while branched and computes_shapes(model):
        share_sizes(model, [graph, graph.twin()], fixed_size=fixed_size)
        branched = take_branches(model, index(PROBE_BATCH))
        graph = index(PROBE_BATCH)
    if may_count_pictures(model) and gather_by_picture(model, at_several_sizes(graph, interface)):
        graph = index(PROBE_BATCH)
    return interface, graph, notes


def at_several_sizes(graph: Graph, interface: Interface) -> list[Graph]:
    """A model indexed at two batch sizes, and at a second size of pictures where that is open."""
    graphs = [graph, graph.twin()]
    if not interface.fixed_size:
        batch, channels, height, width = graph.input_shape
        larger = (batch, channels, interface.height or height + 64, interface.width or width + 96)
        graphs.append(Graph(graph.model, larger))
    return graphs


def gives_logits(graph: Graph, interface: Interface) -> bool:
    """Whether the graph is known to give logits for the batch size it was indexed at."""
    graph.observe(LOGITS)
    cast = graph.producer(LOGITS)
    wanted = (graph.input_shape[0], interface.num_classes)
    return cast is not None and graph.shape(cast.input[0]) == wanted


def same_when_opened(
    fixed: onnx.ModelProto,
    opened: onnx.ModelProto,
    interface: Interface,
    size: tuple[int, int] | None,
    runtime: Backend,
) -> bool:
    """Whether the opened graph gives a large batch what the fixed one gives it piece by piece."""
    assert interface.batch is not None
    count = 2 * interface.batch + 1
    pictures = noise(interface.probe_shape(count, size), levels=levels_of(interface, Front()))
    shapes = {LOGITS: (interface.num_classes,)}
    whole = ShapedRunner(runtime.runner(fixed, label="model", batch=interface.batch), shapes)
    expected = whole(pictures, [LOGITS])[0]
    try:
        Graph(opened, interface.probe_shape(PROBE_BATCH, size))
        actual = runtime.runner(opened, label="model with an open batch axis")(pictures, [LOGITS])[0]
    except (BackendError, ModelFileError):
        return False
    if actual.shape != expected.shape or not expected.size or not np.isfinite(expected).all():
        return False
    return bool(np.abs(actual - expected).max() <= SAME_RESULT * max(float(np.abs(expected).max()), 1e-6))
