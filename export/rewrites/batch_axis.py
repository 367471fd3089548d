"""Opening a graph's batch axis, and taking computed shapes out of it.

The cases, in order:

1. A Reshape whose output shape is known for the probe batch B and starts with B becomes
   `Reshape([-1, rest])`, whether its shape operand was a constant with the batch baked in or was computed
   from `Shape` nodes. What computed it is then read by nothing and is dropped.
2. What a `Shape` that is still read answers is put together from numbers, the batch size, and sizes that
   depend on how large the images are (`camrt.export.graph.size_tensors`). Paths of shapes then cross no cut:
   a head takes the batch size from its own input, and is told the other sizes.
3. The fixed batch size in the input's and the output's declarations becomes a name.
4. Anything else that bakes the batch in (Expand, Tile, ConstantOfShape) is left: the caller compares the
   rewritten graph with the original by running both, and keeps the original where they differ.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import count, groupby
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import NodeProto, helper, numpy_helper

from camrt.export.budget import with_deadline
from camrt.export.graph.index import Graph, attribute, set_shape
from camrt.export.graph.shape_inference import fixed_sizes
from camrt.export.graph.size_tensors import BATCH, SIZE_PREFIX, is_size_tensor, make_batch_size_nodes
from camrt.export.graph.upkeep import drop_unused, replace_nodes
from camrt.export.graph.value_propagation import MAX_VALUES, move_elements
from camrt.export.rewrites.input_form import IMAGES
from camrt.export.rewrites.interface import LOGITS, Interface

__all__ = ["has_shape_nodes", "open_batch", "share_sizes", "simplify_reshapes"]

Array = npt.NDArray[Any]

SHAPE_OF = "camrt_shape_behind_"  # what begins the names of the shapes that sizes are picked out of


def simplify_reshapes(model: onnx.ModelProto, graph: Graph) -> None:
    """Gives each Reshape that keeps the batch axis in front a constant shape [-1, rest], in place.

    Only valid for the image size that `graph` was built with: call it when that size is fixed.
    """
    batch = graph.input_shape[0]
    graph.observe(LOGITS)
    changed = False
    for node in with_deadline(model.graph.node):
        shape = rewritten_shape(graph, node, batch)
        if shape is None:
            continue
        name = f"camrt_shape_of_{node.output[0]}"
        model.graph.initializer.append(numpy_helper.from_array(np.array([-1, *shape], np.int64), name))
        node.input[1] = name
        changed = True
    if changed:
        drop_unused(model)


def rewritten_shape(graph: Graph, node: NodeProto, batch: int) -> tuple[int, ...] | None:
    """The shape behind the batch axis of a Reshape that needs rewriting; None for any other node."""
    if node.op_type != "Reshape":
        return None
    before, after = graph.shape(node.input[0]), graph.shape(node.output[0])
    if before is None or after is None or not after or before[:1] != (batch,) or after[0] != batch:
        return None
    wanted = graph.constant(node.input[1])
    if wanted is not None and wanted.size and wanted.flat[0] in (0, -1) and (wanted.flat[1:] >= 0).all():
        return None  # open already
    if 0 in after:
        return None
    return after[1:]


def has_shape_nodes(model: onnx.ModelProto) -> bool:
    """Whether a node asks for a tensor's shape."""
    return any(node.op_type == "Shape" for node in model.graph.node)


def share_sizes(
    model: onnx.ModelProto, graphs: list[Graph], *, fixed_size: bool, batch_is_fixed: bool = False
) -> None:
    """Puts the answer of each `Shape` together of numbers and sizes, see `camrt.export.graph.size_tensors`.

    What only moves such answers about (Gather, Slice, Concat, ...) is put together anew, too: what picks one
    size out of a shape depends on no other.

    Args:
        model: The model.
        graphs: Its index at one batch size or more: what grows with the batch in all of them is its size.
        fixed_size: Whether the image size is fixed, to that of the graphs.
        batch_is_fixed: Whether the batch size is a fixed size like any other.
    """
    for graph in graphs:
        graph.observe(LOGITS)
    sizes = _SizeSharing(model, graphs, fixed_size, batch_is_fixed)
    for node in with_deadline(model.graph.node):
        sizes.take(node)
    counted = any(BATCH in node.output for node in sizes.nodes)
    replace_nodes(model.graph, [*([] if counted else make_batch_size_nodes(IMAGES)), *sizes.nodes])
    model.graph.initializer.extend(sizes.initializers)
    drop_unused(model)


