"""The head of a cut, in its cheapest exact form, and the graph that it is compared with."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import onnx

from camrt.engine.heads import FactoredHead, GenericHead, Head
from camrt.engine.heads.adjoint import HeadAdjoint
from camrt.engine.heads.base import QueryContext
from camrt.engine.heads.calm import CalmHead, agrees_with_graph
from camrt.engine.heads.class_rows import ClassRows
from camrt.engine.heads.comparison import ReferenceHead
from camrt.engine.heads.contributions import Contributions
from camrt.engine.heads.curvature import HeadCurvature
from camrt.engine.heads.dense_start import DensePhiAblation
from camrt.engine.heads.last_linear import ScoreRunner
from camrt.engine.heads.multipliers import HeadMultipliers, HeadRelevance
from camrt.engine.noise import normal_noise
from camrt.engine.passes import PassCounts
from camrt.engine.runtime import Backend, Runner
from camrt.engine.runtime.lazy_runner import LazyRunner
from camrt.engine.runtime.shaped_runner import ShapeCheckedRunner
from camrt.engine.scores import ScoreReader
from camrt.errors import BackendError
from camrt.export.adjoint import (
    CURVATURE,
    GRADIENT,
    PropagationRule,
    build_adjoint_model,
    build_curvature_model,
    build_propagation_model,
)
from camrt.export.graph.index import Graph
from camrt.export.heads.calm_ratio import is_ratio_of_cells
from camrt.export.heads.cut import FIRST_LAYER, add_taps, build_head_model, extra_input_name
from camrt.export.heads.factoring import MAP, VECTOR, AffineStart, Factors, Unfactored, cell_layer
from camrt.export.heads.last_linear import LastLinear, is_one_function, linear_model
from camrt.export.rewrites.interface import LOGITS, Interface

__all__ = [
    "ALTERED",
    "CutTensors",
    "ModelToCut",
    "build_class_adjoint",
    "find_class_rows",
    "make_adjoint_runner",
    "make_head",
    "make_reference",
    "vector_batch_size",
]

ALTERED = "camrt_altered"
# Vectors run at once through what follows a head's first layer: more gain nothing.
MAX_VECTORS = 1024


@dataclass(frozen=True, kw_only=True)
class ModelToCut:
    """A model that is cut, and how its parts are run.

    Attributes:
        model: The standardised model.
        graph: Its index.
        interface: Its interface.
        batch_size: Rows a batch.
        threads: Threads of the native kernels.
    """

    model: onnx.ModelProto
    graph: Graph
    interface: Interface
    batch_size: int
    threads: int | None


@dataclass(frozen=True, kw_only=True)
class CutTensors:
    """The tensors of a model that a cut and its head have to do with.

    Attributes:
        target: The (N, K, h, w) tensor that the model is cut at.
        around: Tensors that go around the cut.
        factors: What the head is, or why it could not be factored.
        start: The tensor that gradients are followed back to; None where no graph is run for them.
        vectors: Tensors behind it that the trunk pass gives.
        last: The last layer, where a score runs its own row of it alone; None where graphs end in the logits.
    """

    target: str
    around: tuple[str, ...]
    factors: Factors | Unfactored
    start: str | None
    vectors: tuple[str, ...]
    last: LastLinear | None

    @property
    def extra_inputs(self) -> tuple[str, ...]:
        """The names under which what goes around the cut enters the head."""
        return tuple(extra_input_name(number) for number in range(len(self.around)))


def make_reference(
    whole: ModelToCut, cut: CutTensors, shown: Mapping[str, str], head: Head, runtime: Backend
) -> ReferenceHead:
    """A head's graph to compare its answers with, made ready when it is first run.

    Args:
        whole: The model.
        cut: Where it is cut.
        shown: Further tensors of the trunk pass that the head reads, by their role.
        head: The head.
        runtime: What makes graphs ready to run.
    """
    own = head.generic if isinstance(head, CalmHead) else head
    if type(own) is GenericHead:
        return ReferenceHead(own, own.run_graph, has_own_gradient=False)
    batch = whole.interface.batch

    def make() -> Runner:
        part = build_head_model(
            whole.model,
            whole.graph,
            cut.target,
            LOGITS,
            input_name=MAP,
            batch=batch,
            extra_inputs=cut.around,
        )
        add_taps(part, whole.graph, shown)
        return make_logits_runner(part, "head", whole.interface, runtime)

    def back() -> Runner:
        part = build_adjoint_model(
            whole.model, whole.graph, cut.target, input_name=MAP, batch=batch, extra_inputs=cut.around
        )
        return make_adjoint_runner(part, "head's adjoint", whole.interface, runtime)

    extra_inputs = cut.extra_inputs
    adjoint = HeadAdjoint(LazyRunner(back), extra_inputs)
    runner = ScoreRunner(LazyRunner(make))
    graphs = GenericHead(runner, adjoint, whole.batch_size, "to compare with", whole.threads, extra_inputs)
    known = isinstance(head, FactoredHead) and head.has_own_gradient
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
    return ShapeCheckedRunner(runner, {LOGITS: (interface.num_classes,), GRADIENT: None, CURVATURE: None})


def make_head(whole: ModelToCut, cut: CutTensors, runtime: Backend) -> Head:
    """The head of a cut, in its cheapest exact form; graphs are made ready when first needed.

    Args:
        whole: The model.
        cut: Where it is cut.
        runtime: What makes graphs ready to run.
    """
    head = make_exact_head(whole, cut, runtime)
    head.curvature = make_curvature(whole, cut, runtime)
    head.multipliers = HeadMultipliers(make_shares(whole, cut, runtime, "rescale"), cut.extra_inputs)
    head.relevance = HeadRelevance(make_shares(whole, cut, runtime, "z+"), cut.extra_inputs)
    return head


def make_shares(whole: ModelToCut, cut: CutTensors, runtime: Backend, rule: PropagationRule) -> Runner:
    """The graph that hands a logit back to the activation by a rule, made ready when first needed."""

    def make() -> Runner:
        part = build_propagation_model(
            whole.model,
            whole.graph,
            rule,
            input_name=MAP,
            batch=whole.interface.batch,
            supports_scatter_add=runtime.supports_scatter_add,
            start=cut.target,
            extra_inputs=cut.around,
            weighs_logits=False,
        )
        return make_adjoint_runner(part, f"head's {rule} shares", whole.interface, runtime)

    return LazyRunner(make)


def make_curvature(whole: ModelToCut, cut: CutTensors, runtime: Backend) -> HeadCurvature:
    """What answers about second derivatives behind a cut."""

    def make() -> Runner:
        part = build_curvature_model(
            whole.model,
            whole.graph,
            cut.target,
            input_name=MAP,
            batch=whole.interface.batch,
            extra_inputs=cut.around,
            supports_scatter_add=runtime.supports_scatter_add,
        )
        return make_adjoint_runner(part, "head's second derivative", whole.interface, runtime)

    return HeadCurvature(LazyRunner(make), cut.extra_inputs)


def make_exact_head(whole: ModelToCut, cut: CutTensors, runtime: Backend) -> Head:
    """The head of a cut, in its cheapest exact form; graphs are made ready when first needed.

    Args:
        whole: The model.
        cut: Where it is cut.
        runtime: What makes graphs ready to run.
    """
    model, graph, interface = whole.model, whole.graph, whole.interface
    factors, last = cut.factors, cut.last
    end = LOGITS if last is None else last.features

    def lazy(part: onnx.ModelProto | None, label: str) -> Runner | None:
        if part is None:
            return None
        return LazyRunner(lambda: runtime.make_runner(part, label=label, batch=interface.batch))

    def back() -> Runner:
        assert cut.start is not None
        part = build_adjoint_model(
            model,
            graph,
            cut.start,
            end=end,
            input_name=MAP,
            batch=interface.batch,
            extra_inputs=cut.around,
            known_tensors=cut.vectors,
            supports_scatter_add=runtime.supports_scatter_add,
        )
        return make_adjoint_runner(part, "head's adjoint", interface, runtime)

    given = tuple(extra_input_name(len(cut.around) + i) for i in range(len(cut.vectors)))
    start = FIRST_LAYER if cut.start not in (None, cut.target) else None
    adjoint = HeadAdjoint(LazyRunner(back), cut.extra_inputs + given, start, last)
    last_runner = (
        None
        if last is None
        else LazyRunner(lambda: runtime.make_runner(linear_model(last), label="last layer of the head"))
    )

    def until_last(begin: str, input_name: str, features: int | None, label: str) -> ScoreRunner:
        """What follows a tensor of the head, with its last layer apart where it is."""

        def make() -> Runner:
            part = build_head_model(
                model,
                graph,
                begin,
                end,
                input_name=input_name,
                batch=interface.batch,
                extra_inputs=cut.around if begin == cut.target else (),
                features=features,
            )
            if last is None:
                return make_logits_runner(part, label, interface, runtime)
            return runtime.make_runner(part, label=label, batch=interface.batch)

        one = last is not None and begin != cut.target and is_one_function(graph, begin, last.features)
        return ScoreRunner(LazyRunner(make), last, last_runner, is_one_function=one)

    def generic(reason: str) -> GenericHead:
        runner = until_last(cut.target, MAP, None, "head")
        return GenericHead(runner, adjoint, whole.batch_size, reason, whole.threads, cut.extra_inputs)

    if interface.joint is not None:
        return make_calm_head(whole, cut, runtime, generic)
    if isinstance(factors, Unfactored):
        return generic(factors.reason)
    channels: DensePhiAblation | GenericHead | None = None
    if factors.phi == "dense":
        opening = factors.phi_start
        if opening is None:
            channels = generic("φ mixes channels and does not begin with a linear layer")
        else:
            layer = lazy(opening.layer, "first layer of the head")
            assert layer is not None
            rest = until_last(opening.answer, MAP, None, "head behind its first layer")
            channels = DensePhiAblation(
                opening.weight, layer, rest, whole.batch_size, whole.threads, runtime.device
            )
    class_rows = make_class_rows(whole, factors, runtime) if runtime.splits_last_layer else None
    mix: Runner | None = None
    if factors.reduction != "flatten" and factors.weight is not None:
        weight = factors.weight
        mix = LazyRunner(
            lambda: runtime.make_runner(cell_layer(weight), label="first layer of the head, by cell")
        )
    phi = lazy(factors.phi_model, "cellwise part of the head")
    contributions = Contributions(factors, phi, mix, whole.threads, runtime.device)
    pixels = int(np.prod(graph.input_shape[1:]))
    rows = vector_batch_size(whole.batch_size, pixels, contributions.features)
    behind = (
        until_last(factors.answer, VECTOR, contributions.features, "head behind its first layer")
        if factors.has_rest
        else None
    )
    masked = (
        None if factors.phi == "identity" else generic("masked cells, behind a φ that is not the identity")
    )
    return FactoredHead(contributions, behind, channels, adjoint, rows, class_rows, masked)


def make_class_rows(whole: ModelToCut, factors: Factors, runtime: Backend) -> ClassRows | None:
    """What answers about logits by the targets' rows, where each logit pools a channel of its own."""
    layer = find_class_rows(factors)
    if layer is None or layer.each is None:
        return None
    part, batch = layer.each, whole.interface.batch

    def back() -> Runner:
        made = build_class_adjoint(whole, layer)
        return runtime.make_runner(made, label="adjoint of a class's channel", batch=batch)

    each = LazyRunner(lambda: runtime.make_runner(part, label="a class's channel of the head", batch=batch))
    return ClassRows(factors, layer, each, LazyRunner(back), runtime.device)


