"""What must be made anew in a process that was forked: locks that another thread held, and threads.

A child of `os.fork` has the thread that forked and no other one. A lock that another thread held at that
moment is never let go of there, and a thread that this package had started is not there. Python's own lock
of a module that another thread was importing is such a lock: what imports many is done undivided.
"""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from threading import RLock
from typing import Any, Protocol
from weakref import WeakSet

from camrt.errors import BackendError

__all__ = [
    "ForkSafeLock",
    "Renewable",
    "block_forks",
    "check_torch_threads",
    "never_free",
    "renew_after_fork",
]


class Renewable(Protocol):
    """What has locks or threads."""

    def renew(self) -> None:
        """Makes them anew: called in a child, which has one thread."""


_KNOWN: WeakSet[Renewable] = WeakSet()
_UNDIVIDED = RLock()


def renew_after_fork(thing: Renewable) -> None:
    """Has a thing's `renew` called in every child that is forked while it lives."""
    _KNOWN.add(thing)


def never_free(thing: object) -> None:
    """Has this process never free a thing, not even when it ends.

    For what a child has of its parent and cannot take apart, as what waits for its threads to end when it is
    freed: they are not there.
    """
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(thing))


class ForkSafeLock:
    """A lock that nobody holds in a child; a thread that holds it may take it again.

    It is used by `with`.
    """

    def __init__(self) -> None:
        self.renew()
        renew_after_fork(self)

    def renew(self) -> None:
        """Starts anew in a forked child, see `camrt.kernels.fork_safety`."""
        self._lock = RLock()

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()


@contextmanager
def block_forks() -> Iterator[None]:
    """No other thread forks while the block runs: a child finds it done, or not begun."""
    with _UNDIVIDED:
        yield


def check_torch_threads() -> None:
    """To be called before torch computes on the CPU: in a child it waits for ever for its parent's threads.

    Raises:
        BackendError: This process was forked from one that had torch, and torch has not been told of it.
    """
    torch = _INHERITED.get("torch")
    if torch is not None and torch.get_num_threads() > 1:
        raise BackendError(
            "this process was forked from one in which torch is loaded, and torch's threads are not in it: "
            "call torch.set_num_threads(1) here first, or start processes by spawn instead of fork"
        )


_INHERITED: dict[str, Any] = {}


def _renew() -> None:
    _UNDIVIDED.release()
    if "torch" in sys.modules:
        _INHERITED["torch"] = sys.modules["torch"]
    for thing in list(_KNOWN):
        thing.renew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_UNDIVIDED.acquire, after_in_parent=_UNDIVIDED.release, after_in_child=_renew)
