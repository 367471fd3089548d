"""Where a classifier is cut, and what is said when it cannot be."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper, numpy_helper

import camrt
from camrt.engine.methods import single_methods
from camrt.errors import CutError
from camrt.export.graph.index import Graph
from camrt.export.heads.cut import (
    build_head_model,
    build_tapped_model,
    choose_targets,
    extra_input_name,
    find_candidates,
    find_clean_cuts,
    find_crossing_tensors,
)
from camrt.export.rewrites.input_form import IMAGES
from camrt.export.rewrites.interface import LOGITS
from helpers.tolerances import assert_close
from helpers.zoo import HEADS, classifier, model_of, save

SHAPE = (6, 4, 3)
CLASSES = 5
WHOLE_MODEL = 8.0


def node(operator, source, made, **attributes):
    return helper.make_node(operator, source.split(), [made], name=f"node_{made}", **attributes)


def net(*steps, channels=4, size=(8, 6), weights=(), **shapes):
    """A standardised model: (operator, inputs, output, attributes) from the images to the logits."""
    rng = np.random.default_rng(1)
    tensors = [
        numpy_helper.from_array(rng.standard_normal(shape).astype(np.float32), name)
        for name, shape in {
            "w0": (channels, 3, 3, 3), "w1": (channels, channels, 1, 1), "w3": (channels, channels, 3, 3),
            "dense": (5, channels), "wc": (5, channels, 1, 1), "five": (5,), **shapes,
        }.items()
    ]  # fmt: skip
    nodes = [node(step[0], step[1], step[2], **(step[3] if len(step) > 3 else {})) for step in steps]
    used = {name for each in nodes for name in each.input}
    tensors = [tensor for tensor in tensors if tensor.name in used] + list(weights)
    return model_of(nodes, tensors, ["N", 3, *size], ["N", 5], source=IMAGES, end=LOGITS)


def choose_target(graph, wanted=None):
    (found,) = choose_targets(graph, wanted)
    return found


def indexed(model, size=(8, 6)):
    return Graph(model, (5, 3, *size))


TRUNK = (("Conv", f"{IMAGES} w0", "c0", {"pads": [1] * 4}), ("Relu", "c0", "a0"))
POOL_AND_LINEAR = (
    ("GlobalAveragePool", "last", "pooled"),
    ("Flatten", "pooled", "flat"),
    ("Gemm", "flat dense", LOGITS, {"transB": 1}),
)
RESIDUAL = net(
    *TRUNK,
    ("Conv", "a0 w3", "c1", {"pads": [1] * 4}),
    ("Relu", "c1", "a1"),
    ("Conv", "a1 w3", "c2", {"pads": [1] * 4}),
    ("Add", "c2 a0", "sum"),
    ("Relu", "sum", "last"),
    *POOL_AND_LINEAR,
)


# ---------------------------------------------------------------- the target that is found


def test_the_last_clean_activation_is_the_target():
    assert choose_target(indexed(RESIDUAL)).name == "last"


@pytest.mark.parametrize(
    "pool",
    [
        [("AveragePool", "a0", "last", {"kernel_shape": [1, 1]})],
        [("AveragePool", "a0", "last", {"kernel_shape": [2, 2], "strides": [2, 2]})],
        [("Identity", "a0", "i"), ("Dropout", "i", "last")],
        [("Dropout", "a0", "d"), ("AveragePool", "d", "last", {"kernel_shape": [4, 3]})],
    ],
    ids=["pool-1x1", "pool-2x2", "identity-dropout", "dropout-pool"],
)
def test_average_pools_and_what_changes_nothing_are_stepped_over(pool):
    assert choose_target(indexed(net(*TRUNK, *pool, *POOL_AND_LINEAR))).name == "a0"


def test_a_max_pool_is_kept():
    pool = ("MaxPool", "a0", "last", {"kernel_shape": [2, 2], "strides": [2, 2]})
    found = choose_target(indexed(net(*TRUNK, pool, *POOL_AND_LINEAR)))
    assert (found.name, found.shape, found.operator) == ("last", (4, 4, 3), "MaxPool")


@pytest.mark.parametrize(
    "between",
    [
        [("Conv", "a0 wc", "last", {"pads": [1] * 4})],
        [("Conv", "a0 wc", "c"), ("Relu", "c", "last")],
        [("Dropout", "a0", "d"), ("Conv", "d wc", "c"), ("Relu", "c", "r"), ("Identity", "r", "last")],
        [("Conv", "a0 wc", "c"), ("BatchNormalization", "c five five five five", "b"), ("Relu", "b", "last")],
    ],
    ids=["padded", "relu", "dropout-relu-identity", "batch-norm-relu"],
)
@pytest.mark.parametrize("pool", ["GlobalAveragePool", "ReduceMean"])
def test_class_maps_are_stepped_over_to_the_features_they_read(between, pool):
    pooled = ("GlobalAveragePool", "last", "p") if pool == "GlobalAveragePool" else (
        "ReduceMean", "last", "p", {"axes": [2, 3]},
    )  # fmt: skip
    found = choose_target(indexed(net(*TRUNK, *between, pooled, ("Flatten", "p", LOGITS))))
    assert found.name in ("a0", "d")
    assert found.shape == (4, 8, 6)


def test_class_maps_of_a_wider_convolution_are_the_target():
    model = net(
        *TRUNK,
        ("Conv", "a0 wide", "last", {"pads": [1] * 4}),
        ("GlobalAveragePool", "last", "p"),
        ("Flatten", "p", LOGITS),
        wide=(5, 4, 3, 3),
    )
    assert choose_target(indexed(model)).name == "last"


def test_a_tail_in_another_layout_is_cut_at_too():
    """Behind a Transpose to (N, h, w, K) what holds a map is a candidate, and says how it is laid out."""
    model = net(
        *TRUNK,
        ("Transpose", "a0", "nhwc", {"perm": [0, 2, 3, 1]}),
        ("Relu", "nhwc", "r"),
        ("ReduceMean", "r", "p", {"axes": [1, 2], "keepdims": 0}),
        ("Gemm", "p dense", LOGITS, {"transB": 1}),
    )
    graph = indexed(model)
    chosen = choose_target(graph)
    assert (chosen.name, chosen.layout) == ("r", "channels-last")
    layouts = {target.name: (target.layout, target.shape) for target in find_candidates(graph)}
    channels, *cells = layouts["a0"][1]
    assert layouts["r"] == layouts["nhwc"] == ("channels-last", (channels, *cells))
    assert layouts["a0"][0] == "map"


def test_a_map_turned_and_turned_back_is_a_candidate_again():
    model = net(
        *TRUNK,
        ("Transpose", "a0", "nhwc", {"perm": [0, 2, 3, 1]}),
        ("MatMul", "nhwc mix", "m"),
        ("Transpose", "m", "last", {"perm": [0, 3, 1, 2]}),
        *POOL_AND_LINEAR,
        mix=(4, 4),
    )
    assert choose_target(indexed(model)).name == "last"


def test_whole_numbers_are_no_activation():
    model = net(
        *TRUNK,
        ("Cast", "a0", "whole", {"to": onnx.TensorProto.INT32}),
        ("Cast", "whole", "last", {"to": onnx.TensorProto.FLOAT}),
        *POOL_AND_LINEAR,
    )
    names = [target.name for target in find_candidates(indexed(model))]
    assert names == ["c0", "a0", "last"]


# ---------------------------------------------------------------- targets by name


@pytest.mark.parametrize("wanted", ["node_a0", "c0", "node_last", "a0"])
def test_a_target_is_asked_for_by_tensor_or_by_node(wanted):
    assert choose_target(indexed(RESIDUAL), wanted).name == wanted.removeprefix("node_")


def test_a_target_that_is_not_there():
    with pytest.raises(
        CutError, match=r"target 'conv9' was not found in the graph; .*'sum', 'last'.*targets"
    ):
        choose_target(indexed(RESIDUAL), "conv9")


@pytest.mark.parametrize("wanted", ["flat", "pooled", "node_flat", LOGITS])
def test_a_target_that_is_no_activation(wanted):
    with pytest.raises(CutError, match=f"target '{wanted}' is no \\(N, K, h, w\\) activation"):
        choose_target(indexed(RESIDUAL), wanted)


def test_an_empty_target_is_no_name_of_a_nameless_node():
    model = onnx.ModelProto.FromString(RESIDUAL.SerializeToString())
    for each in model.graph.node:
        each.name = ""
    with pytest.raises(CutError, match="target ''"):
        choose_target(indexed(model), "")


@pytest.mark.parametrize("wanted", ["c1", "a1", "c2"])
def test_a_target_that_something_goes_around_is_found_by_name_only(wanted):
    graph = indexed(RESIDUAL)
    found = choose_target(graph, wanted)
    assert (found.name, found.clean) == (wanted, False)
    assert find_crossing_tensors(graph, wanted) == ("a0",)
    assert choose_target(graph).clean


@pytest.mark.parametrize("wanted", ["c1", "a1", "c2"])
def test_what_goes_around_a_cut_is_that_of_the_image(wanted, tmp_path):
    """Altered activations inside a residual branch, against the graph run with the image's own rest."""
    path = tmp_path / "model.onnx"
    path.write_bytes(RESIDUAL.SerializeToString())
    engine = camrt.load(path, target=wanted, threads=1, batch_size=3)
    assert engine.head.kind == "generic"
    assert "'a0' goes around the cut" in engine.head.describe()
    graph = indexed(RESIDUAL)
    images = np.random.default_rng(0).standard_normal((4, *graph.input_shape[1:]), np.float32)
    parts = onnx.ModelProto.FromString(RESIDUAL.SerializeToString())
    names = [wanted, "a0"]
    trunk = session(build_tapped_model(parts, graph, {f"t_{name}": name for name in names}))
    activation, around = trunk.run([f"t_{name}" for name in names], {trunk.get_inputs()[0].name: images})
    head = session(
        build_head_model(parts, graph, wanted, LOGITS, input_name="map", batch=None, extra_inputs=["a0"])
    )

    def logits(values):
        return head.run(None, {"map": values, extra_input_name(0): around})[0].astype(np.float64)

    whole = logits(activation)
    assert_close(engine.predict(images), whole, np.float32, factor=4)
    scores = []
    for k in range(activation.shape[1]):
        altered = activation.copy()
        altered[:, k] = 0
        scores.append(logits(altered)[:, 0])
    found = engine.explain(images, "ablation", targets=0, size="map")
    weights = (whole[:, :1] - np.stack(scores, 1)) / np.maximum(np.abs(whole[:, :1]), 1e-8)
    # weights are differences of logits that agree in most of their digits
    assert_close(found.raw, np.einsum("nk,nkij->nij", weights, activation), np.float32, factor=200)


