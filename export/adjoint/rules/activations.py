"""Functions of one number each: x̄ = f'(x)·ȳ."""

from __future__ import annotations

import math
from collections.abc import Sequence

from camrt.export.adjoint.registry import BackwardStep, rule
from camrt.export.adjoint.step_functions import find_quantiser, is_step_function

__all__: list[str] = []

GELU_CUBIC = 0.044715  # of the tanh form


@rule("Identity")
def _same(step: BackwardStep) -> Sequence[str | None]:
    return [step.g]


@rule("Cast", "CastLike")
def _cast(step: BackwardStep) -> Sequence[str | None]:
    """ȳ between floating-point types; whole numbers and truth values made of them are steps."""
    return step.no_gradient() if is_step_function(step.graph, step.node) else [step.g]


@rule("Dropout")
def _dropout(step: BackwardStep) -> Sequence[str | None]:
    """The identity when it only predicts."""
    if step.input(2) and (step.constant(step.input(2)) is None or bool(step.constant(step.input(2)))):
        raise step.refuse("it is in training mode; export the model in evaluation mode")
    return [step.g]


def multiply_slope(step: BackwardStep, slope: str) -> Sequence[str | None]:
    """ȳ times a slope of its shape."""
    return [step.make.add("Mul", step.g, slope)]


def apply_guided_rule(step: BackwardStep, passed: str) -> Sequence[str | None]:
    """What a ReLU passes on: under the guided rule only what is positive."""
    if step.relu == "guided":
        step.mark_guided()
        return [step.make.add("Relu", passed)]
    return [passed]


@rule("Relu")
def _relu(step: BackwardStep) -> Sequence[str | None]:
    """y = max(x, 0): ȳ where y > 0; at the corner nothing passes."""
    make = step.make
    return apply_guided_rule(step, make.masked(step.g, make.add("Greater", step.y, make.number(0.0))))


@rule("Clip")
def _clip(step: BackwardStep) -> Sequence[str | None]:
    """y = min(max(x, a), b): ȳ strictly between the bounds. From zero up it is a ReLU."""
    make = step.make
    bounds = []
    for index, name in ((1, "min"), (2, "max")):
        stated = step.attribute(name)
        if stated is None and step.input(index):
            if step.needs_gradient(index):
                raise step.refuse(f"its {name} depends on the image")
            value = step.constant(step.input(index))
            if value is None:
                raise step.refuse(f"its {name} is not known")
            if value.size != 1:  # runtimes take a vector of one number too
                raise step.refuse(f"its {name} is {value.size} numbers, not one")
            stated = float(value.item())
        bounds.append(stated)
    low, high = bounds
    passed, x = step.g, step.x
    rounding = find_quantiser(step.graph, x)
    if rounding is not None:  # of a quantiser, what it rounded is compared
        changed = make.add("Sub", rounding.input[0], rounding.output[0])
        middle = {"Floor": -0.5, "Ceil": 0.5}.get(rounding.op_type, 0.0)  # of the numbers rounded to the same
        x = make.add("Add", x, make.add("Add", changed, make.number(middle)))
    if low is not None:
        passed = make.masked(passed, make.add("Greater", x, make.number(low)))
    if high is not None:
        passed = make.masked(passed, make.add("Less", x, make.number(high)))
    return apply_guided_rule(step, passed) if low == 0.0 else [passed]


@rule("LeakyRelu")
def _leaky(step: BackwardStep) -> Sequence[str | None]:
    """y = x where x > 0, else α·x (at zero too): ȳ, or α·ȳ."""
    make = step.make
    small = make.add("Mul", step.g, make.number(step.attribute("alpha", 0.01)))
    return [make.add("Where", make.add("Greater", step.x, make.number(0.0)), step.g, small)]


@rule("PRelu")
def _prelu(step: BackwardStep) -> Sequence[str | None]:
    """y = x where x > 0, else s·x, s a weight: ȳ, or s·ȳ."""
    if step.needs_gradient(1):
        raise step.refuse("its slope depends on the image")
    make = step.make
    small = make.add("Mul", step.g, step.input(1))
    return [make.add("Where", make.add("Greater", step.x, make.number(0.0)), step.g, small)]


