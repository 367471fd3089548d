"""A model as the operations from its images to its logits, whether from ONNX, autograd or torch.fx.

A model is a list of operations, each of which reads tensors and makes some. Tensors are known by whatever
names the side has that follows them: `camrt.export.heads.graph_flow` for graphs, for torch modules
`camrt.engine.torch_models.flow`, and `camrt.training.trunks` for those that torch.fx traces.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Generic, Literal, TypeVar

from camrt.export.budget import with_deadline

__all__ = ["Flow", "Kind", "Operation", "count_paths"]

T = TypeVar("T", bound=Hashable)

MODULUS = 2**127 - 1

Kind = Literal["keeps", "reshapes", "shifts", "by-channel", "averages", "pointwise", "linear", "other"]
"""What a step does to the tensor it reads: nothing; moves its numbers about; adds a constant; a function of
each number, or of each with its channel's constants; means over windows; a 1×1 convolution; a linear layer on
the last axis; anything else."""


@dataclass(frozen=True)
class Operation(Generic[T]):
    """One operation: what it reads, what it makes, and of what kind it is.

    Attributes:
        reads: The tensors it reads that depend on the images, each as often as it reads it.
        makes: The tensors it makes.
        kind: What it does.
        learned: Whether it multiplies by something, as layers do by their weights.
        spread: Of `reads` those of more than two axes, which may hold cells.
        together: Whether it takes several cells of a tensor together: "always", as pooling does; "pairs", as
            attention does, when it reads two that hold them; or "" never.
    """

    reads: tuple[T, ...]
    makes: tuple[T, ...]
    kind: Kind = "other"
    learned: bool = False
    spread: tuple[T, ...] = ()
    together: Literal["", "always", "pairs"] = ""


class Flow(Generic[T]):
    """The steps that the logits need, in an order in which they can be done.

    Args:
        steps: The steps.
        start: The images.
        end: The logits.
    """

    def __init__(self, steps: Sequence[Operation[T]], start: T, end: T) -> None:
        self.steps = steps
        self._producers = {made: step for step in steps for made in step.makes}
        self._through, self.paths = count_paths(((step.reads, step.makes) for step in steps), start, end)

    def count_through(self, tensor: T) -> int:
        """How many of the `paths` from the images to the logits run through a tensor."""
        return self._through.get(tensor, 0)

    def count_around(self, tensor: T) -> int:
        """How many of the `paths` bypass a tensor."""
        return (self.paths - self.count_through(tensor)) % MODULUS

    def is_clean_cut(self, tensor: T) -> bool:
        """Whether every path runs through a tensor, so that a cut there has nothing going around it."""
        return self.paths > 0 and self.count_through(tensor) == self.paths

    def producer(self, tensor: T) -> Operation[T] | None:
        """The step that makes a tensor; None for the images."""
        return self._producers.get(tensor)

    def upstream(self, tensor: T) -> set[T]:
        """The tensors a tensor is made of, itself included."""
        pending, found = [tensor], {tensor}
        while pending:
            step = self.producer(pending.pop())
            for read in () if step is None else step.reads:
                if read not in found:
                    found.add(read)
                    pending.append(read)
        return found

    def downstream(self, tensor: T) -> set[T]:
        """The tensors that are made of a tensor, itself included."""
        found = {tensor}
        for step in with_deadline(self.steps):
            if not found.isdisjoint(step.reads):
                found.update(step.makes)
        return found

    @cached_property
    def _weighted(self) -> set[T]:
        found: set[T] = set()
        for step in with_deadline(self.steps):
            if step.learned or not found.isdisjoint(step.reads):
                found.update(step.makes)
        return found

    def has_weights_before(self, tensor: T) -> bool:
        """Whether a tensor is made by anything learned, and is not the images in another form."""
        return tensor in self._weighted

    def has_weights_between(self, first: T, last: T | None = None) -> bool:
        """Whether anything learned lies between a tensor and another, or the logits."""
        behind = self.downstream(first)
        before = None if last is None else self.upstream(last)
        return any(
            step.learned
            and not behind.isdisjoint(step.reads)
            and (before is None or not before.isdisjoint(step.makes))
            for step in with_deadline(self.steps)
        )

    def mixes_cells(self, tensor: T) -> bool:
        """Whether anything behind a tensor takes its cells together, as attention and pooling do.

        Behind the last block of a transformer with a class token the logits read that token alone.
        """
        behind = self.downstream(tensor)
        counts = (
            (step.together, sum(read in behind for read in step.spread)) for step in with_deadline(self.steps)
        )
        return any((how == "always" and count > 0) or (how == "pairs" and count > 1) for how, count in counts)


def count_paths(
    links: Iterable[tuple[Iterable[T], Iterable[T]]], start: T, end: T
) -> tuple[dict[T, int], int]:
    """How many paths from `start` to `end` run through each tensor, and how many there are.

    A tensor is on every path exactly when (paths to it) · (paths from it) = all paths: one sweep forwards and
    one backwards. There may be 2ⁿ paths through n steps, so they are counted modulo a prime so large that no
    two counts agree by chance.

    Args:
        links: What each step reads and what it makes, in order.
        start: Where paths begin.
        end: Where they end.
    """
    listed = [(tuple(reads), tuple(makes)) for reads, makes in with_deadline(links)]
    to_here: Counter[T] = Counter({start: 1})
    for reads, makes in with_deadline(listed):
        paths = sum(to_here[read] for read in reads) % MODULUS
        if paths:
            to_here.update(dict.fromkeys(makes, paths))
    onward: Counter[T] = Counter({end: 1})
    for reads, makes in with_deadline(reversed(listed)):
        paths = sum(onward[made] for made in makes) % MODULUS
        for read in reads:
            onward[read] += paths
    return {tensor: count * onward[tensor] % MODULUS for tensor, count in to_here.items()}, to_here[end]
