"""Tensors around a cut that do not have their images in front; Gathers whose indices count images."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import numpy_helper

import camrt
from camrt.errors import CutError
from helpers.oracles.ablation import ablation_cam
from helpers.tolerances import assert_close
from helpers.zoo import Net, classifier, convolution, save, softmax

CHANNELS, CLASSES = 6, 4
SHAPE = (CHANNELS, 4, 3)
# Two layers of a head, differences of two of its scores, and a division by one.
DIFFERENCES = 64.0


def numbers(net, *values):
    return net.constant(values, np.int64)


def images(count=3):
    return np.random.default_rng(12).standard_normal((count, 3, 8, 6), np.float32)


# ---------------------------------------------------------------- what goes around a cut


def cells_first(net):
    """(cells, N, K), as torch's attention has it."""
    flat = net.add("Reshape", "trunk_linear", numbers(net, 0, CHANNELS, -1))
    return net.add("Transpose", flat, perm=[2, 0, 1]), lambda x: x.transpose(2, 0, 1)


def heads_folded(net):
    """(N·heads, cells, 3)."""
    split = net.add("Reshape", "trunk_linear", numbers(net, -1, 3, 12))
    return net.add("Transpose", split, perm=[0, 2, 1]), lambda x: x.reshape(-1, 3, 12).transpose(0, 2, 1)


def cells_and_heads(net):
    """(cells, N·heads, 3): images along the second axis, each with two numbers of it."""
    split = net.add("Reshape", "trunk_linear", numbers(net, -1, 3, 12))
    turned = net.add("Transpose", split, perm=[2, 0, 1])
    return turned, lambda x: x.reshape(-1, 3, 12).transpose(2, 0, 1)


LAYOUTS = {layout.__name__: layout for layout in (cells_first, heads_folded, cells_and_heads)}


def with_skip(layout):
    """A head that adds to A, laid out in some way, what the trunk's linear layer gave."""
    rng = np.random.default_rng(3)
    net = Net(rng)
    around, _ = layout(net)
    inner = Net(rng, net.nodes, net.initializers)
    # The same layout of A, by the same nodes.
    before = len(inner.nodes)
    own, _ = layout(inner)
    for node in inner.nodes[before:]:
        for position, name in enumerate(node.input):
            node.input[position] = "A" if name == "trunk_linear" else name
    joined = net.add("Tanh", net.add("Add", own, around))
    perms = {"cells_first": [1, 2, 0], "heads_folded": [0, 2, 1], "cells_and_heads": [1, 2, 0]}
    back = net.add("Transpose", joined, perm=perms[layout.__name__])
    rows = net.add("Reshape", back, numbers(net, -1, CHANNELS, 12))
    last, linear = net.gemm(net.add("ReduceMean", rows, axes=[2], keepdims=0), CHANNELS, CLASSES)

    def logits64(A, linear64):
        return linear(np.tanh(A + linear64).reshape(len(A), CHANNELS, -1).mean(axis=2))

    part = net.part(last, lambda A: logits64(A, A), SHAPE, CLASSES)
    return classifier(part, rng), logits64


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_what_goes_around_a_cut_stays_with_its_image(layout, tmp_path):
    whole, logits64 = with_skip(layout)
    path = save(whole.model, tmp_path / "model.onnx")
    engine = camrt.load(path, target="A", batch_size=4)
    assert engine.head.kind == "generic"
    assert not engine.target.clean
    some = images()
    activations = whole.activations64(some)
    weight, bias = whole.model.graph.initializer[0], whole.model.graph.initializer[1]
    before = convolution(
        some.astype(np.float64),
        numpy_helper.to_array(weight).astype(np.float64),
        numpy_helper.to_array(bias).astype(np.float64),
        stride=2,
        border=1,
    )
    found = engine.explain(some, "ablation", targets=1, score="logit", size="map")
    for image in range(len(some)):

        def score(at, image=image):
            return logits64(at[None], before[image : image + 1])[0]

        expected = ablation_cam(score, activations[image], 1)
        assert_close(found.raw[image], expected, np.float32, factor=DIFFERENCES)
    # one image alone, and gradients, which take all rows as they are
    alone = [engine.explain(some[i : i + 1], "gradcam", targets=1, size="map").raw[0] for i in range(3)]
    together = engine.explain(some, "gradcam", targets=1, size="map").raw
    assert_close(together, np.stack(alone), factor=DIFFERENCES)


def test_what_has_no_rows_of_images_is_refused_around_a_cut(tmp_path):
    """A mean over the batch: which number belongs to which image has no answer."""
    rng = np.random.default_rng(3)
    net = Net(rng)
    shared = net.add("ReduceMean", "trunk_linear", axes=[0], keepdims=0)
    last, linear = net.gemm(net.pooled(net.add("Tanh", net.add("Add", "A", shared))), CHANNELS, CLASSES)
    whole = classifier(net.part(last, linear, SHAPE, CLASSES), rng)
    with pytest.raises(CutError, match="which of its numbers belong to which image cannot be told"):
        camrt.load(save(whole.model, tmp_path / "model.onnx"), target="A")


