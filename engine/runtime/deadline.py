"""Stopping work that outlasts its deadline: one watching thread for the whole process."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from camrt.engine.runtime.run_stopping import called_to_stop
from camrt.export.budget import prefer_deadline_error, seconds_left
from camrt.kernels.fork_safety import renew_after_fork

__all__ = ["DeadlineWatcher", "call_after", "stop_at_deadline"]

LINGER_SECONDS = 0.25  # less than any deadline of runs that follow each other quickly


class DeadlineWatcher:
    """Calls back when registered work has not finished by its deadline.

    The thread sleeps until the earliest deadline it knows of, so registering costs one lock and wakes
    nothing: later deadlines are looked at when that one has passed. When it was woken and all work had ended
    by then, more of the kind may follow: it looks again a little later, rather than be woken each time.
    """

    def __init__(self) -> None:
        self.renew()
        renew_after_fork(self)

    def renew(self) -> None:
        """Starts anew in a forked child, see `camrt.kernels.fork_safety`."""
        self._changed = threading.Condition()
        self._due: dict[int, tuple[float, Callable[[], None]]] = {}
        self._tickets = itertools.count()
        self._wakes_at = float("inf")
        self._thread: threading.Thread | None = None

    def register(self, seconds: float, callback: Callable[[], None]) -> int:
        """Has `callback` called after `seconds` unless the ticket returned is given back before."""
        at = time.monotonic() + seconds
        with self._changed:
            ticket = next(self._tickets)
            self._due[ticket] = (at, callback)
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._watch, name="camrt-deadlines", daemon=True)
                self._thread.start()
            elif at < self._wakes_at:
                self._changed.notify()
        return ticket

    def release(self, ticket: int) -> None:
        """Gives a ticket back: the work has ended."""
        with self._changed:
            self._due.pop(ticket, None)

    def _watch(self) -> None:
        with self._changed:
            woken = True
            while True:
                now = time.monotonic()
                for ticket, (at, callback) in list(self._due.items()):
                    if at <= now:
                        del self._due[ticket]
                        callback()
                idle = now + LINGER_SECONDS if woken else float("inf")
                self._wakes_at = min((at for at, _ in self._due.values()), default=idle)
                wait = self._wakes_at - now
                woken = self._changed.wait(None if wait == float("inf") else max(wait, 0.0))


_WATCHER = DeadlineWatcher()


@contextmanager
def call_after(seconds: float, callback: Callable[[], None]) -> Iterator[None]:
    """Calls `callback` once if the block is still running after `seconds`; infinity never does."""
    if seconds == float("inf"):
        yield
        return
    ticket = _WATCHER.register(seconds, callback)
    try:
        yield
    finally:
        _WATCHER.release(ticket)


@contextmanager
def stop_at_deadline(stop: Callable[[], None]) -> Iterator[None]:
    """Calls `stop` if the block is still running when the call at hand must have ended, or nobody wants it.

    What the block then fails with becomes the error that says so.

    Raises:
        DeadlineError: The call at hand has taken too long, or took too long in the block.
    """
    with call_after(seconds_left(), stop), called_to_stop(stop), prefer_deadline_error():
        yield
