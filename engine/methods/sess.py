"""SESS: maps of windows that slide over larger and larger copies of an image, fused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, ClassVar, Literal

import numpy as np

from camrt.engine.arrays import (
    clip_min,
    constant_like,
    library,
    reserve_for,
    safe_divide,
    to_float32,
    zeros,
)
from camrt.engine.heads import Head
from camrt.engine.interpolation import interpolation_matrix
from camrt.engine.methods.altered_images import altered_batches, split_by_part
from camrt.engine.methods.base import Cost, MapShape, Method
from camrt.engine.methods.pixels import gaussian_blur
from camrt.engine.methods.wrapping import MapWrapper, wrap
from camrt.engine.queries import HeadQueries
from camrt.errors import MethodError
from camrt.kernels.saliency import MapFlag

__all__ = ["ScalingAndSliding", "scaled_and_slid"]

Array = Any  # of NumPy or of torch, see `camrt.engine.arrays`
BLUR, SIGMA = 11, 5.0
USUAL_SIZE = (224, 224)  # of an image, to count windows by where its size is not known


@dataclass(frozen=True, kw_only=True)
class ScalingAndSliding(MapWrapper):
    """SESS: the mean of a map's saliency over windows of larger and larger copies of the image.

    "SESS: Saliency Enhancing with Scaling and Sliding" (Tursun et al., ECCV 2022), as its code and the
    pytorch-grad-cam package have it. The image is enlarged to several sizes, and a window of the model's
    input slides over each; at the border it is moved back inside. A window's saliency is multiplied by the
    target's probability there over the largest of all windows (of plain numbers: by the number itself, if
    positive), and laid back where the window lies in the image. Each pixel has the mean of those that are
    above `theta` there, and the whole is blurred. Windows have the shape of the model's input, which is the
    papers' square where that is one.

    A `score` is the map's; windows are weighted by the probability all the same.

    Attributes:
        scales: How many sizes, the image's own among them.
        step: What they grow by, as a share of the image's own.
        stride: What a window moves by, as a share of its side.
        pool: "mean", or "max" of all windows.
        theta: What a window's saliency, times its weight, must exceed to count.
        discard: The share of windows of the lowest probability that are left out.
        blur: Whether the whole is blurred, by a Gaussian of 11 pixels and σ 5.
    """

    prefix: ClassVar[str] = "sess"
    summary: ClassVar[str] = "SESS: {} maps of windows sliding over larger and larger copies of the image."

    scales: int = 12
    step: float = 2 / 7
    stride: float = 1.0
    pool: Literal["mean", "max"] = "mean"
    theta: float = 0.0
    discard: float = 0.0
    blur: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_integer("scales", 1)
        self.require_number("step", 0)
        self.require_number("stride", above=0)
        self.require_number("theta", 0)
        self.require_number("discard", 0)
        if self.discard >= 1:
            raise MethodError(f"{self.name}: discard={self.discard} must be less than 1")

    def raw(self, queries: HeadQueries) -> tuple[Array, Array]:
        images, targets = queries.images, queries.targets
        size = (images.shape[2], images.shape[3])
        windows = sliding_windows(size, self.scales, self.step, self.stride)
        kind = queries.supported_kind("probability")
        xp = library(images)
        reserve_for((5, *targets.shape, *size), images, "maps of windows")
        weights = self._weights(queries, windows) if self.weighs_first or kind == "logit" else None
        total, counts = (zeros((*targets.shape, *size), images, "float64") for _ in range(2))
        most = zeros(tuple(targets.shape), images)
        alter = cut_out(images, windows)
        for parts, rows, owners in altered_batches(images, queries.batch_size, len(windows), alter):
            about = queries.about(rows, owners)
            maps, flags = self.map_saliency(about, self.postprocess)
            broken = (flags == int(MapFlag.NOT_FINITE))[:, :, None, None]
            maps = xp.where(broken, xp.full_like(maps, float("nan")), maps)
            scores = clip_min(about.scores_of_targets(kind), 0.0)
            both = zip(split_by_part(parts, maps), split_by_part(parts, scores), strict=True)
            for (number, part, found), (_, _, score) in both:
                share = score if weights is None else weights[number][part]
                most[part] = xp.maximum(most[part], score)
                weighted = xp.astype(found, xp.float64) * share[:, :, None, None]
                laid = windows[number].lay_back(weighted)
                if self.pool == "max":
                    total[part] = xp.maximum(total[part], laid)
                    continue
                counted = ~(laid <= self.theta)  # NaN too
                total[part] += xp.where(counted, laid, xp.zeros_like(laid))
                counts[part] += xp.astype(counted, xp.float64)
        if self.pool == "mean":
            total = safe_divide(total, counts, counts > 0)
        if weights is None:  # a factor of all windows alike
            total = total / xp.where(most > 0, most, xp.ones_like(most))[:, :, None, None]
        found = gaussian_blur(total, BLUR, SIGMA) if self.blur else to_float32(total)
        return found, queries.scores(self.score or kind)

    @property
    def weighs_first(self) -> bool:
        """Whether windows' weights must be known before their maps are."""
        return self.theta > 0 or self.discard > 0

    def _weights(self, queries: HeadQueries, windows: tuple[Window, ...]) -> Array:
        """(P, N, T): what each window's map is multiplied by, zero where it is left out."""
        images = queries.images
        xp, kind = library(images), queries.supported_kind("probability")
        own = zeros((len(windows), *queries.targets.shape), images)
        alter = cut_out(images, windows)
        for parts, rows, owners in altered_batches(images, queries.batch_size, len(windows), alter):
            scores = queries.about(rows, owners).scores_of_targets(kind)
            for number, part, found in split_by_part(parts, scores):
                own[number, part] = clip_min(found, 0.0)
        most = xp.max(own, axis=0, keepdims=True) + xp.zeros_like(own)
        weights = xp.where(most > 0, safe_divide(own, most, most > 0), xp.ones_like(own))
        weights = xp.where(most == most, weights, most)  # NaN stays
        ranks = xp.argsort(xp.argsort(own, axis=0, stable=True), axis=0, stable=True)
        dropped = ranks < int(len(windows) * self.discard)
        return xp.where(dropped, xp.zeros_like(weights), weights)

    def cost(self, head: Head, shape: MapShape) -> Cost:
        one = self.map_method.cost(head, shape)
        windows = len(sliding_windows(shape.image or USUAL_SIZE, self.scales, self.step, self.stride))
        return Cost(
            windows * one.head,
            windows * (one.full + 1 + self.weighs_first),
            f"one a window, and its map: {one.why}",
            head_adjoint=windows * one.head_adjoint,
            full_adjoint=windows * one.full_adjoint,
        )


