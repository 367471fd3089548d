"""Layers that ONNX Runtime has laid out for one processor (NCHWc), in the usual layout again.

At its highest level the runtime's optimiser blocks channels: B of them, 8 or 16 as the processor has it, lie
side by side, and their number is filled up to a multiple of B. `ReorderInput` and `ReorderOutput` lead in and
out, and the filters of `com.microsoft.nchwc.Conv` are stored in blocks,

    (O/B, I/B, h, w, B of I, B of O)

or, where what they read is not blocked and where each has one channel, (O/B, I, h, w, B of O), under their
usual dimensions. Everything is turned back here: filters into (O, I, h, w), and channels that were only
filled up are taken out, so that a map has the channels that it had. How many that are follows from what reads
them: `ReorderOutput` says it, a convolution by the rows of its filters that are not zero, and what acts
channel by channel passes it on.

A file is meant for processors of one B and does not say which. Its dimensions may tell, or that filters which
were filled up have their zeros in the right places for one B only. Where nothing does, it is the B of the
runtime here, for which anyone who runs the file takes it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from functools import cache
from importlib import import_module
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import NodeProto, TensorProto, helper, numpy_helper

from camrt.errors import UnsupportedModelError
from camrt.export.expanding.fused import end_with_activation
from camrt.export.expanding.registry import Expansion, expansion
from camrt.export.graph.index import attribute
from camrt.export.graph.operators import ELEMENTWISE_UNARY
from camrt.export.graph.traversal import node_label, normalise_domain
from camrt.export.limits import quote_name
from camrt.export.onnx_sessions import open_session

__all__ = ["BLOCKED", "Blocks", "find_blocks", "refuse_blocked"]

Array = npt.NDArray[Any]
BLOCKED = "com.microsoft.nchwc"
_POOLS = ("MaxPool", "AveragePool", "GlobalMaxPool", "GlobalAveragePool")
_BY_CHANNEL = ELEMENTWISE_UNARY | {"Add", "Sum", "Mul", "Identity"}
_SAVE_AGAIN = "save the model at ORT_ENABLE_EXTENDED, or give the file that it was made from"


class Blocks:
    """What is known of a graph's blocked tensors.

    Args:
        size: Channels B in a block.

    Attributes:
        size: Channels in a block.
        filled: By blocked tensor, its channels with those that were filled up; None where that is not known.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self.filled: dict[str, int | None] = {}
        self._leader: dict[str, str] = {}
        self._stated: dict[str, int] = {}
        self._read: dict[str, int] = defaultdict(int)
        self._made: dict[str, int] = {}

    def add(self, name: str, filled: int | None) -> None:
        """Registers a blocked tensor; `filled` is its size with the channels that fill the last block up."""
        self.filled[name] = filled
        self._leader.setdefault(name, name)

    def _find(self, name: str) -> str:
        while self._leader[name] != name:
            self._leader[name] = self._leader[self._leader[name]]
            name = self._leader[name]
        return name

    def join(self, names: Iterable[str]) -> None:
        """Records that blocked tensors have the same number of channels."""
        first, *others = (self._find(name) for name in names)
        for other in others:
            self._leader[other] = first

    def state(self, name: str, count: int) -> None:
        """Records the number of channels of a tensor."""
        self._stated[name] = count

    def need(self, name: str, count: int) -> None:
        """Records that at least the first `count` channels of a tensor are read."""
        self._read[name] = max(self._read[name], count)

    def fill(self, name: str, count: int) -> None:
        """Records that the producer of a tensor writes `count` channels and zero-pads the rest."""
        self._made[name] = count

    def counts(self) -> dict[str, int]:
        """The channels of every blocked tensor.

        Raises:
            UnsupportedModelError: What is said of one does not fit together.
        """
        groups: dict[str, list[str]] = defaultdict(list)
        for name in self.filled:
            groups[self._find(name)].append(name)
        found: dict[str, int] = {}
        for names in groups.values():
            stated = {self._stated[name] for name in names if name in self._stated}
            filled = {size for size in (self.filled[name] for name in names) if size is not None}
            read = max((self._read[name] for name in names), default=0)
            count = min(stated) if stated else (read or min(filled, default=0))
            made = max((self._made.get(name, 0) for name in names), default=0)
            wrong = len(stated) > 1 or len(filled) > 1 or any(count > size for size in filled)
            if wrong or count < max(read, 1) or (stated and made > count):
                raise UnsupportedModelError(
                    f"the blocked channels of {quote_name(names[0])} do not fit together: {_SAVE_AGAIN}"
                )
            found.update(dict.fromkeys(names, count))
        return found


