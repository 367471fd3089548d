from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

import camrt
from camrt.engine.passes import PassCounts
from helpers.oracles import postprocess
from helpers.oracles.classifiers import HEADS, classifier, pooled_linear
from helpers.oracles.score import mask, score_cam
from helpers.tolerances import assert_close

EngineOf = Callable[..., camrt.Engine]
DEFINITIONS = ("paper", "grad-cam", "torchcam")
# A weight is a difference, or a softmax, of float32 scores: it loses what they have in common.
FACTOR = 6


@pytest.mark.parametrize("score", [None, "logit", "probability"], ids=["own-score", "logit", "probability"])
@pytest.mark.parametrize("definition", DEFINITIONS)
@pytest.mark.parametrize("head", HEADS)
def test_against_the_oracle(engine_of: EngineOf, head: str, definition: str, score: str | None) -> None:
    small = classifier(head, cells=(3, 5), scale=0.5, trunk="convolve")
    images = np.random.default_rng(21).normal(size=(2, *small.image)).astype(np.float32)
    engine = engine_of(small, batch_size=5)
    found = engine.explain(images, "score", targets=[[0, 3], [1, 2]], definition=definition, score=score)
    kind = score or ("probability" if definition == "paper" else "logit")
    scores = small.scores_of_image(kind)
    raw = np.array(
        [
            [score_cam(scores, x, small.activation(x), c, definition) for c in row]
            for x, row in zip(images, found.targets, strict=True)
        ]
    )
    for one, expected in zip(found.raw.reshape(-1, 3, 5), raw.reshape(-1, 3, 5), strict=True):
        assert_close(one, expected, factor=FACTOR)
    size = small.image[1:]
    expected_maps = [[postprocess.native(one, size) for one in row] for row in raw]
    assert_close(found.maps, expected_maps, factor=2 * FACTOR)
    assert_close(
        found.scores, [scores(x)[row] for x, row in zip(images, found.targets, strict=True)], factor=4
    )


@pytest.mark.parametrize("definition", DEFINITIONS)
@pytest.mark.parametrize("cells", [(1, 2), (5, 1), (4, 7)], ids=str)
def test_odd_sizes(engine_of: EngineOf, definition: str, cells: tuple[int, int]) -> None:
    small = classifier("pooled-linear", cells=cells, scale=0.5, trunk="convolve")
    images = np.random.default_rng(22).normal(size=(2, *small.image)).astype(np.float32)
    found = engine_of(small).explain(images, "score", targets=2, definition=definition)
    scores = small.scores_of_image("probability" if definition == "paper" else "logit")
    raw = [score_cam(scores, x, small.activation(x), 2, definition) for x in images]
    for one, expected in zip(found.raw, raw, strict=True):
        assert_close(one, expected, factor=FACTOR)


def test_the_definitions_differ(engine_of: EngineOf) -> None:
    small = classifier("pooled-network", cells=(3, 4), trunk="convolve")
    image = np.random.default_rng(23).normal(size=(1, *small.image)).astype(np.float32)
    engine = engine_of(small)
    maps = [engine.explain(image, "score", targets=0, definition=name).maps[0] for name in DEFINITIONS]
    for i in range(3):
        assert np.abs(maps[i] - maps[i - 1]).max() > 1e-3


def test_a_mask_by_hand() -> None:
    """Two cells upsampled to five pixels: aligned corners reach both ends at once, half-pixel centres not."""
    channel = np.array([[1.0, 3.0]])
    aligned = mask(channel, (1, 5), "grad-cam")
    assert_close(aligned, [[0, 0.25, 0.5, 0.75, 1]], dtype=np.float32)
    assert_close(mask(channel, (1, 5), "paper"), [[0, 0.1, 0.5, 0.9, 1]], dtype=np.float32)
    assert_close(mask(channel, (1, 5), "torchcam"), [[0, 0.1, 0.5, 0.9, 1]], dtype=np.float32)


def test_scaling_before_or_after_upsampling_matters_where_the_peak_is_lost() -> None:
    """Five cells to two pixels: neither pixel lies on the peak, so only "upsample, then scale" reaches 1."""
    channel = np.array([[0.0, 3.0, 0.0, 0.0, 0.0]])
    first = mask(channel, (1, 2), "paper")
    after = mask(channel, (1, 2), "torchcam")
    assert first.max() == 1
    assert after.max() < 0.8


@pytest.mark.parametrize("definition", DEFINITIONS)
def test_constant_channels(engine_of: EngineOf, definition: str) -> None:
    """They have weight zero and cost no pass; in the softmax they stand with the empty image's score."""
    small = classifier("pooled-network", channels=4, cells=(3, 5), scale=0.5)
    images = np.random.default_rng(24).random((2, 4, 3, 5)).astype(np.float32)
    images[0, 1] = 0.0
    images[0, 3] = 0.7
    found = engine_of(small).explain(images, "score", targets=1, definition=definition)
    scores = small.scores_of_image("probability" if definition == "paper" else "logit")
    raw = [score_cam(scores, x, x.astype(np.float64), 1, definition) for x in images]
    for one, expected in zip(found.raw, raw, strict=True):
        assert_close(one, expected, factor=FACTOR)
    assert found.passes == PassCounts(trunk=2, full=2 + 4 + 1)


def test_a_channel_of_zeros_changes_nothing_in_the_paper_s_definition(engine_of: EngineOf) -> None:
    draw = np.random.default_rng(25)
    weight = draw.normal(size=(3, 4))
    image = draw.random((1, 4, 2, 5)).astype(np.float32)
    image[0, 3] = 0
    full = engine_of(pooled_linear(weight, np.zeros(3), (2, 5))).explain(image, "score", targets=0)
    less = engine_of(pooled_linear(weight[:, :3], np.zeros(3), (2, 5)))
    assert_close(full.raw, less.explain(image[:, :3], "score", targets=0).raw, factor=4)


def test_all_channels_constant(engine_of: EngineOf) -> None:
    small = classifier("generic", cells=(2, 5))
    for definition in DEFINITIONS:
        found = engine_of(small).explain(
            np.full((1, 3, 2, 5), 0.5, np.float32), "score", definition=definition
        )
        assert found.flags.tolist() == [1]
        assert not found.maps.any()
        assert found.passes.full == 1
