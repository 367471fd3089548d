"""Opening a fixed batch axis, keeping one that cannot be opened, and images of any size."""

from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

import camrt
from camrt.export.graph.index import Graph
from camrt.export.graph.size_tensors import BATCH
from camrt.export.rewrites.batch_axis import has_shape_nodes, share_sizes, simplify_reshapes
from helpers.tolerances import assert_close
from helpers.zoo import HEADS, Net, classifier, model_of, save

FLOAT = TensorProto.FLOAT
SHAPE = (6, 4, 3)
CLASSES = 5
WHOLE_MODEL = 8.0
METHODS = ("ablation", "pixab")


def zoo_model(name, **options):
    rng = np.random.default_rng(3)
    return classifier(HEADS[name].make(rng, *SHAPE, CLASSES), rng, **options)


def images(whole, count=7):
    return np.random.default_rng(4).standard_normal((count, *whole.size), np.float32)


def flattening(flat_shape, batch, **attributes):
    """A pool, a Reshape to a constant, a linear layer."""
    rng = np.random.default_rng(5)
    net = Net(rng)
    flat = net.add(
        "Reshape", net.add("GlobalAveragePool", "A"), net.constant(flat_shape, np.int64), **attributes
    )
    last, linear = net.gemm(flat, SHAPE[0], CLASSES)
    part = net.part(last, lambda A: linear(A.mean(axis=(2, 3))), SHAPE, CLASSES)
    return classifier(part, rng, batch=batch)


def run_fixed(path, batch, size):
    """The file itself, run piece by piece."""
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    count = -len(batch) % size
    padded = np.concatenate([batch, np.repeat(batch[-1:], count, axis=0)])
    pieces = [session.run(None, {"images": padded[i : i + size]})[0] for i in range(0, len(padded), size)]
    return np.concatenate(pieces)[: len(batch)]


# ---------------------------------------------------------------- opened


@pytest.mark.parametrize("allowzero", [0, 1])
@pytest.mark.parametrize(
    ("batch", "flat_shape"),
    [(1, [1, -1]), (1, [1, 6]), (4, [4, -1]), (4, [4, 6]), (4, [-1, 6]), (1, [-1, 6]), (4, [4, 6, 1, 1])],
    ids=str,
)
def test_a_batch_size_baked_into_a_reshape_is_opened(batch, flat_shape, allowzero, tmp_path):
    if len(flat_shape) == 4:
        whole = zoo_model("convolution-after-the-pool", batch=batch)
        whole.model.graph.node.insert(
            2, helper.make_node("Reshape", ["A", "same"], ["same_A"], allowzero=allowzero)
        )
        whole.model.graph.node[3].input[0] = "same_A"
        whole.model.graph.initializer.append(numpy_helper.from_array(np.array([batch, *SHAPE]), "same"))
    else:
        whole = flattening(flat_shape, batch, allowzero=allowzero)
    path = save(whole.model, tmp_path / "model.onnx")
    engine = camrt.load(path)
    assert engine.interface.batch is None
    assert engine.notes == (f"the batch axis, fixed at {batch} in the file, was opened",)
    assert engine.head.kind == "pooled-linear"
    batch7 = images(whole)
    assert_close(engine.predict(batch7), whole.logits64(batch7), factor=WHOLE_MODEL)
    assert_close(engine.predict(batch7), run_fixed(path, batch7, batch), factor=WHOLE_MODEL)


@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize("name", ["gap-flatten-gemm", "gemm-relu-gemm", "shape-gather-concat-reshape"])
def test_a_fixed_batch_axis_alone_is_opened(name, batch, tmp_path):
    whole = zoo_model(name, batch=batch)
    engine = camrt.load(save(whole.model, tmp_path / "model.onnx"))
    assert engine.interface.batch is None
    assert engine.head.kind == HEADS[name].kind
    assert_close(engine.predict(images(whole)), whole.logits64(images(whole)), factor=WHOLE_MODEL)


