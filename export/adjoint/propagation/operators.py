"""What the rules of DeepLIFT and LRP know about each operator."""

from __future__ import annotations

from collections.abc import Sequence

from camrt.errors import AdjointError
from camrt.export.adjoint.registry import BackwardStep
from camrt.export.graph.operators import RESHAPING
from camrt.export.rewrites.input_form import is_rounding

__all__ = [
    "ACTIVATIONS",
    "BENT",
    "LINEAR",
    "MAXIMA",
    "MOVES",
    "PIECEWISE_LINEAR",
    "PRODUCTS",
    "SCALE_FREE",
    "is_linear",
    "reached_inputs",
    "refuse",
]

# Move numbers about, or copy them.
MOVES = RESHAPING | {
    "Cast", "CastLike", "Concat", "DepthToSpace", "Dropout", "Expand", "Gather",
    "GatherElements", "GatherND", "Identity", "Pad", "Slice",
    "SpaceToDepth", "Split", "Tile",
}  # fmt: skip
# Linear in all that they read, but for parameters that are constants.
LINEAR = frozenset(
    {
        "Add", "AveragePool", "BatchNormalization", "ConvTranspose", "CumSum", "GlobalAveragePool", "Mean",
        "Neg", "ReduceMean", "ReduceSum", "Resize", "Sub", "Sum", "Upsample",
    }
)  # fmt: skip
# Linear in each of the two tensors that they read.
PRODUCTS = frozenset({"Conv", "Einsum", "Gemm", "MatMul", "Mul"})
# Give the largest of some numbers.
MAXIMA = frozenset({"GlobalMaxPool", "MaxPool", "ReduceMax"})
# Functions of each number by itself whose graph is made of straight lines,
PIECEWISE_LINEAR = frozenset(
    {"Abs", "Clip", "HardSigmoid", "LeakyRelu", "Max", "Min", "PRelu", "Relu", "Shrink", "ThresholdedRelu"}
)
# that bend at numbers of about one,
BENT = frozenset(
    {
        "Celu", "Cos", "Elu", "Erf", "Exp", "FastGelu", "Gelu", "Mish", "QuickGelu", "Selu",
        "Sigmoid", "Sin", "Softplus", "Softsign", "Swish", "Tanh",
    }
)  # fmt: skip
# and that bend alike whatever their numbers' size.
SCALE_FREE = frozenset({"Log", "Pow", "Reciprocal", "Sqrt"})
# What stands between layers.
ACTIVATIONS = PIECEWISE_LINEAR | {"HardSwish"} | BENT - {"Cos", "Exp", "Sin"}


def reached_inputs(step: BackwardStep) -> list[int]:
    """The positions of the inputs that depend on the image."""
    return [index for index in range(len(step.node.input)) if step.needs_gradient(index)]


def is_linear(step: BackwardStep, reached: Sequence[int]) -> bool:
    """Whether a node is linear, or linear and a constant, in the inputs at `reached` taken together."""
    kind = step.node.op_type
    if is_rounding(step.node):  # of the images, to a file's whole numbers
        return True
    if kind == "Where":
        producer = step.graph.producer(step.input(0))
        return 0 not in reached or (producer is not None and producer.op_type == "IsNaN")
    if kind in PRODUCTS or kind == "Div":
        alone = reached == [0] if kind == "Div" else len(reached) == 1
        return alone or (kind in ("Conv", "Gemm") and 1 not in reached)
    return kind in MOVES | LINEAR


def refuse(step: BackwardStep, method: str, reason: str) -> AdjointError:
    """The error that says that a method has no rule for a node."""
    return AdjointError(
        f"{method} has no rule for {step.label()}: {reason}. 'integrated-textbook', 'expected-gradients' and "
        "'gradient-times-input' share a score out among the pixels of any model"
    )
