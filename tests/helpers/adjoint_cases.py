"""Small graphs of one or a few nodes, and their adjoints checked against torch's autograd in float64."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import torch
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from camrt.engine.runtime import make_onnx_runtime
from camrt.engine.shape_probe import make_shape_observer
from camrt.export.adjoint import GRADIENT, WEIGHTING, build_adjoint_model
from camrt.export.graph.index import Graph
from camrt.export.rewrites.interface import LOGITS, standardise
from helpers.tolerances import assert_close

__all__ = [
    "AdjointCase",
    "away_from",
    "build_adjoint_of",
    "check_adjoint",
    "node",
    "open_graph",
    "random_positive",
    "random_with_corners",
    "run_single",
    "torch_gradient",
]  # fmt: skip

Array = np.ndarray
# Sums of some hundred products there and back.
SUMS = 8.0


def node(operator: str, inputs: str, outputs: str, **attributes: Any) -> onnx.NodeProto:
    """A node; names are separated by spaces, `_` is an input that is left out."""
    names = ["" if name == "_" else name for name in inputs.split()]
    return helper.make_node(
        operator, names, outputs.split(), name=f"{operator}_{outputs.split()[0]}", **attributes
    )


def random_with_corners(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """Zeros and other whole numbers among the rest, where corners lie."""
    return np.where(rng.random(shape) < 0.3, rng.integers(-4, 5, shape), rng.standard_normal(shape) * 2)


def random_positive(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """Well away from zero."""
    return rng.random(shape) + 0.25


def away_from(*corners: float) -> Callable[[np.random.Generator, tuple[int, ...]], Array]:
    """Standard normal values, none within 0.01 of a corner."""

    def draw(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
        values = rng.standard_normal(shape) * 2
        for corner in corners:
            values = np.where(np.abs(values - corner) < 0.01, corner + 0.5, values)
        return values

    return draw


@dataclass
class AdjointCase:
    """Nodes from the image `x` (N, C, H, W) to a tensor `y`, and what they compute, in torch.

    Attributes:
        nodes: The nodes.
        function: The same of a double tensor.
        shape: (C, H, W).
        weights: Constants by name.
        opset: Operator set.
        values: Images from a generator and a shape; standard normal when None.
        element: Element type of the file.
        batch: Batch size of the file, or the name of an open one.
        open_size: Whether height and width are open.
    """

    nodes: Sequence[onnx.NodeProto]
    function: Callable[[torch.Tensor], torch.Tensor] | None
    shape: tuple[int, int, int] = (3, 5, 4)
    weights: dict[str, Array] = field(default_factory=dict)
    opset: int = 17
    values: Callable[[np.random.Generator, tuple[int, ...]], Array] | None = None
    element: int = TensorProto.FLOAT
    batch: int | str = "N"
    open_size: bool = False

    def model(self) -> onnx.ModelProto:
        """The graph, its output flattened."""
        sizes = (self.shape[0], "h", "w") if self.open_size else self.shape
        dtype = helper.tensor_dtype_to_np_dtype(self.element)
        weights = [
            numpy_helper.from_array(value.astype(dtype) if value.dtype.kind == "f" else value, name)
            for name, value in self.weights.items()
        ]
        features: int | str = "C"
        if self.function is not None and not self.open_size:  # what inference does not know of every operator
            features = self.function(torch.zeros(1, *self.shape, dtype=torch.double)).numel()
        graph = helper.make_graph(
            [*self.nodes, node("Flatten", "y", "flat")],
            "case",
            [helper.make_tensor_value_info("x", self.element, [self.batch, *sizes])],
            [helper.make_tensor_value_info("flat", self.element, [self.batch, features])],
            weights,
        )
        imports = [helper.make_opsetid("", self.opset)]
        if any(made.domain for made in self.nodes):
            imports.append(helper.make_opsetid("com.microsoft", 1))
        return helper.make_model(graph, opset_imports=imports, ir_version=8)

    def images(self, count: int, seed: int = 0) -> Array:
        """Images in float64, exact in float32."""
        rng = np.random.default_rng(seed)
        shape = (count, *self.shape)
        values = rng.standard_normal(shape) if self.values is None else self.values(rng, shape)
        return np.asarray(values, np.float32).astype(np.float64)


def open_graph(model: onnx.ModelProto, size: tuple[int, int] = (5, 4)) -> tuple[onnx.ModelProto, Graph]:
    """A standardised model and its index, with shapes found by running where inference does not know them."""
    watch = make_shape_observer(make_onnx_runtime(threads=1))
    interface = standardise(model, activation="none", layout="NCHW", expected_size=size, observer=watch)
    graph = Graph(model, interface.probe_shape(interface.batch or 5, size), watch)
    graph.observe(LOGITS)
    return model, graph


def build_adjoint_of(
    case: AdjointCase, *, double: bool, start: str = "camrt_images", **options: Any
) -> onnx.ModelProto:
    """The adjoint of a case, with respect to its image or to a tensor."""
    model, graph = open_graph(case.model(), case.shape[1:])
    element = TensorProto.DOUBLE if double else TensorProto.FLOAT
    batch = case.batch if isinstance(case.batch, int) else None
    return build_adjoint_model(model, graph, start, input_name="map", batch=batch, element=element, **options)


def run_double(model: onnx.ModelProto, feeds: dict[str, Array]) -> list[Array]:
    """Logits and gradient by ONNX's reference implementation in float64."""
    wide = {name: value.astype(np.float64) for name, value in feeds.items()}
    return [np.asarray(value) for value in ReferenceEvaluator(model).run([LOGITS, GRADIENT], wide)]


def run_single(model: onnx.ModelProto, feeds: dict[str, Array]) -> list[Array]:
    """Logits and gradient by onnxruntime in float32."""
    options = ort.SessionOptions()
    options.log_severity_level = 3
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    narrow = {name: value.astype(np.float32) for name, value in feeds.items()}
    return session.run([LOGITS, GRADIENT], narrow)


def torch_gradient(
    function: Callable[[torch.Tensor], torch.Tensor], images: Array, seed: int = 1
) -> tuple[Array, Array, Array]:
    """A random weighting, logits and gradient by torch in float64."""
    given = torch.from_numpy(images).requires_grad_()
    logits = function(given).flatten(1)
    weighting = np.random.default_rng(seed).standard_normal(tuple(logits.shape)).astype(np.float32)
    (logits * torch.from_numpy(weighting.astype(np.float64))).sum().backward()
    assert given.grad is not None
    return weighting, logits.detach().numpy(), given.grad.numpy()


def check_adjoint(case: AdjointCase, *, factor: float = SUMS, double: bool = True) -> None:
    """Batches of 1, 2 and 7 through one graph, in float64 and float32, against torch.

    Args:
        case: The case.
        factor: Of the float32 tolerance.
        double: Whether ONNX's reference implementation knows the operators.
    """
    wide = build_adjoint_of(case, double=True) if double else None
    narrow = build_adjoint_of(case, double=False)
    assert case.function is not None
    for count in (1, 2, 7):
        images = case.images(count, seed=count)
        weighting, logits, expected = torch_gradient(case.function, images)
        feeds = {"map": images, WEIGHTING: weighting}
        if wide is not None:
            found = run_double(wide, feeds)
            assert_close(found[0], logits, np.float64, factor=10)
            assert_close(found[1], expected, np.float64, factor=10)
        found = run_single(narrow, feeds)
        assert_close(found[0], logits, np.float32, factor=factor)
        assert_close(found[1], expected, np.float32, factor=factor)
