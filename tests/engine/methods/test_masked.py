"""RISE and occlusion."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import camrt
from camrt.engine.methods import make_method
from camrt.engine.methods.rise import RISE
from camrt.engine.passes import PassCounts
from camrt.errors import DegenerateMapWarning, MethodError
from camrt.kernels.saliency import MapFlag
from helpers.oracles.classifiers import HEADS, classifier, pooled_linear
from helpers.oracles.masked import occlusion, rise, rise_masks
from helpers.oracles.postprocess import native
from helpers.peer_libraries import import_peer
from helpers.tolerances import assert_close

EngineOf = Callable[..., camrt.Engine]
# Means of products of float32 scores and float32 masks.
FACTOR = 6
TARGETS = np.array([[0, 3], [1, 2]])


def batch(small: Any, count: int = 2, seed: int = 31) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, *small.image)).astype(np.float32)


@pytest.mark.parametrize("score", [None, "logit"], ids=["probability", "logit"])
@pytest.mark.parametrize("head", HEADS)
def test_rise_against_the_oracle(engine_of: EngineOf, head: str, score: Any) -> None:
    small = classifier(head, cells=(3, 4), scale=0.5, trunk="convolve")
    images, options = batch(small), {"passes": 9, "cells": 2, "share": 0.4, "seed": 3}
    found = engine_of(small, batch_size=4).explain(images, "rise", targets=TARGETS, score=score, **options)
    scores = small.scores_of_image(score or "probability")
    both = [
        [rise(lambda x, c=c: float(scores(x)[c]), image, **options) for c in row]
        for image, row in zip(images, TARGETS, strict=True)
    ]
    expected, errors = np.moveaxis(np.array(both), 2, 0)
    assert_close(found.raw, expected, factor=FACTOR)
    # a standard error is a difference of means of squares
    assert_close(found.uncertainty, errors, factor=20 * FACTOR)
    if score is None:
        size = small.image[1:]
        maps = [[native(one, size, minmax=True) for one in row] for row in expected]
        assert_close(found.maps, maps, factor=4 * FACTOR)
    assert found.passes == PassCounts(trunk=2, full=2 * 9)


@pytest.mark.parametrize(("size", "cells"), [((6, 9), 3), ((7, 5), 3), ((4, 5), 7), ((8, 8), 1)], ids=str)
def test_masks_of_rise(size: tuple[int, int], cells: int) -> None:
    """Also where a cell is no whole number of pixels, and where there are more cells than pixels."""
    method = RISE(passes=5, cells=cells, seed=2)
    masks = method.make_masks(size, 0, 5, np.zeros(1, np.float32))
    assert masks.dtype == np.float32
    assert_close(masks, rise_masks(size, passes=5, cells=cells, share=0.5, seed=2))
    assert np.array_equal(method.make_masks(size, 3, 4, np.zeros(1))[0], masks[3])


@pytest.mark.parametrize(("size", "cells"), [((6, 9), 3), ((7, 5), 3), ((16, 12), 4)], ids=str)
def test_masks_of_openvino_are_opencv_s(size: tuple[int, int], cells: int) -> None:
    cv2 = pytest.importorskip("cv2")
    masks = RISE(cells=cells, seed=2, definition="openvino").make_masks(size, 0, 4, np.zeros(1, np.float32))
    steps = [-(-side // cells) for side in size]
    for draw, mask in enumerate(masks):
        rng = np.random.default_rng([2, draw])
        grid = (rng.random((cells, cells)) < 0.5).astype(np.float64)
        top, left = rng.integers(0, steps)
        large = cv2.resize(grid, [(cells + 1) * step for step in steps[::-1]], interpolation=cv2.INTER_CUBIC)
        # OpenCV computes the places of samples in float32
        expected = large[top : top + size[0], left : left + size[1]].clip(0, 1)
        assert_close(mask, expected, factor=2)
    assert np.abs(masks - RISE(cells=cells, seed=2).make_masks(size, 0, 4, np.zeros(1))).max() > 0.02


def test_masks_show_the_share_that_they_should() -> None:
    method = RISE(share=0.3)
    masks = method.make_masks((12, 12), 0, 4000, np.zeros(1, np.float32))
    # each pixel is a mean of independent cells: its standard error over 4000 masks is below 0.0073
    assert abs(masks.mean(axis=0) - 0.3).max() < 0.04


def test_the_error_says_how_far_other_seeds_are(engine_of: EngineOf) -> None:
    """The standard error of 40 masks is that of maps of 40 masks of many seeds."""
    small = classifier("pooled-network", cells=(3, 4), scale=0.5, trunk="convolve")
    engine, images = engine_of(small), batch(small, 1)
    found = [engine.explain(images, "rise", targets=1, passes=40, cells=2, seed=seed) for seed in range(60)]
    spread = np.std([one.raw for one in found], axis=0, ddof=1)
    told = np.sqrt(np.mean([one.uncertainty**2 for one in found], axis=0))
    assert np.abs(told / spread - 1).max() < 0.5
    assert np.abs(told / spread - 1).mean() < 0.2


def test_errors_of_blocks_layers_and_broken_images(tmp_path: Path) -> None:
    """They are joined as raw maps are, of one layer where a method looks at pixels, NaN of what is NaN."""
    small = classifier("generic", cells=(3, 4), scale=0.5, trunk="convolve")
    images, path = batch(small, 5), small.save(tmp_path)
    engine = camrt.load(path, target=["activation", "mixed_positive"], threads=1, batch_size=2)
    found = engine.explain(images, "rise", targets=[[0, 1]] * 5, passes=6, cells=2)
    whole = camrt.load(path, threads=1).explain(images, "rise", targets=[[0, 1]] * 5, passes=6, cells=2)
    assert found.uncertainty.shape == (5, 2, 5, 7)
    assert_close(found.uncertainty, whole.uncertainty, factor=20 * FACTOR)
    images[3] = np.sign(images[3]) * np.float32(3e38)  # which overflows
    with pytest.warns(DegenerateMapWarning):
        broken = engine.explain(images, "rise", targets=[[0, 1]] * 5, passes=6, cells=2)
    assert np.isnan(broken.uncertainty[3]).all()
    assert_close(np.delete(broken.uncertainty, 3, 0), np.delete(found.uncertainty, 3, 0), factor=FACTOR)


def test_errors_are_of_the_batch_s_kind(engine_of: EngineOf) -> None:
    torch = pytest.importorskip("torch")
    small = classifier("pooled-linear", trunk="convolve")
    found = engine_of(small).explain(torch.from_numpy(batch(small)), "rise", passes=4)
    assert torch.is_tensor(found.uncertainty)
    assert found.uncertainty.shape == found.raw.shape
    assert isinstance(found.numpy().uncertainty, np.ndarray)


@pytest.mark.peers
@pytest.mark.parametrize(
    ("window", "stride"), [((2, 3), (1, 2)), ((3, 2), (3, 2)), ((4, 4), (3, 1))], ids=str
)
def test_occlusion_of_captum(engine_of: EngineOf, window: tuple[int, int], stride: tuple[int, int]) -> None:
    attr = import_peer("captum.attr")
    import torch

    small = classifier("pooled-network", cells=(3, 4), scale=0.5, trunk="convolve")
    images, scores = batch(small), small.scores_of_image("logit")

    def forward(images: Any) -> Any:
        return torch.tensor(np.array([scores(one)[2] for one in images.numpy()]))

    expected = attr.Occlusion(forward).attribute(
        torch.from_numpy(images).double(),
        sliding_window_shapes=(3, *window),
        strides=(3, *stride),
        baselines=0.25,
    )
    options = {"window": window, "stride": stride, "baseline": 0.25, "definition": "captum", "score": "logit"}
    found = engine_of(small).explain(images, "occlusion", targets=2, **options)
    for colour in range(3):
        assert_close(found.raw, expected[:, colour].numpy(), np.float32, factor=4 * FACTOR)


@pytest.mark.parametrize("method", ["rise", "occlusion"])
def test_a_score_that_no_mask_changes_is_no_map(engine_of: EngineOf, method: str) -> None:
    small = pooled_linear(np.zeros((2, 3)), np.array([1.0, -1.0]), (4, 5))
    options = {"passes": 7} if method == "rise" else {}
    found = engine_of(small).explain(batch(small), method, **options)
    assert found.flags.tolist() == [MapFlag.CONSTANT] * 2
    assert_close(found.raw, np.full((2, 4, 5), found.scores[0] if method == "rise" else 0.0))


@pytest.mark.parametrize("definition", ["paper", "captum"])
@pytest.mark.parametrize(
    ("window", "stride", "baseline"),
    [((2, 3), (1, 2), 0.0), (2, 2, 0.5), ((1, 1), (1, 1), -1.0), ((5, 7), 1, 0.0), ((4, 3), (3, 2), 0)],
    ids=str,
)
def test_occlusion_against_the_oracle(
    engine_of: EngineOf, definition: str, window: Any, stride: Any, baseline: float
) -> None:
    small = classifier("pooled-network", cells=(3, 4), scale=0.5, trunk="convolve")
    images = batch(small)
    options = {"window": window, "stride": stride, "baseline": baseline, "definition": definition}
    found = engine_of(small, batch_size=5).explain(images, "occlusion", targets=TARGETS, **options)
    pairs = [(side, side) if isinstance(side, int) else side for side in (window, stride)]
    scores = small.scores_of_image("probability")
    expected = [
        [occlusion(lambda x, c=c: float(scores(x)[c]), image, *pairs, baseline, definition) for c in row]
        for image, row in zip(images, TARGETS, strict=True)
    ]
    # differences of scores
    assert np.abs(found.raw - expected).max() <= 2e-6
    assert found.uncertainty is None


@pytest.mark.parametrize("score", ["logit", "probability"])
@pytest.mark.parametrize("head", HEADS)
def test_occlusion_on_every_head(engine_of: EngineOf, head: str, score: Any) -> None:
    small = classifier(head, cells=(3, 4), scale=0.5, trunk="convolve")
    images = batch(small)
    found = engine_of(small).explain(images, "occlusion", targets=TARGETS, score=score)
    scores = small.scores_of_image(score)
    expected = [
        [occlusion(lambda x, c=c: float(scores(x)[c]), image, (1, 1), (1, 1), 0.0, "paper") for c in row]
        for image, row in zip(images, TARGETS, strict=True)
    ]
    assert_close(found.raw, expected, factor=4 * FACTOR)
    assert found.passes == PassCounts(trunk=2, full=2 * 35)
    assert make_method("occlusion", {}).cost(engine_of(small).head, engine_of(small).map_shape).full == 35


def test_leaving_each_patch_out_once_is_both_definitions(engine_of: EngineOf) -> None:
    small = classifier("pooled-network", cells=(5, 5), scale=0.5, trunk="convolve")
    engine, images = engine_of(small), batch(small)
    paper, captum = (
        engine.explain(images, "occlusion", window=3, stride=3, definition=name).raw
        for name in ("paper", "captum")
    )
    assert_close(paper, captum)
    assert np.array_equal(paper[:, ::3, ::3].repeat(3, axis=1).repeat(3, axis=2), paper)


def test_more_masks_take_no_more_memory(engine_of: EngineOf) -> None:
    import tracemalloc

    small = classifier("pooled-linear", cells=(24, 24), trunk="convolve")
    engine, images = engine_of(small, batch_size=8), batch(small, 1)
    peaks = []
    for passes in (8, 64, 512):
        engine.explain(images, "rise", passes=passes)
        tracemalloc.start()
        engine.explain(images, "rise", passes=passes)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[2] < 1.2 * peaks[1] < 2 * peaks[0]


WRONG = [
    ("rise", {"passes": 1}, "passes=1 must be a whole number >= 2"),
    ("rise", {"cells": 2.5}, "cells=2.5 must be a whole number"),
    ("rise", {"share": 0}, "share=0 must be a number > 0 and <= 1"),
    ("rise", {"share": True}, "share=True must be a number"),
    ("rise", {"seed": -1}, "seed=-1 must be a whole number >= 0"),
    ("occlusion", {"window": 0}, "window=0 must be a whole number of pixels, 1 or more, or"),
    ("occlusion", {"window": (1, 2, 3)}, "window=.* must be a whole number of pixels"),
    ("occlusion", {"window": True}, "window=True must be a whole number of pixels"),
    ("occlusion", {"stride": "a"}, "stride='a' must be a whole number of pixels"),
    ("occlusion", {"stride": (2, 5), "window": 4}, "stride=.* must be no more than the window, here 4"),
    ("occlusion", {"baseline": float("nan")}, "baseline=nan must be a number"),
    ("occlusion", {"definition": "torchcam"}, "choose from 'paper', 'captum'"),
]


@pytest.mark.parametrize(("name", "options", "text"), WRONG, ids=str)
def test_wrong_options_are_refused(name: str, options: dict[str, object], text: str) -> None:
    with pytest.raises(MethodError, match=text):
        make_method(name, options)


def test_a_window_larger_than_the_image_is_refused(engine_of: EngineOf) -> None:
    small = classifier("pooled-linear", trunk="convolve")
    with pytest.raises(MethodError, match=r"window=\(9, 2\) is larger than images of"):
        engine_of(small).explain(batch(small), "occlusion", window=(9, 2))