@dataclass(frozen=True)
class Window:
    """A window of an enlarged image, by its two axes: the window's side, the image's, and where it begins."""

    rows: tuple[int, int, int]
    columns: tuple[int, int, int]

    def cut_out(self, images: Array) -> Array:
        """The window of images (N, C, H, W), enlarged bilinearly."""
        rows, columns = (
            constant_like(interpolation_matrix(side, enlarged, 0, enlarged)[start : start + side], images)
            for side, enlarged, start in (self.rows, self.columns)
        )
        xp = library(images)
        return xp.astype(rows, images.dtype) @ images @ xp.astype(columns, images.dtype).T

    def lay_back(self, maps: Array) -> Array:
        """Maps (..., H, W) of the window on the image, float64, zero beside it."""
        rows, columns = (
            constant_like(
                np.ascontiguousarray(interpolation_matrix(enlarged, side, 0, side)[:, start : start + side]),
                maps,
            )
            for side, enlarged, start in (self.rows, self.columns)
        )
        return rows @ maps @ columns.T


@lru_cache(maxsize=8)
def sliding_windows(size: tuple[int, int], scales: int, step: float, stride: float) -> tuple[Window, ...]:
    """All windows of an image of (H, W): scale by scale, from left to right and downwards."""
    found = []
    for scale in range(scales):
        height, width = ((side, side + round(side * step) * scale) for side in size)
        found += [
            Window((*height, y), (*width, x))
            for y in window_starts(*height, stride)
            for x in window_starts(*width, stride)
        ]
    return tuple(found)


def window_starts(side: int, enlarged: int, stride: float) -> list[int]:
    """Where windows of a side begin on an enlarged one; the last ends where that does."""
    last = enlarged - side
    return [*range(0, last, max(round(side * stride), 1)), last]


def cut_out(images: Array, windows: tuple[Window, ...]) -> Callable[[int], Array]:
    """What gives window number i of all images, (N, C, H, W)."""
    reserve_for((3, *images.shape), images, "windows of images", itemsize=4)
    return lambda number: windows[number].cut_out(images)


def scaled_and_slid(map_class: type[Method]) -> type[MapWrapper] | None:
    """The class of SESS on a method's maps; None where `wrap` has none."""
    return wrap(ScalingAndSliding, map_class)
