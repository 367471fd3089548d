"""The experiment on budgets of Score-CAM: its arithmetic and its report."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("matplotlib")

from experiments.score_budget import FULL, VARIANTS, agreement, format_report, plot


def test_agreement_by_hand() -> None:
    full = np.array([[0.0, 1.0], [2.0, 3.0]])
    assert agreement(2 * full + 1, full) == (pytest.approx(1), True)
    assert agreement(-full, full) == (pytest.approx(-1), False)
    constant, _ = agreement(np.zeros((2, 2)), full)
    assert np.isnan(constant)


def test_the_report_and_the_picture(tmp_path: Path) -> None:
    rows = [
        {"r": r, "same": r > 0.95, "passes": 66, "seconds": 0.5, "cpu": 0.9} for r in (0.9, 1.0, float("nan"))
    ]
    found = {"machine": "two cores", "networks": {"one": dict.fromkeys(VARIANTS, rows)}}
    text = format_report(found, "picture.svg")
    words = " ".join(text.split())
    assert f"| {FULL} | 0.950 | 0.910 | 0.900 | 33 % | 66 | 0.50 | 0.90 |" in text
    assert "3 ImageNet validation images" in words
    assert "64 clusters: r = 0.950 in 100 % of the CPU time (worst image 0.900); all channels, bf" in words
    for name in ("a.svg", "b.svg"):
        plot(found, tmp_path / name)
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
