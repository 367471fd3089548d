"""Where to cut a classifier into trunk and head, and the cut itself.

The head of a tensor t is every node downstream of t. The *crossing* tensors are those the head reads that
depend on the image and are not themselves downstream of t: skip connections, mostly. A cut at t is clean
when nothing crosses; sizes that the head needs and cannot take from its own tensors do not count.

The target, when none is asked for, is found by the rules of `camrt.export.heads.target_rules`, and is what a
power mean pools rather than its power (`camrt.export.heads.power_means`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import onnx
from onnx import TensorProto, helper

from camrt.errors import CutError
from camrt.export.geometry.axis_roles import RESAMPLING, SAMPLING, find_axis_roles
from camrt.export.geometry.map_formats import MAX_PREFIX, MapFormat, MapLayout, find_map_format
from camrt.export.graph.index import Graph, has_open_size, names_read, opset, set_shape
from camrt.export.graph.node_maker import NodeMaker
from camrt.export.graph.operators import FLOATING
from camrt.export.graph.shape_inference import fixed_sizes
from camrt.export.graph.size_tensors import BATCH, make_batch_size_nodes
from camrt.export.heads.batch_rows import find_row_format
from camrt.export.heads.flow import count_paths
from camrt.export.heads.graph_flow import build_flow
from camrt.export.heads.power_means import skip_power_mean
from camrt.export.heads.target_rules import choose_tensors
from camrt.export.rewrites.interface import LOGITS

__all__ = [
    "ACTIVATION",
    "FIRST_LAYER",
    "JOINT",
    "PHI",
    "TargetTensor",
    "add_taps",
    "build_head_model",
    "build_tapped_model",
    "choose_targets",
    "describe_resampling",
    "extra_input_name",
    "find_candidates",
    "find_clean_cuts",
    "find_crossing_tensors",
]

ACTIVATION = "camrt_activation"
PHI = "camrt_phi"
FIRST_LAYER = "camrt_first_layer"
JOINT = "camrt_log_joint"


def extra_input_name(index: int) -> str:
    """Name under which a tensor that goes around the cut leaves the trunk and enters the head."""
    return f"camrt_beside_{index}"


@dataclass(frozen=True)
class TargetTensor:
    """A tensor the graph could be cut at.

    Attributes:
        name: The tensor's name in the file.
        node: Name of the node that makes it (may be empty in the file).
        operator: That node's operator.
        shape: (K, h, w).
        clean: Whether nothing goes around a cut at this tensor.
        chosen: Whether the engine is cut here.
        layout: How the tensor holds its map: (N, K, h, w), tokens (N, p + h·w, K), or (N, h, w, K).
        prefix: Tokens p in front that belong to no cell.
        mirrored: Axes of a map (N, K, h, w) that run from the image's last row or column to its first.
    """

    name: str
    node: str
    operator: str
    shape: tuple[int, int, int]
    clean: bool
    chosen: bool = False
    layout: MapLayout = "map"
    prefix: int = 0
    mirrored: tuple[int, ...] = ()


def find_crossing_tensors(graph: Graph, name: str, *, end: str = LOGITS) -> tuple[str, ...]:
    """Tensors that the head of `name` reads around it, in graph order; empty for a clean cut.

    Behind them, the sizes that the head cannot take from its own tensors.
    """
    downstream = graph.downstream(name)
    if end not in downstream:
        return (end,)
    found: dict[str, None] = {}
    for index in graph.upstream_nodes(end, stop=[name]):
        node = graph.nodes[index]
        if not any(made in downstream for made in node.output):
            continue
        for read in names_read(node):
            if read not in downstream and not graph.is_constant(read):
                found.setdefault(read)
    told = [
        size
        for size in graph.sizes
        if size != BATCH
        and (source := graph.size_source(size)) in graph.dependent
        and source not in downstream
    ]
    inner = graph.upstream_nodes(end, stop=[name, BATCH, *found, *told])
    read_there = {read for index in inner for read in names_read(graph.nodes[index])}
    return (*found, *(size for size in told if size in read_there))


def find_clean_cuts(graph: Graph, end: str = LOGITS) -> frozenset[str]:
    """The tensors every path from the image to the logits runs through: those with a clean cut."""
    nodes = (graph.nodes[index] for index in graph.upstream_nodes(end, stop=graph.sizes))
    links = ((names_read(node), filter(None, node.output)) for node in nodes)
    through, total = count_paths(links, graph.input_name, end)
    return frozenset(name for name, count in through.items() if count == total)


def find_candidates(graph: Graph, grid: tuple[int, int] | None = None) -> list[TargetTensor]:
    """Every tensor that holds a map with h·w > 1 and that the logits depend on, in graph order.

    Args:
        graph: The graph.
        grid: (h, w) of the cells that tokens stand for; None takes what following the operators gives.
    """
    axes = find_axis_roles(graph)
    clean = find_clean_cuts(graph)
    found: list[TargetTensor] = []
    for index in graph.upstream_nodes(LOGITS):
        node = graph.nodes[index]
        for name in node.output:
            shape = graph.shape(name)
            if name not in axes or shape is None or graph.types.get(name) not in FLOATING:
                continue
            mirrored = tuple(axis for axis, role in enumerate(axes[name]) if role in ("-h", "-w"))
            roles = tuple(role.lstrip("-") if isinstance(role, str) else role for role in axes[name])
            place = find_map_format(roles, shape, graph.input_shape[0], grid)
            if place is not None and (place[0] == "map" or not mirrored):
                layout, cells, prefix = place
                found.append(
                    TargetTensor(
                        name,
                        node.name,
                        node.op_type,
                        cells,
                        name in clean,
                        layout=layout,
                        prefix=prefix,
                        mirrored=mirrored,
                    )
                )
    return found


def choose_targets(
    graph: Graph,
    wanted: str | None = None,
    grid: tuple[int, int] | None = None,
    joint: str | None = None,
) -> list[TargetTensor]:
    """The tensor to cut at: the one asked for (tensor or node name), or by `camrt.export.heads.target_rules`.

    That may be two tensors, of a model with two branches.

    Args:
        graph: The graph.
        wanted: A name; None finds a tensor that nothing goes around.
        grid: (h, w) of the cells that tokens stand for; None takes what following the operators gives.
        joint: log p(y,z|x) of a CALM model: what is found lies before both its branches.

    Raises:
        CutError: There is none, or the name is unknown.
    """
    graph.observe(LOGITS)
    listed = find_candidates(graph, grid)
    if wanted is not None:
        match = next((target for target in listed if wanted and wanted in (target.name, target.node)), None)
        if match is not None:
            return [match]
        nearest = ", ".join(repr(target.name) for target in listed[-5:]) or "none"
        raise CutError(
            f"target {wanted!r} {describe_invalid_target(graph, wanted, grid)}; "
            f"the last candidates are {nearest} (engine.targets() lists them all)"
        )
    maps = {target.name: MapFormat(target.layout, target.shape, target.prefix) for target in listed}
    found = choose_tensors(build_flow(graph, find_axis_roles(graph)), maps, above_weights=joint is not None)
    if found:
        by_name = {target.name: target for target in listed}
        return [by_name.get(skip_power_mean(graph, name), by_name[name]) for name in found]
    names = ", ".join(repr(target.name) for target in listed[-3:])
    raise CutError(
        "no activation with two spatial axes was found in this model, so there is nothing to map"
        f"{describe_lost_pixels(graph)}; camrt explains convolutional classifiers and vision transformers"
        if not listed
        else f"no clean cut was found: every spatial activation (the last ones: {names}) is bypassed; "
        "target= takes one of them all the same"
    )


def describe_lost_pixels(graph: Graph) -> str:
    """Message suffix naming the node that moves pixels (RoiAlign), if there is one."""
    for node in graph.nodes:
        if node.op_type in SAMPLING and node.input[0] in graph.dependent:
            return (
                f" ({node.op_type} {node.name!r} puts the pixels elsewhere, and where in the image what "
                "follows lies cannot be told: export the model without it, and sample images beforehand)"
            )
    return ""


def describe_resampling(graph: Graph, name: str) -> tuple[str, ...]:
    """A note where what leads to a tensor makes another image of the image; none elsewhere."""
    for index in graph.upstream_nodes(name):
        node = graph.nodes[index]
        if node.op_type == RESAMPLING and node.input[0] in graph.dependent:
            return (
                f"{node.op_type} {node.name!r} makes another image of the image inside the file: maps "
                "lie on that one, and are not brought back to where its pixels came from",
            )
    return ()


def describe_invalid_target(graph: Graph, wanted: str, grid: tuple[int, int] | None) -> str:
    """What is wrong with a target that was asked for, to follow its name."""
    node = graph.producer(wanted) or next((node for node in graph.nodes if wanted == node.name), None)
    if not wanted or (node is None and wanted not in graph.dependent):
        return "was not found in the graph"
    shape = graph.shape(node.output[0] if node is not None and wanted == node.name else wanted)
    if shape is None or len(shape) != 3 or shape[0] != graph.input_shape[0] or shape[1] < 2:
        return "is no (N, K, h, w) activation"
    if grid is None:
        return (
            f"is (N, {shape[1]}, {shape[2]}), and which of its tokens stand for which cells cannot be told; "
            "say grid=(h, w)"
        )
    fewest = max(2, shape[1] - MAX_PREFIX)
    return (
        f"has {shape[1]} tokens, which do not fit a grid of {grid[0]}×{grid[1]}: "
        f"h·w has to be {fewest} to {shape[1]}, the rest being tokens in front"
    )


def build_tapped_model(
    model: onnx.ModelProto, graph: Graph, taps: dict[str, str], batch: int | None = None
) -> onnx.ModelProto:
    """The model with further float32 outputs, a row an image each (`camrt.export.heads.batch_rows`).

    Args:
        model: The standardised model; it is not changed.
        graph: Its index.
        taps: Output name -> tensor it shows.
        batch: Fixed batch size; None for an open axis.
    """
    tapped = onnx.ModelProto()
    tapped.CopyFrom(model)
    add_taps(tapped, graph, taps, batch)
    return tapped


def add_taps(model: onnx.ModelProto, graph: Graph, taps: Mapping[str, str], batch: int | None = None) -> None:
    """Gives a model, or a part of one, further float32 outputs, in place; see `build_tapped_model`."""
    make = NodeMaker(opset(model), prefix="camrt_tap")
    for output, name in taps.items():
        rows = find_row_format(graph, name, batch)
        shown = name if rows.is_batch_first else rows.to_rows(make, name, len(graph.shape(name) or ()), batch)
        if graph.types.get(name, TensorProto.FLOAT) == TensorProto.FLOAT:
            tap = helper.make_node("Identity", [shown], [output])
        else:
            tap = helper.make_node("Cast", [shown], [output], to=TensorProto.FLOAT)
        make.nodes.append(tap)
        model.graph.output.append(helper.make_tensor_value_info(output, TensorProto.FLOAT, None))
    counted = any(BATCH in node.output for node in model.graph.node)
    if not counted and any(BATCH in node.input for node in make.nodes):
        model.graph.node.extend(make_batch_size_nodes(model.graph.input[0].name))
    model.graph.node.extend(make.nodes)
    model.graph.initializer.extend(make.initializers)


def build_head_model(
    model: onnx.ModelProto,
    graph: Graph,
    start: str,
    end: str,
    *,
    input_name: str,
    batch: int | None,
    extra_inputs: Sequence[str] = (),
    features: int | None = None,
) -> onnx.ModelProto:
    """The part of the graph between two tensors, float32 in and out.

    The output is named `camrt_out_` and the name of `end`. A rank-4 input's h and w are left open.

    Args:
        model: The standardised model.
        graph: Its index.
        start: Tensor that becomes the input; every node behind it that `end` needs is kept.
        end: Tensor that becomes the output.
        input_name: Name the input gets.
        batch: Fixed batch size; None for an open axis.
        extra_inputs: Tensors that go around the cut: each becomes an input of its own, `extra_input_name` of
            its position, that holds a row an image (`camrt.export.heads.batch_rows`).
        features: Takes the input as (N, features), whatever axes of size one `start` has; None takes it as
            it is.

    Raises:
        CutError: More than that goes around the cut.
    """
    missing = [name for name in find_crossing_tensors(graph, start, end=end) if name not in extra_inputs]
    if missing:
        raise CutError(f"what follows {start!r} also reads {', '.join(map(repr, missing))}")
    nodes = [graph.nodes[index] for index in graph.upstream_nodes(end, stop=[start, BATCH, *extra_inputs])]
    make = NodeMaker(opset(model), prefix="camrt_entry")
    inputs = [make_start_input(graph, make, start, input_name, batch, features)]
    declared = fixed_sizes(model, graph.shapes) if extra_inputs and has_open_size(model.graph) else {}
    for index, name in enumerate(extra_inputs):
        inputs.append(make_extra_input(graph, make, name, extra_input_name(index), batch, declared.get(name)))
    exit_name = f"camrt_out_{end}"
    leave = helper.make_node("Cast", [end], [exit_name], to=TensorProto.FLOAT)
    used = {name for node in nodes for name in names_read(node)}
    count = make_batch_size_nodes(input_name) if BATCH in used else []
    used.update(name for node in count for name in node.input)
    part = helper.make_graph(
        [*count, *make.nodes, *nodes, leave],
        "head",
        inputs,
        [helper.make_tensor_value_info(exit_name, TensorProto.FLOAT, None)],
        make.initializers,
    )
    part.initializer.extend(tensor for tensor in model.graph.initializer if tensor.name in used)
    part.sparse_initializer.extend(model.graph.sparse_initializer)
    return helper.make_model(part, opset_imports=list(model.opset_import), ir_version=model.ir_version)


def make_start_input(
    graph: Graph, make: NodeMaker, name: str, outer: str, batch: int | None, features: int | None
) -> onnx.ValueInfoProto:
    """Nodes that make the tensor a head starts from of its input, and that input."""
    shape = graph.shape(name)
    assert shape is not None
    source = outer
    if features is not None and shape[1:] != (features,):
        source = make.reshape(outer, [-1, *shape[1:]])
        shape = (shape[0], features)
    spatial = len(shape) == 4 and shape[2] * shape[3] > 1
    axes = [shape[1], f"{outer}_h", f"{outer}_w"] if spatial else shape[1:]
    return make_input(graph, make, name, source, outer, [batch or "N", *axes])


def make_extra_input(
    graph: Graph,
    make: NodeMaker,
    name: str,
    outer: str,
    batch: int | None,
    declared: tuple[int | None, ...] | None,
) -> onnx.ValueInfoProto:
    """Nodes that make a tensor that goes around the cut of its rows, and the input that holds those.

    Args:
        graph: The graph.
        make: Makes the nodes.
        name: The tensor.
        outer: Name of the input.
        batch: Fixed batch size; None for an open axis.
        declared: Its sizes that are the same for images of any size; None when that is not asked.
    """
    shape, rows = graph.shape(name), find_row_format(graph, name, batch)
    assert shape is not None
    known = declared if declared is not None and len(declared) == len(shape) else shape
    sizes = [f"{outer}_{axis}" if size is None else size for axis, size in enumerate(known)]
    source = outer if rows.is_batch_first else rows.from_rows(make, outer, len(shape))
    return make_input(graph, make, name, source, outer, [batch or "N", *rows.row(sizes)])


def make_input(
    graph: Graph, make: NodeMaker, name: str, source: str, outer: str, shape: Sequence[int | str]
) -> onnx.ValueInfoProto:
    """The node that gives a tensor its own name and type, and the input it comes from."""
    kind = graph.types.get(name, TensorProto.FLOAT)
    make.nodes.append(helper.make_node("Cast", [source], [name], to=kind))
    value = helper.make_tensor_value_info(outer, TensorProto.FLOAT, None)
    set_shape(value, shape)
    return value
