"""Magnitudes, maps of several copies of an image, and maps of a first principal component: of any method."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import camrt
from camrt.engine.augmentation import AUGMENTATIONS
from camrt.engine.images.framing import Framing
from camrt.engine.methods import make_method, methods
from camrt.errors import DegenerateMapWarning, MethodError
from camrt.export.geometry.region import Region
from camrt.kernels.saliency import MapFlag
from helpers.few_passes import FEW_PASSES, OF_SPECIAL_MODELS, PRODUCTS
from helpers.oracles import postprocess
from helpers.oracles.classifiers import HEADS, SmallClassifier, classifier
from helpers.oracles.eigen import eigen_cam
from helpers.oracles.gradients import numeric_gradient
from helpers.tolerances import assert_close

EngineOf = Callable[..., camrt.Engine]
Array = np.ndarray[Any, Any]
PLAIN = [name for name in methods() if name not in {*OF_SPECIAL_MODELS, *PRODUCTS}] + ["guided-gradcam"]
COPIES = [(mirrored, factor) for mirrored in (False, True) for factor in (0.9, 1.0, 1.1)]


def images_of(small: SmallClassifier, count: int = 3, seed: int = 5) -> Array:
    return np.random.default_rng(seed).normal(size=(count, *small.image)).astype(np.float32)


# ---------------------------------------------------------------- magnitudes


@pytest.mark.parametrize("name", [name for name in PLAIN if "-gradcam" not in name])
def test_magnitudes(engine_of: EngineOf, name: str) -> None:
    small = classifier("pooled-linear", cells=(3, 5), trunk="convolve")
    engine, images = engine_of(small), images_of(small)
    options = {"targets": [[0, 1, 2]] * 3, "size": "map", **FEW_PASSES.get(name, {})}
    plain = engine.explain(images, name, **options)
    found = engine.explain(images, name, absolute=True, **options)
    assert np.array_equal(plain.raw, found.raw)
    minmax = make_method(name, {}).normalisation == "minmax"
    expected = [
        postprocess.native(np.abs(raw), raw.shape, minmax=minmax)
        for raw in found.raw.reshape(9, *found.raw.shape[2:])
    ]
    assert_close(found.maps.reshape(9, *found.maps.shape[2:]), expected, factor=4)


def test_magnitudes_of_the_map_in_a_product(engine_of: EngineOf) -> None:
    small = classifier("pooled-network", trunk="convolve")
    engine, images = engine_of(small), images_of(small)
    fine = engine.explain(images, "guided", targets=1, blur=1).raw
    coarse = engine.explain(images, "gradcam", targets=1, absolute=True).maps
    found = engine.explain(images, "guided-gradcam", targets=1, blur=1, absolute=True)
    assert_close(found.raw, fine * coarse, factor=8)


# ---------------------------------------------------------------- copies


@pytest.mark.parametrize("postprocess_by", ["native", "library"])
@pytest.mark.parametrize("name", PLAIN)
def test_the_mean_of_copies(engine_of: EngineOf, name: str, postprocess_by: str) -> None:
    """Against calls of one's own on the altered images."""
    small = classifier("pooled-linear", cells=(3, 5), trunk="convolve")
    engine, images = engine_of(small, batch_size=2), images_of(small)
    options = {"targets": [[0, 2]] * 3, "postprocess": postprocess_by, **FEW_PASSES.get(name, {})}
    found = engine.explain(images, name, smooth="augment", **options)
    total, passes = 0, []
    for mirrored, factor in COPIES:
        altered = np.ascontiguousarray((images[..., ::-1] if mirrored else images) * np.float32(factor))
        one = engine.explain(altered, name, **options)
        total = total + (one.maps[..., ::-1] if mirrored else one.maps) / 6
        passes.append(one.passes)
    assert_close(found.maps, total, np.float32, factor=8)
    assert np.array_equal(found.raw, found.maps)
    assert_close(found.scores, engine.explain(images, name, **options).scores)
    assert found.passes == sum(passes[1:], start=passes[0])
    method = make_method(name, {"smooth": "augment", **FEW_PASSES.get(name, {})})
    cost = method.cost_of_all(engine.head, engine.map_shape)
    once = method.cost(engine.head, engine.map_shape)
    assert (cost.head, cost.full) == (6 * once.head, 6 * once.full + 5)


def test_classes_are_chosen_by_the_image_itself(engine_of: EngineOf) -> None:
    small = classifier("generic", trunk="convolve", scale=4.0)
    engine, images = engine_of(small), images_of(small, 20)
    plain = engine.predict(images).argmax(1)
    assert (engine.predict(images[..., ::-1].copy()).argmax(1) != plain).any()
    assert np.array_equal(engine.explain(images, "gradcam", smooth="augment").targets, plain)


def test_copies_at_several_layers(tmp_path: Path) -> None:
    small = classifier("generic", cells=(3, 5), trunk="convolve")
    engine = camrt.load(small.save(tmp_path), target=["activation", "mixed_positive"], threads=1)
    images = images_of(small)
    for fuse in ("mean", "max"):
        found = engine.explain(images, "gradcam", targets=1, smooth="augment", fuse=fuse)
        total = 0
        for mirrored, factor in COPIES:
            altered = np.ascontiguousarray((images[..., ::-1] if mirrored else images) * np.float32(factor))
            one = engine.explain(altered, "gradcam", targets=1, fuse=fuse).maps
            total = total + (one[..., ::-1] if mirrored else one) / 6
        assert_close(found.maps, total, np.float32, factor=8)


