"""The size of what each node makes, found before any runtime sees the model.

A few constants can ask for terabytes (`ConstantOfShape`, `Expand`, `Tile`, `Pad`, ...) or for a tensor of
10⁹ dimensions (`Gather` of `Gather` of ...), and runtimes evaluate such nodes while they load. So shapes
are inferred here first, for the smallest input that the model allows: every dimension it leaves open is 1.

The inference is onnx's own, one node at a time, so that a result is refused before anything is inferred
from it; onnx's whole-model inference follows such a chain to the end, in time and memory exponential in
its length. Between nodes, small values known beforehand (the arithmetic of shapes) are computed here.
What cannot be inferred is not refused.
"""

from __future__ import annotations

import math
from collections import ChainMap
from collections.abc import Mapping, Sequence

import onnx
from onnx import TensorProto, TypeProto, helper, numpy_helper

from camrt.errors import ModelFileError, UnsafeModelError
from camrt.export.budget import check_deadline, with_deadline
from camrt.export.graph.shape_inference import NodeInference
from camrt.export.graph.traversal import node_label, node_subgraphs, normalise_domain
from camrt.export.graph.upkeep import constant_tensor
from camrt.export.graph.value_propagation import (
    MAX_VALUES,
    NUMPY_TYPES,
    Array,
    compute_value,
    type_shape,
)
from camrt.export.limits import ReadingLimits, claimed_bytes, element_bits, human_count, quote_name

__all__ = ["ResultSizes"]

# Operators whose operand of this index has one value per dimension of the result.
_SHAPE_OPERAND = {
    "AffineGrid": 1,
    "CenterCropPad": 1,
    "Col2Im": 1,
    "ConstantOfShape": 0,
    "Expand": 1,
    "MaxUnpool": 2,
    "Reshape": 1,
    "Resize": 3,
    "Tile": 1,
    "Upsample": 1,
}

# Those of them whose result has at least as many elements as the operand's product.
_AT_LEAST = ("ConstantOfShape", "Expand", "Tile")


class ResultSizes:
    """Checks nodes one after another, and refuses those whose result is too large for any input.

    Args:
        graph: A graph without local functions, whose nodes and tensors have been checked.
        versions: The operator sets it uses.
        limits: What is allowed.

    Attributes:
        types: What is known of every tensor so far.
    """

    def __init__(self, graph: onnx.GraphProto, versions: Mapping[str, int], limits: ReadingLimits) -> None:
        self._sizes = _SizeChecker(versions, limits)
        self.types: ChainMap[str, TypeProto] = ChainMap()
        self._values: ChainMap[str, Array] = ChainMap()
        self._sizes.begin(graph, self.types, self._values)

    def store(self, tensor: TensorProto) -> None:
        """Registers a stored tensor that later nodes may read."""
        self._sizes.store(tensor.name, tensor, self.types, self._values)

    def add(self, node: onnx.NodeProto) -> None:
        """Looks at the next node.

        Raises:
            ModelFileError: A result with a negative dimension, by a constant operand.
            UnsafeModelError: A result with more bytes or dimensions than the limits allow.
        """
        self._sizes.add(node, self.types, self._values)


_SINGLE_NUMBERS = {"Loop": (0, 1), "OneHot": (1,)}


def check_single_numbers(node: onnx.NodeProto, types: Mapping[str, TypeProto]) -> None:
    """Check that what is read as one number may not be none, for which a runtime would end the process.

    Raises:
        ModelFileError: It is empty, or has an axis whose length is not known.
    """
    if normalise_domain(node.domain):
        return
    for place in _SINGLE_NUMBERS.get(node.op_type, ()):
        name = node.input[place] if place < len(node.input) else ""
        kind = types.get(name)
        if not name or kind is None or not kind.tensor_type.HasField("shape"):
            continue
        if any(axis.dim_value < 1 for axis in kind.tensor_type.shape.dim):
            raise ModelFileError(
                f"{node_label(node)} reads one number from {quote_name(name)}, which may hold none"
            )


