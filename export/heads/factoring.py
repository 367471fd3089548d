"""Reading ψ ∘ P ∘ φ off a head.

A head is factored when, from the activation A on,

1. φ acts on each cell by itself (`camrt.export.heads.cellwise`), and ends in a tensor everything runs
through;
2. P averages, sums or flattens that tensor (`camrt.export.heads.reduction`);
3. ψ starts with an affine layer (`camrt.export.heads.affine`), or P is a mean or a sum.

Everything behind ψ's first affine layer is the *rest*, a graph of its own. See README.md beside this file for
what each factor buys.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import onnx
from onnx import NodeProto

from camrt.export.allocation import eye, matmul, zeros
from camrt.export.budget import reserve_array
from camrt.export.graph.index import Graph, attribute, set_shape
from camrt.export.graph.operators import is_same_for_every_element
from camrt.export.heads.affine import Affine, AffineForms, has_known_bias
from camrt.export.heads.cellwise import find_cellwise_region
from camrt.export.heads.cut import build_head_model, find_clean_cuts, find_crossing_tensors
from camrt.export.heads.power_means import find_root
from camrt.export.heads.reduction import Reduction, find_reduction
from camrt.export.rewrites.interface import LOGITS

__all__ = ["MAP", "VECTOR", "AffineStart", "Factors", "Unfactored", "cell_layer", "factor_head"]

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class AffineStart:
    """The first layer of a φ that mixes channels: s = weight · a + bias in each cell.

    Attributes:
        weight: (F, K) float32.
        bias: (F,) float32.
        layer: Graph from A to s (N, F, h', w'), a border included when the layer adds one.
        answer: Name of s in the whole model.
        each: Graph s (N, 1, h', w') -> φ(A) of one channel, where all channels are made alike, each of its
            own channel of s; None where they are not.
    """

    weight: Array
    bias: Array
    layer: onnx.ModelProto
    answer: str
    each: onnx.ModelProto | None


@dataclass(frozen=True, kw_only=True)
class Factors:
    """A head written as ψ ∘ P ∘ φ.

    Attributes:
        phi: "identity", "separable" (channel k of φ(A) depends on channel k of A alone) or "dense".
        phi_model: Graph A -> φ(A); None for the identity. A linear φ is folded into `weight` and counts as
            the identity.
        phi_tensor: Name of the tensor φ(A) in the whole model; None for the identity.
        phi_start: For a dense φ that begins with an affine layer, that layer and what follows it.
        reduction: P.
        border: Rows and columns of cells that φ adds around the map, both sides together. P takes them in.
        weight: First affine layer of ψ: (F, K') for mean and sum, (F, K', h', w') for flatten; None for the
            identity (ψ does not begin with an affine layer).
        bias: (F,) float32.
        cell_bias: (F,) float32, what a φ folded into a sum adds once a cell, the border's included; None for
            nothing.
        answer: Name of the tensor in the whole model that is that layer's answer.
    """

    phi: Literal["identity", "separable", "dense"] = "identity"
    phi_model: onnx.ModelProto | None = None
    phi_tensor: str | None = None
    phi_start: AffineStart | None = None
    reduction: Literal["mean", "sum", "flatten"]
    border: tuple[int, int] = (0, 0)
    weight: Array | None
    bias: Array
    cell_bias: Array | None = None
    answer: str = LOGITS

    @property
    def has_rest(self) -> bool:
        """Whether anything lies between that answer and the logits; no for an affine ψ."""
        return self.answer != LOGITS

    def cells(self, size: tuple[int, int]) -> int:
        """How many cells P takes together for a map of h×w, the border that φ adds included."""
        return (size[0] + self.border[0]) * (size[1] + self.border[1])

    def scale(self, size: tuple[int, int]) -> float:
        """What P multiplies each cell by, for a map of h×w: a float32's value."""
        return float(np.float32(1.0 / self.cells(size) if self.reduction == "mean" else 1.0))


@dataclass(frozen=True)
class Unfactored:
    """Why a head could not be factored, in a sentence."""

    reason: str


