"""Running what follows a target without what comes before it.

The outermost module calls that ended before the target's are answered without being made, by tensors of the
shapes they gave, full of NaN: code between modules still runs, on NaN, and whatever of it went around the
target would show in the logits. Shapes for any batch size come from passes of two sizes.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from camrt.engine.torch_models.calls import Call, Spec, UnknownStructure, recording
from camrt.engine.torch_models.subject import Subject
from camrt.export.budget import reserve_array

__all__ = ["BATCHES", "Shortcut", "probe", "shortcut"]

Array = npt.NDArray[Any]

BATCHES = (2, 3)  # of the passes that tell how shapes grow with the batch


@dataclass(frozen=True)
class Growing:
    """A tensor whose axes have `fixed + slope · batch` cells."""

    axes: tuple[tuple[int, int], ...]
    dtype: torch.dtype
    device: torch.device

    def nothing(self, batch: int, dense: bool) -> torch.Tensor:
        """NaN of the shape it has for a batch; where not dense, one number in memory."""
        shape = [fixed + slope * batch for fixed, slope in self.axes]
        one = torch.full((), torch.nan, dtype=self.dtype, device=self.device)
        return one.expand(shape).contiguous() if dense else one.expand(shape)


@dataclass(frozen=True)
class Answer:
    """What a call that is left out gives: `Growing` for tensors, in tuples, lists and dicts."""

    what: Any


@dataclass(frozen=True)
class Shortcut:
    """Which calls are left out, for pictures of one size.

    Attributes:
        answers: Module -> for each of its calls the answer, or None where it is made.
        number: Which call of the target's module is the target's, among those that are left.
        skipped: How many calls are left out, the target's among them.
        dense: Whether tensors of NaN have memory of their own, for code that writes into them.
    """

    answers: dict[torch.nn.Module, list[Answer | None]]
    number: int
    skipped: int
    dense: bool

    @contextmanager
    def taken(self, batch: int) -> Iterator[None]:
        """Leaves the calls out as long as the block runs."""
        with ExitStack() as stack:
            for module, answers in self.answers.items():
                stack.enter_context(answering(module, answers, batch, self.dense))
            yield


@contextmanager
def answering(
    module: torch.nn.Module, answers: list[Answer | None], batch: int, dense: bool
) -> Iterator[None]:
    """Puts a function in place of a module's `forward`, and takes it away again."""
    forward = module.forward
    own = vars(module).get("forward")
    waiting = iter(answers)

    def answer(*args: Any, **kwargs: Any) -> Any:
        wanted = next(waiting, None)
        return forward(*args, **kwargs) if wanted is None else made(wanted.what, batch, dense)

    vars(module)["forward"] = answer
    try:
        yield
    finally:
        if own is None:
            del vars(module)["forward"]
        else:
            vars(module)["forward"] = own


def made(what: Any, batch: int, dense: bool) -> Any:
    """A structure with tensors in it."""
    if isinstance(what, Growing):
        return what.nothing(batch, dense)
    if isinstance(what, (tuple, list)):
        return type(what)([made(part, batch, dense) for part in what])
    if isinstance(what, dict):
        return {key: made(part, batch, dense) for key, part in what.items()}
    return what


def shortcut(
    subject: Subject, path: str, size: tuple[int, int], channels: int, *, dense: bool
) -> Shortcut | None:
    """Which calls can be left out before the target's; None when passes of two sizes differ."""
    first, second = BATCHES if subject.batch is None else (subject.batch, subject.batch)
    passes = []
    for batch in dict.fromkeys((first, second)):
        with recording(subject.module) as calls:
            subject.logits(subject.tensor(probe(batch, channels, size)))
        passes.append(calls)
    one, two = passes[0], passes[-1]
    if [call.path for call in one] != [call.path for call in two]:
        return None
    target = [call for call in one if call.path == path][-1]
    answers: dict[Call, Answer] = {}
    for call, other in zip(one, two, strict=True):
        if call is target or call.end < target.start:
            try:
                answers[call] = Answer(growing(call.output, other.output, first, second))
            except ValueError:
                continue
    left: dict[torch.nn.Module, list[Answer | None]] = defaultdict(list)
    skipped = [call for call in one if call in answers and not inside(call, answers)]
    for call in one:
        if not inside(call, answers):
            left[call.module].append(answers.get(call))
    if target not in answers:
        return None
    return Shortcut(
        {module: row for module, row in left.items() if any(row)},
        len([call for call in one if call.module is target.module and not inside(call, answers)]) - 1,
        len(skipped),
        dense,
    )


def inside(call: Call, answers: dict[Call, Answer]) -> bool:
    """Whether a call is made within one that is left out."""
    parent = call.parent
    while parent is not None:
        if parent in answers:
            return True
        parent = parent.parent
    return False


def growing(one: Any, two: Any, first: int, second: int) -> Any:
    """The structure that is `one` for a batch of `first` and `two` for one of `second`.

    Raises:
        ValueError: There is none.
    """
    if isinstance(one, Spec) and isinstance(two, Spec):
        axes = []
        for small, large in zip(one.shape, two.shape, strict=True):
            slope, rest = divmod(large - small, second - first) if second > first else (0, 0)
            if rest:
                raise ValueError("an axis that does not grow evenly")
            axes.append((small - slope * first, slope))
        return Growing(tuple(axes), one.dtype, one.device)
    if type(one) is not type(two) or isinstance(one, UnknownStructure):
        raise ValueError("a structure that cannot be made again")
    if isinstance(one, (tuple, list)):
        return type(one)([growing(a, b, first, second) for a, b in zip(one, two, strict=True)])
    if isinstance(one, dict):
        return {key: growing(part, two[key], first, second) for key, part in one.items()}
    return one


def probe(batch: int, channels: int, size: tuple[int, int]) -> Array:
    """Pictures (batch, channels, H, W) to try a module on."""
    reserve_array((batch, channels, *size), "the batch that a module is tried on")
    return np.random.default_rng(0).standard_normal((batch, channels, *size), np.float32)
