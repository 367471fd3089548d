"""Nodes and weights that have not the form of their operators: refused once, when the file is read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from fuzz.seeds import seed_bytes
from onnx import AttributeProto, ModelProto, TensorProto, helper, numpy_helper

import camrt
from camrt.errors import ModelFileError, UnsupportedModelError
from camrt.export.io.model_file import read_model
from helpers import hostile_models
from helpers.nchwc_nets import build_network_pair
from helpers.zoo import HEADS, classifier

Change = Callable[[ModelProto], Any]


def zoo_model(name: str = "gap-flatten-gemm") -> ModelProto:
    rng = np.random.default_rng(2)
    return classifier(HEADS[name].make(rng, 6, 4, 4, 3), rng).model


def node(model: ModelProto, operator: str) -> onnx.NodeProto:
    return next(node for node in model.graph.node if node.op_type == operator)


def give(operator: str, **attributes: Any) -> Change:
    """Sets attributes of a node, whatever they were."""

    def change(model: ModelProto) -> None:
        found = node(model, operator)
        for name, value in attributes.items():
            kept = [item for item in found.attribute if item.name != name]
            del found.attribute[:]
            found.attribute.extend([*kept, helper.make_attribute(name, value)])

    return change


def weight(operator: str, place: int, *shape: int) -> Change:
    """Gives a node a stored operand of another shape."""

    def change(model: ModelProto) -> None:
        name = node(model, operator).input[place]
        stored = next(tensor for tensor in model.graph.initializer if tensor.name == name)
        stored.CopyFrom(numpy_helper.from_array(np.ones(shape, np.float32), name))

    return change


def put_behind(operator: str, *inputs: str, **attributes: Any) -> Change:
    """Puts a node behind "A"."""

    def change(model: ModelProto) -> None:
        for other in model.graph.node:
            other.input[:] = ["between" if name == "A" else name for name in other.input]
        made = helper.make_node(operator, ["A", *inputs], ["between"], "between", **attributes)
        model.graph.node.insert(2, made)

    return change


def untyped(model: ModelProto) -> None:
    node(model, "Conv").attribute[0].type = AttributeProto.UNDEFINED


def no_text(model: ModelProto) -> None:
    node(model, "Conv").attribute.add(name="auto_pad", type=AttributeProto.STRING, s=b"\x9f")


def twice(model: ModelProto) -> None:
    node(model, "Conv").attribute.append(node(model, "Conv").attribute[0])


REFUSED: dict[str, tuple[Change, str]] = {
    "too few inputs": (lambda m: node(m, "Conv").input.__delitem__(slice(1, None)), "takes 2 to 3"),
    "too many inputs": (lambda m: node(m, "Relu").input.append("A0"), "reads 'A0'|has 2 inputs"),
    "an input left out": (lambda m: node(m, "Gemm").input.__setitem__(1, ""), "leaves out its input 1"),
    "one of several left out": (put_behind("Max", ""), "leaves out its input 1"),
    "an unknown attribute": (give("Relu", alpha=1.0), "'alpha', which its operator does not have"),
    "a number for a list": (give("Conv", pads=3), "'pads' of another type"),
    "a list for a number": (give("Gemm", transB=[1]), "'transB' of another type"),
    "a text for a number": (give("Gemm", alpha="x"), "'alpha' of another type"),
    "no required attribute": (put_behind("Cast"), "lacks the attribute 'to'"),
    "no type": (untyped, "does not say its type"),
    "no text": (no_text, "'auto_pad' that is no text"),
    "an attribute twice": (twice, "two attributes"),
    "a flat filter": (weight("Conv", 1, 6), "has a weight of 1 axes"),
    "no groups": (give("Conv", group=0), "'group' .* is 0, out of range"),
    "groups beyond all channels": (give("Conv", group=4), "does not divide 6 channels"),
    "groups beyond all numbers": (give("Conv", group=2**32), "'group' .* is 4294967296, out of range"),
    "a border beyond all images": (give("Conv", pads=[2**31] * 4), "'pads' .*out of range"),
    "blocks whose square is zero": (put_behind("DepthToSpace", blocksize=2**32), "'blocksize' .* range"),
    "a bias of none": (weight("Conv", 2, 0), r"has a bias of shape \[0\] for 6 channels"),
    "another kernel": (give("Conv", kernel_shape=[1000, 1]), "has kernel_shape"),
    "three pads": (give("Conv", pads=[1, 1, 1]), "has 3 pads"),
    "steps of nothing": (give("Conv", strides=[0, 1]), "has strides"),
    "one step": (give("Conv", strides=[1]), "has strides"),
    "a flat matrix": (weight("Gemm", 1, 18), "matrix B of shape"),
    "a bias too long": (weight("Gemm", 2, 7), r"has a bias of shape \[7\] for 3 features"),
    "an axis twice": (put_behind("Transpose", perm=[0, 1, 1, 3]), "does not name each axis once"),
    "a window of nothing": (put_behind("MaxPool", kernel_shape=[0, 1]), "has kernel_shape"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_a_node_of_another_form_is_refused(case: str, tmp_path: Path) -> None:
    change, reason = REFUSED[case]
    model = zoo_model()
    change(model)
    path = hostile_models.save(model, tmp_path / "model.onnx")
    with pytest.raises(ModelFileError, match=reason):
        read_model(path)


def test_what_a_runtimes_own_nodes_become_is_checked_too(tmp_path: Path) -> None:
    blocked = build_network_pair(8, 8).models()[1]
    give("AveragePool", kernel_shape=2)(blocked)
    with pytest.raises((ModelFileError, UnsupportedModelError)):
        read_model(hostile_models.save(blocked, tmp_path / "model.onnx"))


def test_a_subgraph_that_gives_one_value_twice_is_refused(tmp_path: Path) -> None:
    """ONNX Runtime gives the second what happens to lie in memory."""
    value = helper.make_tensor_value_info("made", 1, None)
    body = helper.make_graph([helper.make_node("Relu", ["A"], ["made"])], "branch", [], [value, value])
    model = zoo_model()
    put_behind("Cast", to=1)(model)
    found = node(model, "Cast")
    found.CopyFrom(
        helper.make_node("If", ["so"], ["between", "more"], "choice", then_branch=body, else_branch=body)
    )
    model.graph.initializer.append(numpy_helper.from_array(np.array(True), "so"))
    with pytest.raises(ModelFileError, match="gives one value twice"):
        read_model(hostile_models.save(model, tmp_path / "model.onnx"))


def constant_weight(model: ModelProto, operator: str, place: int, array: np.ndarray) -> None:
    """Gives a node an operand that is computed: what is stored is not looked at when the file is read."""
    found = node(model, operator)
    model.graph.initializer.append(numpy_helper.from_array(array.astype(np.float32), "operand"))
    model.graph.node.insert(0, helper.make_node("Neg", ["operand"], ["computed"], "computed"))
    node(model, operator).input[place] = "computed"
    assert found is not None


@pytest.mark.parametrize(
    ("operator", "place", "shape"),
    [("Gemm", 1, (18,)), ("Gemm", 1, (3, 5)), ("Gemm", 2, (7,)), ("Gemm", 2, (2, 3)), ("Conv", 1, (6,))],
)
def test_operands_that_are_computed_and_do_not_fit_are_refused_by_the_runtime(
    operator: str, place: int, shape: tuple[int, ...], tmp_path: Path
) -> None:
    model = zoo_model()
    constant_weight(model, operator, place, np.ones(shape))
    path = hostile_models.save(model, tmp_path / "model.onnx")
    with pytest.raises(camrt.errors.CamrtError):
        camrt.load(path, threads=1).predict(np.zeros((1, 3, 8, 8), np.float32))


def choice(outputs: int, given: int) -> Change:
    """Puts an If behind "A", of so many outputs and of branches of so many."""

    def change(model: ModelProto) -> None:
        put_behind("Cast", to=1)(model)
        names = [f"made_{number}" for number in range(given)]
        inner = [helper.make_node("Relu", ["A"], [name]) for name in names]
        declared = [helper.make_tensor_value_info(name, 1, None) for name in names]
        branch = helper.make_graph(inner, "branch", [], declared)
        made = ["between", *(f"more_{number}" for number in range(1, outputs))]
        node(model, "Cast").CopyFrom(
            helper.make_node("If", ["so"], made, "choice", then_branch=branch, else_branch=branch)
        )
        model.graph.initializer.append(numpy_helper.from_array(np.array(True), "so"))

    return change


@pytest.mark.parametrize(("outputs", "given"), [(1, 2), (2, 1)])
def test_branches_have_as_many_outputs_as_their_node(outputs, given, tmp_path: Path) -> None:
    model = zoo_model()
    choice(outputs, given)(model)
    said = f"a graph of 0 inputs and {given} outputs, where 0 and {outputs} fit"
    with pytest.raises(ModelFileError, match=said):
        read_model(hostile_models.save(model, tmp_path / "model.onnx"))


def test_values_beside_an_empty_field_of_bytes_are_read(tmp_path: Path) -> None:
    model = zoo_model()
    bias = next(tensor for tensor in model.graph.initializer if tensor.name == "trunk_bias")
    values = numpy_helper.to_array(bias)
    bias.raw_data = b""
    bias.float_data.extend(values.tolist())
    read = read_model(hostile_models.save(model, tmp_path / "model.onnx")).model
    found = next(tensor for tensor in read.graph.initializer if tensor.name == "trunk_bias")
    np.testing.assert_array_equal(numpy_helper.to_array(found), values)
    assert camrt.load(tmp_path / "model.onnx", threads=1).num_classes == 3


def test_a_scan_that_passes_its_state_on_unmade_is_refused(tmp_path: Path) -> None:
    """ONNX Runtime leaves such a state as it finds it in memory."""
    model = onnx.ModelProto.FromString(seed_bytes("net-scan"))
    body = next(item.g for item in node(model, "Scan").attribute if item.name == "body")
    body.output[0].name = body.input[0].name
    with pytest.raises(ModelFileError, match="gives what no node in it makes"):
        read_model(hostile_models.save(model, tmp_path / "model.onnx"))


# ---------------------------------------------------------------- odd graphs that are in form


def pool_of_vectors(model: ModelProto) -> None:
    """A window on what has no rows and columns, where a map was."""
    flat = node(model, "Flatten")
    flat.output[0] = "flat"
    gemm = node(model, "Gemm")
    gemm.input[0] = "between"
    place = list(model.graph.node).index(gemm)
    model.graph.node.insert(place, helper.make_node("MaxPool", ["flat"], ["between"], kernel_shape=[1, 1]))


def empty_in_front(model: ModelProto) -> None:
    """Nothing is added to the image."""
    node(model, "Conv").input[0] = "shifted"
    model.graph.initializer.append(numpy_helper.from_array(np.ones((0, 1, 1), np.float32), "nothing"))
    model.graph.node.insert(0, helper.make_node("Add", ["images", "nothing"], ["shifted"]))


def few_axes_in_front(model: ModelProto) -> None:
    """An image's axes put in an order of three."""
    node(model, "Conv").input[0] = "turned"
    model.graph.node.insert(0, helper.make_node("Transpose", ["images"], ["turned"], perm=[0, 2, 1]))