class _SizeSharing:
    """The nodes of a model with sizes brought to one form.

    Attributes:
        nodes: What there is of them so far, in order.
        initializers: Constants that were added.
    """

    def __init__(
        self, model: onnx.ModelProto, graphs: list[Graph], fixed_size: bool, batch_is_fixed: bool
    ) -> None:
        self.nodes: list[NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self._graphs = graphs
        self._batch_is_fixed = batch_is_fixed
        self._declared = None if fixed_size else fixed_sizes(model, graphs[0].shapes)
        # What is known of an int64 tensor: its elements as numbers, or as names of tensors [1].
        self._parts: dict[str, Array] = {}
        self._made = {name for node in model.graph.node for name in node.output}
        self._numbers = count()
        self._taken = {tensor.name for tensor in model.graph.initializer}

    def take(self, node: NodeProto) -> None:
        """Adds a node, or what stands for it."""
        if any(map(is_size_tensor, node.output)) or node.output[0].startswith(SHAPE_OF):
            self._take_size(node)
            return
        parts = self._answer(node) if node.op_type == "Shape" else move_elements(node, self._known)
        if parts is None or parts.size > MAX_VALUES:
            self.nodes.append(node)
            return
        output = node.output[0]
        elements = parts.reshape(-1).tolist()
        if not any(isinstance(element, str) for element in elements):
            if node.op_type != "Shape" and not any(name in self._parts for name in node.input):
                self.nodes.append(node)  # a constant of another kind
                return
            self._parts[output] = parts.astype(np.int64)
            self.initializers.append(numpy_helper.from_array(self._parts[output], output))
            return
        self._parts[output] = parts
        if parts.ndim > 1:
            self.nodes.append(node)
        elif parts.ndim == 0:
            self.nodes.append(
                helper.make_node("Gather", [elements[0], self._constant(np.int64(0))], [output], axis=0)
            )
        else:
            named = [
                self._run(run, kind) for kind, run in groupby(elements, lambda item: isinstance(item, str))
            ]
            names = [name for run in named for name in run]
            self.nodes.append(helper.make_node("Concat", names, [output], axis=0))

    def _take_size(self, node: NodeProto) -> None:
        """Adds a node that an earlier call made of a size, or the number that it is known to be by now."""
        made, graph = node.output[0], self._graphs[0]
        if made in graph.sizes and made != BATCH:
            source = graph.size_source(made)
            axis = int(made.rpartition("_")[2])
            value = graph.value_at_probe(made)
            if node.op_type == "Gather" and value is not None and self._is_fixed(source, axis):
                self._parts[made] = value
                self.initializers.append(numpy_helper.from_array(value, made))
                return
            self._parts[made] = np.array([made], object)
        self.nodes.append(node)

    def _known(self, name: str) -> Array | None:
        """The parts of a tensor, or its value when it is a small constant."""
        if name in self._parts:
            return self._parts[name]
        graph = self._graphs[0]
        shape = graph.shapes.get(name)
        if shape is None or math.prod(shape) > MAX_VALUES or name in graph.dependent:
            return None
        value = graph.constant(name)
        return value if value is not None and value.dtype == np.int64 else None

    def _run(self, run: Iterable[int | str], named: bool) -> list[str]:
        """Tensors for a run of names, or of numbers."""
        if named:
            return [str(name) for name in run]
        return [self._constant(np.array(list(run), np.int64))]

    def _constant(self, value: Any) -> str:
        name = next(name for i in self._numbers if (name := f"camrt_numbers_{i}") not in self._taken)
        self._taken.add(name)
        self.initializers.append(numpy_helper.from_array(np.asarray(value, np.int64), name))
        return name

    def _answer(self, node: NodeProto) -> Array | None:
        """The parts of what a `Shape` answers; None when one of them is not understood."""
        name = node.input[0]
        shapes = [graph.shapes.get(name) for graph in self._graphs]
        known = [shape for shape in shapes if shape is not None]
        if name not in self._graphs[0].dependent or len(known) < len(shapes):
            return None
        axes = range(len(known[0]))[attribute(node, "start", 0) : attribute(node, "end")]
        parts = [self._part(name, axis, [shape[axis] for shape in known]) for axis in axes]
        if any(part is None for part in parts):
            return None
        answer = np.empty(len(parts), object)
        answer[:] = parts
        return answer

    def _part(self, name: str, axis: int, found: list[int]) -> int | str | None:
        """One size of a tensor, given what it is in each of the graphs."""
        batches = [graph.input_shape[0] for graph in self._graphs]
        several = len(batches) > 1
        if found == batches and not self._batch_is_fixed and (several or axis == 0):
            return BATCH
        if not several and not self._batch_is_fixed and axis == 0:
            return None
        if len(set(found)) == 1:
            return found[0] if self._is_fixed(name, axis) else self._size(name, axis)
        ratios = {size // batch for size, batch in zip(found, batches, strict=True)}
        if len(ratios) > 1 or any(size % batch for size, batch in zip(found, batches, strict=True)):
            return None
        fixed = self._declared is None
        each = (
            self._constant(np.array([*ratios], np.int64)) if fixed else self._size(name, axis, by_batch=True)
        )
        made = f"camrt_rows_{name}_{axis}"
        if made not in self._made:
            self._made.add(made)
            self.nodes.append(helper.make_node("Mul", [BATCH, each], [made]))
        return made

    def _is_fixed(self, name: str, axis: int) -> bool:
        if self._declared is None:
            return True
        shape = self._declared.get(name, ())
        return axis < len(shape) and shape[axis] is not None

    def _size(self, name: str, axis: int, *, by_batch: bool = False) -> str:
        """The tensor [1] that holds one size of a tensor, or that size over the batch size."""
        made = f"{SIZE_PREFIX}{name}_{axis}"
        if made not in self._made:
            self._made.add(made)
            whole = f"camrt_whole_{name}_{axis}" if by_batch else made
            shape = f"{SHAPE_OF}{name}_{axis}"
            index = self._constant(np.array([axis], np.int64))
            self.nodes.append(helper.make_node("Shape", [name], [shape]))
            self.nodes.append(helper.make_node("Gather", [shape, index], [whole], axis=0))
            if by_batch:
                self.nodes.append(helper.make_node("Div", [whole, BATCH], [made]))
        return made


def open_batch(model: onnx.ModelProto, interface: Interface) -> None:
    """Names the batch axis of a graph whose Reshapes have been simplified, in place."""
    set_shape(
        model.graph.input[0],
        ["N", interface.channels, interface.height or "height", interface.width or "width"],
    )
    output = next(value for value in model.graph.output if value.name == LOGITS)
    set_shape(output, ["N", interface.num_classes])
    del model.graph.value_info[:]
