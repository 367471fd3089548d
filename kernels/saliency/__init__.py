"""From a raw class-activation map to a saliency map of the image's size, with values in [0, 1]."""

from __future__ import annotations

from enum import IntEnum
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from camrt.kernels import IMPLEMENTATION
from camrt.kernels.checks import Floats, check_floats, check_map_size, check_output, thread_count
from camrt.kernels.dispatch import dispatched
from camrt.kernels.float_errors import ignore_float_errors
from camrt.kernels.saliency import reference

if IMPLEMENTATION == "native":
    from camrt.kernels import _native

__all__ = ["MapFlag", "saliency"]


class MapFlag(IntEnum):
    """Why a saliency map is all zeros, or that it is not."""

    OK = 0
    CONSTANT = 1
    NOTHING_POSITIVE = 2
    NOT_FINITE = 3


@dispatched()
@ignore_float_errors
def saliency(
    raw: Floats,
    size: tuple[int, int],
    *,
    mode: Literal["native", "library"] = "native",
    normalisation: Literal["max", "minmax"] = "max",
    relu: bool = True,
    align_corners: bool = False,
    out: NDArray[Any] | None = None,
    threads: int | None = None,
) -> tuple[NDArray[Any], NDArray[np.uint8]]:
    """Rectify, normalise and upsample raw maps.

    - mode "native": L = relu(raw); L / max L, or (L - min L) / (max L - min L); bilinear upsampling;
      clipped to [0, 1].
    - mode "library": L = relu(raw); subtract the minimum and divide by (maximum + 1e-7); bilinear resizing;
      then relu, subtraction and division once more. `normalisation` plays no part.

    A map is all zeros, with a flag that says why, when the first of these holds: it has a value that is not
    finite, or overflows when its range is taken or it is normalised (`NOT_FINITE`); it is constant
    (`CONSTANT`); it has no positive value and that matters, because of `relu` or of the normalisation
    "max" (`NOTHING_POSITIVE`).

    Args:
        raw: Raw maps, shape (M, h, w).
        size: The size (H, W) of the images.
        mode: Which of the two procedures.
        normalisation: "max" or "minmax", in mode "native".
        relu: False to leave negative values in place before normalisation.
        align_corners: The convention of the upsampling; see `camrt.kernels.resampling`.
        out: Where the maps are written, shape (M, H, W), C-contiguous, of the type of raw or, where that is
            float32, float16; None makes an array of the type of raw.
        threads: Number of threads; all of the machine's when None.

    Returns:
        The maps, shape (M, H, W), and one `MapFlag` value a map, shape (M,).

    Raises:
        ValueError: An argument has a wrong type, shape or value.
    """
    raw = check_floats("raw", raw, "M h w")
    check_map_size("raw", *raw.shape[1:])
    if len(size) != 2:
        raise ValueError(f"size must be (H, W), got {size}")
    check_map_size("size", *size)
    if mode not in ("native", "library"):
        raise ValueError(f"mode must be 'native' or 'library', got {mode!r}")
    if normalisation not in ("max", "minmax"):
        raise ValueError(f"normalisation must be 'max' or 'minmax', got {normalisation!r}")
    workers = thread_count(threads)
    shape = (len(raw), int(size[0]), int(size[1]))
    half = isinstance(out, np.ndarray) and out.dtype == np.float16 and raw.dtype == np.float32
    maps = np.empty(shape, raw.dtype) if out is None else out
    check_output("out", maps, shape, np.dtype(np.float16) if half else raw.dtype, raw)
    if IMPLEMENTATION == "native":
        flags = np.empty(len(raw), np.uint8)
        to, library = maps.view(np.uint16) if half else maps, mode == "library"
        minmax = normalisation == "minmax"
        _native.saliency(raw, to, flags, library, minmax, bool(relu), align_corners, workers)
        return maps, flags
    maps[...], flags = reference.saliency(
        raw, size, mode=mode, normalisation=normalisation, relu=relu, align_corners=align_corners
    )
    return maps, flags
