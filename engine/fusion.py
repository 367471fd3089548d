"""From the raw maps of one or several layers to saliency maps."""

from __future__ import annotations

from typing import Any, Literal

from camrt.engine.arrays import library, to_float32
from camrt.engine.images.framing import Framing, uncropped_saliency
from camrt.engine.methods import Method
from camrt.engine.queries import fill_nan_rows
from camrt.kernels.saliency import MapFlag

__all__ = ["Fusion", "saliency_maps"]

Array = Any
Fusion = Literal["mean", "max"]


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
    outweighs another by its units. Their mean or maximum is brought to [0, 1] once more.

    Args:
        raws: For each layer (N, T, h, w).
        method: What made them; it says how they are normalised.
        framing: (H, W) of the saliency maps, and the part of them that the raw maps show.
        fuse: How layers are taken together.
        threads: Threads of the kernel.
        out: Where the maps are written, (N, T, H, W), float32 or float16; None makes an array of float32.

    Returns:
        Maps (N, T, H, W) in [0, 1], flags (N, T), and the raw maps (N, T, h, w): those of the only layer, or
        the mean or maximum (N, T, H, W) before it is brought to [0, 1].
    """
    if len(raws) == 1:
        return *layer_saliency(raws[0], method, framing, threads, out), raws[0]
    layers = [layer_saliency(raw, method, framing, threads) for raw in raws]
    xp = library(*raws)
    stacked = xp.stack([maps for maps, _ in layers])
    fused = xp.mean(stacked, axis=0) if fuse == "mean" else xp.max(stacked, axis=0)
    broken = xp.any(xp.stack([flags == int(MapFlag.NOT_FINITE) for _, flags in layers]), axis=0)
    shape = fused.shape
    fused = fill_nan_rows(xp.reshape(fused, (-1, *shape[2:])), xp.reshape(broken, (-1,))).reshape(shape)
    return *layer_saliency(fused, method, Framing.whole(framing.size), threads, out), fused


def layer_saliency(
    raw: Array, method: Method, framing: Framing, threads: int | None, out: Array | None = None
) -> tuple[Array, Array]:
    """Saliency maps (N, T, H, W) and flags (N, T) of raw maps (N, T, h, w)."""
    count, targets, height, width = raw.shape
    maps, flags = uncropped_saliency(
        to_float32(raw.reshape(-1, height, width)),
        framing,
        mode=method.postprocess,
        normalisation=method.normalisation,
        relu=method.applies_relu,
        out=None if out is None else out.reshape(-1, *framing.size),
        threads=threads,
    )
    return maps.reshape(count, targets, *framing.size), flags.reshape(count, targets)
