from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

import camrt
from camrt.errors import MethodError
from camrt.kernels.saliency import MapFlag
from helpers.oracles import postprocess
from helpers.oracles.cam import activation_map, class_map
from helpers.oracles.classifiers import HEADS, classifier, pooled_linear
from helpers.tolerances import assert_close

EngineOf = Callable[..., camrt.Engine]
SHAPES = [(3, (3, 4)), (2, (1, 2)), (5, (7, 5)), (3, (5, 1))]


@pytest.mark.parametrize("trunk", ["rectify", "keep", "convolve"])
@pytest.mark.parametrize(("channels", "cells"), SHAPES, ids=str)
def test_cam_is_the_class_map(engine_of: EngineOf, trunk: str, channels: int, cells: tuple[int, int]) -> None:
    small = classifier("pooled-linear", cells=cells, channels=channels, trunk=trunk)
    images = np.random.default_rng(1).normal(size=(2, *small.image)).astype(np.float32)
    targets = np.array([[0, 3, 1], [2, 2, 0]])
    found = engine_of(small).explain(images, "cam", targets=targets)
    expected = [
        [class_map(small.activation(x), small.weight, small.bias, c) for c in row]
        for x, row in zip(images, targets, strict=True)
    ]
    assert_close(found.raw, expected)
    logits = np.array([[small.logits(x)[c] for c in row] for x, row in zip(images, targets, strict=True)])
    assert_close(found.scores, logits)
    assert_close(found.raw.mean(axis=(2, 3)), logits)


@pytest.mark.parametrize(
    ("options", "reference"),
    [
        ({}, lambda raw, size: postprocess.native(raw, size)),
        (
            {"normalisation": "minmax"},
            lambda raw, size: postprocess.native(raw, size, minmax=True, rectify=False),
        ),
        ({"postprocess": "library"}, postprocess.library),
        ({"postprocess": "library", "normalisation": "minmax"}, postprocess.library),
    ],
    ids=["max", "minmax", "library", "library-ignores-normalisation"],
)
@pytest.mark.parametrize("size", ["image", "map", (9, 4)], ids=str)
def test_saliency(
    engine_of: EngineOf,
    options: dict[str, str],
    reference: Callable[[np.ndarray, tuple[int, int]], np.ndarray],
    size: str | tuple[int, int],
) -> None:
    small = classifier("pooled-linear", cells=(4, 3), trunk="convolve")
    images = np.random.default_rng(2).normal(size=(3, *small.image)).astype(np.float32)
    found = engine_of(small).explain(images, "cam", targets=1, size=size, **options)
    wanted = {"image": small.image[1:], "map": (4, 3)}.get(size, size) if isinstance(size, str) else size
    raw = [class_map(small.activation(x), small.weight, small.bias, 1) for x in images]
    assert_close(found.maps, [reference(one, wanted) for one in raw])


def test_vector_of_the_specification(engine_of: EngineOf) -> None:
    """F = [[1, 3], [0, 2]]: class maps [1.5, 1.5] and [2, 6], logits 1.5 and 4."""
    small = pooled_linear(np.array([[1.0, -1.0], [2.0, 0.0]]), np.array([0.5, 0.0]), (1, 2))
    engine = engine_of(small)
    image = np.array([[[[1, 3]], [[0, 2]]]], np.float32)
    by_max = engine.explain(image, "cam", targets=[[0, 1]], size="map")
    assert_close(by_max.logits, [[1.5, 4]])
    assert_close(by_max.raw, [[[[1.5, 1.5]], [[2, 6]]]])
    # Divided by its maximum, class 0's constant map would be all ones; the policy makes it zeros.
    assert_close(by_max.maps, [[[[0, 0]], [[1 / 3, 1]]]])
    assert by_max.flags.tolist() == [[MapFlag.CONSTANT, MapFlag.OK]]
    by_range = engine.explain(image, "cam", targets=1, size="map", normalisation="minmax")
    assert_close(by_range.maps, [[[0, 1]]])


@settings(deadline=None)
@given(
    maps=arrays.arrays(np.float32, (2, 3), elements=st.integers(-64, 64).map(float)),
    factor=st.sampled_from([0.25, 1.0, 8.0]),
    shift=st.sampled_from([-16.0, -1.0, 2.0]),
)
def test_min_max_is_unmoved_by_scale_and_bias(maps: np.ndarray, factor: float, shift: float) -> None:
    """f → a·f + b changes nothing min-max, negative values or not; these values are exact in float32."""
    from camrt.engine.methods import make_method
    from camrt.kernels.saliency import saliency

    method = make_method("cam", {"normalisation": "minmax"})

    def normalised(raw: np.ndarray) -> np.ndarray:
        return saliency(raw[None], (2, 3), normalisation="minmax", relu=method.applies_relu)[0][0]

    assert_close(normalised(maps * np.float32(factor) + np.float32(shift)), normalised(maps))


def test_the_bias_shifts_a_map_divided_by_its_maximum(engine_of: EngineOf) -> None:
    image = np.array([[[[-1, 3, 1]]]], np.float32).repeat(3, axis=1)
    weight = np.ones((2, 3)) / 3
    maps = {}
    for bias in (0.0, 2.0, -2.0):
        engine = engine_of(pooled_linear(weight, np.array([bias, 0.0]), (1, 3)))
        for normalisation in ("max", "minmax"):
            options = {"targets": 0, "size": "map", "normalisation": normalisation}
            maps[normalisation, bias] = engine.explain(image, "cam", **options).maps[0, 0]
    assert_close(maps["max", 0.0], [0, 1, 1 / 3])
    assert_close(maps["max", 2.0], [1 / 5, 1, 3 / 5])
    assert_close(maps["max", -2.0], [0, 1, 0])
    for bias in (0.0, 2.0, -2.0):
        assert_close(maps["minmax", bias], [0, 1, 1 / 2])


@pytest.mark.parametrize("head", HEADS[1:])
def test_other_heads_have_no_class_maps(engine_of: EngineOf, head: str) -> None:
    small = classifier(head)
    engine = engine_of(small)
    with pytest.raises(
        MethodError, match="needs a linear layer behind global pooling, and this model's head is"
    ):
        engine.explain(np.ones((1, *small.image), np.float32), "cam")
    with pytest.raises(MethodError, match="needs a linear layer behind global pooling; this head is"):
        camrt.methods()["cam"]().cost(engine.head, engine.map_shape)
    assert "needs a linear layer behind global pooling" in engine.describe()


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize(("channels", "cells"), SHAPES, ids=str)
def test_activation_cam_is_the_sum_of_channels(
    engine_of: EngineOf, head: str, channels: int, cells: tuple[int, int]
) -> None:
    small = classifier(head, cells=cells, channels=channels, trunk="keep")
    images = np.random.default_rng(3).normal(size=(2, *small.image)).astype(np.float32)
    found = engine_of(small).explain(images, "activation", targets=[[0, 1], [3, 2]])
    expected = np.array([activation_map(small.activation(x)) for x in images])
    assert_close(found.raw, np.repeat(expected[:, None], 2, axis=1))
    assert_close(found.maps[:, 1], [postprocess.native(one, cells) for one in expected])
    assert_close(found.scores, [small.logits(images[0])[[0, 1]], small.logits(images[1])[[3, 2]]])
    assert found.passes == camrt.engine.explanation.PassCounts(trunk=2)