def test_computed_shapes_are_taken_out_and_shuffled_channels_followed(tmp_path):
    """x.view(x.size(0), 2, K // 2, h, w), transposed and back, twice: a permutation of channels."""
    rng = np.random.default_rng(6)
    net = Net(rng)

    def shuffled(source):
        count = net.add("Gather", net.add("Shape", source), net.constant([0], np.int64), axis=0)
        folded = net.add("Concat", count, net.constant([2, 3, 4, 3], np.int64), axis=0)
        turned = net.add("Transpose", net.add("Reshape", source, folded), perm=[0, 2, 1, 3, 4])
        unfolded = net.add("Concat", count, net.constant([6, -1, 3], np.int64), axis=0)
        return net.add("Reshape", turned, unfolded)

    last, linear = net.gemm(net.pooled(shuffled(shuffled("A"))), 6, CLASSES)

    def shuffled64(A):
        return A.reshape(-1, 2, 3, 4, 3).transpose(0, 2, 1, 3, 4).reshape(-1, 6, 4, 3)

    part = net.part(last, lambda A: linear(shuffled64(shuffled64(A)).mean(axis=(2, 3))), SHAPE, CLASSES)
    whole = classifier(part, rng)
    engine = camrt.load(save(whole.model, tmp_path / "model.onnx"), target="A")
    assert engine.head.kind == "pooled-linear"
    some = images(whole)
    assert_close(engine.predict(some), whole.logits64(some), factor=WHOLE_MODEL)
    maps = engine.explain(some, "cam", targets=1).raw
    assert_close(maps.mean(axis=(1, 2)), whole.logits64(some)[:, 1], factor=WHOLE_MODEL)


def test_simplified_reshapes_leave_no_shape_behind():
    whole = zoo_model("shape-gather-concat-reshape")
    model = whole.model
    model.graph.node.append(helper.make_node("Identity", ["logits"], ["camrt_logits"]))
    model.graph.output[0].name = "camrt_logits"
    assert has_shape_nodes(model)
    simplify_reshapes(model, Graph(model, (5, *whole.size)))
    assert not has_shape_nodes(model)
    assert "Gather" not in {node.op_type for node in model.graph.node}


# ---------------------------------------------------------------- kept fixed


def with_class_token(batch, *, computed):
    """Cells as tokens, a class token in front, a mean over tokens and a linear layer.

    The token is expanded to a constant batch size, or to one computed from the images' shape.
    """
    rng = np.random.default_rng(7)
    net = Net(rng)
    channels, height, width = SHAPE
    token_name, token = net.weight(1, 1, channels)
    rows = net.add("Reshape", "A", net.constant([0, channels, -1], np.int64))
    tokens = net.add("Transpose", rows, perm=[0, 2, 1])
    if computed:
        count = net.add("Gather", net.add("Shape", "images"), net.constant([0], np.int64), axis=0)
        shape = net.add("Concat", count, net.constant([1, channels], np.int64), axis=0)
    else:
        shape = net.constant([batch, 1, channels], np.int64)
    joined = net.add("Concat", net.add("Expand", token_name, shape), tokens, axis=1)
    bent = net.add("Tanh", joined)
    last, linear = net.gemm(net.add("ReduceMean", bent, axes=[1], keepdims=0), channels, CLASSES)

    def logits64(A):
        cells = A.reshape(len(A), channels, -1).transpose(0, 2, 1)
        first = np.repeat(token, len(A), axis=0)
        return linear(np.tanh(np.concatenate([first, cells], axis=1)).mean(axis=1))

    part = net.part(last, logits64, (channels, height, width), CLASSES)
    return classifier(part, rng, batch=batch)


