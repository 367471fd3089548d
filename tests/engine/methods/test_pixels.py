"""Gradient baselines, guided back-propagation and Opti-CAM."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import camrt
from camrt.engine.methods import METHODS, make_method, methods
from camrt.engine.methods.pixels import blur_matrix
from camrt.errors import AdjointError, MethodError
from helpers.few_passes import FEW_PASSES, PRODUCTS
from helpers.oracles.classifiers import HEADS, classifier, pooled_linear
from helpers.oracles.gradients import integrated, integrated_textbook, numeric_gradient, strongest
from helpers.tolerances import assert_close

EngineOf = Callable[..., camrt.Engine]
PIXELS = (
    "gradient",
    "integrated",
    "integrated-textbook",
    "smoothgrad",
    "vargrad",
    "gradient-times-input",
    "expected-gradients",
    "blur-integrated",
    "guided-integrated",
    "guided",
    "guided-gradcam",
    "guided-gradcam++",
    "guided-xgradcam",
    "guided-score",
    "guided-ablation",
    "guided-activation",
    "guided-pixab",
)
FEW = {"integrated": {"steps": 3}, "integrated-textbook": {"steps": 3}}
FEW |= {
    "expected-gradients": {"draws": 3},
    "blur-integrated": {"steps": 3},
    "guided-integrated": {"steps": 3},
}
FEW |= {"smoothgrad": {"draws": 3}, "vargrad": {"draws": 3}, "opticam": {"steps": 3}}


def batch(small, count=2, seed=7):
    return np.random.default_rng(seed).normal(size=(count, *small.image)).astype(np.float32)


@pytest.mark.parametrize("score", ["logit", "probability"])
@pytest.mark.parametrize("head", HEADS)
def test_gradients_against_the_oracle(engine_of: EngineOf, head: str, score: str) -> None:
    small = classifier(head, cells=(2, 3), scale=0.5, trunk="convolve")
    images, engine = batch(small), engine_of(small)
    scores = small.scores_of_image(score)
    functions = [[lambda x, c=c: scores(x)[c] for c in (0, 2)]] * 2
    targets = [[0, 2]] * 2
    plain = engine.explain(images, "gradient", targets=targets, blur=1, score=score)
    expected = [
        [strongest(numeric_gradient(f, x)) for f in row] for x, row in zip(images, functions, strict=True)
    ]
    assert_close(plain.raw, expected, factor=40 if score == "probability" else 8)
    assert plain.raw.shape == (2, 2, 3, 5)
    code = engine.explain(images, "integrated", targets=targets, blur=1, steps=4, score=score)
    expected = [[integrated(f, x, 4, 0 * x) for f in row] for x, row in zip(images, functions, strict=True)]
    assert_close(code.raw, expected, factor=40 if score == "probability" else 8)
    textbook = engine.explain(images, "integrated-textbook", targets=targets, blur=1, steps=4, score=score)
    expected = [
        [strongest(integrated_textbook(f, x, 4, 0 * x)) for f in row]
        for x, row in zip(images, functions, strict=True)
    ]
    assert_close(textbook.raw, expected, factor=40 if score == "probability" else 8)
    assert plain.passes.full_adjoint == 4
    assert code.passes.full_adjoint == 4 * 5
    assert code.passes.full == (4 * 5 if score == "probability" else 0)


def noisy(image, draws, noise, seed):
    spread = image.max() - image.min()
    for draw in range(draws):
        pattern = np.random.default_rng([seed, draw]).standard_normal(image.shape, np.float32)
        yield image + np.float32(noise) * spread * pattern


def test_noisy_gradients_against_the_oracle(engine_of: EngineOf) -> None:
    small = classifier("generic", cells=(2, 3), scale=0.5, trunk="convolve")
    images, engine = batch(small, 3), engine_of(small, batch_size=4)
    for seed in (0, 5):
        each = [
            [
                strongest(numeric_gradient(lambda a: small.logits(a)[1], copy.astype(np.float64)))
                for copy in noisy(x, 6, 0.25, seed)
            ]
            for x in images
        ]
        options = {"targets": 1, "blur": 1, "draws": 6, "seed": seed}
        smooth = engine.explain(images, "smoothgrad", **options)
        assert_close(smooth.raw, np.mean(each, axis=1), factor=8)
        assert_close(smooth.uncertainty, np.std(each, axis=1, ddof=1) / np.sqrt(6), factor=16)
        assert_close(engine.explain(images, "vargrad", **options).raw, np.var(each, axis=1), factor=16)


def test_per_image_gets_its_own_noise_wherever_it_stands(engine_of: EngineOf) -> None:
    small = classifier("pooled-linear", trunk="convolve")
    images = batch(small, 5)
    together = engine_of(small, batch_size=2).explain(images, "smoothgrad", targets=1, draws=3)
    alone = engine_of(small, batch_size=7).explain(images[3:4], "smoothgrad", targets=1, draws=3)
    assert_close(alone.raw[0], together.raw[3], factor=4)
    other = engine_of(small).explain(images[3:4], "smoothgrad", targets=1, draws=3, seed=1)
    assert np.abs(other.raw - alone.raw).max() > 0.01 * np.abs(alone.raw).max()


def test_the_error_of_a_blurred_map_is_that_of_blurred_copies(engine_of: EngineOf) -> None:
    """Not the blurred error: neighbours err together."""
    small = classifier("generic", cells=(4, 5), scale=0.5, trunk="convolve")
    images, engine = batch(small, 1), engine_of(small)
    found = [engine.explain(images, "smoothgrad", targets=1, draws=12, blur=5, seed=s) for s in range(40)]
    spread = np.std([one.raw for one in found], axis=0, ddof=1)
    told = np.sqrt(np.mean([one.uncertainty**2 for one in found], axis=0))
    assert 0.8 < (told / spread).mean() < 1.25
    assert np.isnan(engine.explain(images, "smoothgrad", draws=1).uncertainty).all()
    assert engine.explain(images, "vargrad", draws=2).uncertainty is None


def test_the_variance_of_a_linear_score_is_nothing(engine_of: EngineOf) -> None:
    small = classifier("pooled-linear", trunk="keep")
    assert not engine_of(small).explain(batch(small), "vargrad", draws=4).raw.any()


def test_integrated_gradients_are_complete(engine_of: EngineOf) -> None:
    """What the pixels are given sums to score(x) − score(0), exactly so for a linear score."""
    small = pooled_linear(np.array([[1.0, -2.0, 0.5]]), np.zeros(1), (3, 4))
    image = batch(small, 1)
    expected = np.abs(image * np.array([1.0, -2.0, 0.5])[:, None, None] / 12).max(axis=1)
    assert_close(engine_of(small).explain(image, "integrated-textbook", targets=0, blur=1).raw, expected)
    smooth = classifier("generic", cells=(2, 3), scale=0.5, trunk="convolve")
    x = batch(smooth, 1)[0].astype(np.float64)
    whole = integrated_textbook(lambda a: smooth.logits(a)[0], x, 256, 0 * x)
    assert abs(whole.sum() - (smooth.logits(x)[0] - smooth.logits(0 * x)[0])) < 0.01


@pytest.mark.parametrize(("size", "kernel"), [(9, 3), (5, 9), (1, 3), (2, 31), (40, 31)])
def test_the_blur(size: int, kernel: int) -> None:
    sigma = 0.3 * ((kernel - 1) / 2 - 1) + 0.8
    offsets = np.arange(kernel) - kernel // 2
    bell = np.exp(-(offsets**2) / (2 * sigma**2))
    bell /= bell.sum()
    values = np.random.default_rng(1).normal(size=size)

    def reflected(i: int) -> int:
        while size > 1 and not 0 <= i < size:
            i = -i if i < 0 else 2 * (size - 1) - i
        return i if size > 1 else 0

    expected = [
        sum(b * values[reflected(i + o)] for b, o in zip(bell, offsets, strict=True)) for i in range(size)
    ]
    assert_close(blur_matrix(size, kernel) @ values, expected, np.float64, factor=10)


def test_guided_back_propagation(engine_of: EngineOf) -> None:
    """Through a rectified convolution, a hidden layer and its ReLU, by hand in float64."""
    torch = pytest.importorskip("torch")
    small = classifier("flattened-network", cells=(2, 3), trunk="convolve")
    weights = {
        t.name: torch.tensor(np.array(__import__("onnx").numpy_helper.to_array(t))).double()
        for t in small.model.graph.initializer
    }

    class Guided(torch.autograd.Function):
        @staticmethod
        def forward(context, x):
            context.save_for_backward(x)
            return x.clamp(min=0)

        @staticmethod
        def backward(context, g):
            (x,) = context.saved_tensors
            return g * (x > 0) * (g > 0)

    images = batch(small)
    x = torch.from_numpy(images).double().requires_grad_()
    maps = Guided.apply(torch.nn.functional.conv2d(x, weights["kernel"], stride=2, padding=1))
    units = Guided.apply(maps.flatten(1) @ weights["hidden"].T + weights["hidden_bias"])
    (units @ weights["weight"].T)[:, 2].sum().backward()
    engine = engine_of(small)
    found = engine.explain(images, "guided", targets=2, blur=1)
    assert_close(found.raw, x.grad.abs().amax(1).numpy(), factor=8)
    assert engine.explain(images, "guided-gradcam", targets=2, blur=1).passes.head_adjoint == 2
    assert len(PRODUCTS) >= len(METHODS) // 2
    for name, map_ in PRODUCTS.items():
        if map_ == "cam":
            continue  # of heads that are linear
        options = FEW_PASSES.get(name, {})
        coarse = engine.explain(images, map_, targets=2, **options)
        guided = engine.explain(images, name, targets=2, blur=1, **options)
        assert_close(guided.raw, found.raw * coarse.maps, factor=8)
        for count in ("head", "full", "head_adjoint"):
            assert getattr(guided.passes, count) == getattr(coarse.passes, count), (name, count)
        assert guided.passes.full_adjoint == coarse.passes.full_adjoint + 2  # one there and back an image
        cost = methods()[name]().cost(engine.head, engine.map_shape)
        assert cost.full_adjoint >= 1


@pytest.mark.parametrize(
    ("name", "options", "fine", "coarse"),
    [
        ("pixab", {"boxes": [[1, 2]]}, {}, {"boxes": ((1, 2),)}),
        ("score", {"definition": "torchcam"}, {}, {"definition": "torchcam"}),
        ("ablation", {"score": "probability"}, {"score": "probability"}, {"score": "probability"}),
        ("gradcam", {"contrast": 1}, {"contrast": 1}, {"contrast": 1}),
        ("eigen", {"counterfactual": True, "centred": False}, {"counterfactual": True}, {"centred": False}),
    ],
    ids=str,
)
def test_options_of_a_product_reach_its_factors(
    engine_of: EngineOf, name: str, options: Any, fine: Any, coarse: Any
) -> None:
    small = classifier("pooled-network", trunk="convolve")
    images, engine = batch(small), engine_of(small)
    method = make_method(f"guided-{name}", {"blur": 1, **options})
    found = engine.explain(images, method, targets=[[0, 2]] * 2).raw
    factors = [
        engine.explain(images, "guided", targets=[[0, 2]] * 2, blur=1, **fine).raw,
        engine.explain(images, name, targets=[[0, 2]] * 2, **coarse).maps,
    ]
    assert found.any()
    assert_close(found, factors[0] * factors[1], factor=8)
    assert pickle.loads(pickle.dumps(method)) == method == make_method(method, {})
    assert hash(method) == hash(make_method(f"guided-{name}", {"blur": 1, **options}))


def test_what_is_no_class_activation_map_is_not_guided() -> None:
    for name in ("guided-gradient", "guided-guided", "guided-calm", "guided-"):
        with pytest.raises(MethodError, match=r"unknown method .*did you mean"):
            make_method(name + "x" * (name == "guided-"), {})
    with pytest.raises(MethodError, match=r"guided-gradcam\+\+: definition='x' is not understood"):
        make_method("guided-gradcam++", {"definition": "x"})
    with pytest.raises(MethodError, match="opticam: steps=0 must be a whole number"):
        make_method("guided-opticam", {"steps": 0})


def test_guided_back_propagation_needs_a_relu(engine_of: EngineOf) -> None:
    small = classifier("pooled-linear", trunk="keep")
    with pytest.raises(AdjointError, match="this model has none"):
        engine_of(small).explain(batch(small), "guided")


def test_opti_cam_takes_the_steps_that_torch_takes(engine_of: EngineOf) -> None:
    torch = pytest.importorskip("torch")
    small = classifier("pooled-linear", cells=(3, 4), scale=1.0, trunk="convolve", channels=5)
    weights = {
        t.name: torch.tensor(np.array(__import__("onnx").numpy_helper.to_array(t))).double()
        for t in small.model.graph.initializer
    }
    images = batch(small, 3)
    x = torch.from_numpy(images).double()

    def activation(values):
        return torch.nn.functional.conv2d(values, weights["kernel"], stride=2, padding=1).clamp(min=0)

    def logit(values):
        return (activation(values).mean((2, 3)) @ weights["weight"].T + weights["bias"])[:, 2]

    maps = activation(x)
    u = torch.zeros(3, 5, dtype=torch.double, requires_grad=True)
    optimiser = torch.optim.Adam([u], lr=0.1, maximize=True)
    for _ in range(12):
        optimiser.zero_grad()
        coarse = (u.softmax(1)[:, :, None, None] * maps).sum(1, keepdim=True)
        up = torch.nn.functional.interpolate(coarse, x.shape[2:], mode="bilinear", align_corners=False)
        low, high = up.amin((2, 3), keepdim=True), up.amax((2, 3), keepdim=True)
        logit(x * (up - low) / (high - low)).sum().backward()
        optimiser.step()
    expected = (u.softmax(1)[:, :, None, None] * maps).sum(1).detach().numpy()
    found = engine_of(small, batch_size=2).explain(images, "opticam", targets=2, steps=12)
    # Adam divides by the gradient's own size: rounding of small gradients grows with every step.
    assert_close(found.raw, expected, factor=200)
    assert found.passes.full_adjoint == 3 * 12


def test_opti_cam_climbs(engine_of: EngineOf) -> None:
    small = classifier("generic", cells=(4, 5), trunk="convolve", channels=6, scale=4.0)
    images, engine = batch(small, 4), engine_of(small)

    def masked(steps):
        found = engine.explain(images, "opticam", targets=1, steps=steps, normalisation="minmax")
        return engine.predict(images * found.maps[:, None])[:, 1]

    assert (masked(60) >= masked(1) - 1e-3).all()
    assert (masked(60) > masked(1) + 1e-2).any()


@pytest.mark.parametrize("name", [*PIXELS, "opticam"])
def test_batches_do_not_matter(engine_of: EngineOf, name: str) -> None:
    small = classifier("pooled-network", trunk="convolve")
    images = batch(small, 5)
    options = FEW.get(name, {})
    one = engine_of(small, batch_size=1).explain(images, name, targets=[[0, 1]] * 5, **options)
    all_ = engine_of(small, batch_size=32).explain(images, name, targets=[[0, 1]] * 5, **options)
    assert_close(one.raw, all_.raw, factor=200 if name == "opticam" else 8)
    if name != "guided-score":  # Score-CAM runs an image of nothing once a batch
        assert one.passes == all_.passes


@pytest.mark.parametrize("name", PIXELS)
def test_maps_are_as_large_as_the_image(engine_of: EngineOf, name: str) -> None:
    small = classifier("pooled-network", cells=(3, 2), trunk="convolve")
    found = engine_of(small).explain(batch(small), name, **FEW.get(name, {}))
    assert found.raw.shape == found.maps.shape == (2, 5, 3)
    resized = engine_of(small).explain(batch(small), name, size=(9, 11), **FEW.get(name, {}))
    assert resized.maps.shape == (2, 9, 11)


WRONG = [
    ("gradient", {"blur": 4}, "blur=4 must be odd"),
    ("gradient", {"blur": 0}, "blur=0 must be a whole number >= 1"),
    ("integrated", {"steps": 0}, "steps=0 must be a whole number >= 1"),
    ("integrated-textbook", {"steps": 2.5}, "steps=2.5 must be a whole number"),
    ("smoothgrad", {"draws": True}, "draws=True must be a whole number"),
    ("smoothgrad", {"noise": -1}, "noise=-1 must be a number >= 0"),
    ("vargrad", {"seed": -1}, "seed=-1 must be a whole number >= 0"),
    ("opticam", {"steps": "9"}, "steps='9' must be a whole number"),
    ("opticam", {"learning_rate": 0}, "learning_rate=0 must be a number > 0"),
]


@pytest.mark.parametrize(("name", "options", "text"), WRONG, ids=str)
def test_wrong_options_are_refused(name: str, options: dict[str, object], text: str) -> None:
    with pytest.raises(MethodError, match=text):
        make_method(name, options)
