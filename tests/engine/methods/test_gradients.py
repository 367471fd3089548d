from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

import camrt
from camrt.engine.methods import make_method
from camrt.engine.methods.gradients import GradCAM, GradCAMPlusPlus, HiResCAM, LayerCAM, XGradCAM
from camrt.errors import DegenerateMapWarning, MethodError
from camrt.kernels.saliency import MapFlag
from helpers.oracles.classifiers import HEADS, classifier, pooled_linear
from helpers.oracles.gradients import METHODS, numeric_gradient
from helpers.tolerances import assert_close

EngineOf = Callable[..., camrt.Engine]
# Central differences of step 1e-5 in float64 are good to about 1e-9 of the score, far inside float32.
A = np.array([[[1, 0], [2, 0]], [[1, 0], [1, 3]]], np.float32)
G = np.array([[[1, 2], [0, 0]], [[3, -1], [0, 0]]], np.float32)


@pytest.mark.parametrize("score", ["logit", "probability"])
@pytest.mark.parametrize("ending", [None, "softmax", "sigmoid"], ids=["logits", "softmax", "sigmoid"])
@pytest.mark.parametrize("head", HEADS)
def test_against_the_oracle(engine_of: EngineOf, head: str, ending: str | None, score: str) -> None:
    small = classifier(head, cells=(3, 5), ending=ending, scale=0.5, trunk="convolve")
    images = np.random.default_rng(7).normal(size=(3, *small.image)).astype(np.float32)
    engine = engine_of(small)
    targets = np.array([[0, 3], [1, 2], [3, 1]])
    scores = small.scores(score)
    gradients = [
        [numeric_gradient(lambda a, c=c: scores(a)[c], small.activation(x)) for c in row]
        for x, row in zip(images, targets, strict=True)
    ]
    for name, oracle in METHODS.items():
        found = engine.explain(images, name, targets=targets, score=score)
        expected = [
            [oracle(gradient, small.activation(x)) for gradient in row]
            for x, row in zip(images, gradients, strict=True)
        ]
        assert_close(found.raw, expected, factor=8)  # convolutions, two or three layers there and back
        assert_close(
            found.scores, [scores(small.activation(x))[row] for x, row in zip(images, targets, strict=True)]
        )


@pytest.mark.parametrize("head", HEADS)
def test_several_targets_are_one_by_one(engine_of: EngineOf, head: str) -> None:
    small = classifier(head, trunk="convolve")
    images = np.random.default_rng(8).normal(size=(3, *small.image)).astype(np.float32)
    engine = engine_of(small, batch_size=2)
    together = engine.explain(images, "gradcam++", targets=[[0, 1, 2]] * 3)
    for t in range(3):
        assert np.array_equal(engine.explain(images, "gradcam++", targets=t).raw, together.raw[:, t])
    algebra = head in ("pooled-linear", "flattened-linear")
    assert together.passes.head_adjoint == (0 if algebra else 9)


@pytest.mark.parametrize("head", HEADS)
def test_per_image_that_overflows_spoils_no_other(engine_of: EngineOf, head: str) -> None:
    small = classifier(head, trunk="convolve")
    images = np.random.default_rng(12).normal(size=(3, *small.image)).astype(np.float32)
    engine = engine_of(small)
    alone = {name: engine.explain(images, name, targets=[[0, 1]] * 3) for name in METHODS}
    images[1] = np.sign(images[1]) * np.float32(3e38)
    for name in METHODS:
        with pytest.warns(DegenerateMapWarning, match="2 of 6 maps were not finite"):
            found = engine.explain(images, name, targets=[[0, 1]] * 3)
        assert (found.flags[1] == MapFlag.NOT_FINITE).all()
        assert not found.maps[1].any()
        assert_close(found.raw[[0, 2]], alone[name].raw[[0, 2]])


def test_vectors_of_the_specification(engine_of: EngineOf) -> None:
    """The head reads the upper row only: HiResCAM and LayerCAM are exactly zero below, the others are not."""
    per_cell = G[None].astype(np.float64)
    small = pooled_linear(np.zeros(0), np.zeros(1), (2, 2), per_cell=per_cell)
    engine = engine_of(small)
    expected = {
        "gradcam": [[1.25, 0], [2, 1.5]],
        "xgradcam": [[14 / 15, 0], [19 / 15, 1.8]],
        "gradcam++": [[0.45 + 3 / 17, 0], [0.9 + 3 / 17, 9 / 17]],
        "hirescam": [[4, 0], [0, 0]],
        "layercam": [[4, 0], [0, 0]],
    }
    for name, map_ in expected.items():
        found = engine.explain(A[None], name, targets=0, size="map")
        assert_close(found.scores, [4])
        assert_close(np.maximum(found.raw, 0), [map_])
    for name in ("hirescam", "layercam"):
        assert not engine.explain(A[None], name, targets=0, size="map").raw[0, 1].any()


def test_powers_of_small_gradients_do_not_vanish() -> None:
    tiny = GradCAMPlusPlus().map(G[None] * np.float32(1e-30), A[None])
    # S·G is nothing beside 2: every positive gradient counts by half.
    assert_close(tiny, np.tensordot([1.5e-30, 1.5e-30], A, 1)[None])


def test_a_denominator_of_zero_gives_no_weight() -> None:
    activation = np.full((1, 1, 1, 2), -1.0, np.float32)  # S = −2
    gradient = np.array([[[[1.0, 2.0]]]], np.float32)  # 2 + S·G is 0 and −2
    assert_close(GradCAMPlusPlus().map(gradient, activation), [[[1.0, 1.0]]])
    authors = GradCAMPlusPlus(normalise_alpha=True).map(gradient, activation)
    assert_close(authors, [[[-(1 / 0.5 * 1 - 0.5 / 0.5 * 2)] * 2]])
    # S = −1: shares 1 and −1, whose sum of zero the authors' code takes for one; α = 1·1 − 1·3
    cancelling = np.array([[[[1.0, 3.0]]]], np.float32)
    authors = GradCAMPlusPlus(normalise_alpha=True).map(cancelling, activation / 2)
    assert_close(authors, [[[1.0, 1.0]]])


