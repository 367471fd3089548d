"""LIME and KernelSHAP."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import camrt
from camrt.engine.extras import MissingExtraError
from camrt.engine.methods import make_method
from camrt.engine.methods.segments import segment_images
from camrt.engine.passes import PassCounts
from camrt.errors import MethodError
from helpers.oracles.classifiers import HEADS, classifier, pooled_linear
from helpers.oracles.surrogates import (
    grid_labels,
    kernel_shap,
    kernel_shap_coalitions,
    lime,
    lime_samples,
    shapley,
)
from helpers.peer_libraries import import_peer
from helpers.tolerances import assert_close

EngineOf = Callable[..., camrt.Engine]
TARGETS = np.array([[0, 3], [1, 2]])
# Coefficients are differences of float32 scores, spread by the solution of the normal equations.
FACTOR = 40


def batch(small: Any, count: int = 2, seed: int = 41) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, *small.image)).astype(np.float32)


def score_of(small: Any, target: int, kind: str = "probability") -> Callable[[np.ndarray], float]:
    scores = small.scores_of_image(kind)
    return lambda image: float(scores(image)[target])


@pytest.mark.parametrize("score", [None, "logit"], ids=["probability", "logit"])
@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("method", ["lime", "kernelshap"])
def test_against_the_oracle(engine_of: EngineOf, method: str, head: str, score: Any) -> None:
    small = classifier(head, cells=(3, 4), scale=0.5, trunk="convolve")
    images, size = batch(small), small.image[1:]
    options: dict[str, Any] = {"passes": 24, "seed": 3}
    found = engine_of(small, batch_size=5).explain(
        images, method, targets=TARGETS, cells=3, score=score, **options
    )
    labels = grid_labels(size, 3)
    if method == "lime":
        options |= {"width": 0.25, "ridge": 1.0}
    oracle = lime if method == "lime" else kernel_shap
    expected = [
        [
            oracle(score_of(small, c, score or "probability"), image, labels, 0 * image, **options)[labels]
            for c in row
        ]
        for image, row in zip(images, TARGETS, strict=True)
    ]
    assert_close(found.raw, expected, factor=FACTOR)
    assert found.passes == PassCounts(trunk=2, full=2 * 24)
    assert found.uncertainty.shape == found.raw.shape


@pytest.mark.parametrize("baseline", [0.0, -0.5, "mean"])
def test_all_coalitions_are_shapley_values(engine_of: EngineOf, baseline: Any) -> None:
    small = classifier("pooled-network", cells=(3, 4), scale=0.5, trunk="convolve")
    images, labels = batch(small), grid_labels(small.image[1:], 2)
    found = engine_of(small).explain(images, "kernelshap", targets=2, cells=2, passes=15, baseline=baseline)
    expected = []
    for image in images:
        background = np.full(image.shape, 0.0 if baseline == "mean" else baseline)
        if baseline == "mean":
            for part in range(4):
                background[:, labels == part] = image[:, labels == part].mean(axis=1, keepdims=True)
        expected.append(shapley(score_of(small, 2), image, labels, background)[labels])
    assert_close(found.raw, expected, factor=FACTOR)
    assert found.passes.full == 2 * 15
    assert not found.uncertainty.any()


def test_shapley_values_add_up(engine_of: EngineOf) -> None:
    """Also when drawn: the sum of the parts' values is what the whole image adds to the empty one."""
    small = classifier("generic", cells=(3, 4), scale=0.5, trunk="convolve")
    images, labels = batch(small), grid_labels(small.image[1:], 3)
    found = engine_of(small).explain(images, "kernelshap", targets=1, cells=3, passes=40)
    area = np.bincount(labels.ravel())[labels]
    empty = score_of(small, 1)(np.zeros(small.image))
    assert_close((found.raw / area).sum(axis=(1, 2)), found.scores - empty, np.float32, factor=FACTOR)


@pytest.mark.parametrize("method", ["lime", "kernelshap"])
def test_a_linear_score_is_found_exactly(engine_of: EngineOf, method: str) -> None:
    """Whatever is drawn, without a ridge: each pixel's own share of the logit."""
    draw = np.random.default_rng(5)
    small = pooled_linear(draw.normal(size=(2, 3)), np.zeros(2), (3, 3))
    image = batch(small, 1)
    options: dict[str, Any] = {"ridge": 0.0} if method == "lime" else {}
    found = engine_of(small).explain(image, method, targets=1, score="logit", cells=3, passes=60, **options)
    assert_close(found.raw[0], np.einsum("k,kij->ij", small.weight[1], image[0]) / 9, factor=FACTOR)
    assert found.uncertainty.max() < 1e-4


@pytest.mark.parametrize("method", ["lime", "kernelshap"])
def test_the_error_says_how_far_other_seeds_are(engine_of: EngineOf, method: str) -> None:
    small = classifier("pooled-network", cells=(3, 4), scale=0.5, trunk="convolve")
    engine, images = engine_of(small), batch(small, 1)
    found = [engine.explain(images, method, targets=1, passes=60, cells=3, seed=seed) for seed in range(50)]
    spread = np.std([one.raw for one in found], axis=0, ddof=1)
    told = np.sqrt(np.mean([one.uncertainty**2 for one in found], axis=0))
    assert 0.6 < (told / spread).mean() < 1.5


def test_too_few_samples_have_no_error(engine_of: EngineOf) -> None:
    small = classifier("pooled-linear", trunk="convolve")
    for method in ("lime", "kernelshap"):
        found = engine_of(small).explain(batch(small), method, passes=4, cells=3)
        assert np.isnan(found.uncertainty).all()
        assert np.isfinite(found.raw).all()


