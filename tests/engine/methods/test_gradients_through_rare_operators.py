"""Files explained by gradients through operators that few classifiers have, against torch in float64."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import torch.nn.functional as F  # noqa: E402, N812

import camrt  # noqa: E402
from helpers.adjoint_cases import AdjointCase, node  # noqa: E402
from helpers.tolerances import assert_close  # noqa: E402

SHAPE = (3, 6, 5)
RNG = np.random.default_rng(0)
W = (RNG.standard_normal((4, 3, 3, 3)) / 3).astype(np.float32)
KC = RNG.standard_normal((3, 5)).astype(np.float32)
GATES = {name: (RNG.standard_normal(shape) / 2).astype(np.float32)
         for name, shape in {"wi": (2, 16, 3), "wh": (2, 16, 4), "wb": (2, 32)}.items()}  # fmt: skip


def double(values):
    return torch.from_numpy(np.asarray(values, np.float64))


def caffe(x):
    """A padded strided pooling behind a padded convolution, as converters of the time wrote it."""
    x = F.pad(F.relu(F.conv2d(x, double(W), padding=1)), (1, 1, 1, 0), mode="replicate")
    return F.max_pool2d(x, 3, 2).mean((2, 3))


def both_ways(x):
    """An LSTM over the columns of a map, and the mean of its answers."""
    layer = torch.nn.LSTM(3, 4, bidirectional=True).double()
    with torch.no_grad():
        for way, suffix in enumerate(("", "_reverse")):
            bias = GATES["wb"][way]
            parts = {"weight_ih": GATES["wi"][way], "weight_hh": GATES["wh"][way],
                     "bias_ih": bias[:16], "bias_hh": bias[16:]}  # fmt: skip
            for name, values in parts.items():
                i, o, f, c = double(values).chunk(4)
                getattr(layer, f"{name}_l0{suffix}").copy_(torch.cat([i, f, c, o]))
    return layer(x.mean(2).permute(2, 0, 1))[0].mean(0)


def places(x):
    return torch.tanh(x[:, :2] * 1.5).permute(0, 2, 3, 1)


def deviation(x):
    return x.std((2, 3), unbiased=False) @ double(KC)


def attended(x):
    tokens = x.flatten(2).transpose(1, 2)
    return ((tokens @ tokens.mT * 3**-0.5).softmax(-1) @ tokens).mean(1) @ double(KC)


HEADS = {
    "operator set 9": (
        [node("Conv", "a w", "c", pads=[1, 1, 1, 1]), node("Relu", "c", "r"),
                node("Pad", "r", "p", pads=[0, 0, 1, 1, 0, 0, 0, 1], mode="edge"),
                node("MaxPool", "p", "m", kernel_shape=[3, 3], strides=[2, 2]),
                node("GlobalAveragePool", "m", "y")],
        caffe, {"w": W}, 9,
    ),
    "largest numbers": (
        [node("Reshape", "a rows", "f"), node("TopK", "f k", "t i", axis=2),
            node("ReduceMean", "t", "m", axes=[2],
                keepdims=0), node("MatMul", "m kc", "y")],
        lambda a: a.flatten(2).topk(4).values.mean(2) @ double(KC),
        {"rows": np.array([0, 3, -1]), "k": np.array([4]), "kc": KC}, 17,
    ),
    "recurrent": (
        [node("ReduceMean", "a", "m", axes=[2], keepdims=0), node("Transpose", "m", "s", perm=[2, 0, 1]),
                node("LSTM", "s wi wh wb", "h", hidden_size=4, direction="bidirectional"),
                node("ReduceMean", "h", "l", axes=[0], keepdims=0),
                node("Transpose", "l", "y", perm=[1, 0, 2])],
        both_ways, GATES, 17,
    ),
    "sampled": (
        [node("Slice", "a zero two one", "p"), node("Mul", "p far", "q"), node("Tanh", "q", "o"),
                node("Transpose", "o", "g", perm=[0, 2, 3, 1]),
                node("GridSample", "a g", "s", align_corners=1),
                node("Mul", "s s", "z"), node("GlobalAveragePool", "z", "y")],
        lambda a: (F.grid_sample(a, places(a), align_corners=True) ** 2).mean((2, 3)),
        {"zero": np.array([0]), "one": np.array([1]), "two": np.array([2]),
            "far": np.array(1.5, np.float32)}, 17,
    ),
    "deviation": (
        [node("ReduceMean", "a", "m", axes=[2, 3]), node("Sub", "a m", "d"), node("Mul", "d d", "q"),
                node("ReduceMean", "q", "v", axes=[2, 3], keepdims=0), node("Sqrt", "v", "s"),
                node("MatMul", "s kc", "y")],
        deviation, {"kc": KC}, 17,
    ),
    "attention": (
        [node("Reshape", "a rows", "f"), node("Transpose", "f", "t", perm=[0, 2, 1]),
                node("Attention", "t t t", "u", q_num_heads=1, kv_num_heads=1),
                node("ReduceMean", "u axis", "m", keepdims=0), node("MatMul", "m kc", "y")],
        attended, {"rows": np.array([0, 3, -1]), "axis": np.array([1]), "kc": KC}, 23,
    ),
    "letters": (
        [node("Tanh", "a", "t"), node("Einsum", "t kc", "y", equation="nkhw,kc->nc")],
        lambda a: torch.einsum("nkhw,kc->nc", torch.tanh(a), double(KC)), {"kc": KC}, 17,
    ),
    "norms": (
        [node("LpPool", "a", "l", kernel_shape=[2, 2], strides=[2, 2]), node("GlobalLpPool", "l", "y", p=3)],
        lambda a: torch.linalg.vector_norm(F.lp_pool2d(a.abs(), 2.0, 2, 2), 3, dim=(2, 3)), {}, 17,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", HEADS)
def test_a_head(name, tmp_path):
    nodes, function, weights, opset = HEADS[name]
    before = [node("Mul", "x live", "alive"), node("Tanh", "alive", "a")]
    live = np.array([1, 1, 0 if name == "deviation" else 1], np.float32).reshape(1, 3, 1, 1)  # a dead channel
    case = AdjointCase(
        [*before, *nodes], lambda x: function(torch.tanh(x)), SHAPE, {**weights, "live": live}, opset
    )
    path = tmp_path / "model.onnx"
    path.write_bytes(case.model().SerializeToString())
    engine = camrt.load(path, target="a")
    images = case.images(3)
    x = torch.from_numpy(images).requires_grad_()
    a = torch.tanh(x * double(live))
    a.retain_grad()
    function(a).flatten(1)[:, 1].sum().backward()
    batch = images.astype(np.float32)
    # the head there and back in float32, places of samples in cells among them
    expected = (a * a.grad).sum(1).detach().numpy()
    found = engine.explain(batch, "hirescam", targets=1, size="map").raw
    assert_close(found, expected, np.float32, factor=64)
    found = engine.explain(batch, "gradient", targets=1, blur=1, score="logit").raw
    assert_close(found, x.grad.abs().amax(1).numpy(), np.float32, factor=64)


def test_images_of_any_size(tmp_path):
    """A map stretched to a size that the graph computes from another's, H and W open."""
    nodes = [
        node("Tanh", "x", "t"), node("MaxPool", "t", "a", kernel_shape=[2, 2], strides=[2, 2]),
        node("Shape", "t", "whole"), node("Resize", "a _ _ whole", "r", mode="linear"),
        node("Mul", "r t", "z"),
        node("GlobalAveragePool", "z", "y"),
    ]  # fmt: skip

    def function(x):
        t = torch.tanh(x)
        return (F.interpolate(F.max_pool2d(t, 2), size=t.shape[2:], mode="bilinear") * t).mean((2, 3))

    case = AdjointCase(nodes, function, (3, 16, 12), open_size=True)
    path = tmp_path / "model.onnx"
    path.write_bytes(case.model().SerializeToString())
    engine = camrt.load(path, target="t")
    for size in ((16, 12), (9, 14)):
        x = np.random.default_rng(2).standard_normal((2, 3, *size)).astype(np.float32)
        given = double(x).requires_grad_()
        function(given)[:, 2].sum().backward()
        found = engine.explain(x, "gradient", targets=2, blur=1, score="logit").raw
        assert_close(found, given.grad.abs().amax(1).numpy(), np.float32, factor=16)