def find_class_rows(factors: Factors | Unfactored) -> AffineStart | None:
    """The layer that each logit has a row of, and pools what is made of it; None of other heads."""
    if isinstance(factors, Unfactored) or factors.has_rest or factors.weight is not None:
        return None
    layer = factors.phi_start
    return None if layer is None or layer.each is None else layer


def build_class_adjoint(whole: ModelToCut, layer: AffineStart) -> onnx.ModelProto:
    """The way back through what is made of one class's channel of that layer; its input is camrt_altered."""
    part, shape = layer.each, whole.graph.shape(layer.answer)
    assert part is not None
    assert shape is not None
    graph = Graph(part, (shape[0], 1, *shape[2:]))
    end = part.graph.node[-1].input[0]  # the last node is the exit from it
    return build_adjoint_model(part, graph, MAP, end=end, input_name=ALTERED, batch=whole.interface.batch)


def make_calm_head(
    whole: ModelToCut, cut: CutTensors, runtime: Backend, generic: Callable[[str], GenericHead]
) -> Head:
    """A CALM model's head: by sums over cells where it is cell by cell, and takes maps of any size."""
    model, graph, interface, target = whole.model, whole.graph, whole.interface, cut.target
    assert interface.joint is not None
    end, shape = interface.joint, graph.shape(target)
    if cut.around or shape is None or end not in graph.downstream(target):
        return generic("a CALM head that the cut does not lie before")
    graphs = generic(
        "a CALM head, and between the cut and its sums is more than what acts on each cell by itself"
    )
    if not is_ratio_of_cells(graph, target, end):
        return graphs
    part = build_head_model(model, graph, target, end, input_name=MAP, batch=interface.batch)
    head = CalmHead(
        graphs,
        LazyRunner(lambda: runtime.make_runner(part, label="head's joint", batch=interface.batch)),
        whole.threads,
    )
    put = runtime.device.put
    activations = put(normal_noise((2, *shape[1:])))
    logits = put(np.zeros((2, interface.num_classes), np.float32))
    every = put(np.tile(np.arange(interface.num_classes), (2, 1)))
    reader = ScoreReader(every, "probability", "softmax")
    context = QueryContext(activations, logits, reader, PassCounts(), {})
    try:
        return head if agrees_with_graph(head, graphs, context) else graphs
    except BackendError:  # a head of one size takes no further row of cells
        return graphs


def vector_batch_size(batch_size: int, pixels: int, features: int) -> int:
    """Rows of `features` numbers that fit where a batch of images does, so that weights are read seldom."""
    return max(batch_size, min(batch_size * pixels // features, MAX_VECTORS))