@pytest.mark.parametrize("size", [(5, 7), (2, 9), (1, 1), (6, 6)], ids=str)
@pytest.mark.parametrize("cells", [2, 3, 7])
def test_grid(size: tuple[int, int], cells: int) -> None:
    parts = segment_images(np.zeros((4, 3, *size), np.float32), "grid", cells)
    assert np.array_equal(parts.labels[0], grid_labels(size, cells))
    assert parts.counts == (parts.labels.max() + 1,)


@pytest.mark.parametrize("how", ["slic", "quickshift"])
@pytest.mark.parametrize("method", ["lime", "kernelshap"])
def test_superpixels(engine_of: EngineOf, method: str, how: str) -> None:
    pytest.importorskip("skimage")
    small = classifier("pooled-network", cells=(8, 9), scale=0.5, trunk="convolve")
    images = 0.05 * batch(small)
    images[0, :, :7, :8] += 1
    images[1, :, 5:] -= 1
    parts = segment_images(images, how, 3)
    engine = engine_of(small, batch_size=5)
    found = engine.explain(images, method, targets=1, segments=how, cells=3, passes=40)
    for i, image in enumerate(images):
        labels = parts.labels[i]
        assert sorted(np.unique(labels)) == list(range(parts.counts[i]))
        for part in range(parts.counts[i]):
            assert len(np.unique(found.raw[i][labels == part])) == 1
        if method == "lime":
            expected = lime(
                score_of(small, 1), image, labels, 0 * image, passes=40, seed=0, width=0.25, ridge=1.0
            )
            assert_close(found.raw[i], expected[labels], factor=FACTOR)
        alone = engine.explain(images[i : i + 1], method, targets=1, segments=how, cells=3, passes=40)
        assert_close(alone.raw[0], found.raw[i], factor=FACTOR)


def test_superpixels_name_the_extra(engine_of: EngineOf, monkeypatch: pytest.MonkeyPatch) -> None:
    small = classifier("pooled-linear", trunk="convolve")
    monkeypatch.setitem(sys.modules, "skimage.segmentation", None)
    monkeypatch.setitem(sys.modules, "skimage", None)
    with pytest.raises(MissingExtraError, match=r"skimage is not installed.*pip install 'camrt\[evaluate\]'"):
        engine_of(small).explain(batch(small), "lime", segments="slic")


@pytest.mark.peers
@pytest.mark.parametrize("method", ["lime", "kernelshap"])
def test_captum_on_the_same_samples(engine_of: EngineOf, method: str) -> None:
    """captum's Lime with the lime package's model and kernel; its KernelShap, whose sum holds nearly."""
    attr = import_peer("captum.attr")
    import torch
    from captum._utils.models.linear_model import SkLearnRidge

    small = classifier("pooled-network", cells=(3, 4), scale=0.5, trunk="convolve")
    image, labels = batch(small, 1), grid_labels(small.image[1:], 2 if method == "kernelshap" else 3)
    parts, scores = int(labels.max()) + 1, small.scores_of_image("probability")

    def forward(images: Any) -> Any:
        return torch.tensor(np.array([scores(one)[2] for one in images.numpy()]))

    options: dict[str, Any] = {"feature_mask": torch.tensor(labels)[None, None], "n_samples": 31}
    tensor = torch.from_numpy(image).double()
    if method == "lime":
        z = torch.tensor(lime_samples(parts, 30, 0))
        samples = iter(z)
        peer = attr.Lime(
            forward,
            interpretable_model=SkLearnRidge(alpha=1.0),
            similarity_func=lambda _, __, one, **___: float(
                torch.exp(-((1 - torch.sqrt(one.double().mean())) ** 2) / (2 * 0.25**2))
            ),
            perturb_func=lambda *_, **__: next(samples)[None].long(),
        )
        expected = peer.attribute(tensor, **options)
        found = engine_of(small).explain(image, "lime", targets=2, cells=3, passes=30)
        assert_close(found.raw[0], expected[0, 0].numpy(), np.float32, factor=FACTOR)
        return
    peer = attr.KernelShap(forward)
    z = torch.tensor(kernel_shap_coalitions(parts, 6, 0)).long()
    ends = [torch.ones(1, parts).long(), torch.zeros(1, parts).long()]
    order = iter([*ends, *(one[None] for one in z)])
    peer.perturb_func = lambda *_, **__: next(order)
    expected = peer.attribute(tensor, **{**options, "n_samples": 8})
    found = engine_of(small).explain(image, "kernelshap", targets=2, cells=2, passes=7)
    # its weight of a million leaves a millionth, and its own solver loses digits to it
    assert_close(found.raw[0], expected[0, 0].numpy(), np.float32, factor=2000)


WRONG = [
    ("lime", {"passes": 0}, "lime: passes=0 must be a whole number >= 1"),
    ("lime", {"width": 0}, "lime: width=0 must be a number > 0"),
    ("lime", {"ridge": -1}, "lime: ridge=-1 must be a number >= 0"),
    ("lime", {"cells": 1}, "lime: cells=1 must be a whole number >= 2"),
    ("lime", {"baseline": "black"}, "lime: baseline='black' must be a number"),
    ("lime", {"segments": "felzenszwalb"}, "choose from 'grid', 'slic', 'quickshift'"),
    ("kernelshap", {"passes": 1}, "kernelshap: passes=1 must be a whole number >= 2"),
    ("kernelshap", {"seed": None}, "kernelshap: seed=None must be a whole number >= 0"),
]


@pytest.mark.parametrize(("name", "options", "text"), WRONG, ids=str)
def test_wrong_options_are_refused(name: str, options: dict[str, object], text: str) -> None:
    with pytest.raises(MethodError, match=text):
        make_method(name, options)
