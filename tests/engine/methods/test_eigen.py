from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import camrt
from camrt.engine.methods import make_method
from camrt.engine.methods.eigen import EigenCAM
from camrt.errors import MethodError
from camrt.kernels.saliency import MapFlag
from helpers.oracles import postprocess
from helpers.oracles.classifiers import HEADS, classifier
from helpers.oracles.eigen import eigen_cam, eigen_grad_cam, kernel_pca_cam, seg_eigen_cam
from helpers.oracles.gradients import numeric_gradient
from helpers.oracles.head_scores import HeadScores
from helpers.tolerances import assert_close

EngineOf = Callable[..., camrt.Engine]
# The specification's two maps.
TWO_MAPS = np.array([[[1, 0], [2, 0]], [[1, 0], [1, 3]]], np.float32)


def mapped(method: EigenCAM, activation: np.ndarray) -> np.ndarray:
    """The raw map of one activation."""
    raw, _ = method.raw(HeadScores(activation, lambda _: np.zeros(1)))
    return raw[0, 0]


@pytest.mark.parametrize("centred", [True, False], ids=["centred", "uncentred"])
@pytest.mark.parametrize("trunk", ["rectify", "keep"])
@pytest.mark.parametrize(
    ("channels", "cells"), [(3, (3, 4)), (2, (1, 2)), (40, (3, 2)), (2, (7, 5)), (3, (5, 1))], ids=str
)
def test_against_the_oracle(
    engine_of: EngineOf, centred: bool, trunk: str, channels: int, cells: tuple[int, int]
) -> None:
    """More channels than cells and fewer: the two sides of the Gram matrix."""
    small = classifier("pooled-linear", cells=cells, channels=channels, trunk=trunk)
    images = np.random.default_rng(5).normal(size=(3, *small.image)).astype(np.float32)
    found = engine_of(small).explain(images, "eigen", centred=centred, targets=[[0, 1]] * 3)
    expected = np.array([eigen_cam(small.activation(x), centred=centred) for x in images])
    assert_close(found.raw, np.repeat(expected[:, None], 2, axis=1))
    assert_close(found.maps[:, 0], [postprocess.native(raw, cells) for raw in expected])
    assert found.passes == camrt.engine.explanation.PassCounts(trunk=3)


@pytest.mark.parametrize("read", ["oracle", "engine"])
def test_vectors_of_the_specification(read: str) -> None:
    def one(centred: bool) -> np.ndarray:
        if read == "oracle":
            return eigen_cam(TWO_MAPS, centred=centred)
        return mapped(EigenCAM(centred=centred), TWO_MAPS)

    # Printed to four digits.
    assert np.abs(one(False) - [[1.3066, 0], [1.6892, 2.7716]]).max() < 5e-5
    assert np.abs(one(True) - [[-0.3162, -0.9487], [-0.6325, 1.8974]]).max() < 5e-5


def test_the_map_is_the_first_singular_value_times_its_left_vector() -> None:
    for centred, value in ((False, 3.4989), (True, 2.2361)):
        assert abs(np.linalg.norm(mapped(EigenCAM(centred=centred), TWO_MAPS)) - value) < 5e-5


@settings(deadline=None)
@given(seed=st.integers(0, 10_000), factor=st.sampled_from([0.5, 4.0, -1.0, -2.0]))
def test_orientation(seed: int, factor: float) -> None:
    activation = np.random.default_rng(seed).normal(size=(3, 2, 3)).astype(np.float32)
    for method in (EigenCAM(), EigenCAM(centred=False)):
        raw = mapped(method, activation)
        assert (raw.flat[np.abs(raw).argmax()] > 0) if method.centred else (raw.sum() > -1e-5)
        assert_close(mapped(method, np.float32(factor) * activation), abs(factor) * raw, factor=2)
    positive = mapped(EigenCAM(centred=False), np.abs(activation))
    assert (positive > 0).all()  # Perron and Frobenius


@settings(deadline=None)
@given(seed=st.integers(0, 10_000), order=st.permutations(range(4)))
def test_equal_magnitudes_are_oriented_by_the_first(seed: int, order: list[int]) -> None:
    """Two cells are always mirror images once centred; rounding must not choose between them."""
    activation = np.random.default_rng(seed).random((5, 1, 2)).astype(np.float32)
    raw = mapped(EigenCAM(), activation)
    assert raw[0, 0] > 0 > raw[0, 1]
    square = np.array([[1, -1], [0.5, -0.5]], np.float32).reshape(-1)[order].reshape(2, 2)
    several = np.random.default_rng(seed).random((7, 1, 1)).astype(np.float32) * square
    raw = mapped(EigenCAM(), several)
    first = next(i for i in range(4) if abs(square.flat[i]) == 1)
    assert raw.flat[first] > 0


def test_a_constant_channel_changes_nothing_when_centred() -> None:
    activation = np.random.default_rng(0).random((3, 4, 5)).astype(np.float32)
    constant = np.full((1, 4, 5), 1e4 / 3, np.float32)
    with_constant = np.concatenate([activation, constant])
    assert_close(mapped(EigenCAM(), with_constant), mapped(EigenCAM(), activation))