@pytest.mark.parametrize("batch", [1, 4])
def test_a_batch_size_baked_into_an_expand_is_kept_and_batches_are_padded(batch, tmp_path):
    whole = with_class_token(batch, computed=False)
    path = save(whole.model, tmp_path / "model.onnx")
    engine = camrt.load(path, batch_size=5)
    assert engine.interface.batch == batch
    assert engine.notes == (f"the batch axis is fixed at {batch} and could not be opened",)
    assert f"fixed at {batch}" in engine.describe()
    for count in (1, 3, 7):
        some = images(whole, count)
        assert_close(engine.predict(some), whole.logits64(some), factor=WHOLE_MODEL)
        assert_close(engine.predict(some), run_fixed(path, some, batch), factor=WHOLE_MODEL)
    opened = camrt.load(
        save(with_class_token("N", computed=True).model, tmp_path / "open.onnx"), batch_size=5
    )
    some = images(whole, 3)
    for method in METHODS:
        fixed_answer = engine.explain(some, method, targets=[[0, 1]] * 3)
        open_answer = opened.explain(some, method, targets=[[0, 1]] * 3)
        assert_close(fixed_answer.raw, open_answer.raw, factor=4 * WHOLE_MODEL)  # small differences of scores


def test_a_batch_size_computed_in_front_of_the_cut_does_not_cross_it(tmp_path):
    whole = with_class_token("N", computed=True)
    engine = camrt.load(save(whole.model, tmp_path / "model.onnx"), target="A")
    assert engine.interface.batch is None
    assert engine.target.name == "A"
    assert engine.head.kind == "generic"
    assert_close(engine.predict(images(whole)), whole.logits64(images(whole)), factor=WHOLE_MODEL)
    activations = whole.activations64(images(whole, 1))[0]
    without = np.repeat(activations[None], len(activations), axis=0)
    without[np.arange(len(activations)), np.arange(len(activations))] = 0
    explanation = engine.explain(images(whole, 1), "ablation", targets=2, score="logit")
    logit = whole.logits64(images(whole, 1))[0, 2]
    # logits64 of the part alone: the trunk is undone by giving the activation itself
    weights = (logit - with_class_token_head(without)[:, 2]) / abs(logit)
    expected = np.einsum("k,kij->ij", weights, activations)
    assert_close(explanation.raw[0], expected, factor=16 * WHOLE_MODEL)  # differences divided by the logit


def with_class_token_head(activations):
    rng = np.random.default_rng(7)
    token = rng.standard_normal((1, 1, SHAPE[0])).astype(np.float32).astype(np.float64)
    weight = (rng.standard_normal((CLASSES, SHAPE[0])) / np.sqrt(SHAPE[0])).astype(np.float32)
    bias = rng.standard_normal(CLASSES).astype(np.float32)
    cells = activations.reshape(len(activations), SHAPE[0], -1).transpose(0, 2, 1)
    joined = np.concatenate([np.repeat(token, len(cells), axis=0), cells], axis=1)
    return np.tanh(joined).mean(axis=1) @ weight.T.astype(np.float64) + bias


def test_an_open_batch_axis_over_an_inside_for_one_image(tmp_path):
    """The Reshape says 1, and is opened; what says 1 elsewhere is kept and noted."""
    whole = flattening([1, -1], "N")
    engine = camrt.load(save(whole.model, tmp_path / "model.onnx"))
    assert engine.interface.batch is None
    assert engine.notes[0].startswith("the file declares an open batch axis, but its inside holds for one")
    assert_close(engine.predict(images(whole)), whole.logits64(images(whole)), factor=WHOLE_MODEL)

    kept = with_class_token(1, computed=False)
    kept.model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "N"
    engine = camrt.load(save(kept.model, tmp_path / "kept.onnx"))
    assert engine.interface.batch == 1
    assert len(engine.notes) == 2
    assert_close(engine.predict(images(kept)), kept.logits64(images(kept)), factor=WHOLE_MODEL)


