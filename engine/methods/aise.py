"""AISE."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt

from camrt.engine.arrays import reserve_for, to_device_async, to_numpy
from camrt.engine.extras import import_extra
from camrt.engine.heads import Head
from camrt.engine.methods.base import Cost, MapShape, Method
from camrt.engine.queries import HeadQueries, Need
from camrt.engine.scores import ScoreKind
from camrt.errors import MethodError
from camrt.export.allocation import zeros

__all__ = ["AISE"]

Array = Any  # of NumPy or of torch, see `camrt.engine.arrays`
Place = tuple[float, float]
SIDES = 2  # a mask is kept, and left out


@dataclass(frozen=True, kw_only=True)
class AISE(Method):
    """AISE: a bell of light put where it tells most of the score, by a global search.

    "AISE: Adaptive Input Sampling for Explanation of Black-box Models", as the OpenVINO XAI package has it
    (`AISEClassification`, version 1.1): with G_c the Gaussian of width σ at c, in units of the image's sides,
    whose largest pixel is 1, the DIRECT algorithm (Jones et al., JOTA 1993) looks for the c at which

        v(c) = f(x ∘ G_c) − f(x ∘ (1 − G_c))

    is largest. Every place it tries counts: for each σ Σ_c v(c) · G_c is divided by its largest value, if
    that is positive, and these are added up. Where the search goes depends on the class: each target has a
    search of its own, and costs passes of its own. Searches of all images, targets and widths go on side by
    side. SciPy is needed.

    Attributes:
        score: "probability" or "logit"; None takes the probability, or the number of a model that gives plain
            numbers.
        passes: A target, two for each place tried, the same number of places for each width.
        widths: σ, one or more.
        epsilon: How much better than the best so far a part of the image must promise to be, as a share.
    """

    name: ClassVar[str] = "aise"
    needs: ClassVar[frozenset[Need]] = frozenset({Need.PIXELS})

    score: ScoreKind | None = None
    passes: int = 300
    widths: tuple[float, ...] = (0.1, 0.175, 0.25)
    epsilon: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        try:
            widths = tuple(map(float, self.widths))
        except (TypeError, ValueError):
            widths = ()
        if not widths or not all(0 < width < np.inf for width in widths):
            raise MethodError(f"{self.name}: widths={self.widths!r} must be one or more numbers > 0")
        object.__setattr__(self, "widths", widths)
        self.require_integer("passes", SIDES * len(widths))
        self.require_number("epsilon", 0)

    def raw(self, queries: HeadQueries) -> tuple[Array, Array]:
        kind = self.score or queries.supported_kind("probability")
        scores = queries.scores(kind)
        count, targets = scores.shape
        size = (queries.images.shape[2], queries.images.shape[3])
        reserve_for((len(self.widths) * targets, 4, count, *size), scores, "masks")
        searches = [Search(width, self.epsilon) for _ in range(count * targets) for width in self.widths]
        places = self.passes // (SIDES * len(self.widths))
        for _ in range(places):
            asked = [search.next_place(places) for search in searches]
            bells = np.stack(
                [bell(place, one.width, size) for place, one in zip(asked, searches, strict=True)]
            )
            masks = bells.reshape(count, -1, *size)
            found = self._gains(queries, kind, np.concatenate([masks, 1 - masks], axis=1))
            for search, mask, value in zip(searches, bells, found.ravel(), strict=True):
                search.add(mask, float(value))
        maps = zeros((count * targets, *size), "maps")
        for number, search in enumerate(searches):
            highest = search.total.max()
            maps[number // len(self.widths)] += search.total / (highest if highest > 0 else 1)
        made = maps.reshape(count, targets, *size).astype(np.float32)
        return to_device_async(made, queries.images), scores

    def _gains(
        self, queries: HeadQueries, kind: ScoreKind, masks: npt.NDArray[np.float32]
    ) -> npt.NDArray[Any]:
        """(N, T·σ): v of the masks (N, 2·T·σ, H, W), the second half of which are the others left out."""
        count = masks.shape[1]
        found = np.concatenate(
            [
                to_numpy(scores)
                for _, _, scores in queries.scores_of_masked_copies(
                    kind,
                    count,
                    lambda start, stop: to_device_async(masks[:, start:stop], queries.images),
                    shared=False,
                )
            ],
            axis=1,
        ).astype(np.float64)
        gains = found[:, : count // 2] - found[:, count // 2 :]
        own = np.arange(count // 2) // len(self.widths)
        return np.asarray(gains[:, np.arange(count // 2), own])

    def cost(self, head: Head, shape: MapShape) -> Cost:
        return Cost(0, self.passes, "two a place of the bell, a target")


class AskedError(Exception):
    """Not an error: the search wants to know the value at a place."""

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self.place = place


class Search:
    """DIRECT in the unit square, one place at a time.

    Args:
        width: Of the bell whose place is looked for.
        epsilon: See `AISE`.
    """

    def __init__(self, width: float, epsilon: float) -> None:
        self.width = width
        self.total: Any = 0.0
        self._epsilon = epsilon
        self._values: list[float] = []
        self._last: Place = (0.5, 0.5)

    def add(self, mask: npt.NDArray[np.float32], value: float) -> None:
        """What was found at the place that was asked for."""
        self._values.append(value)
        self.total = self.total + mask.astype(np.float64) * value

    def next_place(self, most: int) -> Place:
        """The place that comes next, by going again through all that are known."""
        known = iter(self._values)

        def value(place: Sequence[float]) -> float:
            for found in known:
                return -found
            raise AskedError((float(place[0]), float(place[1])))

        optimise = import_extra("scipy.optimize")
        try:
            optimise.direct(value, [(0.0, 1.0)] * 2, eps=self._epsilon, maxfun=most, locally_biased=False)
        except AskedError as asked:
            self._last = asked.place
        return self._last


def bell(place: Place, width: float, size: tuple[int, int]) -> npt.NDArray[np.float32]:
    """G (H, W) at (x, y), whose largest pixel is 1."""
    sides = []
    for side, at in zip(size, reversed(place), strict=True):
        exponents = -((np.linspace(0, 1, side) - at) ** 2) / (2 * width**2)
        sides.append(np.exp(exponents - exponents.max()))
    return np.asarray(np.outer(*sides), np.float32)
