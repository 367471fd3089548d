from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import camrt
from camrt.errors import MethodError
from camrt.export.adjoint import BIAS_MAP, GRADIENT, WEIGHTING, gradient_graph
from camrt.export.adjoint.backward_pass import BackwardPass
from camrt.export.adjoint.bias_gradients import bias_products
from camrt.export.rewrites.interface import LOGITS
from helpers.oracles.full_grad import contributions, full_grad
from helpers.peer_libraries import import_peer
from helpers.tolerances import assert_close

IMAGE = (3, 7, 8)
CLASSES = 3
SHAPES: list[tuple[int, ...]] = [(4, 7, 8), (5, 4, 4), (5, 4, 4), (6,), (CLASSES,)]
# Differences in float64 are good to 1e-9 of the score; magnitudes are divided by what may be small beside it.
FACTOR = 100


class Network:
    """Two convolutions, a batch normalisation and two linear layers, with biases; ReLUs between."""

    def __init__(self, seed: int = 0) -> None:
        draw = np.random.default_rng(seed)

        def random(*shape: int) -> np.ndarray:
            return draw.normal(size=shape).astype(np.float32).astype(np.float64)

        self.first, self.first_bias = random(4, 3, 3, 3), random(4)
        self.second, self.second_bias = random(5, 4, 3, 3) / 3, random(5)
        self.scale, self.shift, self.average = random(5), random(5), random(5)
        self.variance = 0.5 + random(5) ** 2
        self.hidden, self.hidden_bias = random(6, 5), random(6)
        self.last, self.last_bias = random(CLASSES, 6), random(CLASSES)
        self.slope = self.scale / np.sqrt(self.variance + np.float32(1e-5))

    @property
    def biases(self) -> list[np.ndarray]:
        of_norm = self.shift - self.average * self.slope
        return [self.first_bias, self.second_bias, of_norm, self.hidden_bias, self.last_bias]

    def logits(self, image: np.ndarray, added: list[np.ndarray]) -> np.ndarray:
        one = convolved(image, self.first, 1) + self.first_bias[:, None, None] + added[0]
        two = convolved(np.maximum(one, 0), self.second, 2) + self.second_bias[:, None, None] + added[1]
        slope, average, shift = (v[:, None, None] for v in (self.slope, self.average, self.shift))
        three = (two - average) * slope + shift + added[2]
        four = self.hidden @ np.maximum(three, 0).mean((1, 2)) + self.hidden_bias + added[3]
        return self.last @ np.maximum(four, 0) + self.last_bias + added[4]

    def score(self, c: int, kind: str) -> Callable[[np.ndarray, list[np.ndarray]], float]:
        def of_image(image: np.ndarray, added: list[np.ndarray]) -> float:
            logits = self.logits(image, added)
            raised = np.exp(logits - logits.max())
            return float((logits if kind == "logit" else raised / raised.sum())[c])

        return of_image

    def save(self, path: Path, *, channels_last: bool = False) -> Path:
        weights = {
            "w1": self.first, "b1": self.first_bias, "w2": self.second, "b2": self.second_bias,
            "s": self.scale, "o": self.shift, "m": self.average, "v": self.variance,
            "w3": self.hidden, "b3": self.hidden_bias, "w4": self.last, "b4": self.last_bias,
        }  # fmt: skip
        convolution = [helper.make_node("Conv", ["images", "w1", "b1"], ["one"], pads=[1] * 4)]
        if channels_last:  # the bias is added where channels are last
            convolution = [
                helper.make_node("Conv", ["images", "w1"], ["plain"], pads=[1] * 4),
                helper.make_node("Transpose", ["plain"], ["turned"], perm=[0, 2, 3, 1]),
                helper.make_node("Add", ["b1", "turned"], ["biased"]),
                helper.make_node("Transpose", ["biased"], ["one"], perm=[0, 3, 1, 2]),
            ]
        nodes = [
            *convolution,
            helper.make_node("Relu", ["one"], ["r1"]),
            helper.make_node("Conv", ["r1", "w2", "b2"], ["two"], pads=[1] * 4, strides=[2, 2]),
            helper.make_node("BatchNormalization", ["two", "s", "o", "m", "v"], ["three"], epsilon=1e-5),
            helper.make_node("Relu", ["three"], ["r2"]),
            helper.make_node("GlobalAveragePool", ["r2"], ["pooled"]),
            helper.make_node("Flatten", ["pooled"], ["vector"]),
            helper.make_node("Gemm", ["vector", "w3", "b3"], ["four"], transB=1),
            helper.make_node("Relu", ["four"], ["r3"]),
            helper.make_node("Gemm", ["r3", "w4", "b4"], ["logits"], transB=1),
        ]
        graph = helper.make_graph(
            nodes,
            "net",
            [helper.make_tensor_value_info("images", TensorProto.FLOAT, ["N", *IMAGE])],
            [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["N", CLASSES])],
            [numpy_helper.from_array(v.astype(np.float32), name) for name, v in weights.items()],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
        model.ir_version = 8
        onnx.save(model, path)
        return path


