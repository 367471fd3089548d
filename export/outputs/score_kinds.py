"""Tells logits, probabilities and plain values apart by their numbers, and makes logits of each.

Numbers p that a model gives for some images of noise tell a distribution from other numbers; whether they
are sigmoids only their bounds tell, since an answer may lie in [0, 1] by accident.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import onnx
from onnx import NodeProto, TensorProto, helper, numpy_helper

from camrt.export.graph.index import Graph
from camrt.export.outputs.value_bounds import Interval

__all__ = [
    "MIN_PROBABILITY",
    "ONE_LOGIT_NOTE",
    "PLAIN_VALUE_NOTE",
    "ROUNDING_TOLERANCE",
    "LogitTransform",
    "Prober",
    "is_distribution",
    "is_implausible_logit",
    "is_in_unit_interval",
    "make_logit_nodes",
    "probe_output",
    "sum_tolerance",
]

Array = npt.NDArray[Any]
LogitTransform = Literal["as it is", "log", "logit"]
"""How answers become logits: they are some; log p; or log(p/(1−p))."""
Prober = Callable[[onnx.ModelProto, tuple[int, ...], str], Array | None]
"""Finds what a tensor of a model holds for some images of noise of a shape; None where it cannot be run."""

# Bounds within this of 0 and 1 take nothing off a probability that matters.
ROUNDING_TOLERANCE = 1e-4
# By how much a row of probabilities may miss one: some roundings of each number.
SUM_TOLERANCES = {int(TensorProto.FLOAT16): 4e-3, int(TensorProto.BFLOAT16): 3e-2}
DEFAULT_SUM_TOLERANCE = 1e-4
# A sigmoid rounds to one in float32 from here on: a logit that is beyond for all noise decides nothing.
SATURATED = 17.0
# The least probability whose logarithm is taken: float32's smallest normal number.
MIN_PROBABILITY = float(np.finfo(np.float32).tiny)
PLAIN_VALUE_NOTE = (
    "one number an image, and on noise it is none that a logit would be: taken as a plain value, which has "
    "no probability; activation='sigmoid' makes one"
)
ONE_LOGIT_NOTE = (
    "one number an image, and nothing says what it is: read as the logit of a sigmoid; activation='none' "
    "takes it as a plain value"
)


def sum_tolerance(element: int) -> float:
    """By how much rows of probabilities of an ONNX element type may miss one."""
    return SUM_TOLERANCES.get(element, DEFAULT_SUM_TOLERANCE)


def is_in_unit_interval(interval: Interval) -> bool:
    """Whether an interval lies within [0, 1], but for roundings."""
    return interval[0] >= 0.0 and interval[1] <= 1.0 + ROUNDING_TOLERANCE


def probe_output(graph: Graph, name: str, classes: int, prober: Prober | None) -> Array | None:
    """Finite rows (n, C) of a tensor on noise; None where it cannot be run."""
    values = None if prober is None else prober(graph.model, graph.input_shape, name)
    if values is None or values.size % classes:
        return None
    rows = values.reshape(-1, classes).astype(np.float64)
    return rows[np.isfinite(rows).all(axis=1)]


def is_distribution(rows: Array, within: Interval, misses: float) -> bool:
    """Whether every row of numbers that are never negative sums to one, and none by accident.

    A row that holds nothing but zeros and ones proves nothing, as bounds may have cut it. Where only the
    lower bound is known, rows have to differ: a constant may sum to one as well.

    Args:
        rows: (n, C) finite numbers.
        within: The bounds they are known to keep.
        misses: By how much roundings may move a row's sum.
    """
    classes = rows.shape[1]
    if classes < 2 or not len(rows) or np.abs(rows.sum(axis=1) - 1.0).max() > misses:
        return False
    telling = rows[((rows > 0.0) & (rows < 1.0 - misses)).any(axis=1)]
    if rows.min() < -misses or not len(telling):
        return False
    return is_in_unit_interval(within) or bool(np.ptp(telling, axis=0).max() > misses / classes)


def is_implausible_logit(rows: Array) -> bool:
    """Whether one number an image is, on all noise, so far from zero that its sigmoid is 0 or 1."""
    return bool(len(rows)) and bool(np.abs(rows).min() >= SATURATED)


def make_logit_nodes(source: str, reading: LogitTransform) -> tuple[list[NodeProto], list[TensorProto], str]:
    """Nodes that make logits of a float32 tensor of probabilities; their constants, and the logits' name.

    Probabilities are held at or above the smallest normal number, so that logits are finite: between −87.3
    and 87.3. Within, nothing is lost but roundings of the logarithm.
    """
    if reading == "as it is":
        return [], [], source
    constants = [numpy_helper.from_array(np.array(MIN_PROBABILITY, np.float32), "camrt_least")]
    nodes = [
        helper.make_node("Max", [source, "camrt_least"], ["camrt_held"]),
        helper.make_node("Log", ["camrt_held"], ["camrt_log"]),
    ]
    if reading == "log":
        return nodes, constants, "camrt_log"
    constants.append(numpy_helper.from_array(np.array(1.0, np.float32), "camrt_one"))
    nodes += [
        helper.make_node("Sub", ["camrt_one", source], ["camrt_rest"]),
        helper.make_node("Max", ["camrt_rest", "camrt_least"], ["camrt_rest_held"]),
        helper.make_node("Log", ["camrt_rest_held"], ["camrt_log_rest"]),
        helper.make_node("Sub", ["camrt_log", "camrt_log_rest"], ["camrt_logit"]),
    ]
    return nodes, constants, "camrt_logit"
