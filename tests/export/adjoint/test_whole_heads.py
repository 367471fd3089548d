"""Gradients of whole heads, cut at several depths, against torch's autograd in float64.

Weights are random, images small, and the layers behind a flattened map narrowed. A few architectures are
tried each time; CAMRT_ALL_ARCHITECTURES=1 tries all, by both exporters.
"""

from __future__ import annotations

import copy
import os
import warnings
from dataclasses import dataclass

import numpy as np
import onnxruntime as ort
import pytest

from camrt.engine.batch_axis import resolve_batch_axis
from camrt.engine.runtime import make_onnx_runtime
from camrt.engine.shape_probe import make_shape_observer
from camrt.export.adjoint import GRADIENT, WEIGHTING, build_adjoint_model
from camrt.export.heads.cut import (
    build_tapped_model,
    extra_input_name,
    find_candidates,
    find_crossing_tensors,
)
from camrt.export.io.model_file import read_model
from camrt.export.rewrites.interface import LOGITS, standardise
from helpers.peer_libraries import import_peer
from helpers.tolerances import TOLERANCES, assert_close

torch = pytest.importorskip("torch")
pytest.importorskip("onnxscript")

CLASSES = 10
# Dozens of layers there and dozens back, in float32, against float64.
DEEP = 64.0
EXPORTER_TALK = [
    ("ignore", r".*legacy TorchScript-based ONNX export.*", DeprecationWarning),
    ("ignore", r"The feature will be removed\..*", DeprecationWarning),
    ("ignore", r".*`isinstance\(treespec, LeafSpec\)` is deprecated.*", FutureWarning),
    ("ignore", r".*Converting a tensor to a Python (boolean|number).*", torch.jit.TracerWarning),
]


@dataclass(frozen=True)
class Case:
    """An architecture of torchvision, and the modules whose outputs it is cut at.

    With `corners`, some ReLU among its many is given a number so near to zero, or a max-pooling two so near
    to each other, that float32 decides otherwise than float64: that image's gradients then differ a little.
    """

    name: str
    layers: tuple[str, ...]
    size: int = 64
    quick: bool = False
    corners: bool = False
    options: tuple[tuple[str, object], ...] = ()


PLAIN = (("aux_logits", False), ("init_weights", False))
TINY_VIT = (
    ("image_size", 32), ("patch_size", 8), ("num_layers", 3),
    ("num_heads", 2), ("hidden_dim", 16), ("mlp_dim", 24),
)  # fmt: skip
CASES = [
    Case("resnet18", ("maxpool", "layer2", "layer3", "layer4.0"), quick=True),
    Case("vgg11", ("features.2", "features.10", "features.20"), quick=True),
    Case("mobilenet_v3_small", ("features.1", "features.6", "features.12"), quick=True),
    Case(
        "densenet121", ("features.pool0", "features.transition2", "features.norm5"), quick=True, corners=True
    ),
    Case(
        "inception_v3",
        ("maxpool1", "Mixed_5d", "Mixed_6e", "Mixed_7a"),
        128,
        quick=True,
        corners=True,
        options=PLAIN,
    ),
    Case("convnext_tiny", ("features.1", "features.4", "features.7"), quick=True),
    Case("efficientnet_b0", ("features.2", "features.5", "features.8")),
    Case("squeezenet1_1", ("features.2", "features.7", "features.12")),
    Case("shufflenet_v2_x0_5", ("maxpool", "stage3", "conv5")),
    Case("googlenet", ("maxpool1", "inception4a", "inception5b"), options=PLAIN),
    Case("regnet_y_400mf", ("stem", "trunk_output.block2", "trunk_output.block4"), corners=True),
    Case("vit_b_16", ("conv_proj",), 32, quick=True, options=TINY_VIT),
]
CHOSEN = [
    pytest.param(case, dynamo, id=f"{case.name}-{'dynamo' if dynamo else 'script'}")
    for case in CASES
    for dynamo in (False, True)
    if os.environ.get("CAMRT_ALL_ARCHITECTURES") == "1" or (case.quick and dynamo == (case.name == "vgg11"))
]


