"""Running what follows a target without what comes before it.

The outermost module calls that ended before the target's return stub tensors of the shapes that were
recorded, filled with NaN, instead of running. Code between modules still runs, so that a path which goes
around the target shows as NaN in the logits. Shapes for any batch size come from passes of two sizes.
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

from camrt.engine.torch_models.calls import Call, TensorSpec, UnknownStructure, record_calls
from camrt.engine.torch_models.model import TorchModel
from camrt.export.budget import reserve_array

__all__ = ["PROBE_BATCH_SIZES", "SkippedCalls", "find_skipped_calls", "probe_batch"]

Array = npt.NDArray[Any]

PROBE_BATCH_SIZES = (2, 3)  # of two passes, from which the axes that depend on the batch are inferred


@dataclass(frozen=True)
class BatchShape:
    """Shape, type and device of a tensor whose axes have length `fixed + slope · batch`."""

    axes: tuple[tuple[int, int], ...]
    dtype: torch.dtype
    device: torch.device

    def to_nan(self, batch: int, dense: bool) -> torch.Tensor:
        """NaN of the shape it has for a batch; where not dense, one number in memory."""
        shape = [fixed + slope * batch for fixed, slope in self.axes]
        one = torch.full((), torch.nan, dtype=self.dtype, device=self.device)
        return one.expand(shape).contiguous() if dense else one.expand(shape)


@dataclass(frozen=True)
class StubOutput:
    """What a call that is left out gives: `BatchShape` for tensors, in tuples, lists and dicts."""

    structure: Any


@dataclass(frozen=True)
class SkippedCalls:
    """Which calls are left out, for images of one size.

    Attributes:
        stubs: Module -> for each of its calls the answer, or None where it is made.
        call_index: Which call of the target's module is the target's, among those that are left.
        count: How many calls are left out, the target's among them.
        dense: Whether tensors of NaN have memory of their own, for code that writes into them.
    """

    stubs: dict[torch.nn.Module, list[StubOutput | None]]
    call_index: int
    count: int
    dense: bool

    @contextmanager
    def skip(self, batch: int) -> Iterator[None]:
        """Leaves the calls out as long as the block runs."""
        with ExitStack() as stack:
            for module, answers in self.stubs.items():
                stack.enter_context(stub_forward(module, answers, batch, self.dense))
            yield


@contextmanager
def stub_forward(
    module: torch.nn.Module, answers: list[StubOutput | None], batch: int, dense: bool
) -> Iterator[None]:
    """Puts a function in place of a module's `forward`, and takes it away again."""
    forward = module.forward
    own = vars(module).get("forward")
    waiting = iter(answers)

    def answer(*args: Any, **kwargs: Any) -> Any:
        wanted = next(waiting, None)
        return forward(*args, **kwargs) if wanted is None else build_output(wanted.structure, batch, dense)

    vars(module)["forward"] = answer
    try:
        yield
    finally:
        if own is None:
            del vars(module)["forward"]
        else:
            vars(module)["forward"] = own


def build_output(what: Any, batch: int, dense: bool) -> Any:
    """A structure with tensors in it."""
    if isinstance(what, BatchShape):
        return what.to_nan(batch, dense)
    if isinstance(what, (tuple, list)):
        return type(what)([build_output(part, batch, dense) for part in what])
    if isinstance(what, dict):
        return {key: build_output(part, batch, dense) for key, part in what.items()}
    return what


def find_skipped_calls(
    model: TorchModel, path: str, size: tuple[int, int], channels: int, *, dense: bool
) -> SkippedCalls | None:
    """Which calls can be left out before the target's; None when passes of two sizes differ."""
    first, second = PROBE_BATCH_SIZES if model.batch is None else (model.batch, model.batch)
    passes = []
    for batch in dict.fromkeys((first, second)):
        with record_calls(model.module) as calls:
            model.logits(model.to_tensor(probe_batch(batch, channels, size)))
        passes.append(calls)
    one, two = passes[0], passes[-1]
    if [call.path for call in one] != [call.path for call in two]:
        return None
    target = [call for call in one if call.path == path][-1]
    answers: dict[Call, StubOutput] = {}
    for call, other in zip(one, two, strict=True):
        if call is target or call.end < target.start:
            try:
                answers[call] = StubOutput(infer_batch_shapes(call.output, other.output, first, second))
            except ValueError:
                continue
    left: dict[torch.nn.Module, list[StubOutput | None]] = defaultdict(list)
    skipped = [call for call in one if call in answers and not is_inside_skipped(call, answers)]
    for call in one:
        if not is_inside_skipped(call, answers):
            left[call.module].append(answers.get(call))
    if target not in answers:
        return None
    return SkippedCalls(
        {module: row for module, row in left.items() if any(row)},
        len([call for call in one if call.module is target.module and not is_inside_skipped(call, answers)])
        - 1,
        len(skipped),
        dense,
    )


def is_inside_skipped(call: Call, answers: dict[Call, StubOutput]) -> bool:
    """Whether a call is made within one that is left out."""
    parent = call.parent
    while parent is not None:
        if parent in answers:
            return True
        parent = parent.parent
    return False


def infer_batch_shapes(one: Any, two: Any, first: int, second: int) -> Any:
    """The structure that is `one` for a batch of `first` and `two` for one of `second`.

    Raises:
        ValueError: There is none.
    """
    if isinstance(one, TensorSpec) and isinstance(two, TensorSpec):
        axes = []
        for small, large in zip(one.shape, two.shape, strict=True):
            slope, rest = divmod(large - small, second - first) if second > first else (0, 0)
            if rest:
                raise ValueError("an axis that does not grow evenly")
            axes.append((small - slope * first, slope))
        return BatchShape(tuple(axes), one.dtype, one.device)
    if type(one) is not type(two) or isinstance(one, UnknownStructure):
        raise ValueError("a structure that cannot be made again")
    if isinstance(one, (tuple, list)):
        return type(one)([infer_batch_shapes(a, b, first, second) for a, b in zip(one, two, strict=True)])
    if isinstance(one, dict):
        return {key: infer_batch_shapes(part, two[key], first, second) for key, part in one.items()}
    return one


def probe_batch(batch: int, channels: int, size: tuple[int, int]) -> Array:
    """Images (batch, channels, H, W) to try a module on."""
    reserve_array((batch, channels, *size), "the batch that a module is tried on")
    return np.random.default_rng(0).standard_normal((batch, channels, *size), np.float32)
