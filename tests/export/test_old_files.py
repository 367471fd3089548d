"""Files as other tools and other times wrote them, against ONNX Runtime on the file, or its definition."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnx.numpy_helper
import pytest
from onnx import TensorProto, helper, numpy_helper

import camrt
from camrt.errors import UnsupportedModelError
from camrt.export.io.model_file import read_model
from helpers.third_party_models import random_images, residual_model, run_onnxruntime
from helpers.tolerances import assert_close
from helpers.zoo import HEADS, classifier, save


def written(model: onnx.ModelProto, folder: Path) -> Path:
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def node_of(model: onnx.ModelProto, output: str) -> onnx.NodeProto:
    return next(node for node in model.graph.node if output in node.output)


def listed(model: onnx.ModelProto) -> onnx.ModelProto:
    """IR version 3: every initializer is an input too, here in front of the image."""
    model.ir_version = 3
    for tensor in model.graph.initializer:
        model.graph.input.insert(
            0, helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims))
        )
    return model


def normalised(model: onnx.ModelProto, **attributes: int) -> onnx.ModelProto:
    """A batch normalisation in front of the last ReLU."""
    relu = node_of(model, "A")
    rng = np.random.default_rng(1)
    for name in ("scale", "shift", "average", "spread"):
        values = rng.uniform(0.5, 1.5, 24).astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(values, name))
    names = [relu.input[0], "scale", "shift", "average", "spread"]
    index = list(model.graph.node).index(relu)
    model.graph.node.insert(
        index, helper.make_node("BatchNormalization", names, ["normal"], "normal", **attributes)
    )
    node_of(model, "A").input[0] = "normal"
    return model


def enlarged(model: onnx.ModelProto) -> onnx.ModelProto:
    """Upsample of operator set 7 in front of the last ReLU."""
    relu = node_of(model, "A")
    index = list(model.graph.node).index(relu)
    model.graph.node.insert(
        index,
        helper.make_node(
            "Upsample", [relu.input[0]], ["larger"], mode="nearest", scales=[1.0, 1.0, 2.0, 2.0]
        ),
    )
    node_of(model, "A").input[0] = "larger"
    return model


OLD: dict[str, Callable[[], onnx.ModelProto]] = {
    "opset-7": lambda: residual_model(opset=7),
    "opset-8": lambda: residual_model(opset=8),
    "opset-7-batch-norm": lambda: normalised(residual_model(opset=7)),
    "opset-8-batch-norm-by-channel": lambda: normalised(residual_model(opset=8), spatial=1),
    "opset-8-upsample": lambda: enlarged(residual_model(opset=8)),
}


@pytest.mark.parametrize("case", OLD)
def test_operator_sets_7_and_8(case: str, tmp_path: Path) -> None:
    model = listed(OLD[case]())
    path, batch = written(model, tmp_path), random_images()
    engine = camrt.load(path)
    assert_close(engine.predict(batch), run_onnxruntime(path, batch)[0], factor=4)
    assert engine.head.kind == "pooled-linear"
    assert engine.target.name == "A"
    maps = engine.channel_weights(batch, "gradcam", targets=2)[1]
    weight = numpy_helper.to_array(
        next(t for t in model.graph.initializer if t.name == node_of(model, "logits").input[1])
    )
    cells = maps.shape[2] * maps.shape[3]
    raw = np.einsum("k,nkij->nij", weight[2].astype(np.float64), maps) / cells
    assert_close(engine.explain(batch, "gradcam", targets=2).raw, raw, factor=4)
    for method in ("ablation", "pixab"):
        assert engine.explain(batch, method, targets=2).raw.any()


def test_a_form_that_no_later_set_has_is_refused(tmp_path: Path) -> None:
    path = written(normalised(residual_model(opset=8), spatial=0), tmp_path)
    with pytest.raises(UnsupportedModelError, match=r"node 'normal' .* normalises elements, not channels"):
        read_model(path)


# ---------------------------------------------------------------- types that runtimes have no layers for


@pytest.mark.parametrize("name", ["gap-flatten-gemm", "gemm-hard-swish-gemm", "flatten-gemm"])
def test_a_file_of_doubles(name: str, tmp_path: Path) -> None:
    """The runtime has no convolution of doubles: it is computed in float32."""
    whole = classifier(HEADS[name].make(np.random.default_rng(0), 6, 4, 3, 5), np.random.default_rng(1))
    for tensor in whole.model.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT:
            values = numpy_helper.to_array(tensor).astype(np.float64)
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    for value in (*whole.model.graph.input, *whole.model.graph.output):
        value.type.tensor_type.elem_type = TensorProto.DOUBLE
    engine = camrt.load(save(whole.model, tmp_path / "model.onnx"))
    batch = np.random.default_rng(4).standard_normal((3, *whole.size), np.float32)
    assert_close(engine.predict(batch), whole.logits64(batch), factor=8)
    assert engine.explain(batch, "gradcam", targets=1).raw.any()
    assert any("are computed in float32" in note for note in engine.notes)


def test_a_file_of_bfloat16(tmp_path: Path) -> None:
    """Its weights are numbers of float32, in which it is computed."""
    model = residual_model(opset=22)
    exact = residual_model(opset=22)
    for tensor, same in zip(model.graph.initializer, exact.graph.initializer, strict=True):
        values = numpy_helper.to_array(tensor)
        half = helper.make_tensor(tensor.name, TensorProto.BFLOAT16, tensor.dims, values.ravel().tolist())
        rounded = np.asarray(numpy_helper.to_array(half)).astype(np.float32)
        tensor.CopyFrom(half)
        same.CopyFrom(numpy_helper.from_array(rounded, same.name))
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.elem_type = TensorProto.BFLOAT16
    engine, other = camrt.load(written(model, tmp_path)), camrt.load(save(exact, tmp_path / "exact.onnx"))
    batch = random_images()
    assert_close(engine.predict(batch), run_onnxruntime(exact, batch)[0], factor=4)
    for method in ("gradcam", "ablation", "pixab", "gradient"):
        found, expected = (each.explain(batch, method, targets=1).raw for each in (engine, other))
        assert_close(found, expected, factor=4)


# ---------------------------------------------------------------- spellings


def spelt_out(model: onnx.ModelProto) -> onnx.ModelProto:
    model.opset_import[0].domain = "ai.onnx"
    for node in model.graph.node:
        node.domain = "ai.onnx"
    return model


def spelt_twice(model: onnx.ModelProto) -> onnx.ModelProto:
    model.opset_import.append(helper.make_opsetid("ai.onnx", 17))
    model.opset_import.append(helper.make_opsetid("of.nobody", 3))
    for node in list(model.graph.node)[::2]:
        node.domain = "ai.onnx"
    return model


def renamed(model: onnx.ModelProto) -> onnx.ModelProto:
    """Names with spaces, of other alphabets, and words about everything."""
    tensors = [name for node in model.graph.node for name in node.output] + [
        value.name for value in (*model.graph.input, *model.graph.initializer)
    ]
    new = {name: f"schicht {number}/☃: {name} ñ" for number, name in enumerate(tensors)}
    for node in model.graph.node:
        for part in (node.input, node.output):
            part[:] = [new[name] for name in part]
        node.name, node.doc_string = f"кнот {node.name}", "words " * 100
    for value in (*model.graph.input, *model.graph.output, *model.graph.initializer):
        value.name = new[value.name]
    model.graph.name = ""
    return model


def nameless(model: onnx.ModelProto) -> onnx.ModelProto:
    for node in model.graph.node:
        node.name = ""
    return model


SPELLINGS = {
    "the-set-spelt-out": spelt_out,
    "the-set-spelt-twice": spelt_twice,
    "names": renamed,
    "no-names": nameless,
    "initializers-as-inputs": listed,
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_a_file_says_the_same_in_other_words(spelling: str, tmp_path: Path) -> None:
    engine = camrt.load(written(SPELLINGS[spelling](residual_model()), tmp_path))
    other = camrt.load(save(residual_model(), tmp_path / "plain.onnx"))
    batch = random_images()
    assert engine.head.kind == other.head.kind
    assert_close(engine.predict(batch), run_onnxruntime(residual_model(), batch)[0], factor=4)
    for method in ("gradcam", "pixab", "ablation", "gradient"):
        found, expected = (each.explain(batch, method, targets=1).raw for each in (engine, other))
        assert_close(found, expected, factor=4)
