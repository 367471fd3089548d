"""From the raw maps of one or several layers to saliency maps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, get_args

from camrt.engine.arrays import library, to_float32
from camrt.engine.images.framing import Framing, uncropped_saliency
from camrt.engine.methods import Method
from camrt.engine.nan_rows import fill_nan_rows
from camrt.errors import InputError
from camrt.kernels.saliency import MapFlag

__all__ = ["Fusion", "check_fusion", "mean_saliency_maps", "saliency_maps"]

Array = Any
Fusion = Literal["mean", "max", "product"]


def check_fusion(fuse: Any) -> None:
    """Refuses what is no `Fusion`.

    Raises:
        InputError: It is none.
    """
    if fuse not in get_args(Fusion):
        raise InputError(f"fuse={fuse!r} must be one of {', '.join(map(repr, get_args(Fusion)))}")


def saliency_maps(
    raws: list[Array],
    method: Method,
    framing: Framing,
    fuse: Fusion,
    threads: int | None,
    out: Array | None = None,
) -> tuple[Array, Array, Array]:
    """The saliency of every raw map, and one for all layers where there are several.

    Each layer's maps are made into saliency by themselves, in [0, 1] and of the wanted size, so that no layer
    outweighs another by its units. Their mean, maximum or product is brought to [0, 1] once more.

    Args:
        raws: For each layer (N, T, h, w).
        method: What made them; it says how they are normalised.
        framing: (H, W) of the saliency maps, and the part of them that the raw maps show.
        fuse: How layers are taken together, where the method does not say it itself.
        threads: Threads of the kernel.
        out: Where the maps are written, (N, T, H, W), float32 or float16; None makes an array of float32.

    Returns:
        Maps (N, T, H, W) in [0, 1], flags (N, T), and the raw maps (N, T, h, w): those of the only layer, or
        the mean, maximum or product (N, T, H, W) before it is brought to [0, 1].
    """
    if len(raws) == 1:
        return *layer_saliency(raws[0], method, framing, threads, out), raws[0]
    layers = [layer_saliency(raw, method, framing, threads) for raw in raws]
    xp = library(*raws)
    stacked = xp.stack([maps for maps, _ in layers])
    fused = {"mean": xp.mean, "max": xp.max, "product": xp.prod}[method.fusion or fuse](stacked, axis=0)
    broken = xp.any(xp.stack([flags == int(MapFlag.NOT_FINITE) for _, flags in layers]), axis=0)
    shape = fused.shape
    fused = fill_nan_rows(xp.reshape(fused, (-1, *shape[2:])), xp.reshape(broken, (-1,))).reshape(shape)
    return *layer_saliency(fused, method, Framing.whole(framing.size), threads, out), fused


def mean_saliency_maps(
    raws: list[Array],
    method: Method,
    framings: Sequence[Framing],
    fuse: Fusion,
    threads: int | None,
    out: Array | None = None,
) -> tuple[Array, Array, Array]:
    """`saliency_maps` of copies of the images, and their mean where there are several.

    The mean is not brought to [0, 1] again, and is given as the raw maps too. A copy whose map says nothing
    counts as zeros; one that is not finite makes the mean zeros, and NaN in the raw maps.

    Args:
        raws: For each copy, and there for each layer, (N, T, h, w).
        method: See `saliency_maps`, as the others.
        framings: For each copy.
        fuse: See there.
        threads: See there.
        out: See there.
    """
    if len(framings) == 1:
        return saliency_maps(raws, method, framings[0], fuse, threads, out)
    layers = len(raws) // len(framings)
    each = [
        saliency_maps(raws[number * layers :][:layers], method, framing, fuse, threads)[:2]
        for number, framing in enumerate(framings)
    ]
    xp = library(*raws)
    mean = sum(maps for maps, _ in each) / len(framings)
    flags = xp.stack([flags for _, flags in each])
    broken = xp.any(flags == int(MapFlag.NOT_FINITE), axis=0)
    maps = xp.where(broken[..., None, None], xp.zeros_like(mean), mean)
    if out is not None:
        out[...] = maps
    return (
        maps if out is None else out,
        xp.where(broken, xp.max(flags, axis=0), xp.min(flags, axis=0)),
        xp.where(broken[..., None, None], xp.full_like(mean, float("nan")), mean),
    )


def layer_saliency(
    raw: Array, method: Method, framing: Framing, threads: int | None, out: Array | None = None
) -> tuple[Array, Array]:
    """Saliency maps (N, T, H, W) and flags (N, T) of raw maps (N, T, h, w)."""
    count, targets, height, width = raw.shape
    maps, flags = uncropped_saliency(
        to_float32(method.displayed(raw).reshape(-1, height, width)),
        framing,
        mode=method.postprocess,
        normalisation=method.normalisation,
        relu=method.applies_relu,
        out=None if out is None else out.reshape(-1, *framing.size),
        threads=threads,
    )
    return maps.reshape(count, targets, *framing.size), flags.reshape(count, targets)