@rule("ThresholdedRelu")
def _thresholded(step: BackwardStep) -> Sequence[str | None]:
    """y = x where x > α, else 0: ȳ where x > α."""
    make = step.make
    return [make.masked(step.g, make.add("Greater", step.x, make.number(step.attribute("alpha", 1.0))))]


@rule("Shrink")
def _shrunk(step: BackwardStep) -> Sequence[str | None]:
    """y = x ± β where |x| > λ, else 0: ȳ there."""
    make = step.make
    beyond = make.add("Greater", make.add("Abs", step.x), make.number(step.attribute("lambd", 0.5)))
    return [make.masked(step.g, beyond)]


def exponential_back(step: BackwardStep, alpha: float, gamma: float, width: float) -> Sequence[str | None]:
    """y = γ·x where x > 0, else γ·α·(e^(x/w) − 1): γ·ȳ, or γ·α/w·e^(x/w)·ȳ."""
    make = step.make
    below = make.add("Min", step.x, make.number(0.0))  # so that e^x does not overflow where it is not used
    raised = make.add("Exp", make.add("Div", below, make.number(width)))
    bent = make.add("Mul", raised, make.number(gamma * alpha / width))
    above = make.add("Greater", step.x, make.number(0.0))
    return multiply_slope(step, make.add("Where", above, make.number(gamma), bent))


@rule("Elu")
def _elu(step: BackwardStep) -> Sequence[str | None]:
    return exponential_back(step, step.attribute("alpha", 1.0), 1.0, 1.0)


@rule("Celu")
def _celu(step: BackwardStep) -> Sequence[str | None]:
    alpha = step.attribute("alpha", 1.0)
    return exponential_back(step, alpha, 1.0, alpha)


@rule("Selu")
def _selu(step: BackwardStep) -> Sequence[str | None]:
    alpha, gamma = step.attribute("alpha", 1.6732632423543772), step.attribute("gamma", 1.0507009873554805)
    return exponential_back(step, alpha, gamma, 1.0)


def sigmoid_slope(step: BackwardStep, y: str) -> str:
    """σ' = σ·(1 − σ)."""
    make = step.make
    return make.add("Mul", y, make.add("Sub", make.number(1.0), y))


@rule("Sigmoid")
def _sigmoid(step: BackwardStep) -> Sequence[str | None]:
    """y = σ(x): σ' = y·(1 − y)."""
    return multiply_slope(step, sigmoid_slope(step, step.y))


@rule("Tanh")
def _tanh(step: BackwardStep) -> Sequence[str | None]:
    """y = tanh x: 1 − y²."""
    make = step.make
    return multiply_slope(step, make.add("Sub", make.number(1.0), make.add("Mul", step.y, step.y)))


@rule("HardSigmoid")
def _hard_sigmoid(step: BackwardStep) -> Sequence[str | None]:
    """y = min(max(α·x + β, 0), 1): α·ȳ strictly between."""
    make = step.make
    between = make.add(
        "And", make.add("Greater", step.y, make.number(0.0)), make.add("Less", step.y, make.number(1.0))
    )
    return [make.add("Mul", make.masked(step.g, between), make.number(step.attribute("alpha", 0.2)))]


@rule("HardSwish")
def _hard_swish(step: BackwardStep) -> Sequence[str | None]:
    """y = x·min(max(x/6 + 1/2, 0), 1): 0 up to −3, x/3 + 1/2 between, 1 from 3 on."""
    make = step.make
    line = make.add("Add", make.add("Mul", step.x, make.number(1 / 3)), make.number(0.5))
    low = make.add("Where", make.add("Greater", step.x, make.number(-3.0)), line, make.number(0.0))
    return multiply_slope(
        step, make.add("Where", make.add("Less", step.x, make.number(3.0)), low, make.number(1.0))
    )


@rule("Softplus")
def _softplus(step: BackwardStep) -> Sequence[str | None]:
    """y = log(1 + e^x): σ(x)."""
    return multiply_slope(step, step.make.add("Sigmoid", step.x))


@rule("Softsign")
def _softsign(step: BackwardStep) -> Sequence[str | None]:
    """y = x/(1 + |x|): (1 + |x|)⁻²."""
    make = step.make
    below = make.add("Add", make.add("Abs", step.x), make.number(1.0))
    return multiply_slope(step, make.add("Reciprocal", make.add("Mul", below, below)))


