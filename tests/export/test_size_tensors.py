"""Heads that compute with sizes: how many images there are, and how large, where files leave it open."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import TensorProto, helper

import camrt
from helpers.oracles.ablation import ablation_cam
from helpers.oracles.gradients import numeric_gradient
from helpers.tolerances import assert_close
from helpers.zoo import Net, classifier, relu, save, softmax

CHANNELS, CLASSES = 6, 4
SHAPE = (CHANNELS, 4, 3)
# A head of several layers, differences of two of its scores, and a division by one.
DIFFERENCES = 64.0


def size(net, source, axis):
    """One size of a tensor, [1]."""
    return net.add("Gather", net.add("Shape", source), net.constant([axis], np.int64), axis=0)


def numbers(net, *values):
    return net.constant(values, np.int64)


def scalar(net, source):
    return net.add("Squeeze", source, numbers(net, 0))


def pooled_rows(net):
    """(N, 10, 1, 1) behind a pool, a first layer and a ReLU."""
    layer, layer64 = net.conv1x1(net.add("GlobalAveragePool", "A"), CHANNELS, 10)
    return net.add("Relu", layer), lambda A: relu(layer64(A.mean(axis=(2, 3), keepdims=True)))[:, :, 0, 0]


def view_behind_the_pool(net):
    """z.view(z.size(0), -1)."""
    rows, rows64 = pooled_rows(net)
    flat = net.add("Reshape", rows, net.add("Concat", size(net, rows, 0), numbers(net, -1), axis=0))
    last, linear = net.gemm(flat, 10, CLASSES)
    return last, lambda A, _: linear(rows64(A))


def layers_behind_the_pool(net):
    """A convolution that needs the axes of size one, and then z.view(z.size(0), -1)."""
    rows, rows64 = pooled_rows(net)
    layer, layer64 = net.conv1x1(rows, 10, CLASSES)
    flat = net.add("Reshape", layer, net.add("Concat", size(net, layer, 0), numbers(net, -1), axis=0))
    return flat, lambda A, _: layer64(rows64(A)[:, :, None, None])[:, :, 0, 0]


def shuffle_behind_the_pool(net):
    """Channels of two groups interleaved."""
    rows, rows64 = pooled_rows(net)
    count = size(net, rows, 0)
    apart = net.add("Reshape", rows, net.add("Concat", count, numbers(net, 2, 5), axis=0))
    turned = net.add("Transpose", apart, perm=[0, 2, 1])
    flat = net.add("Reshape", turned, net.add("Concat", count, numbers(net, -1), axis=0))
    last, linear = net.gemm(flat, 10, CLASSES)
    return last, lambda A, _: linear(rows64(A).reshape(-1, 2, 5).transpose(0, 2, 1).reshape(-1, 10))


def squeeze_in_a_branch(net):
    """TorchScript's squeeze(2) and squeeze(2): an If on a size that is one."""
    rows, rows64 = pooled_rows(net)
    current = rows
    for _ in range(2):
        one = net.add("Equal", scalar(net, size(net, current, 2)), net.constant(1, np.int64))
        made = f"branch_{len(net.nodes)}"
        axes = numbers(net, 2)
        branches = [
            helper.make_graph(
                [node], name, [], [helper.make_tensor_value_info(made, TensorProto.FLOAT, None)]
            )
            for name, node in {
                "then": helper.make_node("Squeeze", [current, axes], [made]),
                "else": helper.make_node("Identity", [current], [made]),
            }.items()
        ]
        current = net.add("If", one, then_branch=branches[0], else_branch=branches[1])
    last, linear = net.gemm(current, 10, CLASSES)
    return last, lambda A, _: linear(rows64(A))


def mean_by_counting(net):
    """A sum over the cells, divided by how many there are."""
    count = net.add("Mul", size(net, "A", 2), size(net, "A", 3))
    total = net.add("ReduceSum", "A", numbers(net, 2, 3), keepdims=0)
    average = net.add("Div", total, net.add("Cast", count, to=TensorProto.FLOAT))
    last, linear = net.gemm(average, CHANNELS, CLASSES)
    return last, lambda A, _: linear(A.mean(axis=(2, 3)))


def cells_of_images(net):
    """(h, w) of the map by arithmetic on the images' size, as torch.export writes it; [1] each."""
    half = [net.add("Div", size(net, "images", axis), numbers(net, 2)) for axis in (2, 3)]
    return half, size(net, "images", 0)


