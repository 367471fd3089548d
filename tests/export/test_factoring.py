"""ψ ∘ P ∘ φ read off a graph: what each factor is, and why there is none."""

from __future__ import annotations

import logging

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import camrt
from camrt.engine import cuts
from camrt.errors import MemoryLimitError
from camrt.export.budget import Budget, within_budget
from camrt.export.graph.index import Graph
from camrt.export.heads.factoring import Factors, Unfactored, factor_head
from camrt.export.rewrites.interface import LOGITS, standardise
from helpers.tolerances import assert_close
from helpers.zoo import HEADS, HeadGraph, Net, classifier, save

SHAPE = (6, 4, 3)
CLASSES = 5
WHOLE_MODEL = 8.0


def factored(part, batch=5):
    model = classifier(part, np.random.default_rng(2)).model
    standardise(model)
    channels, height, width = part.shape
    graph = Graph(model, (batch, 3, 2 * height, 2 * width))
    assert graph.shape("A") == (batch, channels, height, width)
    return factor_head(graph, "A", None)


def zoo_part(name, seed=1):
    return HEADS[name].make(np.random.default_rng(seed), *SHAPE, CLASSES)


def custom(build, classes=CLASSES, shape=SHAPE, opset=17):
    """A head made by `build(net)`, whose definition is not asked for."""
    net = Net(np.random.default_rng(1))
    return net.part(build(net), lambda A: A, shape, classes, opset)


# ---------------------------------------------------------------- weights


@pytest.mark.parametrize("name", [name for name, case in HEADS.items() if case.kind == "pooled-linear"])
def test_the_weight_of_a_linear_head_is_that_of_its_definition(name):
    """A channel raised by one in every cell changes the logits by its column, however P weighs cells."""
    case, part = HEADS[name], zoo_part(name)
    factors = factored(part)
    assert isinstance(factors, Factors)
    assert not factors.has_rest
    assert factors.border == (2 * case.border, 2 * case.border)
    if factors.phi != "identity":
        assert factors.phi_model is not None
        return
    channels, height, width = SHAPE
    nothing = part.logits64(np.zeros((1, *SHAPE)))
    raised = np.zeros((channels, *SHAPE))
    raised[np.arange(channels), np.arange(channels)] = 1
    columns = part.logits64(raised) - nothing
    cells = (height + 2 * case.border) * (width + 2 * case.border)
    weight = np.eye(channels) if factors.weight is None else factors.weight
    share = height * width if case.sums else height * width / cells
    assert_close(weight.T * share, columns, np.float32, factor=WHOLE_MODEL)
    each = 0 if factors.cell_bias is None else factors.cell_bias * cells
    assert_close(factors.bias + each, nothing[0], np.float32, factor=WHOLE_MODEL)


@pytest.mark.parametrize(
    "name",
    [name for name, case in HEADS.items() if case.kind == "flattened-linear" and case.phi == "identity"],
)
def test_the_weight_of_a_flattened_head_is_in_the_order_of_the_map(name):
    part = zoo_part(name)
    factors = factored(part)
    assert isinstance(factors, Factors)
    assert factors.weight is not None
    assert factors.weight.shape == (part.classes, *SHAPE)
    size = int(np.prod(SHAPE))
    nothing = part.logits64(np.zeros((1, *SHAPE)))
    columns = part.logits64(np.eye(size).reshape(size, *SHAPE)) - nothing
    assert_close(factors.weight.reshape(part.classes, size).T, columns, np.float32, factor=WHOLE_MODEL)
    assert_close(factors.bias, nothing[0], np.float32, factor=WHOLE_MODEL)


# ---------------------------------------------------------------- φ


@pytest.mark.parametrize(
    ("pads", "border"), [([1, 1, 1, 1], (2, 2)), ([1, 0, 1, 0], (2, 0)), ([0, 2, 0, 2], (0, 4))], ids=str
)
@pytest.mark.parametrize("bent", [False, True], ids=["linear", "relu"])
def test_a_border_is_counted_by_rows_and_columns(pads, border, bent):
    def build(net):
        name, _ = net.weight(CLASSES, SHAPE[0], 1, 1)
        mixed = net.add("Conv", "A", name, pads=pads)
        return net.pooled(net.add("Relu", mixed) if bent else mixed)

    factors = factored(custom(build))
    assert isinstance(factors, Factors)
    assert factors.border == border


@pytest.mark.parametrize("pads", [[1, 0, 0, 0], [0, 1, 0, 2]], ids=str)
def test_a_border_wider_on_one_side_is_not_factored(pads):
    def build(net):
        name, _ = net.weight(CLASSES, SHAPE[0], 1, 1)
        return net.pooled(net.add("Relu", net.add("Conv", "A", name, pads=pads)))

    assert isinstance(factored(custom(build)), Unfactored)


def test_a_convolution_with_a_stride_is_not_cell_by_cell():
    def build(net):
        name, _ = net.weight(CLASSES, SHAPE[0], 1, 1)
        return net.pooled(net.add("Conv", "A", name, strides=[2, 2]))

    assert isinstance(factored(custom(build)), Unfactored)


