"""How much memory runs in OpenVINO take, found before they are run: OpenVINO itself has no bound.

It keeps each tensor until nothing reads it any more, and puts others in its place then. So what a run takes
is the most that tensors which live at the same time take together. OpenVINO infers their shapes from those of
the inputs; a graph in which the numbers of an image decide how large something is has no such bound, and is
refused. What an operator takes for itself meanwhile, and layouts that pad channels, come on top.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from camrt.errors import BackendError
from camrt.export.budget import allowed_memory, reserve, with_deadline
from camrt.kernels.fork_safety import ForkSafeLock

__all__ = ["RunSizes", "reserve_constants"]

LARGE_CONSTANT_BYTES = 1 << 14  # a constant that says sizes is smaller
BODIES = ("get_body", "get_then_body", "get_else_body")


class RunSizes:
    """What runs of a graph take, beside its weights.

    Args:
        graph: An `openvino.Model`, which becomes this object's own.
        parameter: `openvino.op.Parameter`.
        label: What it is, for error messages.
    """

    def __init__(self, graph: Any, parameter: Any, label: str) -> None:
        self._weights = drop_large_constants(graph, parameter)
        self._graph = graph
        self._label = label
        self._lock = ForkSafeLock()
        # By the shapes of a row, the rows of a run that was looked at, and its bytes.
        self._known: dict[tuple[tuple[int, ...], ...], tuple[int, int]] = {}

    def reserve(self, shapes: Sequence[tuple[int, ...]]) -> int:
        """Bytes that a run takes, or some more.

        They grow no faster than rows do: so twice the rows take twice the bytes at most.

        Args:
            shapes: Of the inputs, rows first.

        Raises:
            MemoryLimitError: More than the call at hand may take.
            BackendError: The shapes do not say.
        """
        rows = shapes[0][0]
        row = tuple(shape[1:] for shape in shapes)
        with self._lock:
            known = self._known.get(row)
            if known is None or known[1] * max(rows, known[0]) // known[0] > allowed_memory():
                self._graph.reshape({number: list(shape) for number, shape in enumerate(shapes)})
                known = self._known[row] = rows, live_bytes(self._graph, self._weights, self._label)
        needed = known[1] * max(rows, known[0]) // known[0]
        reserve(needed, f"a run of the {self._label}")
        return needed


def reserve_constants(graph: Any, label: str) -> None:
    """Asks for what a graph makes of constants: OpenVINO computes that when it compiles it.

    Args:
        graph: An `openvino.Model`.
        label: What it is, for error messages.

    Raises:
        MemoryLimitError: More than the call at hand may take.
        BackendError: What is constant does not say how large something becomes.
    """
    made = sum(
        output_bytes(output, label)
        for op, constant in mark_constants(graph, frozenset())
        if constant and op.get_type_name() != "Constant"
        for output in op.outputs()
    )
    reserve(made, f"constants of the {label}")


def live_bytes(graph: Any, weights: frozenset[str], label: str) -> int:
    """The most bytes of tensors that live at the same time, those of weights left out.

    Args:
        graph: An `openvino.Model` whose inputs have one size.
        weights: Names of operators that stand for weights.
        label: What it is, for error messages.

    Raises:
        BackendError: The size of something is not known.
    """
    ops = [op for op, constant in mark_constants(graph, weights) if not constant]
    reads = Counter(source_of(given) for op in ops for given in op.inputs())
    alive: dict[tuple[str, int], int] = {}
    most = live = 0
    for op in with_deadline(ops):
        made = {(op.get_name(), output.get_index()): output_bytes(output, label) for output in op.outputs()}
        if op.get_type_name() == "Result":
            continue  # it is what it reads
        alive |= made
        live += sum(made.values())
        inside = [getattr(op, body)() for body in BODIES if hasattr(op, body)]
        most = max(most, live + max((live_bytes(body, weights, label) for body in inside), default=0))
        reads.subtract(source_of(given) for given in op.inputs())
        for source in {*map(source_of, op.inputs()), *made}:
            if reads[source] <= 0:
                live -= alive.pop(source, 0)
    return most


def mark_constants(graph: Any, weights: frozenset[str]) -> Iterator[tuple[Any, bool]]:
    """Each operator of a graph, and whether what it gives is made of constants alone.

    Args:
        graph: An `openvino.Model`.
        weights: Names of operators that stand for constants.
    """
    found: set[str] = set()
    for op in with_deadline(graph.get_ordered_ops()):
        given = [source_of(one)[0] for one in op.inputs()]
        constant = (
            op.get_type_name() == "Constant"
            or op.get_name() in weights
            or (bool(given) and found.issuperset(given))
        )
        if constant:
            found.add(op.get_name())
        yield op, constant


def source_of(given: Any) -> tuple[str, int]:
    """The name of the operator that an input reads, and which of its outputs."""
    source = given.get_source_output()
    return source.get_node().get_name(), source.get_index()


def output_bytes(output: Any, label: str) -> int:
    """Bytes of an operator's output.

    Raises:
        BackendError: Its size is not known.
    """
    shape = output.get_partial_shape()
    if shape.is_dynamic:
        raise BackendError(
            f"how large {output.get_node().get_friendly_name()!r} of the {label} becomes is decided by "
            "numbers of the image, and OpenVINO has no bound on memory: run the model with "
            "backend='onnxruntime'"
        )
    return math.prod(map(int, shape.to_shape())) * max(int(output.get_element_type().size), 1)


def drop_large_constants(graph: Any, parameter: Any) -> frozenset[str]:
    """Takes the numbers of a graph's weights out of it; inputs stand in their places.

    Args:
        graph: An `openvino.Model`.
        parameter: `openvino.op.Parameter`.

    Returns:
        Names of those inputs.
    """
    added = []
    for op in graph.get_ordered_ops():
        if op.get_type_name() == "Constant" and output_bytes(op.output(0), "graph") > LARGE_CONSTANT_BYTES:
            added.append(parameter(op.get_output_element_type(0), op.get_output_partial_shape(0)))
            op.output(0).replace(added[-1].output(0))
    graph.add_parameters(added)
    return frozenset(one.get_name() for one in added)
