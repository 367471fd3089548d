"""Pictures of noise that a model is tried on while it is loaded."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["probe_pictures"]

Array = npt.NDArray[Any]


def probe_pictures(shape: tuple[int, ...], *, seed: int = 0, spread: float = 1.0) -> Array:
    """Normal noise as a float32 batch (N, C, H, W); the same for the same arguments.

    Args:
        shape: Its shape.
        seed: Of the noise.
        spread: Standard deviation.
    """
    noise: Array = np.random.default_rng(seed).standard_normal(shape, np.float32)
    return noise if spread == 1.0 else noise * np.float32(spread)
