"""Maps that are not laid out as maps: the tokens of vision transformers, and channels-last activations.

A token tensor (N, p + h·w, K) holds p tokens that belong to no cell (class, distillation, registers) and then
one a cell. Such a tensor becomes a target by taking the graph apart at it and putting it together again:

    tokens → prefix, map (N, K, h, w) → tokens

The new tokens are the same numbers, and take the old ones' name. The map is then an activation
like any other; the prefix tokens, where there are any, go around the cut.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import onnx
from onnx import TensorProto

from camrt.errors import CutError
from camrt.export.geometry.axis_parts import CellTokens, Roles
from camrt.export.geometry.axis_roles import find_axis_roles
from camrt.export.graph.index import Graph, has_open_size, opset
from camrt.export.graph.node_maker import TO_THE_END, Indices, NodeMaker
from camrt.export.graph.size_tensors import SIZE_PREFIX
from camrt.export.graph.upkeep import replace_nodes
from camrt.export.rewrites.opset_upgrade import MODERN_OPSET

__all__ = ["MAX_PREFIX", "MapFormat", "MapLayout", "find_map_format", "find_token_grid", "insert_map"]

MapLayout = Literal["map", "tokens", "channels-last"]
MAX_PREFIX = 16  # tokens in front of the patches


class MapFormat(NamedTuple):
    """How a tensor holds a map.

    Attributes:
        layout: (N, K, h, w), tokens (N, p + h·w, K), or channels-last (N, h, w, K).
        shape: (K, h, w).
        prefix: Tokens p in front that belong to no cell.
    """

    layout: MapLayout
    shape: tuple[int, int, int]
    prefix: int = 0


def find_token_grid(
    tokens: int, patches: list[tuple[int, int]], grid: tuple[int, int] | None
) -> tuple[int, tuple[int, int]] | None:
    """How many tokens belong to no cell, and the grid of the others; None when no grid fits.

    Args:
        tokens: Number of tokens.
        patches: Grids (h, w) of the image-shaped activations before them, the patch embedding's among them.
        grid: (h, w), when it was given.
    """
    for height, width in [grid] if grid else reversed(patches):
        if 0 <= tokens - height * width <= MAX_PREFIX:
            return tokens - height * width, (height, width)
    if grid:
        return None
    for prefix in range(min(MAX_PREFIX, tokens - 4) + 1):
        side = math.isqrt(tokens - prefix)
        if side * side == tokens - prefix:
            return prefix, (side, side)
    return None


def find_map_format(
    roles: Roles, shape: tuple[int, ...], batch: int, grid: tuple[int, int] | None
) -> MapFormat | None:
    """How a tensor holds a map of several cells; None when it does not.

    Args:
        roles: What is known of its axes.
        shape: Its shape.
        batch: Number of images.
        grid: (h, w) of the cells that tokens stand for, when it was given; rows of which nothing is known are
            tokens then.
    """
    if has_roles(roles, "n", "", "h", "w") and shape[2] * shape[3] > 1:
        return MapFormat("map", (shape[1], shape[2], shape[3]))
    if has_roles(roles, "n", "h", "w", "") and shape[1] * shape[2] > 1:
        return MapFormat("channels-last", (shape[3], shape[1], shape[2]))
    if len(roles) != 3 or shape[0] != batch or roles[2] not in ("", "1"):
        return None
    tokens = roles[1]
    if grid is not None:
        fitting = find_token_grid(shape[1], [], grid)
    elif isinstance(tokens, CellTokens):
        fitting = tokens.prefix, (tokens.height, tokens.width)
    else:
        return None
    if fitting is None or shape[1] - fitting[0] < 2:
        return None
    return MapFormat("tokens", (shape[2], *fitting[1]), fitting[0])


def has_roles(roles: Roles, *wanted: str) -> bool:
    """Whether a tensor's axes are those; an axis of one number alone is any of them."""
    return len(roles) == len(wanted) and all(
        role in (name, "1") for role, name in zip(roles, wanted, strict=True)
    )