def gated_pooling(net):
    """Attention over cells: softmax(w·(tanh(Vx) ⊙ sigmoid(Ux))), as in attention-based MIL."""
    (rows, columns), count = cells_of_images(net)
    cells = net.add("Mul", rows, columns)
    flat = net.add("Reshape", "A", net.add("Concat", count, numbers(net, CHANNELS), cells, axis=0))
    tokens = net.add("Transpose", flat, perm=[0, 2, 1])
    (v_name, v), (u_name, u), (w_name, w) = (
        net.weight(CHANNELS, 5), net.weight(CHANNELS, 5), net.weight(5, 1)
    )  # fmt: skip
    gate = net.add(
        "Mul",
        net.add("Tanh", net.add("MatMul", tokens, v_name)),
        net.add("Sigmoid", net.add("MatMul", tokens, u_name)),
    )
    weights = net.add("Softmax", net.add("MatMul", gate, w_name), axis=1)
    turned = net.add("Reshape", weights, net.add("Concat", count, numbers(net, 1), cells, axis=0))
    bag = net.add("MatMul", turned, tokens)
    rowed = net.add("Reshape", bag, net.add("Concat", count, numbers(net, CHANNELS), axis=0))
    last, linear = net.gemm(rowed, CHANNELS, CLASSES)

    def logits64(A, _):
        x = A.reshape(len(A), CHANNELS, -1).transpose(0, 2, 1)
        weights = softmax((np.tanh(x @ v) / (1 + np.exp(-x @ u))) @ w, axis=1)
        return linear((weights * x).sum(axis=1))

    return last, logits64


def netvlad(net):
    """Residuals to centroids, softly assigned; the centroids are expanded to the cells."""
    clusters = 3
    (rows, columns), count = cells_of_images(net)
    cells = net.add("Mul", rows, columns)
    assigned, assign64 = net.conv1x1("A", CHANNELS, clusters)
    shape = net.add("Concat", count, numbers(net, clusters), cells, axis=0)
    weights = net.add("Softmax", net.add("Reshape", assigned, shape), axis=1)
    flat = net.add("Reshape", "A", net.add("Concat", count, numbers(net, 1, CHANNELS), cells, axis=0))
    name, centroids = net.weight(clusters, CHANNELS, 1)
    wide = net.add("Expand", name, net.add("Concat", numbers(net, clusters, CHANNELS), cells, axis=0))
    residuals = net.add("Mul", net.add("Sub", flat, wide), net.add("Unsqueeze", weights, numbers(net, 2)))
    vlad = net.add("ReduceSum", residuals, numbers(net, 3), keepdims=0)
    length = net.add("ReduceL2", vlad, axes=[2], keepdims=1)
    unit = net.add("Div", vlad, length)
    row = net.add("Reshape", unit, net.add("Concat", count, numbers(net, -1), axis=0))
    last, linear = net.gemm(row, clusters * CHANNELS, CLASSES)

    def logits64(A, _):
        weights = softmax(assign64(A).reshape(len(A), clusters, -1), axis=1)
        x = A.reshape(len(A), 1, CHANNELS, -1)
        vlad = ((x - centroids) * weights[:, :, None]).sum(axis=3)
        unit = vlad / np.sqrt((vlad**2).sum(axis=2, keepdims=True))
        return linear(unit.reshape(len(A), -1))

    return last, logits64


def soft_coordinates(net):
    """Where each channel is, by a softmax over its cells: rows and columns are counted by Range."""
    flat = net.add("Reshape", "A", net.constant([0, 0, -1], np.int64))
    places = net.add("Reshape", net.add("Softmax", flat, axis=2), net.add("Shape", "A"))
    means = []
    for axis, source in ((2, size(net, "A", 2)), (3, cells_of_images(net)[0][1])):
        ends = [net.constant(0, np.int64), scalar(net, source), net.constant(1, np.int64)]
        steps = net.add("Cast", net.add("Range", *ends), to=TensorProto.FLOAT)
        part = net.add("Unsqueeze", steps, numbers(net, *([1] if axis == 2 else [0])))
        means.append(net.add("ReduceSum", net.add("Mul", places, part), numbers(net, 2, 3), keepdims=0))
    last, linear = net.gemm(net.add("Concat", *means, axis=1), 2 * CHANNELS, CLASSES)

    def logits64(A, _):
        p = softmax(A.reshape(*A.shape[:2], -1), axis=2).reshape(A.shape)
        rows, columns = (np.arange(count) for count in A.shape[2:])
        return linear(
            np.concatenate([(p * rows[:, None]).sum(axis=(2, 3)), (p * columns).sum(axis=(2, 3))], axis=1)
        )

    return last, logits64


def expanded_query(net):
    """Learned queries, one set for all images, expanded to the batch."""
    name, query = net.weight(1, 2, CHANNELS)
    count = size(net, "images", 0)
    queries = net.add("Expand", name, net.add("Concat", count, numbers(net, 1, 1), axis=0))
    return attended(net, queries, np.repeat(query, 1, axis=0))


