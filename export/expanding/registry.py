"""One operator at a time: what an expansion is given, and the register of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import onnx
from onnx import NodeProto, TensorProto, TypeProto, helper, numpy_helper

from camrt.errors import UnsupportedModelError
from camrt.export.graph.index import attribute
from camrt.export.graph.traversal import node_label, normalise_domain
from camrt.export.limits import quote_name

__all__ = [
    "EXPANSIONS",
    "RUNTIME",
    "Expansion",
    "GraphRewrite",
    "QuantisedTensor",
    "expansion",
]

Array = npt.NDArray[Any]
RUNTIME = "com.microsoft"


class QuantisedTensor(NamedTuple):
    """What a tensor of whole numbers stands for: real numbers (q − zero)·scale.

    Attributes:
        scale: Name of the scale.
        zero: Name of the zero point; empty for none.
        maker: Name of the file's node that made it, which what dequantises it takes over; empty for none.
    """

    scale: str
    zero: str
    maker: str


@dataclass
class GraphRewrite:
    """A graph while its nodes are rewritten, in order.

    Attributes:
        graph: The file's graph.
        opset: Version of the default operator set.
        constants: Every stored tensor that nodes read, by name.
        types: What is known of the tensors made so far.
        names: Every name that is taken.
        nodes: The nodes of the new graph so far.
        quantised: The tensors of whole numbers whose scale is known.
        dequantised: The real numbers made of them, by what they were made from.
        floats: For tensors of whole numbers that were computed in floats, the floats.
        block_size: Channels in a block, where tensors are blocked.
        channels: Of each blocked tensor, its channels.
    """

    graph: onnx.GraphProto
    opset: int
    constants: dict[str, TensorProto]
    types: Mapping[str, TypeProto]
    names: set[str]
    nodes: list[NodeProto] = field(default_factory=list)
    quantised: dict[str, QuantisedTensor] = field(default_factory=dict)
    dequantised: dict[tuple[str, ...], str] = field(default_factory=dict)
    floats: dict[str, str] = field(default_factory=dict)
    block_size: int = 0
    channels: Mapping[str, int] = field(default_factory=dict)

    def new_name(self, wish: str) -> str:
        """An unused name, like the one asked for."""
        name, number = wish, 1
        while name in self.names:
            number += 1
            name = f"{wish}_{number}"
        self.names.add(name)
        return name

    def store(self, array: npt.ArrayLike, wish: str) -> str:
        """A new initializer."""
        name = self.new_name(wish)
        tensor = numpy_helper.from_array(np.asarray(array), name)
        self.graph.initializer.append(tensor)
        self.constants[name] = tensor
        return name


@dataclass(frozen=True)
class Expansion:
    """A node that is to be written in other operators.

    Attributes:
        node: The node.
        into: Where the others go.
    """

    node: NodeProto
    into: GraphRewrite

    def input(self, index: int) -> str:
        """The name of an input; empty when it is left out."""
        return self.node.input[index] if index < len(self.node.input) else ""

    @property
    def y(self) -> str:
        """The first output."""
        return str(self.node.output[0])

    @property
    def opset(self) -> int:
        """Version of the default operator set."""
        return self.into.opset

    def attribute(self, name: str, default: Any = None) -> Any:
        """An attribute's value.

        Raises:
            UnsupportedModelError: It is of another type than its default.
        """
        value = attribute(self.node, name, default)
        kind = list if isinstance(default, tuple) else type(default)
        if value is not default and default is not None and not isinstance(value, kind):
            raise self.refuse(f"has an attribute {quote_name(name)} of another type than its operator takes")
        return value

    def attributes(self, *left_out: str) -> dict[str, onnx.AttributeProto]:
        """Every attribute but some, as it is."""
        return {item.name: item for item in self.node.attribute if item.name not in left_out}

    def constant(self, name: str) -> Array | None:
        """The value of a stored tensor; None for any other."""
        tensor = self.into.constants.get(name)
        return None if tensor is None else np.asarray(numpy_helper.to_array(tensor))

    def rank(self, name: str) -> int | None:
        """Number of axes, where it is known."""
        sizes = self.sizes(name)
        return None if sizes is None else len(sizes)

    def size(self, name: str, axis: int) -> int | None:
        """Size of an axis, where it is known."""
        sizes = self.sizes(name)
        return sizes[axis] if sizes is not None and axis < len(sizes) else None

    def sizes(self, name: str) -> list[int | None] | None:
        """Sizes of the axes, None for one that is not known; None where not even their number is."""
        tensor = self.into.constants.get(name)
        if tensor is not None:
            return list(tensor.dims)
        kind = self.into.types.get(name)
        if kind is None or not kind.HasField("tensor_type") or not kind.tensor_type.HasField("shape"):
            return None
        return [axis.dim_value if axis.HasField("dim_value") else None for axis in kind.tensor_type.shape.dim]

    def store(self, array: npt.ArrayLike, wish: str) -> str:
        """A new stored tensor."""
        return self.into.store(array, wish)

    def add(
        self,
        operator: str,
        *inputs: str,
        out: str = "",
        name: str | None = None,
        domain: str = "",
        **attributes: Any,
    ) -> str:
        """A node with one output.

        Args:
            operator: The operator.
            inputs: Names of its inputs; trailing empty ones are left out.
            out: Name of its output; a new one when empty.
            name: Of the node; that of the node that is expanded, when it makes the same output.
            domain: Its operator set.
            attributes: Its attributes: values, or attributes of another node.
        """
        made = out or self.into.new_name(f"{self.y}_{operator.lower()}")
        called = name if name is not None else (self.node.name if made == self.y else "")
        self.add_many(operator, inputs, [made], called, domain, **attributes)
        return made

    def add_many(
        self,
        operator: str,
        inputs: Sequence[str],
        outputs: Sequence[str],
        name: str = "",
        domain: str = "",
        **attributes: Any,
    ) -> None:
        """A node with the outputs named; see `add`."""
        given = list(inputs)
        while given and not given[-1]:
            given.pop()
        node = helper.make_node(operator, given, outputs, name=name or None, domain=domain or None)
        for key, value in attributes.items():
            taken = isinstance(value, onnx.AttributeProto)
            node.attribute.append(value if taken else helper.make_attribute(key, value))
        self.into.nodes.append(node)

    def refuse(self, reason: str) -> UnsupportedModelError:
        """The error that says why a node is not taken."""
        return UnsupportedModelError(f"{node_label(self.node)} {reason}")


Expand = Callable[[Expansion], None]
EXPANSIONS: dict[tuple[str, str], Expand] = {}


def expansion(*operators: str, domain: str = RUNTIME) -> Callable[[Expand], Expand]:
    """Registers a function that writes operators of a domain in standard ones.

    It adds nodes by `Expansion.add`, the last of which makes the node's own output; where it adds none, the
    node stays as it is.
    """

    def register(function: Expand) -> Expand:
        for operator in operators:
            EXPANSIONS[normalise_domain(domain), operator] = function
        return function

    return register