@pytest.mark.parametrize(
    ("operator", "attributes"),
    [
        ("Softmax", {"axis": 2}),
        ("LpNormalization", {}),
        ("Softmax", {"axis": -1}),
        ("LogSoftmax", {"axis": 3}),
    ],
    ids=str,
)
def test_normalising_over_cells_is_not_cell_by_cell(operator, attributes):
    part = custom(lambda net: net.pooled(net.add(operator, "A", **attributes)), SHAPE[0])
    assert isinstance(factored(part), Unfactored)


@pytest.mark.parametrize(
    ("operator", "attributes"),
    [("Softmax", {"axis": 1}), ("LpNormalization", {"axis": 1}), ("LogSoftmax", {"axis": -3})],
    ids=str,
)
def test_normalising_over_channels_is(operator, attributes):
    part = custom(lambda net: net.pooled(net.add(operator, "A", **attributes)), SHAPE[0])
    factors = factored(part)
    assert isinstance(factors, Factors)
    assert factors.phi == "dense"


def test_batch_norm_in_training_mode_is_left_alone():
    def build(net):
        names = [net.weight(SHAPE[0])[0] for _ in range(3)]
        spread = net.constant(np.ones(SHAPE[0]))
        made = [f"bn{index}" for index in range(3)]
        net.nodes.append(helper.make_node("BatchNormalization", ["A", *names, spread], made, training_mode=1))
        return net.pooled("bn0")

    assert isinstance(factored(custom(build, SHAPE[0])), Unfactored)


def test_a_convolution_in_groups_is_expanded():
    def build(net):
        name, _ = net.weight(4, 3, 1, 1)
        return net.pooled(net.add("Conv", "A", name, group=2))

    factors = factored(custom(build, 4))
    assert isinstance(factors, Factors)
    assert factors.phi == "identity"
    assert factors.weight.shape == (4, 6)
    assert not factors.weight[:2, 3:].any()
    assert not factors.weight[2:, :3].any()
    assert factors.weight[:2, :3].all()
    assert factors.weight[2:, 3:].all()


@pytest.mark.parametrize("layer", ["gemm", "convolution", "whole-map"])
def test_a_bias_of_unknown_value_is_not_dropped(layer, tmp_path):
    """A constant that only the runtime can work out: the layer is then run, not taken apart."""

    def build(net):
        name = net.weight(CLASSES)[0]
        net.nodes.append(helper.make_node("Gelu", [name], ["bias"], domain="com.microsoft"))
        if layer == "gemm":
            return net.add("Gemm", net.pooled("A"), net.weight(SHAPE[0], CLASSES)[0], "bias")
        kernel = SHAPE[1:] if layer == "whole-map" else (1, 1)
        source = "A" if layer == "whole-map" else net.add("GlobalAveragePool", "A")
        return net.add("Flatten", net.add("Conv", source, net.weight(CLASSES, SHAPE[0], *kernel)[0], "bias"))

    whole = classifier(custom(build), np.random.default_rng(2))
    whole.model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    path = tmp_path / "model.onnx"
    path.write_bytes(whole.model.SerializeToString())
    engine, generic = camrt.load(path), forced_generic(path)
    batch = np.random.default_rng(3).standard_normal((2, *whole.size), np.float32)
    for method in ("ablation", "pixab"):
        ours = engine.explain(batch, method, targets=1, score="logit")
        theirs = generic.explain(batch, method, targets=1, score="logit")
        assert_close(ours.raw, theirs.raw, factor=100)  # maps are small differences of scores


def test_an_average_pool_of_one_cell_is_no_factor():
    """Adaptive pooling to the size that the map has already: VGG's."""

    def build(net):
        same = net.add("AveragePool", "A", kernel_shape=[1, 1])
        return net.gemm(net.add("Flatten", same), int(np.prod(SHAPE)), CLASSES)[0]

    factors = factored(custom(build))
    assert isinstance(factors, Factors)
    assert (factors.phi, factors.reduction, factors.phi_model) == ("identity", "flatten", None)


# ---------------------------------------------------------------- reasons


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("squeeze-and-excite-behind-the-cut", "2 nodes read 'A'"),
        ("sum-over-rows-of-means", "is a sum of means"),
        ("global-max-pool", "does not begin with a linear layer"),
        ("convolution-3x3-behind-the-cut", "does not begin with a linear layer"),
    ],
)
def test_the_reason_is_given(name, reason):
    found = factored(zoo_part(name))
    assert isinstance(found, Unfactored)
    assert reason in found.reason


@pytest.mark.parametrize("perm", [[1, 0, 2, 3], [2, 0, 1, 3]], ids=str)
def test_a_moved_batch_axis_is_not_followed(perm):
    def build(net):
        turned = net.add("Transpose", "A", perm=perm)
        back = net.add("Transpose", turned, perm=list(np.argsort(perm)))
        return net.pooled(back)

    found = factored(custom(build, SHAPE[0]))
    assert isinstance(found, Unfactored)
    assert "batch axis" in found.reason or "not known" in found.reason


