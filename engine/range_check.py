"""Whether a batch of numbers can be what a model is made for.

Far outside its range [l, h] is what reaches more than 8·(h − l) beyond it. Standard normal noise reaches 6,
which is less than 8 times the narrowest range in use, [0, 1]; pixels 0 to 255 reach 50 times and more beyond
every range that images are normalised to (the widest is ImageNet's, 4.8).

Of a range from 0 to 50 and more, a batch is also far outside that has fractions in it and stays within ±1, or
within ±2.7, where normalised images lie, with more numbers than noise keeps there: of 3000, one batch in a
billion.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from camrt.engine.arrays import library
from camrt.engine.caller_warnings import warn_caller
from camrt.engine.preprocess_adaptation import Levels
from camrt.errors import InputRangeWarning

__all__ = ["warn_of_range"]

Array = Any  # of NumPy or of torch, see `camrt.engine.arrays`
FAR_FACTOR = 8.0
WIDE_RANGE = 50.0
UNIT, NORMALISED = 1.0, 2.7
MANY_VALUES = 3000


def warn_of_range(array: Array, levels: Levels | None) -> None:
    """Warns of a batch far outside the range that a model is made for.

    Args:
        array: Finite numbers, which can be looked at.
        levels: The range, where it is known.
    """
    if levels is None:
        return
    xp = library(array)
    low, high = levels
    least, most = float(xp.min(array)), float(xp.max(array))
    reach = max(-least, most)
    if max(low - least, most - high) > FAR_FACTOR * (high - low):
        advice = "give it what the preprocessing makes of an image, or a list of images"
    elif (
        low >= 0
        and high >= WIDE_RANGE
        and (reach <= UNIT or (reach <= NORMALISED and np.prod(array.shape) >= MANY_VALUES))
    ):
        if not bool(xp.any(array != xp.floor(array))):
            return  # black, or nearly
        advice = "it normalises images itself, or pixels are to be given as they are"
    else:
        return
    warn_caller(
        f"the batch holds numbers from {least:.4g} to {most:.4g}, and the model is made for {low:.4g} to "
        f"{high:.4g}: {advice}",
        InputRangeWarning,
    )
