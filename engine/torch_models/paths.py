"""Whether every way from the pictures to the logits runs through a tensor, told by the autograd graph."""

from __future__ import annotations

from collections import Counter
from typing import Any

import torch

__all__ = ["Ways"]


class Ways:
    """Counts the ways from one tensor to another through the nodes of an autograd graph.

    A tensor is on every way exactly when (ways to it) · (ways from it) = all ways.

    Args:
        end: The logits.
        start: The leaf they were computed from.

    Attributes:
        all: How many there are; 0 where the logits have no gradient.
    """

    def __init__(self, end: torch.Tensor, start: torch.Tensor) -> None:
        self._from_end: Counter[tuple[Any, int]] = Counter()
        self._to_start: dict[Any, int] = {}
        self.all = 0
        if end.grad_fn is None:
            return
        order = backwards(end.grad_fn)
        arrived: Counter[Any] = Counter({end.grad_fn: 1})
        self._from_end[end.grad_fn, end.output_nr] = 1
        for node in order:
            for before, number in node.next_functions:
                if before is not None:
                    arrived[before] += arrived[node]
                    self._from_end[before, number] += arrived[node]
        for node in reversed(order):
            here = int(getattr(node, "variable", None) is start)
            self._to_start[node] = here + sum(
                self._to_start[before] for before, _ in node.next_functions if before is not None
            )
        self.all = self._to_start[end.grad_fn]

    def through(self, place: tuple[Any, int] | None) -> int:
        """How many ways run through the tensor that is output `place[1]` of node `place[0]`."""
        if place is None or place[0] is None:
            return 0
        return self._from_end[place] * self._to_start.get(place[0], 0)


def backwards(end: Any) -> list[Any]:
    """The nodes behind `end`, each before those it was computed from."""
    finished: list[Any] = []
    seen = {end}
    stack = [(end, iter(end.next_functions))]
    while stack:
        node, rest = stack[-1]
        for before, _ in rest:
            if before is not None and before not in seen:
                seen.add(before)
                stack.append((before, iter(before.next_functions)))
                break
        else:
            finished.append(node)
            stack.pop()
    return finished[::-1]