def find_blocks(
    nodes: Iterable[NodeProto], constants: Mapping[str, TensorProto]
) -> tuple[int, dict[str, int]]:
    """The size of a block in a graph, and the channels of its blocked tensors; nothing where none is.

    Args:
        nodes: The nodes of the graph, in order.
        constants: Its stored tensors.

    Raises:
        UnsupportedModelError: A blocked tensor goes where no channels are known, or they do not fit together.
    """
    listed = list(nodes)
    own = [node for node in listed if normalise_domain(node.domain) == BLOCKED]
    if not own:
        return 0, {}
    for node in own:
        if not (node.input and node.input[0] and node.output and node.output[0]):
            raise _unknown(node)
    here = _of_the_runtime()
    sizes = _sizes_by_dimensions(listed, constants) or ((8, 16) if here == 8 else (16, 8))
    found: list[tuple[int, dict[str, int]]] = []
    for size in sizes:
        blocks = Blocks(size)
        try:
            for node in listed:
                _look(node, blocks, constants)
            found.append((size, blocks.counts()))
        except UnsupportedModelError:
            if size == sizes[-1] and not found:
                raise
    if len(found) > 1 and here is None:
        raise UnsupportedModelError(
            f"is laid out for another processor than this one, and does not say which: {_SAVE_AGAIN}"
        )
    return found[0]


def refuse_blocked(nodes: Iterable[NodeProto]) -> None:
    """Refuses blocked operators that were not replaced: those in subgraphs.

    Raises:
        UnsupportedModelError: There is one.
    """
    for node in nodes:
        if normalise_domain(node.domain) == BLOCKED:
            raise UnsupportedModelError(
                f"{node_label(node)} is laid out for one processor, in a form that camrt does not turn back: "
                f"{_SAVE_AGAIN}"
            )


def _look(node: NodeProto, blocks: Blocks, constants: Mapping[str, TensorProto]) -> None:
    """Records what one node implies for blocked tensors."""
    read = [name for name in node.input if name in blocks.filled]
    made = [name for name in node.output if name]
    own = normalise_domain(node.domain) == BLOCKED
    if not own and not read:
        return
    if own and node.op_type == "ReorderInput":
        blocks.add(made[0], None)
    elif own and node.op_type == "ReorderOutput" and read:
        blocks.state(read[0], _number(node, "channels", 0))
    elif own and node.op_type == "Conv":
        weight = _filters(node, node.input[0] in blocks.filled, blocks.size, constants)
        blocks.add(made[0], len(weight))
        blocks.fill(made[0], _last(weight.any(axis=(1, 2, 3))))
        if _by_channel(node, weight):
            if node.input[0] not in blocks.filled:
                raise _unknown(node)
            blocks.join([made[0], node.input[0]])
        elif _number(node, "group", 1) != 1:
            blocks.need(node.input[0], weight.shape[1] * _number(node, "group", 1))
            blocks.need(made[0], len(weight))
        elif node.input[0] in blocks.filled:
            blocks.need(node.input[0], max(_last(weight.any(axis=(0, 2, 3))), 1))
        if len(node.input) > 3 and node.input[3] in blocks.filled:
            blocks.join([made[0], node.input[3]])
    elif own and node.op_type in (*_POOLS, "Upsample") and read and len(made) == 1:
        blocks.add(made[0], blocks.filled[read[0]])
        blocks.join([made[0], read[0]])
    elif (
        not own
        and not normalise_domain(node.domain)
        and node.op_type == "Concat"
        and len(read) == len(node.input)
    ):
        whole = 0
        for name in read:
            filled = blocks.filled[name]
            if _number(node, "axis", 1) != 1 or filled is None:
                raise _unknown(node)
            blocks.need(name, filled)
            whole += filled
        blocks.add(made[0], whole)
    elif not own and node.op_type in _BY_CHANNEL and len(made) == 1:
        if any(name and name not in read and not _single(constants.get(name)) for name in node.input):
            raise _unknown(node)
        sizes = {blocks.filled[name] for name in read} - {None}
        blocks.add(made[0], next(iter(sizes), None))
        blocks.join([made[0], *read])
    else:
        raise _unknown(node)


