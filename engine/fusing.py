"""From the raw maps of one or several layers to saliency maps."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from camrt.engine.methods import Method
from camrt.kernels.saliency import MapFlag, saliency

__all__ = ["Fusion", "saliency_maps"]

Array = npt.NDArray[Any]
Fusion = Literal["mean", "max"]


def saliency_maps(
    raws: list[Array], method: Method, size: tuple[int, int], fuse: Fusion, threads: int | None
) -> tuple[Array, Array, Array]:
    """The saliency of every raw map, and one for all layers where there are several.

    Each layer's maps are made into saliency by themselves, in [0, 1] and of the wanted size, so that no layer
    outweighs another by its units. Their mean or maximum is brought to [0, 1] once more.

    Args:
        raws: For each layer (N, T, h, w).
        method: What made them; it says how they are normalised.
        size: (H, W) of the saliency maps.
        fuse: How layers are taken together.
        threads: Threads of the kernel.

    Returns:
        Maps (N, T, H, W) in [0, 1], flags (N, T), and the raw maps (N, T, h, w): those of the only layer, or
        the mean or maximum (N, T, H, W) before it is brought to [0, 1].
    """
    layers = [finished(raw, method, size, threads) for raw in raws]
    if len(layers) == 1:
        return *layers[0], raws[0]
    stacked = np.stack([maps for maps, _ in layers])
    fused = stacked.mean(axis=0, dtype=np.float32) if fuse == "mean" else stacked.max(axis=0)
    broken = np.any([flags == MapFlag.NOT_FINITE for _, flags in layers], axis=0)
    fused[broken] = np.nan
    return *finished(fused, method, size, threads), fused


def finished(raw: Array, method: Method, size: tuple[int, int], threads: int | None) -> tuple[Array, Array]:
    """Saliency maps (N, T, H, W) and flags (N, T) of raw maps (N, T, h, w)."""
    count, targets, height, width = raw.shape
    maps, flags = saliency(
        np.ascontiguousarray(raw.reshape(-1, height, width), dtype=np.float32),
        size,
        mode=method.postprocess,
        normalisation=method.normalisation,
        relu=method.rectified,
        threads=threads,
    )
    return maps.reshape(count, targets, *size), flags.reshape(count, targets)
