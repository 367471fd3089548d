"""Which tensor of a classifier's graph holds the class scores, and how they lie in it.

A tensor holds scores when it has one number for each image and class, in that order: (N, C), (N, C, 1, 1),
(N, 1, 1, C), (1, N, C), (N,) for one class, (C,) for one image. What is left of scores is traced back to
them where that is plain (the best few of them, TopK), and refused where it is not (class numbers, decisions,
boxes).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import onnx
from onnx import NodeProto, TensorProto

from camrt.errors import ModelFileError, UnsupportedModelError
from camrt.export.graph.index import Graph, attribute, has_trailing_ones
from camrt.export.graph.operators import (
    ELEMENTWISE_BINARY,
    ELEMENTWISE_UNARY,
    FLOATING,
    QUANTISERS,
    RESHAPING,
    preserves_values,
)

__all__ = ["ScoreShapes", "ScoreTensor", "choose_score_tensor"]

# Another batch size to look at a shape at, where one image's does not tell which axis is the images'.
SEVERAL = 3
# Leave of scores which class is best, and no more.
RANKING = frozenset({"ArgMax", "ArgMin", "Hardmax"})
# Leave of scores the best, in the order of their ranks.
SORTING = frozenset({"ReduceMax", "ReduceMin", "TopK"})
# Move numbers about, or choose some of them.
MOVING = RESHAPING | QUANTISERS | {"Gather", "OneHot", "Slice"}
# Make other numbers of numbers, and leave each in its class's place.
CHANGING = ELEMENTWISE_UNARY | {"LogSoftmax", "Softmax"}
DETECTING = frozenset({"NonMaxSuppression"})
NO_TENSOR = "not a tensor"
UNKNOWN = "(unknown shape)"


@dataclass(frozen=True)
class ScoreTensor:
    """A tensor of class scores.

    Attributes:
        name: The tensor.
        classes: C.
        notes: What a user should know of how it was found.
    """

    name: str
    classes: int
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class LossyOutput:
    """The operator that reduced class scores to something less (best score, class index, boxes).

    Attributes:
        node: The operator that left it: TopK, ArgMax, a comparison, boxes.
        unchanged: Whether its numbers are the operator's own.
    """

    node: NodeProto
    unchanged: bool = True


class ScoreShapes:
    """The shapes of a graph's tensors, read as scores of images and classes.

    Attributes:
        graph: The graph, indexed at one batch size.
        one_image: Whether the model takes one image at a time and never several.
    """

    def __init__(self, graph: Graph, batch: int | None) -> None:
        self.graph = graph
        self.one_image = batch == 1
        self._open = batch is None
        self._several: Graph | None = None
        self._observed = False

    def shape(self, name: str) -> tuple[int, ...] | None:
        """A tensor's shape, found by running the model where inference does not know it."""
        if self.graph.shape(name) is None and not self._observed:
            self._observed = True
            for value in self.graph.model.graph.output:
                self.graph.observe(value.name)
        return self.graph.shape(name)

    def classes(self, name: str) -> int | None:
        """C of a tensor of scores; None when it is none, or its shape is not known."""
        shape = self.shape(name)
        found = None if shape is None else count_classes(shape, self.graph.input_shape[0])
        if found is None or shape is None or not self._open or self.is_plain(name):
            return found
        wider = self._at_several(name)
        return found if wider is None or count_classes(wider, SEVERAL) == found else None

    def is_plain(self, name: str) -> bool:
        """Whether a tensor's shape is (N, C), or that with ones behind."""
        shape = self.shape(name)
        return shape is not None and has_trailing_ones(shape) and shape[0] == self.graph.input_shape[0]

    def class_axis(self, name: str) -> int | None:
        """The axis of a tensor of scores that runs over classes; None when there is one class."""
        shape = self.shape(name) or ()
        axes = [axis for axis, size in enumerate(shape) if size != 1]
        return axes[-1] if axes and self.classes(name) != 1 else None

    def _at_several(self, name: str) -> tuple[int, ...] | None:
        """The tensor's shape for several images; None when the graph does not hold for them."""
        if self._several is None:
            model, shape = self.graph.model, (SEVERAL, *self.graph.input_shape[1:])
            try:
                self._several = Graph(model, shape)
            except ModelFileError:  # its inside holds for one image
                return None
        return self._several.shape(name)


def count_classes(shape: tuple[int, ...], batch: int) -> int | None:
    """C when a shape is one number for each of `batch` images and C classes, in that order."""
    sizes = [size for size in shape if size != 1]
    if batch != 1 and (not sizes or sizes.pop(0) != batch):
        return None
    return math.prod(sizes) if len(sizes) <= 1 else None