def test_normalised_alpha() -> None:
    """Weights Σ relu(G)·w/Σw over the places whose gradient is positive."""
    g, a = G.astype(np.float64), A.astype(np.float64)
    shares = np.where(g != 0, 1.0 / (2.0 + a.sum((1, 2))[:, None, None] * g), 0)
    shares /= np.where(g > 0, shares, 0).sum((1, 2), keepdims=True)
    expected = np.tensordot((shares * np.maximum(g, 0)).sum((1, 2)), a, 1)
    assert_close(GradCAMPlusPlus(normalise_alpha=True).map(G[None], A[None]), expected[None], factor=2)


@pytest.mark.parametrize("method", [GradCAM, GradCAMPlusPlus, XGradCAM, HiResCAM, LayerCAM])
@pytest.mark.parametrize("options", [{}, {"normalise_alpha": True}, {"definition": "grad-cam"}], ids=str)
def test_a_repeated_gradient_is_a_gradient(method: type, options: dict[str, object]) -> None:
    """The shorter way for a gradient that is one number a channel."""
    if options and method is not GradCAMPlusPlus:
        return
    rng = np.random.default_rng(0)
    activation = np.maximum(rng.standard_normal((3, 4, 5, 2), np.float32), 0)
    activation[0, 1] = 0
    row = rng.standard_normal((3, 4), np.float32)
    repeated = np.broadcast_to(row[:, :, None, None], activation.shape)
    made = method(**options)
    assert_close(made.map(repeated, activation), made.map(repeated.copy(), activation), factor=4)


def test_a_channel_without_activation_has_no_weight() -> None:
    activation = np.zeros((1, 2, 2, 2), np.float32)
    activation[0, 0] = 1
    gradient = np.ones((1, 2, 2, 2), np.float32)
    assert_close(XGradCAM().map(gradient, activation), np.ones((1, 2, 2)))


def test_pooled_linear_heads_make_the_family_one_map(engine_of: EngineOf) -> None:
    small = classifier("pooled-linear", cells=(4, 3), trunk="convolve")
    images = np.random.default_rng(9).normal(size=(4, *small.image)).astype(np.float32)
    engine = engine_of(small)
    assert (engine.explain(images, "activation").raw > 0).any()
    cam = engine.explain(images, "cam", targets=1).raw - small.bias[1].astype(np.float32)
    for name in ("gradcam", "hirescam"):
        assert_close(engine.explain(images, name, targets=1).raw, cam / 12, factor=4)
    alive = [(small.activation(x).sum(axis=(1, 2)) > 0).all() for x in images]
    assert any(alive)
    found = engine.explain(images, "xgradcam", targets=1).raw
    assert_close(found[alive], cam[alive] / 12, factor=4)
    # through the softmax the weights change together with those of the other classes, the family stays one
    maps = [
        engine.explain(images, name, targets=1, score="probability").raw for name in ("gradcam", "hirescam")
    ]
    assert_close(maps[0], maps[1], factor=4)


@pytest.mark.parametrize("head", ["pooled-network", "flattened-network", "generic"])
def test_completeness(engine_of: EngineOf, head: str) -> None:
    """Behind a piecewise linear network without biases Σ HiResCAM = Σ_k α_k·S_k of XGrad-CAM = logit."""
    small = classifier(head, cells=(3, 4), trunk="keep")
    for tensor in small.model.graph.initializer:
        if "bias" in tensor.name:
            tensor.raw_data = bytes(len(tensor.raw_data))
    images = np.abs(np.random.default_rng(10).normal(size=(3, *small.image))).astype(np.float32)
    engine = engine_of(small)
    for name in ("hirescam", "xgradcam"):
        found = engine.explain(images, name, targets=[[0, 1, 2, 3]] * 3)
        assert_close(found.raw.sum(axis=(2, 3)), found.scores, factor=8)


def test_grad_cam_does_not_know_the_scale_of_the_logits(engine_of: EngineOf) -> None:
    maps = []
    for scale in (1.0, 8.0):
        small = classifier("pooled-linear", scale=scale, trunk="convolve", seed=3)
        images = np.random.default_rng(11).normal(size=(2, *small.image)).astype(np.float32)
        maps.append(engine_of(small).explain(images, "gradcam", targets=2).maps)
    assert_close(maps[1], maps[0], factor=2)


def test_wrong_options_are_refused() -> None:
    with pytest.raises(MethodError, match="score='logits' is not understood"):
        make_method("gradcam", {"score": "logits"})
    with pytest.raises(MethodError, match="normalise_alpha='yes' must be True or False"):
        make_method("grad-cam++", {"normalise_alpha": "yes"})
    assert type(make_method("Grad-CAM++", {})) is GradCAMPlusPlus
    assert type(make_method("xGrad_CAM", {})) is XGradCAM


def test_describe_names_the_adjoint(engine_of: EngineOf) -> None:
    text = engine_of(classifier("generic")).describe()
    line = next(line for line in text.splitlines() if line.split()[:1] == ["hirescam"])
    assert line.split()[:5] == ["hirescam", "0", "0", "1", "0"]
    assert "adjoint" in line
    linear = engine_of(classifier("pooled-linear")).describe()
    line = next(line for line in linear.splitlines() if line.split()[:1] == ["gradcam"])
    assert line.split()[:5] == ["gradcam", "0", "0", "0", "0"]
    assert "its weight" in line
