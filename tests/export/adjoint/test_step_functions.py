"""Step functions end the gradient on their own way; a rounding that quantises does not."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import torch.nn.functional as F  # noqa: E402, N812
from onnx import TensorProto  # noqa: E402

import camrt  # noqa: E402
from helpers.adjoint_cases import AdjointCase, away_from, check_adjoint, node, random_with_corners  # noqa: E402
from helpers.tolerances import assert_close  # noqa: E402

SHAPE = (3, 5, 4)


def double(values):
    return torch.from_numpy(np.asarray(values, np.float64))


def root_with_sign(x):
    some = x != 0
    return torch.where(some, torch.sign(x) * torch.where(some, x, 1.0).abs().sqrt(), 0.0)


STEPPED = {
    "signed root": (
        [node("Sign", "x", "s"), node("Abs", "x", "a"), node("Sqrt", "a", "r"), node("Mul", "s r", "y")],
        root_with_sign,
    ),
    "what is left": ([node("Floor", "x", "f"), node("Sub", "x f", "y")], lambda x: x - torch.floor(x)),
    "truth times number": (
        [node("Greater", "x half", "g"), node("Cast", "g", "m", to=1), node("Mul", "x m", "y")],
        lambda x: x * (x > 0.5),
    ),
    "a number of the largest": (
        [node("ArgMax", "x", "i", axis=1), node("Cast", "i", "m", to=1), node("Mul", "x m", "y")],
        lambda x: x * x.argmax(1, keepdim=True),
    ),
    "whole part": (
        [node("Cast", "x", "i", to=TensorProto.INT32), node("Cast", "i", "m", to=TensorProto.FLOAT),
         node("Mul", "x m", "y")],
        lambda x: x * torch.trunc(x),
    ),
    "largest of each": ([node("Hardmax", "x", "h", axis=1), node("Mul", "x h", "y")],
                        lambda x: x * F.one_hot(x.argmax(1), 3).permute(0, 3, 1, 2)),
    "straight through": (
        [node("Round", "x", "r"), node("Sub", "r x", "d"), node("Add", "x d", "y")],
        lambda x: x + (torch.round(x) - x).detach(),
    ),
    "straight through, turned": (
        [node("Sign", "x", "r"), node("Sub", "x r", "d"), node("Sub", "x d", "y")],
        lambda x: x - (x - torch.sign(x)).detach(),
    ),
    "no step": ([node("Tanh", "x", "r"), node("Sub", "r x", "d"), node("Add", "x d", "y")], torch.tanh),
}  # fmt: skip


@pytest.mark.parametrize("name", STEPPED)
def test_a_step_function_makes_its_own_term_zero(name):
    nodes, function = STEPPED[name]
    case = AdjointCase(
        nodes, function, SHAPE, {"half": np.array(0.5, np.float32)}, values=random_with_corners
    )
    check_adjoint(case, double=False)


QUANTISERS = {
    "by division": [node("Div", "x s", "d"), node("Round", "d", "r"), node("Clip", "r low high", "c"),
                    node("Mul", "c s", "y")],
    "with a zero point": [node("Mul", "x i", "m"), node("Add", "m z", "d"), node("Add", "d half", "e"),
                          node("Floor", "e", "r"), node("Clip", "r lower higher", "c"),
                          node("Sub", "c z", "b"),
                          node("Div", "b i", "y")],
}  # fmt: skip


@pytest.mark.parametrize("name", QUANTISERS)
def test_a_rounding_between_a_scaling_and_its_inverse_is_a_quantiser(name):
    each = (
        (np.array([0.1, 0.2, 0.4]) * np.ones((4, 5, 3))).T.astype(np.float32)
        if name == "by division"
        else 0.1
    )
    weights = {
        "s": np.float32(each),
        "i": np.float32(10),
        "z": np.float32(3),
        "half": np.float32(0.5),
        "low": np.float32(-4),
        "high": np.float32(4),
        "lower": np.float32(-1),
        "higher": np.float32(7),
    }
    scale = double(each)

    def function(x):
        kept = x.clamp(-4 * scale, 4 * scale)
        return kept + (torch.round((x / scale).clamp(-4, 4)) * scale - kept).detach()

    weights = {key: np.asarray(value) for key, value in weights.items()}
    check_adjoint(
        AdjointCase(QUANTISERS[name], function, SHAPE, weights, values=away_from(*np.arange(-2, 2, 0.05))),
        double=False,
    )


def loaded(nodes, weights, path):
    nodes[-1].output[0] = "z"
    case = AdjointCase(
        [*nodes, node("Tanh", "z", "t"), node("GlobalAveragePool", "t", "y")], None, SHAPE, weights
    )
    path.write_bytes(case.model().SerializeToString())
    return camrt.load(path, target="x_relu"), case.images(2)


def test_what_is_taken_for_the_identity_is_told(tmp_path):
    """A quantiser in arithmetic in a head: HiResCAM by the straight-through rule."""
    weights = {
        "s": np.array(0.5, np.float32),
        "low": np.array(-4, np.float32),
        "high": np.array(4, np.float32),
    }
    nodes = [node("Relu", "x", "x_relu"), node("Div", "x_relu s", "d"), node("Round", "d", "r"),
             node("Clip", "r low high", "c"), node("Mul", "c s", "y")]  # fmt: skip
    engine, images = loaded(nodes, weights, tmp_path / "m.onnx")
    assert any("identity (1: 'Round_r')" in note for note in engine.notes)
    assert "identity (1: 'Round_r')" in engine.describe()
    a = torch.from_numpy(images).relu().requires_grad_()
    kept = a.clamp(max=2.0)
    rounded = kept + ((torch.round(a / 0.5)).clamp(-4, 4) * 0.5 - kept).detach()
    torch.tanh(rounded).mean((2, 3))[:, 1].sum().backward()
    found = engine.explain(images.astype(np.float32), "hirescam", targets=1, size="map").raw
    assert_close(found, (a * a.grad).sum(1).detach().numpy(), np.float32, factor=8)


def test_a_signed_root_in_a_head(tmp_path):
    """Bilinear pooling's: the sign is a step function, and at zero nothing is infinite."""
    nodes = [node("Relu", "x", "x_relu"), node("Sign", "x_relu", "s"), node("Abs", "x_relu", "a"),
             node("Sqrt", "a", "r"), node("Mul", "s r", "y")]  # fmt: skip
    engine, images = loaded(nodes, {}, tmp_path / "m.onnx")
    assert not any("identity" in note for note in engine.notes)
    a = torch.from_numpy(images).relu().requires_grad_()
    some = a > 0
    root = torch.where(some, torch.where(some, a, 1.0).sqrt(), 0.0)
    torch.tanh(root).mean((2, 3))[:, 1].sum().backward()
    found = engine.explain(images.astype(np.float32), "gradcam", targets=1, size="map").raw
    expected = (a.grad.mean((2, 3), keepdim=True) * a).sum(1).detach().numpy()
    assert_close(found, expected, np.float32, factor=8)
