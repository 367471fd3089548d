"""Sampling at places, with the gradient for the map and for the places, against torch."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import torch.nn.functional as F  # noqa: E402, N812

from helpers.adjoint_cases import AdjointCase, check_adjoint, node  # noqa: E402

MODES = {"linear": "bilinear", "nearest": "nearest", "cubic": "bicubic"}
# From the image itself: two channels, squashed and stretched beyond the map's edges.
GRID = [
    node("Slice", "x zero two one", "p"), node("Tanh", "p", "t"), node("Mul", "t far", "m"),
    node("Add", "m off", "o"), node("Transpose", "o", "grid", perm=[0, 2, 3, 1]),
]  # fmt: skip
NUMBERS = {
    "zero": np.array([0]), "two": np.array([2]), "one": np.array([1]), "far": np.array(1.75, np.float32),
    "off": np.array([0.13, -0.21], np.float32).reshape(1, 2, 1, 1),
}  # fmt: skip


def grid(x):
    off = torch.from_numpy(NUMBERS["off"].astype(np.float64))
    return (torch.tanh(x[:, :2]) * 1.75 + off).permute(0, 2, 3, 1)


@pytest.mark.parametrize("opset", [16, 20])
@pytest.mark.parametrize("aligned", [0, 1])
@pytest.mark.parametrize("padding", ["zeros", "border", "reflection"])
@pytest.mark.parametrize("mode", MODES)
def test_sampling(mode, padding, aligned, opset):
    if opset == 16 and (padding, aligned) != ("zeros", 0):
        pytest.skip("the names alone differ")
    name = MODES[mode] if opset == 16 else mode
    nodes = [
        *GRID, node("GridSample", "x grid", "y", mode=name, padding_mode=padding, align_corners=aligned),
    ]  # fmt: skip

    def function(x):
        return F.grid_sample(x, grid(x), MODES[mode], padding, bool(aligned))

    # the places are rounded to float32, and a cell is as wide as 2/5 of the grid
    check_adjoint(AdjointCase(nodes, function, (3, 5, 4), NUMBERS, opset), double=False, factor=64)


def test_a_spatial_transformer():
    """Localisation, places, sampling: how the paper's layer is written."""
    rng = np.random.default_rng(0)
    w = (rng.standard_normal((3, 6)) / 4).astype(np.float32)
    b = np.array([0.8, 0.1, 0.05, -0.1, 0.9, -0.07], np.float32)
    nodes = [
        node("GlobalAveragePool", "x", "p"), node("Flatten", "p", "m"), node("Gemm", "m w b", "l"),
        node("Reshape", "l form", "theta"), node("Shape", "x", "n"), node("AffineGrid", "theta n", "grid"),
        node("GridSample", "x grid", "y"),
    ]  # fmt: skip

    def function(x):
        theta = (x.mean((2, 3)) @ torch.from_numpy(w).double() + torch.from_numpy(b).double()).reshape(
            -1, 2, 3
        )
        return F.grid_sample(x, F.affine_grid(theta, list(x.shape), align_corners=False), align_corners=False)

    check_adjoint(
        AdjointCase(nodes, function, (3, 5, 4), {"w": w, "b": b, "form": np.array([-1, 2, 3])}, 20),
        double=False,
        factor=64,
    )
