"""Inputs and outputs of any exported classifier, brought to one form."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

import camrt
from camrt.errors import UnsupportedModelError
from camrt.export.graph.upkeep import lift_constants
from camrt.export.io.opsets import newest_opset
from camrt.export.rewrites.input_form import INTEGER_RANGES, standardise_input
from camrt.export.rewrites.interface import standardise
from helpers.tolerances import assert_close
from helpers.zoo import HEADS, classifier, model_of, save, with_ending

FLOAT16, DOUBLE, FLOAT = TensorProto.FLOAT16, TensorProto.DOUBLE, TensorProto.FLOAT
SHAPE = (6, 4, 3)
CLASSES = 5
# A convolution, a pool, a linear layer and, where there is one, a softmax.
WHOLE_MODEL = 8.0


def zoo_model(name="gap-flatten-gemm", classes=CLASSES, **options):
    rng = np.random.default_rng(3)
    return classifier(HEADS[name].make(rng, *SHAPE, classes), rng, **options)


def images(whole, count=3):
    return np.random.default_rng(4).standard_normal((count, *whole.size), np.float32)


def softmax(x, axis=1):
    raised = np.exp(x - x.max(axis=axis, keepdims=True))
    return raised / raised.sum(axis=axis, keepdims=True)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def node(operator, source, made, **attributes):
    return helper.make_node(operator, source.split(), [made], **attributes)


def constants(model, **values):
    for name, value in values.items():
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
    return model


def retyped(model, element):
    """The model with every float32 weight, input and output of another floating-point type."""
    other = onnx.ModelProto()
    other.CopyFrom(model)
    for tensor in other.graph.initializer:
        if tensor.data_type == FLOAT:
            values = numpy_helper.to_array(tensor).astype(helper.tensor_dtype_to_np_dtype(element))
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    for value in [*other.graph.input, *other.graph.output]:
        value.type.tensor_type.elem_type = element
    return other


# ---------------------------------------------------------------- inputs


def small(input_shape, element=FLOAT, opset=17, first="Conv"):
    """A convolution, a global pool: enough to be looked at."""
    nodes = [
        node(first, "images weight" if first == "Conv" else "images", "A", name="first"),
        node("GlobalAveragePool", "A", "pooled"),
        node("Flatten", "pooled", "logits"),
    ]
    weight = numpy_helper.from_array(np.ones((4, 3, 1, 1), np.float32), "weight")
    model = model_of(nodes, [weight], input_shape, ["N", 4], opset)
    model.graph.input[0].type.tensor_type.elem_type = element
    return model


def test_two_inputs_are_refused_and_named():
    model = small(["N", 3, 8, 8])
    model.graph.input.append(helper.make_tensor_value_info("mask", FLOAT, ["N", 1]))
    with pytest.raises(
        UnsupportedModelError, match=r"exactly one input, this model has 2 \('images', 'mask'\)"
    ):
        standardise(model)


def test_no_input_is_refused():
    model = small(["N", 3, 8, 8])
    del model.graph.input[:]
    with pytest.raises(UnsupportedModelError, match=r"has 0 \(none\)"):
        standardise(model)


@pytest.mark.parametrize(
    ("shape", "written"),
    [(["N", 3, 8], r"\(N, 3, 8\)"), ([3], r"\(3\)"), (["N", 3, 4, 8, 8], r"\(N, 3, 4, 8, 8\)")],
    ids=["rank-3", "rank-1", "rank-5"],
)
def test_an_input_that_is_no_image_is_refused(shape, written):
    with pytest.raises(UnsupportedModelError, match=f"has shape {written}; images"):
        standardise(small(shape))


def test_an_input_of_unknown_rank_is_refused():
    model = small(["N", 3, 8, 8])
    model.graph.input[0].type.tensor_type.ClearField("shape")
    with pytest.raises(UnsupportedModelError, match="unknown rank"):
        standardise(model)


@pytest.mark.parametrize(
    "element", [TensorProto.INT64, TensorProto.UINT32, TensorProto.BOOL, TensorProto.STRING]
)
def test_an_input_that_holds_no_image_is_refused(element):
    name = TensorProto.DataType.Name(element)
    with pytest.raises(UnsupportedModelError, match=f"holds {name};.*a Cast to {name} behind it"):
        standardise(small(["N", 3, 8, 8], element))


@pytest.mark.parametrize("said", [-1, 0, -7])
@pytest.mark.parametrize("axes", [(0,), (2, 3), (0, 1, 2, 3)], ids=["batch", "size", "all"])
def test_a_size_that_is_no_number_of_elements_is_open(said, axes, tmp_path):
    whole = zoo_model("gap-flatten-gemm")
    for value, places in ((whole.model.graph.input[0], axes), (whole.model.graph.output[0], (0,))):
        for axis in places:
            value.type.tensor_type.shape.dim[axis].dim_value = said
    path = tmp_path / "model.onnx"
    path.write_bytes(whole.model.SerializeToString())
    engine = camrt.load(path)
    assert engine.interface.batch is None
    assert engine.interface.fixed_size == (2 not in axes)
    assert engine.interface.channels == 3
    batch = images(whole)
    assert_close(engine.predict(batch), whole.logits64(batch), factor=WHOLE_MODEL)
    if 2 in axes:
        wide = np.random.default_rng(5).standard_normal((2, 3, 14, 10), np.float32)
        assert_close(engine.predict(wide), whole.logits64(wide), factor=WHOLE_MODEL)
    generic = camrt.load(save(zoo_model("gap-flatten-gemm").model, tmp_path / "named.onnx"))
    for method in ("gradcam", "pixab", "ablation"):
        found, expected = (each.explain(batch, method, targets=1).raw for each in (engine, generic))
        assert_close(found, expected, factor=WHOLE_MODEL)


def test_open_colours_are_taken_from_the_first_convolution():
    assert standardise(small(["N", "colours", 8, 8])).channels == 3


def test_open_colours_without_a_convolution_are_refused():
    with pytest.raises(UnsupportedModelError, match="number of colour channels is open"):
        standardise(small(["N", "colours", 8, 8], first="Relu"))


@pytest.mark.parametrize("colours", [1, 3, 4])
def test_channels_last_images_are_taken_channels_first(colours, tmp_path):
    whole = zoo_model(colours=colours)
    model = whole.model
    trunk = model.graph.node[0]
    trunk.input[0] = "turned"
    model.graph.node.insert(0, node("Transpose", "images", "turned", perm=[0, 3, 1, 2]))
    height, width = whole.size[1:]
    model.graph.input[0].CopyFrom(
        helper.make_tensor_value_info("images", FLOAT, ["N", height, width, colours])
    )
    engine = camrt.load(save(model, tmp_path / "model.onnx"))
    assert engine.interface.layout == "NHWC"
    batch = images(whole)
    assert_close(engine.predict(batch), whole.logits64(batch), factor=WHOLE_MODEL)
    assert engine.target.name == "A"
    assert engine.head.kind == "pooled-linear"


@pytest.mark.parametrize(
    ("shape", "layout"),
    [
        ([None, 224, 224, 3], "NHWC"),
        ([None, 3, 224, 224], "NCHW"),
        ([None, None, None, 3], "NHWC"),
        ([None, 3, None, None], "NCHW"),
        ([1, 1, 28, 28], "NCHW"),
        ([1, 28, 28, 1], "NHWC"),
        ([1, 3, 5, 3], "NCHW"),
    ],
    ids=str,
)
def test_the_axis_of_colours_is_the_one_with_few(shape, layout):
    model = small([size or f"axis{index}" for index, size in enumerate(shape)], first="Relu")
    assert standardise_input(model).layout == layout


@pytest.mark.parametrize("opset", [9, 11, 17])
@pytest.mark.parametrize("element", sorted(INTEGER_RANGES), ids=TensorProto.DataType.Name)
def test_whole_numbers_are_rounded_and_bounded(element, opset, tmp_path):
    whole = zoo_model(opset=opset)
    model = whole.model
    model.graph.node[0].input[0] = "wide"
    model.graph.node.insert(0, node("Cast", "images", "wide", to=FLOAT))
    model.graph.input[0].type.tensor_type.elem_type = element
    low, high = INTEGER_RANGES[element]
    # No batch of images comes near the ends of 32 bits, and one that did would be warned of.
    ends = (-800.0, 800.0) if element == TensorProto.INT32 else (low - 20, high + 20)
    batch = np.random.default_rng(5).uniform(*ends, (3, *whole.size)).astype(np.float32)
    engine = camrt.load(save(model, tmp_path / "model.onnx"))
    expected = whole.logits64(np.clip(np.round(batch), low, high))
    assert_close(engine.predict(batch), expected, factor=WHOLE_MODEL)


def test_initializers_listed_as_inputs_are_no_inputs(tmp_path):
    whole = zoo_model()
    for tensor in whole.model.graph.initializer:
        whole.model.graph.input.append(
            helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims))
        )
    engine = camrt.load(save(whole.model, tmp_path / "model.onnx"))
    batch = images(whole)
    assert_close(engine.predict(batch), whole.logits64(batch), factor=WHOLE_MODEL)
    assert engine.head.kind == "pooled-linear"


def test_weights_in_constant_nodes_are_found(tmp_path):
    whole = zoo_model("clip-before-the-pool")
    graph = whole.model.graph
    made = []
    for tensor in graph.initializer:
        value = numpy_helper.to_array(tensor)
        if value.ndim == 0:
            made.append(helper.make_node("Constant", [], [tensor.name], value_float=float(value)))
        elif value.ndim == 1:
            made.append(helper.make_node("Constant", [], [tensor.name], value_floats=value.tolist()))
        else:
            made.append(helper.make_node("Constant", [], [tensor.name], value=tensor))
    nodes = [*made, *graph.node]
    del graph.initializer[:], graph.node[:]
    graph.node.extend(nodes)
    engine = camrt.load(save(whole.model, tmp_path / "model.onnx"))
    batch = images(whole)
    assert_close(engine.predict(batch), whole.logits64(batch), factor=WHOLE_MODEL)
    assert engine.head.kind == "pooled-linear"


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        ({"value_int": 3}, np.int64(3)),
        ({"value_ints": [1, 2]}, np.array([1, 2])),
        ({"value_float": 0.5}, np.float32(0.5)),
        ({"value_floats": [0.5, 1]}, np.array([0.5, 1], np.float32)),
        ({"value": numpy_helper.from_array(np.eye(2))}, np.eye(2)),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_every_dense_spelling_of_a_constant_is_lifted(attributes, expected):
    model = small(["N", 3, 8, 8])
    model.graph.node.insert(0, helper.make_node("Constant", [], ["c"], **attributes))
    lift_constants(model)
    lifted = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    np.testing.assert_array_equal(lifted["c"], expected)
    assert lifted["c"].dtype == np.asarray(expected).dtype
    assert all(each.op_type != "Constant" for each in model.graph.node)


@pytest.mark.parametrize("taken", ["camrt_logits", "camrt_images", "camrt_cast", "camrt_activation"])
def test_a_file_may_use_the_names_camrt_uses(taken, tmp_path):
    whole = zoo_model()
    for each in whole.model.graph.node:
        for names in (each.input, each.output):
            for position, name in enumerate(names):
                if name == "A":
                    names[position] = taken
    engine = camrt.load(save(whole.model, tmp_path / "model.onnx"))
    batch = images(whole)
    assert_close(engine.predict(batch), whole.logits64(batch), factor=WHOLE_MODEL)


# ---------------------------------------------------------------- element types


def test_a_half_precision_graph_agrees_to_half_precision(tmp_path):
    whole = zoo_model()
    path = save(retyped(whole.model, FLOAT16), tmp_path / "model.onnx")
    engine = camrt.load(path)
    batch = images(whole)
    assert engine.predict(batch).dtype == np.float32
    assert_close(engine.predict(batch), whole.logits64(batch), np.float16, factor=WHOLE_MODEL)
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    theirs = session.run(None, {"images": batch.astype(np.float16)})[0]
    assert_close(engine.predict(batch), theirs, np.float16)
    assert engine.head.kind == "pooled-linear"
    explanation = engine.explain(batch, "ablation", targets=1)
    assert explanation.maps.dtype == np.float32
    assert (explanation.passes.head, explanation.passes.full) == (0, 0)


def test_a_double_precision_graph(tmp_path):
    """The runtime has no double convolution: the trunk is float32, what it takes and gives is not."""
    whole = zoo_model("gap-flatten-gemm")
    model = whole.model
    model.graph.node[0].input[0] = "narrow"
    model.graph.node.insert(0, node("Cast", "images", "narrow", to=FLOAT))
    model.graph.input[0].type.tensor_type.elem_type = DOUBLE
    model = with_ending(
        model,
        [node("Cast", "logits", "wide", to=DOUBLE), node("Softmax", "wide", "scores", axis=1)],
        ["N", CLASSES],
        DOUBLE,
    )
    engine = camrt.load(save(model, tmp_path / "model.onnx"))
    batch = images(whole)
    assert engine.interface.recognised == "Softmax"
    assert engine.head.kind == "pooled-linear"
    assert_close(engine.predict(batch), whole.logits64(batch), factor=WHOLE_MODEL)


# ---------------------------------------------------------------- outputs


ENDINGS = {
    "softmax-last-axis": ([("Softmax", "logits", "scores", {"axis": -1})], 17, "Softmax"),
    "softmax-axis-1": ([("Softmax", "logits", "scores", {"axis": 1})], 17, "Softmax"),
    "softmax-default-axis": ([("Softmax", "logits", "scores", {})], 17, "Softmax"),
    "softmax-opset-9-default-axis": ([("Softmax", "logits", "scores", {})], 9, "Softmax"),
    "softmax-opset-11-last-axis": ([("Softmax", "logits", "scores", {"axis": -1})], 11, "Softmax"),
    "log-softmax": ([("LogSoftmax", "logits", "scores", {"axis": -1})], 17, "LogSoftmax"),
    "sigmoid": ([("Sigmoid", "logits", "scores", {})], 17, "Sigmoid"),
    "softmax-identity": (
        [("Softmax", "logits", "p", {"axis": 1}), ("Identity", "p", "scores", {})],
        17,
        "Softmax",
    ),
    "identity-softmax-dropout-cast": (
        [
            ("Identity", "logits", "l", {}),
            ("Softmax", "l", "p", {"axis": 1}),
            ("Dropout", "p", "d", {}),
            ("Cast", "d", "scores", {"to": FLOAT}),
        ],
        17,
        "Softmax",
    ),
    "reshape-softmax-reshape": (
        [
            ("Reshape", "logits maps", "l", {}),
            ("Softmax", "l", "p", {"axis": 1}),
            ("Reshape", "p rows", "scores", {}),
        ],
        17,
        "Softmax",
    ),
    "softmax-of-one-cell-opset-11": (
        [
            ("Reshape", "logits maps", "l", {}),
            ("Softmax", "l", "p", {"axis": 1}),
            ("Flatten", "p", "scores", {}),
        ],
        11,
        "Softmax",
    ),
    "sigmoid-of-one-cell": (
        [("Reshape", "logits maps", "l", {}), ("Sigmoid", "l", "scores", {})],
        17,
        "Sigmoid",
    ),
    "one-cell": ([("Reshape", "logits maps", "scores", {})], 17, None),
    "identity": ([("Identity", "logits", "scores", {})], 17, None),
}


@pytest.mark.parametrize("ending", ENDINGS)
def test_the_end_of_the_graph_is_recognised(ending, tmp_path):
    steps, opset, recognised = ENDINGS[ending]
    whole = zoo_model("gap-flatten-gemm", opset=opset)
    one_cell = "one-cell" in ending and "opset" not in ending
    model = with_ending(
        constants(whole.model, maps=np.array([-1, CLASSES, 1, 1]), rows=np.array([-1, CLASSES])),
        [node(operator, source, made, **attributes) for operator, source, made, attributes in steps],
        ["N", CLASSES, 1, 1] if one_cell else ["N", CLASSES],
    )
    path = save(model, tmp_path / "model.onnx")
    engine = camrt.load(path)
    assert engine.interface.recognised == recognised
    assert engine.interface.activation == ("sigmoid" if recognised == "Sigmoid" else "softmax")
    assert engine.num_classes == CLASSES
    batch = images(whole)
    logits = engine.predict(batch)
    assert_close(logits, whole.logits64(batch), factor=WHOLE_MODEL)
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    theirs = session.run(None, {"images": batch})[0].reshape(3, CLASSES)
    if recognised is not None:
        ours = engine.probabilities(logits)
        assert_close(np.log(ours) if recognised == "LogSoftmax" else ours, theirs, factor=WHOLE_MODEL)
    assert engine.head.kind == "pooled-linear"


@pytest.mark.parametrize(
    "steps",
    [
        [("Tanh", "logits", "scores", {})],
        [("Relu", "logits", "scores", {})],
        [("LogSoftmax", "logits", "p", {"axis": 1}), ("Mul", "p two", "scores", {})],
    ],
    ids=["tanh", "relu", "log-softmax-times-two"],
)
def test_any_other_end_counts_as_logits(steps, tmp_path):
    whole = zoo_model(batch=1)
    model = with_ending(
        constants(whole.model, two=np.float32(2)),
        [node(operator, source, made, **attributes) for operator, source, made, attributes in steps],
        [1, CLASSES],
    )
    path = save(model, tmp_path / "model.onnx")
    engine = camrt.load(path)
    assert engine.interface.recognised is None
    batch = images(whole, 1)
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    assert_close(engine.predict(batch), session.run(None, {"images": batch})[0])


def test_one_logit_means_a_sigmoid(tmp_path):
    whole = zoo_model(classes=1)
    path = save(whole.model, tmp_path / "model.onnx")
    engine = camrt.load(path)
    assert engine.interface.activation == "sigmoid"
    batch = images(whole)
    assert_close(
        engine.probabilities(engine.predict(batch)), sigmoid(whole.logits64(batch)), factor=WHOLE_MODEL
    )
    assert camrt.load(path, activation="softmax").interface.activation == "softmax"


def test_the_activation_asked_for_holds_where_the_file_says_nothing(tmp_path):
    whole = zoo_model()
    path = save(whole.model, tmp_path / "model.onnx")
    batch = images(whole)
    engine = camrt.load(path, activation="sigmoid")
    assert_close(
        engine.probabilities(engine.predict(batch)), sigmoid(whole.logits64(batch)), factor=WHOLE_MODEL
    )
    ours = camrt.load(path)
    assert_close(ours.probabilities(ours.predict(batch)), softmax(whole.logits64(batch)), factor=WHOLE_MODEL)


def with_outputs(whole, *values):
    whole.model.graph.output.extend(
        helper.make_tensor_value_info(name, FLOAT, list(shape)) for name, shape in values
    )
    return whole.model


def test_among_several_outputs_the_only_one_of_class_scores_is_taken(tmp_path):
    whole = zoo_model()
    path = save(with_outputs(whole, ("A", ["N", *SHAPE])), tmp_path / "model.onnx")
    engine = camrt.load(path)
    assert engine.num_classes == CLASSES
    assert engine.predict(images(whole)).shape == (3, CLASSES)


def two_heads():
    """Class scores and, from the same pooled features, something else of rank 2."""
    whole = zoo_model("gap-flatten-gemm")
    pooled = whole.model.graph.node[-2].output[0]
    return with_outputs(whole, (pooled, ["N", SHAPE[0]])), pooled, whole


def test_several_outputs_that_could_be_class_scores_need_a_choice(tmp_path):
    model, pooled, _ = two_heads()
    path = save(model, tmp_path / "model.onnx")
    with pytest.raises(
        UnsupportedModelError, match=f"(?s)several outputs.*'logits'.*{pooled}.*output='name'"
    ):
        camrt.load(path)


def test_the_output_asked_for_is_explained(tmp_path):
    model, pooled, whole = two_heads()
    path = save(model, tmp_path / "model.onnx")
    batch = images(whole)
    assert_close(camrt.load(path, output="logits").predict(batch), whole.logits64(batch), factor=WHOLE_MODEL)
    features = camrt.load(path, output=pooled)
    assert_close(features.predict(batch), whole.activations64(batch).mean(axis=(2, 3)), factor=WHOLE_MODEL)
    assert features.head.kind == "pooled-linear"


def test_an_output_that_is_not_there_is_refused(tmp_path):
    path = save(zoo_model().model, tmp_path / "model.onnx")
    with pytest.raises(UnsupportedModelError, match=r"no output 'scores'; the model has 'logits' \(1, 5\)"):
        camrt.load(path, output="scores")


def test_a_model_without_class_scores_is_refused(tmp_path):
    whole = zoo_model()
    del whole.model.graph.output[:]
    path = save(with_outputs(whole, ("A", ["N", *SHAPE])), tmp_path / "model.onnx")
    with pytest.raises(UnsupportedModelError, match=r"output is \(N, C\) class scores; this model gives 'A'"):
        camrt.load(path)


def test_class_indices_are_no_class_scores(tmp_path):
    whole = zoo_model()
    model = with_ending(
        whole.model, [node("ArgMax", "logits", "scores", axis=1, keepdims=1)], ["N", 1], TensorProto.INT64
    )
    path = save(model, tmp_path / "model.onnx")
    with pytest.raises(UnsupportedModelError, match="class scores"):
        camrt.load(path)


# ---------------------------------------------------------------- operator sets


def old_style(opset):
    """The same model in any operator set: convolution, batch norm, bounds, pool, linear layer, softmax."""
    rng = np.random.default_rng(6)
    weight = (rng.standard_normal((6, 3, 3, 3)) / 3).astype(np.float32)
    dense = (rng.standard_normal((CLASSES, 6)) / 2).astype(np.float32)
    bias = rng.standard_normal(CLASSES).astype(np.float32)
    norm = rng.random((4, 6)).astype(np.float32)
    stored = {"weight": weight, "dense": dense, "bias": bias, "axes": np.array([2, 3])}
    stored |= {"low": np.float32(0), "high": np.float32(1)}
    stored |= {f"norm{index}": row for index, row in enumerate(norm)}
    bounded = node("Clip", "n", "A", min=0.0, max=1.0) if opset < 11 else node("Clip", "n low high", "A")
    pooled = (
        node("ReduceMean", "A", "pooled", axes=[2, 3], keepdims=0)
        if opset < 18
        else node("ReduceMean", "A axes", "pooled", keepdims=0)
    )
    nodes = [
        node("Conv", "images weight", "c", pads=[1, 1, 1, 1], strides=[2, 2]),
        node("BatchNormalization", "c norm0 norm1 norm2 norm3", "n"),
        bounded,
        pooled,
        node("Gemm", "pooled dense bias", "l", transB=1),
        node("Softmax", "l", "logits", axis=1),
    ]
    used = {name for each in nodes for name in each.input}
    tensors = [
        numpy_helper.from_array(np.asarray(value), name) for name, value in stored.items() if name in used
    ]
    return model_of(nodes, tensors, ["N", 3, 10, 8], ["N", CLASSES], opset)


@pytest.mark.parametrize("opset", sorted({9, 11, 13, 17, 18, 21, newest_opset()}))
def test_every_operator_set_gives_the_same_engine(opset, tmp_path):
    path = save(old_style(opset), tmp_path / "model.onnx")
    engine = camrt.load(path)
    assert engine.interface.recognised == "Softmax"
    assert engine.target.shape == (6, 5, 4)
    assert engine.target.name == "A"
    assert engine.head.kind == "pooled-linear"
    batch = np.random.default_rng(7).standard_normal((3, 3, 10, 8), np.float32)
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    theirs = session.run(None, {"images": batch})[0]
    assert_close(engine.probabilities(engine.predict(batch)), theirs, factor=WHOLE_MODEL)
    reference = camrt.load(save(old_style(17), tmp_path / "reference.onnx"))
    for method in ("cam", "ablation", "pixab"):
        assert_close(
            engine.explain(batch, method, targets=2).raw,
            reference.explain(batch, method, targets=2).raw,
            factor=WHOLE_MODEL,
        )