def gaussian(step: BackwardStep, x: str) -> str:
    """e^(−x²)."""
    make = step.make
    return make.add("Exp", make.add("Neg", make.add("Mul", x, x)))


@rule("Erf")
def _erf(step: BackwardStep) -> Sequence[str | None]:
    """y = erf x: 2/√π·e^(−x²)."""
    return multiply_slope(
        step, step.make.add("Mul", gaussian(step, step.x), step.make.number(2.0 / math.sqrt(math.pi)))
    )


def gelu_exact_back(step: BackwardStep) -> Sequence[str | None]:
    """y = x·Φ(x), Φ = (1 + erf(x/√2))/2: Φ(x) + x·e^(−x²/2)/√(2π)."""
    make = step.make
    shrunk = make.add("Mul", step.x, make.number(math.sqrt(0.5)))
    share = make.add("Mul", make.add("Add", make.add("Erf", shrunk), make.number(1.0)), make.number(0.5))
    density = make.add("Mul", gaussian(step, shrunk), make.number(1.0 / math.sqrt(2.0 * math.pi)))
    return multiply_slope(step, make.add("Add", share, make.add("Mul", step.x, density)))


def gelu_tanh_slope(step: BackwardStep, x: str) -> str:
    """The slope of x·(1 + tanh u)/2, u = √(2/π)·(x + c·x³): (1 + t)/2 + x·(1 − t²)·√(2/π)·(1 + 3c·x²)/2."""
    make = step.make
    square = make.add("Mul", x, x)
    root = math.sqrt(2.0 / math.pi)
    inner = make.add("Add", make.add("Mul", square, make.number(root * GELU_CUBIC)), make.number(root))
    t = make.add("Tanh", make.add("Mul", x, inner))
    share = make.add("Add", make.add("Mul", t, make.number(0.5)), make.number(0.5))
    slope = make.add(
        "Add", make.add("Mul", square, make.number(1.5 * root * GELU_CUBIC)), make.number(0.5 * root)
    )
    steep = make.add("Sub", make.number(1.0), make.add("Mul", t, t))
    return make.add("Add", share, make.add("Mul", make.add("Mul", x, steep), slope))


@rule("Gelu")
def _gelu(step: BackwardStep) -> Sequence[str | None]:
    if step.attribute("approximate", "none") == "tanh":
        return multiply_slope(step, gelu_tanh_slope(step, step.x))
    return gelu_exact_back(step)


@rule("Gelu", domain="com.microsoft")
def _gelu_of_the_runtime(step: BackwardStep) -> Sequence[str | None]:
    return gelu_exact_back(step)


@rule("FastGelu", domain="com.microsoft")
def _fast_gelu(step: BackwardStep) -> Sequence[str | None]:
    """The tanh form of x + bias."""
    x = step.make.add("Add", step.x, step.input(1)) if step.input(1) else step.x
    return multiply_slope(step, gelu_tanh_slope(step, x))


def swish_back(step: BackwardStep, alpha: float) -> Sequence[str | None]:
    """y = x·s, s = σ(α·x): s + α·x·s·(1 − s)."""
    make = step.make
    s = make.add("Sigmoid", make.add("Mul", step.x, make.number(alpha)))
    bent = make.add("Mul", make.add("Mul", step.x, make.number(alpha)), sigmoid_slope(step, s))
    return multiply_slope(step, make.add("Add", s, bent))


@rule("Swish")
def _swish(step: BackwardStep) -> Sequence[str | None]:
    return swish_back(step, step.attribute("alpha", 1.0))


@rule("QuickGelu", domain="com.microsoft")
def _quick_gelu(step: BackwardStep) -> Sequence[str | None]:
    return swish_back(step, step.attribute("alpha", 1.702))


@rule("Mish")
def _mish(step: BackwardStep) -> Sequence[str | None]:
    """y = x·t, t = tanh(softplus x): t + x·(1 − t²)·σ(x)."""
    make = step.make
    t = make.add("Tanh", make.add("Softplus", step.x))
    steep = make.add("Sub", make.number(1.0), make.add("Mul", t, t))
    bent = make.add("Mul", make.add("Mul", step.x, steep), make.add("Sigmoid", step.x))
    return multiply_slope(step, make.add("Add", t, bent))
