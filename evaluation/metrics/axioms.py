"""The three axioms of "Keep CALM and Improve Visual Feature Attribution" (ICCV 2021), as numbers.

Section 3.1 shows that CAM breaks all three, section 4.2 that CALM keeps them:

- Implementation invariance: models that are the same function have the same attributions. A constant added to
  the scores of all classes leaves every probability as it is; here it is written into the model's own file,
  and what the attributions then change by is measured.
- Sensitivity: where altering a cell alters p(y|x), the cell's attribution is not zero. Here each cell of the
  activation is set to zero by itself, and those are counted that move p(y|x) and have no attribution.
- Completeness: attributions add up to p(y|x).
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import onnx
from onnx import helper, numpy_helper

import camrt
from camrt.default import resolve_model_path
from camrt.engine.arrays import library
from camrt.engine.engine import Engine
from camrt.engine.explanation import Explanation
from camrt.engine.heads import Head
from camrt.engine.methods import Cost, MapShape, Method, make_method
from camrt.engine.output_probe import make_output_prober
from camrt.engine.queries import HeadQueries, Need
from camrt.engine.runtime import make_onnx_runtime
from camrt.engine.shape_probe import make_shape_observer
from camrt.errors import InputError, UnsupportedModelError
from camrt.export.graph.index import Graph, attribute
from camrt.export.io.model_file import read_model
from camrt.export.rewrites.interface import LOGITS, standardise
from camrt.kernels.float_errors import ignore_float_errors

__all__ = [
    "CONSTANTS",
    "SENSITIVITY_THRESHOLD",
    "TOLERANCE",
    "AxiomsResult",
    "measure_axioms",
    "write_with_constant",
]

Array = npt.NDArray[Any]

CONSTANTS = (-10.0, 10.0)
"""What is added to the scores of all classes."""
SENSITIVITY_THRESHOLD = 1e-4
"""A change of p(y|x) from which on a cell counts as one that matters."""
TOLERANCE = 1e-3
"""Up to this an axiom is taken to hold; runtimes round."""


@dataclass(frozen=True)
class AxiomsResult:
    """What was measured of one method on one model.

    Attributes:
        method: The method.
        images: How many images.
        invariance: Largest change of an attribution when a constant is added to all classes' scores.
        insensitivity: Share of the cells that move p(y|x) whose attribution is zero.
        incompleteness: Mean of |Σ attributions − p(y|x)|.
    """

    method: str
    images: int
    invariance: float
    insensitivity: float
    incompleteness: float

    @property
    def invariant(self) -> bool:
        """Whether implementation invariance holds."""
        return self.invariance <= TOLERANCE

    @property
    def sensitive(self) -> bool:
        """Whether sensitivity holds."""
        return self.insensitivity <= TOLERANCE

    @property
    def complete(self) -> bool:
        """Whether completeness holds."""
        return self.incompleteness <= TOLERANCE


@ignore_float_errors
def measure_axioms(
    model: str | os.PathLike[str],
    images: Any,
    method: str | Method | None = None,
    *,
    preprocessing: Any = None,
    constants: Sequence[float] = CONSTANTS,
    load_options: Mapping[str, Any] | None = None,
    **options: Any,
) -> AxiomsResult:
    """Measures a method's axioms on an ONNX file and images, for the predicted classes.

    Attributions are a method's saliency in [0, 1] on the map's own grid; of "calm" they are its
    probabilities.

    Args:
        model: The file, or the word "default".
        images: What `Engine.explain` takes.
        method: Its name, or the method; None takes "calm" where the model holds it, else "cam".
        preprocessing: See `camrt.load`.
        constants: What is added to the scores of all classes.
        load_options: Further arguments of `camrt.load`.
        **options: The method's options.

    Raises:
        InputError: No images, or a method whose maps lie on the image's own pixels.
        CamrtError: What loading and explaining raise.
    """
    file = resolve_model_path(model)
    engine = camrt.load(file, preprocessing=preprocessing, **(load_options or {}))
    if method is None:
        method = "calm" if engine.has_joint else "cam"
    chosen = make_method(method, options)
    if Need.PIXELS in chosen.needs:
        raise InputError(f"{chosen.name} explains pixels; the axioms are measured on cells of an activation")
    attributions, found = compute_attributions(engine, images, chosen)
    moved = engine.explain(images, _CellDeletionEffect(), targets=found.targets).raw
    if moved.shape != attributions.shape:
        raise InputError(
            f"the map of {chosen.name} has {attributions.shape[1:]} cells and the activation "
            f"{moved.shape[1:]}: load the model with its own target"
        )
    changes = [0.0]
    with tempfile.TemporaryDirectory() as folder:
        for number, constant in enumerate(constants):
            path = write_with_constant(file, Path(folder) / f"{number}.onnx", constant, load_options)
            # what was written ends in logits, whatever the file ends in
            again = {name: value for name, value in (load_options or {}).items() if name == "grid"}
            other = camrt.load(path, preprocessing=preprocessing, activation="softmax", **again)
            changes.append(
                float(
                    np.abs(compute_attributions(other, images, chosen, found.targets)[0] - attributions).max()
                )
            )
    matter = moved > SENSITIVITY_THRESHOLD
    silent = float((attributions[matter] == 0).mean()) if matter.any() else 0.0
    of_class = found.probabilities[np.arange(len(attributions)), found.targets]
    missing = np.abs(attributions.astype(np.float64).sum(axis=(1, 2)) - of_class)
    return AxiomsResult(chosen.name, len(attributions), max(changes), silent, float(missing.mean()))


@dataclass(frozen=True, kw_only=True)
class _CellDeletionEffect(Method):
    """By how much p(y|x) changes when a cell of the activation is set to zero."""

    name: ClassVar[str] = "moves"
    needs: ClassVar[frozenset[Need]] = frozenset({Need.ALTERATIONS})

    def raw(self, ask: HeadQueries) -> tuple[Array, Array]:
        height, width = ask.activations.shape[2:]
        rows, columns = (place.ravel() for place in np.indices((height, width)))
        cells = np.stack([rows, columns, rows + 1, columns + 1], axis=1).astype(np.int64)
        scores = ask.scores("probability")
        deleted, _ = ask.scores_with_boxes(cells, "probability", delete=True, keep=False)
        assert deleted is not None
        xp = library(scores)
        change = xp.permute_dims(xp.abs(deleted - scores[:, None]), (0, 2, 1))
        return change.reshape(*scores.shape, height, width), scores

    def cost(self, head: Head, shape: MapShape) -> Cost:
        passes, why = head.box_passes(shape.height * shape.width)
        return Cost(passes, 0, why)


def compute_attributions(
    engine: Engine, images: Any, method: Method, targets: Any = None
) -> tuple[Array, Explanation]:
    """Attributions (N, h, w) on the map's own grid."""
    found = engine.explain(images, method, targets=targets, size="map")
    return (found.raw if Need.JOINT in method.needs else found.maps), found


