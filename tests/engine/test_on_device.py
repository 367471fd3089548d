"""An engine whose arrays are tensors gives what one of NumPy arrays gives, and never waits for a device.

ONNX Runtime on the CPU stands in for one on a device. Where no GPU is, Triton's kernels are interpreted.
"""

from dataclasses import replace

import numpy as np
import pytest

import camrt
from camrt.engine.build import build_engine
from camrt.engine.device import TorchDevice
from camrt.engine.heads import contributions
from camrt.engine.runtime.ort_cpu import OnnxRuntime
from camrt.errors import AdjointError, InputError, MethodError, TargetError
from camrt.export.io.model_file import read_model
from camrt.kernels import dispatch
from camrt.kernels.saliency import MapFlag
from helpers.calm_models import calm_model
from helpers.gpu_sync_guard import forbid_gpu_sync
from helpers.tolerances import assert_close
from helpers.torch_nets import CLASSES, Modular, Residual, build_net, nn, random_images
from helpers.triton_interpreter import torch  # before what defines kernels
from helpers.zoo import HEADS, classifier, save

KERNEL_METHODS = (
    "pixab",
    ("pixab", {"score": "logit", "perspectives": "deletion"}),
    "ablation",
    ("ablation", {"score": "probability"}),
    ("ablation", {"contrast": "similar", "absolute": True}),
    "cam",
    "gradcam",
    ("gradcam", {"smooth": "augment", "contrast": "similar-weighted"}),
    ("gradcam++", {"score": "probability"}),
    "hirescam",
    "score",
)
METHODS = (
    *KERNEL_METHODS,
    ("score", {"passes": 3}),
    "eigen",
    "gradient",
    "guided-pixab",
    ("opticam", {"steps": 2}),
    ("rise", {"passes": 5, "cells": 3}),
    ("occlusion", {"window": 3, "baseline": 0.5}),
    ("kernelshap", {"passes": 12, "cells": 2, "baseline": 0.5}),
    ("sscam", {"draws": 2}),
)
# What two runs of different batches, and sums in another order, do to differences of scores.
FACTOR = 64


class OnTensors(OnnxRuntime):
    """ONNX Runtime that takes and gives tensors in the host's memory."""

    splits_last_layer = False
    device = TorchDevice(torch.device("cpu"))

    def make_runner(self, model, *, label, batch=None):
        return TensorRunner(super().make_runner(model, label=label, batch=batch))


class TensorRunner:
    def __init__(self, runner):
        self.runner = runner
        self.outputs = runner.outputs

    def allocate_rows(self, shape):
        return torch.full(shape, torch.nan)

    def __call__(self, batch, fetch=None, extra_inputs=None):
        feeds = {name: values.contiguous().numpy() for name, values in (extra_inputs or {}).items()}
        return [torch.from_numpy(found) for found in self.runner(batch.contiguous().numpy(), fetch, feeds)]


@pytest.fixture
def blind(monkeypatch):
    """The native kernels, for heads that may not look at values."""
    monkeypatch.setattr(dispatch, "READABLE", frozenset({"numpy"}))
    monkeypatch.setattr(contributions, "backend_of", lambda _: "gpu")


@pytest.fixture
def triton(monkeypatch):
    assert "gpu" not in dispatch.READABLE
    monkeypatch.setitem(dispatch.DEVICE_BACKENDS, "cpu", "gpu")
    with np.errstate(all="ignore"):  # the interpreter computes with NumPy
        yield


def engines(name, folder, batch_size=4):
    """The same model on arrays, and on tensors."""
    part = HEADS[name].make(np.random.default_rng(2), 6, 4, 3, 3)
    path = save(classifier(part, np.random.default_rng(1)).model, folder / "model.onnx")
    runtime = OnTensors(threads=1)
    tensors = build_engine(
        read_model(path), runtime, OnnxRuntime(threads=1), batch_size=batch_size, threads=1
    )
    return camrt.load(path, batch_size=batch_size, threads=1), tensors


