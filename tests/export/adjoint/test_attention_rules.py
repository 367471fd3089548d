"""Attention in one operator, against the products and the softmax it stands for."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from camrt.errors import AdjointError  # noqa: E402
from helpers.adjoint_cases import AdjointCase, build_adjoint_of, check_adjoint, node  # noqa: E402

SHAPE = (6, 2, 5)  # six tokens of ten numbers


def weight(*shape):
    return (np.random.default_rng(shape).standard_normal(shape) / 3).astype(np.float32)


def double(values):
    return torch.from_numpy(values.astype(np.float64))


def projected(keys):
    """Queries (N, 6, 8), and keys and values (N, 6, keys), as the file makes them and as torch does."""
    weights = {
        "form": np.array([0, 6, 10]),
        "wq": weight(10, 8),
        "wk": weight(10, keys),
        "wv": weight(2, 10, keys)[0],
    }
    nodes = [node("Reshape", "x form", "t"), *(node("MatMul", f"t w{n}", n) for n in "qkv")]

    def made(x):
        tokens = x.reshape(len(x), 6, 10)
        return [tokens @ double(weights[f"w{n}"]) for n in "qkv"]

    return nodes, weights, made


def attend(q, k, v, heads, shared, *, scale=None, mask=None, cap=0.0):
    q, k, v = (
        part.reshape(len(part), 6, count, -1).transpose(1, 2)
        for part, count in ((q, heads), (k, shared), (v, shared))
    )
    k, v = (part.repeat_interleave(heads // shared, 1) for part in (k, v))
    scores = q @ k.mT * (scale or q.shape[-1] ** -0.5)
    if cap:
        scores = cap * torch.tanh(scores / cap)
    if mask is not None:
        scores = scores + mask
    return (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)


CAUSAL = torch.triu(torch.full((6, 6), -torch.inf, dtype=torch.double), 1)
BAND = np.abs(np.subtract.outer(range(6), range(6))) < 3
CASES = {
    "plain": ({}, {}, 8, None),
    "scaled": ({"scale": 0.7}, {"scale": 0.7}, 8, None),
    "heads that share keys": ({"kv_num_heads": 1}, {"shared": 1}, 4, None),
    "causal": ({"is_causal": 1}, {"mask": CAUSAL}, 8, None),
    "added mask": ({}, {"mask": double(weight(6, 6))}, 8, weight(6, 6)),
    "true and false": ({}, {"mask": torch.where(torch.from_numpy(BAND), 0.0, -torch.inf).double()}, 8, BAND),
    "capped": ({"softcap": 1.5}, {"cap": 1.5}, 8, None),
}


@pytest.mark.parametrize("name", CASES)
def test_attention(name):
    attributes, options, keys, mask = CASES[name]
    nodes, weights, made = projected(keys)
    inputs = "q k v" if mask is None else "q k v m"
    if mask is not None:
        weights["m"] = mask
    counts = {"q_num_heads": 2, "kv_num_heads": 2, **attributes}
    nodes = [*nodes, node("Attention", inputs, "y", **counts)]
    options = {"shared": 2, **options}

    def function(x):
        return attend(*made(x), 2, **options)

    check_adjoint(AdjointCase(nodes, function, SHAPE, weights, 23), double=False, factor=32)


def test_attention_of_heads_apart_and_of_a_mask_made_from_the_image():
    nodes, weights, made = projected(8)
    apart = [node("Reshape", f"{n} heads", f"{n}h") for n in "qkv"]
    turned = [node("Transpose", f"{n}h", f"{n}t", perm=[0, 2, 1, 3]) for n in "qkv"]
    bias = [node("MatMul", "t wm", "b"), node("Unsqueeze", "b one", "m")]
    weights |= {"heads": np.array([0, 0, 2, 4]), "wm": weight(10, 6), "one": np.array([1])}
    nodes = [*nodes, *apart, *turned, *bias, node("Attention", "qt kt vt m", "a"),
             node("Transpose", "a", "y", perm=[0, 2, 1, 3])]  # fmt: skip

    def function(x):
        mask = (x.reshape(len(x), 6, 10) @ double(weights["wm"]))[:, None]
        return attend(*made(x), 2, 2, mask=mask)

    check_adjoint(AdjointCase(nodes, function, SHAPE, weights, 23), double=False, factor=32)


def test_attention_to_earlier_steps_is_refused():
    nodes, weights, made = projected(8)
    weights["past"] = np.zeros((5, 2, 3, 4), np.float32)
    attention = node("Attention", "q k v _ past past", "y p r", q_num_heads=2, kv_num_heads=2)
    case = AdjointCase([*nodes, attention], lambda x: attend(*made(x), 2, 2), SHAPE, weights, 23)
    with pytest.raises(AdjointError, match="earlier steps"):
        build_adjoint_of(case, double=False)


def test_places_told_by_turning_pairs():
    angles = np.random.default_rng(0).random((6, 2)).astype(np.float32)
    weights = {"form": np.array([0, 6, 2, 4]), "c": np.cos(angles), "s": np.sin(angles),
               "p": np.arange(6)[None].repeat(1, 0)}  # fmt: skip
    nodes = [
        node("Reshape", "x form", "t"), node("Transpose", "t", "h", perm=[0, 2, 1, 3]),
        node("Shape", "x", "n"), node("Slice", "n zero one", "b"), node("Concat", "b six", "many", axis=0),
        node("Expand", "p many", "places"), node("RotaryEmbedding", "h c s places", "y"),
    ]  # fmt: skip
    weights |= {"zero": np.array([0]), "one": np.array([1]), "six": np.array([6])}

    def function(x):
        first, second = x.reshape(len(x), 6, 2, 4).transpose(1, 2).chunk(2, -1)
        c, s = double(weights["c"]), double(weights["s"])
        return torch.cat([first * c - second * s, second * c + first * s], -1)

    check_adjoint(AdjointCase(nodes, function, (6, 4, 2), weights, 23), double=False)
