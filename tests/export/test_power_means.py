"""Power means: the target is what they pool, and not its power."""

from __future__ import annotations

import numpy as np
import pytest

import camrt
from helpers.oracles.ablation import ablation_cam
from helpers.tolerances import assert_close
from helpers.zoo import Net, classifier, save


def power_mean(net, kind):
    """Pooling by (mean of x^p)^(1/p) or its like, of "A": the last tensor, and what it is in float64."""
    if kind == "log-sum-exp":
        raised = net.add("Exp", net.add("Mul", "A", net.constant(0.5)))
        pooled = net.add("Log", net.add("GlobalAveragePool", raised))
        return pooled, lambda A: np.log(np.exp(0.5 * A).mean(axis=(2, 3), keepdims=True))
    if kind == "root-mean-square":
        pooled = net.add("Sqrt", net.add("GlobalAveragePool", net.add("Mul", "A", "A")))
        return pooled, lambda A: np.sqrt((A**2).mean(axis=(2, 3), keepdims=True))
    bounded = net.add("Clip", "A", net.constant(1e-3))
    raised = net.add("Pow", bounded, net.constant([3.0]))
    pooled = net.add("Pow", net.add("GlobalAveragePool", raised), net.constant([1 / 3]))
    return pooled, lambda A: np.cbrt((np.maximum(A, 1e-3) ** 3).mean(axis=(2, 3), keepdims=True))


@pytest.mark.parametrize("kind", ["generalised-mean", "log-sum-exp", "root-mean-square"])
def test_the_target_before_a_power_mean_is_what_it_pools(kind, tmp_path):
    rng = np.random.default_rng(21)
    net = Net(rng)
    pooled, pooled64 = power_mean(net, kind)
    last, linear = net.gemm(net.add("Flatten", pooled), 6, 4)

    def logits64(A):
        return linear(pooled64(A)[:, :, 0, 0])

    whole = classifier(net.part(last, logits64, (6, 4, 3), 4), rng)
    engine = camrt.load(save(whole.model, tmp_path / "model.onnx"))
    assert engine.target.name == "A"
    assert engine.head.kind == "generic"  # a root magnifies what is left when sums are taken apart
    some = np.random.default_rng(22).standard_normal((2, *whole.size), np.float32)
    found = engine.explain(some, "ablation", targets=1, score="logit", size="map")
    for raw, activation in zip(found.raw, whole.activations64(some), strict=True):
        expected = ablation_cam(lambda at: logits64(at[None])[0], activation, 1)
        assert_close(raw, expected, np.float32, factor=64)  # differences of scores, divided by one
    # a box with all that a channel has, taken out: nothing is negative, or far from the bound
    whole_map = engine.explain(some, "pixab", targets=1, boxes=((4, 3),), size="map")
    assert np.isfinite(whole_map.raw).all()


def test_a_power_that_nothing_undoes_is_the_target(tmp_path):
    rng = np.random.default_rng(21)
    net = Net(rng)
    last, linear = net.gemm(net.pooled(net.add("Pow", "A", net.constant([3.0]), name="cubes")), 6, 4)
    part = net.part(last, lambda A: linear((A**3).mean(axis=(2, 3))), (6, 4, 3), 4)
    engine = camrt.load(save(classifier(part, rng).model, tmp_path / "model.onnx"))
    assert engine.target.name == "cubes"