def asked(method):
    return (method, {}) if isinstance(method, str) else method


def batch_for(engine, count=3, seed=0):
    interface = engine.interface
    shape = (count, interface.channels, interface.height or 8, interface.width or 6)
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def same(found, expected, flags=True):
    assert torch.is_tensor(found.maps)
    for field in ("logits", "probabilities", "scores", "raw", "maps"):
        assert_close(getattr(found, field).numpy(), getattr(expected, field), np.float32, factor=FACTOR)
    assert found.targets.tolist() == expected.targets.tolist()
    assert found.flags.tolist() == expected.flags.tolist()


@pytest.mark.parametrize("name", HEADS)
def test_every_method_gives_the_same_on_tensors(name, tmp_path):
    arrays, tensors = engines(name, tmp_path)
    batch = batch_for(arrays)
    pair = [[0, arrays.num_classes - 1]] * 3
    answered = 0
    for method, options in map(asked, METHODS):
        try:
            expected = arrays.explain(batch, method, targets=pair, **options)
        except (AdjointError, MethodError, TargetError):  # the last: a model of one class has no rival
            continue
        found = tensors.explain(torch.from_numpy(batch), method, targets=torch.tensor(pair), **options)
        same(found, expected)
        assert found.passes == expected.passes
        answered += 1
    assert answered >= 6


@pytest.mark.parametrize("name", HEADS)
def test_nothing_is_looked_at_between_the_batch_and_the_map(name, tmp_path, blind):
    arrays, tensors = engines(name, tmp_path)
    batch, targets = batch_for(arrays), [0, arrays.num_classes - 1, 0]
    given = torch.from_numpy(batch)
    for method, options in map(asked, METHODS):
        try:
            expected = arrays.explain(batch, method, targets=targets, **options)
            tensors.explain(given, method, **options)  # copies constants
        except (AdjointError, MethodError, TargetError):  # the last: a model of one class has no rival
            continue
        with forbid_gpu_sync(allowed=("aten._linalg_eigh.default",) if method == "eigen" else ()):
            predicted = tensors.explain(given, method, **options)
        assert predicted.targets.tolist() == arrays.predict(batch).argmax(axis=1).tolist()
        same(tensors.explain(given, method, targets=targets, **options), expected)


@pytest.mark.parametrize(
    "name",
    [
        "gap-flatten-gemm",
        "batch-norm-relu-before-the-pool",
        "squeezenet-padded",
        "class-maps-summed",
        "gemm-hard-swish-gemm",
        "dense-phi-and-network",
        "flatten-gemm",
        "gemm-relu-gemm",
        "cells-before-channels-gemm-relu-gemm",
        "convolution-3x3-behind-the-cut",
        "squeeze-and-excite-behind-the-cut",
    ],
)
def test_tritons_kernels_give_the_same(name, tmp_path, triton):
    arrays, tensors = engines(name, tmp_path, batch_size=32)
    batch = batch_for(arrays, count=2)
    for method, options in map(asked, KERNEL_METHODS):
        try:
            expected = arrays.explain(batch, method, targets=[[0, 2]] * 2, size=(5, 7), **options)
        except (AdjointError, MethodError):
            continue
        found = tensors.explain(torch.from_numpy(batch), method, targets=[[0, 2]] * 2, size=(5, 7), **options)
        same(found, expected)


@pytest.mark.parametrize(
    "kind", ["joint", "conditional", "posterior", "saliency", "subset", "counterfactual"]
)
def test_calm_on_tensors(kind, tmp_path, blind):
    path = calm_model().save(tmp_path / "calm.onnx")
    arrays = camrt.load(path, threads=1)
    tensors = build_engine(read_model(path), OnTensors(threads=1), OnnxRuntime(threads=1), threads=1)
    batch = np.random.default_rng(3).standard_normal((3, 3, 8, 6)).astype(np.float32)
    given = torch.from_numpy(batch)
    for method, options in (("calm", {"kind": kind}), ("pixab", {}), ("ablation", {}), ("gradcam", {})):
        expected = arrays.explain(batch, method, targets=[2, 0, 3], **options)
        tensors.explain(given, method, **options)  # copies constants
        with forbid_gpu_sync():
            tensors.explain(given, method, **options)
        same(tensors.explain(given, method, targets=[2, 0, 3], **options), expected)


