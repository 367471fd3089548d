"""One step back through a node, and the register of the rules that take it.

A graph is y = f_n(... f_1(A)). The *cotangent* ḡ of a tensor t is ∂(Σ w·logits)/∂t, of t's own shape. A rule
turns the cotangents of a node's outputs into those of its inputs: x̄ = Jᵀ·ȳ, J the node's Jacobian.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from onnx import NodeProto

from camrt.errors import AdjointError
from camrt.export.graph.index import Graph, attribute, static_shape
from camrt.export.graph.node_maker import Indices, NodeMaker

__all__ = [
    "RULES",
    "BackwardRule",
    "BackwardStep",
    "BiasScaling",
    "PropagationRule",
    "ReluRule",
    "Rule",
    "rule",
]

Array = npt.NDArray[Any]
GRADIENT_FREE_HINT = (
    "Methods that ask for no gradient ('pixab', 'ablation', 'score', 'eigen') work on this model; or pass a "
    "target behind that node"
)
ReluRule = Literal["plain", "guided"]
PropagationRule = Literal["rescale", "epsilon", "z+", "composite"]
"""DeepLIFT's, and those of LRP: see `camrt.export.adjoint.propagation`."""
BiasScaling = Literal["paper", "grad-cam", "authors"]
"""How magnitudes of what biases contribute are brought to [0, 1], see `camrt.engine.methods.full`."""
BackwardRule = ReluRule | PropagationRule | BiasScaling


@dataclass(frozen=True)
class BackwardStep:
    """A node of the head whose outputs' cotangents are known.

    Attributes:
        node: The node.
        graph: Index of the whole model: shapes at the size it was analysed at, constants.
        make: Where the adjoint's nodes are made.
        cotangents: One a node output; None for an output the logits do not depend on.
        reached: Names of the tensors that depend on the activation (or image) the gradient is for.
        relu: How a ReLU passes gradients on: "plain" where its input was positive; "guided" only where the
            gradient is positive too ("Striving for Simplicity", Springenberg et al., 2015).
        guided: Names of the nodes where the guided rule applied, added to by the rules.
        dead_ends: Names of the nodes whose derivative is zero, likewise.
    """

    node: NodeProto
    graph: Graph
    make: NodeMaker
    cotangents: tuple[str | None, ...]
    reached: frozenset[str]
    relu: ReluRule
    guided: list[str]
    dead_ends: list[str]

    def no_gradient(self) -> Sequence[None]:
        """Returns no cotangent for any input, and records this node as one whose derivative is zero."""
        self.dead_ends.append(self.label())
        return ()

    def mark_guided(self) -> None:
        """Notes that this node is a ReLU and that the guided rule applied to it."""
        self.guided.append(self.label())

    @property
    def g(self) -> str:
        """The cotangent of the node's first output."""
        first, *others = self.cotangents
        if first is None or any(other is not None for other in others):
            raise self.refuse("only its first output can be followed back")
        return first

    @property
    def x(self) -> str:
        """The node's first input."""
        return str(self.node.input[0])

    @property
    def y(self) -> str:
        """The node's first output."""
        return str(self.node.output[0])

    def input(self, index: int) -> str:
        """The name of an input; empty when it is left out."""
        return self.node.input[index] if index < len(self.node.input) else ""

    def needs_gradient(self, index: int) -> bool:
        """Whether an input depends on what the gradient is for."""
        return self.input(index) in self.reached

    def shape(self, name: str) -> tuple[int, ...]:
        """A tensor's shape.

        Batch, height and width are those the graph was analysed at: take from it ranks, channels and which
        axes have size one, and read sizes that may differ off the tensor (`make.shape_of`).
        """
        shape = self.graph.shape(name)
        if shape is None:
            raise self.refuse(f"the shape of {name!r} is not known")
        return shape

    def constant(self, name: str) -> Array | None:
        """The value of a tensor that does not depend on the image; None when it does, or is not known."""
        return self.graph.constant(name)

    def numbers(self, index: int, name: str) -> tuple[int, ...]:
        """Whole numbers that older operator sets keep in attribute `name`, newer ones in an input.

        Returns an empty tuple when they are given nowhere.
        """
        stated = attribute(self.node, name)
        if stated is not None:
            return tuple(stated) if isinstance(stated, (list, tuple)) else (int(stated),)
        if not self.input(index):
            return ()
        value = self.constant(self.input(index))
        if value is None:
            raise self.refuse(f"its {name} are computed from the image")
        return tuple(int(number) for number in np.ravel(value))

    def whole_numbers(self, index: int, name: str) -> Indices:
        """The same; the tensor that holds them when they are computed from sizes."""
        given = self.input(index)
        return given if given and self.constant(given) is None else self.numbers(index, name)

    @property
    def fixed_size(self) -> bool:
        """Whether the graph fixes the height and width of its images."""
        declared = static_shape(self.graph.model.graph.input[0])
        return declared is not None and None not in declared[1:]

    def attribute(self, name: str, default: Any = None) -> Any:
        """An attribute's value."""
        return attribute(self.node, name, default)

    def label(self) -> str:
        """The node, for messages."""
        domain = f"{self.node.domain}." if self.node.domain not in ("", "ai.onnx") else ""
        named = f" (node {self.node.name!r})" if self.node.name else f" (it makes {self.node.output[0]!r})"
        return f"{domain}{self.node.op_type}{named}"

    def refuse(self, reason: str) -> AdjointError:
        """The error that says why there is no way back through this node."""
        return AdjointError(
            f"no gradient can be followed through {self.label()}: {reason}. {GRADIENT_FREE_HINT}"
        )


Rule = Callable[[BackwardStep], Sequence[str | None]]
RULES: dict[tuple[str, str], Rule] = {}


def rule(*operators: str, domain: str = "") -> Callable[[Rule], Rule]:
    """Registers a function as the rule of operators.

    The function gets the step and returns one cotangent an input, None for those that get none (it may leave
    out trailing ones). It need not look at what is wanted: what is not is dropped.
    """

    def register(function: Rule) -> Rule:
        for operator in operators:
            RULES[domain, operator] = function
        return function

    return register
