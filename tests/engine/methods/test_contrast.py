"""Scores held against other classes, Finer-CAM, what speaks against a class: of any method on any head."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import camrt
from camrt.engine.methods import make_method, methods
from camrt.errors import MethodError, TargetError
from camrt.kernels.saliency import MapFlag
from helpers.few_passes import FEW_PASSES, OF_SPECIAL_MODELS, short
from helpers.oracles.ablation import ablation_cam
from helpers.oracles.classifiers import HEADS, SmallClassifier, classifier
from helpers.oracles.contrast import contrasted, nearest
from helpers.oracles.gradients import METHODS, numeric_gradient, strongest
from helpers.oracles.pixab import pixab_cam
from helpers.oracles.score import score_cam
from helpers.tolerances import assert_close

EngineOf = Callable[..., camrt.Engine]
Array = np.ndarray[Any, Any]
# Convolutions, two or three layers there and back, and differences of scores that have much in common.
FACTOR = 40

OPTIONS: dict[str, dict[str, Any]] = {
    "one class": {"contrast": 2},
    "several": {"contrast": (2, 3), "strength": 0.5},
    "one a target": {"contrast": ((2,), (0,))},
    "similar": {"contrast": "similar", "rivals": 2},
    "similar, all": {"contrast": "similar", "rivals": 9, "strength": 1},
    "similar, weighted": {"contrast": "similar-weighted"},
    "counterfactual": {"counterfactual": True},
    "both": {"contrast": 1, "counterfactual": True},
}
TARGETS = ((0, 3), (1, 2))


def images_of(small: SmallClassifier, seed: int = 7) -> Array:
    return np.random.default_rng(seed).normal(size=(2, *small.image)).astype(np.float32)


def reading(options: dict[str, Any], logits: Array, column: int, target: int) -> dict[str, Any]:
    """What the oracle is to be told of a target: its rivals, γ and the rest."""
    given, found = options.get("contrast"), {"negated": options.get("counterfactual", False)}
    strength = options.get("strength", 0.6 if given == "similar" else 1.0)
    if isinstance(given, str):
        rivals = nearest(list(logits), target, options.get("rivals", 3))
    else:
        rows = np.atleast_1d([] if given is None else given)
        rivals = [int(c) for c in (rows if rows.ndim == 1 else rows[column])]
    return found | {"rivals": rivals, "strength": strength, "weighted": given == "similar-weighted"}


def compare(small: SmallClassifier, engine: camrt.Engine, score: str, options: dict[str, Any]) -> None:
    """Methods of every kind of question, against their oracles on the score that is meant."""
    images = images_of(small)
    scores, of_image = small.scores(score), small.scores_of_image(score)
    explain = {"targets": TARGETS, "score": score, **options}
    expected: dict[str, list[list[Array]]] = {}
    for image, row in zip(images, TARGETS, strict=True):
        activation, wanted = small.activation(image), {}
        for column, target in enumerate(row):
            read = reading(options, small.logits(image), column, target)
            one, seen = contrasted(scores, target, **read), contrasted(of_image, target, **read)
            gradient = numeric_gradient(lambda a, one=one: float(one(a)[0]), activation)
            for name, oracle in METHODS.items():
                wanted.setdefault(name, []).append(oracle(gradient, activation))
            wanted.setdefault("ablation", []).append(ablation_cam(one, activation, 0))
            wanted.setdefault("pixab", []).append(
                pixab_cam(one, activation, 0, denominators="N3", probability=False)
            )
            wanted.setdefault("score", []).append(score_cam(seen, image, activation, 0, "paper"))
            if "counterfactual" not in options:
                back = numeric_gradient(lambda x, seen=seen: float(seen(x)[0]), image)
                wanted.setdefault("gradient", []).append(strongest(back))
            wanted.setdefault("scores", []).append(one(activation)[0])
        for name, maps in wanted.items():
            expected.setdefault(name, []).append(maps)
    values = expected.pop("scores")
    for name, maps in expected.items():
        found = engine.explain(images, name, **explain, **({"blur": 1} if name == "gradient" else {}))
        assert_close(found.scores, values, factor=FACTOR)
        # Ablation-CAM divides by the score, of which a difference may have few digits left.
        unit = np.abs(values)[..., None, None] if name == "ablation" else 1.0
        assert_close(found.raw * unit, np.array(maps) * unit, np.float32, factor=FACTOR)


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("head", HEADS)
def test_logits_against_the_oracles(engine_of: EngineOf, head: Any, options: dict[str, Any]) -> None:
    small = classifier(head, cells=(2, 3), scale=0.5, trunk="convolve")
    compare(small, engine_of(small), "logit", options)


@pytest.mark.parametrize("ending", ["softmax", "sigmoid"])
@pytest.mark.parametrize("head", HEADS)
def test_probabilities_against_the_oracles(engine_of: EngineOf, head: Any, ending: Any) -> None:
    small = classifier(head, cells=(2, 3), scale=0.5, trunk="convolve", ending=ending)
    engine = engine_of(small)
    for name in ("several", "similar", "counterfactual"):
        compare(small, engine, "probability", OPTIONS[name])


def test_class_maps(engine_of: EngineOf) -> None:
    """Their mean is still the score."""
    small = classifier("pooled-linear", cells=(2, 3), trunk="convolve")
    engine, images = engine_of(small), images_of(small)
    every = engine.explain(images, "cam", targets=[[0, 1, 2, 3]] * 2).raw
    found = engine.explain(images, "cam", targets=[[0, 3]] * 2, contrast=(1, 2), strength=0.5)
    assert_close(found.raw, every[:, [0, 3]] - 0.25 * (every[:, 1] + every[:, 2])[:, None], factor=4)
    for options in OPTIONS.values():
        found = engine.explain(images, "cam", targets=TARGETS, **options)
        assert_close(found.raw.mean((2, 3)), found.scores, factor=FACTOR)


def test_finer_is_a_name_of_the_option(engine_of: EngineOf) -> None:
    assert make_method("Finer-CAM", {}) == make_method("gradcam", {"contrast": "similar"})
    assert make_method("finer-gradcam++", {"rivals": 1}) == make_method(
        "gradcam++", {"contrast": "similar", "rivals": 1}
    )
    assert make_method("finer-score", {"contrast": "similar-weighted"}).score_contrast.strength == 1
    assert make_method("finer", {}).score_contrast.strength == 0.6
    with pytest.raises(MethodError, match=r"eigen: contrast='similar' is not for it"):
        make_method("finer-eigen", {})
    with pytest.raises(MethodError, match="unknown method 'pixap'; did you mean 'pixab'"):
        make_method("finer-pixap", {})


def test_a_contrast_costs_no_pass_more(engine_of: EngineOf) -> None:
    for head in HEADS:
        small = classifier(head, trunk="convolve")
        engine, images = engine_of(small), images_of(small)
        for name in ("gradcam", "pixab", "ablation", "score", "gradient"):
            plain = engine.explain(images, name, targets=1, score="logit")
            against = engine.explain(images, name, targets=1, score="logit", contrast=(2, 3))
            assert plain.passes == against.passes


@pytest.mark.parametrize("name", [name for name in methods() if name not in OF_SPECIAL_MODELS])
def test_every_method_follows_it_or_refuses_it(engine_of: EngineOf, name: str) -> None:
    """Nobody is shown a map of another score than was asked for."""
    small = classifier("pooled-linear", cells=(2, 3), trunk="convolve")
    engine, images = engine_of(small), images_of(small)
    targets = [[0, 1, 2, 3]] * 2
    method = short(name)
    plain = engine.explain(images, method, targets=targets)
    for options in ({"contrast": 2}, {"counterfactual": True}):
        if method.no_contrast or ("contrast" not in options and method.no_counterfactual):
            with pytest.raises(MethodError, match="is not for it: "):
                make_method(name, options)
            continue
        found = engine.explain(images, name, targets=targets, **FEW_PASSES.get(name, {}), **options)
        assert np.abs(found.raw - plain.raw).max() > 1e-3 * np.abs(plain.raw).max()


def test_a_class_against_itself_says_nothing(engine_of: EngineOf) -> None:
    for head in HEADS:
        small = classifier(head, trunk="convolve")
        engine, images = engine_of(small), images_of(small)
        for name in ("gradcam", "pixab", "ablation", "score", "cam")[: 5 if head == "pooled-linear" else 4]:
            found = engine.explain(images, name, targets=1, contrast=1)
            assert not found.maps.any()
            assert (found.flags == MapFlag.CONSTANT).all()


def test_weights_of_channels_are_of_the_contrast(engine_of: EngineOf) -> None:
    small = classifier("pooled-network", trunk="convolve")
    engine, images = engine_of(small), images_of(small)
    every, _ = engine.channel_weights(images, "gradcam", targets=[[0, 2]] * 2)
    found, _ = engine.channel_weights(images, "gradcam", targets=0, contrast=2)
    assert_close(found, every[:, 0] - every[:, 1], factor=4)


def test_similar_classes_are_each_image_s_own(engine_of: EngineOf) -> None:
    small = classifier("pooled-network", classes=6, trunk="convolve")
    engine = engine_of(small)
    images = np.random.default_rng(3).normal(size=(5, *small.image)).astype(np.float32)
    found = engine.explain(images, "gradcam", contrast="similar", rivals=1)
    met = set()
    for i, target in enumerate(found.targets.tolist()):
        [rival] = nearest(list(small.logits(images[i])), target, 1)
        met.add(rival)
        alone = engine.explain(images[i : i + 1], "gradcam", targets=target, contrast=rival, strength=0.6)
        assert np.array_equal(found.raw[i], alone.raw[0])
    assert len(met) > 1


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "word": ({"contrast": "next"}, "contrast='next' must be 'similar', 'similar-weighted', or class indices"),
    "fraction": ({"contrast": 1.5}, r"contrast=1.5 must be 'similar'"),
    "negative": ({"contrast": -1}, "contrast=-1 must be"),
    "truth": ({"contrast": True}, "contrast=True must be"),
    "none": ({"contrast": ()}, r"contrast=\(\) must be"),
    "ragged": ({"contrast": ((1,), (2, 3))}, r"contrast=\(\(1,\), \(2, 3\)\) must be"),
    "strength alone": ({"strength": 0.5}, "strength=0.5 is of a contrast"),
    "negative strength": ({"contrast": 1, "strength": -1}, "strength=-1 must be a number >= 0"),
    "endless": ({"contrast": 1, "strength": float("inf")}, "strength=inf must be a number >= 0"),
    "rivals of classes": ({"contrast": 1, "rivals": 2}, "rivals=2 counts similar classes"),
    "no rivals": ({"contrast": "similar", "rivals": 0}, "rivals=0 must be a whole number >= 1"),
    "word for truth": ({"counterfactual": "yes"}, "counterfactual='yes' must be True or False"),
}


@pytest.mark.parametrize(("options", "text"), WRONG.values(), ids=WRONG)
def test_wrong_options(options: dict[str, Any], text: str) -> None:
    with pytest.raises(MethodError, match=text):
        make_method("gradcam", options)


def test_classes_that_are_not_there(engine_of: EngineOf) -> None:
    small = classifier("pooled-linear")
    engine, images = engine_of(small), images_of(small)
    with pytest.raises(TargetError, match="contrast: class 4 is out of range; the model has 4 classes"):
        engine.explain(images, "gradcam", contrast=(1, 4))
    with pytest.raises(TargetError, match=f"class {1 << 63} is out of range"):
        engine.explain(images, "gradcam", contrast=1 << 63)
    with pytest.raises(TargetError, match="has the rivals of 2 targets, and 1 are explained"):
        engine.explain(images, "gradcam", contrast=((1,), (2,)))
    with pytest.raises(MethodError, match="ask for score='logit'"):
        engine.explain(images, "pixab", contrast="similar-weighted")
    with pytest.raises(TargetError, match="a model of one class has no other"):
        engine_of(classifier("pooled-linear", classes=1)).explain(images, "finer")


def test_class_nought_and_arrays_are_classes(engine_of: EngineOf) -> None:
    for given in (0, np.array([0, 1]), [np.int64(0)]):
        with pytest.raises(MethodError, match=r"eigen: contrast=.* is not for it"):
            make_method("eigen", {"contrast": given})
    assert make_method("gradcam", {"contrast": 0}).contrast == (0,)
    assert make_method("gradcam", {"contrast": np.array([0, 1])}).contrast == (0, 1)
    small = classifier("pooled-linear", trunk="convolve")
    engine, images = engine_of(small), images_of(small)
    every = engine.explain(images, "gradcam", targets=[[1, 0]] * 2).raw
    found = engine.explain(images, "gradcam", targets=1, contrast=0).raw
    assert_close(found, every[:, 0] - every[:, 1], factor=8)


def test_the_options_are_seen_where_they_are_given() -> None:
    assert "contrast" not in repr(make_method("gradcam", {}))
    assert "contrast=(3,), strength=0.5" in repr(make_method("gradcam", {"contrast": 3, "strength": 0.5}))
    assert hash(make_method("gradcam", {"contrast": [[1, 2]]})) == hash(
        make_method("gradcam", {"contrast": ((1, 2),)})
    )
