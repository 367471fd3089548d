"""Tensors that go around a cut, as rows: one an image.

A head is run on altered activations of any images in any order, and takes what goes around the cut by the
row. Not every tensor has its images in front, so it leaves the trunk, and enters the head, in one of these
forms:

1. (N, ...) as it is;
2. images along another axis, or each with several numbers of an axis, as windows and attention's heads are:
   that axis is taken apart and its images put in front, and back again in the head;
3. a size (`camrt.export.graph.size_tensors`) is the same for all images: it is repeated, and the head reads
the first;
4. where one image is run at a time, any tensor is its row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from camrt.errors import CutError
from camrt.export.graph.index import Graph
from camrt.export.graph.node_maker import TO_THE_END, NodeMaker
from camrt.export.graph.size_tensors import BATCH, is_size_tensor
from camrt.export.rewrites.interface import LOGITS

__all__ = ["RowFormat", "find_row_format"]


@dataclass(frozen=True)
class RowFormat:
    """How a tensor that bypasses the cut is converted to one row per image, and back.

    Attributes:
        kind: "rows" for images along an axis, "size" for what is the same for all, "single" for a tensor of
            the only image.
        axis: The axis the images are along.
        each: Numbers of that axis an image has.
    """

    kind: Literal["rows", "size", "single"] = "rows"
    axis: int = 0
    each: int = 1

    @property
    def is_batch_first(self) -> bool:
        """Whether the tensor has a row an image already."""
        return self == RowFormat()

    def row(self, shape: Sequence[int | str]) -> list[int | str]:
        """The shape of one image's row, given the tensor's."""
        if self.kind == "size":
            return [1]
        if self.kind == "single":
            return list(shape)
        rest = [*shape[: self.axis], *shape[self.axis + 1 :]]
        return rest if self.each == 1 else [*rest[: self.axis], self.each, *rest[self.axis :]]

    def to_rows(self, make: NodeMaker, name: str, rank: int, batch: int | None) -> str:
        """Nodes that bring a tensor to rows.

        Args:
            make: Makes them.
            name: The tensor.
            rank: Its number of axes.
            batch: Fixed number of images; None reads `BATCH`.
        """
        if self.kind == "size":
            count = BATCH if batch is None else make.indices([batch])
            return make.add("Expand", name, make.concat([count, make.indices([1])], 0))
        if self.kind == "single":
            return make.unsqueeze(name, [0])
        apart = name
        if self.each > 1:
            apart = self._reshaped(make, name, [-1, self.each], self.axis + 1)
            rank += 1
        order = [self.axis, *(axis for axis in range(rank) if axis != self.axis)]
        return make.transpose(apart, order) if self.axis else apart

    def from_rows(self, make: NodeMaker, name: str, rank: int) -> str:
        """Nodes that make the tensor, of that many axes, of its rows again."""
        if self.kind == "size":
            return make.reshape(make.slice(name, [0], [1], [0]), [1])
        if self.kind == "single":
            return make.squeeze(name, [0])
        together = name
        inner = rank + (self.each > 1)
        if self.axis:
            order = [*range(1, self.axis + 1), 0, *range(self.axis + 1, inner)]
            together = make.transpose(name, order)
        return self._reshaped(make, together, [-1], self.axis + 2) if self.each > 1 else together

    def _reshaped(self, make: NodeMaker, name: str, middle: Sequence[int], behind: int) -> str:
        """A tensor whose axes from that of the images to `behind` become those of `middle`."""
        shape = make.shape_of(name)
        front = [make.slice(shape, [0], [self.axis], [0])] if self.axis else []
        back = make.slice(shape, [behind], [TO_THE_END], [0])
        return make.reshape(name, make.concat([*front, make.indices(middle), back], 0))


def find_row_format(graph: Graph, name: str, batch: int | None) -> RowFormat:
    """How a tensor is carried by the row; an axis that grows with the batch is that of the images.

    Args:
        graph: The graph.
        name: The tensor.
        batch: Fixed batch size of the graph; None when it is open.

    Raises:
        CutError: The tensor has no rows of images.
    """
    shape, count = graph.shape(name), graph.input_shape[0]
    if is_size_tensor(name):
        return RowFormat("size")
    if shape is None or shape[:1] == (count,):
        return RowFormat()
    if batch == 1:
        return RowFormat("single")
    if batch is None:
        twin = graph.at_other_batch()
        twin.observe(LOGITS)
        other, more = twin.shape(name) or (), twin.input_shape[0]
        grown = [axis for axis, sizes in enumerate(zip(shape, other, strict=False)) if len(set(sizes)) > 1]
        if len(other) == len(shape) and len(grown) == 1:
            each, left = divmod(shape[grown[0]], count)
            if not left and each * more == other[grown[0]]:
                return RowFormat("rows", grown[0], each)
    raise CutError(
        f"{name!r} goes around the cut, and which of its numbers belong to which image cannot be told from "
        f"its shape {shape}: choose another target (engine.targets() of the model without target= lists them)"
    )
