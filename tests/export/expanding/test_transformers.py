"""Pieces of transformers that ONNX Runtime joins: answers and gradients of the file as read."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import NodeProto, TensorProto, helper, numpy_helper

import camrt
from camrt.export.io.model_file import read_model
from helpers.third_party_models import run_onnxruntime, save_optimised
from helpers.tolerances import assert_close

Array = np.ndarray[Any, Any]
SIZE, TOKENS, CLASSES = 8, 12, 4  # a map of 3×4 cells


def node(operator: str, inputs: str, outputs: str, domain: str = "", **attributes: Any) -> NodeProto:
    names = ["" if name == "_" else name for name in inputs.split()]
    return helper.make_node(operator, names, outputs.split(), outputs, domain=domain, **attributes)


def weights() -> dict[str, Array]:
    rng = np.random.default_rng(0)
    shapes = {
        "w": (SIZE, 3, 1, 1), "wq": (SIZE, SIZE), "wk": (SIZE, SIZE), "wv": (SIZE, SIZE),
        "qkv": (SIZE, 3 * SIZE),
        "b": (SIZE,), "bias": (3 * SIZE,), "gain": (SIZE,), "level": (SIZE,), "out": (SIZE, CLASSES),
        "mask": (1, 1, TOKENS, TOKENS),
    }  # fmt: skip
    made = {name: (rng.standard_normal(shape) / 2).astype(np.float32) for name, shape in shapes.items()}
    return made | {"rows": np.array([0, SIZE, -1]), "grid": np.array([0, SIZE, 3, 4])}


def classifier(pieces: Sequence[NodeProto], opset: int, path: Path) -> Path:
    """A map "A" (N, 8, 3, 4), its tokens "t" (N, 12, 8), the pieces from "t" to "z", their mean, a layer."""
    nodes = [
        node("Conv", "images w", "c"), node("Tanh", "c", "A"), node("Reshape", "A rows", "f"),
        node("Transpose", "f", "t", perm=[0, 2, 1]), *pieces, node("Transpose", "z", "u", perm=[0, 2, 1]),
        node("Reshape", "u grid", "g"), node("GlobalAveragePool", "g", "p"), node("Flatten", "p", "y"),
        node("MatMul", "y out", "logits"),
    ]  # fmt: skip
    used = {name for made in nodes for name in made.input}
    graph = helper.make_graph(
        nodes,
        "pieces",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["N", 3, 3, 4])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", CLASSES])],
        [numpy_helper.from_array(value, name) for name, value in weights().items() if name in used],
    )
    imports = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    path.write_bytes(helper.make_model(graph, opset_imports=imports, ir_version=8).SerializeToString())
    return path


QKV = [node("MatMul", f"t w{name}", name) for name in "qkv"]
M = "com.microsoft"
PIECES = {
    # which the runtime saves in files of operator sets that do not have it yet
    "LayerNormalization": [node("LayerNormalization", "t gain level", "z", epsilon=1e-3)],
    "BiasGelu": [node("BiasGelu", "t b", "z", M)],
    "FastGelu": [node("FastGelu", "t b", "z", M)],
    "SkipLayerNormalization": [
        node("Tanh", "t", "h"),
        node("SkipLayerNormalization", "t h gain level b", "n _ _ s", M, epsilon=1e-3),
        node("Add", "n s", "z"),
    ],
    "FusedMatMul": [
        *QKV, node("FusedMatMul", "q k", "m", M, transB=1, alpha=0.3), node("Softmax", "m", "s", axis=-1),
        node("FusedMatMul", "s v", "z", M, transA=1),
    ],
    "Attention": [node("Attention", "t qkv bias", "z", M, num_heads=2)],
    "MultiHeadAttention": [
        *QKV, node("MultiHeadAttention", "q k v bias _ mask", "z", M, num_heads=4, scale=0.4)
    ],
}  # fmt: skip
PIECES["SkipLayerNormalization"][1].output[1] = PIECES["SkipLayerNormalization"][1].output[2] = ""


def numeric(path: Path, batch: Array, cells: Array, step: float = 1e-2) -> Array:
    """∂logit_1/∂A by central differences of the runtime's own answers, A given in the place of the map."""
    model = onnx.load(path)
    graph = model.graph
    del graph.node[:2]
    graph.input[0].CopyFrom(helper.make_tensor_value_info("A", TensorProto.FLOAT, ["N", SIZE, 3, 4]))
    behind = path.with_name("behind.onnx")
    onnx.save(model, behind)
    moved = step * np.eye(cells[0].size, dtype=np.float32).reshape(-1, *cells.shape[1:])
    found = []
    for one in cells:
        up, down = (run_onnxruntime(behind, (one + sign * moved).astype(np.float32))[0] for sign in (1, -1))
        found.append(((up.astype(np.float64) - down)[:, 1] / (2 * step)).reshape(one.shape))
    return np.stack(found)