def _last(true: npt.ArrayLike) -> int:
    """The number of values up to and including the last true one."""
    places = np.flatnonzero(true)
    return int(places[-1]) + 1 if places.size else 0


def _number(node: NodeProto, name: str, default: int) -> int:
    value = attribute(node, name, default)
    if not isinstance(value, int):
        raise _unknown(node)
    return value


def _single(tensor: TensorProto | None) -> bool:
    return tensor is not None and int(np.prod(tensor.dims)) == 1


def _unknown(node: NodeProto) -> UnsupportedModelError:
    return UnsupportedModelError(
        f"{node_label(node)} reads what is laid out for one processor, in a form that camrt does not turn "
        f"back: {_SAVE_AGAIN}"
    )


# ---------------------------------------------------------------- the size of a block


def _sizes_by_dimensions(nodes: list[NodeProto], constants: Mapping[str, TensorProto]) -> tuple[int, ...]:
    """8 or 16, by the first dimensions that only one of them can have; nothing where there are none."""
    blocked: set[str] = set()
    filled: dict[str, int] = {}
    for node in nodes:
        own = normalise_domain(node.domain) == BLOCKED
        if own and node.op_type == "Conv" and len(node.input) > 1 and node.input[1] in constants:
            dims = constants[node.input[1]].dims
            plain = node.input[0] not in blocked
            whole = _number(node, "group", 1) == 1
            if len(dims) == 4 and (dims[0] % 16 or (not plain and whole and dims[1] % 16)):
                return (8,)
            if len(dims) == 4 and plain and whole and dims[1] >= 8:
                return (16,)  # eight channels in front would have been blocked
            filled[node.output[0]] = dims[0] if dims else 0
        if own and node.op_type == "ReorderOutput":
            if filled.get(node.input[0], 0) - _number(node, "channels", 0) >= 8:
                return (16,)  # eight channels more than there are
        elif own or any(name in blocked for name in node.input):
            blocked.update(node.output)
    return ()


@cache
def _of_the_runtime() -> int | None:
    """The block size of ONNX Runtime on this processor; None where it uses no blocks."""
    onnxruntime = import_module("onnxruntime")  # slow to import, and seldom needed here
    graph = helper.make_graph(
        [helper.make_node("ReorderInput", ["x"], ["y"], domain=BLOCKED)],
        "probe",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 8, 1, 1])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
    )
    imports = [helper.make_opsetid("", 17), helper.make_opsetid(BLOCKED, 1)]
    probe = helper.make_model(graph, opset_imports=imports, ir_version=8)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    try:
        session = open_session(probe.SerializeToString(), options)
        answer = session.run(None, {"x": np.zeros((1, 8, 1, 1), np.float32)})[0]
    except Exception:  # onnxruntime's exceptions have no public base
        return None
    return int(answer.shape[1])


# ---------------------------------------------------------------- filters


def _by_channel(node: NodeProto, weight: Array) -> bool:
    return bool(weight.shape[1] == 1 and 1 < _number(node, "group", 1) == len(weight))


