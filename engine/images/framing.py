"""Where images, what a model sees of them, and maps lie in each other; laying maps where they belong."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from camrt.engine.arrays import constant_like, library, reserve_for
from camrt.export.geometry.region import Region
from camrt.kernels.resampling import axis_table
from camrt.kernels.saliency import saliency

__all__ = ["MAX_MAP_SIDE", "Framing", "uncrop_maps", "uncropped_saliency"]

Array = Any  # of NumPy or of torch, see `camrt.engine.arrays`
MAX_MAP_SIDE = 16384  # of a map: far above any image worth drawing on, below what fills a memory
ROUNDING = 1e-9  # of an image's side
Size = tuple[int, int]


@dataclass(frozen=True)
class Framing:
    """Which part of an image something shows: a model's input, or a map.

    Attributes:
        size: (H, W) of the image, upright.
        region: The part, in its pixels.
    """

    size: Size
    region: Region

    @classmethod
    def whole(cls, size: Size) -> Framing:
        """All of it."""
        return cls(size, Region.whole(size))

    @property
    def is_whole(self) -> bool:
        """Whether the part is the whole, but for rounding."""
        slack = ROUNDING * max(self.size)
        ends = zip(self.region.box, Region.whole(self.size).box, strict=True)
        return all(abs(found - whole) <= slack for found, whole in ends)

    def compose(self, inner: Framing) -> Framing:
        """What shows a part of something that itself shows this part: which part of this image that is."""
        return Framing(self.size, self.region.of(inner.region, inner.size))

    def resized_to(self, size: Size) -> Framing:
        """The same part of the same image, resized to another (H, W)."""
        return Framing(size, Region.whole(size).of(self.region, self.size))

    def inverse(self, size: Size) -> Framing:
        """Where the whole image lies in what shows the part and has (H, W) pixels."""
        return Framing(size, self.region.inverse(self.size, size))


def uncrop_maps(
    maps: Array, framing: Framing, *, beyond: Literal["zero", "edge"] = "zero", align_corners: bool = False
) -> Array:
    """Maps of a part of an image on the whole of it, bilinearly.

    Args:
        maps: (..., h, w), float32.
        framing: The image's size, and the part that the maps show.
        beyond: What lies outside the part: zeros, or the map's nearest value.
        align_corners: Whether the middles of corner cells lie on those of the part's corner pixels.

    Returns:
        (..., H, W) of `framing.size`; a pixel belongs to the part where its middle does.
    """
    xp, region = library(maps), framing.region
    inside = []
    for axis, begin, end in ((-2, region.upper, region.lower), (-1, region.left, region.right)):
        count = framing.size[axis]
        lower, upper, t = axis_table(maps.shape[axis], count, align_corners, begin, end)
        shape = (-1, 1) if axis == -2 else (-1,)
        made = list(maps.shape)
        made[axis] = 4 * count
        reserve_for(made, maps, "maps", itemsize=4)
        first = xp.take(maps, constant_like(lower, maps), axis=axis)
        second = xp.take(maps, constant_like(upper, maps), axis=axis)
        maps = first + constant_like(t.astype(np.float32).reshape(shape), maps) * (second - first)
        middles = np.arange(count) + 0.5
        inside.append(((middles > min(begin, end)) & (middles < max(begin, end))).reshape(shape))
    if beyond == "edge" or all(side.all() for side in inside):
        return maps
    return xp.where(constant_like(inside[0] & inside[1], maps), maps, xp.zeros_like(maps))


def uncropped_saliency(
    raw: Array,
    framing: Framing,
    *,
    mode: Literal["native", "library"],
    normalisation: Literal["max", "minmax"],
    relu: bool,
    out: Array | None = None,
    threads: int | None,
) -> tuple[Array, Array]:
    """Saliency maps of an image's size of raw maps that show a part of it; elsewhere they are zero.

    Args:
        raw: (M, h, w), float32.
        framing: The image's size (H, W), and the part.
        mode: See `camrt.kernels.saliency`, as the others.
        normalisation: See there.
        relu: See there.
        out: Where the maps are written, (M, H, W), float32 or float16; None makes an array of float32.
        threads: See there.

    Returns:
        Maps (M, H, W) in [0, 1], and flags (M,).
    """
    left, upper, right, lower = framing.region.box
    size = framing.size
    if not framing.is_whole:  # made as large as the part is, so that they need only be moved there
        height, width = (
            min(max(round(abs(side)), 1), MAX_MAP_SIDE) for side in (lower - upper, right - left)
        )
        size = height, width
    reserve_for((len(raw), *size), raw, "maps", itemsize=4)
    how: Any = {"mode": mode, "normalisation": normalisation, "relu": relu, "threads": threads}
    if framing.is_whole:
        return saliency(raw, size, **how, out=out)
    maps, flags = saliency(raw, size, **how)
    maps = uncrop_maps(maps, framing)
    if out is not None:
        out[...] = maps
    return (maps if out is None else out), flags