@pytest.mark.parametrize("opset", [13, 17, 21])
@pytest.mark.parametrize("name", PIECES)
def test_pieces_of_transformers(name: str, opset: int, tmp_path: Path) -> None:
    path = classifier(PIECES[name], opset, tmp_path / "model.onnx")
    batch = np.random.default_rng(1).standard_normal((2, 3, 3, 4)).astype(np.float32)
    left = {made.op_type for made in read_model(path).model.graph.node if made.domain == M}
    assert left <= {"FastGelu"}
    engine = camrt.load(path, target="A")
    expected = run_onnxruntime(path, batch)[0]
    assert_close(engine.predict(batch), expected, np.float32, factor=8)
    found = engine.explain(batch, "hirescam", targets=1, size="map").raw
    weight = weights()["w"][:, :, 0, 0]
    cells = np.tanh(np.einsum("kc,nchw->nkhw", weight, batch)).astype(np.float32)
    slopes = numeric(path, batch, cells)
    # central differences of float32 answers: 1e-4 of the step's square and of rounding
    assert np.abs(found - (cells * slopes).sum(1)).max() < 2e-3 * np.abs(slopes).max()


def test_a_transformer_as_the_runtime_saves_it(tmp_path: Path) -> None:
    pieces = [
        node("ReduceMean", "t", "m", axes=[-1]), node("Sub", "t m", "d"), node("Pow", "d two", "q"),
        node("ReduceMean", "q", "s", axes=[-1]), node("Add", "s eps", "e"), node("Sqrt", "e", "r"),
        node("Div", "d r", "n"), node("Mul", "n gain", "h"), node("Add", "h level", "o"),
        node("Add", "o b", "x"), node("Div", "x root", "x1"), node("Erf", "x1", "x2"),
        node("Add", "x2 one", "x3"), node("Mul", "x x3", "x4"), node("Mul", "x4 half", "z"),
    ]  # fmt: skip
    source = classifier(pieces, 17, tmp_path / "model.onnx")
    model = onnx.load(source)
    constants = {"two": 2.0, "eps": 1e-5, "root": np.sqrt(2), "one": 1.0, "half": 0.5}
    model.graph.initializer.extend(
        numpy_helper.from_array(np.array(value, np.float32), name) for name, value in constants.items()
    )
    onnx.save(model, source)
    path = save_optimised(source, "EXTENDED", tmp_path / "saved.onnx")
    kinds = {made.op_type for made in onnx.load(path).graph.node}
    assert {"LayerNormalization", "BiasGelu"} <= kinds
    batch = np.random.default_rng(1).standard_normal((2, 3, 3, 4)).astype(np.float32)
    engine, other = (camrt.load(file, target="A") for file in (path, source))
    for method in ("gradcam", "gradient"):
        expected = other.explain(batch, method, targets=1).raw
        assert_close(engine.explain(batch, method, targets=1).raw, expected, np.float32, factor=32)
