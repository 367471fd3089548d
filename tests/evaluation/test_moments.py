"""Means and errors of values that come in parts, and figures of rows that do."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from camrt.evaluation.suite.moments import RunningMoments


@given(st.integers(0, 2**32), st.lists(st.integers(0, 5), max_size=6), st.sampled_from([(), (3,), (2, 2)]))
def test_moments_of_parts_are_those_of_the_whole(seed: int, sizes: list[int], shape: tuple[int, ...]) -> None:
    rng = np.random.default_rng(seed)
    moments = RunningMoments(shape)
    parts = [rng.normal(1e3, 1, (size, *shape)) for size in sizes]
    for part in parts:
        part[rng.random(part.shape) < 0.3] = np.nan
        moments.add(part)
    whole = np.concatenate([np.zeros((0, *shape)), *parts])
    for place in np.ndindex(shape):
        values = whole[(slice(None), *place)]
        defined = values[~np.isnan(values)]
        assert moments.count[place] == len(defined)
        assert moments.undefined[place] == len(values) - len(defined)
        if len(defined):
            assert moments.mean[place] == pytest.approx(defined.mean(), rel=1e-14)
        else:
            assert np.isnan(moments.mean[place])
        if len(defined) > 1:
            error = defined.std(ddof=1) / np.sqrt(len(defined))
            assert moments.error[place] == pytest.approx(error, rel=1e-9)
        else:
            assert np.isnan(moments.error[place])
