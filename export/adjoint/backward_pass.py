"""The walk back through the nodes of a graph, from cotangents at its end to cotangents at its beginning."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from onnx import AttributeProto, NodeProto, TensorProto

from camrt.export.adjoint.registry import RULES, BackwardStep, ReluRule
from camrt.export.adjoint.step_functions import STEP_FUNCTIONS
from camrt.export.graph.index import Graph, names_read
from camrt.export.graph.node_maker import NodeMaker
from camrt.export.graph.operators import FLOATING, RESHAPING
from camrt.export.rewrites.input_form import is_rounding

__all__ = ["BackwardPass", "apply_rule", "sum_cotangents", "tensors_read"]

# What does with the whole numbers of an image what it would do with real ones, or makes them.
ON_WHOLE_NUMBERS = RESHAPING | {
    "Add", "Cast", "CastLike", "Concat", "DynamicQuantizeLinear", "Gather", "Identity", "Pad",
    "QuantizeLinear", "Slice", "Split", "Sub",
}  # fmt: skip


@dataclass
class BackwardPass:
    """A walk back through a graph, or through a branch of one of its nodes.

    Attributes:
        graph: Index of the graph whose nodes are walked.
        make: Where the adjoint's nodes are made.
        reached: See `BackwardStep`.
        relu: See `BackwardStep`.
        guided: See `BackwardStep`.
        dead_ends: See `BackwardStep`.
        cotangents: The parts of each tensor's cotangent so far, by its name.
        rule: What is applied to each node; None for its operator's rule.
    """

    graph: Graph
    make: NodeMaker
    reached: frozenset[str]
    relu: ReluRule
    guided: list[str]
    dead_ends: list[str]
    cotangents: dict[str, list[str]] = field(default_factory=dict)
    rule: Callable[[BackwardStep], Sequence[str | None]] | None = None

    def propagate_back(self, nodes: Sequence[NodeProto], start: str = "") -> None:
        """Applies the rules of ordered nodes, last to first, without the one that makes `start`.

        Raises:
            AdjointError: An operator has no rule.
        """
        for node in reversed(nodes):
            if not any(name in self.cotangents for name in node.output) or start in node.output:
                continue
            if not any(name in self.reached for name in names_read(node)):
                continue
            arriving = tuple(sum_cotangents(self.make, self.cotangents.get(name, [])) for name in node.output)
            step = BackwardStep(
                node, self.graph, self.make, arriving, self.reached, self.relu, self.guided, self.dead_ends
            )
            for name, cotangent in zip(tensors_read(node), (self.rule or apply_rule)(step), strict=False):
                if cotangent is not None and name in self.reached:
                    self.cotangents.setdefault(name, []).append(cotangent)

    def cotangent(self, name: str) -> str | None:
        """The cotangent of a tensor, its parts summed; None where there are none."""
        return sum_cotangents(self.make, self.cotangents.get(name, []))


def tensors_read(node: NodeProto) -> list[str]:
    """The tensors whose cotangents a node's rule returns, in order: inputs, then what subgraphs read."""
    if any(item.type == AttributeProto.GRAPH for item in node.attribute):
        return list(dict.fromkeys(names_read(node)))
    return list(node.input)


def apply_rule(step: BackwardStep) -> Sequence[str | None]:
    """The cotangents of a node's inputs.

    Raises:
        AdjointError: There is no rule, or it would calculate with whole numbers.
    """
    if is_rounding(step.node):
        return pass_rounding(step)
    types = {step.graph.types.get(name) for name in step.node.output if name}
    if (
        not types & FLOATING
        and None not in types
        and step.node.op_type not in ON_WHOLE_NUMBERS | STEP_FUNCTIONS
    ):
        kinds = ", ".join(sorted(TensorProto.DataType.Name(kind) for kind in types if kind is not None))
        raise step.refuse(f"it calculates with whole numbers or truth values ({kinds}), which has no rule")
    domain = "" if step.node.domain == "ai.onnx" else step.node.domain
    found = RULES.get((domain, step.node.op_type))
    if found is None:
        raise step.refuse("camrt has no rule for this operator")
    return found(step)


def pass_rounding(step: BackwardStep) -> Sequence[str | None]:
    """Straight-through rule for images rounded to a file's integer pixels: ȳ where nothing is clipped."""
    make = step.make
    cut_off = {"Max": "Less", "Min": "Greater"}.get(step.node.op_type)
    if cut_off is None:
        return [step.g]
    return [make.masked(step.g, make.add("Not", make.add(cut_off, step.x, step.input(1))))]


def sum_cotangents(make: NodeMaker, parts: Sequence[str]) -> str | None:
    """The sum of the cotangents that meet at a tensor."""
    if not parts:
        return None
    return parts[0] if len(parts) == 1 else make.add("Sum", *parts)
