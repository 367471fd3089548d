"""Checks nodes against their operators' schemas: number of inputs and outputs, types of attributes.

What follows the reading takes an operator's required inputs and attributes as given. So a node that lacks
one, or holds text where its operator takes a number, is refused here, once, as runtimes refuse it when they
load it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cache

import onnx
from onnx import AttributeProto, NodeProto
from onnx.defs import OpSchema

from camrt.errors import ModelFileError
from camrt.export.graph.traversal import node_label, node_subgraphs, normalise_domain
from camrt.export.limits import quote_name

__all__ = ["check_attributes", "check_signatures"]

_OPTION = OpSchema.FormalParameterOption


def check_attributes(nodes: Iterable[NodeProto]) -> None:
    """Check that every attribute of every node is one value of a known type.

    Args:
        nodes: Every node of the model.

    Raises:
        ModelFileError: An attribute without a type, given twice, or of text that is not UTF-8.
    """
    for node in nodes:
        names = set[str]()
        for item in node.attribute:
            if item.type == AttributeProto.UNDEFINED:
                raise _refuse(node, f"has an attribute {quote_name(item.name)} that does not say its type")
            if item.name in names:
                raise _refuse(node, f"has two attributes {quote_name(item.name)}")
            names.add(item.name)
            for text in (item.s, *item.strings):
                try:
                    text.decode()
                except UnicodeDecodeError:
                    raise _refuse(node, f"has an attribute {quote_name(item.name)} that is no text") from None


def check_signatures(nodes: Iterable[NodeProto], versions: Mapping[str, int]) -> None:
    """Check nodes of standard operators against the operators' own definitions.

    Args:
        nodes: Every node of the model, after inlining; their operators are known to be there.
        versions: The model's operator sets.

    Raises:
        ModelFileError: Too few or too many inputs or outputs, of a node or of a graph inside it, one that may
            not be left out, an attribute that the operator does not have or of another type than it has, or
            none where it must have one.
    """
    for node in nodes:
        domain = normalise_domain(node.domain)
        schema = _schema(node.op_type, versions[domain], domain)
        if schema is None:
            continue
        _check_values(node, node.input, schema.inputs, schema.min_input, schema.max_input, "input")
        _check_values(node, node.output, schema.outputs, schema.min_output, schema.max_output, "output")
        known = _attributes(node.op_type, schema.since_version, domain)
        for item in node.attribute:
            if item.name not in known:
                if not item.name.startswith("__"):  # what runtimes write for themselves
                    raise _refuse(
                        node, f"has an attribute {quote_name(item.name)}, which its operator does not have"
                    )
            elif item.type != known[item.name][0]:
                raise _refuse(
                    node, f"has an attribute {quote_name(item.name)} of another type than its operator takes"
                )
        _check_graphs(node)
        for name, (_, required) in known.items():
            if required and all(item.name != name for item in node.attribute):
                raise _refuse(node, f"lacks the attribute {quote_name(name)}")


def _check_values(
    node: NodeProto,
    names: Sequence[str],
    formal: Sequence[OpSchema.FormalParameter],
    fewest: int,
    most: int,
    what: str,
) -> None:
    if not fewest <= len(names) <= most:
        wanted = (
            f"{fewest}"
            if fewest == most
            else f"{fewest} or more"
            if most > 1 << 20
            else f"{fewest} to {most}"
        )
        raise _refuse(node, f"has {len(names)} {what}{'s' * (len(names) != 1)}; its operator takes {wanted}")
    for place, name in enumerate(names):
        option = formal[min(place, len(formal) - 1)].option
        # A left out one of several ends the process of a runtime that reads it; of outputs, nothing is made.
        needed = option == _OPTION.Single or (what == "input" and option == _OPTION.Variadic)
        if not name and needed:
            raise _refuse(node, f"leaves out its {what} {place}, which its operator needs")


def _check_graphs(node: NodeProto) -> None:
    """Check that graphs inside a node take and give as many values as the node has for them."""
    given, made = len(node.input), len(node.output)
    wanted = {"If": (0, made), "Loop": (given, made + 1), "Scan": (given, made)}.get(node.op_type)
    if wanted is None:
        return
    for graph in node_subgraphs(node):
        found = (len(graph.input), len(graph.output))
        if found != wanted:
            raise _refuse(
                node,
                f"holds a graph of {found[0]} inputs and {found[1]} outputs, where {wanted[0]} and "
                f"{wanted[1]} fit",
            )


def _refuse(node: NodeProto, reason: str) -> ModelFileError:
    return ModelFileError(f"{node_label(node)} {reason}; export the model again")


@cache
def _schema(operator: str, version: int, domain: str) -> OpSchema | None:
    """The definition of an operator; None for a runtime's own, and for those newer than their set."""
    if not onnx.defs.has(operator, version, domain):
        return None
    return onnx.defs.get_schema(operator, version, domain)


@cache
def _attributes(operator: str, version: int, domain: str) -> Mapping[str, tuple[int, bool]]:
    """The attributes of an operator: the type of each, as `AttributeProto` has it, and whether it must be."""
    schema = onnx.defs.get_schema(operator, version, domain)
    return {
        name: (AttributeProto.AttributeType.Value(str(item.type).rsplit(".", 1)[1]), bool(item.required))
        for name, item in schema.attributes.items()
    }
