"""What goes through a graph looks at the clock, and what a file could make endless is not begun."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

import camrt
from camrt.errors import DeadlineError, UnsafeModelError
from camrt.export.budget import Budget, with_deadline, within_budget
from camrt.export.geometry.axis_roles import find_axis_roles
from camrt.export.graph.batch_effects import find_cross_batch_nodes, find_random_nodes
from camrt.export.graph.folding_cost import is_cheap
from camrt.export.graph.index import Graph
from camrt.export.graph.shape_inference import infer_shapes, propagate_values
from camrt.export.graph.topological_sort import sort_nodes
from camrt.export.graph.traversal import walk_nodes
from camrt.export.graph.upkeep import drop_unread_initializers
from camrt.export.heads.cut import choose_targets, find_candidates, find_crossing_tensors
from camrt.export.heads.factoring import factor_head
from camrt.export.heads.flow import MODULUS, count_paths
from camrt.export.io.graph_checks import check_graph
from camrt.export.io.model_file import read_model
from camrt.export.limits import ReadingLimits
from camrt.export.rewrites.batch_axis import share_sizes, simplify_reshapes
from camrt.export.rewrites.constant_branches import inline_constant_branches
from camrt.export.rewrites.interface import LOGITS, standardise
from helpers import hostile_models

SHAPE = (2, 3, 8, 8)


def standard(path: Path) -> tuple[onnx.ModelProto, Graph]:
    model = read_model(path).model
    standardise(model)
    return model, Graph(model, SHAPE)


GOING_THROUGH: dict[str, Callable[[onnx.ModelProto, Graph], object]] = {
    "indexing": lambda model, graph: Graph(model, SHAPE),
    "inferring": lambda model, graph: infer_shapes(model, SHAPE),
    "inferring by values": lambda model, graph: propagate_values(model, {}, {}),
    "walking": lambda model, graph: walk_nodes(model.graph.node, 10),
    "sorting": lambda model, graph: sort_nodes(model.graph),
    "checking": lambda model, graph: check_graph(model.graph, ReadingLimits()),
    "standardising": lambda model, graph: standardise(model),
    "axes": lambda model, graph: find_axis_roles(graph),
    "candidates": lambda model, graph: find_candidates(graph),
    "choosing": lambda model, graph: choose_targets(graph),
    "crossing": lambda model, graph: find_crossing_tensors(graph, "active"),
    "factoring": lambda model, graph: factor_head(graph, "active", None),
    "what a tensor leads to": lambda model, graph: graph.downstream("active"),
    "what leads to a tensor": lambda model, graph: graph.upstream_nodes(LOGITS),
    "random numbers": lambda model, graph: find_random_nodes(graph),
    "across the batch": lambda model, graph: find_cross_batch_nodes(graph),
    "reshapes": lambda model, graph: simplify_reshapes(model, graph),
    "sizes": lambda model, graph: share_sizes(model, [graph], fixed_size=True),
    "branches": lambda model, graph: inline_constant_branches(model, graph),
    "initializers": lambda model, graph: drop_unread_initializers(model),
}


@pytest.mark.parametrize("go", GOING_THROUGH.values(), ids=GOING_THROUGH)
def test_who_goes_through_a_graph_looks_at_the_clock(go, tmp_path: Path):
    model, graph = standard(hostile_models.classifier(tmp_path / "model.onnx"))
    with (
        within_budget(Budget(seconds=1e-9, call="loading")),
        pytest.raises(DeadlineError, match="loading was stopped"),
    ):
        go(model, graph)


def test_reading_looks_at_the_clock(tmp_path: Path):
    path = hostile_models.classifier(tmp_path / "model.onnx")
    with within_budget(Budget(seconds=1e-9)), pytest.raises(DeadlineError):
        read_model(path)


def test_things_are_gone_through_in_order_and_all_of_them():
    for count in (0, 1, 31, 32, 33, 100):
        assert list(with_deadline(range(count))) == list(range(count))


def test_a_long_chain_of_constants_is_computed(tmp_path: Path):
    _, graph = standard(hostile_models.long_constants(tmp_path / "model.onnx", links=1500))
    value = graph.constant("c1500")
    assert value is not None
    np.testing.assert_array_equal(value, np.full((1, 5, 1, 1), 0.5, np.float32))


def test_a_long_chain_of_sizes_is_computed_at_the_probe(tmp_path: Path):
    nodes = [helper.make_node("Shape", ["image"], ["s0"])]
    nodes += [helper.make_node("Add", [f"s{i}", "none"], [f"s{i + 1}"]) for i in range(1500)]
    nodes += [
        hostile_models.conv_node(),
        helper.make_node("Gather", ["s1500", "number"], ["count"]),
        helper.make_node("Cast", ["count"], ["real"], to=onnx.TensorProto.FLOAT),
        helper.make_node("Mul", ["features", "real"], ["active"]),
        *hostile_models.head_nodes("active"),
    ]
    numbers = [numpy_helper.from_array(np.int64(value), name) for name, value in (("none", 0), ("number", 0))]
    model = hostile_models.model_of(
        nodes, [*hostile_models.conv_weights(), *hostile_models.head_weights(), *numbers]
    )
    assert Graph(model, SHAPE).value_at_probe("count") == 2


def test_an_endless_loop_over_constants_is_not_begun(tmp_path: Path):
    _, graph = standard(hostile_models.endless_constant(tmp_path / "model.onnx"))
    assert graph.constant("shift") is None


@pytest.mark.parametrize(
    ("node", "shapes", "made"),
    [
        (helper.make_node("Einsum", list("abcd"), ["y"], equation="i,j,k,l->"), [(1000,)] * 4, ()),
        (helper.make_node("MatMul", ["a", "b"], ["y"]), [(4000, 4000), (4000, 4000)], (4000, 4000)),
        (helper.make_node("LSTM", ["a"], ["y"]), [(10, 1, 1)], (10, 1, 1)),
        (helper.make_node("CumSum", ["a", "b"], ["y"]), [(1 << 25,), ()], (1 << 25,)),
    ],
    ids=lambda value: getattr(value, "op_type", ""),
)
def test_work_that_could_take_long_is_not_begun(node, shapes, made):
    feeds = {
        name: np.broadcast_to(np.float32(0), shape) for name, shape in zip(node.input, shapes, strict=True)
    }
    assert not is_cheap(node, feeds, made)


def test_little_work_is_done():
    node = helper.make_node("Einsum", ["a", "b"], ["y"], equation="ij,jk->ik")
    assert is_cheap(node, {name: np.zeros((8, 8), np.float32) for name in "ab"}, (8, 8))
    assert is_cheap(
        helper.make_node("Mul", ["a", "a"], ["y"]), {"a": np.broadcast_to(0.0, (1 << 28,))}, (1 << 28,)
    )


def test_paths_are_counted_without_numbers_as_long_as_the_graph():
    links = [((f"t{i}", f"t{i}"), (f"t{i + 1}",)) for i in range(5000)]
    through, total = count_paths(links, "t0", "t5000")
    assert total == pow(2, 5000, MODULUS)
    assert set(through.values()) == {total}
    assert max(through.values()) < MODULUS


def test_deep_diamonds_have_a_clean_cut_at_each_joint(tmp_path: Path):
    _, graph = standard(hostile_models.diamonds(tmp_path / "model.onnx", links=300))
    clean = {target.name for target in find_candidates(graph) if target.clean}
    assert {f"joined{i}" for i in range(300)} <= clean
    assert not any(f"left{i}" in clean for i in range(300))


def test_graphs_inside_nodes_that_see_too_much_are_refused(tmp_path: Path):
    path = hostile_models.many_branches(tmp_path / "model.onnx", count=50)
    read_model(path)
    with pytest.raises(UnsafeModelError, match="graphs inside of nodes"):
        read_model(path, limits=ReadingLimits(max_values_in_scopes=2000))


def test_an_endless_loop_over_constants_ends_at_the_deadline(tmp_path: Path):
    with pytest.raises(DeadlineError, match="loading was stopped"):
        camrt.load(hostile_models.endless_constant(tmp_path / "model.onnx"), load_deadline=2.0)
