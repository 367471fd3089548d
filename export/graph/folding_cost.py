"""Whether a constant may be computed here: nothing of a file's is begun that could take long.

What computes constants (`camrt.export.graph.index`) is ONNX's reference evaluator, which is written in Python
and
cannot be stopped, and a few numbers of a file can ask it for hours: a Loop that never ends, an Einsum over a
dozen letters. Operators that go through their numbers once are computed whatever their size, which memory
bounds; the others where the work can be counted and is little.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping

from onnx import AttributeProto, NodeProto

from camrt.export.graph.value_propagation import Array

__all__ = ["is_cheap"]

# Multiplications that NumPy does in about a second, and where Python goes through the numbers.
MAX_PRODUCTS = 1 << 32
MAX_NUMBERS = 1 << 24

# Their work goes by other things than the sizes of what they read and make, or is done in Python.
NEVER = frozenset(
    {
        "DFT", "GRU", "GridSample", "LSTM", "Loop", "MaxUnpool", "NonMaxSuppression", "RNN", "RoiAlign",
        "STFT", "Scan", "SequenceMap", "StringNormalizer", "TfIdfVectorizer",
    }
)  # fmt: skip
PRODUCTS = frozenset({"Gemm", "MatMul", "MatMulInteger", "QLinearMatMul"})
# They go through their numbers once.
ELEMENTWISE = frozenset(
    {
        "Abs", "Add", "Cast", "Clip", "Concat", "Constant", "ConstantOfShape", "DequantizeLinear", "Div",
        "Equal", "Erf", "Exp", "Expand", "Flatten", "Gather", "Identity", "Log", "Max", "Min", "Mul", "Neg",
        "Pad", "Pow", "QuantizeLinear", "Reciprocal", "ReduceMax", "ReduceMean", "ReduceMin", "ReduceSum",
        "Relu", "Reshape", "Shape", "Sigmoid", "Slice", "Split", "Sqrt", "Squeeze", "Sub", "Sum", "Tanh",
        "Tile", "Transpose", "Unsqueeze", "Where",
    }
)  # fmt: skip


def is_cheap(node: NodeProto, feeds: Mapping[str, Array], shape: tuple[int, ...] | None) -> bool:
    """Whether computing a node's result takes little time.

    Args:
        node: The node.
        feeds: What it reads.
        shape: Of the result that is asked for, where it is known.
    """
    if node.op_type in NEVER or any(
        item.type in (AttributeProto.GRAPH, AttributeProto.GRAPHS) for item in node.attribute
    ):
        return False
    if node.op_type in ELEMENTWISE:
        return True
    made = math.prod(shape or ())
    if node.op_type in PRODUCTS:
        inner = max((size for value in feeds.values() for size in value.shape), default=1)
        return made * inner <= MAX_PRODUCTS
    if node.op_type == "Einsum":
        return einsum_products(node, feeds) <= MAX_PRODUCTS
    if node.op_type in ("Conv", "ConvInteger", "ConvTranspose", "QLinearConv"):
        return made * max((value.size for value in feeds.values()), default=1) <= MAX_PRODUCTS
    return made + sum(value.size for value in feeds.values()) <= MAX_NUMBERS


def einsum_products(node: NodeProto, feeds: Mapping[str, Array]) -> int:
    """Products that an Einsum is the sum of: one for each combination of what its letters run over."""
    equation = next((item.s.decode() for item in node.attribute if item.name == "equation"), "")
    sizes: dict[str, int] = defaultdict(lambda: 1)
    for term, name in zip(equation.partition("->")[0].split(","), node.input, strict=False):
        letters = term.replace(" ", "").replace("...", "")
        shape = feeds[name].shape
        for letter, size in zip(reversed(letters), reversed(shape), strict=False):
            sizes[letter] = max(sizes[letter], size)
        for axis, size in enumerate(shape[: max(len(shape) - len(letters), 0)]):
            sizes[f"...{axis}"] = max(sizes[f"...{axis}"], size)
    return math.prod(sizes.values())
