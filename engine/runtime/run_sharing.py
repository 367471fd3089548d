"""Lets somebody else run what a runner is asked for, together with what others ask of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from functools import wraps
from typing import TYPE_CHECKING, Any, Protocol, TypeVar, cast

if TYPE_CHECKING:
    from camrt.engine.runtime import Runner

__all__ = ["RunSharing", "shareable", "sharing_runs"]

Array = Any  # of NumPy or of torch, see `camrt.engine.arrays`
Call = TypeVar("Call", bound=Callable[..., list[Any]])


class RunSharing(Protocol):
    """What runs the batches of several callers together."""

    def run(
        self, runner: Runner, batch: Array, names: Sequence[str], extra_inputs: Mapping[str, Array]
    ) -> list[Array]:
        """What the runner gives for a batch, see `camrt.engine.runtime.Runner`; it waits for it."""
        ...


_SHARING: ContextVar[RunSharing | None] = ContextVar("camrt_run_sharing", default=None)


@contextmanager
def sharing_runs(sharing: RunSharing) -> Iterator[None]:
    """Has all that this thread asks of runners in the block run by `sharing`."""
    token = _SHARING.set(sharing)
    try:
        yield
    finally:
        _SHARING.reset(token)


def shareable(call: Call) -> Call:
    """Decorates the `__call__` of a runner whose runs may be shared, see `sharing_runs`."""

    @wraps(call)
    def run(
        self: Runner,
        batch: Array,
        fetch: Sequence[str] | None = None,
        extra_inputs: Mapping[str, Array] | None = None,
    ) -> list[Array]:
        sharing = _SHARING.get()
        if sharing is None or not len(batch):
            return call(self, batch, fetch, extra_inputs)
        return sharing.run(self, batch, self.outputs if fetch is None else fetch, extra_inputs or {})

    return cast("Call", run)
