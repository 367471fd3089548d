"""How a file's answer becomes logits: what the end of its graph says, and what its numbers do.

1. Operators behind the class scores that change no number, or none that matters, are looked through:
   reshapes, casts, pairs of QuantizeLinear and DequantizeLinear, bounds at or beyond 0 and 1, a positive
   factor.
2. Softmax, LogSoftmax, Sigmoid, the exponential or logarithm of one, and exponentials over their sum are then
   taken off: the logits are what they read.
3. Any other answer that its last operators keep from being negative is looked at on a few images of noise.
   Where each row sums to one it is a distribution p, whose logits are log p. Where it does not, but the
   operators keep it within [0, 1], each number is a sigmoid's, with the logit log(p/(1−p)). In both cases
   the probabilities made of the logits are the file's own numbers.
4. Everything else is logits. One number an image that no logit would be is a plain value.

Noise alone never makes a number a sigmoid's: an answer may lie in [0, 1] by accident.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from onnx import NodeProto, TensorProto

from camrt.export.graph.index import Graph, attribute, opset
from camrt.export.graph.operators import RESHAPING, preserves_values
from camrt.export.outputs.class_scores import ScoreShapes, ScoreTensor
from camrt.export.outputs.score_kinds import (
    ONE_LOGIT_NOTE,
    PLAIN_VALUE_NOTE,
    ROUNDING_TOLERANCE,
    LogitTransform,
    Prober,
    is_distribution,
    is_implausible_logit,
    is_in_unit_interval,
    probe_output,
    sum_tolerance,
)
from camrt.export.outputs.value_bounds import FIXED_RANGES, Interval, find_bounds

__all__ = ["Activation", "InverseLink", "OutputForm", "find_output_form"]

Activation = Literal["softmax", "sigmoid", "none"]
"""How logits become probabilities; "none" of plain numbers, which have none."""
InverseLink = Literal[Activation, "exp"]
"""The function from logits to probabilities: that activation, or the exponential of logits that are log p."""

# Of rows that a quantiser rounded, at most; and how many tensors are looked at for one.
MAX_SUM_ERROR = 5e-2
MOST_SEEN = 100


@dataclass(frozen=True)
class OutputForm:
    """How a file's answer becomes logits.

    Attributes:
        tensor: What they are made of.
        activation: How they become probabilities; None where nothing says so.
        reading: What is done to the tensor: nothing, log p, or log(p/(1−p)).
        recognised: What the file ends in, where that says that it gives probabilities.
        notes: What a user should know.
    """

    tensor: str
    activation: Activation | None = None
    reading: LogitTransform = "as it is"
    recognised: str | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class OutputCore:
    """The tensor behind an output once reshapes, casts, quantisers, harmless clips and factors are removed.

    Attributes:
        tensor: The tensor.
        scale: How many times it the file's answer is.
        step: Of the coarsest quantiser behind it; 0 without one.
        clipped: Whether bounds were looked through.
    """

    tensor: str
    scale: float = 1.0
    step: float = 0.0
    clipped: bool = False


def find_output_form(
    scores: ScoreShapes, answer: ScoreTensor, activation: Activation | None, prober: Prober | None
) -> OutputForm:
    """How an answer becomes logits.

    Args:
        scores: The shapes of the graph's tensors.
        answer: The file's class scores.
        activation: What the user says of them, which overrules what is found: "none" takes the file's numbers
            as they are.
        prober: What runs the model on noise; asked only where the graph leaves it open, and at most once.
    """
    if activation == "none":
        return OutputForm(answer.name, "none")
    found = find_written_activation(scores, answer)
    if found is None:
        found = probe_output_form(scores, answer, activation, prober)
    if activation is None or activation == found.activation:
        return found
    notes = found.notes
    if found.recognised is not None and found.reading == "as it is":
        notes = (
            *notes,
            f"the file ends in {found.recognised}; probabilities are by {activation}, as asked for",
        )
    return replace(found, activation=activation, notes=notes)


def find_core(
    scores: ScoreShapes, answer: ScoreTensor, *, through_bounds: bool, through_factors: bool = True
) -> OutputCore:
    """Looks through operators that change no number of an answer, or none that matters."""
    graph, found = scores.graph, OutputCore(answer.name)
    while (node := graph.producer(found.tensor)) is not None:
        step, scale, clipped = found.step, found.scale, found.clipped
        source = node.input[0] if node.input else ""
        if node.op_type == "DequantizeLinear":
            quantiser = graph.producer(source)
            size = graph.constant(node.input[1])
            if quantiser is None or quantiser.op_type != "QuantizeLinear" or size is None or size.size != 1:
                break
            source, step = quantiser.input[0], max(step, float(size.reshape(-1)[0]) * scale)
        elif node.op_type in ("Mul", "Div") and through_factors:
            factor, source = find_positive_factor(graph, node)
            scale *= factor
            if not factor:
                break
        elif node.op_type in ("Clip", "Max", "Min"):
            source = find_harmless_bound(graph, node) if through_bounds else ""
            clipped = True
        elif not (preserves_values(node) or node.op_type in RESHAPING):
            break
        if not source or scores.classes(source) != answer.classes:
            break
        found = OutputCore(source, scale, step, clipped)
    return found


def find_positive_factor(graph: Graph, node: NodeProto) -> tuple[float, str]:
    """The positive constant that a Mul or Div multiplies all numbers by, and what it multiplies; else 0."""
    for position, name in enumerate(node.input):
        number, largest = find_bounds(graph, name) if graph.is_constant(name) else (0.0, 0.0)
        if number == largest and 0.0 < number < math.inf:
            if node.op_type == "Mul":
                return number, node.input[1 - position]
            if position == 1:
                return 1.0 / number, node.input[0]
    return 0.0, ""


def find_harmless_bound(graph: Graph, node: NodeProto) -> str:
    """What a Clip, Max or Min reads whose bounds leave probabilities alone; else nothing."""
    if node.op_type == "Clip":
        low, high = attribute(node, "min"), attribute(node, "max")
        for position in (1, 2):
            given = node.input[position] if len(node.input) > position else ""
            value = graph.constant(given)
            if given and (value is None or value.size != 1):
                return ""
            if value is not None:
                low, high = (float(value.flat[0]), high) if position == 1 else (low, float(value.flat[0]))
        fits = (low is None or low <= ROUNDING_TOLERANCE) and (
            high is None or high >= 1.0 - ROUNDING_TOLERANCE
        )
        return node.input[0] if fits else ""
    constants = [graph.constant(name) for name in node.input]
    others = [name for name, value in zip(node.input, constants, strict=True) if value is None]
    for value in constants:
        if value is None:
            continue
        far = value <= ROUNDING_TOLERANCE if node.op_type == "Max" else value >= 1.0 - ROUNDING_TOLERANCE
        if not bool(np.all(far)):
            return ""
    return others[0] if len(others) == 1 else ""


def find_written_activation(scores: ScoreShapes, answer: ScoreTensor) -> OutputForm | None:
    """A softmax or sigmoid that the graph itself ends in."""
    graph = scores.graph
    found = find_core(scores, answer, through_bounds=True)
    node = graph.producer(found.tensor)
    if node is None:
        return None
    unchanged = found.scale == 1.0 and not found.clipped
    inner = graph.producer(node.input[0]) if node.op_type in ("Exp", "Log") else None
    activation: Activation = "softmax"
    name = node.op_type
    if is_over_classes(scores, node, "Softmax") or (
        unchanged and is_over_classes(scores, node, "LogSoftmax")
    ):
        source = node.input[0]
    elif node.op_type == "Sigmoid":
        source, activation = node.input[0], "sigmoid"
    elif inner is not None and node.op_type == "Exp" and is_over_classes(scores, inner, "LogSoftmax"):
        source, name = inner.input[0], "Exp of LogSoftmax"
    elif inner is not None and unchanged and is_over_classes(scores, inner, "Softmax"):
        source, name = inner.input[0], "Log of Softmax"
    elif inner is not None and unchanged and node.op_type == "Log" and inner.op_type == "Sigmoid":
        source, activation, name = inner.input[0], "sigmoid", "Log of Sigmoid"
    elif (raised := find_written_softmax(scores, node)) is not None:
        source, name = raised, "exponentials over their sum"
    else:
        return None
    if graph.shape(source) is not None and scores.classes(source) != answer.classes:
        return None
    notes = []
    if found.scale != 1.0:
        name = f"{name}, times {found.scale:g}"
    if found.step:
        notes.append(
            f"the file rounds its answers to steps of {found.step:.3g}; probabilities are given unrounded"
        )
    return OutputForm(source, activation, recognised=name, notes=tuple(notes))


def is_over_classes(scores: ScoreShapes, node: NodeProto, operator: str) -> bool:
    """Whether a node is that operator, over the classes of each image by itself.

    It keeps its shape, so that the output's tells where the input's is not known.
    """
    if node.op_type != operator:
        return False
    known = scores.graph.shape(node.output[0]) is not None
    name = node.output[0] if known else node.input[0]
    shape = scores.shape(name)
    if shape is None or scores.classes(name) is None:
        return False
    newer = opset(scores.graph.model) >= 13
    axis = attribute(node, "axis", -1 if newer else 1) % len(shape)
    classes = scores.class_axis(name)
    if classes is None:  # one class: a softmax over any axis but the images' gives one
        return axis > 0 or scores.one_image
    if newer:
        return bool(axis == classes)
    # Before opset 13 everything from `axis` on was flattened.
    return math.prod(shape[axis:]) == shape[classes] and (axis > 0 or scores.one_image)


def find_written_softmax(scores: ScoreShapes, node: NodeProto) -> str | None:
    """The logits of exp(x)/Σ exp(x), a softmax written out; a largest number taken off first is put back."""
    graph = scores.graph
    if node.op_type != "Div":
        return None
    raised, total = (graph.producer(name) for name in node.input)
    if raised is None or raised.op_type != "Exp" or total is None or total.op_type != "ReduceSum":
        return None
    if total.input[0] != node.input[0] or not reduces_classes(scores, total):
        return None
    shifted = graph.producer(raised.input[0])
    if shifted is not None and shifted.op_type == "Sub":
        largest = graph.producer(shifted.input[1])
        if (
            largest is not None
            and largest.op_type == "ReduceMax"
            and largest.input[0] == shifted.input[0]
            and reduces_classes(scores, largest)
        ):
            return str(shifted.input[0])
    return str(raised.input[0])


def reduces_classes(scores: ScoreShapes, node: NodeProto) -> bool:
    """Whether a reduction runs over the class axis alone, and keeps it."""
    shape = scores.shape(node.input[0])
    axes = attribute(node, "axes")
    if axes is None and len(node.input) > 1 and node.input[1]:
        value = scores.graph.constant(node.input[1])
        axes = None if value is None else value.reshape(-1).tolist()
    if shape is None or not axes or not attribute(node, "keepdims", 1):
        return False
    found: list[int | None] = [axis % len(shape) for axis in axes]
    return found == [scores.class_axis(node.input[0])]


def probe_output_form(
    scores: ScoreShapes, answer: ScoreTensor, activation: Activation | None, prober: Prober | None
) -> OutputForm:
    """Classifies an output that ends in no softmax or sigmoid, by its value bounds and a run on noise."""
    graph = scores.graph
    within = find_bounds(graph, answer.name)
    if within[0] < 0.0:
        return make_plain_form(scores, answer, activation, prober)
    inner = find_core(scores, answer, through_bounds=False)
    unscaled = find_bounds(graph, inner.tensor)
    if is_in_unit_interval(within) and not is_in_unit_interval(unscaled):
        inner, unscaled = find_core(scores, answer, through_bounds=False, through_factors=False), within
    node = graph.producer(inner.tensor)
    recognised = None if node is None else node.op_type
    reading: LogitTransform = "logit" if activation == "sigmoid" else "log"
    if is_in_unit_interval(unscaled) and activation is not None:
        return OutputForm(inner.tensor, activation, reading, recognised)
    values = None if answer.classes == 1 else probe_output(graph, inner.tensor, answer.classes, prober)
    misses = sum_tolerance(graph.types.get(inner.tensor, TensorProto.FLOAT))
    misses = max(misses, min(answer.classes * coarsest_quantiser_step(graph, inner.tensor), MAX_SUM_ERROR))
    if values is not None and is_distribution(values, unscaled, misses):
        why, read = "its rows sum to one on noise", "a distribution p, with logits log p"
    elif is_in_unit_interval(unscaled):
        why = "its last operators keep it so"
        if answer.classes > 1:
            told = values is not None and len(values)
            why += ", and its rows do not sum to one" if told else ", and it gave no numbers for noise"
        read, reading, activation = "sigmoids p, with logits log(p/(1−p))", "logit", "sigmoid"
    else:
        return make_plain_form(scores, answer, activation, prober, within)
    note = f"{inner.tensor!r} lies in [0, 1]; {why}: read as {read}; activation= overrules this"
    return OutputForm(inner.tensor, activation or "softmax", reading, recognised, (note,))


def coarsest_quantiser_step(graph: Graph, name: str) -> float:
    """The largest step of the quantisers between a tensor and the softmaxes or sigmoids it is of, or 0."""
    pending, seen, step = [name], set[str](), 0.0
    while pending:
        current = pending.pop()
        node = graph.producer(current)
        if node is None or current in seen or node.op_type in FIXED_RANGES or len(seen) > MOST_SEEN:
            continue
        seen.add(current)
        if node.op_type == "DequantizeLinear" and not graph.is_constant(current):
            step = max(step, find_bounds(graph, node.input[1])[1])
        pending.extend(node.input)
    return step if len(seen) <= MOST_SEEN else 0.0


def make_plain_form(
    scores: ScoreShapes,
    answer: ScoreTensor,
    activation: Activation | None,
    prober: Prober | None,
    within: Interval = (-math.inf, math.inf),
) -> OutputForm:
    """Takes the output as logits; one number per image that cannot be a logit is taken as a plain value."""
    if answer.classes != 1 or activation is not None:
        return OutputForm(answer.name)
    values = probe_output(scores.graph, answer.name, 1, prober) if within[0] < 0.0 else None
    if within[0] >= 0.0 or (values is not None and is_implausible_logit(values)):
        return OutputForm(answer.name, "none", notes=(PLAIN_VALUE_NOTE,))
    return OutputForm(answer.name, notes=(ONE_LOGIT_NOTE,))
