"""Layer-wise relevance propagation (LRP): the score handed back from layer to layer, and none of it lost.

"On Pixel-Wise Explanations for Non-Linear Classifier Decisions by Layer-Wise Relevance Propagation" (Bach et
al., PLOS ONE 2015). The relevance R of a layer's outputs is shared out among its inputs by what each gave:

- ε-rule (equation 58): R_i = Σ_j x_i·w_ij/(z_j + ε·sign z_j)·R_j, z the layer's output with its bias.
- z⁺-rule (equation 60 with α = 1, β = 0): the same by what is positive of x_i·w_ij and of the bias, for
  convolutions and matrix products. Of inputs that are not negative it is deep Taylor's z⁺-rule ("Explaining
  nonlinear classification decisions with deep Taylor decomposition", Montavon et al., 2017).
- composite ("Towards Best Practice in Explaining Neural Network Decisions with LRP", Kohlbrenner et al.,
  IJCNN 2020): ε for matrix products, z⁺ for convolutions, and for those that nothing learned stands before
  the flat
  rule: the same share to each number that was read, whatever it was.

All that is linear in what it reads (sums, pooling, batch normalisation, scaling) follows the ε-rule;
functions of each number pass relevance on unchanged; what moves numbers moves relevance back. A factor that
is a gate (a sigmoid, a softmax, an erf and what those are scaled by) counts as a weight ("Explaining
Recurrent Neural Network Predictions in Sentiment Analysis", Arras et al., 2017, section 3.1), and so does the
standard deviation that a layer normalisation divides by ("XAI for Transformers", Ali et al., ICML 2022,
section 4).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from onnx import NodeProto
from typing_extensions import override

from camrt.export.adjoint.backward_pass import apply_rule
from camrt.export.adjoint.propagation.operators import (
    ACTIVATIONS,
    MAXIMA,
    MOVES,
    PRODUCTS,
    is_linear,
    reached_inputs,
    refuse,
)
from camrt.export.adjoint.registry import BackwardStep, PropagationRule
from camrt.export.graph.index import Graph
from camrt.export.rewrites.input_form import is_rounding

__all__ = ["LayerwiseRelevance"]

WEIGHTED = frozenset({"Conv", "Gemm", "MatMul"})
GATES = frozenset({"Erf", "HardSigmoid", "Sigmoid", "Softmax"})
SCALINGS = MOVES | {"Add", "Div", "Mul", "Sub"}


@dataclass(frozen=True)
class WeightStep(BackwardStep):
    """A step with other weights of the same shapes.

    Attributes:
        stands_for: For each of their names, the weight whose shape it has.
    """

    stands_for: Mapping[str, str] = field(default_factory=dict)

    @override
    def shape(self, name: str) -> tuple[int, ...]:
        return super().shape(self.stands_for.get(name, name))


@dataclass(frozen=True)
class LayerwiseRelevance:
    """The rules, as a walk back applies them.

    Attributes:
        rule: Which of them.
        epsilon: Name of the scalar ε.
    """

    rule: PropagationRule
    epsilon: str

    def __call__(self, step: BackwardStep) -> Sequence[str | None]:
        """The relevance of a node's inputs, given that of its outputs.

        Raises:
            AdjointError: There is no rule for it.
        """
        kind, reached = step.node.op_type, reached_inputs(step)
        gates = find_gates(step, reached)
        if kind in PRODUCTS and len(reached) > 1 and len(gates) == 1:
            shares = self.share(step)
            return [None if index in gates else share for index, share in enumerate(shares)]
        if kind in MOVES or is_rounding(step.node) or (kind == "Where" and is_linear(step, reached)):
            return apply_rule(step)
        if kind in ACTIVATIONS and len(reached) == 1:
            return [step.g if index in reached else None for index in range(len(step.node.input))]
        if kind == "LayerNormalization" and reached == [0]:
            return self.share_standardised(step)
        if kind in MAXIMA or is_linear(step, reached):
            if kind in WEIGHTED and reached == [0] and step.input(1):
                return self.share_layer(step)
            return self.share(step)
        raise refuse(
            step, "LRP", "its answer is no sum of parts that its inputs give, nor a function of each number"
        )

    def share_layer(self, step: BackwardStep) -> Sequence[str | None]:
        """A layer with a weight that is a constant, by the rule that holds for it."""
        if self.rule == "epsilon" or (self.rule == "composite" and step.node.op_type != "Conv"):
            return self.share(step)
        first = not any(
            node.op_type in WEIGHTED and node.output[0] in step.reached
            for node in (step.graph.nodes[index] for index in step.graph.upstream_nodes(step.x))
        )
        if self.rule == "composite" and first:
            return [self.share_evenly(step)]
        return [self.share_positive(step)]

    def normalised(self, step: BackwardStep, whole: str) -> str:
        """R/(z + ε·sign z), the sign of zero positive."""
        make = step.make
        negative = make.add("Less", whole, make.number(0.0))
        stabiliser = make.add("Where", negative, make.add("Neg", self.epsilon), self.epsilon)
        return make.add("Div", step.g, make.add("Add", whole, stabiliser))

    def share(self, step: BackwardStep) -> list[str | None]:
        """The ε-rule: x times the gradient of the normalised relevance."""
        slopes = apply_rule(replace(step, cotangents=(self.normalised(step, step.y),)))
        return [
            None if slope is None or not step.needs_gradient(index) else step.make.add("Mul", name, slope)
            for index, (name, slope) in enumerate(zip(step.node.input, slopes, strict=False))
        ]

    def share_positive(self, step: BackwardStep) -> str:
        """The z⁺-rule: x⁺ by w⁺, x⁻ by w⁻, and the positive part of the bias."""
        make = step.make
        rise, weight = make.add("Relu", step.x), make.add("Relu", step.input(1))
        parts = [
            (rise, weight),
            (make.add("Sub", step.x, rise), make.add("Sub", step.input(1), weight)),
        ]
        layers = [replace_operands(step, *part) for part in parts]
        whole = make.add("Add", *(run(step, layer) for layer in layers))
        bias = step.input(2)
        if bias:
            shown = make.add("Relu", bias)
            if step.node.op_type == "Conv":
                axes = range(1, 1 + len(step.shape(step.x)) - 2)
                shown = make.unsqueeze(shown, list(axes))
            elif step.attribute("beta", 1.0) != 1.0:
                shown = make.add("Mul", shown, make.number(step.attribute("beta")))
            whole = make.add("Add", whole, shown)
        cotangent = make.add("Div", step.g, make.add("Add", whole, self.epsilon))
        shares = [
            make.add("Mul", operand, self.back(step, layer, weight, cotangent))
            for layer, (operand, weight) in zip(layers, parts, strict=True)
        ]
        return make.add("Add", *shares)

    def share_evenly(self, step: BackwardStep) -> str:
        """The flat rule: as if every number and every weight were one."""
        make = step.make
        x, weight = (make.as_float(make.add("Equal", name, name)) for name in (step.x, step.input(1)))
        layer = replace_operands(step, x, weight)
        cotangent = make.add("Div", step.g, run(step, layer))
        return self.back(step, layer, weight, cotangent)

    def back(self, step: BackwardStep, layer: NodeProto, weight: str, cotangent: str) -> str:
        """The gradient of a layer with other operands, with respect to what it reads."""
        values = {item: getattr(step, item) for item in step.__dataclass_fields__}
        values |= {"node": layer, "cotangents": (cotangent,), "reached": step.reached | {layer.input[0]}}
        names = {weight: step.input(1), layer.input[0]: step.x, layer.output[0]: step.y}
        found = apply_rule(WeightStep(**values, stands_for=names))[0]
        assert found is not None
        return found

    def share_standardised(self, step: BackwardStep) -> list[str | None]:
        """The ε-rule of a layer normalisation whose standard deviation is a constant."""
        make, x = step.make, step.x
        rank = len(step.shape(x))
        axes = list(range(step.attribute("axis", -1) % rank, rank))
        centred = make.add("Sub", x, make.reduce("ReduceMean", x, axes, keepdims=True))
        power = make.reduce("ReduceMean", make.add("Mul", centred, centred), axes, keepdims=True)
        spread = make.add("Sqrt", make.add("Add", power, make.number(step.attribute("epsilon", 1e-5))))
        scaled = make.add("Mul", self.normalised(step, step.y), step.input(1))
        level = make.reduce("ReduceMean", scaled, axes, keepdims=True)
        return [make.add("Mul", x, make.add("Div", make.add("Sub", scaled, level), spread))]


def replace_operands(step: BackwardStep, x: str, weight: str) -> NodeProto:
    """A layer without its bias, on other operands."""
    layer = NodeProto()
    layer.CopyFrom(step.node)
    layer.ClearField("name")  # names are of one node each
    del layer.input[:]
    layer.input.extend([x, weight])
    layer.output[0] = step.make.new_name()
    return layer


def run(step: BackwardStep, layer: NodeProto) -> str:
    """Puts a layer among the nodes that are made."""
    step.make.nodes.append(layer)
    return str(layer.output[0])


def find_gates(step: BackwardStep, reached: Sequence[int]) -> list[int]:
    """Which of the inputs at `reached` are gates; a clipped one only beside none of the others."""
    for operators in (GATES, frozenset({"Clip"})):
        found = [index for index in reached if is_made_by(step.graph, step.input(index), operators)]
        if found:
            return found
    return []


def is_made_by(graph: Graph, name: str, operators: frozenset[str]) -> bool:
    """Whether one of some operators makes a tensor, but for scalings by constants."""
    node = graph.producer(name)
    while node is not None and node.op_type in SCALINGS:
        changing = [read for read in node.input if read in graph.dependent]
        if len(changing) != 1:
            return False
        node = graph.producer(changing[0])
    return node is not None and node.op_type in operators
