"""Remainders of whole numbers, where ONNX Runtime's own way may end the process.

It divides by the processor's instruction, which stops the program at the smallest number of 32 or 64 bits and
the divisor −1. A remainder by −1 is 0, as by 1: the divisor is made 1 there, which changes no answer.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from onnx import NodeProto, TensorProto, numpy_helper

from camrt.errors import UnsupportedModelError
from camrt.export.expanding.registry import Expansion, expansion
from camrt.export.graph.index import attribute
from camrt.export.graph.traversal import node_label, node_subgraphs
from camrt.export.graph.upkeep import stored_tensors

__all__ = ["refuse_modulo"]

TRAPPING: dict[int, type[np.signedinteger[Any]]] = {TensorProto.INT32: np.int32, TensorProto.INT64: np.int64}


@expansion("Mod", domain="")
def _modulo(step: Expansion) -> None:
    """A mod b with b = −1 made 1, unless b is stored and never −1, or the numbers are of another type."""
    divisor = step.input(1)
    if step.attribute("fmod", 0) or is_never_minus_one(step.into.constants.get(divisor)):
        return
    stored, made = step.into.constants.get(divisor), step.into.types.get(divisor)
    element = made.tensor_type.elem_type if made is not None else 0
    element = element if stored is None else stored.data_type
    if not element:
        raise step.refuse("takes a remainder by numbers of an unknown type, which may end the process")
    if element not in TRAPPING:
        return
    kind = TRAPPING[element]
    found = step.add("Equal", divisor, step.store(np.array(-1, kind), "minus_one"))
    safe = step.add("Where", found, step.store(np.array(1, kind), "one"), divisor)
    step.add("Mod", step.input(0), safe, out=step.y, **step.attributes())


def is_never_minus_one(divisor: TensorProto | None) -> bool:
    """Whether a stored divisor is nowhere −1."""
    return divisor is not None and not bool((numpy_helper.to_array(divisor) == -1).any())


def refuse_modulo(nodes: Iterable[NodeProto], constants: Mapping[str, TensorProto]) -> None:
    """Refuses integer remainders in subgraphs whose divisor is not stored.

    Args:
        nodes: The nodes.
        constants: Stored tensors of the graph around them.

    Raises:
        UnsupportedModelError: There is such a remainder.
    """
    for node in nodes:
        for graph in node_subgraphs(node):
            known = {**constants, **stored_tensors(graph)}
            for inner in graph.node:
                if inner.op_type != "Mod" or attribute(inner, "fmod", 0):
                    continue
                if len(inner.input) < 2 or not is_never_minus_one(known.get(inner.input[1])):
                    raise UnsupportedModelError(
                        f"{node_label(inner)} takes a remainder of whole numbers, inside another node, by a "
                        "number that is not stored: it may end the process"
                    )
            refuse_modulo(graph.node, known)