def convolved(maps: np.ndarray, weight: np.ndarray, stride: int) -> np.ndarray:
    padded = np.pad(maps, ((0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(1, 2))[:, ::stride, ::stride]
    return np.einsum("chwij,fcij->fhw", windows, weight)


def images_of(count: int) -> np.ndarray:
    return np.random.default_rng(3).normal(size=(count, *IMAGE)).astype(np.float32)


@pytest.mark.parametrize(
    ("definition", "kind", "channels_last"),
    [
        ("paper", "logit", True),
        ("paper", "probability", False),
        ("grad-cam", "logit", False),
        ("authors", "logit", True),
    ],
)
def test_against_the_oracle(tmp_path: Path, definition: str, kind: str, channels_last: bool) -> None:
    net = Network()
    engine = camrt.load(net.save(tmp_path / "net.onnx", channels_last=channels_last), threads=1)
    images, targets = images_of(2), [[0, 2], [1, 0]]
    found = engine.explain(images, "fullgrad", targets=targets, definition=definition, score=kind)
    for image, row, maps in zip(images.astype(np.float64), targets, found.raw, strict=True):
        for c, raw in zip(row, maps, strict=True):
            parts = contributions(net.score(c, kind), image, net.biases, SHAPES)
            assert_close(raw, full_grad(parts, IMAGE[1:], definition=definition), factor=FACTOR)
    assert found.passes.full_adjoint == 4
    assert found.passes.trunk == 2


@pytest.mark.parametrize("seed", range(3))
def test_completeness(tmp_path: Path, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """x·∂f/∂x and every bias times its gradient add up to the logit: every layer is found in the graph."""

    def total(walk: BackwardPass, nodes: Sequence[onnx.NodeProto], scaling: str) -> str:
        make = walk.make
        sums = [
            make.reduce_sum(make.reshape(product, [0, -1]), [1], keepdims=False)
            for _, _, product in bias_products(walk, nodes)
        ]
        return make.add("Sum", *sums)

    monkeypatch.setattr(gradient_graph, "make_bias_map", total)
    engine = camrt.load(Network(seed).save(tmp_path / "net.onnx"), threads=1)
    images = images_of(CLASSES)
    feeds = {WEIGHTING: np.eye(CLASSES, dtype=np.float32)}
    logits, gradient, of_biases = engine._adjoints["paper"](images, [LOGITS, GRADIENT, BIAS_MAP], feeds)
    found = (gradient.astype(np.float64) * images).sum((1, 2, 3)) + of_biases
    assert_close(found.astype(np.float32), np.diag(logits), factor=8)


def module_of(net: Network) -> Any:
    """The same network of torch."""
    torch = pytest.importorskip("torch")
    nn = torch.nn
    made = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(inplace=True),
        nn.Conv2d(4, 5, 3, 2, padding=1), nn.BatchNorm2d(5), nn.ReLU(inplace=True),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, CLASSES),
    ).eval()  # fmt: skip
    values = [
        net.first, net.first_bias, net.second, net.second_bias, net.scale, net.shift, net.hidden,
        net.hidden_bias, net.last, net.last_bias,
    ]  # fmt: skip
    with torch.no_grad():
        for parameter, value in zip(made.parameters(), values, strict=True):
            parameter.copy_(torch.from_numpy(value))
        made[3].running_mean.copy_(torch.from_numpy(net.average))
        made[3].running_var.copy_(torch.from_numpy(net.variance))
    return made


@pytest.mark.parametrize("definition", ["paper", "grad-cam", "authors"])
def test_a_module_and_its_file_say_the_same(tmp_path: Path, definition: str) -> None:
    net = Network()
    file = camrt.load(net.save(tmp_path / "net.onnx"), threads=1)
    module = camrt.load(module_of(net), size=IMAGE[1:])
    ask: dict[str, Any] = {"targets": [[0, 1, 2]] * 3, "definition": definition}
    expected = file.explain(images_of(3), "fullgrad", **ask)
    assert_close(module.explain(images_of(3), "fullgrad", **ask).raw, expected.raw, factor=FACTOR)


@pytest.mark.peers
def test_full_grad_of_pytorch_grad_cam(tmp_path: Path) -> None:
    """Its map is ours with "grad-cam", and all but ours with "paper"."""
    peer = import_peer("pytorch_grad_cam")
    import torch
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    net, images, targets = Network(), images_of(4), [0, 2, 1, 0]
    module = module_of(net)
    for number in (1, 4):
        module[number].inplace = False  # it takes gradients of what is written over
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        cam = peer.FullGrad(module, [])
        expected = cam(torch.from_numpy(images), [ClassifierOutputTarget(target) for target in targets])
        cam.activations_and_grads.release()
    engine = camrt.load(net.save(tmp_path / "net.onnx"), threads=1)
    found = engine.explain(images, "FullGrad", targets=targets, definition="grad-cam")
    assert_close(found.maps, expected, np.float32, factor=FACTOR)
    plain = engine.explain(images, "FullGrad", targets=targets)
    assert np.abs(plain.maps - expected).max() < 1e-3


def test_nothing_is_lost_where_no_layer_has_a_bias(tmp_path: Path) -> None:
    net = Network()
    for bias in ("first_bias", "second_bias", "shift", "average"):
        setattr(net, bias, np.zeros_like(getattr(net, bias)))
    engine = camrt.load(net.save(tmp_path / "net.onnx"), threads=1)
    image = images_of(1)
    parts = contributions(net.score(1, "logit"), image[0].astype(np.float64), net.biases, SHAPES)
    expected = full_grad(parts[:1], IMAGE[1:])
    assert_close(engine.explain(image, "fullgrad", targets=1).raw[0], expected, factor=FACTOR)


def test_wrong_options(tmp_path: Path) -> None:
    engine = camrt.load(Network().save(tmp_path / "net.onnx"), threads=1)
    with pytest.raises(MethodError, match="choose from 'paper', 'grad-cam', 'authors'"):
        engine.explain(images_of(1), "fullgrad", definition="torchcam")
    with pytest.raises(MethodError, match="fullgrad: counterfactual=True is not for it"):
        engine.explain(images_of(1), "fullgrad", counterfactual=True)
