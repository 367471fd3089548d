"""The one-layer CNN of "CAM-Based Methods Can See through Walls", by loops and by automatic derivatives.

Written from Definition 1 and section 3 of the paper; all numbers float64.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

__all__ = ["autograd", "forward", "grad_cam", "rectified_norm"]


def feature_maps(filters: Any, xi: Any) -> list[list[list[float]]]:
    """B_v[i][j]."""
    V, k, _ = filters.shape
    h, w = xi.shape[0] - k + 1, xi.shape[1] - k + 1
    maps = []
    for v in range(V):
        rows = []
        for i in range(h):
            row = []
            for j in range(w):
                total = 0.0
                for a in range(k):
                    for b in range(k):
                        total += filters[v, a, b] * xi[i + a, j + b]
                row.append(max(total, 0.0))
            rows.append(row)
        maps.append(rows)
    return maps


def answer(maps: Any, pool: int, weights: Any, target: int) -> float:
    """f for given B."""
    values = []
    for rows in maps:
        for i in range(0, len(rows), pool):
            for j in range(0, len(rows[0]), pool):
                values.append(max(rows[i + a][j + b] for a in range(pool) for b in range(pool)))
    for number, matrix in enumerate(weights):
        values = [sum(m * x for m, x in zip(line, values, strict=True)) for line in matrix.tolist()]
        if number < len(weights) - 1:
            values = [max(x, 0.0) for x in values]
    return float(values[target])


def forward(filters: Any, pool: int, weights: Any, xi: Any, target: int = 0) -> float:
    """The network's output f."""
    return answer(feature_maps(filters, xi), pool, weights, target)


def grad_cam(filters: Any, pool: int, weights: Any, xi: Any, target: int = 0) -> Any:
    """(α (V,), Grad-CAM (h, w)) with derivatives from central differences.

    The network is piecewise linear, so the differences are exact up to rounding as long as no step crosses a
    kink; images and weights without ties are assumed. Cells of zeros have a kink where B is: there only the
    maximum decides, and a tie goes to one element, so the step is taken upwards and counted once a cell.
    """
    maps = feature_maps(filters, xi)
    h, w = len(maps[0]), len(maps[0][0])
    step = 1e-6
    alphas = []
    for v in range(len(maps)):
        total = 0.0
        for i in range(0, h, pool):
            for j in range(0, w, pool):
                cell = [(maps[v][i + a][j + b], i + a, j + b) for a in range(pool) for b in range(pool)]
                value, r, c = max(cell)
                maps[v][r][c] = value + step
                above = answer(maps, pool, weights, target)
                maps[v][r][c] = value
                total += (above - answer(maps, pool, weights, target)) / step
        alphas.append(total / (h * w))
    found = np.zeros((h, w))
    for i in range(h):
        for j in range(w):
            found[i, j] = max(0.0, sum(alphas[v] * maps[v][i][j] for v in range(len(maps))))
    return np.array(alphas), found


def autograd(filters: Any, pool: int, weights: Any, xi: Any, target: int = 0) -> tuple[Any, Any, Any]:
    """(f, α (V,), Grad-CAM (h, w)) by torch's automatic differentiation."""
    import torch
    from torch.nn import functional

    kernel = torch.tensor(filters, dtype=torch.float64)[:, None]
    maps = functional.relu(functional.conv2d(torch.tensor(xi, dtype=torch.float64)[None, None], kernel))
    maps = maps.detach().requires_grad_(True)
    values = functional.max_pool2d(maps, pool).flatten()
    for number, matrix in enumerate(weights):
        values = torch.tensor(matrix, dtype=torch.float64) @ values
        if number < len(weights) - 1:
            values = functional.relu(values)
    (gradient,) = torch.autograd.grad(values[target], maps)
    alpha = gradient[0].mean((1, 2))
    found = functional.relu((alpha[:, None, None] * maps.detach()[0]).sum(0))
    return values.detach().numpy(), alpha.numpy(), found.numpy()


def rectified_norm(V: int, draws: int, seed: int) -> tuple[float, float]:
    """Mean norm of V rectified normal numbers over random draws, and its standard error."""
    rng = np.random.default_rng(seed)
    norms = [math.sqrt(sum(max(x, 0.0) ** 2 for x in rng.standard_normal(V).tolist())) for _ in range(draws)]
    return float(np.mean(norms)), float(np.std(norms, ddof=1) / math.sqrt(draws))
