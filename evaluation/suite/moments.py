"""Means and standard errors of values that come some at a time, and are not kept."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["RunningMoments"]


class RunningMoments:
    """The mean and the spread of values, by the formula of Chan, Golub and LeVeque (1983).

    The same values in the same parts give the same bytes.

    Args:
        shape: Of a value; each element is counted by itself.
    """

    def __init__(self, shape: tuple[int, ...] = ()) -> None:
        self.count: NDArray[np.int64] = np.zeros(shape, np.int64)
        self.undefined: NDArray[np.int64] = np.zeros(shape, np.int64)
        self._mean: NDArray[np.float64] = np.zeros(shape)
        self._squares: NDArray[np.float64] = np.zeros(shape)

    def add(self, values: Any) -> None:
        """Takes some values (n, *shape); NaN is one that is undefined."""
        new = np.asarray(values, np.float64).reshape(-1, *self.count.shape)
        defined = ~np.isnan(new)
        added = defined.sum(axis=0)
        self.undefined += len(new) - added
        mean = np.where(defined, new, 0).sum(axis=0) / np.maximum(added, 1)
        squares = np.where(defined, new - mean, 0)
        total = self.count + added
        apart = np.where(added > 0, mean - self._mean, 0)
        share = added / np.maximum(total, 1)
        self._squares += (squares**2).sum(axis=0) + apart**2 * self.count * share
        self._mean += apart * share
        self.count = total

    @property
    def mean(self) -> NDArray[np.float64]:
        """The mean of what is defined; NaN of nothing."""
        return np.where(self.count > 0, self._mean, np.nan)

    @property
    def error(self) -> NDArray[np.float64]:
        """The standard error of the mean; NaN of fewer than two values."""
        more = np.maximum(self.count - 1, 1)
        return np.where(self.count > 1, np.sqrt(self._squares / more / np.maximum(self.count, 1)), np.nan)
