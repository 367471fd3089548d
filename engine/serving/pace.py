"""How much of a long question is run at once while others ask short ones."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable

__all__ = ["Pace"]

QUIET_SECONDS = 2.0  # seconds after the last short question for which another one is expected
PATIENCE = 1.5  # runs of short questions that a run for a long one may take as long as


class Pace:
    """The size of a run for a long question: of all that fits, or of what takes as long as a short one's run.

    On a processor a run takes as long as it has rows, and a long question's runs become as small as a short
    one's. On a large machine or a GPU small runs take as long as larger ones, and the larger are kept.

    Args:
        largest: The largest run, in images.
        clock: Seconds.
    """

    def __init__(self, largest: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._largest = largest
        self._clock = clock
        self._short_seconds = 0.0
        self._last_short = float("-inf")
        self._sizes: dict[Hashable, float] = {}

    def size(self, runner: Hashable) -> float:
        """How many images' worth of a long question a runner may be given now."""
        if self._clock() - self._last_short > QUIET_SECONDS:
            return self._largest
        return self._sizes.get(runner, 1.0)

    def note_short_question(self) -> None:
        """Notes that a short question was answered."""
        self._last_short = self._clock()

    def note_short_run(self, seconds: float) -> None:
        """Notes how long a run for short questions took: the longest of late counts."""
        self._short_seconds = max(seconds, 0.9 * self._short_seconds)

    def note_long_run(self, runner: Hashable, size: float, seconds: float) -> None:
        """Notes how long a run of some size for a long question took; the next is twice as large at most."""
        allowed = PATIENCE * self._short_seconds
        fitting = size * allowed / seconds if seconds > 0 else self._largest
        if fitting >= size:
            fitting = max(self._sizes.get(runner, 1.0), min(fitting, 2 * size))
        self._sizes[runner] = min(fitting, self._largest)
