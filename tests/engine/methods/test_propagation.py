"""DeepLIFT and LRP: against a slow one on many heads, by what they add up to, and against captum."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import camrt
from camrt.engine.methods import make_method
from camrt.errors import AdjointError, MethodError
from helpers import zoo
from helpers.oracles.propagation import NodeByNode
from helpers.tolerances import assert_close

RULES = ("epsilon", "z+", "composite")
EXACT = {"blur": 1}
# Every kind of layer, gate, sum and pooling of the zoo, of which the slow one knows the operators.
CHECKED = (
    "gap-flatten-gemm", "channels-last-mean-matmul", "depthwise-after-the-pool", "reduce-sum",
    "batch-norm-between-pool-and-gemm", "affine-chain", "difference-of-two-gemms", "clip-before-the-pool",
    "batch-norm-relu-before-the-pool", "relu-before-flatten", "squeezenet-padded", "network-in-network",
    "batch-norm-convolution-relu", "class-maps-padded", "gates", "gate-of-one-channel",
    "concatenated-branches", "gemm-hard-swish-gemm", "gemm-batch-norm-relu-gemm",
    "convolutions-after-the-pool", "flatten-gemm", "cells-before-channels-gemm-relu-gemm",
    "convolution-of-the-whole-map-relu-convolution", "convolution-3x3-behind-the-cut",
    "squeeze-and-excite-behind-the-cut", "global-max-pool", "mean-and-max", "two-means-relu-added",
    "two-means-tanh-beside",
)  # fmt: skip
SIZE = (3, 2, 3)
# What has no rule, by head: the operator.
NO_DEEPLIFT = {"a-choice-before-the-pool": "Where"}
NO_LRP = {
    "a-choice-before-the-pool": "Where",
    "softmax-over-channels": "Softmax",
    "softmax-over-channels-and-cells": "Softmax",
    **{f"two-means-square-{end}": "Mul" for end in ("added", "beside", "two-layers", "gated")},
}


def make(head: str, size: tuple[int, int, int] = SIZE) -> zoo.Classifier:
    part = zoo.HEADS[head].make(np.random.default_rng(4), *size, 3)
    return zoo.classifier(part, np.random.default_rng(5), batch=1)


def load(model: onnx.ModelProto, folder: Path, **options: Any) -> camrt.Engine:
    return camrt.load(zoo.save(model, folder / "model.onnx"), threads=1, verify=False, cache=False, **options)


def images_for(whole: zoo.Classifier, count: int = 2, seed: int = 7) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, *whole.size)).astype(np.float32)


@pytest.mark.parametrize("head", CHECKED)
def test_against_the_slow_one(head: str, tmp_path: Path) -> None:
    whole = make(head)
    images, reference = images_for(whole), images_for(whole, 1, seed=8)
    engine, slow = load(whole.model, tmp_path), NodeByNode(whole.model)
    targets = [[0, 2]] * 2
    for rule in RULES:
        found = engine.explain(images, "lrp", rule=rule, targets=targets, **EXACT)
        wanted = [[slow.relevance(x, c, rule).sum(axis=0) for c in (0, 2)] for x in images]
        # an answer near zero that relevance is divided by magnifies rounding
        assert_close(found.raw, wanted, factor=400)
    found = engine.explain(images, "deeplift", references=reference, targets=targets, **EXACT)
    wanted = [
        [((x - reference[0]) * slow.multipliers(x, reference[0], c)).sum(axis=0) for c in (0, 2)]
        for x in images
    ]
    assert_close(found.raw, wanted, factor=40)
    assert found.passes.full_adjoint == 4


@pytest.mark.parametrize("head", sorted(zoo.HEADS))
def test_deeplift_is_complete_and_lrp_runs_on_every_head_or_says_why_not(head: str, tmp_path: Path) -> None:
    whole = make(head, (4, 3, 4))
    images, references = images_for(whole), images_for(whole, 2, seed=8)
    engine = load(whole.model, tmp_path, batch_size=3)
    targets = [[0, 1][: engine.num_classes]] * 2
    if head in NO_DEEPLIFT:
        with pytest.raises(AdjointError, match=f"DeepLIFT has no rule for {NO_DEEPLIFT[head]}"):
            engine.explain(images, "deeplift")
    else:
        for given, start in ((None, 0 * images[:1]), (references, references)):
            found = engine.explain(images, "deeplift", references=given, targets=targets, **EXACT)
            wanted = whole.logits64(images) - whole.logits64(start).mean(axis=0)
            assert_close(found.raw.sum(axis=(2, 3)), wanted[:, : len(targets[0])], factor=16)
    if head in NO_LRP:
        with pytest.raises(AdjointError, match=f"LRP has no rule for {NO_LRP[head]}"):
            engine.explain(images, "lrp")
        return
    for rule in RULES:
        assert np.isfinite(engine.explain(images, "lrp", rule=rule).raw).all()


@pytest.mark.parametrize("rule", RULES)
def test_no_relevance_is_lost_without_biases(rule: str, tmp_path: Path) -> None:
    whole = make("squeezenet-without-bias", (4, 3, 4))
    model = onnx.ModelProto()
    model.CopyFrom(whole.model)
    for tensor in model.graph.initializer:
        if tensor.name == "trunk_bias":
            tensor.CopyFrom(onnx.numpy_helper.from_array(np.zeros(4, np.float32), "trunk_bias"))
    engine, images = load(model, tmp_path), images_for(whole)
    found = engine.explain(images, "lrp", rule=rule, targets=[[0, 1, 2]] * 2, **EXACT)
    assert_close(found.raw.sum(axis=(2, 3)), engine.predict(images), factor=16)


def test_the_strength_of_epsilon(tmp_path: Path) -> None:
    whole = make("convolution-3x3-behind-the-cut")
    engine, images = load(whole.model, tmp_path), images_for(whole, 1)
    slow = NodeByNode(whole.model)
    found = engine.explain(images, "lrp", epsilon=0.25, targets=1, **EXACT)
    assert_close(found.raw[0], slow.relevance(images[0], 1, "epsilon", 0.25).sum(axis=0), factor=40)
    assert_close(
        engine.explain(images, "lrp", epsilon=0.25, targets=1, colours="max", **EXACT).raw[0],
        np.abs(slow.relevance(images[0], 1, "epsilon", 0.25)).max(axis=0),
        factor=40,
    )


def test_an_image_that_is_its_own_reference_gets_nothing(tmp_path: Path) -> None:
    whole = make("gates")
    images = images_for(whole, 1)
    found = load(whole.model, tmp_path).explain(images, "deeplift", references=images, targets=1)
    assert not found.raw.any()
    assert found.flags[0] != 0


def test_what_they_do_not_explain_is_refused(tmp_path: Path) -> None:
    for name in ("deeplift", "lrp"):
        with pytest.raises(MethodError, match="it shares out logits, and no probabilities"):
            make_method(name, {"score": "probability"})
    with pytest.raises(MethodError, match="epsilon=0 must be a number > 0"):
        make_method("lrp", {"epsilon": 0})
    torch = pytest.importorskip("torch")
    from helpers.torch_nets import Modular, build_net, random_images

    module = camrt.load(build_net(Modular), size=(12, 16))
    for name in ("deeplift", "lrp"):
        with pytest.raises(MethodError, match=r"camrt\.to_onnx"):
            module.explain(torch.from_numpy(random_images()), name)


def test_a_contrast_is_shared_out_too(tmp_path: Path) -> None:
    whole = make("gates")
    engine, images = load(whole.model, tmp_path), images_for(whole)
    found = engine.explain(images, "deeplift", targets=0, contrast=2, **EXACT)
    change = whole.logits64(images) - whole.logits64(0 * images)
    assert_close(found.raw.sum(axis=(1, 2)), change[:, 0] - change[:, 2], factor=16)
    every = engine.explain(images, "lrp", targets=[[0, 2]] * 2, **EXACT).raw
    found = engine.explain(images, "lrp", targets=0, contrast=2, **EXACT)
    assert_close(found.raw, every[:, 0] - every[:, 1], factor=16)