def test_a_mean_over_part_of_the_cells_is_not_a_mean():
    def build(net):
        rows = net.add("ReduceMean", "A", axes=[3], keepdims=0)
        return net.gemm(net.add("Flatten", rows), SHAPE[0] * SHAPE[1], CLASSES)[0]

    found = factored(custom(build))
    assert isinstance(found, Unfactored)
    assert "averages groups of 3 elements" in found.reason


@pytest.mark.parametrize("size", [5, 1], ids=["batch-of-5-classes", "batch-of-1"])
def test_as_many_classes_as_images_are_not_confused(size):
    part = HEADS["gap-flatten-gemm"].make(np.random.default_rng(1), 5, 4, 3, 5)
    factors = factored(part, batch=size)
    assert isinstance(factors, Factors)
    assert factors.weight.shape == (5, 5)


# ---------------------------------------------------------------- element types


@pytest.mark.parametrize("name", ["gap-flatten-gemm", "squeezenet", "gemm-relu-gemm", "flatten-gemm"])
def test_factors_of_a_half_precision_graph_are_float32(name):
    part = zoo_part(name)
    half = HeadGraph(
        part.nodes,
        [
            numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float16), tensor.name)
            for tensor in part.initializers
        ],
        part.logits64,
        part.opset,
        part.shape,
        part.classes,
    )
    model = classifier(half, np.random.default_rng(2)).model
    for tensor in model.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT:
            tensor.CopyFrom(
                numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float16), tensor.name)
            )
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.elem_type = TensorProto.FLOAT16
    standardise(model)
    factors = factor_head(Graph(model, (5, 3, 8, 6)), "A", None)
    whole = factored(part)
    assert isinstance(factors, Factors)
    assert factors.weight is None or factors.weight.dtype == np.float32
    assert factors.bias.dtype == np.float32
    assert (factors.phi, factors.reduction) == (whole.phi, whole.reduction)
    if whole.weight is not None:
        assert_close(factors.weight, whole.weight, np.float16)


# ---------------------------------------------------------------- quantised graphs


class Readings:
    """Images to calibrate a quantiser with."""

    def __init__(self, size):
        rng = np.random.default_rng(3)
        self.rest = iter([{"images": rng.standard_normal((4, *size), np.float32)} for _ in range(4)])

    def get_next(self):
        return next(self.rest, None)


def quantised(whole, folder, per_channel):
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

    source = save(whole.model, folder / "whole.onnx")
    path = folder / "quantised.onnx"
    quantize_static(
        source,
        path,
        Readings(whole.size),
        quant_format=QuantFormat.QDQ,
        per_channel=per_channel,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
    )
    return path


@pytest.mark.parametrize("per_channel", [False, True], ids=["per-tensor", "per-channel"])
@pytest.mark.parametrize("name", ["gap-flatten-gemm", "squeezenet", "gemm-relu-gemm"])
def test_a_quantised_graph_is_cut_behind_its_dequantiser(name, per_channel, tmp_path, caplog):
    caplog.set_level(logging.ERROR)  # the quantiser advises pre-processing for every model
    whole = classifier(zoo_part(name), np.random.default_rng(4))
    path = quantised(whole, tmp_path, per_channel)
    engine = camrt.load(path)
    assert engine.target.operator == "DequantizeLinear"
    assert engine.target.shape == SHAPE
    batch = np.random.default_rng(5).standard_normal((3, *whole.size), np.float32)
    # Eight bits: a few hundredths of the largest logit.
    expected = whole.logits64(batch)
    assert np.abs(engine.predict(batch) - expected).max() < 0.1 * np.abs(expected).max()
    generic = forced_generic(path)
    for method in ("ablation", "pixab"):
        ours = engine.explain(batch, method, targets=[[0, 1]] * 3)
        theirs = generic.explain(batch, method, targets=[[0, 1]] * 3)
        # A sum that lies between two steps of a quantiser may be rounded to either: a step is 1/255.
        assert np.abs(ours.raw - theirs.raw).max() <= 0.05 * np.abs(theirs.raw).max()


def forced_generic(path):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cuts, "factor_head", lambda *_: Unfactored("asked for"))
        return camrt.load(path)


def test_the_graph_handed_in_is_not_changed():
    model = classifier(zoo_part("squeezenet-padded"), np.random.default_rng(2)).model
    standardise(model)
    before = model.SerializeToString(deterministic=True)
    assert isinstance(factor_head(Graph(model, (5, 3, 8, 6)), "A", None), Factors)
    assert model.SerializeToString(deterministic=True) == before
    assert model.graph.output[0].name == LOGITS
    onnx.checker.check_model(model)


@pytest.mark.parametrize("name", ["gap-flatten-gemm", "channels-last-mean-matmul"])
def test_places_in_a_map_are_asked_for_with_their_copies(name):
    """Places are whole numbers of 8 bytes; a transpose holds those before it and those behind it."""
    part = zoo_part(name)
    places = 8 * np.prod(SHAPE)
    with (
        within_budget(Budget(max_memory=int(2 * places - 1))),
        pytest.raises(MemoryLimitError, match="places in a map"),
    ):
        factored(part)
