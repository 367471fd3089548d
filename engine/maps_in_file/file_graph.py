"""A file's own graph, to which nodes are added: its own stay as they are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import count
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from camrt.export.graph.held_weights import tensor_values
from camrt.export.graph.index import Graph, names_read, opset
from camrt.export.graph.node_maker import NodeMaker
from camrt.export.graph.traversal import every_graph
from camrt.export.graph.upkeep import lift_constants, rename_tensors
from camrt.export.rewrites.input_form import IMAGES
from camrt.export.rewrites.interface import Interface, escape_name
from camrt.export.rewrites.opset_upgrade import upgrade_opset

__all__ = ["FileGraph"]

Array = npt.NDArray[Any]
PREFIX = "camrt_maps"


class FileGraph(NodeMaker):
    """Adds nodes behind those of a file.

    A tensor of the standardised model is the file's own of that name, where that has one; what only the
    standardised model has, such as logits that are made of probabilities, is copied from there.

    Args:
        model: The model as it was read; it is changed.
        graph: Index of the standardised model.
        interface: What that takes and gives.
        aliases: Further names of the standardised model's tensors, by what they are called in the file.
    """

    def __init__(
        self, model: onnx.ModelProto, graph: Graph, interface: Interface, aliases: Mapping[str, str]
    ) -> None:
        lift_constants(model)
        upgrade_opset(model)
        used = [name for node in model.graph.node for name in (*node.input, *node.output)]
        own_prefix = PREFIX
        while any(name.startswith(own_prefix) for name in used):
            own_prefix += "_"
        super().__init__(opset(model), prefix=own_prefix)
        self.model, self._source, self._interface = model, graph, interface
        self.image_input: str = model.graph.input[0].name
        self._stored: dict[str, TensorProto] = {tensor.name: tensor for tensor in model.graph.initializer}
        made = [name for node in model.graph.node for name in node.output if name]
        own = {escape_name(name): name for name in (*made, *self._stored)}
        self._names: dict[str, str] = own | dict(aliases)
        self._floats: dict[str, str] = {}
        self._parts = count()

    # ---------------------------------------------------------------- what the model holds

    def tensor(self, name: str) -> str:
        """A tensor of the standardised model, as it is."""
        if name == IMAGES and IMAGES not in self._names:
            self._names[IMAGES] = self._make_images()
        if name not in self._names:
            nodes = [self._source.nodes[i] for i in self._source.upstream_nodes(name, stop=[*self._names])]
            if any(IMAGES in names_read(node) for node in nodes):
                self.tensor(IMAGES)
            self._copy(nodes)
        return self._names[name]

    def floats(self, name: str) -> str:
        """A tensor of the standardised model in float32."""
        if name not in self._floats:
            given, kind = self.tensor(name), self._source.types.get(name, TensorProto.FLOAT)
            cast = kind != TensorProto.FLOAT
            self._floats[name] = self.add("Cast", given, to=TensorProto.FLOAT) if cast else given
        return self._floats[name]

    def _make_images(self) -> str:
        """The images as (N, C, H, W) float32, from the file's own input."""
        name = self.image_input
        if self._interface.element != TensorProto.FLOAT:
            name = self.add("Cast", name, to=TensorProto.FLOAT)
        return self.transpose(name, [0, 3, 1, 2]) if self._interface.layout == "NHWC" else name

    def _copy(self, nodes: list[NodeProto]) -> None:
        """Copies nodes of the standardised model, and the initializers that they read."""
        part = onnx.GraphProto()
        part.node.extend(nodes)
        read = {name for node in nodes for name in names_read(node)} - self._names.keys()
        part.initializer.extend(self._source.initializers[n] for n in read if n in self._source.initializers)
        outer = {name: self._names[name] for name in self._names}
        self._names |= self._add_part(part, outer)

    # ---------------------------------------------------------------- graphs of their own

    def run_part(self, part: onnx.ModelProto, feeds: Mapping[str, str]) -> dict[str, str]:
        """Adds a graph of its own.

        Args:
            part: The graph; its initializers that the file has too are not stored twice.
            feeds: For each of its inputs, the tensor that it gets.

        Returns:
            By the name of each output, the tensor that it is.
        """
        found = self._add_part(part.graph, dict(feeds))
        return {value.name: found[value.name] for value in part.graph.output}

    def _add_part(self, part: onnx.GraphProto, outer: dict[str, str]) -> dict[str, str]:
        """Adds the nodes of a graph under new names, but for those in `outer`; returns all names."""
        own = onnx.GraphProto()
        own.node.extend(part.node)
        kept = []
        for tensor in (*part.initializer,):
            same = self._stored.get(tensor.name)
            if same is not None and same.data_type == tensor.data_type and is_same_weight(same, tensor):
                outer[tensor.name] = tensor.name
            else:
                kept.append(tensor)
        number = next(self._parts)
        names = dict(outer)

        def rename(name: str) -> str:
            if name and name not in names:
                names[name] = f"{self._prefix}_{number}_{name}"
            return names.get(name, name)

        for tensor in kept:
            plain = numpy_helper.from_array(np.ascontiguousarray(tensor_values(tensor)), rename(tensor.name))
            self.initializers.append(plain)
        for sparse in part.sparse_initializer:
            self.model.graph.sparse_initializer.add().CopyFrom(sparse)
            renamed = self.model.graph.sparse_initializer[-1].values
            renamed.name = rename(renamed.name)
        rename_tensors(own, rename)
        for graph in every_graph(own):
            for node in graph.node:
                node.name = ""
        self.nodes.extend(own.node)
        return names

    # ---------------------------------------------------------------- weights

    def weight(self, values: Array) -> str:
        """A float32 array: one that the file stores, transposed perhaps, or else a new one."""
        for tensor in self._stored.values():
            if int(np.prod(tensor.dims)) != values.size or values.size < values.ndim:
                continue
            if tensor.data_type not in (TensorProto.FLOAT, TensorProto.FLOAT16):
                continue
            stored = np.asarray(tensor_values(tensor)).astype(np.float32)
            straight = np.array_equal(stored.reshape(values.shape), values)
            turned = not straight and stored.ndim == 2 and stored.shape[::-1] == flat_shape(values)
            if not straight and not (turned and np.array_equal(stored.T, values.reshape(flat_shape(values)))):
                continue
            name = tensor.name
            if tensor.data_type != TensorProto.FLOAT:
                name = self.add("Cast", name, to=TensorProto.FLOAT)
            if turned:
                name = self.transpose(name, [1, 0])
            same_shape = (stored.T if turned else stored).shape == values.shape
            return name if same_shape else self.reshape(name, values.shape)
        return self.constant(values)

    # ---------------------------------------------------------------- nodes

    @contextmanager
    def inner_nodes(self) -> Iterator[list[NodeProto]]:
        """Collects the nodes of a graph inside a node; what is stored stays outside, where that reads it."""
        outer, self.nodes = self.nodes, []
        try:
            yield self.nodes
        finally:
            self.nodes = outer

    def add_node(
        self, operator: str, inputs: Sequence[str], outputs: Sequence[str], **attributes: Any
    ) -> None:
        """A node with outputs of these names."""
        self.nodes.append(helper.make_node(operator, inputs, outputs, **attributes))

    def sizes(self, name: str, start: int, end: int) -> str:
        """Some of a tensor's sizes, int64."""
        return self.slice(self.shape_of(name), [start], [end], [0])

    def repeated(self, name: str, counts: str | int, rank: int) -> str:
        """Each row of a tensor (N, ...) that many times: (N·count, ...).

        Args:
            name: The tensor.
            counts: How often, or a tensor [1] that says so.
            rank: The tensor's number of axes.
        """
        if counts == 1:
            return name
        number = self.indices([counts]) if isinstance(counts, int) else counts
        front, rest = self.sizes(name, 0, 1), self.sizes(name, 1, rank)
        wide = self.add("Expand", self.unsqueeze(name, [1]), self.concat([front, number, rest], 0))
        return self.reshape(wide, self.concat([self.indices([-1]), rest], 0))

    def finish(self) -> None:
        """Puts what was made into the model."""
        self.model.graph.node.extend(self.nodes)
        self.model.graph.initializer.extend(self.initializers)

    def add_output(self, name: str, tensor: str, shape: list[str | int | None]) -> None:
        """Makes a tensor an output of the file."""
        self.nodes.append(helper.make_node("Identity", [tensor], [name]))
        self.model.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))


def flat_shape(values: Array) -> tuple[int, int]:
    """The shape of an array as a matrix of its first axis and all others."""
    return len(values), values.size // len(values)


def is_same_weight(first: TensorProto, second: TensorProto) -> bool:
    """Whether two stored tensors of a type hold the same."""
    return list(first.dims) == list(second.dims) and np.array_equal(
        tensor_values(first), tensor_values(second), equal_nan=False
    )
