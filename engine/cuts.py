"""A model cut at a tensor: what its trunk pass gives, and its head in the cheapest exact form."""

from __future__ import annotations

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from typing import get_args

import onnx

from camrt.engine.attention import AttentionGraphs
from camrt.engine.head_making import (
    CutTensors,
    ModelToCut,
    make_adjoint_runner,
    make_head,
    make_reference,
)
from camrt.engine.heads import Head
from camrt.engine.heads.comparison import ReferenceHead
from camrt.engine.queries import Need
from camrt.engine.runtime import Backend, Runner
from camrt.engine.runtime.lazy_runner import LazyRunner
from camrt.engine.runtime.shaped_runner import ShapeCheckedRunner
from camrt.export.adjoint import (
    BIAS_EPSILONS,
    BackwardRule,
    BiasScaling,
    PropagationRule,
    ReluRule,
    build_adjoint_model,
    build_propagation_model,
    find_feature_vectors,
)
from camrt.export.graph.index import Graph
from camrt.export.graph.size_tensors import is_size_tensor
from camrt.export.heads.cut import (
    ACTIVATION,
    FIRST_LAYER,
    JOINT,
    PHI,
    TargetTensor,
    build_tapped_model,
    extra_input_name,
    find_crossing_tensors,
)
from camrt.export.heads.factoring import Factors, Unfactored, factor_head
from camrt.export.heads.last_linear import find_last_linear
from camrt.export.rewrites.input_form import IMAGES
from camrt.export.rewrites.interface import LOGITS, Interface

__all__ = ["Cut", "check_output_shapes", "make_cuts", "make_image_adjoints"]


@dataclass(frozen=True)
class Cut:
    """Where a model was cut, and what it became.

    Attributes:
        target: The tensor.
        head: What follows the cut.
        taps: Outputs of the trunk pass by what they are: `ACTIVATION`, and where the head reads them `PHI`
            and the tensors that go around the cut (`extra_input_name`).
        gradient_roles: Roles of the taps that only gradient methods fetch.
        attention: The attention of a vision transformer; None of a torch module.
    """

    target: TargetTensor
    head: Head
    taps: Mapping[str, str]
    gradient_roles: frozenset[str] = frozenset()
    attention: AttentionGraphs | None = None

    def required_taps(self, needs: Set[Need]) -> dict[str, str]:
        """The taps that a method of such needs reads."""
        if not needs & {Need.ALTERATIONS, Need.GRADIENTS}:
            return {ACTIVATION: self.taps[ACTIVATION]}
        left = frozenset() if Need.GRADIENTS in needs else self.gradient_roles
        return {role: name for role, name in self.taps.items() if role not in left}


def make_cuts(
    whole: ModelToCut,
    targets: list[TargetTensor],
    tensors: list[str],
    runtime: Backend,
    unfactored: Mapping[int, str] | None = None,
    analyst: Backend | None = None,
) -> tuple[onnx.ModelProto, tuple[Cut, ...], tuple[ReferenceHead, ...]]:
    """Cuts a model at every target, and gives its trunk the outputs the heads read.

    Args:
        whole: The model.
        targets: What was asked for.
        tensors: For each of them, the (N, K, h, w) tensor that stands for it in the graph.
        runtime: What makes graphs ready to run.
        unfactored: Why the heads of some targets, by their number, are run as graphs whatever their form.
        analyst: What makes the graphs to compare with; None for `runtime`.

    Returns:
        The whole model with its further outputs, the cuts, and for each the head's graph to compare with.
    """
    graph, interface = whole.graph, whole.interface
    cuts, references, outputs = [], [], {}
    for number, (target, tensor) in enumerate(zip(targets, tensors, strict=True)):
        cut = find_cut_tensors(
            whole, tensor, (unfactored or {}).get(number), splits_last_layer=runtime.splits_last_layer
        )
        shown = {ACTIVATION: tensor}
        shown |= {extra_input_name(i): name for i, name in enumerate((*cut.around, *cut.vectors))}
        if cut.start is not None and cut.start != tensor:
            shown[FIRST_LAYER] = cut.start
        if isinstance(cut.factors, Factors) and cut.factors.phi_tensor is not None:
            shown[PHI] = cut.factors.phi_tensor
        taps = {role: role if number == 0 else f"{role}_{number}" for role in shown}
        outputs.update({taps[role]: name for role, name in shown.items()})
        head = make_head(whole, cut, runtime)
        inner = {role: name for role, name in shown.items() if name not in (tensor, *cut.around)}
        references.append(make_reference(whole, cut, inner, head, analyst or runtime))
        residuals = range(len(cut.around), len(cut.around) + len(cut.vectors))
        roles = frozenset(map(extra_input_name, residuals))
        cuts.append(Cut(target, head, taps, roles, AttentionGraphs(whole, target, runtime)))
    if interface.joint is not None:
        outputs[JOINT] = interface.joint
    return (
        build_tapped_model(whole.model, graph, outputs, interface.batch),
        tuple(cuts),
        tuple(references),
    )


