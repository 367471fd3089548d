"""The pattern of Pixab-CAM's box ablation, and whether a reading of the paper shows it.

The paper leaves open what its two perspectives are divided by (readings N1, N2, N3) and which placements of a
box speak for a cell ("coverage", "anchor"; specification E1). Its tables 7 to 10 have a pattern that a right
reading should show as well (specification E12):

1. Both perspectives together beat either alone, for every box whose sides are at most 2.
2. Boxes with a side of 3 are worse than all of those.
3. The four boxes together beat the box of one cell.

Each is a set of differences between two settings on the same images, so that their standard errors are
those of paired differences.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from camrt.errors import InputError

__all__ = ["Comparison", "Pattern", "check_pattern", "compare_settings"]

Values = Callable[[str, str], ArrayLike]
"""From boxes such as "1x1+2x2" and perspectives such as "both" to what each image scored, (N,)."""

SMALL = ("1x1", "1x2", "2x1", "2x2")
LONG = ("1x3", "3x1", "2x3", "3x2", "3x3")
STATEMENTS = {
    1: "both perspectives beat either alone, for every box of sides up to 2",
    2: "boxes with a side of 3 are worse than all of those",
    3: "the four boxes together beat 1x1",
}


@dataclass(frozen=True)
class Comparison:
    """Two settings on the same images.

    Attributes:
        better: The setting that should be ahead.
        worse: The other.
        difference: The first one's mean less the other's, in per cent.
        error: Standard error of the paired difference; None for a single image.
    """

    better: str
    worse: str
    difference: float
    error: float | None

    @property
    def holds(self) -> bool:
        """Whether the first is ahead."""
        return self.difference > 0

    @property
    def is_significant(self) -> bool:
        """Whether the difference, to whichever side, is more than two standard errors."""
        return self.error is not None and abs(self.difference) > 2 * self.error

    def __str__(self) -> str:
        error = "" if self.error is None else f" ± {self.error:.1f}"
        return f"{self.better} − {self.worse}: {self.difference:+.1f}{error}"


@dataclass(frozen=True)
class Pattern:
    """One of the three statements in one reading, on one task by one measure.

    Attributes:
        number: 1, 2 or 3.
        comparisons: Of which all must hold.
    """

    number: int
    comparisons: tuple[Comparison, ...]

    @property
    def holds(self) -> bool:
        """Whether all differences are to the paper's side."""
        return all(comparison.holds for comparison in self.comparisons)

    @property
    def weakest(self) -> Comparison:
        """The comparison that is least to the paper's side."""
        return min(self.comparisons, key=lambda comparison: comparison.difference)

    @property
    def text(self) -> str:
        """Such as "yes, 8 of 8; weakest 1x1 both − 1x1 deletion: +0.3 ± 0.2"."""
        held = sum(comparison.holds for comparison in self.comparisons)
        return f"{'yes' if self.holds else 'no'}, {held} of {len(self.comparisons)}; weakest {self.weakest}"

    def as_json(self) -> dict[str, Any]:
        """For a file."""
        return {
            "statement": STATEMENTS[self.number],
            "holds": self.holds,
            "comparisons": [
                {
                    "better": one.better,
                    "worse": one.worse,
                    "difference": one.difference,
                    "error": one.error,
                    "holds": one.holds,
                    "clear": one.is_significant,
                }
                for one in self.comparisons
            ],
        }


def compare_settings(better: str, worse: str, ahead: ArrayLike, behind: ArrayLike) -> Comparison:
    """Compares what the same images score in two settings.

    Args:
        better: The setting that should be ahead.
        worse: The other.
        ahead: (N,) finite, what each image scores in the first, from 0 to 1.
        behind: (N,) in the other.

    Raises:
        InputError: Shapes that differ, no images, or values that are not finite.
    """
    first, second = np.asarray(ahead, np.float64), np.asarray(behind, np.float64)
    if first.shape != second.shape or first.ndim != 1 or not len(first):
        raise InputError(f"{first.shape} and {second.shape} must both be (N,), N >= 1")
    gains = 100 * (first - second)
    if not np.isfinite(gains).all():
        raise InputError(f"scores of {better} and {worse} must be finite")
    error = float(gains.std(ddof=1) / math.sqrt(len(gains))) if len(gains) > 1 else None
    return Comparison(better, worse, float(gains.mean()), error)


def check_pattern(number: int, values: Values) -> Pattern:
    """One of the three statements about what images score in each setting.

    Args:
        number: Which.
        values: Gives the scores of a setting.

    Raises:
        InputError: There is no such statement.
    """

    def one(better: tuple[str, str], worse: tuple[str, str]) -> Comparison:
        return compare_settings(" ".join(better), " ".join(worse), values(*better), values(*worse))

    if number == 1:
        pairs = [((box, "both"), (box, alone)) for box in SMALL for alone in ("deletion", "preservation")]
    elif number == 2:
        pairs = [((small, "both"), (long, "both")) for long in LONG for small in SMALL]
    elif number == 3:
        pairs = [(("+".join(SMALL), "both"), ("1x1", "both"))]
    else:
        raise InputError(f"statement {number!r} is none of 1, 2 and 3")
    return Pattern(number, tuple(one(*pair) for pair in pairs))


def check_all_patterns(values: Values) -> Sequence[Pattern]:
    """The three statements."""
    return [check_pattern(number, values) for number in STATEMENTS]
