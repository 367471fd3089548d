"""Making nodes, and what rules share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import NodeProto, TensorProto, helper, numpy_helper

__all__ = ["TO_THE_END", "Indices", "NodeMaker"]

Array = npt.NDArray[Any]
TO_THE_END = int(np.iinfo(np.int64).max)  # as the end of a slice
Indices = Sequence[int] | str  # numbers, or the name of an int64 tensor that holds them


class NodeMaker:
    """Collects nodes and constants; every method returns the name of the tensor it makes.

    Args:
        opset: Version of the default operator set the nodes are written for, 17 or later.
        element: Element type of the floating-point tensors (`onnx.TensorProto` constant).
        prefix: What the names of new tensors begin with.
        supports_scatter_add: Whether ScatterElements may add.

    Attributes:
        nodes: What was made, in order.
        initializers: Constants, in order.
    """

    def __init__(
        self,
        opset: int,
        element: int = TensorProto.FLOAT,
        prefix: str = "camrt_adjoint",
        supports_scatter_add: bool = True,
    ) -> None:
        self.opset = opset
        self.element = element
        self.supports_scatter_add = supports_scatter_add
        self.nodes: list[NodeProto] = []
        self.initializers: list[TensorProto] = []
        self._made = 0
        self._prefix = prefix

    def new_name(self) -> str:
        """A name nothing has yet."""
        self._made += 1
        return f"{self._prefix}_{self._made}"

    def add(self, operator: str, *inputs: str, **attributes: Any) -> str:
        """A node with one output."""
        output = self.new_name()
        self.nodes.append(helper.make_node(operator, inputs, [output], **attributes))
        return output

    def constant(self, values: Any) -> str:
        """An array: numbers with a fraction in the graph's element type, whole and truth ones as they are."""
        array = np.asarray(values)
        if array.dtype.kind == "f":
            array = array.astype(helper.tensor_dtype_to_np_dtype(self.element))
        elif array.dtype.kind in "iu":
            array = array.astype(np.int64)
        name = self.new_name()
        self.initializers.append(
            numpy_helper.from_array(np.ascontiguousarray(array).reshape(array.shape), name)
        )
        return name

    def indices(self, values: Indices) -> str:
        """Whole numbers as a tensor."""
        return values if isinstance(values, str) else self.constant(np.asarray(values, np.int64))

    # ---------------------------------------------------------------- arithmetic

    def number(self, value: float) -> str:
        """A scalar of the graph's element type."""
        return self.constant(np.float64(value))

    def as_float(self, name: str) -> str:
        """A tensor in the graph's element type: truth values become 0 and 1."""
        return self.add("Cast", name, to=self.element)

    def zeros(self, shape: str) -> str:
        """Zeros of the shape that an int64 tensor holds."""
        dtype = helper.tensor_dtype_to_np_dtype(self.element)
        return self.add("ConstantOfShape", shape, value=numpy_helper.from_array(np.zeros(1, dtype)))

    def masked(self, g: str, mask: str) -> str:
        """`g` where a truth tensor of its shape holds, else 0, whatever `g` is there."""
        return self.add("Where", mask, g, self.number(0.0))

    def multiply_or_zero(self, product: str, g: str) -> str:
        """A slope times `g`, but 0 where `g` is 0, infinite though the slope may be there.

        For functions that are infinite where their slope is.
        """
        return self.add("Where", self.add("Equal", g, self.number(0.0)), self.number(0.0), product)

    def divide_or_zero(self, product: str, divisor: str) -> str:
        """A cotangent divided by `divisor`, but 0 where that is 0.

        For functions that are finite where their slope is not, as √ at zero: of the slopes that a norm or a
        standard deviation has where it is zero, this takes the smallest, and nothing infinite goes on from
        there.
        """
        return self.add("Where", self.add("Equal", divisor, self.number(0.0)), self.number(0.0), product)

    def first_of(self, mask: str, axis: int) -> str:
        """A truth tensor with only the first true of `mask` along an axis left."""
        before = self.add("CumSum", self.as_float(mask), self.constant(np.int64(axis)), exclusive=1)
        return self.add("And", mask, self.add("Less", before, self.number(0.5)))

    # ---------------------------------------------------------------- shape

    def shape_of(self, name: str) -> str:
        """A tensor's shape."""
        return self.add("Shape", name)

    def reshaped_like(self, g: str, like: str) -> str:
        """`g` in the shape of another tensor of as many elements."""
        return self.add("Reshape", g, self.shape_of(like))

    def expanded_like(self, g: str, like: str) -> str:
        """`g` broadcast to the shape of another tensor."""
        return self.add("Expand", g, self.shape_of(like))

    def unsqueeze(self, name: str, axes: Sequence[int]) -> str:
        """Axes of size one put in."""
        return self.add("Unsqueeze", name, self.indices(axes))

    def squeeze(self, name: str, axes: Sequence[int]) -> str:
        """Axes of size one taken out."""
        return self.add("Squeeze", name, self.indices(axes))

    def slice(
        self,
        name: str,
        starts: Indices,
        ends: Indices,
        axes: Sequence[int],
        steps: Sequence[int] | None = None,
    ) -> str:
        """A part of a tensor."""
        rest = [] if steps is None else [self.indices(steps)]
        return self.add("Slice", name, self.indices(starts), self.indices(ends), self.indices(axes), *rest)

    def pad(self, name: str, pads: Indices, value: float = 0.0) -> str:
        """A number put around a tensor: all axes' beginnings, then all axes' ends."""
        rest = [] if value == 0.0 else [self.number(value)]
        return self.add("Pad", name, self.indices(pads), *rest, mode="constant")

    def crop(self, name: str, begin: Sequence[int], end: Sequence[int]) -> str:
        """A tensor without that many numbers at the beginning and end of each axis."""
        axes = [axis for axis, cut in enumerate(zip(begin, end, strict=True)) if any(cut)]
        if not axes:
            return name
        ends = [-end[axis] if end[axis] else TO_THE_END for axis in axes]
        return self.slice(name, [begin[axis] for axis in axes], ends, axes)

    def reshape(self, name: str, shape: Indices) -> str:
        """A tensor in another shape: 0 keeps an axis' size, −1 takes what is left."""
        return self.add("Reshape", name, self.indices(shape))

    def concat(self, names: Sequence[str], axis: int) -> str:
        """Tensors one behind the other."""
        return names[0] if len(names) == 1 else self.add("Concat", *names, axis=axis)

    def transpose(self, name: str, order: Sequence[int]) -> str:
        """Axes in another order."""
        return self.add("Transpose", name, perm=list(order))

    # ---------------------------------------------------------------- matrices

    def units(self, size: str) -> str:
        """The unit matrix (n, n); `size` is a tensor [n]."""
        return self.add("EyeLike", self.zeros(self.concat([size, size], 0)), dtype=self.element)

    def product_along(self, name: str, matrix: str, axis: int, rank: int) -> str:
        """A tensor multiplied by a matrix along one of its axes: Σ_i t[..., i, ...]·M[i, j]."""
        order = [*(other for other in range(rank) if other != axis), axis]
        moved = self.add("MatMul", self.transpose(name, order), matrix)
        return self.transpose(moved, [int(place) for place in np.argsort(order)])

    # ---------------------------------------------------------------- reductions

    def reduce(self, operator: str, name: str, axes: Sequence[int], *, keepdims: bool) -> str:
        """ReduceSum, ReduceMean, ReduceMax, ... over the axes given (never an empty list)."""
        if operator == "ReduceSum" or self.opset >= 18:
            return self.add(operator, name, self.indices(axes), keepdims=int(keepdims))
        return self.add(operator, name, axes=list(axes), keepdims=int(keepdims))

    def reduce_sum(self, name: str, axes: Sequence[int], *, keepdims: bool) -> str:
        """Σ over axes."""
        return self.reduce("ReduceSum", name, axes, keepdims=keepdims)

    def sum_to(self, g: str, shape: tuple[int, ...], like: str, like_shape: tuple[int, ...]) -> str:
        """What broadcasting did, undone: `g` summed over every axis along which `like` was repeated.

        Args:
            g: Tensor of shape `shape`.
            shape: Its shape, at the size the graph was analysed at.
            like: Tensor that was broadcast to that shape.
            like_shape: Its shape.
        """
        if shape == like_shape:
            return g
        lead = len(shape) - len(like_shape)
        repeated = [*range(lead)]
        repeated += [
            axis + lead for axis, size in enumerate(like_shape) if size == 1 and shape[axis + lead] != 1
        ]
        if not repeated:
            return g
        return self.reshaped_like(self.reduce_sum(g, repeated, keepdims=True), like)