def read_inside(model: ModelProto) -> None:
    """The flattened map is read by a branch alone."""
    choice(1, 1)(model)
    for item in node(model, "If").attribute:
        item.g.node[0].op_type = "Identity"


def axes_in_rows(model: ModelProto) -> None:
    """Axes to reduce over in a matrix."""
    put_behind("ReduceSum", "axes", keepdims=1)(model)
    model.graph.initializer.append(numpy_helper.from_array(np.array([[2], [3]]), "axes"))


def complex_weight(model: ModelProto) -> None:
    """A linear layer of complex numbers."""
    name = node(model, "Gemm").input[1]
    (weight,) = (tensor for tensor in model.graph.initializer if tensor.name == name)
    weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight).astype(np.complex64), name))


def mean_of_nothing(model: ModelProto) -> None:
    """The pool of an empty constant is added to the map."""
    put_behind("Add", "pooled_nothing")(model)
    model.graph.initializer.append(numpy_helper.from_array(np.ones((1, 1, 0, 2), np.float32), "nothing"))
    model.graph.node.insert(0, helper.make_node("GlobalAveragePool", ["nothing"], ["pooled_nothing"]))


def gather_of_nothing(model: ModelProto) -> None:
    """Two rows of no numbers are gathered from the image, and added up to nothing."""
    node(model, "Conv").input[0] = "shifted"
    model.graph.initializer.append(numpy_helper.from_array(np.ones((2, 0), np.int64), "none"))
    new = [
        helper.make_node("Gather", ["images", "none"], ["gathered"], axis=3),
        helper.make_node("ReduceSum", ["gathered"], ["sum"], keepdims=0),
        helper.make_node("Add", ["images", "sum"], ["shifted"]),
    ]
    for made in reversed(new):
        model.graph.node.insert(0, made)


