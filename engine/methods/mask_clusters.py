"""Channels of an activation that mask an image alike, taken together."""

from __future__ import annotations

from typing import Any

from camrt.engine.arrays import arange_like, library, reserve_for, safe_divide, to_float32

__all__ = ["cluster_channels"]

Array = Any  # of NumPy or of torch, see `camrt.engine.arrays`
ROUNDS = 10  # of Lloyd's iteration


def cluster_channels(activations: Array, count: int) -> tuple[Array, Array]:
    """Clusters of channels by k-means on their masks: the activation scaled to [0, 1].

    A channel counts by the square of its range, so that what is made small is the squared error of the
    activation itself: its channels with large values are those that a map is made of. Nothing is drawn: the
    first centre is the mask of the largest range, each further one that of the largest range times distance
    from all centres, and ten rounds of Lloyd's iteration follow. Constant channels, and those that are not
    finite, belong to no mean.

    Args:
        activations: (N, K, h, w).
        count: Number of clusters P.

    Returns:
        (N, K) each channel's cluster, and (N, P, h, w) the clusters' mean masks; zeros for an empty one.
    """
    images, channels, *cells = activations.shape
    xp = library(activations)
    reserve_for((images, 2 * channels, max(count, cells[0] * cells[1])), activations, "clusters of channels")
    flat = xp.reshape(xp.astype(activations, xp.float64), (images, channels, -1))
    low = xp.min(flat, axis=2, keepdims=True)
    spread = xp.max(flat, axis=2, keepdims=True) - low
    alive = xp.isfinite(spread) & (spread > 0)
    usable = xp.broadcast_to(alive, flat.shape)
    masks = xp.where(usable, safe_divide(flat - low, xp.broadcast_to(spread, flat.shape), usable), 0.0)
    lengths = xp.sum(masks**2, axis=2)

    def distances(centres: Array) -> Array:
        """(N, K, P) squared distances of masks from centres (N, P, cells), but for rounding."""
        return (
            lengths[:, :, None]
            - 2 * (masks @ xp.permute_dims(centres, (0, 2, 1)))
            + xp.sum(centres**2, axis=2)[:, None]
        )

    def pick(values: Array) -> Array:
        """(N, 1, cells) the mask for which values (N, K) are largest."""
        return xp.take_along_axis(masks, xp.argmax(values, axis=1)[:, None, None], axis=1)

    weights = xp.where(alive, spread, 0.0) ** 2
    nearest, chosen = xp.ones_like(weights[:, :, 0]), []
    for number in range(count):
        chosen.append(pick(nearest * weights[:, :, 0]))
        away = distances(chosen[-1])[:, :, 0]
        nearest = away if number == 0 else xp.minimum(nearest, away)
    centres = xp.concat(chosen, axis=1)
    numbers = arange_like(count, activations)
    for _ in range(ROUNDS):
        members = xp.argmin(distances(centres), axis=2)
        belongs = xp.where(members[:, :, None] == numbers, weights, 0.0)
        held = xp.sum(belongs, axis=1)[:, :, None]
        sums = xp.permute_dims(belongs, (0, 2, 1)) @ masks
        held = xp.broadcast_to(held, sums.shape)
        means = safe_divide(sums, held, held > 0)
        centres = xp.where(held > 0, means, centres)
    return members, to_float32(xp.reshape(means, (images, count, *cells)))
