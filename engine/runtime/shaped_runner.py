"""A runner whose answers have the shapes that were found when the graph was analysed.

A file may declare a shape that it does not keep, where inference does not know better. What follows a run
takes rows and classes as given, so they are looked at once, where the answers come in.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from camrt.engine.runtime import Runner
from camrt.engine.runtime.wrapped_runner import WrappedRunner
from camrt.errors import UnsupportedModelError
from camrt.export.rewrites.interface import LOGITS

__all__ = ["ShapeCheckedRunner"]


class ShapeCheckedRunner(WrappedRunner):
    """A runner that refuses answers of other shapes.

    Args:
        runner: What runs.
        shapes: Sizes of some of its outputs behind the batch axis, None for any; None for the batch's own.
    """

    def __init__(self, runner: Runner, shapes: Mapping[str, Sequence[int | None] | None]) -> None:
        super().__init__(runner)
        self._shapes = shapes

    def __call__(
        self, batch: Any, fetch: Sequence[str] | None = None, extra_inputs: Mapping[str, Any] | None = None
    ) -> list[Any]:
        """Runs a batch, see `camrt.engine.runtime.Runner`.

        Raises:
            UnsupportedModelError: An answer has another shape than it should.
        """
        answers = super().__call__(batch, fetch, extra_inputs)
        names = self.outputs if fetch is None else fetch
        for name, answer in zip(names, answers, strict=True):
            if name not in self._shapes:
                continue
            sizes = self._shapes[name]
            found, wanted = tuple(answer.shape), (len(batch), *(batch.shape[1:] if sizes is None else sizes))
            if len(found) != len(wanted) or any(
                size not in (None, given) for given, size in zip(found, wanted, strict=True)
            ):
                expected = ", ".join("any" if size is None else str(size) for size in wanted)
                shown = name.removeprefix("camrt_out_").removeprefix("camrt_")
                raise UnsupportedModelError(
                    f"the model's {shown} {'have' if name == LOGITS else 'has'} shape {found} "
                    f"for a batch of {len(batch)}, not ({expected}) as the file's shapes say; export the "
                    "model again"
                )
        return answers
