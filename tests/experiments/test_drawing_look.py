from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("skimage", reason="the colour space is scikit-image's")

from camrt.engine.images.colormaps import colour_table
from experiments.drawing_look import (
    CANDIDATES,
    ROUNDING,
    SIGHTS,
    as_seen,
    contrast,
    format_report,
    measure_maps,
)


@pytest.mark.parametrize("sight", SIGHTS)
def test_the_default_colours_get_lighter_for_every_kind_of_sight(sight: str) -> None:
    lightness = as_seen(colour_table("ember")[None], SIGHTS[sight])[0, :, 0]
    steps = np.diff(lightness)
    assert steps.min() > -ROUNDING
    assert lightness[-1] - lightness[0] > 80
    assert np.percentile(steps, 90) < 3 * np.percentile(steps, 10) + 0.3  # even, but for rounding


def test_grey_is_seen_alike_by_everybody() -> None:
    grey = np.full((1, 1, 3), 128, np.uint8)
    seen = [as_seen(grey, sight)[0, 0] for sight in SIGHTS.values()]
    assert np.ptp(seen, axis=0).max() < 0.1
    assert seen[0][0] == pytest.approx(53.6, abs=0.1)


def test_contrast_is_a_standardised_difference() -> None:
    rng = np.random.default_rng(0)
    first, second = rng.normal(0, 1, (20000, 3)), rng.normal((3, 0, 0), 1, (20000, 3))
    assert contrast(first, second) == pytest.approx(3 / np.sqrt(3), rel=0.03)


def test_the_default_stands_out_on_a_warm_image_and_the_look_before_did_not() -> None:
    rng = np.random.default_rng(0)
    warm = Image.fromarray(np.clip(rng.normal((200, 110, 50), 35, (80, 80, 3)), 0, 255).astype(np.uint8))
    rows, columns = np.indices((80, 80)) - 40
    saliency = np.exp(-(rows**2 + columns**2) / 400).astype(np.float32)
    before, *_ = CANDIDATES.values()
    found = [measure_maps([warm], [saliency], style) for style in (before, {})]
    assert found[1]["contrast"][0] > 1.5 * found[0]["contrast"][0]
    assert found[1]["lighter"][0] > 20 > found[0]["lighter"][0]
    text = format_report({"one": found[1]}, 1)
    assert "| ember | 7 to 95 |" in text
    assert "jet" in text