def insert_map(
    model: onnx.ModelProto,
    graph: Graph,
    name: str,
    layout: MapLayout,
    prefix: int,
    shape: tuple[int, int, int],
    number: int,
    mirrored: Sequence[int] = (),
) -> str:
    """Rewrites a model in place so that a tensor becomes a map (N, K, h, w) on its way.

    Args:
        model: The standardised model. It has to be indexed again afterwards.
        graph: Its index.
        name: The tensor.
        layout: How it is laid out; a "map" is left as it is.
        prefix: Tokens in front that belong to no cell.
        shape: (K, h, w).
        number: Tells the names of several from each other.
        mirrored: Axes of a "map" that run from the image's last row or column to its first.

    Returns:
        The map's name.

    Raises:
        CutError: Tokens of a model whose image size is open, which come from no rows of cells, or of one
            that could not be upgraded.
    """
    if layout == "map" and not mirrored:
        return name
    if opset(model) < MODERN_OPSET:
        raise CutError(
            f"{name!r} is not laid out as a map, and this file of operator set {opset(model)} holds "
            f"something that has no spelling in operator set {MODERN_OPSET}: convert it, or export it again"
        )
    make = NodeMaker(opset(model), graph.types.get(name, TensorProto.FLOAT), prefix=f"camrt_grid_{number}")
    channels, height, width = shape
    source = f"camrt_tokens_{number}"  # what the producer now makes
    if layout == "map":
        count = len(mirrored)
        made = make.slice(source, [-1] * count, [-TO_THE_END] * count, mirrored, [-1] * count)
        make.slice(made, [-1] * count, [-TO_THE_END] * count, mirrored, [-1] * count)
    elif layout == "channels-last":
        made = make.transpose(source, [0, 3, 1, 2])
        make.transpose(made, [0, 2, 3, 1])
    else:
        patches = make.slice(source, [prefix], [TO_THE_END], [1])
        cells: Indices = [0, channels, height, width]
        if has_open_size(model.graph):
            rows = f"{SIZE_PREFIX}rows_{number}"
            make.nodes.extend(read_grid_height(graph, make, name, (height, width), rows))
            cells = make.concat([make.indices([0, channels]), rows, make.indices([-1])], 0)
        made = make.reshape(make.transpose(patches, [0, 2, 1]), cells)
        again = make.transpose(make.reshape(made, [0, channels, -1]), [0, 2, 1])
        if prefix:
            make.concat([make.slice(source, [0], [prefix], [1]), again], 1)
    make.nodes[-1].output[0] = name  # so that what reads the tensor goes on doing so
    place = graph.producers[name]
    nodes = list(model.graph.node)
    outputs = nodes[place].output
    outputs[list(outputs).index(name)] = source
    replace_nodes(model.graph, [*nodes[: place + 1], *make.nodes, *nodes[place + 1 :]])
    model.graph.initializer.extend(make.initializers)
    return made


def read_grid_height(
    graph: Graph, make: NodeMaker, name: str, cells: tuple[int, int], output: str
) -> list[onnx.NodeProto]:
    """Nodes that read [h], the rows of cells that tokens stand for, off the last tensor that has them.

    Raises:
        CutError: There is none that they come from.
    """
    axes = find_axis_roles(graph)
    for index in reversed(graph.upstream_nodes(name)):
        for source in graph.nodes[index].output:
            shape, roles = graph.shape(source) or (), axes.get(source, ())
            found = [axis for axis, role in enumerate(roles) if role == "h" and shape[axis] == cells[0]]
            if source != name and found:
                count = make.indices(found[:1])
                return [
                    onnx.helper.make_node("Shape", [source], [f"{output}_shape"]),
                    onnx.helper.make_node("Gather", [f"{output}_shape", count], [output], axis=0),
                ]
    raise CutError(
        f"{name!r} holds tokens, the file leaves the images' size open, and nothing before them has "
        f"{cells[0]} rows of cells: export it with a fixed size"
    )
