"""What methods ask about the head of a file, answered by nodes: as `camrt.engine.heads` answers it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from camrt.engine.head_making import ALTERED, CutTensors, ModelToCut
from camrt.engine.maps_in_file.box_sums import Boxes, ListedBoxes, group_boxes
from camrt.engine.maps_in_file.map_tensors import MapTensors, ScoreWriter
from camrt.engine.methods.boxes import Assignment
from camrt.engine.scores import ScoreKind
from camrt.errors import MethodError
from camrt.export.adjoint import GRADIENT, WEIGHTING, ReluRule, build_adjoint_model
from camrt.export.geometry.builtin_preprocessing import find_builtin_preprocessing
from camrt.export.heads.batch_rows import find_row_format
from camrt.export.heads.cut import build_head_model, extra_input_name
from camrt.export.heads.factoring import MAP
from camrt.export.rewrites.input_form import IMAGES
from camrt.export.rewrites.interface import LOGITS, Interface

__all__ = ["Gradient", "HeadAnswers"]

Masks = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Gradient:
    """A gradient with respect to the activation.

    Attributes:
        tensor: (N, T, K, h, w), or (N, T, K) where it is the same in every cell.
        is_constant: Whether it is.
    """

    tensor: str
    is_constant: bool


class HeadAnswers:
    """Answers of a head of any form: altered activations are run through its graph.

    Args:
        tensors: What the maps are of.
        whole: The standardised model.
        cut: Where it is cut.
    """

    def __init__(self, tensors: MapTensors, whole: ModelToCut, cut: CutTensors) -> None:
        self.tensors, self.make = tensors, tensors.make
        self._whole, self._cut = whole, cut

    # ---------------------------------------------------------------- the graph

    @cached_property
    def _beside(self) -> list[tuple[str, str, int]]:
        """What goes around the cut: the name it enters the head under, a row an image, and its rank."""
        make, graph, found = self.make, self._whole.graph, []
        for number, name in enumerate(self._cut.around):
            rows, rank = (
                find_row_format(graph, name, self._whole.interface.batch),
                len(graph.shape(name) or ()),
            )
            given = make.floats(name)
            if rows.kind == "size":
                row, rank = (
                    make.add("Expand", given, make.concat([self.tensors.images, make.indices([1])], 0)),
                    2,
                )
            else:
                row = rows.to_rows(make, given, rank, 1 if rows.kind == "single" else None)
                rank = 1 + len(rows.row([0] * rank))
            found.append((extra_input_name(number), row, rank))
        return found

    def _feeds_beside(self, each: str | int) -> dict[str, str]:
        """What goes around the cut, by name, for `each` altered activations of every image in turn."""
        return {name: self.make.repeated(row, each, rank) for name, row, rank in self._beside}

    def run_head(self, rows: str, each: str | int) -> str:
        """Logits (B, C) of altered activations (B, K, h, w), `each` of them of every image in turn."""
        part = build_head_model(
            self._whole.model,
            self._whole.graph,
            self._cut.target,
            LOGITS,
            input_name=MAP,
            batch=self._whole.interface.batch,
            extra_inputs=self._cut.around,
        )
        return self.make.run_part(part, {MAP: rows, **self._feeds_beside(each)})[part.graph.output[0].name]

    def run_model(self, images: str) -> str:
        """Logits (B, C) of other images (B, C, H, W)."""
        whole = self._whole
        part = build_head_model(
            whole.model, whole.graph, IMAGES, LOGITS, input_name=ALTERED, batch=whole.interface.batch
        )
        return self.make.run_part(part, {ALTERED: images})[part.graph.output[0].name]

    @cached_property
    def moves_pixels(self) -> bool:
        """Whether the file shows maps a part of its images alone."""
        return bool(find_builtin_preprocessing(self._whole.graph, self.interface.element).spatial_steps)

    def full_scores(self, kind: ScoreKind) -> str:
        """(N, T): the scores of the images as they are."""
        return ScoreWriter(self.tensors, kind).read(self.tensors.logits, 2)

    @cached_property
    def _empty_logits(self) -> str:
        """(N, C), or (1, C): the logits of an all-zero activation."""
        shape = self.make.shape_of(self.tensors.activation)
        return self.run_head(self.make.zeros(shape), 1)

    def empty_scores(self, kind: ScoreKind) -> str:
        """(N, T): the scores of an all-zero activation."""
        logits = self.make.add("Expand", self._empty_logits, self.make.shape_of(self.tensors.logits))
        return ScoreWriter(self.tensors, kind).read(logits, 2)

    # ---------------------------------------------------------------- questions

    def class_maps(self) -> str:
        """(N, T, h, w): the targets' class maps."""
        raise MethodError("cam: needs a linear layer behind global pooling")

    def scores_without_channels(self, kind: ScoreKind) -> str:
        """(N, T, K): the scores with channel k of the activation set to zero."""
        channels = self.tensors.channels
        others = 1.0 - np.eye(channels)
        altered = self._multiplied(others.reshape(1, channels, channels, 1, 1))
        return self._scores(self.run_head(altered, channels), kind, [channels])

    def box_groups(self, shapes: Sequence[tuple[int, int]], assignment: Assignment) -> list[Boxes]:
        """Boxes of cells, in the groups that `box_scores` answers about."""
        if self.tensors.cells is None:
            raise MethodError(
                "pixab: the file leaves the images' size open, and what follows its cut has to be run for "
                "each box of cells: export it with a fixed size"
            )
        return group_boxes(self.make, shapes, assignment, self.tensors.cells, listed=True)

    def box_scores(
        self, boxes: Boxes, kind: ScoreKind, *, delete: bool, keep: bool
    ) -> tuple[str | None, str | None]:
        """Scores (N, a, b, T) with each box set to zero, and with nothing but the box kept."""
        assert isinstance(boxes, ListedBoxes)
        inside = boxes.covered[None, :, None]

        def ask(masks: Masks) -> str:
            count = masks.shape[1]
            found = self._scores(self.run_head(self._multiplied(masks), count), kind, [count], last=True)
            return self.make.unsqueeze(found, [2])

        return ask(1.0 - inside) if delete else None, ask(inside) if keep else None

    def gradient(self, kind: ScoreKind) -> Gradient:
        """The gradient of the score with respect to the activation."""
        rows = self.run_adjoint(self._cut.target, self.tensors.activation, kind)
        return Gradient(self.tensors.per_target(rows, 4), is_constant=False)

    @property
    def interface(self) -> Interface:
        """What the model takes and gives."""
        return self._whole.interface

    @property
    def joint(self) -> str | None:
        """Of a CALM model, the tensor log p(y,z|x), (N, C, h, w)."""
        return self._whole.interface.joint

    def run_adjoint(
        self, start: str, at: str, kind: ScoreKind, rank: int = 4, *, relu: ReluRule = "plain"
    ) -> str:
        """(N·T, ...): the gradient of the score with respect to a tensor of the head.

        Args:
            start: The tensor.
            at: What it is in the file.
            kind: Which score.
            rank: Its number of axes.
            relu: How ReLUs pass gradients on.
        """
        make, tensors = self.make, self.tensors
        around = self._cut.around if start == self._cut.target else ()
        part = build_adjoint_model(
            self._whole.model,
            self._whole.graph,
            start,
            input_name=MAP,
            batch=self._whole.interface.batch,
            extra_inputs=around,
            relu=relu,
            supports_scatter_add=False,  # which not every runtime of files has
        )
        if start in (IMAGES, self._cut.target):
            # Behind another tensor the adjoint has layers of its own: a runtime that takes those of the model
            # for them splits what it had put together in the model, whose outputs' last bits then change.
            at = make.add("Where", make.add("IsNaN", at), make.number(0.0), at)
        weighting = make.reshape(ScoreWriter(tensors, kind).weighting(), [-1, tensors.classes])
        feeds = {MAP: make.repeated(at, tensors.repeats, rank), WEIGHTING: weighting}
        if around:
            feeds |= self._feeds_beside(tensors.repeats)
        return make.run_part(part, feeds)[GRADIENT]

    def _multiplied(self, masks: Masks) -> str:
        """(N·P, K, h, w): the activation times masks (1, P, K or 1, h or 1, w or 1)."""
        make = self.make
        wide = make.add("Mul", make.unsqueeze(self.tensors.activation, [1]), make.constant(masks))
        sizes = make.sizes(self.tensors.activation, 1, 4)
        return make.reshape(wide, make.concat([make.indices([-1]), sizes], 0))

    def _scores(self, logits: str, kind: ScoreKind, counts: list[int], *, last: bool = False) -> str:
        """Scores (N, T, P), or (N, P, T) where `last`, of logits (N·P, C)."""
        make = self.make
        apart = make.reshape(logits, [-1, *counts, self.tensors.classes])
        found = ScoreWriter(self.tensors, kind).read(apart, 2 + len(counts))
        return found if last else make.transpose(found, [0, 2, 1])
