"""The batch axis of a file: opened where that changes nothing, and shared by what computes sizes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx

from camrt.engine.images.preprocess import Preprocessing
from camrt.engine.noise import normal_noise
from camrt.engine.preprocess_adaptation import expected_levels
from camrt.engine.runtime import Backend
from camrt.engine.runtime.shaped_runner import ShapeCheckedRunner
from camrt.errors import BackendError, ModelFileError
from camrt.export.geometry.builtin_preprocessing import BuiltinPreprocessing
from camrt.export.graph.index import Graph, ShapeObserver
from camrt.export.rewrites.batch_axis import has_shape_nodes, open_batch, share_sizes, simplify_reshapes
from camrt.export.rewrites.constant_branches import inline_constant_branches
from camrt.export.rewrites.image_gathers import has_image_gathers, rewrite_image_gathers
from camrt.export.rewrites.interface import LOGITS, Interface

__all__ = ["resolve_batch_axis"]

# A batch size that no other axis of a classifier is likely to have: what follows it is the batch axis.
PROBE_BATCH = 5
# Largest relative difference between a graph and the same graph with its batch axis opened.
RESULT_TOLERANCE = 1e-4


def resolve_batch_axis(
    model: onnx.ModelProto,
    interface: Interface,
    runtime: Backend,
    steps: Preprocessing | None,
    watch: ShapeObserver,
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
            fits = has_logit_shape(graph, interface) or not has_logit_shape(index(1), interface)
        except ModelFileError:
            fits = False
        if not fits:
            interface = replace(interface, batch=1)
            notes.append("the file declares an open batch axis, but its inside holds for one image only")
    batch = interface.batch
    if batch is not None:
        rewrite_image_gathers(model, [index(batch)])
        fixed = onnx.ModelProto()
        fixed.CopyFrom(model)
        if fixed_size:
            simplify_reshapes(model, index(batch))
        if has_shape_nodes(model):
            share_sizes(model, [index(batch)], fixed_size=fixed_size)
            inline_constant_branches(model, index(batch))
        open_batch(model, interface)
        if is_same_when_opened(fixed, model, interface, size, runtime):
            notes.append(f"the batch axis, fixed at {interface.batch} in the file, was opened")
            interface = replace(interface, batch=None)
            return interface, index(PROBE_BATCH), notes
        model.CopyFrom(fixed)
        if has_shape_nodes(model):
            share_sizes(model, [index(batch)], fixed_size=fixed_size, batch_is_fixed=True)
            inline_constant_branches(model, index(batch))
        notes.append(f"the batch axis is fixed at {interface.batch} and could not be opened")
        return interface, index(batch), notes
    if fixed_size:
        simplify_reshapes(model, graph)
        graph = index(PROBE_BATCH)
    branched = True
    while branched and has_shape_nodes(model):
        share_sizes(model, [graph, graph.at_other_batch()], fixed_size=fixed_size)
        branched = inline_constant_branches(model, index(PROBE_BATCH))
        graph = index(PROBE_BATCH)
    if has_image_gathers(model) and rewrite_image_gathers(model, index_at_sizes(graph, interface)):
        graph = index(PROBE_BATCH)
    return interface, graph, notes


def index_at_sizes(graph: Graph, interface: Interface) -> list[Graph]:
    """A model indexed at two batch sizes, and at a second size of images where that is open."""
    graphs = [graph, graph.at_other_batch()]
    if not interface.fixed_size:
        batch, channels, height, width = graph.input_shape
        larger = (batch, channels, interface.height or height + 64, interface.width or width + 96)
        graphs.append(Graph(graph.model, larger))
    return graphs


def has_logit_shape(graph: Graph, interface: Interface) -> bool:
    """Whether the graph is known to give logits for the batch size it was indexed at."""
    graph.observe(LOGITS)
    cast = graph.producer(LOGITS)
    wanted = (graph.input_shape[0], interface.num_classes)
    return cast is not None and graph.shape(cast.input[0]) == wanted


def is_same_when_opened(
    fixed: onnx.ModelProto,
    opened: onnx.ModelProto,
    interface: Interface,
    size: tuple[int, int] | None,
    runtime: Backend,
) -> bool:
    """Whether the opened graph gives a large batch what the fixed one gives it piece by piece."""
    assert interface.batch is not None
    count = 2 * interface.batch + 1
    images = normal_noise(
        interface.probe_shape(count, size), levels=expected_levels(interface, BuiltinPreprocessing())
    )
    shapes = {LOGITS: (interface.num_classes,)}
    whole = ShapeCheckedRunner(runtime.make_runner(fixed, label="model", batch=interface.batch), shapes)
    expected = whole(images, [LOGITS])[0]
    try:
        Graph(opened, interface.probe_shape(PROBE_BATCH, size))
        actual = runtime.make_runner(opened, label="model with an open batch axis")(images, [LOGITS])[0]
    except (BackendError, ModelFileError):
        return False
    if actual.shape != expected.shape or not expected.size or not np.isfinite(expected).all():
        return False
    return bool(
        np.abs(actual - expected).max() <= RESULT_TOLERANCE * max(float(np.abs(expected).max()), 1e-6)
    )
