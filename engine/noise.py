"""Images of noise that a model is tried on while it is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from camrt.export.budget import reserve_array

__all__ = ["normal_noise"]

Array = npt.NDArray[Any]


def normal_noise(
    shape: Sequence[int],
    *,
    seed: int = 0,
    spread: float = 1.0,
    levels: tuple[float, float] | None = None,
) -> Array:
    """Normal noise, float32; the same for the same arguments.

    Args:
        shape: Its shape.
        seed: Of the noise.
        spread: Standard deviation; with `levels` times a quarter of what lies between them.
        levels: The lowest and highest number that a model is made for: noise lies around their middle. None
            for noise around zero.

    Raises:
        MemoryLimitError: More than the call at hand may take.
    """
    reserve_array((3, *shape), "noise that the model is tried on")
    drawn: Array = np.random.default_rng(seed).standard_normal(tuple(shape), np.float32)
    low, high = (-2.0, 2.0) if levels is None else levels
    made: Array = np.float32((low + high) / 2) + np.float32(spread * (high - low) / 4) * drawn
    return made
