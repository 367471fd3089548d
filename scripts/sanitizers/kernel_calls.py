"""Calls every native kernel, on odd shapes and numbers, from several Python threads at once.

    CAMRT_WATCHED=FOLDER python scripts/sanitizers/kernel_calls.py --rounds 100

What the callers are given they share, and what they are answered may not differ by a bit from what the same
call answers alone. The sanitizer that watches says what it has seen, and makes the process end with its exit
code.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from threading import Barrier
from typing import Any, TypeAlias

import numpy as np
from sanitized_kernels import NATIVE

from camrt import kernels
from camrt.kernels.ablate import ablate_boxes, ablate_channels
from camrt.kernels.blur import blur
from camrt.kernels.box_probabilities import box_probabilities, box_probabilities_pair
from camrt.kernels.box_sums import box_sums
from camrt.kernels.hidden_scores import FUNCTIONS, hidden_scores
from camrt.kernels.masked_batch import masked_batch
from camrt.kernels.partial_products import partial_products
from camrt.kernels.perturb import perturb
from camrt.kernels.rank_one import rank_one
from camrt.kernels.ranking_counts import average_precision, histogram
from camrt.kernels.saliency import saliency
from camrt.kernels.threshold_boxes import best_overlaps, largest_boxes

CALLERS = 4

Call: TypeAlias = Callable[[], Any]


class RandomInputs:
    """Sizes and numbers of one round.

    Args:
        seed: What they are drawn from.
        round_: Its number; every tenth round is of sizes as models have.
    """

    def __init__(self, seed: int, round_: int) -> None:
        self.rng = np.random.default_rng([seed, round_])
        self.large = round_ % 10 == 9
        self.type = np.dtype(("f4", "f8")[int(self.rng.integers(2))])
        self.threads = int(self.rng.integers(1, 6))

    def size(self, most: int, large: int | None = None, least: int = 1) -> int:
        """A size up to `most`; `large` in a round of large sizes."""
        return large if self.large and large is not None else int(self.rng.integers(least, most + 1))

    def numbers(self, *shape: int) -> Any:
        """Mostly normal numbers, at times huge, all alike, or NaN and infinite ones among them.

        They do not always lie together.
        """
        made = self.rng.standard_normal((*shape[:-1], 2 * shape[-1]))
        kind = int(self.rng.integers(8))
        if kind == 0:
            made *= 1e38
        elif kind == 1:
            made[...] = 1.5
        elif kind == 2:
            made[self.rng.random(made.shape) < 0.05] = np.nan
            made[self.rng.random(made.shape) < 0.05] = -np.inf
        with np.errstate(over="ignore"):
            strided = made.astype(self.type)[..., ::2]
        return strided if self.rng.integers(2) else np.ascontiguousarray(strided)

    def below(self, limit: int, *shape: int) -> Any:
        """Indices, of several types."""
        return self.rng.integers(limit, size=shape).astype(("i8", "i4", "u2")[int(self.rng.integers(3))])

    def boxes(self, count: int, rows: int, columns: int) -> Any:
        """Half-open boxes of cells."""
        sides = [np.sort(self.rng.integers(limit, size=(count, 2)), axis=1) for limit in (rows, columns)]
        (r0, r1), (c0, c1) = (side.T for side in sides)
        return np.stack([r0, c0, r1 + 1, c1 + 1], axis=1)


def output_call(
    draw: RandomInputs, kernel: Callable[..., Any], shape: tuple[int, ...], *given: Any, **options: Any
) -> Call:
    """A call of a kernel that writes its result into an argument."""

    def call() -> Any:
        out = np.full(shape, np.nan, draw.type)
        return out, kernel(*given, out, threads=draw.threads, **options)

    return call


def calls_of(draw: RandomInputs) -> dict[str, list[Call]]:
    """The calls of one round, by the native kernel that they reach."""
    n, k, h, w = draw.size(3), draw.size(40, 64), draw.size(9, 14), draw.size(9, 14)
    batch, classes, targets = draw.size(12, 40, 0), draw.size(130, 1000), draw.size(70, 3, 0)
    height, width, channels = draw.size(40, 160), draw.size(40, 160), draw.size(4)
    features, cells = draw.size(70, 256), draw.size(30, 49)
    threads = draw.threads
    maps, shown = draw.numbers(n, k, h, w), draw.numbers(n, channels, height, width)
    batch_index, channel = draw.below(n, batch), draw.below(k, batch)
    boxes, few = draw.boxes(draw.size(60, 200, 0), h, w), draw.boxes(batch, h, w)
    contributions, chosen = draw.numbers(n, h, w, classes), draw.below(classes, n, targets)
    logits, others = draw.numbers(n, classes), draw.numbers(n, classes)
    taps = draw.rng.random(2 * draw.size(4, least=0) + 1)
    mirror = len(taps) // 2 < min(height, width) and bool(draw.rng.integers(2))
    ranks = draw.rng.permuted(np.tile(np.arange(height * width), (n, 1)), axis=1)
    counts = draw.rng.integers(height * width + 1, size=batch)
    first, rest = draw.below(n, batch), draw.below(n, batch)
    weight, flat = draw.numbers(features, k, cells), draw.numbers(n, k, cells)
    base, columns = draw.numbers(n, features, cells), draw.numbers(k, features)
    hidden, factor = draw.numbers(n, features), draw.numbers(batch)
    last = draw.numbers(n, targets, features)
    length = draw.size(5000, 300_000)
    scores = draw.rng.standard_normal(length).astype(np.float32).round(draw.size(4))
    marks = draw.rng.choice(np.array([0, 1, 255], np.uint8), length)
    marks[0] = 1
    edges = np.unique(
        draw.rng.standard_normal(draw.size(300) + 1) if draw.rng.integers(2) else np.linspace(-5, 5, 41)
    )
    edges = edges if len(edges) > 1 else np.array([-1.0, 1.0])
    grey = draw.rng.integers(
        draw.size(256), size=(draw.size(4), draw.size(30, 90), draw.size(30, 90)), dtype=np.uint8
    )
    corners = draw.rng.integers(-5, 60, size=(draw.size(6, least=0), 2))
    around = np.concatenate([corners, corners + draw.rng.integers(40, size=corners.shape)], axis=1)
    owner = draw.below(len(grey), len(around))
    size = (height, width)

    return {
        "ablate_channels": [output_call(draw, ablate_channels, (batch, k, h, w), maps, batch_index, channel)],
        "ablate_boxes": [
            output_call(draw, ablate_boxes, (batch, k, h, w), maps, batch_index, few, keep=keep)
            for keep in (False, True)
        ],
        "blur": [lambda: blur(shown, taps, "mirror" if mirror else "zero", threads=threads)],
        "box_probabilities": [
            lambda: box_probabilities(contributions, logits, boxes, chosen, sign=-1, threads=threads),
            lambda: box_probabilities(contributions, logits, boxes, chosen, sign=1, threads=threads),
        ],
        "box_probabilities_pair": [
            lambda: box_probabilities_pair(contributions, logits, others, boxes, chosen, threads=threads)
        ],
        "box_sums": [lambda: box_sums(contributions, boxes, threads=threads)],
        "hidden_scores": [
            partial(
                hidden_scores,
                hidden,
                columns,
                factor,
                batch_index,
                channel,
                last,
                name,
                threads=threads,
            )
            for name in FUNCTIONS
        ],
        "masked_batch": [
            output_call(draw, masked_batch, (batch, *shown.shape[1:]), maps, shown, batch_index, channel)
            if order is None
            else output_call(
                draw,
                masked_batch,
                (batch, *shown.shape[1:]),
                maps,
                shown,
                batch_index,
                channel,
                order=order,
                align_corners=True,
                epsilon=1e-7,
            )
            for order in (None, "normalise-first", "upsample-first")
        ],
        "partial_products": [
            lambda: partial_products(weight, flat, by="cell", threads=threads),
            lambda: partial_products(weight, flat, by="channel", threads=threads),
        ],
        "perturb": [
            output_call(
                draw, perturb, (batch, *shown.shape[1:]), shown, ranks, batch_index, counts, first, rest
            )
        ],
        "rank_one": [
            output_call(draw, rank_one, (batch, features, cells), base, columns, flat, batch_index, channel)
        ],
        "score_histogram": [lambda: histogram(scores, marks, edges, threads=threads).counts],
        "average_precision": [lambda: average_precision(scores, marks, threads=threads)],
        "saliency": [
            lambda: saliency(maps[0], size, threads=threads),
            lambda: saliency(maps[0], size, mode="library", threads=threads),
            lambda: saliency(
                maps[0], size, normalisation="minmax", relu=False, align_corners=True, threads=threads
            ),
        ],
        "best_overlaps": [lambda: best_overlaps(grey, around, owner, threads=threads)],
        "largest_boxes": [lambda: largest_boxes(grey, threads=threads)],
    }


def to_bytes(value: Any) -> bytes:
    """Everything that an answer holds."""
    if isinstance(value, np.ndarray):
        return f"{value.dtype}{value.shape}".encode() + value.tobytes()
    if isinstance(value, tuple):
        return b"".join(map(to_bytes, value))
    return repr(value).encode()


def check_round(number: int, calls: list[tuple[str, Call]]) -> None:
    """Makes the calls one by one, then each from all callers at once, then different ones at once.

    Raises:
        SystemExit: Answers differ.
    """
    alone = [to_bytes(call()) for _, call in calls]
    together = Barrier(CALLERS)

    def caller(place: int) -> str | None:
        for index, (name, call) in enumerate(calls):
            together.wait()
            if to_bytes(call()) != alone[index]:
                return name
        turned = place * len(calls) // CALLERS
        for index in [*range(turned, len(calls)), *range(turned)]:
            if to_bytes(calls[index][1]()) != alone[index]:
                return calls[index][0]
        return None

    with ThreadPoolExecutor(CALLERS) as pool:
        for name in pool.map(caller, range(CALLERS)):
            if name is not None:
                raise SystemExit(f"round {number}: {name} answers another caller otherwise than one alone")


def main() -> None:
    """Runs the rounds.

    Raises:
        SystemExit: Answers differ, or a native kernel is called by none of the calls.
    """
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--rounds", type=int, default=100)
    options.add_argument("--seed", type=int, default=0)
    chosen = options.parse_args()
    assert kernels.IMPLEMENTATION == "native"
    assert sys.modules["camrt.kernels._native"] is NATIVE
    made = 0
    for number in range(chosen.rounds):
        by_name = calls_of(RandomInputs(chosen.seed, number))
        there = {name for name in dir(NATIVE) if not name.startswith("_")}
        if there != set(by_name):
            raise SystemExit(f"not called here, or not there: {', '.join(sorted(there ^ set(by_name)))}")
        calls = [(name, call) for name, some in by_name.items() for call in some]
        check_round(number, calls)
        made += len(calls) * (2 * CALLERS + 1)
    print(f"{made} calls of {len(there)} kernels, {CALLERS} callers at once, the same bits as alone")


if __name__ == "__main__":
    main()
