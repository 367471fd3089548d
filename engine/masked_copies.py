"""Scores of many masked copies of each image, a block of masks at a time."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from array_api_compat import is_numpy_array

from camrt.engine.arrays import all_index_pairs, reserve_for, zeros
from camrt.engine.heads.base import run_altered_rows

__all__ = ["run_masked_copies"]

Array = Any  # of NumPy or of torch, see `camrt.engine.arrays`


def run_masked_copies(
    images: Array,
    count: int,
    make_masks: Callable[[int, int], Array],
    *,
    background: Array | None,
    shared: bool,
    targets: int,
    batch_size: int,
    run: Callable[[Array, Array], Array],
    rows: Callable[[tuple[int, ...]], Array],
) -> Iterator[tuple[int, Array, Array]]:
    """Scores of x ∘ m + b ∘ (1 − m), for every image x, its background b and every mask m.

    Copies run in full batches across masks and images. No more masks than a batch has rows are made at once,
    so that memory does not grow with their number.

    Args:
        images: (N, C, H, W).
        count: Number of masks.
        make_masks: Masks from a number to before another, float32 (M, H, W); or of each image its own,
            (N, M, H, W).
        background: What shows where a mask is 0, (N, C, H, W); None for zeros.
        shared: Whether all images have the same masks.
        targets: Number of scores of a copy.
        batch_size: Copies run at once.
        run: Scores (B, T) of copies, given the image that each is of.
        rows: Makes the memory for copies, given its shape.

    Yields:
        The number of a block's first mask, its masks, and their scores (N, M, T).
    """
    total = len(images)
    most = batch_size // math.gcd(total, batch_size) if shared else max(batch_size // total, 1)
    reserve_for((3, min(batch_size, total * count), *images.shape[1:]), images, "masked images", itemsize=4)
    for start in range(0, count, most):
        masks = make_masks(start, min(start + most, count))
        made = masks.shape[-3]
        scores = zeros((total, made, targets), images)
        for owners, numbers, found in run_altered_rows(
            all_index_pairs(total, made, images),
            images.shape[1:],
            batch_size,
            _filler(images, masks, background),
            run,
            rows,
        ):
            scores[owners, numbers] = found
        yield start, masks, scores


def _filler(images: Array, masks: Array, background: Array | None) -> Callable[[Array, Array, Array], None]:
    """What writes copies of images under masks."""
    single = len(images) == 1

    def fill(owners: Array, numbers: Array, rows: Array) -> None:
        chosen = (masks[owners, numbers] if masks.ndim == 4 else masks[numbers])[:, None]
        source = images if single else images[owners]
        if is_numpy_array(rows):
            np.multiply(source, chosen, out=rows)  # without a copy in between
        else:
            rows[...] = source * chosen
        if background is not None:
            rows += (background if single else background[owners]) * (1 - chosen)

    return fill
