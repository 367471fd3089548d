"""Matrix products in their less common forms."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from camrt.export.adjoint import WEIGHTING  # noqa: E402
from helpers.adjoint_cases import AdjointCase, build_adjoint_of, check_adjoint, node, run_double  # noqa: E402
from helpers.tolerances import assert_close  # noqa: E402


def weight(*shape):
    return np.random.default_rng(shape).standard_normal(shape).astype(np.float32)


def double(values):
    return torch.from_numpy(values.astype(np.float64))


@pytest.mark.parametrize("opset", [9, 11])
def test_a_layer_in_older_operator_sets(opset):
    nodes = [node("Flatten", "x", "f"), node("Gemm", "f w c", "y", alpha=2.0)]

    def function(x):
        return 2 * x.flatten(1) @ double(weight(60, 7)) + double(weight(7))

    check_adjoint(AdjointCase(nodes, function, weights={"w": weight(60, 7), "c": weight(7)}, opset=opset))


@pytest.mark.parametrize("turned", [0, 1])
def test_the_image_as_a_turned_operand(turned):
    w = weight(7, 60) if turned else weight(60, 7)
    nodes = [
        node("Flatten", "x", "f"),
        node("Transpose", "f", "t"),
        node("Gemm", "t w c", "y", transA=1, transB=turned, alpha=0.5, beta=2.0),
    ]
    matrix = double(w).T if turned else double(w)
    weights = {"w": w, "c": weight(1)}
    check_adjoint(
        AdjointCase(nodes, lambda x: 0.5 * x.flatten(1) @ matrix + 2 * double(weight(1)), weights=weights)
    )


def test_a_bias_that_is_broadcast():
    nodes = [
        node("Flatten", "x", "f"),
        node("ReduceMean", "f", "m", axes=[1]),
        node("Gemm", "f w m", "y", beta=3.0),
    ]

    def function(x):
        flat = x.flatten(1)
        return flat @ double(weight(60, 7)) + 3 * flat.mean(1, keepdim=True)

    check_adjoint(AdjointCase(nodes, function, weights={"w": weight(60, 7)}))


def test_vectors():
    check_adjoint(
        AdjointCase([node("MatMul", "x w", "y")], lambda x: x @ double(weight(4)), weights={"w": weight(4)})
    )
    check_adjoint(
        AdjointCase([node("MatMul", "w x", "y")], lambda x: double(weight(5)) @ x, weights={"w": weight(5)})
    )


@pytest.mark.parametrize("order", ["v w", "w v"])
def test_the_image_as_a_vector(order):
    """Only a graph of one image can do that; the other operand is broadcast over two axes."""
    w = weight(2, 60, 3) if order == "v w" else weight(2, 3, 60)
    nodes = [node("Reshape", "x n", "v"), node("MatMul", order, "m"), node("Reshape", "m o", "y")]
    case = AdjointCase(nodes, None, weights={"w": w, "n": np.array([60]), "o": np.array([1, 6])}, batch=1)
    weighting = weight(1, 6)
    found = run_double(build_adjoint_of(case, double=True), {"map": case.images(1), WEIGHTING: weighting})[1]
    matrix = w.transpose(0, 2, 1) if order == "v w" else w
    expected = weighting.astype(np.float64) @ matrix.reshape(6, 60)
    assert_close(found.reshape(1, 60), expected, np.float64)


def test_products_with_both_operands_broadcast():
    nodes = [
        node("ReduceMean", "x", "q", axes=[1]),
        node("Transpose", "x", "t", perm=[0, 1, 3, 2]),
        node("MatMul", "q t", "y"),
    ]
    check_adjoint(AdjointCase(nodes, lambda x: x.mean(1, keepdim=True) @ x.mT))
    w = weight(3, 6, 5)
    check_adjoint(AdjointCase([node("MatMul", "w x", "y")], lambda x: double(w) @ x, weights={"w": w}))


@pytest.mark.parametrize("equation", ["nchw,nchv->nwv", "nchw,nkhw->nck", "nchw,nchw->nc"])
def test_einsum_of_per_image_with_itself(equation):
    case = AdjointCase(
        [node("Einsum", "x x", "y", equation=equation)], lambda x: torch.einsum(equation, x, x)
    )
    check_adjoint(case, factor=16)  # sums of dozens of products, twice


@pytest.mark.parametrize(
    ("equation", "factors"),
    [
        ("nchw,wk->nck", (6, 4)), ("nchw,kc->nk", (6, 5)), ("nchw->nch", None),
        ("...w,wk->...k", (6, 4)), ("...hw,...wk->...hk", (1, 5, 6, 4)), ("...chw,ck->...hk", (5, 4)),
        ("nccw,wk->nck", (6, 4)), ("nccw->nwc", None), ("nchw,cw", (5, 6)), ("nchw,ch,wk->nhk", (5, 5)),
    ],
)  # fmt: skip
def test_einsums(equation, factors):
    """Letters only one operand has, ellipses, diagonals, answers that are not said."""
    weights = {} if factors is None else {"w": weight(*factors)}
    names = "x" if factors is None else "x w"
    others = [double(weight(*factors))] if factors else []
    if equation.count(",") == 2:
        weights["v"] = weight(6, 3)
        names += " v"
        others.append(double(weights["v"]))
    nodes = [node("Einsum", names, "e", equation=equation)]
    if "->" not in equation:
        nodes.append(node("Transpose", "e", "y", perm=[1, 0]))  # letters in the order of the alphabet
    else:
        nodes.append(node("Identity", "e", "y"))

    def function(x):
        found = torch.einsum(equation, x, *others)
        return found if "->" in equation else found.T

    check_adjoint(AdjointCase(nodes, function, (5, 5, 6), weights), factor=16)


def test_an_einsum_of_two_images_that_are_broadcast():
    nodes = [
        node("GlobalAveragePool", "x", "p"),
        node("Einsum", "p x", "y", equation="...ij,...hw->...hw"),
    ]

    def function(x):
        return torch.einsum("...ij,...hw->...hw", x.mean((2, 3), keepdim=True), x)

    check_adjoint(AdjointCase(nodes, function), factor=16)
    nodes = [
        node("ReduceMean", "x", "p", axes=[1], keepdims=1),
        node("Einsum", "p x", "y", equation="...h,...h->..."),
    ]
    check_adjoint(AdjointCase(nodes, lambda x: (x.mean(1, keepdim=True) * x).sum(-1)), factor=16)


@pytest.mark.parametrize(("first", "second"), [(0, 0), (0, 1), (1, 0), (1, 1)])
def test_a_weight_made_from_the_image(first, second):
    """Gemm of the image's rows and what is made of them; any of the two turned."""
    left = [node("Flatten", "x", "f"), node("Tanh", "f", "t")]
    left += [node("Transpose", "f", "a")] if first else [node("Identity", "f", "a")]
    left += [node("Identity", "t", "b")] if second else [node("Transpose", "t", "b")]
    nodes = [
        *left,
        node("Gemm", "a b", "m", transA=first, transB=second, alpha=0.5),
        node("MatMul", "m t", "y"),
    ]

    def function(x):
        flat = x.flatten(1)
        return 0.5 * flat @ torch.tanh(flat).T @ torch.tanh(flat)

    check_adjoint(AdjointCase(nodes, function), factor=32)
