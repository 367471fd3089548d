"""What must be made anew in a process that was forked: locks that another thread held, and threads.

A child of `os.fork` has the thread that forked and no other one. A lock that another thread held at that
moment is never let go of there, and a thread that this package had started is not there.
"""

from __future__ import annotations

import os
from typing import Protocol
from weakref import WeakSet

__all__ = ["Renewed", "renewed_in_children"]


class Renewed(Protocol):
    """What has locks or threads."""

    def renew(self) -> None:
        """Makes them anew: called in a child, which has one thread."""


_KNOWN: WeakSet[Renewed] = WeakSet()


def renewed_in_children(thing: Renewed) -> None:
    """Has a thing's `renew` called in every child that is forked while it lives."""
    _KNOWN.add(thing)


def _renew() -> None:
    for thing in list(_KNOWN):
        thing.renew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew)
