"""Recurrent layers: rows of a map read one after the other, against torch's own layers."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from camrt.errors import AdjointError  # noqa: E402
from helpers.adjoint_cases import AdjointCase, build_adjoint_of, check_adjoint, node  # noqa: E402

HIDDEN = 4
ORDER = {"LSTM": (0, 3, 1, 2), "GRU": (1, 0, 2), "RNN": (0,)}  # torch's gates in ONNX's order


def layer_of(kind, both, **options):
    """A layer of torch's in float64, and its weights as ONNX has them."""
    torch.manual_seed(0)
    layer = getattr(torch.nn, kind)(3, HIDDEN, bidirectional=both, **options).double()
    found = {"w": [], "r": [], "b": []}
    for suffix in ("", "_reverse")[: 1 + both]:

        def gates(name, suffix=suffix):
            parts = getattr(layer, f"{name}_l0{suffix}").detach().chunk(len(ORDER[kind]))
            return torch.cat([parts[gate] for gate in ORDER[kind]])

        found["w"].append(gates("weight_ih"))
        found["r"].append(gates("weight_hh"))
        found["b"].append(torch.cat([gates("bias_ih"), gates("bias_hh")]))
    for parameter in layer.parameters():
        parameter.requires_grad_(False)
    for parts in found.values():
        for part in parts:
            part.copy_(part.float().double())
    for parameter in layer.parameters():
        parameter.copy_(parameter.float().double())
    return layer, {name: torch.stack(parts).numpy().astype(np.float32) for name, parts in found.items()}


def rows(x):
    """(N, 3, h, w) -> (h·w, N, 3)."""
    return x.flatten(2).permute(2, 0, 1)


ROWS = [node("Reshape", "x form", "f"), node("Transpose", "f", "s", perm=[2, 0, 1])]
FLAT = {"form": np.array([0, 3, -1])}


def given(kind, both, **attributes):
    way = "bidirectional" if both else "forward"
    return {"hidden_size": HIDDEN, "direction": attributes.pop("direction", way), **attributes}


@pytest.mark.parametrize("both", [False, True], ids=["one way", "both ways"])
@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
def test_every_state(kind, both):
    layer, weights = layer_of(kind, both)
    more = {"linear_before_reset": 1} if kind == "GRU" else {}
    nodes = [
        *ROWS, node(kind, "s w r b", "h", **given(kind, both, **more)),
        node("Transpose", "h", "y", perm=[2, 0, 1, 3]),
    ]  # fmt: skip

    def function(x):
        states = layer(rows(x))[0]
        return states.unflatten(2, (1 + both, HIDDEN)).permute(1, 0, 2, 3)

    check_adjoint(AdjointCase(nodes, function, (3, 2, 3), {**weights, **FLAT}), double=False, factor=16)


@pytest.mark.parametrize("kind", ["LSTM", "GRU"])
def test_the_last_state_alone(kind):
    layer, weights = layer_of(kind, True)
    more = {"linear_before_reset": 1} if kind == "GRU" else {}
    made = "_ l c" if kind == "LSTM" else "_ l"
    nodes = [*ROWS, node(kind, "s w r b", made, **given(kind, True, **more))]
    nodes[-1].output[0] = ""
    if kind == "LSTM":
        nodes += [node("Mul", "l c", "m"), node("Transpose", "m", "y", perm=[1, 0, 2])]
    else:
        nodes += [node("Transpose", "l", "y", perm=[1, 0, 2])]

    def function(x):
        last = layer(rows(x))[1]
        last = last[0] * last[1] if kind == "LSTM" else last
        return last.permute(1, 0, 2)

    check_adjoint(AdjointCase(nodes, function, (3, 2, 3), {**weights, **FLAT}), double=False, factor=16)