@pytest.mark.parametrize("value", [0.0, 0.1, 1 / 3, 1e5 / 7])
@pytest.mark.parametrize(("channels", "cells"), [(3, (3, 7)), (40, (3, 2))], ids=["tall", "wide"])
def test_a_constant_activation_is_no_map_of_rounding_errors(
    engine_of: EngineOf, value: float, channels: int, cells: tuple[int, int]
) -> None:
    small = classifier("pooled-linear", cells=cells, channels=channels)
    found = engine_of(small).explain(np.full((1, channels, *cells), value, np.float32), "eigen")
    assert found.flags.tolist() == [MapFlag.CONSTANT]
    assert not found.raw.any()
    assert not found.maps.any()


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("score", ["logit", "probability"])
def test_with_a_gradient_against_the_oracle(engine_of: EngineOf, head: str, score: str) -> None:
    small = classifier(head, cells=(4, 5), channels=4, scale=0.5, trunk="convolve")
    images = np.random.default_rng(7).normal(size=(2, *small.image)).astype(np.float32)
    engine, scores = engine_of(small), small.scores(score)
    for name, oracle in (("eigengradcam", eigen_grad_cam), ("segeigen", seg_eigen_cam)):
        found = engine.explain(images, name, targets=[[0, 3]] * 2, score=score)
        for image, maps in zip(images, found.raw, strict=True):
            activation = small.activation(image)
            for c, raw in zip((0, 3), maps, strict=True):
                gradient = numeric_gradient(lambda a, c=c: scores(a)[c], activation)
                assert_close(raw, oracle(gradient, activation), factor=50)  # a direction amplifies rounding


def test_what_has_no_direction_is_zeros(engine_of: EngineOf) -> None:
    """Every cell has the same gradient and the same activation."""
    engine = engine_of(classifier("pooled-linear", cells=(3, 5)))
    for name in ("eigengradcam", "segeigen", "kpca"):
        found = engine.explain(np.full((1, 3, 3, 5), 0.3, np.float32), name)
        assert found.flags.tolist() == [MapFlag.CONSTANT]
        assert not found.raw.any()


KERNELS: dict[str, tuple[dict[str, Any], Callable[[np.ndarray, np.ndarray], float]]] = {
    "sigmoid": ({}, lambda x, y: np.tanh(x @ y / len(x) + 1)),
    "sigmoid-of-one's-own": (
        {"kernel": "sigmoid", "gamma": 0.7, "coef0": -0.2},
        lambda x, y: np.tanh(0.7 * (x @ y) - 0.2),
    ),
    "rbf": ({"kernel": "rbf"}, lambda x, y: np.exp(-((x - y) @ (x - y)) / len(x))),
    "poly": ({"kernel": "poly"}, lambda x, y: (x @ y / len(x) + 1) ** 3),
    "poly-of-two": (
        {"kernel": "poly", "degree": 2, "gamma": 0.3, "coef0": 0},
        lambda x, y: (0.3 * (x @ y)) ** 2,
    ),
    "cosine": ({"kernel": "cosine"}, lambda x, y: x @ y / np.sqrt((x @ x) * (y @ y))),
    "linear": ({"kernel": "linear"}, lambda x, y: x @ y),
}


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize(("channels", "cells"), [(3, (3, 4)), (20, (3, 2)), (2, (7, 5))], ids=str)
def test_kernel_pca_against_the_oracle(
    engine_of: EngineOf, kernel: str, channels: int, cells: tuple[int, int]
) -> None:
    small = classifier("pooled-linear", cells=cells, channels=channels, trunk="keep")
    images = np.random.default_rng(5).normal(size=(3, *small.image)).astype(np.float32)
    options, function = KERNELS[kernel]
    found = engine_of(small).explain(images, "kpca", **options, targets=[[0, 1]] * 3)
    expected = np.array([kernel_pca_cam(x.astype(np.float64), function) for x in images])
    assert_close(found.raw, np.repeat(expected[:, None], 2, axis=1))
    if kernel == "linear":
        assert_close(found.raw, engine_of(small).explain(images, "eigen", targets=[[0, 1]] * 3).raw)


def test_a_cell_that_is_the_mean_has_no_angle_to_others(engine_of: EngineOf) -> None:
    engine = engine_of(classifier("pooled-linear", cells=(1, 5), channels=2, trunk="keep"))
    image = np.array([[[1, 2, 3, 4, 5]], [[4, 4, 4, 4, 4]]], np.float32)[None]
    raw = engine.explain(image, "kpca", kernel="cosine").raw[0, 0]
    assert_close(raw, [1, 1, 0, -1, -1])


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"kernel": "sine"}, "kernel='sine' is not understood; choose from 'sigmoid', 'rbf', 'poly'"),
        ({"gamma": 0}, "gamma=0 must be a number > 0"),
        ({"gamma": "1"}, "gamma='1' must be a number > 0"),
        ({"degree": 0}, "degree=0 must be a whole number >= 1"),
        ({"coef0": np.inf}, "coef0=inf must be a number"),
    ],
    ids=str,
)
def test_wrong_options_of_kernel_pca(options: dict[str, Any], text: str) -> None:
    with pytest.raises(MethodError, match=text):
        make_method("KPCA-CAM", options)
