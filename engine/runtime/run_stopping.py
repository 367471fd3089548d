"""Stopping a run from outside, before its deadline: nobody waits for it any more."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

__all__ = ["RunStopper", "called_to_stop", "stoppable"]


class RunStopper:
    """Stops what runs in a block that is `stoppable` by it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._stops: list[Callable[[], None]] = []
        self._stopped = False

    def stop(self) -> None:
        """Tells what runs to end soon, and what is begun later too."""
        with self._lock:
            self._stopped, stops = True, list(self._stops)
        for stop in stops:
            stop()

    @contextmanager
    def calling(self, stop: Callable[[], None]) -> Iterator[None]:
        """Has `stop` called when what runs in the block is to end; at once where that is known."""
        with self._lock:
            self._stops.append(stop)
            stopped = self._stopped
        try:
            if stopped:
                stop()
            yield
        finally:
            with self._lock:
                self._stops.remove(stop)


_STOPPER: ContextVar[RunStopper | None] = ContextVar("camrt_run_stopper", default=None)


@contextmanager
def stoppable(stopper: RunStopper) -> Iterator[None]:
    """Has `stopper` stop what this thread runs in the block."""
    token = _STOPPER.set(stopper)
    try:
        yield
    finally:
        _STOPPER.reset(token)


@contextmanager
def called_to_stop(stop: Callable[[], None]) -> Iterator[None]:
    """Has `stop` called when this thread's run in the block is to end, see `stoppable`."""
    stopper = _STOPPER.get()
    if stopper is None:
        yield
        return
    with stopper.calling(stop):
        yield
