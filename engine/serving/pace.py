"""How much of a long question is run at once while others ask short ones, and whose turn it is."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable

__all__ = ["Pace"]

QUIET_SECONDS = 2.0  # seconds after the last short question for which another one is expected
PATIENCE = 1.5  # runs of short questions that a run for a long one may take as long as


class Pace:
    """The size of a run for a long question: of all that fits, or of what takes as long as a short one's run.

    As long as both wait, runs for long questions take as much time as those for short ones.

    On a processor a run takes as long as it has rows, and a long question's runs become as small as a short
    one's. On a large machine or a GPU small runs take as long as larger ones, and the larger are kept.

    Args:
        largest: The largest run, in images.
        clock: Seconds.
    """

    def __init__(self, largest: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._largest = largest
        self._clock = clock
        self._short: dict[
            Hashable, tuple[float, float]
        ] = {}  # a runner's usual seconds, and when it ran last
        self._last_short = float("-inf")
        self._long_seconds = 0.0
        self._since_long = 0.0
        self._sizes: dict[Hashable, float] = {}

    @property
    def long_is_due(self) -> bool:
        """Whether runs for short questions have taken as much time as the last one for a long question."""
        return self._since_long >= self._long_seconds

    def size(self, runner: Hashable) -> float:
        """How many images' worth of a long question a runner may be given now."""
        if self._clock() - self._last_short > QUIET_SECONDS:
            return self._largest
        return self._sizes.get(runner, 1.0)

    def note_short_question(self) -> None:
        """Notes that a short question was answered."""
        self._last_short = self._clock()

    def note_short_run(self, runner: Hashable, seconds: float) -> None:
        """Notes how long a run for short questions took."""
        usual, _ = self._short.get(runner, (seconds, 0.0))
        self._short[runner] = (usual + 0.1 * (seconds - usual), self._clock())
        self._since_long += seconds

    def note_long_run(self, runner: Hashable, size: float, seconds: float) -> None:
        """Notes how long a run of some size for a long question took.

        The next may take as long as short questions' longest usual run, and be twice as large at most.
        """
        self._long_seconds, self._since_long = seconds, 0.0
        now = self._clock()
        usual = (of_one for of_one, last in self._short.values() if now - last <= QUIET_SECONDS)
        allowed = PATIENCE * max(usual, default=0.0)
        fitting = size * allowed / seconds if seconds > 0 else self._largest
        if fitting >= size:
            fitting = max(self._sizes.get(runner, 1.0), min(fitting, 2 * size))
        self._sizes[runner] = min(fitting, self._largest)
