"""Relevance-CAM against a slow LRP of the head alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from camrt.engine.methods import make_method
from camrt.errors import AdjointError, MethodError
from helpers import zoo
from helpers.cut_heads import SIZE, make
from helpers.oracles.propagation import NodeByNode
from helpers.tolerances import assert_close

CHECKED = (
    "gap-flatten-gemm", "affine-chain", "batch-norm-relu-before-the-pool", "squeezenet-padded",
    "gemm-hard-swish-gemm", "flatten-gemm", "convolution-3x3-behind-the-cut", "mean-and-max",
)  # fmt: skip
NO_RULE = {
    "a-choice-before-the-pool": "Where",
    "softmax-over-channels": "Softmax",
    "softmax-over-channels-and-cells": "Softmax",
    **{f"two-means-square-{end}": "Mul" for end in ("added", "beside", "two-layers", "gated")},
}


@pytest.mark.parametrize("head", CHECKED)
def test_against_the_slow_one(head: str, tmp_path: Path) -> None:
    """The rule is linear: relevance of a mixture of logits is the mixture of theirs."""
    part, engine, images = make(head, tmp_path)
    alone = zoo.model_of(part.nodes, part.initializers, [1, *SIZE], [1, 3], part.opset, source="A")
    slow = NodeByNode(alone)
    weights, activations = engine.channel_weights(images, "relevance", targets=[[0, 2]] * 2)
    for number, activation in enumerate(activations.astype(np.float64)):
        logits = part.logits64(activation[None])[0]
        of_one = [slow.relevance(activation, c, "z+").sum(axis=(1, 2)) / logits[c] for c in range(3)]
        for place, c in enumerate((0, 2)):
            others = sum(of_one[d] for d in range(3) if d != c)
            # an answer near zero that relevance is divided by magnifies rounding
            assert_close(weights[number, place], logits[c] * (of_one[c] - others / 3), factor=400)
    found = engine.explain(images, "relevance", targets=[[0, 2]] * 2)
    assert_close(found.raw, np.einsum("ntk,nkij->ntij", weights, activations), factor=8)
    assert found.passes.head_adjoint == 4


@pytest.mark.parametrize("head", sorted(zoo.HEADS))
def test_every_head_answers_or_says_why_not(head: str, tmp_path: Path) -> None:
    _, engine, images = make(head, tmp_path)
    if head in NO_RULE:
        with pytest.raises(AdjointError, match=f"LRP has no rule for {NO_RULE[head]}"):
            engine.channel_weights(images, "relevance")
        return
    weights, _ = engine.channel_weights(images, "relevance")
    assert np.isfinite(weights).all()


def test_contrasts_are_refused() -> None:
    with pytest.raises(MethodError, match="relevance: contrast=2 is not for it: it is held against all"):
        make_method("Relevance-CAM", {"contrast": 2})