def session(model):
    return ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


def test_several_tensors_that_go_around():
    model = net(
        *TRUNK,
        ("Sigmoid", "a0", "s"),
        ("Tanh", "a0", "t"),
        ("Conv", "a0 w1", "c1"),
        ("Sum", "c1 s t", "last"),
        *POOL_AND_LINEAR,
    )
    graph = indexed(model)
    assert not choose_target(graph, "c1").clean
    assert find_crossing_tensors(graph, "c1") == ("s", "t")


def test_every_candidate_is_listed_and_the_chosen_one_marked(tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(RESIDUAL.SerializeToString())
    targets = camrt.load(path).targets()
    assert [target.name for target in targets] == ["c0", "a0", "c1", "a1", "c2", "sum", "last"]
    assert [target.name for target in targets if not target.clean] == ["c1", "a1", "c2"]
    assert [target.name for target in targets if target.chosen] == ["last"]
    assert all(target.shape == (4, 8, 6) for target in targets)
    assert targets[0].node == "node_c0"
    for target in targets:
        if target.clean:
            engine = camrt.load(path, target=target.name)
            assert engine.target.name == target.name
            assert sum(each.chosen for each in engine.targets()) == 1


def test_all_clean_cuts_of_one_model_predict_and_explain(tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(RESIDUAL.SerializeToString())
    batch = np.random.default_rng(4).standard_normal((2, 3, 8, 6), np.float32)
    expected = camrt.load(path).predict(batch)
    for name, kind in (("c0", "generic"), ("a0", "generic"), ("sum", "pooled-linear")):
        engine = camrt.load(path, target=name)
        assert engine.head.kind == kind
        assert_close(engine.predict(batch), expected, factor=WHOLE_MODEL)
        assert engine.explain(batch, "pixab").maps.shape == (2, 8, 6)


# ---------------------------------------------------------------- no target at all


def test_a_model_without_a_spatial_activation():
    model = net(("Flatten", IMAGES, "flat"), ("Gemm", "flat all", LOGITS, {"transB": 1}), all=(5, 3 * 8 * 6))
    with pytest.raises(CutError, match=r"no activation with two spatial axes.*convolutional classifiers"):
        choose_target(indexed(model))
    with pytest.raises(CutError, match="the last candidates are none"):
        choose_target(indexed(model), "x")


def test_a_model_whose_activations_are_all_bypassed():
    model = net(
        *TRUNK,
        ("GlobalAveragePool", "a0", "p"),
        ("Flatten", "p", "f"),
        ("Flatten", IMAGES, "raw"),
        ("Concat", "f raw", "both", {"axis": 1}),
        ("Gemm", "both all", LOGITS, {"transB": 1}),
        all=(5, 4 + 3 * 8 * 6),
    )
    with pytest.raises(CutError, match=r"no clean cut was found: every .* 'c0', 'a0'\) is bypassed"):
        choose_target(indexed(model))


def branched():
    """Two views of the images that meet in the logits alone."""
    return net(
        *TRUNK,
        ("GlobalAveragePool", "a0", "p0"),
        ("Flatten", "p0", "f0"),
        ("Gemm", "f0 dense", "l0", {"transB": 1}),
        ("Conv", f"{IMAGES} wide", "c1", {"strides": [2, 2]}),
        ("Relu", "c1", "a1"),
        ("AveragePool", "a1", "s1", {"kernel_shape": [2, 1]}),
        ("GlobalAveragePool", "s1", "p1"),
        ("Flatten", "p1", "f1"),
        ("Gemm", "f1 other", "l1", {"transB": 1}),
        ("Add", "l0 l1", LOGITS),
        wide=(6, 3, 3, 3),
        other=(5, 6),
    )


def test_two_branches_are_two_targets(tmp_path):
    first, second = choose_targets(indexed(branched()))
    assert (first.name, first.shape, first.clean) == ("a0", (4, 8, 6), False)
    assert (second.name, second.shape, second.clean) == ("a1", (6, 3, 2), False)
    batch = np.random.default_rng(4).standard_normal((2, 3, 8, 6), np.float32)
    path = save(branched(), tmp_path / "branched.onnx")
    both, named = camrt.load(path), camrt.load(path, target=["a0", "a1"])
    assert [target.name for target in both.targets() if target.chosen] == ["a0", "a1"]
    for method in ("gradcam", "pixab"):
        ours, theirs = (engine.explain(batch, method, targets=1).maps for engine in (both, named))
        assert ours.max() > 0
        assert_close(ours, theirs)


def test_a_product_of_images_with_images_is_as_wide_as_the_batch(tmp_path):
    """Attention over the batch, of values that are all zero: it changes nothing, and is run all the same."""
    shared = (*TRUNK, ("GlobalAveragePool", "a0", "p"), ("Flatten", "p", "f"))
    mixing = net(
        *shared,
        ("Transpose", "f", "turned", {"perm": [1, 0]}),
        ("MatMul", "f turned", "alike"),
        ("Softmax", "alike", "shares", {"axis": 1}),
        ("Mul", "f nothing", "values"),
        ("MatMul", "shares values", "mixed"),
        ("Add", "f mixed", "sum"),
        ("Gemm", "sum dense", LOGITS, {"transB": 1}),
        weights=[numpy_helper.from_array(np.zeros(4, np.float32), "nothing")],
    )
    plain = net(*shared, ("Gemm", "f dense", LOGITS, {"transB": 1}))
    engines = [
        camrt.load(save(model, tmp_path / f"{name}.onnx"), target="a0")
        for name, model in (("mixing", mixing), ("plain", plain))
    ]
    batch = np.random.default_rng(4).standard_normal((2, 3, 8, 6), np.float32)
    ours, theirs = (engine.explain(batch, "gradcam", targets=1, size="map").raw for engine in engines)
    assert_close(ours, theirs, factor=WHOLE_MODEL)


# ---------------------------------------------------------------- counting paths is exact


@st.composite
def random_nets(draw):
    """Maps added to and made from one another at random, then pooled."""
    steps = [("Conv", f"{IMAGES} w0", "t0", {"pads": [1] * 4})]
    count = draw(st.integers(1, 9))
    for index in range(1, count + 1):
        reads = draw(st.lists(st.integers(0, index - 1), min_size=1, max_size=3))
        if len(reads) == 1:
            steps.append((draw(st.sampled_from(["Relu", "Sigmoid", "Tanh"])), f"t{reads[0]}", f"t{index}"))
        else:
            steps.append(("Sum", " ".join(f"t{read}" for read in reads), f"t{index}"))
    steps.append(("Identity", f"t{count}", "last"))
    return net(*steps, *POOL_AND_LINEAR)


@given(model=random_nets())
@settings(deadline=None, derandomize=True, database=None, max_examples=60)
def test_clean_cuts_are_those_that_nothing_crosses(model):
    graph = indexed(model)
    clean = find_clean_cuts(graph)
    for target in find_candidates(graph):
        assert target.clean == (target.name in clean)
        assert target.clean == (find_crossing_tensors(graph, target.name) == ())


def test_paths_beyond_any_machine_number_are_counted():
    """Forty blocks, each read three times: 3^40 paths."""
    steps = [("Conv", f"{IMAGES} w0", "t0", {"pads": [1] * 4})]
    for index in range(1, 41):
        steps.append(("Relu", f"t{index - 1}", f"r{index}"))
        steps.append(("Sum", f"t{index - 1} r{index} r{index}", f"t{index}"))
    steps.append(("Identity", "t40", "last"))
    graph = indexed(net(*steps, *POOL_AND_LINEAR))
    clean = find_clean_cuts(graph)
    assert {f"t{index}" for index in range(41)} <= clean
    assert not {f"r{index}" for index in range(1, 41)} & clean


# ---------------------------------------------------------------- the description


def test_the_description_says_what_was_found(tmp_path):
    whole = classifier(
        HEADS["gap-flatten-gemm"].make(np.random.default_rng(5), *SHAPE, CLASSES),
        np.random.default_rng(6),
        batch=1,
    )
    text = camrt.load(save(whole.model, tmp_path / "small.onnx")).describe()
    lines = text.splitlines()
    assert lines[0] == "small.onnx"
    assert "(N, 3, 8×6), NCHW in the file; batch size any" in lines[1]
    assert "5 classes, ends in logits; probabilities by softmax" in lines[2]
    assert "'A' (Relu), K×h×w = 6×4×3" in text
    assert "pooled-linear" in text
    assert "note    the batch axis, fixed at 1 in the file, was opened" in text
    for method in single_methods():
        assert any(line.split()[:1] == [method] for line in lines)


def test_the_description_of_a_head_that_cannot_be_factored_says_why(tmp_path):
    whole = classifier(
        HEADS["squeeze-and-excite-behind-the-cut"].make(np.random.default_rng(7), *SHAPE, CLASSES),
        np.random.default_rng(8),
    )
    text = camrt.load(save(whole.model, tmp_path / "small.onnx"), target="A").describe()
    assert "generic: every alteration is run through the head, in batches (2 nodes read 'A')" in text
    assert "needs a linear layer behind global pooling" in text
