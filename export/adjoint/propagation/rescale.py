"""DeepLIFT's rescale rule: multipliers Δy/Δx in the place of slopes.

"Learning Important Features Through Propagating Activation Differences" (Shrikumar et al., ICML 2017,
sections 3.2, 3.3 and 3.5.2). Every tensor t has its value t′ in a second pass, of a reference image, and
Δt = t − t′. A node's multiplier m turns Δx into Δy: through a linear node it is the gradient's, through a
function of each number Δy/Δx. Multipliers chain as gradients do, so that m·Δx of the pixels sums to Δscore.

The paper has no rule for nodes that take several changing tensors to one in another way; these are taken
apart so that the sum stays the same:

- Of a product Δ(a·b) = (b + b′)/2·Δa + (a + a′)/2·Δb: the mean of its gradients at image and reference, which
  is each factor's Shapley value, as in "A Unified Approach to Interpreting Model Predictions" (Lundberg &
  Lee, NIPS 2017, section 4.2). A quotient is the product with 1/b, and softmax and layer normalisation are
  made of functions of each number, sums and products.
- Of a maximum, what it rose by goes to the number that is largest in the image, and what it fell by to the
  one that is largest in the reference.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from camrt.export.adjoint.backward_pass import apply_rule
from camrt.export.adjoint.propagation.operators import (
    BENT,
    MAXIMA,
    PIECEWISE_LINEAR,
    PRODUCTS,
    SCALE_FREE,
    is_linear,
    reached_inputs,
    refuse,
)
from camrt.export.adjoint.registry import BackwardStep
from camrt.export.adjoint.rules.arithmetic import sum_to_inputs

__all__ = ["Rescaling"]

# Two numbers nearer than this have no quotient of differences that rounding leaves digits of, and a slope, or
# the mean of two, is as good: of the numbers themselves, or absolute for functions that bend near one.
SAME_NUMBER = 2.0**-20
SAME_SLOPE = 2.0**-7


@dataclass(frozen=True)
class Rescaling:
    """The rule, as a walk back applies it.

    Attributes:
        reference: For each tensor that depends on the image, its name in the reference's pass.
    """

    reference: Mapping[str, str]

    def __call__(self, step: BackwardStep) -> Sequence[str | None]:
        """The multipliers of a node's inputs, given that of its output.

        Raises:
            AdjointError: There is no rule for it.
        """
        kind, reached = step.node.op_type, reached_inputs(step)
        if is_linear(step, reached):
            return apply_rule(step)
        if kind in PRODUCTS:
            return self.average(step)
        if kind in MAXIMA:
            return self.share_maximum(step)
        if kind == "Div":
            return self.divide(step)
        if kind == "HardSwish":
            return self.swish(step)
        if kind == "Softmax":
            return self.normalise_exponentials(step)
        if kind == "LayerNormalization":
            return self.standardise(step)
        if kind in PIECEWISE_LINEAR | BENT | SCALE_FREE and len(reached) == 1:
            return self.rescale(step, reached[0])
        raise refuse(step, "DeepLIFT", "Δy is no sum of parts that its inputs give")

    def at_reference(self, step: BackwardStep) -> Sequence[str | None]:
        """What the gradient's rule gives where the reference's tensors stand for the image's."""
        make = step.make
        before = len(make.nodes)
        found = apply_rule(step)
        for node in make.nodes[before:]:
            for place, name in enumerate(node.input):
                node.input[place] = self.reference.get(name, name)
        return found

    def average(self, step: BackwardStep) -> list[str | None]:
        """The mean of the gradients at image and reference."""
        make, half = step.make, step.make.number(0.5)
        return [
            None if here is None or there is None else make.add("Mul", make.add("Add", here, there), half)
            for here, there in zip(apply_rule(step), self.at_reference(step), strict=True)
        ]

    def rescale(self, step: BackwardStep, index: int) -> list[str | None]:
        """Δy/Δx of a function of each number; its slope, or the mean of both, where Δx has no digits left."""
        make, x, y = step.make, step.input(index), step.y
        if step.shape(x) != step.shape(y):
            raise refuse(step, "DeepLIFT", "it repeats its input along an axis")
        change, answer = (make.add("Sub", name, self.reference[name]) for name in (x, y))
        kind = step.node.op_type
        size = make.add("Abs", change)
        limit = make.number(SAME_SLOPE)
        if kind not in BENT:
            both = make.add("Add", make.add("Abs", x), make.add("Abs", self.reference[x]))
            limit = make.add("Mul", both, make.number(SAME_SLOPE if kind in SCALE_FREE else SAME_NUMBER))
        near = make.add("LessOrEqual", size, limit)
        slopes = apply_rule(step) if kind in PIECEWISE_LINEAR else self.average(step)
        ratio = make.add("Div", answer, make.add("Where", near, make.number(1.0), change))
        made: list[str | None] = [None] * len(step.node.input)
        made[index] = make.add("Where", near, slopes[index] or "", make.add("Mul", step.g, ratio))
        return made

    def share_maximum(self, step: BackwardStep) -> list[str | None]:
        """Shares of y − y′ by way of u = max(y, y′), over Δx.

        u − y′ goes to the image's largest number, y − u to the reference's: the first where the maximum rose,
        the second where it fell, and Δx is at least that large there.
        """
        make, x, y = step.make, step.x, step.y
        top = make.add("Max", y, self.reference[y])
        risen = make.add("Mul", step.g, make.add("Sub", top, self.reference[y]))
        fallen = make.add("Mul", step.g, make.add("Sub", y, top))
        first = apply_rule(replace(step, cotangents=(risen,)))[0]
        second = self.at_reference(replace(step, cotangents=(fallen,)))[0]
        change = make.add("Sub", x, self.reference[x])
        still = make.add("Equal", change, make.number(0.0))
        shares = make.add("Add", first or "", second or "")
        ratio = make.add("Div", shares, make.add("Where", still, make.number(1.0), change))
        return [make.add("Where", still, apply_rule(step)[0] or "", ratio)]

    def divide(self, step: BackwardStep) -> list[str | None]:
        """Δ(a/b): ā = ȳ·(1/b + 1/b′)/2, b̄ = −ȳ·(a + a′)/2·1/(b·b′)."""
        make = step.make
        (a, other_a), (b, other_b) = (self.pair(step.input(index)) for index in (0, 1))
        over, other_over = (make.add("Reciprocal", name) for name in (b, other_b))
        first = make.add("Mul", step.g, self.mean(step, over, other_over))
        both = make.add("Mul", over, other_over)
        tilt = make.add("Neg", make.add("Mul", self.mean(step, a, other_a), both))
        return sum_to_inputs(step, [first, make.add("Mul", step.g, tilt)])

    def swish(self, step: BackwardStep) -> list[str | None]:
        """Hard swish as x·c, c = min(max(x/6 + 1/2, 0), 1)."""
        make, x = step.make, step.x
        other = self.reference[x]
        c, other_c = (make.add("HardSigmoid", name, alpha=1 / 6, beta=0.5) for name in (x, other))
        change = make.add("Sub", x, other)
        both = make.add("Add", make.add("Abs", x), make.add("Abs", other))
        near = make.add(
            "LessOrEqual", make.add("Abs", change), make.add("Mul", both, make.number(SAME_NUMBER))
        )
        inside = make.add("Less", make.add("Abs", x), make.number(3.0))
        slope = make.add("Where", inside, make.number(1 / 6), make.number(0.0))
        ratio = make.add(
            "Div", make.add("Sub", c, other_c), make.add("Where", near, make.number(1.0), change)
        )
        ratio = make.add("Where", near, slope, ratio)
        whole = make.add(
            "Add", self.mean(step, c, other_c), make.add("Mul", self.mean(step, x, other), ratio)
        )
        return [make.add("Mul", step.g, whole)]

    def normalise_exponentials(self, step: BackwardStep) -> list[str | None]:
        """Softmax as e/S, e = exp(x − c) and S their sum, with one c for image and reference."""
        make, x = step.make, step.x
        other = self.reference[x]
        axes = [step.attribute("axis", -1) % len(step.shape(x))]
        top = make.reduce("ReduceMax", make.add("Max", x, other), axes, keepdims=True)
        e, other_e = (make.add("Exp", make.add("Sub", name, top)) for name in (x, other))
        s, other_s = (
            make.add("Reciprocal", make.reduce_sum(name, axes, keepdims=True)) for name in (e, other_e)
        )
        whole = make.reduce_sum(make.add("Mul", step.g, self.mean(step, e, other_e)), axes, keepdims=True)
        tilt = make.add("Mul", whole, make.add("Mul", s, other_s))
        of_e = make.add("Sub", make.add("Mul", step.g, self.mean(step, s, other_s)), tilt)
        change = make.add("Sub", x, other)
        near = make.add("LessOrEqual", make.add("Abs", change), make.number(SAME_SLOPE))
        ratio = make.add(
            "Div", make.add("Sub", e, other_e), make.add("Where", near, make.number(1.0), change)
        )
        return [make.add("Mul", of_e, make.add("Where", near, self.mean(step, e, other_e), ratio))]

    def standardise(self, step: BackwardStep) -> list[str | None]:
        """Layer normalisation as s·c/σ + b, c = x − μ and σ² = mean c² + ε, of which Δσ = Δσ²/(σ + σ′)."""
        if step.needs_gradient(1) or step.needs_gradient(2):
            raise refuse(step, "DeepLIFT", "its scale depends on the image")
        make, x = step.make, step.x
        rank = len(step.shape(x))
        axes = list(range(step.attribute("axis", -1) % rank, rank))
        g = make.add("Mul", step.g, step.input(1))
        parts = []
        for name in (x, self.reference[x]):
            centred = make.add("Sub", name, make.reduce("ReduceMean", name, axes, keepdims=True))
            power = make.reduce("ReduceMean", make.add("Mul", centred, centred), axes, keepdims=True)
            spread = make.add("Sqrt", make.add("Add", power, make.number(step.attribute("epsilon", 1e-5))))
            parts.append((centred, spread))
        (c, spread), (other_c, other_spread) = parts
        over, other_over = (make.add("Reciprocal", name) for name in (spread, other_spread))
        middle = self.mean(step, c, other_c)
        of_c = make.add("Mul", g, self.mean(step, over, other_over))
        # of the power: −Σ ḡ·(c + c′)/2 / (σ·σ′·(σ + σ′)); a mean of c² has (c + c′)/n for slopes
        tilt = make.reduce("ReduceMean", make.add("Mul", g, middle), axes, keepdims=True)
        both = make.add("Mul", over, other_over)
        tilt = make.add("Div", make.add("Mul", tilt, both), self.mean(step, spread, other_spread))
        of_c = make.add("Sub", of_c, make.add("Mul", tilt, middle))
        return [make.add("Sub", of_c, make.reduce("ReduceMean", of_c, axes, keepdims=True))]

    def pair(self, name: str) -> tuple[str, str]:
        """A tensor's names in both passes."""
        return name, self.reference.get(name, name)

    def mean(self, step: BackwardStep, first: str, second: str) -> str:
        """Half the sum of two tensors."""
        return step.make.add("Mul", step.make.add("Add", first, second), step.make.number(0.5))
