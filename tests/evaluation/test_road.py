"""ROAD: imputation against one dense system, scores against their definition, and pytorch-grad-cam's."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from camrt.errors import InputError
from camrt.evaluation.imputation import elimination_order, impute_pixels
from camrt.evaluation.metrics import road
from camrt.evaluation.metrics.imputed_removal import NOISE_SHEET, add_road_queries, imputation_noise
from camrt.evaluation.perturbation import PerturbationQueries
from helpers.oracles import perturbations as oracle
from helpers.peer_libraries import import_peer
from helpers.tolerances import assert_close

pytest.importorskip("scipy")
SIZE = (4, 5)
# A system of up to all pixels but one: its solution loses as many digits as its condition number has.
SYSTEM = 100


def scores(rows: Any) -> Any:
    """A model that tells images apart."""
    flat = np.asarray(rows, np.float64).reshape(len(rows), -1)
    places = np.arange(1, flat.shape[1] + 1)
    return np.stack([np.sin(flat @ places), np.cos(flat @ np.sqrt(places)), flat.mean(axis=1)], axis=1)


@settings(max_examples=40, deadline=None)
@given(arrays(np.bool_, SIZE), st.integers(0, 9))
def test_removed_pixels_are_means_of_their_neighbours(removed: Any, seed: int) -> None:
    image = np.random.default_rng(seed).standard_normal((3, *SIZE))
    if removed.all():
        with pytest.raises(InputError, match="no pixel is left"):
            impute_pixels(image, removed)
        return
    assert_close(impute_pixels(image, removed), oracle.impute(image, removed), "float64", SYSTEM)
    spoilt = np.where(removed, np.nan, image)
    assert np.array_equal(impute_pixels(spoilt, removed), impute_pixels(image, removed))


def test_a_plain_stays_plain() -> None:
    removed = np.ones((40, 30), np.bool_)
    removed[0, 29] = False
    assert impute_pixels(np.full((1, 40, 30), 0.7), removed) == pytest.approx(np.full((1, 40, 30), 0.7))


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (9, 8), (33, 20)])
def test_pixels_are_eliminated_in_some_order_each_once(size: tuple[int, int]) -> None:
    order = elimination_order(*size)
    assert sorted(order.ravel().tolist()) == list(range(size[0] * size[1]))


def test_large_images_are_imputed() -> None:
    """Each removed pixel is what its neighbours, wherever they come from, say."""
    rng = np.random.default_rng(4)
    image, removed = rng.standard_normal((2, 50, 70)), rng.random((50, 70)) < 0.8
    filled = np.pad(impute_pixels(image, removed), ((0, 0), (1, 1), (1, 1)))
    inside = np.pad(np.ones((50, 70)), 1)
    total = around = np.zeros(())
    for row in (-1, 0, 1):
        for column in (-1, 0, 1):
            weight = (row != 0 or column != 0) * (1 if row and column else 2)
            total = total + weight * np.roll(inside, (row, column), (0, 1))
            around = around + weight * np.roll(filled, (row, column), (1, 2))
    assert np.abs((around / total - filled)[:, 1:-1, 1:-1][:, removed]).max() < 1e-12


@pytest.mark.parametrize(
    ("image", "removed"),
    [
        (np.zeros((4, 5)), np.zeros((4, 5), bool)),
        (np.zeros((1, 4, 5)), np.zeros((4, 5))),
        (np.zeros((1, 4, 5)), np.zeros((5, 4), bool)),
    ],
)
def test_bad_images_to_impute(image: Any, removed: Any) -> None:
    with pytest.raises(InputError, match=r"an image \(C, H, W\) and removed pixels"):
        impute_pixels(image, removed)


def test_scores_are_what_their_definition_says() -> None:
    rng = np.random.default_rng(3)
    images, classes = rng.standard_normal((3, 2, *SIZE)), np.array([2, 0, 1])
    maps = rng.permutation(60).reshape(3, *SIZE) / 60.0
    maps[2] = 0  # of equal pixels the first is the most relevant
    shares, noise = (0.25, 0.5, 0.9), 0.3
    seen: list[int] = []

    def predict(rows: Any) -> Any:
        seen.append(len(rows))
        return scores(rows)

    found = road(predict, images, classes, maps, shares=shares, noise=noise, seed=5, batch_size=4)
    assert (max(seen), sum(seen)) == (4, 3 * 2 * 3)
    added = noise * np.random.default_rng(5).standard_normal((2, *SIZE))
    for n in range(3):
        order = sorted(range(20), key=lambda place: (-maps[n].flat[place], place))
        for at, share in enumerate(shares):
            count = int(share * 20)
            for places, told in ((order[:count], found.most), (order[20 - count :], found.least)):
                removed = np.isin(np.arange(20), places).reshape(SIZE)
                row = oracle.impute(images[n].astype(np.float32), removed)
                row = np.where(removed, row + added, row)
                # the model's row is float32, and its score adds up forty of them with weights up to 40
                assert told[n, at] == pytest.approx(scores(row[None])[0, classes[n]], abs=1e-4)
    assert found.morf == pytest.approx(found.most.mean(axis=1))
    assert found.combined == pytest.approx((found.least.mean(axis=1) - found.most.mean(axis=1)) / 2)


def test_equal_questions_are_asked_once() -> None:
    images = np.random.default_rng(0).standard_normal((1, 1, *SIZE)).astype(np.float32)
    noise = imputation_noise((1, *SIZE), 1)[None]
    queries = PerturbationQueries(images, None, np.array([[0]]), {NOISE_SHEET: noise})
    ranks = np.arange(20)
    first = add_road_queries(queries, 0, ranks, (0.2, 0.4))
    assert add_road_queries(queries, 0, ranks.copy(), (0.2, 0.4)) == first
    assert len(queries) == 4
    # what is more than no pixel's share is asked as the image itself, once
    none = add_road_queries(queries, 0, ranks, (0.01,))
    assert none[0] == none[1]
    assert queries.run(scores, lambda values: values, 8).probabilities[none[0][0], 0] == scores(images)[0, 0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"maps": np.zeros((2, 3, 3))}, r"must be \(N, C, H, W\)"),
        ({"classes": [0]}, r"must be \(N, C, H, W\)"),
        ({"shares": (0.01,)}, r"each must remove some pixels of \(4, 5\)"),
        ({"shares": (1.0,)}, "and not all"),
        ({"maps": np.full((2, *SIZE), np.nan)}, "finite"),
    ],
)
def test_bad_arguments(change: dict[str, Any], message: str) -> None:
    asked = {"images": np.zeros((2, 1, *SIZE)), "classes": [0, 1], "maps": np.zeros((2, *SIZE))} | change
    with pytest.raises(InputError, match=message):
        road(scores, **asked)


@pytest.mark.peers
@pytest.mark.filterwarnings("ignore:__array_wrap__:DeprecationWarning")  # of tensors given to NumPy, there
def test_the_same_as_pytorch_grad_cam(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without noise, on maps without ties, of sides that its percentiles cut as shares do."""
    import_peer("pytorch_grad_cam")
    import torch
    from pytorch_grad_cam.metrics.road import (
        ROADCombined,
        ROADLeastRelevantFirst,
        ROADMostRelevantFirst,
    )

    monkeypatch.setattr(torch, "randn_like", torch.zeros_like)
    rng = np.random.default_rng(8)
    images = rng.standard_normal((2, 3, 10, 15)).astype(np.float32)
    maps = (rng.permutation(300).reshape(2, 10, 15) / 300).astype(np.float32)
    classes = [1, 2]
    targets = [lambda output, own=own: output[own] for own in classes]

    def model(batch: Any) -> Any:
        return torch.from_numpy(scores(batch.numpy()))

    found = road(scores, images, classes, maps, noise=0.0)
    asked = (torch.from_numpy(images), maps, targets, model)
    # float32 on both sides of a system, and sums with weights up to 450
    theirs = ROADCombined(percentiles=[20, 40, 60, 80])(*asked)
    assert found.combined == pytest.approx(theirs, abs=2e-3)
    for kind, told in ((ROADMostRelevantFirst, found.most), (ROADLeastRelevantFirst, found.least)):
        for at, percentile in enumerate((80, 60, 40, 20)):
            altered = kind(percentile)(*asked, return_visualization=True)[1]
            assert np.isfinite(altered).all()
            assert told[:, at] == pytest.approx(kind(percentile)(*asked, return_diff=False), abs=2e-3), (
                kind,
                percentile,
            )
