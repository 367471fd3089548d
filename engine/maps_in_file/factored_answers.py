"""Answers of a head ψ ∘ P ∘ φ by its algebra: no altered activation is run, see `camrt.engine.heads`."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np
from typing_extensions import override

from camrt.engine.head_making import CutTensors, ModelToCut
from camrt.engine.heads.contributions import border_size
from camrt.engine.maps_in_file.box_sums import Boxes, group_boxes
from camrt.engine.maps_in_file.head_answers import Gradient, HeadAnswers
from camrt.engine.maps_in_file.map_tensors import MapTensors, ScoreWriter
from camrt.engine.methods.boxes import Assignment
from camrt.engine.scores import ScoreKind
from camrt.export.heads.cut import build_head_model
from camrt.export.heads.factoring import MAP, VECTOR, Factors
from camrt.export.rewrites.interface import LOGITS

__all__ = ["FactoredAnswers"]


class FactoredAnswers(HeadAnswers):
    """Answers of a factored head.

    Args:
        tensors: What the maps are of.
        whole: The standardised model.
        cut: Where it is cut.
        factors: What its head is.
    """

    def __init__(self, tensors: MapTensors, whole: ModelToCut, cut: CutTensors, factors: Factors) -> None:
        super().__init__(tensors, whole, cut)
        self._factors = factors
        self._features = len(factors.bias)
        shape = whole.graph.shape(factors.phi_tensor or cut.target)
        assert shape is not None
        self._channels = shape[1]  # K', of φ(A)

    @property
    def _is_pooled(self) -> bool:
        return self._factors.reduction != "flatten"

    # ---------------------------------------------------------------- the first layer

    @cached_property
    def _weight(self) -> str | None:
        """(F, K'), or (F, K'·h'·w') of a flattened map; None for the identity."""
        weight = self._factors.weight
        return None if weight is None else self.make.weight(weight.reshape(len(weight), -1))

    @cached_property
    def _phi(self) -> str:
        """φ(A), (N, K', h', w')."""
        name = self._factors.phi_tensor
        return self.tensors.activation if name is None else self.make.floats(name)

    @cached_property
    def _phi_of_zero(self) -> str | None:
        """φ(0), (1, K', h', w'); None where φ is the identity."""
        part, make = self._factors.phi_model, self.make
        if part is None:
            return None
        sizes = make.concat([make.indices([1]), make.sizes(self.tensors.activation, 1, 4)], 0)
        return make.run_part(part, {MAP: make.zeros(sizes)})[part.graph.output[0].name]

    @cached_property
    def _difference(self) -> str:
        """φ(A) − φ(0)."""
        empty = self._phi_of_zero
        return self._phi if empty is None else self.make.add("Sub", self._phi, empty)

    def _interior(self, maps: str, axes: tuple[int, int], rank: int) -> str:
        """Maps without the border of cells that φ adds."""
        border = self._factors.border if self._factors.phi_model is not None else (0, 0)
        first = border_size(border, (0, 0))
        begin, end = [0] * rank, [0] * rank
        for axis, both, before in zip(axes, border, first, strict=True):
            begin[axis], end[axis] = before, both - before
        return self.make.crop(maps, begin, end)

    def _scaled(self, values: str) -> str:
        """Times what P multiplies each cell by."""
        make, tensors = self.make, self.tensors
        if self._factors.reduction != "mean":
            return values
        if tensors.cells is not None:
            return make.add("Mul", values, make.number(self._factors.scale(tensors.cells)))
        return make.add("Div", values, self._all_cells)

    @cached_property
    def _all_cells(self) -> str:
        """How many cells P takes together, a float32 number."""
        make, tensors = self.make, self.tensors
        if tensors.cells is not None:
            return make.number(self._factors.cells(tensors.cells))
        sides = make.add("Add", make.sizes(tensors.activation, 2, 4), make.indices(self._factors.border))
        return make.as_float(make.reduce("ReduceProd", sides, [0], keepdims=False))

    @cached_property
    def _of_zero(self) -> str:
        """z(0), (1, F) or (F,): the first layer's answer to an all-zero activation."""
        make, factors = self.make, self._factors
        bias = make.weight(factors.bias)
        empty = self._phi_of_zero
        if empty is None:
            if factors.cell_bias is None:
                return bias
            return make.add("Add", bias, make.add("Mul", make.constant(factors.cell_bias), self._all_cells))
        if not self._is_pooled:
            return make.add("Add", bias, self._flat_product(make.add("Flatten", empty)))
        summed = self._scaled(make.reduce_sum(empty, [2, 3], keepdims=False))
        return make.add("Add", bias, self._mixed(summed))

    def _mixed(self, pooled: str) -> str:
        """Rows (..., K') times the pooled first layer's weight: (..., F)."""
        return pooled if self._weight is None else self.make.add("MatMul", pooled, self._columns)

    @cached_property
    def _columns(self) -> str:
        """(K', F) of a pooled head whose first layer is not the identity."""
        assert self._weight is not None
        return self.make.transpose(self._weight, [1, 0])

    def _flat_product(self, rows: str) -> str:
        """Rows (B, K'·h'·w') times the flattened first layer's weight: (B, F)."""
        assert self._weight is not None
        return self.make.add("Gemm", rows, self._weight, transB=1)

    @cached_property
    def _full(self) -> str:
        """(N, F): the first layer's answer to the images as they are."""
        make = self.make
        if not self._factors.has_rest:
            return self.tensors.logits
        if self._weight is not None:
            return make.reshape(make.floats(self._factors.answer), [-1, self._features])
        return make.add("Add", self._of_zero, self._pooled_difference)

    @cached_property
    def _pooled_difference(self) -> str:
        """P(φ(A)) − P(φ(0)), (N, K'), of a pooled head."""
        return self._scaled(self.make.reduce_sum(self._difference, [2, 3], keepdims=False))

    # ---------------------------------------------------------------- what follows it

    def _run_rest(self, rows: str) -> str:
        """Logits (B, C) of first layers' answers (B, F)."""
        if not self._factors.has_rest:
            return rows
        whole = self._whole
        part = build_head_model(
            whole.model,
            whole.graph,
            self._factors.answer,
            LOGITS,
            input_name=VECTOR,
            batch=whole.interface.batch,
            features=self._features,
        )
        return self.make.run_part(part, {VECTOR: rows})[part.graph.output[0].name]

    def _scores_of(self, answers: str, kind: ScoreKind, rank: int) -> str:
        """Scores (N, ..., T) of first layers' answers (N, ..., F) of that many axes."""
        make = self.make
        logits = answers
        if self._factors.has_rest:
            rows = make.reshape(answers, [-1, self._features]) if rank > 2 else answers
            logits = self._run_rest(rows)
            if rank > 2:
                front = make.sizes(answers, 0, rank - 1)
                shape = make.concat([front, make.indices([self.tensors.classes])], 0)
                logits = make.reshape(logits, shape)
        return ScoreWriter(self.tensors, kind).read(logits, rank)

    @cached_property
    def _empty_logits(self) -> str:
        rows = self.make.reshape(self._of_zero, [1, self._features])
        return self._run_rest(rows)

    def _needs_targets_only(self, kind: ScoreKind) -> bool:
        """Whether scores are read off the targets' own logits, each a sum over cells."""
        return not self._factors.has_rest and not ScoreWriter(self.tensors, kind).needs_softmax

    # ---------------------------------------------------------------- class maps

    @override
    def class_maps(self) -> str:
        if self._factors.has_rest or not self._is_pooled:
            return super().class_maps()
        make, factors, tensors = self.make, self._factors, self.tensors
        maps = self._target_product(self._interior(self._phi, (2, 3), 4))
        bias = make.weight(factors.bias)
        if factors.reduction == "sum":
            bias = make.add("Div", bias, self._all_cells)
        if factors.cell_bias is not None:
            bias = make.add("Add", bias, make.constant(factors.cell_bias))
        shift = make.unsqueeze(make.add("Gather", bias, tensors.targets, axis=0), [2])
        return tensors.on_map(make.add("Add", maps, shift))

    def _target_product(self, maps: str) -> str:
        """W[targets] · maps: (N, T, cells) of maps (N, K', h, w), for a pooled head."""
        make, tensors = self.make, self.tensors
        flat = make.reshape(maps, [0, self._channels, -1])
        if self._weight is None:
            shape = make.concat([tensors.images, tensors.target_count, make.sizes(flat, 2, 3)], 0)
            index = make.add("Expand", make.unsqueeze(tensors.targets, [2]), shape)
            return make.add("GatherElements", flat, index, axis=1)
        return make.add("MatMul", make.add("Gather", self._weight, tensors.targets, axis=0), flat)

    # ---------------------------------------------------------------- boxes

    @override
    def box_groups(self, shapes: Sequence[tuple[int, int]], assignment: Assignment) -> list[Boxes]:
        return group_boxes(self.make, shapes, assignment, self.tensors.cells)

    @override
    def box_scores(
        self, boxes: Boxes, kind: ScoreKind, *, delete: bool, keep: bool
    ) -> tuple[str | None, str | None]:
        make, tensors = self.make, self.tensors
        if self._needs_targets_only(kind):
            reader, sums = ScoreWriter(tensors, kind), boxes.sums(self._target_cells)
            empty = make.add("Expand", self._empty_logits, make.shape_of(tensors.logits))
            full, none = (make.unsqueeze(reader.own(one, 2), [1, 2]) for one in (tensors.logits, empty))
            return (
                reader.of_own_logits(make.add("Sub", full, sums)) if delete else None,
                reader.of_own_logits(make.add("Add", none, sums)) if keep else None,
            )
        sums = boxes.sums(self._cells)
        full, none = make.unsqueeze(self._full, [1, 2]), self._of_zero
        return (
            self._scores_of(make.add("Sub", full, sums), kind, 4) if delete else None,
            self._scores_of(make.add("Add", sums, none), kind, 4) if keep else None,
        )

    @cached_property
    def _cells(self) -> str:
        """Contributions (N, h, w, F) of every cell to the first layer's answer."""
        make = self.make
        if self._is_pooled:
            inner = self._scaled(self._interior(self._difference, (2, 3), 4))
            return self._mixed(make.transpose(inner, [0, 2, 3, 1]))
        difference = make.reshape(self._difference, [0, self._channels, -1])
        assert self._weight is not None
        weight = make.reshape(self._weight, [self._features, self._channels, -1])
        by_cell = make.add("MatMul", make.transpose(difference, [2, 0, 1]), make.transpose(weight, [2, 1, 0]))
        cells = make.transpose(by_cell, [1, 0, 2])
        sizes = make.sizes(self._difference, 2, 4)
        front, back = make.sizes(cells, 0, 1), make.indices([self._features])
        return self._interior(make.reshape(cells, make.concat([front, sizes, back], 0)), (1, 2), 4)

    @cached_property
    def _target_cells(self) -> str:
        """Contributions (N, h, w, T) of every cell to the targets' logits."""
        make, tensors = self.make, self.tensors
        if self._is_pooled:
            flat = self._scaled(self._target_product(self._interior(self._difference, (2, 3), 4)))
            return make.transpose(tensors.on_map(flat), [0, 2, 3, 1])
        products = make.add("Mul", self._target_weight, make.unsqueeze(self._difference, [1]))
        whole = make.reduce_sum(products, [2], keepdims=False)
        return make.transpose(self._interior(whole, (2, 3), 4), [0, 2, 3, 1])

    @cached_property
    def _target_weight(self) -> str:
        """The targets' rows of the first layer: (N, T, K'), or (N, T, K', h', w') of a flattened head."""
        make, tensors = self.make, self.tensors
        if self._weight is None:
            every = make.constant(np.arange(self._channels))
            return make.as_float(make.add("Equal", make.unsqueeze(tensors.targets, [2]), every))
        rows = make.add("Gather", self._weight, tensors.targets, axis=0)
        weight = self._factors.weight
        assert weight is not None
        return rows if self._is_pooled else make.reshape(rows, [0, 0, *weight.shape[1:]])

    # ---------------------------------------------------------------- channels

    @override
    def scores_without_channels(self, kind: ScoreKind) -> str:
        if self._factors.phi == "dense":
            return super().scores_without_channels(kind)
        make, tensors = self.make, self.tensors
        if self._needs_targets_only(kind):
            reader = ScoreWriter(tensors, kind)
            if self._is_pooled:
                taken = make.add("Mul", self._target_weight, make.unsqueeze(self._pooled_difference, [1]))
            else:
                products = make.add("Mul", self._target_weight, make.unsqueeze(self._difference, [1]))
                taken = make.reduce_sum(products, [3, 4], keepdims=False)
            full = make.unsqueeze(reader.own(tensors.logits, 2), [2])
            return reader.of_own_logits(make.add("Sub", full, taken))
        answers = make.add("Sub", make.unsqueeze(self._full, [1]), self._channel_products)
        return make.transpose(self._scores_of(answers, kind, 3), [0, 2, 1])

    @cached_property
    def _channel_products(self) -> str:
        """Contributions (N, K', F) of every channel to the first layer's answer."""
        make = self.make
        if self._is_pooled:
            columns = make.constant(np.eye(self._channels)) if self._weight is None else self._columns
            return make.add("Mul", make.unsqueeze(self._pooled_difference, [2]), columns)
        difference = make.reshape(self._difference, [0, self._channels, -1])
        assert self._weight is not None
        weight = make.reshape(self._weight, [self._features, self._channels, -1])
        products = make.add(
            "MatMul", make.transpose(difference, [1, 0, 2]), make.transpose(weight, [1, 2, 0])
        )
        return make.transpose(products, [1, 0, 2])

    # ---------------------------------------------------------------- gradients

    @override
    def gradient(self, kind: ScoreKind) -> Gradient:
        if self._factors.phi != "identity":
            return super().gradient(kind)
        make, tensors = self.make, self.tensors
        if not self._factors.has_rest and not ScoreWriter(tensors, kind).is_probability:
            return Gradient(self._scaled(self._target_weight), is_constant=self._is_pooled)
        if self._factors.has_rest:
            answer = self._factors.answer
            rank = len(self._whole.graph.shape(answer) or ())
            rows = self.run_adjoint(answer, make.floats(answer), kind, rank)
            rows = make.reshape(rows, [-1, self._features])
        else:
            rows = make.reshape(ScoreWriter(tensors, kind).weighting(), [-1, self._features])
        if self._weight is not None and self._is_pooled:
            rows = make.add("MatMul", rows, self._weight)
        elif self._weight is not None:
            # The weight comes first: runtimes pack what comes second, and keep a copy of it.
            turned = make.add("Gemm", self._weight, make.transpose(rows, [1, 0]), transA=1)
            rows = make.transpose(turned, [1, 0])
        if self._is_pooled:
            return Gradient(tensors.per_target(self._scaled(rows), 2), is_constant=True)
        sizes = make.sizes(tensors.activation, 1, 4)
        rows = make.reshape(rows, make.concat([make.indices([-1]), sizes], 0))
        return Gradient(tensors.per_target(rows, 4), is_constant=False)