# ---------------------------------------------------------------- indices that count images


def count_of(net):
    return net.add("Squeeze", net.add("Shape", "images", end=1), numbers(net, 0))


def arange(net):
    return net.add("Range", net.constant(0, np.int64), count_of(net), net.constant(1, np.int64))


def strided(net, source, rows, picks):
    """as_strided as torch.export writes it: rows of the flattened batch, n·rows + picks."""
    flat = net.add("Reshape", source, numbers(net, -1))
    starts = net.add("Mul", arange(net), net.constant(rows, np.int64))
    wide = net.add("Unsqueeze", starts, numbers(net, *range(1, picks.ndim + 1)))
    return net.add("Gather", flat, net.add("Add", wide, net.constant(picks[None], np.int64)), axis=0)


def identity_of_the_pool(net):
    picks = np.arange(CHANNELS).reshape(CHANNELS, 1, 1)
    found = strided(net, net.add("GlobalAveragePool", "A"), CHANNELS, picks)
    last, linear = net.gemm(net.add("Flatten", found), CHANNELS, CLASSES)
    return last, lambda A: linear(A.mean(axis=(2, 3)))


def transposed_map(net):
    """The map's memory read with its channels last, then pooled over what are its cells."""
    picks = np.arange(72).reshape(CHANNELS, 12).T
    found = strided(net, "A", 72, picks)
    last, linear = net.gemm(net.add("ReduceMean", found, axes=[1], keepdims=0), CHANNELS, CLASSES)
    return last, lambda A: linear(A.mean(axis=(2, 3)))


def reversed_pool(net):
    """Each channel once, in an order that no Transpose gives."""
    picks = np.arange(CHANNELS)[::-1].copy()
    found = strided(net, net.add("GlobalAveragePool", "A"), CHANNELS, picks)
    last, linear = net.gemm(found, CHANNELS, CLASSES)
    return last, lambda A: linear(A.mean(axis=(2, 3))[:, ::-1])


def first_of_each(net):
    """x[arange(N), 0]: a GatherND with the images' numbers in front."""
    flat = net.add("Reshape", "A", net.constant([0, CHANNELS, -1], np.int64))
    (name, query) = net.weight(1, CHANNELS)
    weights = net.add("Softmax", net.add("MatMul", name, flat), axis=2)
    found = net.add("MatMul", weights, net.add("Transpose", flat, perm=[0, 2, 1]))
    both = net.add("Concat", found, net.add("Tanh", found), axis=1)
    each = net.add("Unsqueeze", arange(net), numbers(net, 1))
    places = net.add("Concat", each, net.add("Mul", each, numbers(net, 0)), axis=1)
    last, linear = net.gemm(net.add("GatherND", both, places), CHANNELS, CLASSES)

    def logits64(A):
        x = A.reshape(len(A), CHANNELS, -1)
        return linear((softmax(query @ x, axis=2) @ x.transpose(0, 2, 1))[:, 0])

    return last, logits64


GATHERS = {
    "identity": (identity_of_the_pool, "pooled-linear"),
    "transposed": (transposed_map, "pooled-linear"),
    "reversed": (reversed_pool, "pooled-network"),
    "gather-nd": (first_of_each, "generic"),
}


@pytest.mark.parametrize("batch", ["N", 1, 2])
@pytest.mark.parametrize(("case", "kind"), GATHERS.values(), ids=GATHERS)
def test_indices_that_count_images_are_what_they_do_to_each(case, kind, batch, tmp_path):
    rng = np.random.default_rng(5)
    net = Net(rng)
    last, logits64 = case(net)
    part = net.part(last, logits64, SHAPE, CLASSES)
    whole = classifier(part, rng, batch=batch)
    engine = camrt.load(save(whole.model, tmp_path / "model.onnx"), target="A")
    assert engine.interface.batch is None
    assert engine.head.kind == kind
    some = images()
    assert_close(engine.predict(some), whole.logits64(some), factor=16)
    found = engine.explain(some, "ablation", targets=1, score="logit", size="map")
    for raw, activation in zip(found.raw, whole.activations64(some), strict=True):
        expected = ablation_cam(lambda at: logits64(at[None])[0], activation, 1)
        assert_close(raw, expected, np.float32, factor=DIFFERENCES)
    if kind == "pooled-linear":
        assert found.passes.head == 0
        maps = engine.explain(some, "cam", targets=1, size="map").raw
        assert_close(maps.mean(axis=(1, 2)), whole.logits64(some)[:, 1], factor=16)
    gradient = engine.explain(some, "gradcam", targets=1, size="map")
    assert np.abs(gradient.raw).max() > 0