def find_cut_tensors(
    whole: ModelToCut, target: str, unfactored: str | None, *, splits_last_layer: bool
) -> CutTensors:
    """What a cut at a tensor has to do with.

    Args:
        whole: The model.
        target: The tensor.
        unfactored: Why its head is run as a graph whatever its form; None where it need not be.
        splits_last_layer: Whether the last layer may be a graph of its own.
    """
    graph = whole.graph
    around = find_crossing_tensors(graph, target)
    clean = all(map(is_size_tensor, around))
    factors: Factors | Unfactored
    if not clean:
        factors = Unfactored(f"{', '.join(map(repr, around))} go{'es' * (len(around) == 1)} around the cut")
    elif unfactored is not None:
        factors = Unfactored(unfactored)
    else:
        factors = factor_head(graph, target, whole.interface.batch)
    start = find_adjoint_start(target, factors)
    last = None
    if splits_last_layer and start is not None and whole.interface.joint is None:
        last = find_last_linear(graph, start)
    end = LOGITS if last is None else last.features
    vectors = () if not clean or start is None else find_feature_vectors(graph, start, end)
    return CutTensors(target=target, around=around, factors=factors, start=start, vectors=vectors, last=last)


def find_adjoint_start(target: str, factors: Factors | Unfactored) -> str | None:
    """The tensor that gradients are followed back to: from there on the way is a weight, when not the target.

    None for a head of one linear layer, which has no graph run for it.
    """
    if isinstance(factors, Unfactored) or factors.phi != "identity":
        return target
    return factors.answer if factors.has_rest else None


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
) -> dict[BackwardRule, Runner]:
    """Graphs of the gradient with respect to the image, by their rule; made ready when first needed."""

    def lazy(relu: ReluRule, biases: BiasScaling | None = None) -> Runner:
        def make() -> Runner:
            part = build_adjoint_model(
                model,
                graph,
                IMAGES,
                input_name="camrt_altered",
                batch=interface.batch,
                relu=relu,
                supports_scatter_add=runtime.supports_scatter_add,
                biases=biases,
            )
            return make_adjoint_runner(part, "model's adjoint", interface, runtime)

        return LazyRunner(make)

    def propagating(rule: PropagationRule) -> Runner:
        def make() -> Runner:
            part = build_propagation_model(
                model,
                graph,
                rule,
                input_name="camrt_altered",
                batch=interface.batch,
                supports_scatter_add=runtime.supports_scatter_add,
            )
            return make_adjoint_runner(part, f"model's {rule} shares", interface, runtime)

        return LazyRunner(make)

    return {
        "plain": lazy("plain"),
        "guided": lazy("guided"),
        **{rule: propagating(rule) for rule in get_args(PropagationRule)},
        **{scaling: lazy("plain", scaling) for scaling in BIAS_EPSILONS},
    }
