"""LIFT-CAM: against a slow DeepLIFT of the head alone, by what its weights add up to, and against captum."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import camrt
from camrt.engine.methods import make_method
from camrt.errors import AdjointError, MethodError
from helpers import zoo
from helpers.cut_heads import SIZE, make
from helpers.oracles.classifiers import HEADS, classifier
from helpers.oracles.propagation import NodeByNode
from helpers.peer_libraries import import_peer
from helpers.tolerances import assert_close

EngineOf = Callable[..., camrt.Engine]
NO_RULE = {"a-choice-before-the-pool": "Where"}
CHECKED = (
    "gap-flatten-gemm", "affine-chain", "clip-before-the-pool", "batch-norm-relu-before-the-pool",
    "relu-before-flatten", "squeezenet-padded", "class-maps-padded", "gates", "gemm-hard-swish-gemm",
    "flatten-gemm", "convolution-3x3-behind-the-cut", "squeeze-and-excite-behind-the-cut", "mean-and-max",
    "two-means-tanh-beside",
)  # fmt: skip


@pytest.mark.parametrize("head", CHECKED)
def test_against_the_slow_one(head: str, tmp_path: Path) -> None:
    part, engine, images = make(head, tmp_path)
    alone = zoo.model_of(part.nodes, part.initializers, [1, *SIZE], [1, part.classes], part.opset, source="A")
    slow, empty = NodeByNode(alone), np.zeros(SIZE)
    weights, activations = engine.channel_weights(images, "lift", targets=[[0, 2]] * 2)
    found = engine.explain(images, "lift", targets=[[0, 2]] * 2)
    for number, activation in enumerate(activations.astype(np.float64)):
        for place, c in enumerate((0, 2)):
            expected = (slow.multipliers(activation, empty, c) * activation).sum(axis=(1, 2))
            assert_close(weights[number, place], expected, factor=40)
            assert_close(found.raw[number, place], np.tensordot(expected, activation, 1), factor=40)


@pytest.mark.parametrize("head", sorted(zoo.HEADS))
def test_weights_add_up_to_what_the_activation_does(head: str, tmp_path: Path) -> None:
    part, engine, images = make(head, tmp_path)
    if head in NO_RULE:
        with pytest.raises(AdjointError, match=f"DeepLIFT has no rule for {NO_RULE[head]}"):
            engine.explain(images, "lift")
        return
    targets = [list(range(min(2, part.classes)))] * 2
    weights, activations = engine.channel_weights(images, "lift", targets=targets)
    logits, empty = (part.logits64(a.astype(np.float64)) for a in (activations, 0 * activations))
    expected = (logits - empty)[:, : len(targets[0])]
    scale = np.abs(logits).max()  # the sum is a difference of logits
    assert np.abs(weights.sum(axis=2) - expected).max() <= 1e-5 * scale


@pytest.mark.parametrize("head", ["pooled-linear", "flattened-linear"])
def test_behind_a_linear_layer_it_is_what_each_channel_adds(engine_of: EngineOf, head: str) -> None:
    small = classifier(head, channels=5, trunk="convolve")
    images = np.random.default_rng(3).normal(size=(3, *small.image)).astype(np.float32)
    engine = engine_of(small)
    weights, _ = engine.channel_weights(images, "lift", targets=[[0, 1]] * 3)
    falls, _ = engine.channel_weights(images, "ablation", targets=[[0, 1]] * 3)
    found = engine.explain(images, "lift", targets=[[0, 1]] * 3)
    assert_close(weights, falls * np.abs(found.scores)[:, :, None], factor=20)  # differences of logits
    assert found.passes.head_adjoint == 0


@pytest.mark.parametrize("head", HEADS)
def test_a_contrast_is_a_difference(engine_of: EngineOf, head: str) -> None:
    small = classifier(head, trunk="convolve")
    images = np.random.default_rng(3).normal(size=(2, *small.image)).astype(np.float32)
    engine = engine_of(small)
    plain = engine.explain(images, "lift", targets=[[0, 2]] * 2)
    found = engine.explain(images, "lift", targets=0, contrast=2)
    assert_close(found.raw, plain.raw[:, 0] - plain.raw[:, 1], factor=20)
    assert plain.passes.head_adjoint == (0 if head.endswith("linear") else 4)


@pytest.mark.peers
def test_deep_lift_of_captum_at_the_layer(tmp_path: Path) -> None:
    """As the authors' code takes it: captum's, of the part behind the layer."""
    attr = import_peer("captum.attr")
    import torch

    torch.manual_seed(1)
    head = torch.nn.Sequential(
        torch.nn.Conv2d(4, 6, 3, padding=1), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1),
        torch.nn.Flatten(), torch.nn.Linear(6, 5), torch.nn.ReLU(), torch.nn.Linear(5, 3),
    ).eval()  # fmt: skip
    trunk = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3, stride=2), torch.nn.ReLU()).eval()
    images = np.random.default_rng(1).normal(size=(3, 3, 11, 9)).astype(np.float32)
    module = torch.nn.Sequential(trunk, head).eval()
    activations = trunk(torch.from_numpy(images)).detach()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it says that it sets hooks, and that inputs will require gradients
        nothing = torch.zeros_like(activations)
        expected = attr.DeepLift(head).attribute(activations, nothing, target=[0, 2, 1])
    weights = expected.sum((2, 3)).detach().numpy()
    with pytest.raises(MethodError, match=r"write the module's file with camrt\.to_onnx"):
        camrt.load(module, target="0", size=(11, 9)).explain(images, "lift")
    pytest.importorskip("onnxscript")
    path = camrt.to_onnx(module, torch.from_numpy(images), tmp_path / "model.onnx")
    engine = camrt.load(path, threads=1)
    target = next(found.name for found in engine.targets() if found.operator == "Relu")
    engine = camrt.load(path, threads=1, target=target)
    found, _ = engine.channel_weights(images, "lift", targets=[0, 2, 1])
    assert_close(found, weights, factor=40)


def test_what_it_does_not_explain_is_refused() -> None:
    with pytest.raises(MethodError, match=r"lift: contrast='similar-weighted' .*; use 'similar'"):
        make_method("LIFT-CAM", {"contrast": "similar-weighted"})
    with pytest.raises(MethodError, match="lift has no option 'score'"):
        make_method("LIFT-CAM", {"score": "probability"})
