"""Files whose nodes stand behind those that read them."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.transformers.float16 import convert_float_to_float16

import camrt
from camrt.errors import ModelFileError
from camrt.export.graph.topological_sort import sort_nodes
from camrt.export.io.model_file import read_model
from helpers.third_party_models import random_images, residual_model, run_onnxruntime
from helpers.tolerances import assert_close
from helpers.zoo import HEADS, classifier, save


def written(model: onnx.ModelProto, folder: Path) -> Path:
    """Saved without a look at it: the checker refuses an order that runtimes take."""
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    return path


@pytest.mark.parametrize("blocked", [None, ["MaxPool", "Sigmoid", "Gemm"]], ids=["all-half", "some-float"])
def test_a_float16_file_by_onnxruntime_s_converter(blocked: list[str] | None, tmp_path: Path) -> None:
    """It appends its Casts at the end of the list."""
    half = convert_float_to_float16(residual_model(), keep_io_types=True, op_block_list=blocked)
    with pytest.raises(onnx.checker.ValidationError, match="topologically sorted"):
        onnx.checker.check_model(half)
    path = written(half, tmp_path)
    batch = random_images()
    engine = camrt.load(path)
    assert engine.target.name == "A"
    # Two layers of half precision are computed by another order of sums.
    assert_close(engine.predict(batch), run_onnxruntime(path, batch)[0], np.float16, factor=2)
    floats = camrt.load(save(residual_model(), tmp_path / "floats.onnx"))
    for method in ("gradcam", "ablation", "pixab"):
        found, expected = (each.explain(batch, method, targets=1).raw for each in (engine, floats))
        # Differences of scores: what they share is lost, and half precision has 11 bits.
        assert_close(found, expected, np.float16, factor=16)


@pytest.mark.parametrize("name", ["gates", "concatenated-branches", "gemm-hard-swish-gemm"])
def test_any_order_is_read_as_the_right_one(name: str, tmp_path: Path) -> None:
    whole = classifier(HEADS[name].make(np.random.default_rng(0), 6, 4, 3, 5), np.random.default_rng(1))
    nodes = list(whole.model.graph.node)
    random.Random(2).shuffle(nodes)
    shuffled = onnx.ModelProto()
    shuffled.CopyFrom(whole.model)
    del shuffled.graph.node[:]
    shuffled.graph.node.extend(nodes)
    engine = camrt.load(written(shuffled, tmp_path))
    batch = np.random.default_rng(4).standard_normal((3, *whole.size), np.float32)
    assert_close(engine.predict(batch), whole.logits64(batch), factor=8)
    onnx.checker.check_model(read_model(tmp_path / "model.onnx").model, full_check=True)


def test_the_order_of_a_file_is_kept_where_it_can_be() -> None:
    model = residual_model()
    before = model.SerializeToString()
    sort_nodes(model.graph)
    assert model.SerializeToString() == before
    last = model.graph.node.pop(0)
    model.graph.node.append(last)
    sort_nodes(model.graph)
    assert model.SerializeToString() == before


def choice(inner: list[onnx.NodeProto]) -> onnx.ModelProto:
    """An If of which one branch holds the nodes given, and the other an Identity."""
    other = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["other"])],
        "other",
        [],
        [helper.make_tensor_value_info("other", TensorProto.FLOAT, None)],
    )
    branch = helper.make_graph(
        inner, "branch", [], [helper.make_tensor_value_info("b", TensorProto.FLOAT, None)]
    )
    nodes = [
        helper.make_node("If", ["yes"], ["y"], then_branch=branch, else_branch=other),
        helper.make_node("Relu", ["images"], ["x"]),
    ]
    graph = helper.make_graph(
        nodes,
        "choice",
        [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["N", 3])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.array(True), "yes")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_what_a_subgraph_reads_from_outside_counts(tmp_path: Path) -> None:
    inner = [helper.make_node("Neg", ["a"], ["b"]), helper.make_node("Add", ["x", "x"], ["a"])]
    read = read_model(written(choice(inner), tmp_path)).model
    assert [node.op_type for node in read.graph.node] == ["Relu", "If"]
    batch = np.array([[1.0, -2.0, 3.0]], np.float32)
    assert_close(run_onnxruntime(read, batch)[0], [[-2.0, 0.0, -6.0]])


def test_nodes_of_a_subgraph_that_wait_for_one_another_are_refused(tmp_path: Path) -> None:
    inner = [helper.make_node("Add", ["x", "b"], ["a"]), helper.make_node("Neg", ["a"], ["b"])]
    with pytest.raises(ModelFileError, match="wait for one another"):
        read_model(written(choice(inner), tmp_path))


def test_a_long_list_in_the_wrong_order_is_sorted_at_once(tmp_path: Path) -> None:
    """Neither recursion nor time that grows with the square of its length."""
    count = 20_000
    nodes = [helper.make_node("Identity", [f"t{i}" if i else "images"], [f"t{i + 1}"]) for i in range(count)]
    graph = onnx.GraphProto(node=reversed(nodes))
    sort_nodes(graph)
    assert [node.output[0] for node in graph.node] == [f"t{i + 1}" for i in range(count)]
