"""Bringing a classifier's inputs and outputs to one form: float32 (N, C, H, W) in, logits (N, classes) out.

The cases, in order:

1. The input is brought to its form by `camrt.export.rewrites.input_form`.
2. The output is the only one of class scores, or the one named, see `camrt.export.outputs.class_scores`.
3. Its end is read, see `camrt.export.outputs.output_form`: the graph then ends at its logits.
4. A CALM file, which says so in its metadata, gives probabilities p(y|x) = exp(log p(y|x)); its logits are
   log p(y|x), whose softmax is p(y|x).
5. `Constant` nodes become initializers, so that what follows finds every weight in one place.
6. A graph of an operator set before 17 is brought to that one (`camrt.export.rewrites.opset_upgrade`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from camrt.errors import ModelFileError, UnsupportedModelError
from camrt.export.graph.index import Graph, ShapeObserver, set_shape
from camrt.export.graph.operators import preserves_values
from camrt.export.graph.upkeep import drop_unused, lift_constants, rename_tensors
from camrt.export.outputs.class_scores import ScoreShapes, choose_score_tensor
from camrt.export.outputs.declared_heads import read_declared_head
from camrt.export.outputs.output_form import Activation, InverseLink, OutputForm, find_output_form
from camrt.export.outputs.score_kinds import LogitTransform, Prober, make_logit_nodes
from camrt.export.rewrites.input_form import InputLayout, standardise_input
from camrt.export.rewrites.opset_upgrade import upgrade_opset

__all__ = ["Interface", "standardise"]

# Height and width taken for the analysis when neither the graph nor the preprocessing says.
OPEN_SIZE = 224
LOGITS = "camrt_logits"


@dataclass(frozen=True, kw_only=True)
class Interface:
    """What a standardised model takes and gives.

    Attributes:
        channels: Colour channels C of the images.
        height: Image height H; None when the graph leaves it open.
        width: Image width W; None when the graph leaves it open.
        batch: Fixed batch size of the graph; None when the batch axis is open.
        num_classes: Number of classes.
        activation: How logits become probabilities.
        recognised: What the file ends in that said so; None when it ends in logits.
        layout: Axis order of the file's own input.
        joint: Of a CALM model, what gives log p(y,z|x), (N, C, h, w): the tensor's name, or in a torch module
            the path of its head; None of others.
        element: Element type of the file's own input (`onnx.TensorProto` constant).
        reading: What was done to the file's answers to make logits of them, see
            `camrt.export.outputs.score_kinds`.
        notes: What a user should know of how outputs were read.
        is_distribution: Whether the answers were found to be probabilities that sum to one, whose logarithms
            the logits are; not where a user says so.
    """

    channels: int
    height: int | None
    width: int | None
    batch: int | None
    num_classes: int
    activation: Activation
    recognised: str | None
    layout: InputLayout
    joint: str | None = None
    element: int = TensorProto.FLOAT
    reading: LogitTransform = "as it is"
    notes: tuple[str, ...] = ()
    is_distribution: bool = False

    @property
    def inverse_link(self) -> InverseLink:
        """The function from logits to probabilities.

        Where the file's answers are probabilities p and logits log p, it is the exponential: a softmax would
        give the same of a distribution, but an altered activation's answers need not sum to one.
        """
        return "exp" if self.is_distribution else self.activation

    @property
    def fixed_size(self) -> bool:
        """Whether the graph fixes both the height and the width of its images."""
        return self.height is not None and self.width is not None

    def probe_shape(self, batch: int, size: tuple[int, int] | None = None) -> tuple[int, int, int, int]:
        """A concrete input shape to analyse the graph at; what the graph leaves open is taken from `size`."""
        return (batch, self.channels, *probe_size(self.height, self.width, size))


def probe_size(height: int | None, width: int | None, size: tuple[int, int] | None) -> tuple[int, int]:
    """(H, W) to analyse a graph at: its own where fixed, then that of `size`, then `OPEN_SIZE`."""
    open_height, open_width = size or (OPEN_SIZE, OPEN_SIZE)
    return height or open_height, width or open_width


def standardise(
    model: onnx.ModelProto,
    *,
    output: str | None = None,
    activation: Activation | None = None,
    layout: InputLayout | None = None,
    expected_size: tuple[int, int] | None = None,
    observer: ShapeObserver | None = None,
    prober: Prober | None = None,
) -> Interface:
    """Rewrites a model in place to take `camrt_images` and give `camrt_logits`.

    Args:
        model: A model as `camrt.export.io.model_file.read_model` returns it.
        output: Name of the output to explain, needed only when several could be meant; or of a tensor inside.
        activation: How logits become probabilities; None finds it, see `camrt.export.outputs.output_form`
            (softmax when nothing says so, sigmoid for a single logit).
        layout: Axis order of the model's input; None reads it off the graph.
        expected_size: (H, W) to analyse the graph at when it leaves its image size open.
        observer: See `camrt.export.graph.index.Graph`.
        prober: See `camrt.export.outputs.score_kinds`; without one, answers that only their numbers tell
            apart are read by their bounds alone.

    Raises:
        InputError: There is no such layout.
        UnsupportedModelError: The model is not a single-input classifier with an (N, C) output.
    """
    own = read_declared_head(model)
    rename_tensors(model.graph, escape_name)
    output = escape_name(output) if output is not None else None
    lift_constants(model)
    upgrade_opset(model)
    form = standardise_input(model, layout)
    channels, height, width, batch = form.channels, form.height, form.width, form.batch
    assert channels is not None
    graph = Graph(model, (batch or 1, channels, *probe_size(height, width, expected_size)), observer)
    scores = ScoreShapes(graph, batch)
    answer = choose_score_tensor(scores, output)
    joint = None
    if own is not None and own.kind == "calm" and answer.name == escape_name(own.outputs["probabilities"]):
        if activation not in (None, "softmax"):
            raise UnsupportedModelError(
                f"activation={activation!r} was asked for, but the file is CALM: its answers are p(y|x)"
            )
        logits, joint = find_calm_logits(graph, answer.name, escape_name(own.outputs["log_joint"]))
        ending = OutputForm(logits, "softmax", recognised="CALM")
    else:
        ending = find_output_form(scores, answer, activation, prober)
    end_at_logits(model, scores, ending, answer.classes)
    return Interface(
        channels=channels,
        height=height,
        width=width,
        batch=batch,
        num_classes=answer.classes,
        activation=ending.activation or ("sigmoid" if answer.classes == 1 else "softmax"),
        recognised=ending.recognised,
        layout=form.layout,
        joint=joint,
        element=form.element,
        reading=ending.reading,
        notes=(*answer.notes, *ending.notes),
        is_distribution=activation is None and ending.reading == "log",
    )


def escape_name(name: str) -> str:
    """Prefixes a name that begins with camrt_, which is reserved for tensors camrt adds."""
    return f"file_{name}" if name.startswith("camrt_") else name


def find_calm_logits(graph: Graph, probabilities: str, joint: str) -> tuple[str, str]:
    """The tensors log p(y|x), (N, C), and log p(y,z|x), (N, C, h, w), of a CALM file.

    Raises:
        ModelFileError: The file says that it is CALM, and its outputs are something else.
    """
    current = probabilities
    while (node := graph.producer(current)) is not None and node.op_type != "Exp":
        if not preserves_values(node):
            break
        current = node.input[0]
    shape, of_joint = graph.shape(probabilities), graph.shape(joint)
    if node is None or node.op_type != "Exp":
        raise ModelFileError(
            f"the file says it is CALM, and its {probabilities!r} are not the exponential of log p(y|x)"
        )
    if shape is None or of_joint is None or len(of_joint) != 4 or of_joint[:2] != shape[:2]:
        raise ModelFileError(f"the file says it is CALM, and its {joint!r} are no (N, C, h, w): {of_joint}")
    if probabilities == joint or node.input[0] not in graph.downstream(joint):
        raise ModelFileError(
            f"the file says it is CALM, and its {probabilities!r} do not come from {joint!r}"
        )
    return node.input[0], joint


def end_at_logits(model: onnx.ModelProto, scores: ScoreShapes, ending: OutputForm, classes: int) -> None:
    """Ends the graph at a float32 (N, classes) `camrt_logits` and drops the nodes nothing needs."""
    graph, current = scores.graph, ending.tensor
    nodes: list[onnx.NodeProto] = []
    if not (scores.is_plain(current) and len(graph.shape(current) or ()) == 2):
        if scores.is_plain(current):
            nodes.append(helper.make_node("Flatten", [current], ["camrt_flat_logits"], axis=1))
        else:
            rows = numpy_helper.from_array(np.array([-1, classes], np.int64), "camrt_rows")
            model.graph.initializer.append(rows)
            nodes.append(helper.make_node("Reshape", [current, "camrt_rows"], ["camrt_flat_logits"]))
        current = "camrt_flat_logits"
    if ending.reading != "as it is":
        nodes.append(helper.make_node("Cast", [current], ["camrt_answers"], to=TensorProto.FLOAT))
        read, constants, current = make_logit_nodes("camrt_answers", ending.reading)
        nodes += read
        model.graph.initializer.extend(constants)
    nodes.append(helper.make_node("Cast", [current], [LOGITS], to=TensorProto.FLOAT))
    model.graph.node.extend(nodes)
    del model.graph.output[:]
    model.graph.output.append(helper.make_tensor_value_info(LOGITS, TensorProto.FLOAT, None))
    set_shape(model.graph.output[0], [graph.input_shape[0] if has_fixed_batch(model) else "N", classes])
    drop_unused(model)


def has_fixed_batch(model: onnx.ModelProto) -> bool:
    """Whether the input's batch axis is a number."""
    return bool(model.graph.input[0].type.tensor_type.shape.dim[0].HasField("dim_value"))