def choose_score_tensor(scores: ScoreShapes, wanted: str | None) -> ScoreTensor:
    """The tensor that holds the class scores, among a model's outputs.

    Args:
        scores: The shapes.
        wanted: An output, or a tensor inside the graph; None for the only output that can be meant.

    Raises:
        UnsupportedModelError: None can be meant, or several; the message says what to do.
    """
    graph = scores.graph
    outputs = list(graph.model.graph.output)
    names = [value.name for value in outputs]
    if any(graph.shape(name) is None for name in names):
        for name in names:
            graph.observe(name)
    listing = ", ".join(f"{value.name!r} {describe_output(graph, value)}" for value in outputs)
    if wanted is not None:
        if wanted not in names and (wanted not in graph.producers or not graph.shape(wanted)):
            raise UnsupportedModelError(f"there is no output {wanted!r}; the model has {listing}")
        names = [wanted]
    remains = {name: find_lossy_operator(graph, name) for name in names}
    remains |= {name: find_ranked_maximum(scores, name, remains) for name in names if remains[name] is None}
    fitting = [
        name
        for name in names
        if remains[name] is None
        and graph.types.get(name, TensorProto.UNDEFINED) in FLOATING
        and scores.classes(name) is not None
    ]
    fitting = [name for name in fitting if scores.is_plain(name)] or fitting
    sorted_ones = [
        (name, found.node)
        for name, found in remains.items()
        if found is not None and found.unchanged and is_best_scores(scores, found.node)
    ]
    sources = {node.input[0] for _, node in sorted_ones}
    if len(fitting) == 1 and all(fitting[0] in graph.upstream(source) for source in sources):
        return ScoreTensor(fitting[0], scores.classes(fitting[0]) or 1)
    if not fitting and len(sources) == 1:
        ((name, node),) = sorted_ones[:1]
        source = node.input[0]
        note = (
            f"the output {name!r} holds the best classes alone ({node.op_type}): explained are all scores, "
            f"{source!r}"
        )
        return ScoreTensor(source, scores.classes(source) or 1, (note,))
    if fitting or sources:
        raise UnsupportedModelError(
            f"several outputs could be class scores: {listing}; say which with output='name'"
        )
    for name, found in remains.items():
        if found is not None:
            raise UnsupportedModelError(refusal_message(graph, name, found.node, listing))
    hint = "; export it without ZipMap, so that scores are a tensor" if NO_TENSOR in listing else ""
    if UNKNOWN in listing:
        hint += (
            "; it may take images of another size than those it was tried on: say it with preprocessing="
            "camrt.Preprocessing(size=(H, W), ...), or export it with a fixed size"
        )
    raise UnsupportedModelError(
        f"a classifier's output is (N, C) class scores; this model gives {listing}{hint}"
    )


def describe_output(graph: Graph, value: onnx.ValueInfoProto) -> str:
    """What an output holds, as far as it is known."""
    kind = value.type.WhichOneof("value")
    if kind not in (None, "tensor_type"):
        return f"(a {kind.removesuffix('_type')}, {NO_TENSOR})"
    shape = graph.shape(value.name)
    return UNKNOWN if shape is None else str(shape)


def find_lossy_operator(graph: Graph, name: str) -> LossyOutput | None:
    """What an operator left in a tensor that is no scores; None where they may be."""
    for index in graph.upstream_nodes(name):
        if graph.nodes[index].op_type in DETECTING:
            return LossyOutput(graph.nodes[index])
    unchanged = True
    while (node := graph.producer(name)) is not None:
        if node.op_type == "TopK" or node.op_type in RANKING or graph.types.get(name) == TensorProto.BOOL:
            return LossyOutput(node, unchanged)
        if node.op_type == "GatherElements":
            chosen = find_lossy_operator(graph, node.input[1])
            if chosen is None or chosen.node.op_type not in RANKING | SORTING:
                return None
            return LossyOutput(chosen.node, unchanged and node.input[0] == chosen.node.input[0])
        moving = node.op_type in MOVING or preserves_values(node) or node.op_type == "Cast"
        changing = node.op_type in CHANGING | ELEMENTWISE_BINARY
        read = [given for given in node.input if given and not graph.is_constant(given)]
        if not moving and not (changing and len(read) == 1):
            return None
        unchanged = unchanged and moving
        name = read[0] if changing else node.input[0]
    return None


def find_ranked_maximum(
    scores: ScoreShapes, name: str, remains: Mapping[str, LossyOutput | None]
) -> LossyOutput | None:
    """The largest of the class scores that another output ranks: of a pair (confidence, class)."""
    node = scores.graph.producer(name)
    while node is not None and (node.op_type in RESHAPING or preserves_values(node)):
        node = scores.graph.producer(node.input[0])
    if node is None or node.op_type not in ("ReduceMax", "ReduceMin"):
        return None
    classes = scores.classes(node.input[0])
    ranked = [one.node.input[0] for one in remains.values() if one and one.node.op_type in RANKING]
    if classes in (None, 1) or classes not in map(scores.classes, ranked):
        return None
    return LossyOutput(node)


def is_best_scores(scores: ScoreShapes, node: NodeProto) -> bool:
    """Whether a node takes the best of each image's class scores."""
    if node.op_type not in SORTING:
        return False
    source = node.input[0]
    shape = scores.shape(source)
    if shape is None or scores.classes(source) is None:
        return False
    if node.op_type != "TopK":
        return True
    axis: int = attribute(node, "axis", -1) % len(shape)
    return axis == (scores.class_axis(source) or len(shape) - 1)


def refusal_message(graph: Graph, name: str, node: NodeProto, listing: str) -> str:
    """Why what an operator left is no class score, and what to do."""
    if node.op_type in DETECTING:
        return (
            f"this model detects objects ({node.op_type}) and gives {listing}: class maps explain "
            "classifiers, whose output is (N, C) class scores"
        )
    source = node.input[0]
    shape = graph.shape(source)
    inside = f"{source!r}{'' if shape is None else f' {shape}'}"
    what = {"ArgMax": "class numbers", "ArgMin": "class numbers"} | dict.fromkeys(
        SORTING, "the best of scores"
    )
    return (
        f"the output {name!r} holds {what.get(node.op_type, 'decisions')}, which {node.op_type} makes of "
        f"{inside}, and no (N, C) class scores; if those are in {source!r}, pass output={source!r}"
    )
