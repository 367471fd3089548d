"""Model-local functions: counting what they expand to, then expanding them.

A call stands for the whole body of its function, whose calls stand for bodies again, so a kilobyte can
mean 10¹² nodes. The expansion is counted first, each function once (memoised over the call graph):

    nodes(f) = Σ over plain nodes of 1        + Σ over calls of nodes(callee)
    bytes(f) = Σ over plain nodes of its size + Σ over calls of [bytes(callee) + refs(callee) · size(call)]

where refs is the number of places that an attribute of the call is copied to, and every reference to a
name may become as long as the longest name of the file. Both are upper bounds of what inlining makes.

What expands them is onnx's own inliner. onnx-ir's `InlinePass` was tried and not taken: its time grows faster
than the square of the nodes it makes (4,096 from 12 functions that call each other twice take minutes), and
it bounds neither.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import onnx
from onnx import inliner

from camrt.errors import ModelFileError, UnsafeModelError, UnsupportedModelError
from camrt.export.graph.traversal import (
    node_label,
    node_subgraphs,
    normalise_domain,
    subgraphs_of,
    walk_nodes,
)
from camrt.export.limits import ReadingLimits, human_bytes, human_count, quote_name

__all__ = ["inline_functions"]

_Key = tuple[str, str, str]

_RENAMING = 32  # characters that the inliner may add to a name, per level of nesting


@dataclass(frozen=True)
class _Cost:
    nodes: int
    size: int
    references: int  # attributes copied from the call
    names: int  # inputs and outputs of the nodes
    depth: int


def inline_functions(model: onnx.ModelProto, limits: ReadingLimits) -> None:
    """Replace every call of a model-local function by its body, in place.

    Only nodes pass through onnx's inliner: the initializers stay where they are, uncopied.

    Args:
        model: A model whose external data has not been read yet.
        limits: What is allowed.

    Raises:
        ModelFileError: Two functions of one name, or a call with more arguments than its function takes.
        UnsafeModelError: Functions that call themselves, or expand to more than the limits allow.
        UnsupportedModelError: A function that cannot be expanded, such as one of another opset version.
    """
    if not model.functions:
        return
    counter = _Counter(model, limits)
    total = counter.cost_of(model.graph.node, "the graph", ())
    if total.nodes > limits.max_nodes_after_inlining:
        raise UnsafeModelError(
            f"expands to {human_count(total.nodes)} nodes once its functions are inlined; "
            f"at most {limits.max_nodes_after_inlining} are allowed"
        )
    grown = total.size + total.names * (counter.longest_name + _RENAMING * (total.depth + 1))
    if grown > limits.max_bytes_after_inlining:
        raise UnsafeModelError(
            f"expands to {human_bytes(grown)} of nodes once its functions are inlined; "
            f"at most {human_bytes(limits.max_bytes_after_inlining)} are allowed"
        )
    if counter.called:
        _inline(model, counter.called)
    del model.functions[:]


def _key(item: onnx.NodeProto | onnx.FunctionProto) -> _Key:
    name = item.op_type if isinstance(item, onnx.NodeProto) else item.name
    return normalise_domain(item.domain), name, item.overload


class _Counter:
    """Counts the expansion of functions, each function once."""

    def __init__(self, model: onnx.ModelProto, limits: ReadingLimits) -> None:
        self.functions: dict[_Key, onnx.FunctionProto] = {}
        self.called: set[_Key] = set()
        self.longest_name = 0
        self._limits = limits
        self._costs: dict[_Key, _Cost] = {}
        for function in model.functions:
            if not function.name:
                raise ModelFileError("has a function without a name")
            if next(subgraphs_of(function.attribute_proto), None) is not None:
                raise UnsafeModelError(
                    f"function {quote_name(function.name)} takes a graph, which camrt does not expand"
                )
            if self.functions.setdefault(_key(function), function) is not function:
                raise ModelFileError(f"defines the function {quote_name(function.name)} twice")

    def cost_of(self, nodes: Iterable[onnx.NodeProto], owner: str, path: tuple[_Key, ...]) -> _Cost:
        """Count what some nodes expand to.

        Args:
            nodes: The body of a function, or the graph.
            owner: Whose nodes they are, for messages.
            path: The functions being expanded, outermost first.
        """
        if len(path) > self._limits.max_depth:
            raise UnsafeModelError(f"nests calls of functions more than {self._limits.max_depth} deep")
        count = size = references = names = depth = 0
        for node in walk_nodes(nodes, self._limits.max_depth).nodes:
            # A node with subgraphs has the size of the whole: its inner nodes are counted once more, an
            # upper bound all the same.
            own_size = node.ByteSize()
            own_references = sum(1 for attribute in node.attribute if attribute.ref_attr_name)
            spelt = [*node.input, *node.output]
            self.longest_name = max(self.longest_name, len(node.name), *map(len, spelt), 0)
            callee = self.functions.get(_key(node))
            if callee is None:
                count, size = count + 1, size + own_size
                references += own_references
                names += len(spelt) + 1
                continue
            _check_call(node, callee, owner)
            cost = self._cost_of_function(callee, path)
            count += cost.nodes
            size += cost.size + cost.references * own_size
            references += cost.references * own_references
            names += cost.names
            depth = max(depth, cost.depth + 1)
        return _Cost(count, size, references, names, depth)

    def _cost_of_function(self, function: onnx.FunctionProto, path: tuple[_Key, ...]) -> _Cost:
        key = _key(function)
        if key in path:
            raise UnsafeModelError(f"has a function that calls itself, {quote_name(function.name)}")
        if key not in self._costs:
            cost = self.cost_of(function.node, f"function {quote_name(function.name)}", (*path, key))
            self.longest_name = max(self.longest_name, *map(len, [*function.input, *function.output]), 0)
            defaults = sum(attribute.ByteSize() for attribute in function.attribute_proto)
            # The inliner joins inputs and outputs that pass straight through with a node each.
            self._costs[key] = _Cost(
                cost.nodes + 1,
                cost.size + cost.references * defaults,
                cost.references,
                cost.names + 2 * len(function.output) + 1,
                cost.depth,
            )
            self.called.add(key)
        cost = self._costs[key]
        if len(path) + cost.depth > self._limits.max_depth:
            raise UnsafeModelError(f"nests calls of functions more than {self._limits.max_depth} deep")
        return cost


def _check_call(node: onnx.NodeProto, function: onnx.FunctionProto, owner: str) -> None:
    label = f"{node_label(node)} of {owner}"
    for said, taken, what in (
        (len(node.input), len(function.input), "inputs"),
        (len(node.output), len(function.output), "outputs"),
    ):
        if said > taken:
            raise ModelFileError(f"{label} has {said} {what}; the function takes {taken}")
    if next(node_subgraphs(node), None) is not None:
        raise UnsafeModelError(f"{label} passes a graph to a function, which camrt does not expand")


def _inline(model: onnx.ModelProto, called: set[_Key]) -> None:
    """Send the nodes through onnx's inliner, with the initializers' names and without their data."""
    light = onnx.ModelProto(ir_version=model.ir_version, opset_import=model.opset_import)
    graph = light.graph
    graph.name = model.graph.name
    for part in ("node", "input", "output", "value_info"):
        getattr(graph, part).extend(getattr(model.graph, part))
    for name in [tensor.name for tensor in model.graph.initializer] + [
        sparse.values.name for sparse in model.graph.sparse_initializer
    ]:
        graph.initializer.add(name=name, data_type=onnx.TensorProto.FLOAT)
    light.functions.extend(function for function in model.functions if _key(function) in called)
    try:
        inlined = inliner.inline_local_functions(light)
    except Exception as error:  # onnx raises whatever its C++ throws
        raise UnsupportedModelError(f"has functions that onnx cannot inline: {error}") from error
    left = {_key(function) for function in light.functions}
    for node in inlined.graph.node:
        if _key(node) in left:
            raise UnsupportedModelError(
                f"{node_label(node)} calls a function that onnx cannot inline (of another opset version?); "
                "export the model again without functions"
            )
    for part in ("node", "value_info"):
        del getattr(model.graph, part)[:]
        getattr(model.graph, part).extend(getattr(inlined.graph, part))
    del model.opset_import[:]
    model.opset_import.extend(inlined.opset_import)
