"""The masked one-layer CNN and Theorem 3: automatic derivatives, loops, the specification's numbers."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from camrt.errors import InputError
from camrt.evaluation.dead_zone.grad_cam_theorem import (
    TheoremCheck,
    check_theorem,
    draw_maps,
    expected_grad_cam,
    expected_norm,
    lower_bound,
    mean_and_standard_error,
    patch_norms,
)
from camrt.evaluation.dead_zone.one_layer_cnn import OneLayerCNN
from helpers.oracles import one_layer as oracle

CLOSE = {"rtol": 1e-11, "atol": 1e-12}  # float64, sums of a few thousand products


def image(size: tuple[int, int], seed: int = 0) -> Any:
    return np.random.default_rng(seed).standard_normal(size)


@settings(max_examples=40, deadline=None)
@given(
    V=st.integers(1, 5),
    k=st.integers(1, 3),
    pool=st.integers(1, 3),
    cells=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    widths=st.lists(st.integers(1, 6), min_size=1, max_size=3),
    masked=st.integers(0, 4),
    seed=st.integers(0, 999),
)
def test_backpropagation_and_proposition_2_are_automatic_differentiation(
    V: int, k: int, pool: int, cells: tuple[int, int], widths: list[int], masked: int, seed: int
) -> None:
    pytest.importorskip("torch")
    size = (cells[0] * pool + k - 1, cells[1] * pool + k - 1)
    network = OneLayerCNN.random(size, V, k, pool, tuple(widths), seed=seed).mask_lower(min(masked, cells[0]))
    xi = image(size, seed)
    target = widths[-1] - 1
    answers, alpha, found = oracle.autograd(network.filters, pool, network.weights, xi, target)
    np.testing.assert_allclose(network.forward(xi), answers, **CLOSE)
    np.testing.assert_allclose(network.gradient(xi, target).mean((1, 2)), alpha, **CLOSE)
    np.testing.assert_allclose(network.closed_form_weights(xi, target), alpha, **CLOSE)
    np.testing.assert_allclose(network.grad_cam(xi, target), found, **CLOSE)


@pytest.mark.parametrize("widths", [(1,), (4, 2), (5, 4, 1)])
def test_loops_and_finite_differences_give_the_same(widths: tuple[int, ...]) -> None:
    marked = 0
    for seed in range(5):
        network = OneLayerCNN.random((5, 7), 2, 2, 2, widths, seed=seed).mask_lower(1)
        xi = image((5, 7), seed)
        expected = oracle.forward(network.filters, 2, network.weights, xi)
        assert network.forward(xi)[0] == pytest.approx(expected)
        alpha, found = oracle.grad_cam(network.filters, 2, network.weights, xi)
        np.testing.assert_allclose(network.closed_form_weights(xi), alpha, atol=1e-7)  # differences of 1e-6
        np.testing.assert_allclose(network.grad_cam(xi), found, atol=1e-7)
        marked += int(found.any())
    assert marked > 1


def test_one_dense_layer_has_the_mean_of_its_weights() -> None:
    network = OneLayerCNN.random((9, 9), 3, 2, 2, seed=1)
    expected = network.weights[0].reshape(3, -1).sum(axis=1) / 64
    np.testing.assert_allclose(network.closed_form_weights(image((9, 9))), expected, **CLOSE)
    np.testing.assert_allclose(network.closed_form_weights(np.zeros((9, 9))), expected, **CLOSE)


@pytest.mark.parametrize(
    ("size", "pool", "rows", "seen"), [((29, 29), 2, 7, 15), ((9, 9), 2, 2, 5), ((9, 9), 2, 4, 0)]
)
def test_masked_rows_are_not_seen_and_are_marked(
    size: tuple[int, int], pool: int, rows: int, seen: int
) -> None:
    """Specification D1: of 29 rows those from 15 on are unseen, row 14 is seen; of 9 those from 5 on."""
    network = OneLayerCNN.random(size, 16, 2, pool, (10,), seed=0).mask_lower(rows)
    xi, other = image(size), image(size, 1)
    mixed = np.concatenate([xi[:seen], other[seen:]])
    np.testing.assert_array_equal(network.forward(mixed), network.forward(xi))
    if seen:
        changed = xi.copy()
        changed[seen - 1] += 3
        assert not np.array_equal(network.forward(changed), network.forward(xi))
        assert not network.gradient(xi)[:, seen - 1 :].any()
        assert network.grad_cam(xi)[seen:].any() or network.grad_cam(xi, 1)[seen:].any()


def test_masking_leaves_the_network_as_it_was() -> None:
    network = OneLayerCNN.random((9, 9), 2, 2, 2, (3, 2), seed=0)
    first = network.weights[0].copy()
    masked = network.mask_lower(2)
    np.testing.assert_array_equal(network.weights[0], first)
    kept = masked.weights[0].reshape(3, 2, 4, 4)
    assert not kept[:, :, 2:].any()
    np.testing.assert_array_equal(kept[:, :, :2], first.reshape(3, 2, 4, 4)[:, :, :2])
    np.testing.assert_array_equal(network.mask_lower(0).weights[0], first)


@pytest.mark.parametrize(
    ("V", "expected"),
    [(1, 0.39894), (2, 0.71227), (8, 1.83810), (20, 3.06200), (64, 5.6014), (256, 11.28606)],
)
def test_the_expected_norm_of_the_specification(V: int, expected: float) -> None:
    assert expected_norm(V) == pytest.approx(expected, abs=5e-5 if V == 64 else 5e-6)


def test_the_expected_norm_by_chance_and_in_the_limit() -> None:
    assert expected_norm(1) == pytest.approx(1 / math.sqrt(2 * math.pi), rel=1e-14)
    for V in (3, 17):
        mean, error = oracle.rectified_norm(V, 4000, V)
        assert abs(mean - expected_norm(V)) < 4 * error
    assert expected_norm(20_000) == pytest.approx(math.sqrt(10_000), rel=1e-4)
    assert expected_norm(20_000) < math.sqrt(10_000)  # by Jensen's inequality


def test_patch_norms_are_those_of_the_patches() -> None:
    xi = image((4, 5))
    expected = [[np.linalg.norm(xi[i : i + 3, j : j + 3]) for j in range(3)] for i in range(2)]
    np.testing.assert_allclose(patch_norms(xi, 3), expected, rtol=1e-14)


def test_the_formula_of_the_expectation() -> None:
    norms = np.array([[0.0, 1.0], [2.0, 0.5]])
    found = expected_grad_cam(norms, 64, 3, (4, 2), tau=0.5)
    np.testing.assert_allclose(
        found,
        0.25 * norms * expected_norm(64) / (2 * math.sqrt(math.pi) * 9 * math.sqrt(8)),
        rtol=1e-14,
    )


@settings(max_examples=40, deadline=None)
@given(V=st.integers(1, 600), split=st.floats(0.01, 0.99))
def test_the_bound_is_below_the_expectation(V: int, split: float) -> None:
    exact = expected_grad_cam([1.0], V, 2, (4, 4))[0]
    bound = lower_bound([1.0], V, 2, (4, 4), split=split)[0]
    assert 0 <= bound <= exact
    assert (bound > 0) == (V * split**2 > 5)


def test_the_bound_of_the_specification() -> None:
    """With the split in the middle sqrt(V) (1 − 20/V) / (4 sqrt(π) k'² sqrt(h'w')), 0.49 of the exact."""
    found = lower_bound([3.0], 64, 2, (4, 4), tau=2.0)[0]
    expected = 4 * 3 * 8 * (1 - 20 / 64) / (4 * math.sqrt(math.pi) * 4 * 4)
    assert found == pytest.approx(expected, rel=1e-14)
    assert found / expected_grad_cam([3.0], 64, 2, (4, 4), tau=2.0)[0] == pytest.approx(0.49, abs=0.005)
    assert lower_bound([3.0], 20, 2, (4, 4))[0] == 0
    assert lower_bound([3.0], 21, 2, (4, 4))[0] > 0


def simulate(xi: Any, V: int, k: int, pool: int, draws: int, seed: int = 0) -> tuple[Any, Any]:
    return mean_and_standard_error(draw_maps(xi, V, k, pool, draws, seed))


def agrees(found: TheoremCheck) -> bool:
    """Whether the ratio is within three standard errors of 1 and the bound holds everywhere."""
    return abs(found.ratio - 1) <= 3 * found.ratio_error and found.bound_holds


def test_theorem_3_by_simulation() -> None:
    """The numerical check of specification D2, with fewer draws.

    Three errors for the one ratio; each of the 64 places has a bound of 4.5, so that all of them together
    stray in fewer than one of two thousand simulations.
    """
    xi = np.abs(image((9, 9)))
    xi[:3, :3] = 0
    found = check_theorem(xi, draws=6000, seed=1)
    assert agrees(found)
    assert found.ratio_error < 0.03
    assert found.worst < 4.5
    assert abs(found.masked_ratio - 1) < 4 * 0.02
    assert found.bound_ratio == pytest.approx(0.49, abs=0.005)
    assert found.zero_places == 4
    mean, error = simulate(xi, 64, 2, 2, 50)
    assert not mean[:2, :2].any()
    assert not error[:2, :2].any()


def test_a_wrong_constant_would_be_found() -> None:
    found = check_theorem(image((9, 9)), draws=6000, seed=2)
    assert agrees(found)
    assert not agrees(replace(found, ratio=found.ratio * 2 / math.sqrt(math.pi)))


def test_networks_drawn_whole_have_the_expected_map() -> None:
    """No closed form in between: filters and weights drawn, explicit backpropagation, averaged."""
    xi, tau, draws = image((5, 5), 4), 0.7, 2500
    maps = np.stack(
        [
            OneLayerCNN.random((5, 5), 6, 2, 2, tau=tau, seed=n).mask_lower(1).grad_cam(xi)
            for n in range(draws)
        ]
    )
    ratios = (maps / expected_grad_cam(patch_norms(xi, 2), 6, 2, (2, 2), tau=tau)).mean(axis=(1, 2))
    assert abs(ratios.mean() - 1) < 4 * ratios.std() / math.sqrt(draws)
    mean, error = simulate(xi, 6, 2, 2, draws)
    apart = np.abs(tau**2 * mean - maps.mean(axis=0))
    assert (apart < 4.5 * np.hypot(tau**2 * error, maps.std(axis=0) / math.sqrt(draws))).all()


def test_a_simulation_follows_from_its_seed() -> None:
    xi = image((9, 9))
    first, again, other = (simulate(xi, 8, 2, 2, 40, seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first[0], other[0])


def test_blocks_do_not_change_the_moments(monkeypatch: pytest.MonkeyPatch) -> None:
    from camrt.evaluation.dead_zone import grad_cam_theorem

    maps = image((7, 3, 4))
    mean, error = grad_cam_theorem.mean_and_standard_error([maps[:2], maps[2:3], maps[3:]])
    np.testing.assert_allclose(mean, maps.mean(axis=0), **CLOSE)
    np.testing.assert_allclose(error, maps.std(axis=0, ddof=1) / math.sqrt(7), **CLOSE)
    monkeypatch.setattr(grad_cam_theorem, "BLOCK_NUMBERS", 64 * 8 * 10)
    assert [len(block) for block in grad_cam_theorem.draw_maps(image((9, 9)), 8, 2, 2, 25, 0)] == [
        10,
        10,
        5,
    ]


def network(**change: Any) -> OneLayerCNN:
    given = {
        "filters": np.ones((2, 2, 2)),
        "pool": 2,
        "weights": (np.ones((1, 32)),),
        "size": (9, 9),
        **change,
    }
    return OneLayerCNN(**given)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"filters": np.ones((2, 2, 3))}, r"must be \(V, k, k\)"),
        ({"filters": np.full((2, 2, 2), np.nan)}, "filters must be finite"),
        ({"filters": np.full((2, 2, 2), "a")}, "must be real numbers"),
        ({"pool": 3}, "do not divide"),
        ({"pool": 0}, "do not fit"),
        ({"size": (1, 9)}, "do not fit"),
        ({"weights": ()}, "at least one dense layer"),
        ({"weights": (np.ones((1, 31)),)}, r"weights\[0\] must be \(any, 32\)"),
        ({"weights": (np.ones((3, 32)), np.ones((1, 4)))}, r"weights\[1\] must be \(any, 3\)"),
    ],
)
def test_networks_that_do_not_fit_are_refused(change: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        network(**change)


def test_wrong_questions_are_refused() -> None:
    with pytest.raises(InputError, match=r"must be \(9, 9\)"):
        network().forward(np.zeros((8, 9)))
    with pytest.raises(InputError, match="xi must be finite"):
        network().grad_cam(np.full((9, 9), np.inf))
    with pytest.raises(InputError, match="not one of the 1 outputs"):
        network().grad_cam(np.ones((9, 9)), target=1)
    with pytest.raises(InputError, match="between 0 and the 4 rows"):
        network().mask_lower(5)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: expected_norm(0), "must be positive"),
        (lambda: expected_grad_cam([-1.0], 4, 2, (4, 4)), "negative"),
        (lambda: expected_grad_cam([1.0], 4, 2, (3, 4)), "3 is odd"),
        (lambda: expected_grad_cam([1.0], 4, 2, (4, 4), tau=0), "must be positive"),
        (lambda: lower_bound([np.nan], 4, 2, (4, 4)), "must be finite"),
        (lambda: lower_bound([1.0], 4, 2, (4, 4), split=1.0), "between 0 and 1"),
        (lambda: lower_bound([1.0], 0, 2, (4, 4)), "must be positive"),
        (lambda: patch_norms(np.ones((3, 3)), 4), "at least that side"),
        (lambda: patch_norms(np.ones(3), 1), r"must be \(H, W\)"),
        (lambda: simulate(np.ones((9, 9)), 4, 2, 2, 1), "two draws"),
        (lambda: simulate(np.ones((7, 9)), 4, 2, 2, 10), "3 is odd"),
        (lambda: check_theorem(np.zeros((9, 9))), "every patch of the image is zero"),
    ],
)
def test_wrong_settings_of_the_theorem_are_refused(call: Any, words: str) -> None:
    with pytest.raises(InputError, match=words):
        call()
