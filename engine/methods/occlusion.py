"""Occlusion: what hiding a window of the image costs."""

from __future__ import annotations

from dataclasses import dataclass
from operator import index
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt

from camrt.engine.arrays import (
    arange_like,
    constant_like,
    library,
    reserve_for,
    score_change,
    to_float32,
    zeros,
)
from camrt.engine.heads import Head
from camrt.engine.images.framing import MAX_MAP_SIDE
from camrt.engine.methods.base import Cost, MapShape, Method
from camrt.engine.queries import HeadQueries, Need
from camrt.engine.scores import ScoreKind
from camrt.errors import MethodError

__all__ = ["Occlusion"]

Array = Any  # of NumPy or of torch, see `camrt.engine.arrays`
Pair = int | tuple[int, int] | None
PARTS = 7  # of an image's side, one of which is a window where nobody says


@dataclass(frozen=True, kw_only=True)
class Occlusion(Method):
    """Occlusion: how much lower the score is without a window of the image, d = f(x) − f(x without it).

    "Visualizing and Understanding Convolutional Networks" (Zeiler & Fergus, ECCV 2014, section 4.2). Windows
    lie at every multiple of the stride until the image is covered; the last ones of a row or column are cut
    off at its border.

    * `definition="paper"`: a pixel has the d of the window whose middle is nearest (of two, the upper and the
      left). At a stride of 1 this is the paper's map, seen from the other side: it shows f of what is left.
    * `definition="captum"` (the captum package, `Occlusion`): the mean d of all windows that cover the pixel.

    Windows that touch without overlapping, `stride=window`, leave out each patch of the image once; both
    definitions are then the same but for the windows that were cut off.

    Attributes:
        score: "probability" or "logit"; None takes the probability, or the number of a model that gives plain
            numbers.
        definition: Which pixels a window speaks for.
        window: Pixels, (height, width) or one for both; None for a seventh of each side, rounded up.
        stride: Pixels from window to window, likewise, no more than the window; None for half of it, rounded
            up.
        baseline: The number that hides: 0, which is black or, where the images are normalised, their mean
            colour.
    """

    name: ClassVar[str] = "occlusion"
    needs: ClassVar[frozenset[Need]] = frozenset({Need.PIXELS})

    score: ScoreKind | None = None
    definition: Literal["paper", "captum"] = "paper"
    window: Pair = None
    stride: Pair = None
    baseline: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        for option in ("window", "stride"):
            object.__setattr__(self, option, self._pair(option))
        if self.window is not None and self.stride is not None:
            self._windows((MAX_MAP_SIDE, MAX_MAP_SIDE))  # refuses a stride that leaves something out
        self.require_number("baseline")

    def _pair(self, option: str) -> tuple[int, int] | None:
        value = getattr(self, option)
        if value is None:
            return None
        try:
            pair = tuple(map(index, value)) if isinstance(value, (tuple, list)) else (index(value),) * 2
        except TypeError:
            pair = ()
        if isinstance(value, bool) or len(pair) != 2 or min(pair) < 1:
            raise MethodError(
                f"{self.name}: {option}={value!r} must be a whole number of pixels, 1 or more, or two, "
                "(height, width)"
            )
        return pair

    def _windows(self, size: tuple[int, int]) -> list[npt.NDArray[np.int64]]:
        """For each axis of images of a size, where its windows begin and end: (P, 2)."""
        windows, strides, axes = self._pair("window"), self._pair("stride"), []
        for axis, side in enumerate(size):
            window = -(-side // PARTS) if windows is None else windows[axis]
            stride = -(-window // 2) if strides is None else strides[axis]
            if window > side:
                raise MethodError(f"{self.name}: window={self.window} is larger than images of {size}")
            if stride > window:
                raise MethodError(
                    f"{self.name}: stride={self.stride} must be no more than the window, here {window}: "
                    "what lies between windows would never be hidden"
                )
            begins = np.arange(-(-(side - window) // stride) + 1) * stride
            axes.append(np.stack([begins, np.minimum(begins + window, side)], axis=1))
        return axes

    def raw(self, queries: HeadQueries) -> tuple[Array, Array]:
        kind = self.score or queries.supported_kind("probability")
        scores, images = queries.scores(kind), queries.images
        size = (images.shape[2], images.shape[3])
        axes = self._windows(size)
        rows, columns = map(len, axes)
        inside = [
            constant_like(is_inside(windows, side).astype(np.float32), images)
            for windows, side in zip(axes, size, strict=True)
        ]

        def make_masks(start: int, stop: int) -> Array:
            numbers = start + arange_like(stop - start, images)
            return 1 - inside[0][numbers // columns][:, :, None] * inside[1][numbers % columns][:, None, :]

        background = None if self.baseline == 0 else library(images).full_like(images, self.baseline)
        count, targets = scores.shape
        reserve_for((count, 3, rows * columns, targets), images, "scores of windows")
        drops = zeros((count, rows * columns, targets), images, "float64")
        xp = library(drops)
        wide = xp.astype(scores, xp.float64)[:, None]
        for start, masks, found in queries.scores_of_masked_copies(
            kind, rows * columns, make_masks, background=background
        ):
            drops[:, start : start + len(masks)] = -score_change(xp.astype(found, xp.float64), wide)
        grid = xp.reshape(xp.permute_dims(drops, (0, 2, 1)), (count, targets, rows, columns))
        share = nearest_share if self.definition == "paper" else covering_share
        shares = [constant_like(share(windows, side), grid) for windows, side in zip(axes, size, strict=True)]
        return to_float32(shares[0] @ grid @ shares[1].T), scores

    def cost(self, head: Head, shape: MapShape) -> Cost:
        if shape.image is not None:
            rows, columns = map(len, self._windows(shape.image))
        elif self.window is None and self.stride is None:
            rows = columns = 2 * PARTS - 1  # of a side of any length, at most
        else:
            raise MethodError(
                "how many windows there are depends on the image's size, which this model leaves open"
            )
        return Cost(0, rows * columns, "one a window")


def is_inside(windows: npt.NDArray[np.int64], side: int) -> npt.NDArray[np.bool_]:
    """(P, side): which pixels of an axis lie in each window."""
    pixels = np.arange(side)
    return np.asarray((pixels >= windows[:, :1]) & (pixels < windows[:, 1:]))


def covering_share(windows: npt.NDArray[np.int64], side: int) -> npt.NDArray[np.float64]:
    """(side, P): the mean over the windows that cover each pixel of an axis."""
    inside = is_inside(windows, side).T.astype(np.float64)
    return np.asarray(inside / inside.sum(axis=1, keepdims=True))


def nearest_share(windows: npt.NDArray[np.int64], side: int) -> npt.NDArray[np.float64]:
    """(side, P): 1 for the window whose middle is nearest to each pixel of an axis."""
    away = np.abs(2 * np.arange(side)[:, None] + 1 - windows.sum(axis=1))
    return np.asarray(np.eye(len(windows))[away.argmin(axis=1)])
