"""Images put together from two: the first pixels of a ranking from one, the rest from the other."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from camrt.kernels import IMPLEMENTATION
from camrt.kernels.checks import Floats, Ints, check_floats, check_indices, check_output, thread_count
from camrt.kernels.dispatch import dispatched
from camrt.kernels.float_errors import ignore_float_errors
from camrt.kernels.perturb import reference

if IMPLEMENTATION == "native":
    from camrt.kernels import _native

__all__ = ["perturb", "ranks_of"]


@dispatched()
@ignore_float_errors
def perturb(
    sheets: Floats,
    ranks: Ints,
    ranking: ArrayLike,
    count: ArrayLike,
    first: ArrayLike,
    rest: ArrayLike,
    out: Floats,
    *,
    threads: int | None = None,
) -> None:
    """Write out[b] = sheets[first[b]] where ranks[ranking[b]] < count[b], and sheets[rest[b]] elsewhere.

    Deletion, insertion and remove-and-classify are all of this kind: they differ in which sheet is the
    image and which its replacement.

    Args:
        sheets: Images and what replaces their pixels, shape (S, C, H, W).
        ranks: The place of each pixel in a ranking, 0 first, shape (R, H·W), integers.
        ranking: Which ranking, shape (B,), integers.
        count: How many of its pixels are taken from `first`, 0 to H·W, shape (B,), integers.
        first: Which sheet the pixels of the smallest ranks come from, shape (B,), integers.
        rest: Which sheet the others come from, shape (B,), integers.
        out: Written, shape (B, C, H, W), C-contiguous, of the type of sheets.
        threads: Number of threads; all of the machine's when None.

    Raises:
        ValueError: An argument has a wrong type, shape, layout or value.
    """
    sheets = check_floats("sheets", sheets, "S C H W")
    pixels = sheets.shape[2] * sheets.shape[3]
    ranks = check_indices("ranks", ranks, max(pixels, 1), (-1, pixels))
    ranking = check_indices("ranking", ranking, len(ranks), (-1,))
    count = check_indices("count", count, pixels + 1, ranking.shape)
    first = check_indices("first", first, len(sheets), ranking.shape)
    rest = check_indices("rest", rest, len(sheets), ranking.shape)
    check_output("out", out, (len(ranking), *sheets.shape[1:]), sheets.dtype, sheets)
    workers = thread_count(threads)
    if IMPLEMENTATION == "native":
        _native.perturb(sheets, ranks, ranking, count, first, rest, out, workers)
    else:
        reference.perturb(sheets, ranks, ranking, count, first, rest, out)


@dispatched()
@ignore_float_errors
def ranks_of(saliency: Floats) -> Ints:
    """The place of each pixel in its map's order, 0 for the most salient: what `perturb` goes by.

    Of equal values the first in row-major order comes first; NaN comes after everything else.

    Args:
        saliency: Shape (R, H, W).

    Returns:
        Shape (R, H·W), integers.

    Raises:
        ValueError: saliency has a wrong type or shape.
    """
    saliency = check_floats("saliency", saliency, "R H W")
    flat = saliency.reshape(len(saliency), saliency.shape[1] * saliency.shape[2])
    order = np.argsort(-flat, axis=1, kind="stable")
    ranks = np.empty_like(order, dtype=np.int64)
    np.put_along_axis(ranks, order, np.arange(flat.shape[1])[None], axis=1)
    return ranks