def test_a_shape_of_part_of_the_axes_is_fixed():
    """Shape with start and end (opset 15): the batch axis in it, or not."""
    nodes = [
        helper.make_node("Shape", ["camrt_images"], ["all"]),
        helper.make_node("Shape", ["camrt_images"], ["first"], end=1),
        helper.make_node("Shape", ["camrt_images"], ["last"], start=-2),
        helper.make_node("Concat", ["all", "first", "last"], ["sizes"], axis=0),
        helper.make_node("Cast", ["sizes"], ["row"], to=FLOAT),
        helper.make_node("Reshape", ["row", "wide"], ["many"]),
        helper.make_node("ReduceMean", ["camrt_images"], ["mean"], axes=[1, 2, 3], keepdims=0),
        helper.make_node("Reshape", ["mean", "tall"], ["column"]),
        helper.make_node("Add", ["column", "many"], ["camrt_logits"]),
    ]
    tensors = [
        numpy_helper.from_array(np.array(value), name)
        for name, value in {"wide": [1, -1], "tall": [-1, 1]}.items()
    ]
    model = model_of(nodes, tensors, ["N", 3, 8, 6], ["N", 7], source="camrt_images", end="camrt_logits")

    def answer():
        session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        return session.run(None, {"camrt_images": np.ones((4, 3, 8, 6), np.float32)})[0]

    before = answer()
    share_sizes(model, [Graph(model, (5, 3, 8, 6)), Graph(model, (7, 3, 8, 6))], fixed_size=True)
    np.testing.assert_array_equal(answer(), before)
    np.testing.assert_array_equal(answer()[0] - 1, [4, 3, 8, 6, 4, 8, 6])
    assert [node.op_type for node in model.graph.node].count("Shape") == 1
    assert BATCH not in Graph(model, (5, 3, 8, 6)).dependent


# ---------------------------------------------------------------- images of any size


@pytest.mark.parametrize(
    "name", [name for name, case in HEADS.items() if case.any_size and case.name != "sum-over-rows-of-means"]
)
def test_a_model_of_open_image_size_answers_at_every_size(name, tmp_path):
    whole = zoo_model(name, size=("H", "W"))
    engine = camrt.load(save(whole.model, tmp_path / "model.onnx"), target="A", preprocessing=size_of(16, 10))
    assert (engine.interface.height, engine.interface.width) == (None, None)
    assert engine.head.kind == HEADS[name].kind
    for height, width in ((16, 10), (8, 14)):
        some = np.random.default_rng(8).standard_normal((2, 3, height, width), np.float32)
        assert_close(engine.predict(some), whole.logits64(some), factor=WHOLE_MODEL)
        fixed = camrt.load(
            save(zoo_model(name, size=(height, width)).model, tmp_path / f"{height}x{width}.onnx"),
            target="A",
        )
        for method in METHODS:
            ours = engine.explain(some, method, targets=[[0, 1]] * 2)
            theirs = fixed.explain(some, method, targets=[[0, 1]] * 2)
            assert ours.maps.shape == (2, 2, height, width)
            assert_close(ours.raw, theirs.raw, factor=4 * WHOLE_MODEL)  # small differences of scores


def size_of(height, width):
    return camrt.Preprocessing(size=(height, width))


def test_sizes_below_one_cell_still_give_one_map(tmp_path):
    whole = zoo_model("gap-flatten-gemm", size=("H", "W"))
    engine = camrt.load(save(whole.model, tmp_path / "model.onnx"))
    tiny = np.random.default_rng(9).standard_normal((1, 3, 2, 1), np.float32)
    explanation = engine.explain(tiny, "cam", targets=0)
    assert explanation.raw.shape == (1, 1, 1)
    assert_close(explanation.raw.reshape(1), whole.logits64(tiny)[:, 0], factor=WHOLE_MODEL)


def test_the_model_given_is_not_what_is_changed(tmp_path):
    """Loading rewrites a copy: the file stays as it was."""
    path = save(flattening([1, -1], 1).model, tmp_path / "model.onnx")
    before = path.read_bytes()
    camrt.load(path)
    assert path.read_bytes() == before
    onnx.checker.check_model(onnx.load(path))
