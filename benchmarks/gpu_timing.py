"""Timing calls in turn on a card, and what their times and memory amount to."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from gpu_references import Agreement
from measure import quartiles

__all__ = [
    "ExplainReport",
    "PairedTiming",
    "PeakMemory",
    "Quartiles",
    "TimeBudget",
    "TimingSample",
    "summarise_pair",
    "time_in_turn",
    "time_once",
]

Quartiles = tuple[float, float, float]
Work = Callable[[], Any]

MIN_ROUNDS, MAX_ROUNDS = 3, 30
"""Rounds."""


@dataclass(frozen=True)
class PairedTiming:
    """Two sides timed in turn.

    Attributes:
        part: Its letter.
        what: What was run.
        sides: What the ratios divide by what.
        wall: Quartiles of the ratio of times on the host, the card waited for.
        events: Quartiles of the ratio of times between CUDA's events.
        milliseconds: Medians of either side, on the host.
        returned: Median of the milliseconds after which the first side's call returned.
        rounds: How many.
        goal: What the ratios are held to, as text; empty for nothing.
        met: Whether the medians of both keep it.
        difference: Of the results, relative; see `agreements`.
        module: The ratio on the host to the bare module's time, where that was run too.
    """

    part: str
    what: str
    sides: tuple[str, str]
    wall: Quartiles
    events: Quartiles
    milliseconds: tuple[float, float]
    returned: float
    rounds: int
    goal: str
    met: bool
    difference: float
    module: float | None = None


@dataclass(frozen=True)
class PeakMemory:
    """The most memory that a call held.

    Attributes:
        what: The call.
        peak: MiB that torch had given out at most.
        before: MiB that it had given out when the call began: weights, and the images.
        beside: What it is compared with.
        ratio: Of the peaks.
        goal: What the ratio is held to, as text; empty for nothing.
        met: Whether it keeps it.
    """

    what: str
    peak: float
    before: float
    beside: str
    ratio: float
    goal: str
    met: bool


@dataclass
class ExplainReport:
    """All that was found.

    Attributes:
        agreements: Results compared, by network and type.
        paired: Times.
        peaks: Memory.
        missing: What was not run, and why.
        failed: What broke, with the error.
    """

    agreements: dict[str, list[Agreement]] = field(default_factory=dict)
    paired: list[PairedTiming] = field(default_factory=list)
    peaks: list[PeakMemory] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    failed: list[str] = field(default_factory=list)

    @property
    def sound(self) -> bool:
        """Whether everything ran and agreed."""
        return not self.failed and all(one.holds for found in self.agreements.values() for one in found)

    def document(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self) | {"sound": self.sound}

    def table(self) -> str:
        """As Markdown."""
        lines = []
        for part, title in TITLES.items():
            rows = [paired_row(one) for one in self.paired if one.part == part]
            lines += [f"({part}) {title}", "", *PAIRED_HEAD, *rows, ""] if rows else []
        if self.peaks:
            lines += ["(f) peak memory that torch gave out", "", *PEAK_HEAD, *map(peak_row, self.peaks), ""]
        for name, found in self.agreements.items():
            worst = max(found, key=lambda one: one.difference / one.bound)
            lines.append(
                f"- {name}: {len(found)} results compared with their definitions; nearest to its bound: "
                f"{worst.method}, {worst.what}, {worst.difference:.1e} of {worst.bound:.1e}"
            )
            lines += [
                f"- **{name} differs, and was not timed: {one.method}, {one.what}, by {one.difference:.1e} "
                f"(bound {one.bound:.1e})**"
                for one in found
                if not one.holds
            ]
        lines += [f"- not run: {sentence}" for sentence in self.missing]
        lines += [f"- **failed: {sentence}**" for sentence in self.failed]
        return "\n".join(lines)


TITLES = {
    "c": "explaining beside predicting",
    "d": "Score-CAM of an image beside as many forward passes of the module, without its two of one row",
    "e": "other packages beside camrt, an image",
}
PAIRED_HEAD = [
    "| what | ratio of | on the host, median (quartiles) | by events | of the bare module | goal | met | "
    "medians, ms | returned after, ms | rounds | difference |",
    "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
]
PEAK_HEAD = [
    "| what | peak, MiB | before, MiB | beside | ratio of peaks | goal | met |",
    "| --- | --- | --- | --- | --- | --- | --- |",
]


def paired_row(one: PairedTiming) -> str:
    low, middle, high = one.wall
    cells = [
        one.what,
        " / ".join(one.sides),
        f"**{middle:.4g}×** ({low:.4g}–{high:.4g})",
        f"{one.events[1]:.4g}× ({one.events[0]:.4g}–{one.events[2]:.4g})",
        "–" if one.module is None else f"{one.module:.4g}×",
        *goal_cells(one),
        f"{one.milliseconds[0]:.3f} / {one.milliseconds[1]:.3f}",
        f"{one.returned:.3f}",
        str(one.rounds),
        f"{one.difference:.1e}",
    ]
    return f"| {' | '.join(cells)} |"


def peak_row(one: PeakMemory) -> str:
    cells = [one.what, f"{one.peak:.0f}", f"{one.before:.0f}", one.beside, f"**{one.ratio:.3f}×**"]
    return f"| {' | '.join([*cells, *goal_cells(one)])} |"


def goal_cells(one: PairedTiming | PeakMemory) -> list[str]:
    return [one.goal, "yes" if one.met else "no"] if one.goal else ["–", "–"]


# ---------------------------------------------------------------- timing


@dataclass(frozen=True)
class TimingSample:
    """Milliseconds of one run: until it returned, until the card was done, and between CUDA's events."""

    returned: float
    wall: float
    events: float


