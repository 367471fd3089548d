"""A model cut at a tensor: what its trunk pass gives, and its head in the cheapest exact form."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, replace

import numpy as np
import onnx

from camrt.engine.heads import FactoredHead, GenericHead, Head
from camrt.engine.heads.adjoint import HeadAdjoint
from camrt.engine.heads.base import QueryContext
from camrt.engine.heads.calm import CalmHead, agrees_with_graph
from camrt.engine.heads.comparison import ReferenceHead
from camrt.engine.heads.contributions import Contributions
from camrt.engine.heads.dense_start import DensePhiAblation
from camrt.engine.noise import normal_noise
from camrt.engine.passes import PassCounts
from camrt.engine.queries import Need
from camrt.engine.runtime import Backend, Runner
from camrt.engine.runtime.lazy_runner import LazyRunner
from camrt.engine.runtime.shaped_runner import ShapeCheckedRunner
from camrt.engine.scores import ScoreReader
from camrt.errors import BackendError
from camrt.export.adjoint import GRADIENT, ReluRule, build_adjoint_model, find_feature_vectors
from camrt.export.graph.index import Graph
from camrt.export.graph.size_tensors import is_size_tensor
from camrt.export.heads.calm_ratio import is_ratio_of_cells
from camrt.export.heads.cut import (
    ACTIVATION,
    CELLS,
    FIRST_LAYER,
    JOINT,
    PHI,
    TargetTensor,
    add_taps,
    build_head_model,
    build_tapped_model,
    extra_input_name,
    find_crossing_tensors,
)
from camrt.export.heads.factoring import MAP, Factors, Unfactored, cell_layer, factor_head, tap_cells
from camrt.export.rewrites.input_form import IMAGES
from camrt.export.rewrites.interface import LOGITS, Interface

__all__ = ["Cut", "check_output_shapes", "make_cuts", "make_image_adjoints"]

# Vectors run at once through what follows a head's first layer: more gain nothing.
MAX_VECTORS = 1024


@dataclass(frozen=True)
class Cut:
    """Where a model was cut, and what it became.

    Attributes:
        target: The tensor.
        head: What follows the cut.
        taps: Outputs of the trunk pass by what they are: `ACTIVATION`, and where the head reads them `PHI`,
            `CELLS` and the tensors that go around the cut (`extra_input_name`).
        gradient_roles: Roles of the taps that only gradient methods fetch.
    """

    target: TargetTensor
    head: Head
    taps: Mapping[str, str]
    gradient_roles: frozenset[str] = frozenset()

    def required_taps(self, needs: Set[Need]) -> dict[str, str]:
        """The taps that a method of such needs reads."""
        left = set() if Need.GRADIENTS in needs else set(self.gradient_roles)
        left |= set() if Need.BOXES in needs else {CELLS}
        return {role: name for role, name in self.taps.items() if role not in left}


def make_cuts(
    model: onnx.ModelProto,
    graph: Graph,
    targets: list[TargetTensor],
    tensors: list[str],
    interface: Interface,
    runtime: Backend,
    batch_size: int,
    threads: int | None,
    unfactored: Mapping[int, str] | None = None,
    analyst: Backend | None = None,
) -> tuple[onnx.ModelProto, tuple[Cut, ...], tuple[ReferenceHead, ...]]:
    """Cuts a model at every target, and gives its trunk the outputs the heads read.

    Args:
        model: The standardised model.
        graph: Its index.
        targets: What was asked for.
        tensors: For each of them, the (N, K, h, w) tensor that stands for it in the graph.
        interface: The model's interface.
        runtime: What makes graphs ready to run.
        batch_size: Rows a batch.
        threads: Threads of the native kernels.
        unfactored: Why the heads of some targets, by their number, are run as graphs whatever their form.
        analyst: What makes the graphs to compare with; None for `runtime`.

    Returns:
        The whole model with its further outputs, the cuts, and for each the head's graph to compare with.
    """
    cuts, references, outputs = [], [], {}
    pooled: Factors | None = None
    for number, (target, tensor) in enumerate(zip(targets, tensors, strict=True)):
        around = find_crossing_tensors(graph, tensor)
        clean = all(map(is_size_tensor, around))
        factors: Factors | Unfactored
        if not clean:
            factors = Unfactored(
                f"{', '.join(map(repr, around))} go{'es' * (len(around) == 1)} around the cut"
            )
        elif unfactored is not None and number in unfactored:
            factors = Unfactored(unfactored[number])
        else:
            factors = factor_head(graph, tensor, interface.batch)
        start = find_adjoint_start(tensor, factors)
        vectors = () if not clean or start is None else find_feature_vectors(graph, start)
        extra_tensors = (*around, *vectors)
        shown = {ACTIVATION: tensor}
        shown |= {extra_input_name(i): name for i, name in enumerate(extra_tensors)}
        if start is not None and start != tensor:
            shown[FIRST_LAYER] = start
        if isinstance(factors, Factors):
            pooled = factors
            if factors.phi_tensor is not None:
                shown[PHI] = factors.phi_tensor
        taps = {role: role if number == 0 else f"{role}_{number}" for role in shown}
        outputs.update({taps[role]: name for role, name in shown.items()})
        head = make_head(
            model,
            graph,
            tensor,
            around,
            start,
            vectors,
            factors,
            interface,
            runtime,
            batch_size=batch_size,
            threads=threads,
        )
        head.has_joint = interface.joint is not None
        inner = {role: name for role, name in shown.items() if name not in (tensor, *around)}
        references.append(
            make_reference(
                model, graph, tensor, around, inner, head, interface, analyst or runtime, batch_size, threads
            )
        )
        residuals = frozenset(
            {FIRST_LAYER, *(extra_input_name(len(around) + i) for i in range(len(vectors)))}
        )
        cuts.append(Cut(target, head, taps, residuals))
    if interface.joint is not None:
        outputs[JOINT] = interface.joint
    tapped = build_tapped_model(model, graph, outputs, interface.batch)
    if runtime.taps_cell_contributions and len(cuts) == 1 and pooled is not None and interface.fixed_size:
        shape = graph.shape(tensors[0])
        assert shape is not None
        if tap_cells(tapped, pooled, (shape[2], shape[3])):
            cuts = [replace(cuts[0], taps={**cuts[0].taps, CELLS: CELLS})]
    return tapped, tuple(cuts), tuple(references)


def make_reference(
    model: onnx.ModelProto,
    graph: Graph,
    target: str,
    around: tuple[str, ...],
    shown: Mapping[str, str],
    head: Head,
    interface: Interface,
    runtime: Backend,
    batch_size: int,
    threads: int | None,
) -> ReferenceHead:
    """A head's graph to compare its answers with, made ready when it is first run.

    Args:
        model: The standardised model.
        graph: Its index.
        target: The tensor it is cut at.
        around: Tensors that go around the cut.
        shown: Further tensors of the trunk pass that the head reads, by their role.
        head: The head.
        interface: The model's interface.
        runtime: What makes graphs ready to run.
        batch_size: Rows a batch.
        threads: Threads of the native kernels.
    """
    whole = head.generic if isinstance(head, CalmHead) else head
    if type(whole) is GenericHead:
        return ReferenceHead(whole, whole.run_graph, has_own_gradient=False)

    def make() -> Runner:
        part = build_head_model(
            model, graph, target, LOGITS, input_name=MAP, batch=interface.batch, extra_inputs=around
        )
        add_taps(part, graph, shown)
        return make_logits_runner(part, "head", interface, runtime)

    def back() -> Runner:
        part = build_adjoint_model(
            model, graph, target, input_name=MAP, batch=interface.batch, extra_inputs=around
        )
        return make_adjoint_runner(part, "head's adjoint", interface, runtime)

    extra_inputs = tuple(extra_input_name(i) for i in range(len(around)))
    adjoint = HeadAdjoint(LazyRunner(back), extra_inputs)
    graphs = GenericHead(LazyRunner(make), adjoint, batch_size, "to compare with", threads, extra_inputs)
    known = isinstance(head, FactoredHead) and head.first_layer_is_known
    return ReferenceHead(graphs, graphs.run_graph, has_own_gradient=known)


def make_logits_runner(part: onnx.ModelProto, label: str, interface: Interface, runtime: Backend) -> Runner:
    """A graph that ends in the logits, made ready; it is held to as many classes as the model has.

    Args:
        part: The graph; its first output are the logits, others are further tensors.
        label: What it is, in messages.
        interface: The model's interface.
        runtime: What makes graphs ready to run.
    """
    logits = part.graph.output[0].name
    runner = runtime.make_runner(part, label=label, batch=interface.batch)
    return ShapeCheckedRunner(runner, {logits: (interface.num_classes,)})


def make_adjoint_runner(part: onnx.ModelProto, label: str, interface: Interface, runtime: Backend) -> Runner:
    """A gradient's graph, made ready; a gradient is held to the shape of what it is taken at.

    Args:
        part: The graph.
        label: What it is, in messages.
        interface: The model's interface.
        runtime: What makes graphs ready to run.
    """
    runner = runtime.make_runner(part, label=label, batch=interface.batch)
    return ShapeCheckedRunner(runner, {LOGITS: (interface.num_classes,), GRADIENT: None})


def find_adjoint_start(target: str, factors: Factors | Unfactored) -> str | None:
    """The tensor that gradients are followed back to: from there on the way is a weight, when not the target.

    None for a head of one linear layer, which has no graph run for it.
    """
    if isinstance(factors, Unfactored) or factors.phi != "identity":
        return target
    return None if factors.rest is None else factors.answer


def make_head(
    model: onnx.ModelProto,
    graph: Graph,
    target: str,
    around: tuple[str, ...],
    start: str | None,
    vectors: tuple[str, ...],
    factors: Factors | Unfactored,
    interface: Interface,
    runtime: Backend,
    *,
    batch_size: int,
    threads: int | None,
) -> Head:
    """The head of a cut, in its cheapest exact form; graphs are made ready when first needed."""

    def lazy(part: onnx.ModelProto | None, label: str) -> Runner | None:
        if part is None:
            return None
        return LazyRunner(lambda: runtime.make_runner(part, label=label, batch=interface.batch))

    def back() -> Runner:
        assert start is not None
        part = build_adjoint_model(
            model,
            graph,
            start,
            input_name=MAP,
            batch=interface.batch,
            extra_inputs=around,
            known_tensors=vectors,
            supports_scatter_add=runtime.supports_scatter_add,
        )
        return make_adjoint_runner(part, "head's adjoint", interface, runtime)

    extra_inputs = tuple(extra_input_name(i) for i in range(len(around)))
    given = tuple(extra_input_name(len(around) + i) for i in range(len(vectors)))
    adjoint = HeadAdjoint(
        LazyRunner(back), extra_inputs + given, FIRST_LAYER if start not in (None, target) else None
    )

    def generic(reason: str) -> GenericHead:
        def make() -> Runner:
            part = build_head_model(
                model, graph, target, LOGITS, input_name=MAP, batch=interface.batch, extra_inputs=around
            )
            return make_logits_runner(part, "head", interface, runtime)

        return GenericHead(LazyRunner(make), adjoint, batch_size, reason, threads, extra_inputs)

    if interface.joint is not None:
        return make_calm_head(model, graph, target, around, interface, runtime, generic, threads)
    if isinstance(factors, Unfactored):
        return generic(factors.reason)
    channels: DensePhiAblation | GenericHead | None = None
    if factors.phi == "dense":
        opening = factors.phi_start
        if opening is None:
            channels = generic("φ mixes channels and does not begin with a linear layer")
        else:
            layer = lazy(opening.layer, "first layer of the head")
            rest = lazy(opening.rest, "head behind its first layer")
            assert layer is not None
            assert rest is not None
            channels = DensePhiAblation(opening.weight, layer, rest, batch_size, threads, runtime.device)
    mix: Runner | None = None
    if factors.reduction != "flatten" and factors.weight is not None:
        layer_of_cells = cell_layer(factors.weight)
        mix = LazyRunner(
            lambda: runtime.make_runner(layer_of_cells, label="first layer of the head, by cell")
        )
    phi = lazy(factors.phi_model, "cellwise part of the head")
    contributions = Contributions(factors, phi, mix, threads, runtime.device)
    pixels = int(np.prod(graph.input_shape[1:]))
    rows = vector_batch_size(batch_size, pixels, contributions.features)
    rest_runner = lazy(factors.rest, "head behind its first layer")
    return FactoredHead(contributions, rest_runner, channels, adjoint, rows)


def make_calm_head(
    model: onnx.ModelProto,
    graph: Graph,
    target: str,
    around: tuple[str, ...],
    interface: Interface,
    runtime: Backend,
    generic: Callable[[str], GenericHead],
    threads: int | None,
) -> Head:
    """A CALM model's head: by sums over cells where it is cell by cell, and takes maps of any size."""
    assert interface.joint is not None
    end, shape = interface.joint, graph.shape(target)
    if around or shape is None or end not in graph.downstream(target):
        return generic("a CALM head that the cut does not lie before")
    whole = generic(
        "a CALM head, and between the cut and its sums is more than what acts on each cell by itself"
    )
    if not is_ratio_of_cells(graph, target, end):
        return whole
    part = build_head_model(model, graph, target, end, input_name=MAP, batch=interface.batch)
    head = CalmHead(
        whole,
        LazyRunner(lambda: runtime.make_runner(part, label="head's joint", batch=interface.batch)),
        threads,
    )
    put = runtime.device.put
    activations = put(normal_noise((2, *shape[1:])))
    logits = put(np.zeros((2, interface.num_classes), np.float32))
    every = put(np.tile(np.arange(interface.num_classes), (2, 1)))
    reader = ScoreReader(every, "probability", "softmax")
    context = QueryContext(activations, logits, reader, PassCounts(), {})
    try:
        return head if agrees_with_graph(head, whole, context) else whole
    except BackendError:  # a head of one size takes no further row of cells
        return whole