def test_copies_into_an_array_of_the_caller_s(engine_of: EngineOf) -> None:
    small = classifier("pooled-linear", trunk="convolve")
    engine, images = engine_of(small), images_of(small)
    out = np.empty((3, *small.image[1:]), np.float16)
    found = engine.explain(images, "gradcam", targets=1, smooth="augment", out=out)
    assert found.maps is out
    expected = engine.explain(images, "gradcam", targets=1, smooth="augment").maps
    assert_close(out, expected, "float16")


def test_a_copy_that_overflows_spoils_its_image_alone(engine_of: EngineOf) -> None:
    small = classifier("pooled-linear", trunk="convolve")
    engine, images = engine_of(small), images_of(small)
    alone = engine.explain(images, "gradcam", targets=1, smooth="augment")
    images[1] = np.sign(images[1]) * np.float32(3e38)
    with pytest.warns(DegenerateMapWarning, match="1 of 3 maps were not finite"):
        found = engine.explain(images, "gradcam", targets=1, smooth="augment")
    assert found.flags[1] == MapFlag.NOT_FINITE
    assert not found.maps[1].any()
    assert np.isnan(found.raw[1]).all()
    assert_close(found.maps[[0, 2]], alone.maps[[0, 2]])


def test_what_a_mirrored_copy_shows_is_on_the_other_side() -> None:
    mirrored = next(copy for copy in AUGMENTATIONS if copy.mirrored)
    framing = Framing((10, 20), Region(2.0, 1.0, 8.0, 9.0))
    assert mirrored.frame(framing).region == Region(12.0, 1.0, 18.0, 9.0)
    assert mirrored.frame(mirrored.frame(framing)) == framing
    assert AUGMENTATIONS[0].frame(framing) is framing


def test_copies_that_say_nothing(engine_of: EngineOf) -> None:
    engine = engine_of(classifier("pooled-linear", cells=(3, 5)))
    found = engine.explain(-np.ones((1, 3, 3, 5), np.float32), "gradcam", targets=1, smooth="augment")
    assert found.flags.tolist() == [MapFlag.CONSTANT]
    assert not found.maps.any()


# ---------------------------------------------------------------- principal components


@pytest.mark.parametrize("head", HEADS)
def test_principal_components_against_the_oracle(engine_of: EngineOf, head: Any) -> None:
    """Of W ∘ A with the weights each definition has, up to the sign, which goes along with the sum."""
    small = classifier(head, cells=(3, 4), channels=4, scale=0.5, trunk="convolve")
    engine, images = engine_of(small), images_of(small)
    scores = small.scores("logit")
    products: dict[str, Callable[[Array, Array], Array]] = {
        "gradcam": lambda g, a: g.mean((1, 2), keepdims=True) * a,
        "hirescam": lambda g, a: g * a,
        "layercam": lambda g, a: np.maximum(g, 0) * a,
        "gradcam-elementwise": lambda g, a: np.maximum(g * a, 0),
    }
    for name, product in products.items():
        found = engine.explain(images, name, targets=[[0, 2]] * 3, smooth="eigen")
        plain = engine.explain(images, name, targets=[[0, 2]] * 3)
        for i, image in enumerate(images):
            activation = small.activation(image)
            for t, target in enumerate((0, 2)):
                gradient = numeric_gradient(lambda a, c=target: float(scores(a)[c]), activation)
                expected = eigen_cam(product(gradient, activation))
                expected = expected * (1 if (expected * plain.raw[i, t]).sum() >= 0 else -1)
                assert_close(found.raw[i, t], expected, np.float32, factor=40)


def test_principal_components_of_weighted_channels(engine_of: EngineOf) -> None:
    small = classifier("pooled-network", cells=(3, 4), channels=4, trunk="convolve")
    engine, images = engine_of(small), images_of(small)
    for name in ("ablation", "score", "xgradcam", "gradcam++", "random"):
        weights, activations = engine.channel_weights(images, name, targets=[[0, 2]] * 3)
        found = engine.explain(images, name, targets=[[0, 2]] * 3, smooth="eigen")
        for i in range(3):
            for t in range(2):
                products = weights[i, t][:, None, None].astype(np.float64) * activations[i]
                expected = eigen_cam(products)
                expected = expected * (1 if (expected * products.sum(0)).sum() >= 0 else -1)
                assert_close(found.raw[i, t], expected, np.float32, factor=40)


def test_a_negative_score_turns_the_component_around(engine_of: EngineOf) -> None:
    small = classifier("pooled-network", trunk="convolve")
    engine, images = engine_of(small), images_of(small)
    found = engine.explain(images, "gradcam", targets=1, smooth="eigen")
    against = engine.explain(images, "gradcam", targets=1, smooth="eigen", counterfactual=True)
    assert found.raw.any()
    assert_close(against.raw, -found.raw, factor=8)


@pytest.mark.parametrize("name", methods())
def test_components_are_for_sums_over_channels(name: str) -> None:
    if methods()[name].sums_channels:
        assert make_method(name, {"smooth": "eigen"}).smooth == "eigen"
        return
    with pytest.raises(MethodError, match=r"smooth='eigen' is not for it: its map is no sum over channels"):
        make_method(name, {"smooth": "eigen"})


def test_both_in_a_product(engine_of: EngineOf) -> None:
    small = classifier("pooled-network", trunk="convolve")
    engine, images = engine_of(small), images_of(small)
    fine = engine.explain(images, "guided", targets=1, blur=1).raw
    coarse = engine.explain(images, "gradcam", targets=1, smooth="eigen").maps
    found = engine.explain(images, "guided-gradcam", targets=1, blur=1, smooth="eigen")
    assert_close(found.raw, fine * coarse, factor=8)
    method = make_method("guided-gradcam", {"smooth": "augment"})
    assert method.map_method == replace(method.map_method, smooth=None)  # type: ignore[attr-defined]
    assert not {"eigen", "cam"} & {name for name, kind in methods().items() if kind.sums_channels}
