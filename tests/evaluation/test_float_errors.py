"""Measures compute in silence with maps and probabilities of any numbers, whatever a caller raises on."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from camrt.evaluation.metrics.box_accuracy import max_box_accuracy
from camrt.evaluation.metrics.composites import adcc, arcc, coherency, mean_saliency
from camrt.evaluation.metrics.concentration import complexity, sparseness
from camrt.evaluation.metrics.curves import area_under_curve, ranks_of
from camrt.evaluation.metrics.dead_zone_share import dead_share
from camrt.evaluation.metrics.faithfulness import compactness, drops, increases
from camrt.evaluation.metrics.localisation import energy_in_boxes, pointing_game
from camrt.evaluation.metrics.pixel_precision import pxap
from camrt.evaluation.metrics.randomisation import compare_maps
from camrt.evaluation.metrics.sensitivity import relative_changes
from camrt.evaluation.metrics.square_removal import infidelity

MAPS = np.stack([np.zeros((4, 4)), np.full((4, 4), 1e-45), np.linspace(0, 1, 16).reshape(4, 4) ** 40])
BOXES = [np.array([[0, 0, 2, 2]])] * 3
MASKS = [np.eye(4, dtype=np.uint8)] * 3
SHARES = np.array([0.0, 1e-310, 1.0])

MEASURES: dict[str, Callable[[], Any]] = {
    "adcc": lambda: adcc(SHARES, SHARES, SHARES[::-1]),
    "arcc": lambda: arcc(SHARES, SHARES, SHARES - 0.5),
    "area_under": lambda: area_under_curve(np.stack([SHARES, SHARES[::-1]])),
    "complexity": lambda: complexity(MAPS),
    "coherency": lambda: coherency(MAPS, MAPS[::-1]),
    "compactness": lambda: compactness(MAPS),
    "compared": lambda: compare_maps(MAPS[0], MAPS[2]),
    "dead_share": lambda: dead_share(MAPS, np.eye(4, dtype=bool)),
    "drops": lambda: drops(SHARES, SHARES[::-1]),
    "energy_in_boxes": lambda: energy_in_boxes(MAPS, BOXES),
    "increases": lambda: increases(SHARES, SHARES[::-1]),
    "infidelity": lambda: infidelity(MAPS[:, 0], MAPS[::-1, 1]),
    "mean_saliency": lambda: mean_saliency(MAPS),
    "max_box_accuracy": lambda: max_box_accuracy(MAPS, BOXES).value,
    "pointing_game": lambda: pointing_game(MAPS, BOXES),
    "pxap": lambda: pxap(MAPS, MASKS).value,
    "ranks_of": lambda: ranks_of(MAPS),
    "relative_changes": lambda: relative_changes(MAPS, MAPS[::-1]),
    "sparseness": lambda: sparseness(MAPS),
}


@pytest.mark.parametrize("name", MEASURES)
def test_any_numbers_in_silence(name: str) -> None:
    with np.errstate(all="raise"):
        MEASURES[name]()
        assert np.geterr()["under"] == "raise"
