"""SESS, and RefineCAM: of any class-activation map."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import camrt
from camrt.engine.methods import make_method
from camrt.engine.methods.sess import sliding_windows
from camrt.errors import DegenerateMapWarning, InputError, MethodError
from camrt.kernels.saliency import MapFlag
from helpers.oracles import postprocess
from helpers.oracles.classifiers import HEADS, SmallClassifier, classifier
from helpers.oracles.gradients import grad_cam, numeric_gradient
from helpers.oracles.sess import sess
from helpers.tolerances import assert_close

EngineOf = Callable[..., camrt.Engine]
Array = np.ndarray[Any, Any]

OPTIONS: dict[str, dict[str, Any]] = {
    "mean": {"scales": 3},
    "max": {"scales": 3, "pool": "max", "step": 0.5},
    "threshold": {"scales": 2, "theta": 0.2, "step": 0.4},
    "discarded": {"scales": 3, "discard": 0.4, "step": 0.6},
    "strides": {"scales": 2, "step": 0.8, "stride": 0.5},
}


def images_of(small: SmallClassifier, count: int = 2, seed: int = 5) -> Array:
    return np.random.default_rng(seed).normal(size=(count, *small.image)).astype(np.float32)


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("head", ["pooled-linear", "flattened-network"])
def test_sess_against_the_oracle(engine_of: EngineOf, head: Any, options: dict[str, Any]) -> None:
    small = classifier(head, cells=(3, 4), scale=0.5, trunk="convolve", ending="softmax")
    images, engine = images_of(small), engine_of(small, batch_size=3)
    found = engine.explain(images, "sess", targets=[[0, 2]] * 2, blur=False, **options)
    scores, chances = small.scores("logit"), small.scores_of_image("probability")
    for i, image in enumerate(images):
        for t, target in enumerate((0, 2)):

            def saliency(window: Array, target: int = target) -> Array:
                activation = small.activation(window)
                gradient = numeric_gradient(lambda a: float(scores(a)[target]), activation)
                return postprocess.native(grad_cam(gradient, activation), small.image[1:])

            expected = sess(image, saliency, lambda w, c=target: float(chances(w)[c]), **options)
            # a pixel that is next to nothing in one window counts there or does not
            off = np.abs(found.raw[i, t] - expected) > 4e-5
            assert off.mean() <= 0.05
    windows = len(
        sliding_windows(
            small.image[1:], options["scales"], options.get("step", 2 / 7), options.get("stride", 1.0)
        )
    )
    twice = 1 + ("theta" in options or "discard" in options)
    assert found.passes.full == 2 * windows * twice


@pytest.mark.parametrize("head", HEADS)
@pytest.mark.parametrize("base", ["pixab", "ablation", "layercam", "activation"])
def test_sess_of_any_map(engine_of: EngineOf, head: Any, base: str) -> None:
    """Of one scale it is the map itself, blurred; batches do not matter."""
    small = classifier(head, cells=(3, 4), trunk="convolve")
    images, engine = images_of(small, 3), engine_of(small)
    one = engine.explain(images, f"sess-{base}", targets=1, scales=1, blur=False)
    assert_close(one.raw, engine.explain(images, base, targets=1).maps, factor=4)
    whole = engine.explain(images, f"sess-{base}", targets=1, scales=2)
    apart = engine_of(small, batch_size=1).explain(images, f"sess-{base}", targets=1, scales=2)
    assert_close(apart.raw, whole.raw, factor=100)
    if head != HEADS[0]:
        return
    method = make_method(f"sess-{base}", {"scales": 2})
    assert pickle.loads(pickle.dumps(method)) == method
    assert method.cost(engine.head, engine.map_shape).full >= whole.passes.full / 3


def test_windows_that_are_not_finite(engine_of: EngineOf) -> None:
    small = classifier("pooled-linear", trunk="convolve")
    engine, images = engine_of(small), images_of(small, 3)
    alone = engine.explain(images, "sess", targets=1, scales=2)
    images[1] = np.sign(images[1]) * np.float32(3e38)
    with pytest.warns(DegenerateMapWarning, match="1 of 3 maps were not finite"):
        found = engine.explain(images, "sess", targets=1, scales=2)
    assert found.flags[1] == MapFlag.NOT_FINITE
    assert_close(found.maps[[0, 2]], alone.maps[[0, 2]], factor=4)


def test_sess_of_plain_numbers_and_of_a_contrast(engine_of: EngineOf) -> None:
    small = classifier("pooled-network", trunk="convolve")
    images = images_of(small)
    plain = engine_of(small, activation="none").explain(images, "sess", targets=1, scales=2)
    assert np.isfinite(plain.maps).all()
    assert_close(plain.scores, plain.logits[:, 1])
    engine = engine_of(small)
    against = engine.explain(images, "sess", targets=1, scales=2, contrast=2)
    assert np.abs(against.raw - engine.explain(images, "sess", targets=1, scales=2).raw).max() > 1e-3


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"scales": 0}, "scales=0 must be a whole number >= 1"),
        ({"stride": 0}, "stride=0 must be a number > 0"),
        ({"discard": 1}, "discard=1 must be less than 1"),
        ({"pool": "sum"}, "pool='sum' is not understood"),
        ({"score": "x"}, "score='x' is not understood"),
    ],
    ids=str,
)
def test_wrong_options(options: dict[str, Any], text: str) -> None:
    with pytest.raises(MethodError, match=text):
        make_method("sess", options)


# ---------------------------------------------------------------- RefineCAM


@pytest.fixture
def layers(tmp_path: Path) -> tuple[camrt.Engine, Array]:
    small = classifier("generic", cells=(4, 5), channels=5, trunk="convolve")
    path = small.save(tmp_path)
    return camrt.load(path, target=["activation", "mixed_positive"], threads=1), images_of(small, 4)


@pytest.mark.parametrize("base", ["gradcam++", "layercam", "pixab", "eigen"])
def test_refine_is_the_product_of_layers(
    layers: tuple[camrt.Engine, Array], base: str, tmp_path: Path
) -> None:
    engine, images = layers
    alone = [
        camrt.load(tmp_path / "model.onnx", target=target, threads=1).explain(images, base, targets=1)
        for target in ("activation", "mixed_positive")
    ]
    product = alone[0].maps.astype(np.float64) * alone[1].maps
    found = engine.explain(images, f"refine-{base}", targets=1)
    assert_close(found.raw, product, np.float32, factor=8)
    minmax = make_method(base, {}).normalisation == "minmax"
    expected = [postprocess.native(one, one.shape, minmax=minmax) for one in product]
    assert_close(found.maps, expected, np.float32, factor=8)
    by_fuse = engine.explain(images, base, targets=1, fuse="product")
    assert np.array_equal(by_fuse.maps, found.maps)
    if base == "gradcam++":
        assert np.array_equal(engine.explain(images, "RefineCAM", targets=1).maps, found.maps)


def test_refine_needs_layers(engine_of: EngineOf) -> None:
    engine = engine_of(classifier("pooled-linear"))
    with pytest.raises(
        MethodError, match=r"refine-gradcam\+\+ is of several layers: load the model with target="
    ):
        engine.explain(np.zeros((1, 3, 3, 4), np.float32), "refine")
    with pytest.raises(InputError, match="must be one of 'mean', 'max', 'product'"):
        engine.explain(np.zeros((1, 3, 3, 4), np.float32), "gradcam", fuse="sum")
    method = make_method("refine-gradcam++", {"definition": "grad-cam", "contrast": 1})
    assert pickle.loads(pickle.dumps(method)) == method
    assert method.name == "refine-gradcam++"