def loop_of_no_count(model: ModelProto) -> None:
    """A Loop whose number of turns is an empty tensor: ONNX Runtime reads beyond it."""
    none, yes = np.zeros((0,), np.int64), np.array(True)
    body = helper.make_graph(
        [helper.make_node("Identity", ["going"], ["goes"]), helper.make_node("Relu", ["state"], ["next"])],
        "body",
        [
            helper.make_tensor_value_info("turn", TensorProto.INT64, []),
            helper.make_tensor_value_info("going", TensorProto.BOOL, []),
            helper.make_tensor_value_info("state", TensorProto.FLOAT, None),
        ],
        [
            helper.make_tensor_value_info("goes", TensorProto.BOOL, []),
            helper.make_tensor_value_info("next", TensorProto.FLOAT, None),
        ],
    )
    put_behind("Relu")(model)
    (loop,) = (one for one in model.graph.node if one.name == "between")
    loop.CopyFrom(helper.make_node("Loop", ["count", "yes", "A"], ["between"], "between", body=body))
    model.graph.initializer.extend(numpy_helper.from_array(v, n) for v, n in ((none, "count"), (yes, "yes")))


def one_hot_of_no_depth(model: ModelProto) -> None:
    """The classes of OneHot are an empty tensor, at which ONNX Runtime ends the process."""
    put_behind("Add", "nothing")(model)
    model.graph.initializer.extend(
        numpy_helper.from_array(value, name)
        for name, value in (
            ("picked", np.array([0])),
            ("depth", np.zeros((0,), np.int64)),
            ("off_on", np.zeros(2, np.float32)),
        )
    )
    model.graph.node.insert(0, helper.make_node("ReduceSum", ["hot"], ["nothing"], keepdims=0))
    model.graph.node.insert(0, helper.make_node("OneHot", ["picked", "depth", "off_on"], ["hot"]))


