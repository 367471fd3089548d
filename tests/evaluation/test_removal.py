"""Remove-and-classify: the specification's vector, a slow oracle, and what must hold for any map."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from camrt.errors import InputError
from camrt.evaluation.metrics.removal import (
    RemovalResult,
    blur_images,
    gaussian,
    remove_and_classify,
    scale_blur_kernel,
    top_pixels_mask,
)
from helpers.tolerances import assert_close


def brightest_half(batch: Any) -> Any:
    """Class 0 where the left half is brighter, class 1 where the right half is."""
    width = batch.shape[3] // 2
    return np.stack([batch[..., :width].sum((1, 2, 3)), batch[..., width:].sum((1, 2, 3))], axis=1)


def test_the_vector() -> None:
    """Specification C2: of [[4, 1], [3, 2]] the half is (0, 0) and (1, 0)."""
    ranking = np.argsort(-np.array([[4.0, 1, 3, 2]]), axis=1, kind="stable")
    np.testing.assert_array_equal(top_pixels_mask(ranking, 0.5, (2, 2)), [[[True, False], [True, False]]])


def test_erasing_what_matters_hurts_more() -> None:
    rng = np.random.default_rng(0)
    images = rng.random((40, 3, 32, 32)).astype(np.float32) * 0.1
    labels = rng.integers(0, 2, 40)
    maps = np.zeros((40, 32, 32))
    for n, label in enumerate(labels):
        images[n, :, 10:16, 16 * label + 4 : 16 * label + 10] += 1
        maps[n, 10:16, 16 * label + 4 : 16 * label + 10] = 1
    found = remove_and_classify(brightest_half, images, labels, maps, shares=(0.0, 0.1, 1.0), base="zero")
    assert found[0].ratio == 1
    assert found[1].random == 1
    assert found[1].ratio < 0.7
    assert found[2].accuracy == found[2].random


@settings(max_examples=30, deadline=None)
@given(
    count=st.integers(1, 6),
    height=st.integers(4, 9),
    width=st.integers(4, 9),
    seed=st.integers(0, 99),
    share=st.floats(0, 1),
)
def test_a_slow_way_of_counting_gives_the_same(
    count: int, height: int, width: int, seed: int, share: float
) -> None:
    rng = np.random.default_rng(seed)
    images = rng.standard_normal((count, 2, height, width))
    maps = rng.integers(0, 4, (count, height, width)).astype(float)  # ties
    labels = rng.integers(0, 2, count)
    seen: list[Any] = []

    def predict(batch: Any) -> Any:
        seen.append(batch.copy())
        return brightest_half(batch)

    (found,) = remove_and_classify(
        predict, images, labels, maps, shares=(share,), kernel=(3, 1.0), batch_size=2, seed=seed
    )
    right = 0
    soft = blur_images(images, 3, 1.0)
    for n in range(count):
        places = sorted((-maps[n, i, j], i, j) for i in range(height) for j in range(width))
        altered = images[n].copy()
        for _, i, j in places[: int(share * height * width)]:
            altered[:, i, j] = soft[n, :, i, j]
        right += int(brightest_half(altered[None]).argmax() == labels[n])
    assert found.accuracy == right / count
    assert len(seen) == 2 * -(-count // 2)


def test_random_maps_have_a_ratio_of_one_within_noise() -> None:
    rng = np.random.default_rng(1)
    images = rng.standard_normal((400, 3, 16, 16)).astype(np.float32)
    labels = brightest_half(images).argmax(axis=1)
    for removal in remove_and_classify(
        brightest_half, images, labels, rng.random((400, 16, 16)), base="zero"
    ):
        assert abs(removal.ratio - 1) < 0.12


def test_pixels_drawn_do_not_depend_on_the_batch() -> None:
    rng = np.random.default_rng(2)
    images = rng.standard_normal((9, 3, 8, 8))
    labels, maps = rng.integers(0, 2, 9), rng.random((9, 8, 8))
    found = [
        remove_and_classify(brightest_half, images, labels, maps, batch_size=size) for size in (1, 4, 64)
    ]
    assert found[0] == found[1] == found[2]


def test_the_blur_is_a_normalised_gaussian() -> None:
    weights = gaussian(5, 1.5)
    assert_close(weights, weights[::-1])
    assert abs(weights.sum() - 1) < 1e-15
    assert_close(np.log(weights[2] / weights[1]), 1 / (2 * 1.5**2), "float64")
    constant = np.full((1, 1, 9, 7), 3.0)
    assert_close(blur_images(constant, 5, 1.5), constant)
    spot = np.zeros((1, 1, 9, 9))
    spot[0, 0, 4, 4] = 1
    assert_close(blur_images(spot, 5, 1.5)[0, 0, 2:7, 2:7], np.outer(weights, weights))
    assert scale_blur_kernel(224) == (31, 15.0)
    assert scale_blur_kernel(64)[0] % 2 == 1


def test_the_border_is_mirrored_without_repeating_it() -> None:
    row = np.array([1.0, 2, 4, 8]).reshape(1, 1, 1, 4).repeat(4, axis=2)
    weights = gaussian(3, 1.0)
    expected = weights[0] * 2 + weights[1] * 1 + weights[2] * 2
    assert_close(blur_images(row, 3, 1.0)[0, 0, 0, 0], expected, "float64")


def test_a_ratio_of_nothing_is_not_a_number() -> None:
    assert np.isnan(RemovalResult(0.5, 0.0, 0.0).ratio)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"maps": np.zeros((2, 4, 4))}, r"must be \(N, C, H, W\), \(N, H, W\) and \(N,\)"),
        ({"labels": np.zeros(3, np.int64)}, "must be"),
        ({"shares": (1.5,)}, "must lie between 0 and 1"),
        ({"base": "noise"}, "must be 'blur' or 'zero'"),
        ({"kernel": (4, 1.0)}, "an odd side and a positive sigma"),
        ({"kernel": (31, 15.0)}, "reaches beyond images of 8×8"),
        (
            {
                "images": np.zeros((0, 3, 8, 8)),
                "maps": np.zeros((0, 8, 8)),
                "labels": np.zeros(0, np.int64),
            },
            "no images",
        ),
    ],
)
def test_wrong_arguments_are_refused(change: dict[str, Any], words: str) -> None:
    given = {
        "images": np.zeros((2, 3, 8, 8)),
        "labels": np.zeros(2, np.int64),
        "maps": np.zeros((2, 8, 8)),
        **change,
    }
    with pytest.raises(InputError, match=words):
        remove_and_classify(brightest_half, **given)
