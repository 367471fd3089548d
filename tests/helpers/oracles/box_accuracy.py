"""MaxBoxAccV2, slowly: borders are followed pixel by pixel at every threshold.

The borders, of holes too, are followed as by Suzuki and Abe, "Topological structural analysis of digitized
binary images by border following" (1985), Algorithm 1; their boxes, areas and overlaps are counted from the
places that were visited.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

__all__ = ["accuracy", "borders", "enclosed", "overlap", "overlaps_at_thresholds"]

Place = tuple[int, int]
Border = list[Place]
_CLOCKWISE: tuple[Place, ...] = ((0, -1), (-1, -1), (-1, 0), (-1, 1), (0, 1), (1, 1), (1, 0), (1, -1))


def borders(above: Iterable[Iterable[Any]]) -> list[Border]:
    """The places (row, column) along every outer border and every hole's, in the order of their discovery."""
    rows = [[0, *(int(bool(value)) for value in row), 0] for row in above]
    width = len(rows[0])
    image = [[0] * width, *rows, [0] * width]
    number, found = 1, []
    for i in range(1, len(image) - 1):
        for j in range(1, width - 1):
            if image[i][j] == 1 and image[i][j - 1] == 0:
                start = (0, -1)
            elif image[i][j] >= 1 and image[i][j + 1] == 0:
                start = (0, 1)
            else:
                continue
            number += 1
            found.append([(r - 1, c - 1) for r, c in _follow(image, (i, j), start, number)])
    return found


def _follow(image: list[list[int]], origin: Place, start: Place, number: int) -> Border:
    def around(centre: Place, step: Place, turn: int) -> Iterable[tuple[Place, Place]]:
        """The eight places around, from the one after `step` on; clockwise for 1, the other way for -1."""
        first = _CLOCKWISE.index(step)
        for k in range(8):
            way = _CLOCKWISE[(first + turn * (k + 1)) % 8]
            yield way, (centre[0] + way[0], centre[1] + way[1])

    def step_to(centre: Place, other: Place) -> Place:
        return other[0] - centre[0], other[1] - centre[1]

    beside = (origin[0] + start[0], origin[1] + start[1])
    last = next((at for _, at in around(origin, start, 1) if at != beside and image[at[0]][at[1]]), None)
    if last is None:
        image[origin[0]][origin[1]] = -number
        return [origin]
    before, here, path = last, origin, []
    while True:
        path.append(here)
        passed_right = False
        for way, there in around(here, step_to(here, before), -1):
            if image[there[0]][there[1]]:
                break
            passed_right = passed_right or way == (0, 1)
        if passed_right:
            image[here[0]][here[1]] = -number
        elif image[here[0]][here[1]] == 1:
            image[here[0]][here[1]] = number
        if there == origin and here == last:
            return path
        before, here = here, there


def enclosed(border: Border) -> float:
    """The area of the polygon through a border's places, by the shoelace formula."""
    ahead = [*border[1:], border[0]]
    return abs(sum(r * d - s * c for (r, c), (s, d) in zip(border, ahead, strict=True))) / 2


def overlap(a: Sequence[int], b: Sequence[int]) -> float:
    """Intersection over union of two boxes (x0, y0, x1, y1) as sets of pixels."""
    one, other = (
        {(x, y) for x in range(box[0], box[2] + 1) for y in range(box[1], box[3] + 1)} for box in (a, b)
    )
    return len(one & other) / len(one | other)


def overlaps_at_thresholds(
    levels: Sequence[Sequence[int]], drawn: Sequence[Sequence[int]], largest: bool = False
) -> list[float]:
    """The best overlap of a map of 8 bits with the boxes, at 0, 0.001, ..., 0.999 of its maximum."""
    height, width = len(levels), len(levels[0])
    highest = max(max(row) for row in levels)
    known: dict[int, float] = {}
    found = []
    for step in range(1000):
        limit = int(step * 0.001 * highest)  # cut off in floating point, as the benchmark does
        if limit not in known:
            lines = borders([[value > limit for value in row] for row in levels])
            if largest and lines:
                most = max(enclosed(line) for line in lines)
                lines = [[line for line in lines if enclosed(line) == most][-1]]
            boxes = [
                (
                    min(c for _, c in line),
                    min(r for r, _ in line),
                    min(max(c for _, c in line) + 2, width) - 1 if width > 1 else 0,
                    min(max(r for r, _ in line) + 2, height) - 1 if height > 1 else 0,
                )
                for line in lines
            ]
            known[limit] = max(overlap(a, b) for a in boxes or [(0, 0, 0, 0)] for b in drawn)
        found.append(known[limit])
    return found


def accuracy(best: Sequence[Sequence[float]], deltas: Sequence[float]) -> float:
    """The mean over δ of the largest share of maps whose overlap reaches δ at one threshold."""
    shares = [
        max(sum(one[t] >= delta for one in best) / len(best) for t in range(len(best[0]))) for delta in deltas
    ]
    return sum(shares) / len(shares)