@pytest.mark.parametrize("name", ["gap-flatten-gemm", "gemm-relu-gemm"])
def test_images_that_are_not_finite_get_maps_of_zeros(name, tmp_path, blind):
    _, tensors = engines(name, tmp_path)
    batch = batch_for(tensors)
    batch[1, 0, 0, 0] = np.nan
    found = tensors.explain(torch.from_numpy(batch), "pixab")
    assert found.flags.tolist() == [MapFlag.OK, MapFlag.NOT_FINITE, MapFlag.OK]
    assert not found.maps[1].any()
    batch[1] = 0.0
    whole = tensors.explain(torch.from_numpy(batch), "pixab")
    assert torch.equal(whole.maps[[0, 2]], found.maps[[0, 2]])


def test_what_lies_in_the_hosts_memory_is_looked_at(tmp_path):
    _, tensors = engines("gap-flatten-gemm", tmp_path)
    batch = torch.from_numpy(batch_for(tensors))
    batch[1, 0, 0, 0] = torch.inf
    with pytest.raises(InputError, match="NaN or infinity in image 1"):
        tensors.explain(batch)


class Producer:
    """An array of a library that nobody knows."""

    def __init__(self, tensor):
        self.tensor = tensor

    def __dlpack__(self, **options):
        return self.tensor.__dlpack__(**options)

    def __dlpack_device__(self):
        return self.tensor.__dlpack_device__()


class Namespace:
    """Its functions."""

    @staticmethod
    def from_dlpack(values):
        return Known(torch.from_dlpack(values))


class Known(Producer):
    """An array of a library that speaks the array API."""

    def __array_namespace__(self, api_version=None):
        return Namespace

    def __getattr__(self, name):
        return getattr(self.tensor, name)


KINDS = {
    "NumPy": (np.asarray, np.ndarray),
    "torch": (torch.from_numpy, torch.Tensor),
    "half": (lambda array: torch.from_numpy(array).to(torch.bfloat16), torch.Tensor),
    "double": (lambda array: array.astype(np.float64), np.ndarray),
    "recorded": (lambda array: torch.from_numpy(array).requires_grad_(), torch.Tensor),
    "strided": (lambda array: torch.from_numpy(array).to(memory_format=torch.channels_last), torch.Tensor),
    "a library of the standard": (lambda array: Known(torch.from_numpy(array)), Known),
}


@pytest.mark.parametrize("on_tensors", [False, True], ids=["on arrays", "on tensors"])
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_given_back_is_of_the_kind_that_was_given(kind, on_tensors, tmp_path):
    engine = engines("gap-flatten-gemm", tmp_path)[on_tensors]
    batch = batch_for(engine)
    batch = torch.from_numpy(batch).bfloat16().float().numpy()  # what bfloat16 can hold
    expected = engine.explain(batch, "pixab")
    make, type_ = KINDS[kind]
    given = make(batch.copy())
    found = engine.explain(given, "pixab")
    for field in ("maps", "raw", "targets", "scores", "logits", "probabilities", "flags"):
        assert isinstance(getattr(found, field), type_), field
        values = getattr(found, field)
        plain = np.asarray(values.tensor if isinstance(values, Known) else values)
        np.testing.assert_array_equal(plain, getattr(expected, field))
    assert isinstance(engine.predict(given), type_)
    if not isinstance(given, Known):
        weights, maps = engine.channel_weights(given, "ablation")
        logits, gradient = engine.input_gradients(given, np.eye(engine.num_classes, dtype=np.float32)[:3])
        assert all(isinstance(one, type_) for one in (weights, maps, logits, gradient))
        assert isinstance(found.numpy().maps, np.ndarray)
        assert "3 images" in repr(found)