def _filters(node: NodeProto, from_blocks: bool, size: int, constants: Mapping[str, TensorProto]) -> Array:
    """The weight (O, I, h, w) of a blocked convolution, zero padding of the last block included."""
    tensor = constants.get(node.input[1]) if len(node.input) > 1 else None
    if tensor is None or len(tensor.dims) != 4 or 0 in tensor.dims or tensor.dims[0] % size:
        raise _unknown(node)
    out, into, height, width = tensor.dims
    values = np.asarray(numpy_helper.to_array(tensor))
    if not from_blocks or into == 1:
        if _number(node, "group", 1) not in ((1,) if into > 1 else (1, out)):
            raise _unknown(node)
        blocks = values.reshape(out // size, into, height, width, size)
        return blocks.transpose(0, 4, 1, 2, 3).reshape(out, into, height, width)
    if into % size:
        raise _unknown(node)
    blocks = values.reshape(out // size, into // size, height, width, size, size)
    return blocks.transpose(0, 5, 1, 4, 2, 3).reshape(out, into, height, width)


# ---------------------------------------------------------------- operators


@expansion("Conv", domain=BLOCKED)
def _convolution(step: Expansion) -> None:
    """Y = f(conv(x, w) + b + z)."""
    node, counts = step.node, step.into.channels
    weight = _filters(node, step.input(0) in counts, step.into.block_size, step.into.constants)
    out, group = counts[step.y], step.attribute("group", 1)
    if _by_channel(node, weight):
        group = out
    elif group == 1:
        weight = weight[:, : counts.get(step.input(0), weight.shape[1])]
    inputs = [step.input(0), step.store(weight[:out], f"{step.y}_weight")]
    if step.input(2):
        bias = step.constant(step.input(2))
        if bias is None or bias.ndim != 1 or len(bias) < out:
            raise _unknown(node)
        inputs.append(step.store(bias[:out], f"{step.y}_bias"))
    left_out = ("activation", "activation_params", "group")
    made = step.add("Conv", *inputs, group=group, **step.attributes(*left_out))
    if step.input(3):
        made = step.add("Add", made, step.input(3))
    end_with_activation(step, made, step.attribute("activation", ""), step.attribute("activation_params", ()))


@expansion(*_POOLS, domain=BLOCKED)
def _pool(step: Expansion) -> None:
    step.add(step.node.op_type, step.input(0), out=step.y, **step.attributes())


@expansion("Upsample", domain=BLOCKED)
def _larger(step: Expansion) -> None:
    """Larger by whole factors: each number again and again, or linearly in between."""
    scales = step.store(np.array(step.attribute("scales", ()), np.float32), f"{step.y}_scales")
    mode = step.attribute("mode", "nearest")
    places = step.attribute("coordinate_transformation_mode", "asymmetric")
    if step.opset >= 11:
        how = {"nearest_mode": "floor"} if mode == "nearest" else {}
        places = "asymmetric" if mode == "nearest" else places
        step.add(
            "Resize", step.input(0), step.store(np.zeros(0, np.float32), f"{step.y}_region"), scales,
            out=step.y, mode=mode, coordinate_transformation_mode=places, **how,
        )  # fmt: skip
    elif mode == "nearest" or places == "asymmetric":
        operator = "Upsample" if step.opset < 10 else "Resize"
        step.add(operator, step.input(0), scales, out=step.y, mode=mode)
    else:
        raise step.refuse(f"interpolates in a way that opset {step.opset} has no operator for")


@expansion("ReorderInput", domain=BLOCKED)
def _enter(step: Expansion) -> None:
    """Channels that are read; the others only met filters of zeros."""
    source, last = step.input(0), step.attribute("channels_last", 0)
    count, there = step.into.channels[step.y], step.size(source, 3 if last else 1)
    if last:
        source = step.add("Transpose", source, perm=[0, 3, 1, 2])
    if there == count:
        step.add("Identity", source, out=step.y)
        return
    if there is not None and there < count:
        raise _unknown(step.node)
    if step.opset < 10:
        step.add("Slice", source, out=step.y, starts=[0], ends=[count], axes=[1])
        return
    bounds = [step.store(np.array([n], np.int64), f"{step.y}_from_{n}") for n in (0, count, 1)]
    step.add("Slice", source, *bounds, out=step.y)


@expansion("ReorderOutput", domain=BLOCKED)
def _leave(step: Expansion) -> None:
    if step.input(0) not in step.into.channels:
        raise _unknown(step.node)
    if step.attribute("channels_last", 0):
        step.add("Transpose", step.input(0), out=step.y, perm=[0, 2, 3, 1])
    else:
        step.add("Identity", step.input(0), out=step.y)