ODD = [
    axes_in_rows,
    loop_of_no_count,
    one_hot_of_no_depth,
    gather_of_nothing,
    complex_weight,
    mean_of_nothing,
    pool_of_vectors,
    empty_in_front,
    few_axes_in_front,
    read_inside,
    put_behind("Transpose", perm=[0, 2, 1]),
    put_behind("ReduceMean", axes=[1, 7], keepdims=0),
    put_behind("ReduceMean", axes=[-9], keepdims=1),
    put_behind("Concat", "A", axis=9),
    put_behind("Split", axis=-7),
    put_behind("MaxPool", kernel_shape=[3]),
    put_behind("MaxPool", kernel_shape=[9, 9]),
]


@pytest.mark.parametrize("change", ODD, ids=lambda change: change.__name__)
@pytest.mark.parametrize("head", ["gap-flatten-gemm", "flatten-gemm"])
def test_odd_graphs_are_refused_or_explained(head: str, change: Change, tmp_path: Path) -> None:
    """Whatever is wrong with them: the analysis meets axes and sizes that are not there."""
    model = zoo_model(head)
    change(model)
    path = hostile_models.save(model, tmp_path / "model.onnx")
    images = np.ones((2, 3, 8, 8), np.float32)
    try:
        engine = camrt.load(path, threads=1)
        engine.explain(images, "pixab")
        engine.explain(images, "gradcam")
    except camrt.errors.CamrtError:
        return
    assert engine.describe()
