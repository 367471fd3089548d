"""One policy for maps that say nothing: all zeros, and a flag that says why."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import camrt
from camrt.engine.methods import methods
from camrt.errors import DegenerateMapWarning
from camrt.kernels.saliency import MapFlag
from helpers.few_passes import FEW_PASSES, OF_SPECIAL_MODELS, short
from helpers.oracles import postprocess
from helpers.oracles.classifiers import HEADS, classifier, pooled_linear
from helpers.tolerances import assert_close

EngineOf = Callable[..., camrt.Engine]
NAMES = tuple(name for name in methods() if name not in OF_SPECIAL_MODELS)
# What is drawn at random does not treat all cells alike, whatever they are.
DRAWN = ("rise", "lime", "kernelshap", "aise")
HUGE = np.float32(3e38)


@pytest.mark.parametrize("postprocess_by", ["native", "library"])
@pytest.mark.parametrize("name", NAMES)
def test_what_is_not_finite_is_zeros_with_a_warning(
    engine_of: EngineOf, name: str, postprocess_by: str
) -> None:
    """Image 1 overflows in the convolution; its neighbours are none the worse."""
    engine = engine_of(classifier("pooled-linear", cells=(2, 5), trunk="convolve"))
    images = np.random.default_rng(0).normal(size=(3, 3, 3, 9)).astype(np.float32)
    options = {"postprocess": postprocess_by, **FEW_PASSES.get(name, {})}
    alone = engine.explain(images, name, targets=[[0, 1]] * 3, **options)
    images[1] = np.sign(images[1]) * HUGE
    with pytest.warns(
        DegenerateMapWarning, match=r"2 of 6 maps were not finite .*model gave NaN or infinity"
    ):
        found = engine.explain(images, name, targets=[[0, 1]] * 3, **options)
    assert (found.flags[1] == MapFlag.NOT_FINITE).all()
    assert not found.maps[1].any()
    for i in (0, 2):
        assert_close(found.maps[i], alone.maps[i])
        assert np.array_equal(found.flags[i], alone.flags[i])


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("name", [name for name in NAMES[1:] if not name.startswith("guided")])
def test_no_other_warning_whatever_the_head(engine_of: EngineOf, name: str, head: str) -> None:
    """NumPy's own warnings about infinity are not the caller's business; the maps are zeros or finite."""
    engine = engine_of(classifier(head, cells=(2, 5), trunk="keep"))
    image = np.full((1, 3, 2, 5), HUGE)
    image[0, 1] = -HUGE
    image[0, :, 0, 0] = 0
    with np.errstate(all="raise"), warnings.catch_warnings(record=True) as given:
        warnings.simplefilter("always")
        found = engine.explain(image, short(name))
    assert {warning.category for warning in given} <= {DegenerateMapWarning}
    assert {warning.filename for warning in given} <= {__file__}
    assert np.isfinite(found.maps).all()
    assert found.flags[0] == MapFlag.OK or not found.maps.any()


@pytest.mark.parametrize("name", [name for name in NAMES if name not in DRAWN])
def test_constant_maps_are_zeros(engine_of: EngineOf, name: str) -> None:
    """An image whose cells are all alike; no warning is given."""
    engine = engine_of(classifier("pooled-linear", cells=(3, 5)))
    image = np.array([0.3, 0.7, 0.2], np.float32).reshape(1, 3, 1, 1) * np.ones((1, 3, 3, 5), np.float32)
    plain: dict[str, dict[str, Any]] = {
        "pixab": {"boxes": ((1, 1),)},
        "smoothgrad": {"noise": 0},
        "vargrad": {"noise": 0},
    }
    plain |= {"expected-gradients": {"references": image}, "blur-integrated": {"sigma": 1e-3}}
    found = engine.explain(image, name, targets=1, **plain.get(name, {}))
    assert found.flags[0] in (MapFlag.CONSTANT, MapFlag.NOTHING_POSITIVE)
    assert not found.maps.any()


@pytest.mark.parametrize("name", NAMES)
def test_an_empty_activation_is_zeros(engine_of: EngineOf, name: str) -> None:
    engine = engine_of(classifier("pooled-linear", cells=(3, 5)))
    found = engine.explain(-np.ones((1, 3, 3, 5), np.float32), short(name), targets=1)
    assert found.flags[0] == MapFlag.CONSTANT
    assert not found.maps.any()


@pytest.mark.parametrize(
    ("options", "flag"),
    [
        ({}, MapFlag.NOTHING_POSITIVE),
        ({"postprocess": "library"}, MapFlag.NOTHING_POSITIVE),
        ({"normalisation": "minmax"}, MapFlag.OK),
    ],
    ids=["max", "library", "minmax"],
)
def test_nothing_positive(engine_of: EngineOf, options: dict[str, Any], flag: MapFlag) -> None:
    """A class map that is negative everywhere: divided by its negative maximum it would be all ones."""
    small = pooled_linear(-np.ones((2, 3)), np.zeros(2), (2, 5))
    image = np.random.default_rng(0).random((1, 3, 2, 5)).astype(np.float32) + 0.1
    found = engine_of(small).explain(image, "cam", targets=0, size="map", **options)
    assert found.flags.tolist() == [flag]
    assert found.maps.any() == (flag == MapFlag.OK)
    if flag == MapFlag.OK:
        expected = postprocess.native(-image[0].sum(axis=0), (2, 5), minmax=True, rectify=False)
        assert_close(found.maps[0], expected)


@pytest.mark.parametrize("name", ["pixab", "ablation", "score"])
def test_what_speaks_against_the_class_everywhere(engine_of: EngineOf, name: str) -> None:
    small = pooled_linear(np.array([[-1.0, -2.0, -1.5], [0, 0, 0]]), np.array([9.0, 0]), (2, 5))
    image = np.random.default_rng(0).random((1, 3, 2, 5)).astype(np.float32) + 0.1
    found = engine_of(small).explain(image, name, targets=0)
    assert (found.raw <= 0).all()
    assert found.flags.tolist() == [MapFlag.NOTHING_POSITIVE]
    assert not found.maps.any()


def test_equal_classes_are_predicted_in_order(engine_of: EngineOf) -> None:
    small = pooled_linear(np.array([[0.0, 1, 1], [1, 1, 0], [1, 1, 0]]), np.array([-1.0, 0, 0]), (2, 5))
    found = engine_of(small).explain(np.ones((2, 3, 2, 5), np.float32), "activation")
    assert found.targets.tolist() == [1, 1]


QUESTIONS: dict[str, Callable[[camrt.Engine, Any], Any]] = {
    "predict": lambda engine, images: engine.predict(images),
    "probabilities": lambda engine, images: engine.probabilities(engine.predict(images)),
    "explain": lambda engine, images: engine.explain(images, "eigen"),
    "explain_all": lambda engine, images: engine.explain_all(images, ["pixab", "gradcam"]),
    "input_gradients": lambda engine, images: engine.input_gradients(images, np.sign),
    "channel_weights": lambda engine, images: engine.channel_weights(images),
}


@pytest.mark.parametrize("question", QUESTIONS)
def test_a_caller_who_raises_on_floating_point_errors(engine_of: EngineOf, question: str) -> None:
    """Numbers from the least to the greatest; what the caller made of NumPy's errors is the caller's own."""
    engine = engine_of(classifier("pooled-linear", cells=(2, 5), trunk="convolve"))
    images = np.random.default_rng(0).normal(size=(3, 3, 3, 9)).astype(np.float32)
    images[1] = np.sign(images[1]) * HUGE
    images[2] *= 1e-40 / np.abs(images[2])
    with np.errstate(all="raise"), warnings.catch_warnings():
        warnings.simplefilter("ignore", DegenerateMapWarning)
        QUESTIONS[question](engine, images)
        assert np.geterr()["invalid"] == "raise"


@pytest.mark.parametrize("question", ["explain", "explain_all"])
def test_the_warning_points_at_the_line_that_asked(engine_of: EngineOf, question: str) -> None:
    engine = engine_of(classifier("pooled-linear", cells=(2, 5), trunk="convolve"))
    images = np.full((1, 3, 3, 9), HUGE)
    ask = {
        "explain": lambda: engine.explain(images),
        "explain_all": lambda: engine.explain_all(images, ["pixab"]),
    }
    with pytest.warns(DegenerateMapWarning) as given:
        ask[question]()
    line = ask[question].__code__.co_firstlineno
    assert {(warning.filename, warning.lineno) for warning in given} == {(__file__, line)}


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("pixab", {}),
        ("pixab", {"perspectives": "deletion"}),
        ("pixab", {"denominators": "N3"}),
        ("ablation", {"score": "probability"}),
    ],
)
def test_the_last_bits_of_a_saturated_probability_are_no_map(
    engine_of: EngineOf, name: str, options: dict[str, Any]
) -> None:
    """The class is certain, whatever is altered: what its probability changes by is rounding."""
    weights = np.random.default_rng(1).normal(size=(3, 3)) / 50
    small = pooled_linear(weights, np.array([14.5, 0, 0]), (4, 5))
    image = np.random.default_rng(0).random((1, 3, 4, 5)).astype(np.float32) + 0.1
    engine = engine_of(small)
    found = engine.explain(image, name, targets=0, **options)
    assert found.scores[0] == pytest.approx(1, abs=1e-5)
    assert found.flags[0] in (MapFlag.CONSTANT, MapFlag.NOTHING_POSITIVE)
    assert not found.maps.any()
    assert engine.explain(image, "pixab", targets=1, score="logit").flags.tolist() == [MapFlag.OK]
