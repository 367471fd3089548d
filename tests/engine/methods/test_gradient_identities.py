"""What must hold of the Grad-CAM family whatever the network: closed forms, dead zones, symmetries.

The masked one-layer network is that of "CAM-Based Methods Can See through Walls": a convolution, ReLU, 2×2
max-pooling and layers without biases, the first of which does not read the lower half of the pooled map.
"""

from __future__ import annotations

from itertools import pairwise
from math import comb, gamma, pi, sqrt

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

import camrt
from camrt.engine.methods import make_method
from camrt.engine.methods.gradients import GradCAM
from helpers.oracles.classifiers import classifier
from helpers.oracles.gradients import METHODS
from helpers.tolerances import assert_close

GLOBAL = ("gradcam", "gradcam++", "xgradcam")
LOCAL = ("hirescam", "layercam")
FILTERS, CLASSES, SIDE = 5, 3, 8


class Masked:
    """The masked network on 9×9 images, its map 8×8, in float64 and as a graph."""

    def __init__(self, depth):
        draw = np.random.default_rng(depth)
        self.filters = draw.normal(size=(FILTERS, 2, 2)).astype(np.float32).astype(np.float64)
        sizes = [*[FILTERS * 16, 7, 6][:depth], CLASSES]
        self.layers = [
            draw.normal(size=(b, a)).astype(np.float32).astype(np.float64) for a, b in pairwise(sizes)
        ]
        self.layers[0].reshape(-1, FILTERS, 4, 4)[:, :, 2:] = 0

    def activation(self, image):
        windows = np.lib.stride_tricks.sliding_window_view(image[0].astype(np.float64), (2, 2))
        return np.maximum(np.einsum("ijab,vab->vij", windows, self.filters), 0)

    def slopes(self, image):
        """J (CLASSES, FILTERS, 4, 4): what the logits gain for each entry of the pooled map."""
        pooled = self.activation(image).reshape(FILTERS, 4, 2, 4, 2).max(axis=(2, 4))
        product = self.layers[0]
        for layer in self.layers[1:]:
            passing = product @ pooled.reshape(-1) > 0
            product = layer @ (passing[:, None] * product)
        return product.reshape(CLASSES, FILTERS, 4, 4)

    def load(self, folder):
        nodes = [
            helper.make_node("Conv", ["images", "filters"], ["raw"]),
            helper.make_node("Relu", ["raw"], ["activation"]),
            helper.make_node("MaxPool", ["activation"], ["pooled"], kernel_shape=[2, 2], strides=[2, 2]),
            helper.make_node("Flatten", ["pooled"], ["vector0"]),
        ]
        weights = [numpy_helper.from_array(self.filters[:, None].astype(np.float32), "filters")]
        for number, layer in enumerate(self.layers):
            last = number == len(self.layers) - 1
            weights.append(numpy_helper.from_array(layer.astype(np.float32), f"weight{number}"))
            made = "logits" if last else f"sum{number}"
            nodes.append(helper.make_node("Gemm", [f"vector{number}", f"weight{number}"], [made], transB=1))
            if not last:
                nodes.append(helper.make_node("Relu", [made], [f"vector{number + 1}"]))
        graph = helper.make_graph(
            nodes,
            "masked",
            [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["N", 1, 9, 9])],
            [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", CLASSES])],
            weights,
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
        model.ir_version = 8
        path = folder / "masked.onnx"
        path.write_bytes(model.SerializeToString())
        return camrt.load(path, target="activation", threads=1)


@pytest.fixture(params=[1, 2, 3], ids="{0} layers".format)
def masked(request, tmp_path):
    network = Masked(request.param)
    images = np.random.default_rng(20).normal(size=(4, 1, 9, 9)).astype(np.float32)
    return network, network.load(tmp_path), images


def every_class(engine, images, name, **options):
    return engine.explain(images, name, targets=[list(range(CLASSES))] * len(images), **options)


def test_closed_form_of_a_one_layer_network(masked):
    """Each pooling cell hands its gradient to one winner, so α_v = Σ J_v/(hw) without any derivative."""
    network, engine, images = masked
    expected = [
        np.einsum("cv,vij->cij", network.slopes(x).sum(axis=(2, 3)) / SIDE**2, network.activation(x))
        for x in images
    ]
    assert np.abs(expected).max() > 0.1
    assert_close(every_class(engine, images, "gradcam").raw, expected, factor=4)


def test_completeness_through_max_pooling(masked):
    _, engine, images = masked
    for name in ("hirescam", "xgradcam"):
        found = every_class(engine, images, name)
        assert_close(found.raw.sum(axis=(2, 3)), found.scores, factor=8)  # sums over 64 cells and 5 channels


@pytest.mark.parametrize("score", ["logit", "probability"])
def test_what_is_never_read_gets_nothing_of_the_elementwise_methods(masked, score):
    """Rows 4 to 7 of the map are not read; the others' weights are global and shine there all the same."""
    _, engine, images = masked
    for name in LOCAL:
        raw = every_class(engine, images, name, score=score).raw
        assert not raw[:, :, 4:].any()
        assert raw[:, :, :4].any()
    for name in GLOBAL:
        assert (every_class(engine, images, name, score=score).raw[:, :, 4:] > 0).any()


def test_what_is_never_seen_changes_no_gradient(masked):
    """Pixel rows 5 to 8 lie under unread rows alone."""
    _, engine, images = masked
    altered = images.copy()
    altered[:, :, 5:] = np.random.default_rng(21).normal(size=altered[:, :, 5:].shape)
    for name in LOCAL:
        before, after = (every_class(engine, x, name) for x in (images, altered))
        assert np.array_equal(before.scores, after.scores)
        assert np.array_equal(before.raw, after.raw)
    before, after = (every_class(engine, x, "gradcam").raw for x in (images, altered))
    assert np.array_equal(before[:, :, :4], after[:, :, :4])
    assert (before[:, :, 4:] != after[:, :, 4:]).any()


@pytest.mark.parametrize("head", ["flattened-linear", "flattened-network"])
def test_masked_flattened_heads(tmp_path, head):
    small = classifier(head, cells=(4, 3), trunk="keep")
    first = "weight" if head == "flattened-linear" else "hidden"
    for tensor in small.model.graph.initializer:
        if tensor.name == first:
            values = numpy_helper.to_array(tensor).copy()
            values.reshape(len(values), 3, 4, 3)[:, :, 2:] = 0
            tensor.CopyFrom(numpy_helper.from_array(values, first))
    engine = camrt.load(small.save(tmp_path), target="activation", threads=1)
    images = np.random.default_rng(22).random((3, *small.image), np.float32)
    for name in LOCAL:
        raw = every_class(engine, images, name).raw
        assert not raw[:, :, 2:].any()
        assert raw[:, :, :2].any()
    for name in GLOBAL:
        assert every_class(engine, images, name).raw[:, :, 2:].any()


def test_expected_grad_cam_of_random_networks():
    """Theorem 3: every place of the map is lit in proportion to its patch, read or not.

    Filters and the upper half of one layer's weights are standard normal. Given the filters Σ_v α_v·B_v is
    a centred Gaussian, whence E relu = ‖P‖·c_V/(2·√π·k'²·√(h'w')), c_V the expected norm of V rectified
    standard normals. For V > 20 Chebyshev's inequality bounds it from below.
    """
    count, draws, batches = 32, 400, 10
    rng = np.random.default_rng(23)
    image = rng.normal(size=(9, 9))
    image[6:, 5:] = 0
    windows = np.lib.stride_tricks.sliding_window_view(image, (2, 2))
    maps = []
    for _ in range(batches):
        activation = np.maximum(
            np.einsum("ijab,nvab->nvij", windows, rng.normal(size=(draws, count, 2, 2))), 0
        )
        weights = rng.normal(size=(draws, count, 4, 4))
        weights[:, :, 2:] = 0
        cells = activation.reshape(draws, count, 4, 2, 4, 2).swapaxes(3, 4).reshape(draws, count, 4, 4, 4)
        winner = np.eye(4)[cells.argmax(axis=4)] * weights[..., None]
        gradient = winner.reshape(draws, count, 4, 4, 2, 2).swapaxes(3, 4).reshape(activation.shape)
        maps.append(np.maximum(GradCAM().map(gradient, activation), 0))
    maps = np.concatenate(maps)
    patches = np.sqrt((windows**2).sum(axis=(2, 3)))
    norm = sum(
        comb(count, m) / 2**count * sqrt(2) * gamma((m + 1) / 2) / gamma(m / 2) for m in range(1, count + 1)
    )
    exact = patches * norm / (2 * sqrt(pi) * 4 * 4)
    found, error = maps.mean(axis=0), maps.std(axis=0) / sqrt(len(maps))
    assert error.max() < 0.03 * exact.max()
    assert (np.abs(found - exact) <= 3 * error).all()
    assert (found >= patches * sqrt(count) * (1 - 20 / count) / (4 * sqrt(pi) * 4 * 4)).all()
    assert (found[4:][patches[4:] > 0] > 0).all()
    assert (patches == 0).any()
    assert not found[patches == 0].any()


@st.composite
def gradients_and_activations(draw):
    """Gradients of both signs, some one number a channel, and activations >= 0; zeros and ties are common."""
    count, channels, height, width = (draw(st.integers(1, most)) for most in (2, 4, 4, 4))
    size = count * channels * height * width
    eighths = draw(st.lists(st.integers(-32, 32), min_size=size, max_size=size))
    gradient = np.array(eighths, np.float32).reshape(count, channels, height, width) / 8
    if draw(st.booleans()):
        gradient = np.broadcast_to(gradient[:, :, :1, :1], gradient.shape)
    eighths = draw(st.lists(st.integers(0, 24), min_size=size, max_size=size))
    return gradient, np.array(eighths, np.float32).reshape(gradient.shape) / 8


def assert_sums_close(actual, expected, activation):
    """Closeness beside the terms summed, which may cancel: no weight is beyond 16 cells' gradients of 4."""
    scale = 64 * max(float(activation.max()), 1.0)
    assert_close(np.append(actual, np.float32(scale)), np.append(expected, scale), np.float32)


@pytest.mark.parametrize("name", METHODS)
@given(gradients_and_activations())
@settings(deadline=None, max_examples=60)
def test_any_gradient_against_the_oracle(name, given_):
    gradient, activation = given_
    expected = [
        METHODS[name](g, a)
        for g, a in zip(gradient.astype(np.float64), activation.astype(np.float64), strict=True)
    ]
    assert_sums_close(make_method(name, {}).map(gradient, activation), expected, activation)


@pytest.mark.parametrize(
    ("name", "options"),
    [(name, {}) for name in METHODS] + [("gradcam++", {"normalise_alpha": True})],
    ids=str,
)
@given(gradients_and_activations(), st.integers(-60, 60))
@settings(deadline=None, max_examples=40)
def test_units_of_the_activation_do_not_matter(name, options, given_, power):
    """A·s and G/s are the same network: bit by bit, for no constant is added anywhere."""
    gradient, activation = given_
    method, scale = make_method(name, options), np.float32(2.0**power)
    moved = method.map(gradient / scale, activation * scale)
    assert np.array_equal(moved, method.map(gradient, activation))


@pytest.mark.parametrize("name", [name for name in METHODS if name != "gradcam++"])
@given(gradients_and_activations(), st.integers(-30, 30))
@settings(deadline=None, max_examples=40)
def test_the_score_s_scale_is_the_map_s(name, given_, power):
    """Grad-CAM++ is no such method: its score is an exponential's exponent."""
    gradient, activation = given_
    method, scale = make_method(name, {}), np.float32(2.0**power)
    assert np.array_equal(method.map(gradient * scale, activation), method.map(gradient, activation) * scale)


@pytest.mark.parametrize("name", METHODS)
@given(gradients_and_activations(), st.randoms(use_true_random=False))
@settings(deadline=None, max_examples=40)
def test_order_of_channels_images_and_places(name, given_, shuffler):
    gradient, activation = given_
    method = make_method(name, {})
    plain = method.map(gradient, activation)
    order = list(range(gradient.shape[1]))
    shuffler.shuffle(order)
    assert_sums_close(method.map(gradient[:, order], activation[:, order]), plain, activation)
    mirrored = method.map(gradient[::-1, :, :, ::-1], activation[::-1, :, :, ::-1])
    assert_sums_close(mirrored, plain[::-1, :, ::-1], activation)
    alone = [method.map(gradient[i : i + 1], activation[i : i + 1])[0] for i in range(len(gradient))]
    assert_sums_close(alone, plain, activation)
