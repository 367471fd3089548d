"""Where a slope is infinite: the gradient is never NaN."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from helpers.adjoint_cases import AdjointCase, check_adjoint, node, random_positive, random_with_corners  # noqa: E402

SHAPE = (3, 5, 4)


def zeros(rng, shape):
    """A third of the numbers zero, the others positive."""
    return np.where(rng.random(shape) < 0.3, 0.0, rng.random(shape) + 0.25)


def dead_channel(rng, shape):
    """The first channel is zero, the second constant."""
    values = rng.standard_normal(shape)
    values[:, 0], values[:, 1] = 0.0, 1.5
    return values


def without(function):
    """A function whose derivative counts as zero where torch finds none that is finite."""

    def cleaned(x):
        watched = x * 1.0
        if watched.requires_grad:
            watched.register_hook(lambda g: torch.where(torch.isfinite(g), g, 0.0))
        return function(watched)

    return cleaned


def deviation(x):
    """torch's own standard deviation, whose derivative at zero is zero."""
    return x.std((2, 3), unbiased=False)


CENTRED = [node("ReduceMean", "x", "m", axes=[2, 3]), node("Sub", "x m", "d")]
SPREAD_BY = {
    "mul": [*CENTRED, node("Mul", "d d", "q"), node("ReduceMean", "q", "v", axes=[2, 3], keepdims=0),
            node("Sqrt", "v", "y")],
    "pow": [*CENTRED, node("Pow", "d two", "q"), node("ReduceMean", "q", "v", axes=[2, 3], keepdims=0),
            node("Pow", "v half", "y")],
    "squares": [*CENTRED, node("ReduceSumSquare", "d", "q", axes=[2, 3], keepdims=0), node("Div", "q n", "v"),
                node("Sqrt", "v", "y")],
    "norm": [*CENTRED, node("ReduceL2", "d", "l", axes=[2, 3], keepdims=0), node("Mul", "l r", "y")],
    "product": [node("Reshape", "x rows", "f"), node("ReduceMean", "f", "m", axes=[2]),
                node("Sub", "f m", "d"),
                node("Transpose", "d", "t", perm=[0, 2, 1]), node("MatMul", "d t", "c"),
                node("Mul", "c eye", "e"),
                node("ReduceSum", "e last", "s", keepdims=0), node("Div", "s n", "v"),
                node("Sqrt", "v", "y")],
}  # fmt: skip


@pytest.mark.parametrize("name", SPREAD_BY)
def test_the_standard_deviation_of_a_dead_channel(name):
    weights = {
        "two": np.array(2, np.float32), "half": np.array(0.5, np.float32), "n": np.array(20, np.float32),
        "r": np.array(20**-0.5, np.float32), "eye": np.eye(3, dtype=np.float32), "rows": np.array([0, 3, -1]),
        "last": np.array([2]),
    }  # fmt: skip
    # 0.5 is exact in any of them; the rest is rounded
    check_adjoint(
        AdjointCase(SPREAD_BY[name], deviation, SHAPE, weights, values=dead_channel), double=False, factor=32
    )


SINGULAR = {
    "Sqrt": ([node("Sqrt", "x", "y")], torch.sqrt, zeros),
    "Pow": ([node("Pow", "x p", "y")], lambda x: x**0.3, zeros),
    "Pow none": ([node("Pow", "x none", "y")], lambda x: x**0 + 0 * x, zeros),
    "Asin": ([node("Clip", "x low high", "c"), node("Asin", "c", "y")], lambda x: torch.asin(x.clamp(-1, 1)),
             random_with_corners),
    "Acos": ([node("Acos", "x", "y")], torch.acos, lambda rng, shape: rng.integers(-1, 2, shape)),
    "Acosh": ([node("Acosh", "x", "y")], torch.acosh, lambda rng, shape: rng.integers(1, 4, shape)),
    "unit length": ([node("LpNormalization", "x", "y", axis=1, p=2)],
                    lambda x: x / torch.linalg.vector_norm(x, dim=1, keepdim=True).clamp_min(1e-30),
                    lambda rng, shape: rng.random(shape) * (rng.random((shape[0], 1, *shape[2:])) < 0.5)),
}  # fmt: skip
CONSTANTS = {
    "p": np.array(0.3, np.float32), "none": np.array(0, np.float32), "low": np.array(-1, np.float32),
    "high": np.array(1, np.float32),
}  # fmt: skip


@pytest.mark.parametrize("name", SINGULAR)
def test_nothing_passes_where_a_finite_function_has_an_infinite_slope(name):
    nodes, function, values = SINGULAR[name]
    case = AdjointCase(nodes, without(function), SHAPE, CONSTANTS, values=values)
    if name == "unit length":

        def zeroed(x):
            long = (x != 0).any(1, keepdim=True)
            return torch.where(long, function(torch.where(long, x, 1.0)), 0.0)

        case.function = zeroed
    check_adjoint(case, double=False, factor=16)


@pytest.mark.parametrize("name", ["Log", "Reciprocal", "Div", "Pow", "Atanh"])
def test_zero_times_an_infinite_slope_is_zero(name):
    """What is chosen away behind it sends back zero; where something arrives, the slope is torch's."""
    ending = node("Where", "c z x", "y")
    nodes = {
        "Log": [node("Log", "x", "z")],
        "Reciprocal": [node("Reciprocal", "x", "z")],
        "Div": [node("Sub", "x half", "h"), node("Div", "h x", "z")],
        "Pow": [node("Pow", "x p", "z")],
        "Atanh": [node("Sub", "one x", "s"), node("Atanh", "s", "z")],
    }[name]
    functions = {
        "Log": torch.log, "Reciprocal": torch.reciprocal, "Div": lambda x: (x - 0.5) / x,
        "Pow": lambda x: x**-0.7, "Atanh": lambda x: torch.atanh(1 - x),
    }  # fmt: skip
    weights = {"zero": np.array(0, np.float32), "half": np.array(0.5, np.float32),
               "one": np.array(1, np.float32), "p": np.array(-0.7, np.float32)}  # fmt: skip

    def function(x):
        good = x > 0
        return torch.where(good, functions[name](torch.where(good, x, 0.5)), x)

    def within(rng, shape):
        return np.where(rng.random(shape) < 0.3, 0.0, rng.random(shape) * 0.7 + 0.2)

    nodes = [node("Greater", "x zero", "c"), *nodes, ending]
    check_adjoint(AdjointCase(nodes, function, SHAPE, weights, values=within), double=False, factor=16)


def test_an_exponent_that_is_computed():
    nodes = [node("Tanh", "x", "t"), node("GlobalAveragePool", "t", "e"), node("Pow", "x e", "y")]
    check_adjoint(
        AdjointCase(nodes, lambda x: x ** torch.tanh(x).mean((2, 3), keepdim=True), values=random_positive),
        factor=16,
    )