def test_from_behind_and_without_a_bias():
    layer, weights = layer_of("LSTM", False, bias=True)
    for name in ("bias_ih_l0", "bias_hh_l0"):
        getattr(layer, name).zero_()
    del weights["b"]
    nodes = [
        *ROWS, node("LSTM", "s w r", "h l c", **given("LSTM", False, direction="reverse")),
        node("Squeeze", "h one", "q"), node("Transpose", "q", "y", perm=[1, 0, 2]),
    ]  # fmt: skip

    def function(x):
        return layer(rows(x).flip(0))[0].flip(0).transpose(0, 1)

    check_adjoint(
        AdjointCase(nodes, function, (3, 2, 3), {**weights, **FLAT, "one": np.array([1])}),
        double=False,
        factor=16,
    )


def test_a_reset_before_the_product():
    """ONNX's own default, which torch has not: n = tanh(x·W + (r·h)·R)."""
    rng = np.random.default_rng(1)
    weights = {"w": rng.standard_normal((1, 12, 3)), "r": rng.standard_normal((1, 12, 4)),
               "b": rng.standard_normal((1, 24))}  # fmt: skip
    weights = {name: (value / 2).astype(np.float32) for name, value in weights.items()}
    w, r, b = (torch.from_numpy(weights[name][0].astype(np.float64)) for name in "wrb")

    def function(x):
        h = torch.zeros(len(x), HIDDEN, dtype=torch.double)
        states = []
        for part in rows(x):
            inputs = part @ w.T + b[:12]
            z = torch.sigmoid(inputs[:, :4] + h @ r[:4].T + b[12:16])
            reset = torch.sigmoid(inputs[:, 4:8] + h @ r[4:8].T + b[16:20])
            n = torch.tanh(inputs[:, 8:] + (reset * h) @ r[8:].T + b[20:])
            h = (1 - z) * n + z * h
            states.append(h)
        return torch.stack(states, 1)

    nodes = [
        *ROWS, node("GRU", "s w r b", "h", **given("GRU", False)), node("Squeeze", "h one", "q"),
        node("Transpose", "q", "y", perm=[1, 0, 2]),
    ]  # fmt: skip
    check_adjoint(
        AdjointCase(nodes, function, (3, 2, 3), {**weights, **FLAT, "one": np.array([1])}),
        double=False,
        factor=16,
    )


def test_first_states_made_from_the_image():
    layer, weights = layer_of("LSTM", True)
    start = [
        node("ReduceMean", "x", "m", axes=[2, 3], keepdims=0), node("Concat", "m m m", "mm", axis=1),
        node("Slice", "mm zero eight one", "e"), node("Reshape", "e halves", "u"),
        node("Transpose", "u", "first", perm=[1, 0, 2]), node("Tanh", "first", "cell"),
    ]  # fmt: skip
    nodes = [
        *start, *ROWS, node("LSTM", "s w r b _ first cell", "h", **given("LSTM", True)),
        node("Transpose", "h", "y", perm=[2, 0, 1, 3]),
    ]  # fmt: skip
    numbers = {
        "zero": np.array([0]),
        "eight": np.array([8]),
        "one": np.array([1]),
        "halves": np.array([-1, 2, 4]),
    }

    def function(x):
        mean = x.mean((2, 3))
        first = torch.cat([mean, mean, mean], 1)[:, :8].reshape(-1, 2, 4).transpose(0, 1).contiguous()
        states = layer(rows(x), (first, torch.tanh(first)))[0]
        return states.unflatten(2, (2, HIDDEN)).permute(1, 0, 2, 3)

    check_adjoint(
        AdjointCase(nodes, function, (3, 2, 3), {**weights, **FLAT, **numbers}), double=False, factor=16
    )


@pytest.mark.parametrize(
    ("attributes", "text"),
    [({"clip": 1.0}, "with clip"), ({"activations": ["Relu", "Tanh", "Tanh"]}, "activations")],
)
def test_variants_are_refused(attributes, text):
    _, weights = layer_of("LSTM", False)
    nodes = [*ROWS, node("LSTM", "s w r b", "h", **given("LSTM", False), **attributes),
             node("Transpose", "h", "y", perm=[2, 0, 1, 3])]  # fmt: skip
    with pytest.raises(AdjointError, match=text):
        build_adjoint_of(AdjointCase(nodes, lambda x: rows(x), (3, 2, 3), {**weights, **FLAT}), double=False)