class _SizeChecker:
    def __init__(self, versions: Mapping[str, int], limits: ReadingLimits) -> None:
        self._limits = limits
        self._fine_bits = 8 * limits.max_tensor_bytes
        self._infer = NodeInference(versions)
        # Values the file states, rather than those computed for the smallest input.
        self._stated: set[str] = set()

    def visit(
        self, graph: onnx.GraphProto, types: ChainMap[str, TypeProto], values: ChainMap[str, Array]
    ) -> list[TypeProto]:
        """Check the nodes of a graph and its subgraphs, and return the types of its outputs."""
        types, values = types.new_child(), values.new_child()
        self.begin(graph, types, values)
        for node in graph.node:
            self.add(node, types, values)
        return [types.get(item.name, TypeProto()) for item in graph.output]

    def begin(
        self, graph: onnx.GraphProto, types: ChainMap[str, TypeProto], values: ChainMap[str, Array]
    ) -> None:
        """Take a graph's inputs and initializers."""
        for item in graph.input:
            types[item.name] = self._smallest(item)
        for tensor in with_deadline(graph.initializer):
            self.store(tensor.name, tensor, types, values)
        for sparse in graph.sparse_initializer:
            types[sparse.values.name] = helper.make_tensor_type_proto(
                sparse.values.data_type, list(sparse.dims)
            )

    def add(
        self, node: onnx.NodeProto, types: ChainMap[str, TypeProto], values: ChainMap[str, Array]
    ) -> None:
        """Check a node and its subgraphs, and note what is known of its results."""
        check_deadline()
        if normalise_domain(node.domain) == "" and node.op_type == "Constant":
            self._constant(node, types, values)
            return
        check_single_numbers(node, types)
        inner = [self.visit(subgraph, types, values) for subgraph in node_subgraphs(node)]
        if inner:
            results = _agreed(node, inner)
        else:
            self._check_operand(node, types, values)
            results = self._infer(node, types, values)
        for name in node.output:
            result = results.get(name)
            if name and result is not None and self._allowed(name, result, node):
                types[name] = result
        if not inner:
            values.update(compute_value(node, types, values))

    def _smallest(self, item: onnx.ValueInfoProto) -> TypeProto:
        """The type of an input with every dimension that it leaves open (some write -1) as 1."""
        result = TypeProto()
        result.CopyFrom(item.type)
        if result.HasField("tensor_type") and result.tensor_type.HasField("shape"):
            tensor = result.tensor_type
            for dim in tensor.shape.dim:
                if not dim.HasField("dim_value") or dim.dim_value == -1:
                    dim.dim_value = 1
            dims = [dim.dim_value for dim in tensor.shape.dim]
            # Refuses negative dimensions too, on which onnx's inference of a Slice aborts the process.
            claimed_bytes(tensor.elem_type, dims, f"input {quote_name(item.name)}", self._limits)
        return result

    def store(
        self,
        name: str,
        tensor: TensorProto,
        types: ChainMap[str, TypeProto],
        values: ChainMap[str, Array],
    ) -> None:
        types[name] = helper.make_tensor_type_proto(tensor.data_type, list(tensor.dims))
        if math.prod(tensor.dims) <= MAX_VALUES and tensor.data_type in NUMPY_TYPES:
            values[name] = numpy_helper.to_array(tensor)
            self._stated.add(name)

    def _constant(
        self, node: onnx.NodeProto, types: ChainMap[str, TypeProto], values: ChainMap[str, Array]
    ) -> None:
        if len(node.output) != 1 or len(node.attribute) != 1:
            raise ModelFileError(f"{node_label(node)} has not one value and one output")
        name, attribute = node.output[0], node.attribute[0]
        if (tensor := constant_tensor(node)) is not None:
            self.store(name, tensor, types, values)
        elif attribute.name == "sparse_value":
            sparse = attribute.sparse_tensor
            types[name] = helper.make_tensor_type_proto(sparse.values.data_type, list(sparse.dims))

    def _check_operand(
        self, node: onnx.NodeProto, types: Mapping[str, TypeProto], values: Mapping[str, Array]
    ) -> None:
        """Check the operand that gives a result's shape, even where the rest of the node is unknown."""
        index = _SHAPE_OPERAND.get(node.op_type) if normalise_domain(node.domain) == "" else None
        if index is None or index >= len(node.input):
            return
        name = node.input[index]
        shape = type_shape(types.get(name))
        if shape is not None and math.prod(shape) > self._limits.max_rank:
            raise UnsafeModelError(
                f"the result of {node_label(node)} would have {human_count(math.prod(shape))} dimensions; "
                f"at most {self._limits.max_rank} are allowed"
            )
        if name not in values or node.op_type not in _AT_LEAST:
            return
        dims = [int(dim) for dim in values[name].reshape(-1)]
        label = f"the result of {node_label(node)}"
        if min(dims, default=0) < 0:
            if name in self._stated and node.op_type != "Expand":
                raise ModelFileError(f"{label} would have a negative dimension: {dims[:8]}")
            return
        claimed_bytes(TensorProto.UINT8, dims, label, self._limits)

    def _allowed(self, name: str, result: TypeProto, node: onnx.NodeProto) -> bool:
        """Whether an inferred type is usable; raises where it is too large."""
        if not result.HasField("tensor_type"):
            return True
        tensor = result.tensor_type
        dims = [dim.dim_value if dim.HasField("dim_value") else 1 for dim in tensor.shape.dim]
        if any(dim < 0 for dim in dims):
            return False  # the smallest input is too small for this node, or this node cannot run at all
        kind = tensor.elem_type or TensorProto.UINT8
        bits = element_bits(kind)
        if bits and len(dims) <= self._limits.max_rank and math.prod(dims) * bits <= self._fine_bits:
            return True
        try:
            claimed_bytes(kind, dims, f"the result {quote_name(name)} of {node_label(node)}", self._limits)
        except UnsafeModelError:
            raise
        except ModelFileError:  # an element type that camrt does not know
            return False
        return True


def _agreed(node: onnx.NodeProto, branches: Sequence[Sequence[TypeProto]]) -> dict[str, TypeProto]:
    """The types of an If's results, where its branches make the same."""
    if node.op_type != "If" or any(len(branch) != len(node.output) for branch in branches):
        return {}
    return {
        name: kinds[0]
        for name, kinds in zip(node.output, zip(*branches, strict=True), strict=True)
        if all(kind == kinds[0] for kind in kinds)
    }