def vector_batch_size(batch_size: int, pixels: int, features: int) -> int:
    """Rows of `features` numbers that fit where a batch of images does, so that weights are read seldom."""
    return max(batch_size, min(batch_size * pixels // features, MAX_VECTORS))


def check_output_shapes(runner: Runner, interface: Interface, cuts: Sequence[Cut]) -> Runner:
    """The model's runner, whose logits and activations are held to the shapes they were found to have."""
    shapes: dict[str, tuple[int | None, ...]] = {LOGITS: (interface.num_classes,)}
    for cut in cuts:
        channels, height, width = cut.target.shape
        sizes = (height, width) if interface.fixed_size else (None, None)
        shapes[cut.taps[ACTIVATION]] = (channels, *sizes)
    return ShapeCheckedRunner(runner, shapes)


def make_image_adjoints(
    model: onnx.ModelProto, graph: Graph, interface: Interface, runtime: Backend
) -> dict[ReluRule, Runner]:
    """Graphs of the gradient with respect to the image, by ReLU rule; made ready when first needed."""

    def lazy(relu: ReluRule) -> Runner:
        def make() -> Runner:
            part = build_adjoint_model(
                model,
                graph,
                IMAGES,
                input_name="camrt_altered",
                batch=interface.batch,
                relu=relu,
                supports_scatter_add=runtime.supports_scatter_add,
            )
            return make_adjoint_runner(part, "model's adjoint", interface, runtime)

        return LazyRunner(make)

    return {"plain": lazy("plain"), "guided": lazy("guided")}