def factor_head(graph: Graph, target: str, batch: int | None) -> Factors | Unfactored:
    """Factors the head of a clean cut.

    Args:
        graph: Index of the standardised model.
        target: The tensor it is cut at.
        batch: Fixed batch size of the graph; None when it is open.
    """
    nodes = [graph.nodes[index] for index in graph.upstream_nodes(LOGITS, stop=[target])]
    clean = find_clean_cuts(graph)
    region = find_cellwise_region(graph, target, nodes)
    end_of_phi = next(name for name in reversed(region) if name in clean)
    # Cellwise branches beside φ count as well: what they read is not read by P alone.
    behind = graph.downstream(end_of_phi) - {end_of_phi}
    reduction = find_reduction(graph, end_of_phi, [node for node in nodes if node.output[0] in behind])
    if isinstance(reduction, str):
        return Unfactored(reduction)

    channels = shape_of(graph, target)[1]
    cell_forms = AffineForms(graph, target, channels, cells=True).follow(nodes)
    linear_phi = cell_forms.get(end_of_phi)
    if reduction.kind == "flatten" and linear_phi is not None and linear_phi.weight is not None:
        linear_phi = None  # folding would multiply two large matrices: φ is run instead
    inputs = len(reduction.order)
    psi = find_first_layer(graph, reduction, inputs, nodes, clean)
    if psi is None:
        return Unfactored(
            f"what follows the flattened map does not begin with a linear layer ({reduction.tensor!r})"
        )
    name, form = psi
    if (root := find_root(graph, name)) is not None:
        return Unfactored(f"{root} of sums over cells, whose differences it magnifies")
    for end, begin in ((LOGITS, name), (end_of_phi, target)):
        if begin != end and (around := find_crossing_tensors(graph, begin, end=end)):
            return Unfactored(
                f"{', '.join(map(repr, around))} go{'es' * (len(around) == 1)} around {begin!r}"
            )
    weight, bias = reorder_to_map(graph, form, reduction, end_of_phi)
    inner, outer = shape_of(graph, target)[2:], shape_of(graph, end_of_phi)[2:]
    cell_bias: Array | None = None
    phi: Literal["identity", "separable", "dense"]
    phi_model, start = None, None
    if end_of_phi == target or (linear_phi is not None and linear_phi.is_identity):
        phi = "identity"
    elif linear_phi is not None and reduction.kind != "flatten":
        phi = "identity"
        weight, shift = fold_phi(weight, linear_phi)
        if reduction.kind == "sum":
            cell_bias = shift
        elif shift is not None:
            bias = bias + shift
    else:
        phi = "separable" if region[end_of_phi] else "dense"
        phi_model = build_head_model(graph.model, graph, target, end_of_phi, input_name=MAP, batch=batch)
        if phi == "dense":
            start = find_affine_start(graph, target, end_of_phi, cell_forms, clean, batch)
    return Factors(
        phi=phi,
        phi_model=phi_model,
        phi_tensor=None if phi_model is None else end_of_phi,
        phi_start=start,
        reduction=reduction.kind,
        border=(outer[0] - inner[0], outer[1] - inner[1]),
        weight=None if weight is None else np.ascontiguousarray(weight, dtype=np.float32),
        bias=np.ascontiguousarray(bias, dtype=np.float32),
        cell_bias=None if cell_bias is None else np.ascontiguousarray(cell_bias, dtype=np.float32),
        answer=name,
    )


MAP = "camrt_map"
VECTOR = "camrt_vector"


def shape_of(graph: Graph, name: str) -> tuple[int, ...]:
    shape = graph.shape(name)
    assert shape is not None
    return shape


def find_first_layer(
    graph: Graph, reduction: Reduction, inputs: int, nodes: list[NodeProto], clean: frozenset[str]
) -> tuple[str, Affine] | None:
    """The last tensor that is affine in P's answer and that everything runs through, with its form."""
    shape = shape_of(graph, reduction.tensor)
    if reduction.kind == "flatten" and len(shape) == 4 and shape[2] * shape[3] > 1:
        return find_whole_map_convolution(graph, reduction, nodes, clean)
    forms = AffineForms(graph, reduction.tensor, inputs, cells=False).follow(nodes)
    name = next((name for name in reversed(forms) if name in clean), reduction.tensor)
    form = forms[name]
    if form.weight is None and reduction.kind == "flatten":
        return None
    return name, form


