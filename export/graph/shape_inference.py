"""Shapes and element types of a graph's tensors when its input has a concrete shape.

First onnx's inference over the whole graph. What it leaves open is inferred node by node, with the small
values that follow from known shapes: the arithmetic that exporters put around sizes
(`camrt.export.graph.value_propagation`). onnx's own propagation of values takes a hundred bytes for each
number of any
vector that a file adds to another, however long: it is used only where all vectors are known to be short.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import onnx
from onnx import NodeProto, TypeProto, helper, numpy_helper, shape_inference

from camrt.errors import ModelFileError
from camrt.export.budget import check_deadline, with_deadline
from camrt.export.graph.traversal import normalise_domain
from camrt.export.graph.value_propagation import MAX_VALUES, Array, compute_value
from camrt.export.limits import quote_name

__all__ = [
    "NodeInference",
    "fixed_sizes",
    "infer_shapes",
    "propagate_values",
    "set_shape",
    "static_shape",
    "without_large_weights",
]

Shapes = dict[str, tuple[int, ...]]
MOST_PROPAGATED = 1 << 16  # numbers in a vector: above those of any layer's bias


class NodeInference:
    """Infers what single nodes make.

    Args:
        versions: The operator sets, by domain.
    """

    def __init__(self, versions: Mapping[str, int]) -> None:
        self._versions = versions
        self._opsets = [helper.make_opsetid(domain, version) for domain, version in versions.items()]
        self._schemas: dict[tuple[str, str], onnx.defs.OpSchema | None] = {}

    def __call__(
        self, node: NodeProto, types: Mapping[str, TypeProto], values: Mapping[str, Array]
    ) -> dict[str, TypeProto]:
        """The types of a node's outputs, given its inputs' and the values of some; empty when unknown."""
        check_deadline()
        schema = self._schema(node.op_type, normalise_domain(node.domain))
        if schema is None:
            return {}
        read = [name for name in node.input if name]
        operands = {name: numpy_helper.from_array(values[name]) for name in read if name in values}
        try:
            return shape_inference.infer_node_outputs(
                schema,
                node,
                {name: types.get(name, TypeProto()) for name in read},
                operands,
                opset_imports=self._opsets,
            )
        except Exception:  # onnx raises whatever its C++ throws; what it cannot infer is not refused
            return {}

    def _schema(self, operator: str, domain: str) -> onnx.defs.OpSchema | None:
        key = (operator, domain)
        if key not in self._schemas:
            version = self._versions.get(domain)
            if version is None or not onnx.defs.has(operator, version, domain):
                self._schemas[key] = None
            else:
                self._schemas[key] = onnx.defs.get_schema(operator, version, domain)
        return self._schemas[key]


def infer_shapes(model: onnx.ModelProto, input_shape: tuple[int, ...]) -> tuple[Shapes, dict[str, int]]:
    """Shapes and element types of all tensors when the only input has the given concrete shape.

    Raises:
        ModelFileError: They do not fit together.
    """
    skeleton = onnx.ModelProto()
    skeleton.CopyFrom(without_large_weights(model))
    graph = skeleton.graph
    del graph.value_info[:]
    set_shape(graph.input[0], input_shape)
    for output in graph.output:
        output.type.tensor_type.ClearField("shape")
    try:
        inferred = shape_inference.infer_shapes(skeleton).graph
    except Exception as error:  # onnx raises whatever its C++ throws
        raise ModelFileError(
            f"the model's shapes do not fit together for an input of shape {input_shape}: {error}"
        ) from error
    shapes: Shapes = {}
    types: dict[str, int] = {}
    for value in with_deadline([*inferred.input, *inferred.value_info, *inferred.output]):
        if value.type.tensor_type.elem_type:
            types[value.name] = value.type.tensor_type.elem_type
        shape = static_shape(value)
        if shape is not None and None not in shape:
            shapes[value.name] = tuple(size for size in shape if size is not None)
            if min(shapes[value.name], default=0) < 0:
                raise ModelFileError(
                    f"the model's shapes do not fit together for an input of shape {input_shape}: "
                    f"{quote_name(value.name)} would have shape {shapes[value.name]}"
                )
    for tensor in with_deadline(model.graph.initializer):
        shapes[tensor.name] = tuple(tensor.dims)
        types[tensor.name] = tensor.data_type
    propagate_values(model, shapes, types)
    for value in model.graph.output:  # what inference does not know, the file may say
        shape = static_shape(value)
        if value.name not in shapes and shape and None not in shape[1:]:
            shapes[value.name] = (input_shape[0], *(size for size in shape[1:] if size is not None))
            types[value.name] = value.type.tensor_type.elem_type
    return shapes, types


def fixed_sizes(model: onnx.ModelProto, found: Shapes) -> dict[str, tuple[int | None, ...]]:
    """Each tensor's sizes that are the same for every input the model declares; None for others.

    Args:
        model: The model.
        found: Those for one such input.
    """
    short = all(len(shape) != 1 or shape[0] <= MOST_PROPAGATED for shape in found.values())
    light = onnx.ModelProto()
    light.CopyFrom(without_large_weights(model))
    del light.graph.value_info[:]
    try:
        inferred = shape_inference.infer_shapes(light, data_prop=short).graph
    except Exception:  # onnx raises whatever its C++ throws; what it cannot infer is not refused
        return {}
    values = [*inferred.input, *inferred.value_info, *inferred.output]
    shapes = {value.name: static_shape(value) for value in with_deadline(values)}
    return {name: shape for name, shape in shapes.items() if shape is not None}


def propagate_values(model: onnx.ModelProto, shapes: Shapes, types: dict[str, int]) -> None:
    """Adds what follows from the values of computed sizes to the shapes and types that are known."""
    nodes = model.graph.node
    if all(name in shapes for node in nodes for name in node.output if name):
        return
    infer_node = NodeInference(
        {normalise_domain(entry.domain): entry.version for entry in model.opset_import}
    )
    values = {
        tensor.name: numpy_helper.to_array(tensor)
        for tensor in model.graph.initializer
        if math.prod(tensor.dims) <= MAX_VALUES
    }
    protos = {
        name: helper.make_tensor_type_proto(types[name], shape) if name in types else TypeProto()
        for name, shape in shapes.items()
    }
    for node in with_deadline(nodes):
        if any(name not in shapes for name in node.output if name):
            for name, kind in infer_node(node, protos, values).items():
                dims = [
                    dim.dim_value if dim.HasField("dim_value") else -1 for dim in kind.tensor_type.shape.dim
                ]
                known = kind.HasField("tensor_type") and kind.tensor_type.HasField("shape")
                if name in shapes or not known or min(dims, default=0) < 0:
                    continue
                shapes[name] = tuple(dims)
                types[name] = kind.tensor_type.elem_type
                protos[name] = kind
        values.update(compute_value(node, protos, values))


def without_large_weights(model: onnx.ModelProto, keep: int = 512) -> onnx.ModelProto:
    """The model with its initializers of more than `keep` numbers turned into typed inputs.

    It is light enough to copy about.
    """
    light = onnx.ModelProto(ir_version=model.ir_version)
    light.opset_import.extend(model.opset_import)
    graph = light.graph
    graph.name = model.graph.name
    graph.node.extend(model.graph.node)
    graph.input.extend(model.graph.input)
    graph.output.extend(model.graph.output)
    for tensor in with_deadline(model.graph.initializer):
        if math.prod(tensor.dims) <= keep:
            graph.initializer.append(tensor)
        else:
            graph.input.append(
                helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims))
            )
    graph.sparse_initializer.extend(model.graph.sparse_initializer)
    return light


def static_shape(value: onnx.ValueInfoProto) -> tuple[int | None, ...] | None:
    """A value's declared shape, None for each symbolic axis; None when no rank is declared."""
    tensor = value.type.tensor_type
    if not tensor.HasField("shape"):
        return None
    return tuple(axis.dim_value if axis.HasField("dim_value") else None for axis in tensor.shape.dim)


def set_shape(value: onnx.ValueInfoProto, shape: Iterable[int | str]) -> None:
    """Declares a value's shape: a number for a fixed axis, a name for a symbolic one."""
    declared = value.type.tensor_type.shape
    del declared.dim[:]
    for size in shape:
        if isinstance(size, str):
            declared.dim.add(dim_param=size)
        else:
            declared.dim.add(dim_value=size)
