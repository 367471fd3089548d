"""CALM's own maps, and boxes of its head, by sums of p(y,z|x) over cells: see `camrt.engine.heads.calm`."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np
from typing_extensions import override

from camrt.engine.class_sets import class_sets
from camrt.engine.maps_in_file.box_sums import Boxes, group_boxes
from camrt.engine.maps_in_file.head_answers import HeadAnswers
from camrt.engine.maps_in_file.map_tensors import MapTensors
from camrt.engine.methods.boxes import Assignment
from camrt.engine.methods.calm import CALM
from camrt.engine.queries import NO_JOINT
from camrt.engine.scores import ScoreKind
from camrt.errors import MethodError, TargetError
from camrt.export.heads.cut import build_head_model
from camrt.export.heads.factoring import MAP

__all__ = ["CalmAnswers", "calm_map"]


class CalmAnswers(HeadAnswers):
    """Answers of a head p(y|x) = Σ_z g[y,z]·a[z] / Σ_z a[z], with g and a functions of the cell z alone."""

    @cached_property
    def _shares(self) -> str:
        """(N, h + 1, w, T + 1): what cells give the targets, and all classes; the last row's are empty."""
        make, tensors, whole = self.make, self.tensors, self._whole
        assert whole.interface.joint is not None
        below = make.add("Mul", make.slice(tensors.activation, [0], [1], [2]), make.number(0.0))
        part = build_head_model(
            whole.model,
            whole.graph,
            self._cut.target,
            whole.interface.joint,
            input_name=MAP,
            batch=whole.interface.batch,
        )
        longer = make.concat([tensors.activation, below], 2)
        joint = make.add("Exp", make.run_part(part, {MAP: longer})[part.graph.output[0].name])
        chosen = tensors.of_classes(joint, tensors.targets)
        both = make.concat([chosen, make.reduce_sum(joint, [1], keepdims=True)], 1)
        return make.transpose(both, [0, 2, 3, 1])

    @override
    def box_groups(self, shapes: Sequence[tuple[int, int]], assignment: Assignment) -> list[Boxes]:
        return group_boxes(self.make, shapes, assignment, self.tensors.cells)

    @override
    def box_scores(
        self, boxes: Boxes, kind: ScoreKind, *, delete: bool, keep: bool
    ) -> tuple[str | None, str | None]:
        make = self.make
        cells = make.slice(self._shares, [0], [-1], [1])
        empty = make.slice(make.slice(self._shares, [-1], [1 << 31], [1]), [0], [1], [2])  # (N, 1, 1, T + 1)
        inside = boxes.sums(cells)
        one = make.slice(make.slice(cells, [0], [1], [0]), [0], [1], [3])
        ones = make.add("Add", make.add("Mul", one, make.number(0.0)), make.number(1.0))
        area, all_cells = boxes.sums(ones), self.tensors.cell_count
        total = make.reduce_sum(cells, [1, 2], keepdims=True)
        outside = make.add("Relu", make.add("Sub", total, inside))
        deleted = make.add("Add", outside, make.add("Mul", area, empty))
        kept = make.add("Add", inside, make.add("Mul", make.add("Sub", all_cells, area), empty))
        return self._as_shares(deleted) if delete else None, self._as_shares(kept) if keep else None

    def _as_shares(self, sums: str) -> str:
        """Sums (N, a, b, T + 1) for the targets and all classes to probabilities (N, a, b, T)."""
        make = self.make
        own, all_classes = make.slice(sums, [0], [-1], [3]), make.slice(sums, [-1], [1 << 31], [3])
        return make.add("Div", own, all_classes)


def calm_map(answers: HeadAnswers, method: CALM) -> str:
    """Probabilities of class and place that the model holds."""
    tensors, make = answers.tensors, answers.make
    name = answers.joint
    if name is None:
        raise MethodError(f"'calm' {NO_JOINT}")
    log_joint = make.floats(name)
    if method.kind == "conditional":
        return tensors.of_classes(make.add("Softmax", log_joint, axis=1), tensors.targets)
    if method.kind == "posterior":
        maps = tensors.of_classes(log_joint, tensors.targets)
        shares = make.add("Softmax", make.reshape(maps, [0, 0, -1]), axis=2)
        return make.reshaped_like(shares, maps)
    joint = make.add("Exp", log_joint)
    own = tensors.of_classes(joint, tensors.targets)
    if method.kind == "joint":
        return own
    if method.kind == "saliency":
        every = make.reduce_sum(joint, [1], keepdims=True)
        return make.expanded_like(every, own)
    if method.kind == "subset":
        return subset_map(tensors, method, joint, own)
    return make.add("Sub", own, tensors.of_classes(joint, other_classes(tensors, method)))


def subset_map(tensors: MapTensors, method: CALM, joint: str, own: str) -> str:
    """Σ p(y,z|x) over a set of classes, or their mean."""
    make, count = tensors.make, tensors.classes
    if method.classes is None:
        return own
    if isinstance(method.classes, str):
        numbers = class_sets(method.classes, count)
        members = (numbers[:, None] == numbers[None]).astype(np.float64)
    else:
        outside = [c for c in method.classes if not 0 <= c < count]
        if outside:
            raise TargetError(
                f"calm: class {outside[0]} in classes= is out of range; the model has {count} classes"
            )
        members = np.tile(np.isin(np.arange(count), method.classes).astype(np.float64), (count, 1))
    if method.average:
        members /= members.sum(axis=1, keepdims=True)
    rows = make.add("Gather", make.constant(members), tensors.targets, axis=0)
    flat = make.add("MatMul", rows, make.reshape(joint, [0, count, -1]))
    return make.reshaped_like(flat, own)


def other_classes(tensors: MapTensors, method: CALM) -> str:
    """(N, T): the class that each target is held against."""
    make, count = tensors.make, tensors.classes
    if method.against is not None:
        if not 0 <= method.against < count:
            raise TargetError(
                f"calm: against={method.against} is out of range; the model has {count} classes"
            )
        return make.add("Expand", make.indices([method.against]), make.shape_of(tensors.targets))
    if count < 2:
        raise TargetError("calm: a model of one class has none to hold against it")
    values, order = make.new_name(), make.new_name()
    make.add_node("TopK", [tensors.logits, make.indices([2])], [values, order], axis=1)
    first, second = make.slice(order, [0], [1], [1]), make.slice(order, [1], [2], [1])
    return make.add("Where", make.add("Equal", tensors.targets, first), second, first)