def find_whole_map_convolution(
    graph: Graph, reduction: Reduction, nodes: list[NodeProto], clean: frozenset[str]
) -> tuple[str, Affine] | None:
    """A convolution whose kernel covers the whole map: a linear layer on the flattened map."""
    node = next((node for node in nodes if reduction.tensor in node.input), None)
    if node is None or node.op_type != "Conv":  # the graph inside a node may read it, or none
        return None
    shape = shape_of(graph, reduction.tensor)
    weight = graph.constant(node.input[1])
    made = node.output[0]
    if weight is None or weight.shape[1:] != shape[1:] or any(attribute(node, "pads", [0])):
        return None
    if not has_known_bias(graph, node):
        return None
    if made not in clean or attribute(node, "auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        return None
    bias = graph.constant(node.input[2]) if len(node.input) > 2 else None
    form = Affine(weight.reshape(len(weight), -1), None if bias is None else bias.astype(np.float64))
    # Only value-preserving and reshaping nodes are followed further: the layer stays as it is.
    onward = AffineForms(graph, made, len(weight), cells=False).follow(nodes)
    same = [name for name, after in onward.items() if after.is_identity]
    return next(name for name in reversed(same) if name in clean), form


def reorder_to_map(
    graph: Graph, form: Affine, reduction: Reduction, map_name: str
) -> tuple[Array | None, Array]:
    """The layer's weight with its columns in the map's own order, and its bias."""
    order = reduction.order
    features = form.features(len(order))
    bias = zeros(features, "bias of a head's layer") if form.bias is None else form.bias
    weight = form.weight
    straight = bool((order == np.arange(len(order))).all())
    if not straight:
        weight = eye(features, "weight of a head's layer") if weight is None else weight
        reserve_array((features, len(order)), "weight of a head's layer", itemsize=weight.itemsize)
        weight = weight[:, np.argsort(order)]
    if weight is not None and reduction.kind == "flatten":
        weight = weight.reshape(features, *shape_of(graph, map_name)[1:])
    return weight, bias


def fold_phi(weight: Array | None, phi: Affine) -> tuple[Array | None, Array | None]:
    """ψ's first layer after a linear φ, W·(Φ·a + β) in each cell: WΦ, and Wβ."""
    wide = None if weight is None else weight.astype(np.float64)
    shift = phi.bias if wide is None or phi.bias is None else wide @ phi.bias
    if phi.weight is not None:
        mixed = phi.weight.astype(np.float64)
        weight = mixed if wide is None else matmul(wide, mixed, "layers of a head as one")
    return weight, shift


def cell_layer(weight: Array) -> onnx.ModelProto:
    """A graph of its own that applies a layer to every cell: (N, K, h, w) -> (N, h, w, F).

    Args:
        weight: (F, K) float32.
    """
    made = onnx.helper.make_tensor_value_info
    features, channels = weight.shape
    columns = onnx.numpy_helper.from_array(np.ascontiguousarray(weight.T), "camrt_columns")
    graph = onnx.helper.make_graph(
        [
            onnx.helper.make_node("Transpose", [MAP], ["camrt_cells_last"], perm=[0, 2, 3, 1]),
            onnx.helper.make_node("MatMul", ["camrt_cells_last", columns.name], ["mixed"]),
        ],
        "cell_layer",
        [made(MAP, onnx.TensorProto.FLOAT, ["N", channels, "h", "w"])],
        [made("mixed", onnx.TensorProto.FLOAT, ["N", "h", "w", features])],
        [columns],
    )
    return onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 13)], ir_version=8)


def find_affine_start(
    graph: Graph,
    target: str,
    end_of_phi: str,
    forms: dict[str, Affine],
    clean: frozenset[str],
    batch: int | None,
) -> AffineStart | None:
    name = next((name for name in reversed(forms) if name in clean), target)
    form = forms[name]
    if form.weight is None:
        return None
    layer = build_head_model(graph.model, graph, target, name, input_name=MAP, batch=batch)
    weight = np.ascontiguousarray(form.weight, dtype=np.float32)
    bias = zeros(len(weight), "bias of a head's layer") if form.bias is None else form.bias
    each = build_each_channel(graph, name, end_of_phi, batch)
    return AffineStart(weight, np.ascontiguousarray(bias, np.float32), layer, name, each)


def build_each_channel(graph: Graph, start: str, end: str, batch: int | None) -> onnx.ModelProto | None:
    """The graph between two maps, of a single channel; None where channels are mixed or not made alike."""
    nodes = [graph.nodes[index] for index in graph.upstream_nodes(end, stop=[start])]
    if not all(is_same_for_every_element(graph, node) for node in nodes):
        return None
    part = build_head_model(graph.model, graph, start, end, input_name=MAP, batch=batch)
    set_shape(part.graph.input[0], [batch or "N", 1, f"{MAP}_h", f"{MAP}_w"])
    return part