@ignore_float_errors
def write_with_constant(
    model: Path, path: Path, constant: float, load_options: Mapping[str, Any] | None = None
) -> Path:
    """Writes a model's file with a constant added to the scores of all its classes.

    Its probabilities stay what they are.

    In a CALM file it is added to the class scores of every place; any other is written as camrt reads it,
    ending in its logits, with the constant added to those.

    Args:
        model: The file.
        path: The file to write.
        constant: What is added.
        load_options: `output`, `activation` and `layout`, as in `camrt.load`.

    Raises:
        UnsupportedModelError: A CALM file that has no softmax over classes, or a model without one.
    """
    whole = read_model(model).model
    analysed = onnx.ModelProto()
    analysed.CopyFrom(whole)
    runtime = make_onnx_runtime(threads=None)
    said = {
        name: value
        for name, value in (load_options or {}).items()
        if name in ("output", "activation", "layout")
    }
    interface = standardise(
        analysed, observer=make_shape_observer(runtime), prober=make_output_prober(runtime), **said
    )
    if interface.activation != "softmax":
        raise UnsupportedModelError(
            f"a constant changes the answers of a model of activation {interface.activation!r}: the axiom is "
            "about a softmax"
        )
    if interface.joint is None:
        last = analysed.graph.node[-1]
        last.output[0] = "scores_before_the_constant"
        add_constant(analysed, len(analysed.graph.node), last.output[0], LOGITS, np.float32(constant))
        onnx.save(analysed, path)
        return path
    graph = Graph(analysed, interface.probe_shape(2))
    nodes = [graph.nodes[index] for index in graph.upstream_nodes(interface.joint)]
    softmaxes = [
        node
        for node in nodes
        if node.op_type in ("LogSoftmax", "Softmax") and attribute(node, "axis", -1) in (1, -3)
    ]
    name = softmaxes[-1].input[0] if softmaxes else ""
    source = next((node for node in whole.graph.node if name and name in node.output), None)
    if source is None:
        raise UnsupportedModelError("the scores of the classes were not found in the file")
    before = f"{name}_before_the_constant"
    source.output[list(source.output).index(name)] = before
    kind = helper.tensor_dtype_to_np_dtype(graph.types.get(name, onnx.TensorProto.FLOAT))
    place = list(whole.graph.node).index(source) + 1
    add_constant(whole, place, before, name, np.array(constant, kind))
    onnx.save(whole, path)
    return path


def add_constant(model: onnx.ModelProto, position: int, source: str, result: str, constant: Any) -> None:
    """Puts source + constant = made into a model's nodes."""
    model.graph.initializer.append(numpy_helper.from_array(np.asarray(constant), f"{source}_constant"))
    model.graph.node.insert(position, helper.make_node("Add", [source, f"{source}_constant"], [result]))