def tiled_query(net):
    """The same, repeated by Tile, as x.repeat(n, 1, 1) is written."""
    name, query = net.weight(1, 2, CHANNELS)
    count = size(net, "A", 0)
    return attended(net, net.add("Tile", name, net.add("Concat", count, numbers(net, 1, 1), axis=0)), query)


def attended(net, queries, query):
    keys = net.add("Reshape", "A", net.constant([0, 0, -1], np.int64))
    weights = net.add("Softmax", net.add("MatMul", queries, keys), axis=2)
    found = net.add("MatMul", weights, net.add("Transpose", keys, perm=[0, 2, 1]))
    row = net.add("Reshape", found, net.add("Concat", size(net, found, 0), numbers(net, -1), axis=0))
    last, linear = net.gemm(row, 2 * CHANNELS, CLASSES)

    def logits64(A, _):
        x = A.reshape(len(A), CHANNELS, -1)
        return linear((softmax(query @ x, axis=2) @ x.transpose(0, 2, 1)).reshape(len(A), -1))

    return last, logits64


def cells_and_pixels(net):
    """A sum over cells over how many pixels an image has: a size that no tensor of the head has."""
    pixels = net.add("Mul", size(net, "images", 2), size(net, "images", 3))
    total = net.add("ReduceSum", net.add("Tanh", "A"), numbers(net, 2, 3), keepdims=0)
    average = net.add("Div", total, net.add("Cast", pixels, to=TensorProto.FLOAT))
    last, linear = net.gemm(average, CHANNELS, CLASSES)
    return last, lambda A, pixels: linear(np.tanh(A).sum(axis=(2, 3)) / pixels)


def pooled_in_one_row(net):
    """A mean over cells that were put in a row, by the images' size: sizes go around a factored head."""
    (rows, columns), count = cells_of_images(net)
    shape = net.add("Concat", count, numbers(net, CHANNELS), net.add("Mul", rows, columns), axis=0)
    flat = net.add("Reshape", net.add("Tanh", "A"), shape)
    last, linear = net.gemm(net.add("ReduceMean", flat, axes=[2], keepdims=0), CHANNELS, CLASSES)
    return last, lambda A, _: linear(np.tanh(A).mean(axis=(2, 3)))


CASES = {
    case.__name__: case
    for case in (
        view_behind_the_pool,
        layers_behind_the_pool, shuffle_behind_the_pool, squeeze_in_a_branch, mean_by_counting, gated_pooling,
        netvlad, soft_coordinates, expanded_query, tiled_query, cells_and_pixels,
        pooled_in_one_row,
    )
}  # fmt: skip


def made(case, declared):
    """A file whose head is that case, and its logits in float64 by activation and pixels of an image."""
    rng = np.random.default_rng(11)
    net = Net(rng)
    last, logits64 = case(net)
    part = net.part(last, lambda A: logits64(A, 4 * A.shape[2] * A.shape[3]), SHAPE, CLASSES)
    return classifier(part, rng, size=declared), part


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_a_head_that_reads_sizes(case, tmp_path):
    """Open size: logits, maps and gradients are the definition's, and those of the file of fixed size."""
    whole, part = made(case, ("H", "W"))
    engine = camrt.load(
        save(whole.model, tmp_path / "open.onnx"),
        target="A",
        preprocessing=camrt.Preprocessing(size=(16, 12)),
    )
    assert (engine.interface.batch, engine.interface.height) == (None, None)
    assert engine.target.clean
    for height, width in ((8, 6), (12, 10)):
        some = np.random.default_rng(12).standard_normal((3, 3, height, width), np.float32)
        activations = whole.activations64(some)
        assert_close(engine.predict(some), whole.logits64(some), factor=16)

        def score(activation):
            return part.logits64(activation[None])[0]

        expected = [ablation_cam(score, activation, 2) for activation in activations]
        found = engine.explain(some, "ablation", targets=2, score="logit", size="map")
        assert_close(found.raw, expected, np.float32, factor=DIFFERENCES)
        gradients = [numeric_gradient(lambda at: score(at)[2], activation) for activation in activations]
        found = engine.explain(some, "hirescam", targets=2, size="map")
        assert_close(found.raw, (gradients * activations).sum(axis=1), np.float32, factor=DIFFERENCES)
        fixed = camrt.load(save(made(case, (height, width))[0].model, tmp_path / "fixed.onnx"), target="A")
        ours, theirs = (one.explain(some, "pixab", targets=2, size="map") for one in (engine, fixed))
        assert_close(ours.raw, theirs.raw, factor=DIFFERENCES)
