"""Operators that divide by something measured."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from camrt.export.adjoint.registry import BackwardStep, rule
from camrt.export.allocation import arange
from camrt.export.budget import reserve_array

__all__: list[str] = []


@rule("BatchNormalization")
def _batch_norm(step: BackwardStep) -> Sequence[str | None]:
    """y = s·(x − μ)/√(σ² + ε) + b with statistics of the training set: s/√(σ² + ε)·ȳ."""
    if step.attribute("training_mode", 0) or step.attribute("is_test", 1) == 0:
        raise step.refuse("it is in training mode; export the model in evaluation mode")
    scale, variance = (step.constant(step.input(i)) for i in (1, 4))
    if scale is None or variance is None:
        raise step.refuse("its scale or variance depends on the image")
    slope = scale.astype(np.float64) / np.sqrt(variance.astype(np.float64) + step.attribute("epsilon", 1e-5))
    shape = (-1, *[1] * (len(step.shape(step.x)) - 2))
    return [step.make.add("Mul", step.g, step.make.constant(slope.reshape(shape)))]


def standardise_back(step: BackwardStep, x: str, g: str, axes: Sequence[int], epsilon: float) -> str:
    """x̄ of n = (x − μ)/σ, σ² = var + ε, μ and var over `axes`: (ḡ − mean ḡ − n·mean(ḡ·n))/σ."""
    make = step.make
    centred = make.add("Sub", x, make.reduce("ReduceMean", x, axes, keepdims=True))
    variance = make.reduce("ReduceMean", make.add("Mul", centred, centred), axes, keepdims=True)
    spread = make.add("Sqrt", make.add("Add", variance, make.number(epsilon)))
    n = make.add("Div", centred, spread)
    level = make.reduce("ReduceMean", g, axes, keepdims=True)
    tilt = make.reduce("ReduceMean", make.add("Mul", g, n), axes, keepdims=True)
    return make.add("Div", make.add("Sub", make.add("Sub", g, level), make.add("Mul", n, tilt)), spread)


@rule("LayerNormalization")
def _layer_norm(step: BackwardStep) -> Sequence[str | None]:
    """y = s·n + b, n standardised over the axes from `axis` on."""
    rank = len(step.shape(step.x))
    axes = range(step.attribute("axis", -1) % rank, rank)
    g = step.make.add("Mul", step.g, step.input(1))
    return [standardise_back(step, step.x, g, list(axes), step.attribute("epsilon", 1e-5))]


@rule("RMSNormalization")
def _root_mean_square(step: BackwardStep) -> Sequence[str | None]:
    """y = s·x/r, r² = mean x² + ε: (ḡ − x/r·mean(ḡ·x/r))/r with ḡ = s·ȳ."""
    make = step.make
    rank = len(step.shape(step.x))
    axes = list(range(step.attribute("axis", -1) % rank, rank))
    g = make.add("Mul", step.g, step.input(1))
    power = make.reduce("ReduceMean", make.add("Mul", step.x, step.x), axes, keepdims=True)
    root = make.add("Sqrt", make.add("Add", power, make.number(step.attribute("epsilon", 1e-5))))
    n = make.add("Div", step.x, root)
    tilt = make.reduce("ReduceMean", make.add("Mul", g, n), axes, keepdims=True)
    return [make.add("Div", make.add("Sub", g, make.add("Mul", n, tilt)), root)]


@rule("InstanceNormalization")
def _instance_norm(step: BackwardStep) -> Sequence[str | None]:
    """y = s·n + b by channel, n standardised over the cells of each map."""
    make = step.make
    rank = len(step.shape(step.x))
    g = make.add("Mul", step.g, make.reshape(step.input(1), [1, -1, *[1] * (rank - 2)]))
    return [standardise_back(step, step.x, g, list(range(2, rank)), step.attribute("epsilon", 1e-5))]


@rule("GroupNormalization")
def _group_norm(step: BackwardStep) -> Sequence[str | None]:
    """y = s·n + b, n standardised over the cells and channels of each group; s by channel or by group."""
    make = step.make
    shape = step.shape(step.x)
    groups = step.attribute("num_groups")
    apart = [0, groups, -1]
    scale = step.shape(step.input(1))[0]
    if scale == shape[1]:
        by_channel = make.reshape(step.input(1), [1, -1, *[1] * (len(shape) - 2)])
        g = make.reshape(make.add("Mul", step.g, by_channel), apart)
    else:
        g = make.add("Mul", make.reshape(step.g, apart), make.reshape(step.input(1), [1, -1, 1]))
    back = standardise_back(step, make.reshape(step.x, apart), g, [2], step.attribute("epsilon", 1e-5))
    return [make.reshaped_like(back, step.x)]


@rule("LRN")
def _local_response(step: BackwardStep) -> Sequence[str | None]:
    """y = x·u^−β, u = k + (α/m)·Σ x² over m neighbouring channels: ȳ·u^−β − (2αβ/m)·x·Σ' ȳ·x·u^(−β−1)."""
    make = step.make
    size, beta = step.attribute("size"), step.attribute("beta", 0.75)
    alpha, bias = step.attribute("alpha", 1e-4), step.attribute("bias", 1.0)
    channels = step.shape(step.x)[1]
    behind = (size - 1) // 2
    places = arange(channels, "channels")
    reserve_array((channels, channels), "band of neighbouring channels", itemsize=2 * places.itemsize)
    offsets = places[None] - places[:, None]  # neighbour − own, by row
    band = ((offsets >= -behind) & (offsets <= size - 1 - behind)).astype(np.float64)

    def summed(name: str, weights: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> str:
        flat = make.reshape(name, [0, channels, -1])
        return make.reshaped_like(make.add("MatMul", make.constant(weights), flat), step.x)

    squares = summed(make.add("Mul", step.x, step.x), band)
    u = make.add("Add", make.add("Mul", squares, make.number(alpha / size)), make.number(bias))
    share = make.add("Mul", step.g, make.add("Pow", u, make.number(-beta)))
    inner = make.add("Div", make.add("Mul", share, step.x), u)
    spread = make.add("Mul", step.x, summed(inner, band.T))
    return [make.add("Sub", share, make.add("Mul", spread, make.number(2.0 * alpha * beta / size)))]


def softmax_axis(step: BackwardStep) -> list[int]:
    """The axis a softmax runs over."""
    return [step.attribute("axis", -1) % len(step.shape(step.x))]


@rule("Softmax")
def _softmax(step: BackwardStep) -> Sequence[str | None]:
    """y = softmax x: y·(ȳ − Σ ȳ·y)."""
    make = step.make
    level = make.reduce_sum(make.add("Mul", step.g, step.y), softmax_axis(step), keepdims=True)
    return [make.add("Mul", step.y, make.add("Sub", step.g, level))]


@rule("LogSoftmax")
def _log_softmax(step: BackwardStep) -> Sequence[str | None]:
    """y = log softmax x: ȳ − e^y·Σ ȳ."""
    make = step.make
    total = make.reduce_sum(step.g, softmax_axis(step), keepdims=True)
    return [make.add("Sub", step.g, make.add("Mul", make.add("Exp", step.y), total))]


@rule("LpNormalization")
def _unit_length(step: BackwardStep) -> Sequence[str | None]:
    """y = x/‖x‖ₚ: (ȳ − u·Σ ȳ·y)/‖x‖, u = y or, for p = 1, sign(x); nothing where ‖x‖ is zero."""
    make = step.make
    axes = [step.attribute("axis", -1) % len(step.shape(step.x))]
    first = step.attribute("p", 2) == 1
    length = make.reduce("ReduceL1" if first else "ReduceL2", step.x, axes, keepdims=True)
    tilt = make.reduce_sum(make.add("Mul", step.g, step.y), axes, keepdims=True)
    direction = make.add("Sign", step.x) if first else step.y
    across = make.add("Sub", step.g, make.add("Mul", direction, tilt))
    return [make.divide_or_zero(make.add("Div", across, length), length)]


@rule("MeanVarianceNormalization")
def _mean_variance(step: BackwardStep) -> Sequence[str | None]:
    """y = (x − μ)/(σ + 10⁻⁹)."""
    axes = step.attribute("axes", [0, 2, 3])
    if 0 in axes:
        raise step.refuse(
            "it takes the mean over the batch, so that what one image gives depends on the others"
        )
    return [standardise_back(step, step.x, step.g, list(axes), 1e-18)]
