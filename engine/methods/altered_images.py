"""Altered copies of the images of a batch, in full batches across alterations and images."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from camrt.engine.arrays import arange_like, library, reserve_for, to_device_async

__all__ = ["Parts", "altered_batches", "noise_adder", "split_by_part", "value_range"]

Array = Any  # of NumPy or of torch, see `camrt.engine.arrays`
Parts = Sequence[tuple[int, slice]]
"""What the rows of a batch are, in order: the number of an alteration, and which images it is of."""


def altered_batches(
    images: Array, batch_size: int, count: int, alter: Callable[[int], Array]
) -> Iterator[tuple[Parts, Array, Array]]:
    """Altered images in full batches.

    Args:
        images: (N, C, H, W).
        batch_size: Rows a batch.
        count: Number of alterations of each image.
        alter: All images (N, C, H, W), altered in way number i.

    Yields:
        What the rows are, the rows (B, C, H, W), and the image (B,) each of them comes from.
    """
    xp, size = library(images), len(images)
    every = arange_like(size, images)
    current, altered = -1, images
    for start in range(0, count * size, batch_size):
        stop = min(start + batch_size, count * size)
        parts, rows = [], []
        for way in range(start // size, -(-stop // size)):
            if way != current:
                current, altered = way, alter(way)
            part = slice(max(start - way * size, 0), min(stop - way * size, size))
            parts.append((way, part))
            rows.append(altered[part])
        yield parts, xp.concat(rows), xp.concat([every[part] for _, part in parts])


def split_by_part(parts: Parts, found: Array) -> Iterator[tuple[int, slice, Array]]:
    """Answers (B, ...) to the rows of a batch, by alteration: its number, the images, their answers."""
    done = 0
    for way, part in parts:
        following = done + part.stop - part.start
        yield way, part, found[done:following]
        done = following


def noise_adder(images: Array, seed: int, strength: Array) -> Callable[[int], Array]:
    """What adds draw number i of normal noise to all images.

    The draw depends on the seed, on i and on the image's size, and on nothing else: every image gets the same
    pattern, in its own strength, on every device.

    Args:
        images: (N, C, H, W).
        seed: Of the noise.
        strength: Standard deviation, a number or (N, 1, 1, 1).
    """
    reserve_for((3, *images.shape), images, "noisy images", itemsize=4)

    def alter(draw: int) -> Array:
        pattern = np.random.default_rng([seed, draw]).standard_normal(images.shape[1:], np.float32)
        return images + strength * to_device_async(pattern, images)

    return alter


def value_range(images: Array) -> Array:
    """Max x − min x of each image over all pixels and colours: (N, C, H, W) -> (N, 1, 1, 1)."""
    xp = library(images)
    return (xp.max(images, axis=(1, 2, 3)) - xp.min(images, axis=(1, 2, 3)))[:, None, None, None]