@pytest.fixture(scope="module")
def torchvision():
    return import_peer("torchvision")


@pytest.fixture(autouse=True)
def plain_attention():
    """Not the one fused operator that ONNX does not have."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    yield
    torch.backends.mha.set_fastpath_enabled(before)


def build(torchvision, case):
    torch.manual_seed(0)
    makes = torchvision.models.VisionTransformer if case.name == "vit_b_16" else None
    make = makes or getattr(torchvision.models, case.name)
    net = make(num_classes=CLASSES, **dict(case.options))
    if case.name.startswith("vgg"):
        net.avgpool = torch.nn.AdaptiveAvgPool2d(2)
        net.classifier[0] = torch.nn.Linear(512 * 4, 48)
        net.classifier[3] = torch.nn.Linear(48, 32)
        net.classifier[6] = torch.nn.Linear(32, CLASSES)
    if makes:
        torch.nn.init.normal_(net.heads.head.weight)
    generator = torch.Generator().manual_seed(1)
    for module in net.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.running_mean.copy_(0.1 * torch.randn(module.running_mean.shape, generator=generator))
            module.running_var.copy_(0.5 + torch.rand(module.running_var.shape, generator=generator))
    for parameter in net.parameters():
        parameter.requires_grad_(False)
    return net.eval()


def export(net, size, path, dynamo):
    example = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(2))
    names = {"input_names": ["input"], "output_names": ["logits"]}
    with warnings.catch_warnings():
        for action, message, category in EXPORTER_TALK:
            warnings.filterwarnings(action, message, category)
        if dynamo:
            opened = ({0: torch.export.Dim("n", min=1, max=64)},)
            torch.onnx.export(
                net, (example,), path, dynamo=True, dynamic_shapes=opened, verbose=False,
                external_data=False, **names,
            )  # fmt: skip
        else:
            axes = {"input": {0: "n"}, "logits": {0: "n"}}
            torch.onnx.export(net, (example,), path, dynamo=False, dynamic_axes=axes, **names)
    return path


def truth(net, layer, images, weighting):
    """Activation of a module and the gradient there, in float64."""
    twin = copy.deepcopy(net).double()
    caught = {}

    def catch(_, __, output):
        caught["activation"] = output.detach().clone().requires_grad_()
        return caught["activation"].clone()  # an in-place layer behind it works on the clone

    handle = twin.get_submodule(layer).register_forward_hook(catch)
    logits = twin(torch.from_numpy(images).double())
    handle.remove()
    (logits * torch.from_numpy(weighting).double()).sum().backward()
    return caught["activation"].detach().numpy(), caught["activation"].grad.numpy()


def indexed(path):
    runtime = make_onnx_runtime(threads=1)
    watch = make_shape_observer(runtime)
    model = read_model(path).model
    interface = standardise(model, observer=watch)
    interface, graph, _ = resolve_batch_axis(model, interface, runtime, None, watch)
    graph.observe(LOGITS)
    return model, interface, graph


def session(model):
    return ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


def with_corners_of(found, expected):
    """What is expected, but for at most two images that went round another corner and differ a little."""
    flat, exact = (values.reshape(len(values), -1) for values in (found, expected))
    allowed = DEEP * TOLERANCES["float32"][0] * np.abs(expected).max()
    other = (np.abs(flat - exact) > allowed).any(axis=1)
    assert other.sum() <= 2
    assert (np.linalg.norm(flat - exact, axis=1) < 0.03 * np.linalg.norm(exact, axis=1)).all()
    return np.where(other[:, None, None, None], found, expected)


@pytest.mark.parametrize(("case", "dynamo"), CHOSEN)
@pytest.mark.filterwarnings("ignore:.*copy_.*:UserWarning")
@pytest.mark.timeout(1800)  # torch's float64 convolutions, half a minute alone, wait for each other's threads
def test_the_gradient_at_several_depths(case, dynamo, torchvision, tmp_path):
    with torch.no_grad():
        net = build(torchvision, case)
        path = export(net, case.size, tmp_path / "model.onnx", dynamo)
    model, interface, graph = indexed(path)
    listed = [found.name for found in find_candidates(graph) if found.layout == "map"]
    whole = session(build_tapped_model(model, graph, {f"t_{i}": name for i, name in enumerate(listed)}))
    rng = np.random.default_rng(3)
    images = rng.standard_normal((7, 3, case.size, case.size), np.float32)
    weighting = rng.standard_normal((7, CLASSES)).astype(np.float32)
    shown = whole.run([f"t_{i}" for i in range(len(listed))], {whole.get_inputs()[0].name: images})
    for layer in case.layers:
        activation, gradient = truth(net, layer, images, weighting)
        alike = [
            (np.abs(value - activation).max(), name, value)
            for name, value in zip(listed, shown, strict=True)
            if value.shape == activation.shape
        ]
        difference, name, value = min(alike, key=lambda item: item[0])
        assert difference < 1e-4 * np.abs(activation).max(), (
            f"no tensor of the graph is the output of {layer}"
        )
        around = find_crossing_tensors(graph, name)
        assert not around
        back = session(
            build_adjoint_model(
                model, graph, name, input_name="map", batch=interface.batch, extra_inputs=around
            )
        )
        for count in (1, 2, 7):
            feeds = {"map": value[:count], WEIGHTING: weighting[:count]}
            logits, found = back.run([LOGITS, GRADIENT], feeds)
            expected = gradient[:count]
            if case.corners:
                expected = with_corners_of(found, expected)
            assert_close(found, expected, np.float32, factor=DEEP)
        assert_close(logits, net(torch.from_numpy(images)).numpy(), np.float32, factor=DEEP)


def test_a_cut_that_something_goes_around(torchvision, tmp_path):
    """Inside a residual branch the shortcut is an input of its own, and no gradient is followed into it."""
    case = CASES[0]
    with torch.no_grad():
        net = build(torchvision, case)
        path = export(net, case.size, tmp_path / "model.onnx", False)
    model, _, graph = indexed(path)
    rng = np.random.default_rng(4)
    images = rng.standard_normal((2, 3, 64, 64), np.float32)
    weighting = rng.standard_normal((2, CLASSES)).astype(np.float32)
    activation, gradient = truth(net, "layer3.1.bn2", images, weighting)
    listed = [found.name for found in find_candidates(graph) if not found.clean]
    around = {name: find_crossing_tensors(graph, name) for name in listed}
    names = sorted({*listed, *(other for others in around.values() for other in others)})
    whole = session(build_tapped_model(model, graph, {f"t_{i}": name for i, name in enumerate(names)}))
    values = dict(
        zip(names, whole.run([f"t_{i}" for i in range(len(names))], {"camrt_images": images}), strict=True)
    )
    name = next(
        name for name in listed
        if values[name].shape == activation.shape and np.allclose(values[name], activation, atol=1e-4)
    )  # fmt: skip
    assert len(around[name]) == 1
    back = session(
        build_adjoint_model(model, graph, name, input_name="map", batch=None, extra_inputs=around[name])
    )
    feeds = {"map": values[name], WEIGHTING: weighting, extra_input_name(0): values[around[name][0]]}
    assert_close(back.run([GRADIENT], feeds)[0], gradient, np.float32, factor=DEEP)


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small"])
def test_the_gradient_with_respect_to_the_image(name, torchvision, tmp_path):
    case = next(case for case in CASES if case.name == name)
    with torch.no_grad():
        net = build(torchvision, case)
        path = export(net, case.size, tmp_path / "model.onnx", False)
    model, _, graph = indexed(path)
    rng = np.random.default_rng(5)
    images = rng.standard_normal((2, 3, case.size, case.size), np.float32)
    weighting = rng.standard_normal((2, CLASSES)).astype(np.float32)
    given = torch.from_numpy(images).double().requires_grad_()
    (copy.deepcopy(net).double()(given) * torch.from_numpy(weighting).double()).sum().backward()
    back = session(build_adjoint_model(model, graph, graph.input_name, input_name="altered", batch=None))
    found = back.run([GRADIENT], {"altered": images, WEIGHTING: weighting})[0]
    assert_close(found, given.grad.numpy(), np.float32, factor=DEEP)
