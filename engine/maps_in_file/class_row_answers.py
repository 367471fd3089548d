"""A head whose logits pool a channel of their own, answered by the targets' rows alone."""

from __future__ import annotations

from functools import cached_property

from typing_extensions import override

from camrt.engine.head_making import ALTERED, CutTensors, ModelToCut, build_class_adjoint
from camrt.engine.heads.contributions import border_size
from camrt.engine.maps_in_file.factored_answers import FactoredAnswers
from camrt.engine.maps_in_file.head_answers import Gradient
from camrt.engine.maps_in_file.map_tensors import MapTensors, ScoreWriter
from camrt.engine.scores import ScoreKind
from camrt.export.adjoint import GRADIENT, WEIGHTING
from camrt.export.heads.factoring import MAP, AffineStart, Factors

__all__ = ["ClassRowAnswers"]


class ClassRowAnswers(FactoredAnswers):
    """Answers about logits by the targets' rows alone.

    Args:
        tensors: What the maps are of.
        whole: The standardised model.
        cut: Where it is cut.
        factors: What its head is.
        layer: The linear layer.
    """

    def __init__(
        self, tensors: MapTensors, whole: ModelToCut, cut: CutTensors, factors: Factors, layer: AffineStart
    ) -> None:
        super().__init__(tensors, whole, cut, factors)
        self._layer = layer

    @cached_property
    def _padded(self) -> str:
        """(N, K, h', w'): the activation, with the border of zeros that the layer adds."""
        before = border_size(self._factors.border, (0, 0))
        after = [both - first for both, first in zip(self._factors.border, before, strict=True)]
        activation = self.tensors.activation
        return self.make.pad(activation, [0, 0, *before, 0, 0, *after]) if any(after) else activation

    @cached_property
    def _target_rows(self) -> str:
        """(N, T, K): the targets' rows of the layer."""
        return self.make.add("Gather", self.make.weight(self._layer.weight), self.tensors.targets, axis=0)

    @cached_property
    def _answers(self) -> str:
        """(N, T, h'·w'): the layer's answers for the targets."""
        make, tensors = self.make, self.tensors
        flat = make.reshape(self._padded, [0, tensors.channels, -1])
        bias = make.add("Gather", make.weight(self._layer.bias), tensors.targets, axis=0)
        return make.add("Add", make.add("MatMul", self._target_rows, flat), make.unsqueeze(bias, [2]))

    def _as_maps(self, rows: str) -> str:
        """Rows (..., h'·w') as maps (B, 1, h', w')."""
        make = self.make
        sizes = make.sizes(self._padded, 2, 4)
        return make.reshape(rows, make.concat([make.indices([-1, 1]), sizes], 0))

    def _sums(self, rows: str, front: str) -> str:
        """What pools over rows (..., h'·w') gives, before it is scaled, in the shape of `front`."""
        part = self._layer.each
        assert part is not None
        made = self.make.run_part(part, {MAP: self._as_maps(rows)})[part.graph.output[0].name]
        return self.make.reshape(self.make.reduce_sum(made, [1, 2, 3], keepdims=False), front)

    @override
    def scores_without_channels(self, kind: ScoreKind) -> str:
        make, tensors, reader = self.make, self.tensors, ScoreWriter(self.tensors, kind)
        if reader.needs_softmax:
            return super().scores_without_channels(kind)
        flat = make.reshape(self._padded, [0, 1, tensors.channels, -1])
        taken = make.add("Mul", make.unsqueeze(self._target_rows, [3]), flat)
        altered = make.add("Sub", make.unsqueeze(self._answers, [2]), taken)
        left = self._sums(altered, make.sizes(altered, 0, 3))
        total = make.unsqueeze(self._sums(self._answers, make.shape_of(tensors.targets)), [2])
        full = make.unsqueeze(reader.own(tensors.logits, 2), [2])
        return reader.of_own_logits(make.add("Add", full, self._scaled(make.add("Sub", left, total))))

    @override
    def gradient(self, kind: ScoreKind) -> Gradient:
        make, tensors, reader = self.make, self.tensors, ScoreWriter(self.tensors, kind)
        if reader.needs_softmax:
            return super().gradient(kind)
        base = self._as_maps(self._answers)
        slope = make.reshape(self._scaled(reader.own_slope()), [-1, 1, 1, 1])
        part = build_class_adjoint(self._whole, self._layer)
        weighting = make.add("Expand", slope, make.shape_of(base))
        found = make.run_part(part, {ALTERED: base, WEIGHTING: weighting})[GRADIENT]
        inner = tensors.per_target(self._interior(found, (2, 3), 4), 4)
        return Gradient(make.add("Mul", inner, make.unsqueeze(self._target_rows, [3, 4])), is_constant=False)