def time_once(work: Work) -> TimingSample:
    """One run, on a card that has nothing else to do."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    began = time.perf_counter()
    start.record()
    result = work()
    end.record()
    returned = time.perf_counter()
    torch.cuda.synchronize()
    done = time.perf_counter()
    del result
    return TimingSample(1e3 * (returned - began), 1e3 * (done - began), start.elapsed_time(end))


def time_in_turn(sides: Sequence[Work], seconds: float) -> list[list[TimingSample]]:
    """Rounds of all sides, as many as `seconds` hold: for each side its samples.

    Args:
        sides: What is run. Which goes first changes from round to round.
        seconds: How long it may take; `MIN_ROUNDS` rounds are run however long they take.
    """
    for work in sides:
        work()  # compiles kernels, and sets up libraries
    round_takes = sum(time_once(work).wall for work in sides) / 1e3
    rounds = max(MIN_ROUNDS, min(MAX_ROUNDS, int(seconds / round_takes)))
    samples: list[list[TimingSample]] = [[] for _ in sides]
    for number in range(rounds):
        for step in range(len(sides)):
            side = (number + step) % len(sides)
            samples[side].append(time_once(sides[side]))
    return samples


def ratio(above: list[TimingSample], below: list[TimingSample], which: str, scale: float = 1.0) -> Quartiles:
    """Quartiles of the ratio within rounds, of "wall" or "events" times."""
    return quartiles(
        [scale * getattr(a, which) / getattr(b, which) for a, b in zip(above, below, strict=True)]
    )


def summarise_pair(
    part: str,
    what: str,
    first: tuple[str, list[TimingSample]],
    second: tuple[str, list[TimingSample]],
    *,
    found: float,
    at_most: float | None = None,
    at_least: float | None = None,
    scale: float = 1.0,
    module: list[TimingSample] | None = None,
) -> PairedTiming:
    """What samples of two sides amount to.

    Args:
        part: Its letter.
        what: What was run.
        first: Name and samples of the numerator.
        second: Name and samples of the denominator.
        found: The difference of the results.
        at_most: Goal: neither median ratio passes this.
        at_least: Goal: both median ratios reach this.
        scale: Factor that makes amounts of work equal (images in second / images in first).
        module: The bare module's samples.
    """
    wall, events = (ratio(first[1], second[1], which, scale) for which in ("wall", "events"))
    middles = (wall[1], events[1])
    met = all(at_most is None or one <= at_most for one in middles)
    met &= all(at_least is None or one >= at_least for one in middles)
    goal = f"≤ {at_most:g}×" if at_most is not None else f"≥ {at_least:g}×" if at_least is not None else ""
    milliseconds = tuple(quartiles([one.wall for one in side[1]])[1] for side in (first, second))
    return PairedTiming(
        part,
        what,
        (first[0], second[0]),
        wall,
        events,
        (milliseconds[0], milliseconds[1]),
        quartiles([one.returned for one in first[1]])[1],
        len(first[1]),
        goal,
        met,
        found,
        None if module is None else ratio(first[1], module, "wall")[1],
    )


class TimeBudget:
    """Shares out what is left of the time.

    Args:
        until: When to be done, by `time.perf_counter`.
        works: How many comparisons will be timed.
    """

    def __init__(self, until: float, works: int) -> None:
        self._until = until
        self._left = works

    def seconds(self, most: float) -> float:
        """How long the next comparison may take.

        Loading and comparing results, which come before, take about as long as all timing: half is kept.
        """
        share = (self._until - time.perf_counter()) / (2 * max(1, self._left))
        self._left -= 1
        return max(0.0, min(most, share))