@pytest.mark.parametrize("on_tensors", [False, True], ids=["on arrays", "on tensors"])
def test_an_array_of_an_unknown_library_is_taken(on_tensors, tmp_path):
    engine = engines("gap-flatten-gemm", tmp_path)[on_tensors]
    batch = batch_for(engine)
    found = engine.explain(Producer(torch.from_numpy(batch)), "pixab")
    assert isinstance(found.maps, torch.Tensor if on_tensors else np.ndarray)
    np.testing.assert_array_equal(np.asarray(found.maps), engine.explain(batch, "pixab").maps)
    with pytest.raises(InputError, match="Producer, cannot be taken through DLPack"):
        engine.explain(Producer(torch.from_numpy(batch).requires_grad_()))
    with pytest.raises(InputError, match="int64"):
        engine.explain(torch.zeros((1, 3, 8, 6), dtype=torch.int64))


def test_a_function_that_chooses_classes_is_given_the_callers_kind(tmp_path):
    arrays, tensors = engines("gap-flatten-gemm", tmp_path)
    batch = batch_for(arrays)
    kinds = []

    def second(logits):
        kinds.append(type(logits))
        return np.asarray(logits).argsort(axis=1)[:, -2]

    expected = arrays.explain(batch, "pixab", targets=second)
    same(tensors.explain(torch.from_numpy(batch), "pixab", targets=second), expected)
    assert set(kinds) == {np.ndarray, torch.Tensor}


def test_explanations_of_tensors_are_drawn_and_saved(tmp_path):
    _, tensors = engines("gap-flatten-gemm", tmp_path)
    found = tensors.explain(torch.from_numpy(batch_for(tensors)), "pixab", targets=[[0, 1]] * 3)
    assert found.label(1, 1) == "class 1"
    written = found.save(tmp_path / "out")
    with np.load(written[-1], allow_pickle=False) as archive:
        np.testing.assert_array_equal(archive["maps"], found.maps.numpy())
    replaced = replace(found, views=None)
    assert replaced.numpy().targets.dtype == np.int64


class Flattened(nn.Module):
    """Fully connected layers behind a flattened map."""

    def __init__(self):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 5, 3, 4, 1), nn.ReLU())
        self.classifier = nn.Sequential(nn.Linear(60, 7), nn.ReLU(), nn.Linear(7, CLASSES))

    def forward(self, batch):
        return self.classifier(self.features(batch).flatten(1))


MODULES = [(Modular, "relu"), (Modular, "stem"), (Flattened, "features"), (Residual, "body")]


@pytest.mark.parametrize(("kind", "path"), MODULES, ids=lambda value: getattr(value, "__name__", value))
def test_modules_by_tritons_kernels(kind, path, triton):
    plain = camrt.load(build_net(kind), target=path, size=(12, 16))
    batch, targets = random_images(2), [[0, 3], [4, 1]]
    for method, options in map(asked, KERNEL_METHODS):
        if method == "cam" and not plain.head.has_class_maps:
            continue
        found = plain.explain(torch.from_numpy(batch), method, targets=targets, size=(5, 7), **options)
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(dispatch.DEVICE_BACKENDS, "cpu", "cpu")
            expected = plain.explain(batch, method, targets=targets, size=(5, 7), **options)
        same(found, expected)


@pytest.mark.parametrize(("kind", "path"), MODULES, ids=lambda value: getattr(value, "__name__", value))
def test_modules_are_not_looked_at(kind, path, blind):
    engine = camrt.load(build_net(kind), target=path, size=(12, 16))
    given = torch.from_numpy(random_images())
    for method, options in map(asked, METHODS):
        if method == "cam" and not engine.head.has_class_maps:
            continue
        engine.explain(given, method, **options)  # copies constants
        with forbid_gpu_sync(allowed=("aten._linalg_eigh.default",) if method == "eigen" else ()):
            engine.explain(given, method, **options)
