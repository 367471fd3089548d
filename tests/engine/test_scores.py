from __future__ import annotations

import numpy as np
import pytest

from camrt.engine.scores import ScoreReader
from helpers.tolerances import assert_close


@pytest.mark.parametrize("gap", [5.0, 12.0, 20.0, 60.0])
@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_slope_of_a_confident_probability(activation: str, gap: float) -> None:
    """1 − p has no digits left in float32 where p is nearly one; the slope keeps them all."""
    logits = np.array([[gap, 0.0, -1.0]], np.float32)
    reader = ScoreReader(np.array([[0]]), "probability", activation)
    found = reader.weighting(logits, np.array([0]), 0)
    small = np.exp(np.array([0.0, -1.0]) - gap)
    if activation == "softmax":
        shares = small / (1 + small.sum())
        expected = (1 - shares.sum()) * np.array([[shares.sum(), -shares[0], -shares[1]]])
    else:
        expected = np.array([[small[0] / (1 + small[0]) ** 2, 0, 0]])
    assert_close(found, expected)
