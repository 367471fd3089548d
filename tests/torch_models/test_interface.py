"""What modules take and give, and what is refused with the reason and the way out."""

from __future__ import annotations

from collections import namedtuple
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np
import pytest

import camrt
from camrt.engine.torch_models.load import load_module
from camrt.errors import (
    AdjointError,
    BackendError,
    InputError,
    MethodError,
    TargetError,
    UnsupportedModelError,
)
from helpers.tolerances import assert_close
from helpers.torch_nets import CLASSES, Modular, build_net, functional, nn, random_images, torch

Named = namedtuple("Named", ["scores", "features"])


@dataclass
class Answer:
    logits: Any
    hidden: Any = None


class Wrapped(nn.Module):
    """A network whose answer is wrapped by `wrap`."""

    def __init__(self, wrap):
        super().__init__()
        self.net = Modular()
        self.wrap = wrap

    def forward(self, batch):
        return self.wrap(self.net(batch))


def logits_of(net, batch):
    with torch.no_grad():
        return net(torch.from_numpy(batch)).numpy()


WRAPS = {
    "tuple": (lambda x: (x, None), None),
    "list": (lambda x: [x.mean(), x], None),
    "dict": (lambda x: {"loss": None, "logits": x}, None),
    "dataclass": (lambda x: Answer(x), None),
    "named-tuple": (lambda x: Named(x, x[:, None]), None),
    "nested": (lambda x: {"heads": (x,)}, None),
    "picked-key": (lambda x: {"aux": x * 2, "main": x}, "main"),
    "picked-position": (lambda x: (x * 2, x), "1"),
    "picked-number": (lambda x: (x * 2, x), 1),
    "picked-nested": (lambda x: {"heads": (x * 2, x)}, "heads.1"),
    "four-axes": (lambda x: x[:, :, None, None], None),
}


@pytest.mark.parametrize("wrap", WRAPS)
def test_outputs_of_any_structure(wrap):
    function, output = WRAPS[wrap]
    net = build_net(lambda: Wrapped(function))
    engine = load_module(net, output=output, size=(12, 16))
    np.testing.assert_array_equal(engine.predict(random_images()), logits_of(net.net, random_images()))
    expected = load_module(net.net, size=(12, 16)).explain(random_images(), "gradcam", targets=1)
    np.testing.assert_array_equal(engine.explain(random_images(), "gradcam", targets=1).raw, expected.raw)


def test_outputs_that_are_none_or_several():
    with pytest.raises(UnsupportedModelError, match=r"several.*'0' \(2, 5\), '1' \(2, 5\).*output='name'"):
        load_module(build_net(lambda: Wrapped(lambda x: (x, x * 2))), size=(12, 16))
    with pytest.raises(UnsupportedModelError, match="no output 'logits'; the module gives 'aux'"):
        load_module(build_net(lambda: Wrapped(lambda x: {"aux": x})), output="logits", size=(12, 16))
    with pytest.raises(UnsupportedModelError, match=r"class scores; for N=2 this module gives '' \(5, 2\)"):
        load_module(build_net(lambda: Wrapped(lambda x: x.T)), size=(12, 16))
    with pytest.raises(UnsupportedModelError, match="this module gives no tensor"):
        load_module(build_net(lambda: Wrapped(lambda x: "cat")), size=(12, 16))


ENDINGS = {
    "Softmax": lambda x: x.softmax(1),
    "LogSoftmax": lambda x: functional.log_softmax(x, dim=-1),
    "Sigmoid": lambda x: x.sigmoid(),
}


@pytest.mark.parametrize("ending", ENDINGS)
def test_an_ending_is_taken_off(ending):
    """As from a file: scores are logits, and probabilities come of them."""
    net = build_net(lambda: Wrapped(ENDINGS[ending]))
    engine = load_module(net, size=(12, 16))
    assert engine.interface.recognised == ending
    assert engine.interface.activation == ("sigmoid" if ending == "Sigmoid" else "softmax")
    logits = engine.predict(random_images())
    np.testing.assert_array_equal(logits, logits_of(net.net, random_images()))
    expected = logits_of(net, random_images())
    expected = np.exp(expected) if ending == "LogSoftmax" else expected
    assert_close(engine.probabilities(logits), expected)
    bare = load_module(net.net, size=(12, 16), activation=engine.interface.activation)
    for method in ("gradcam", "pixab", "gradient"):
        found, wanted = (one.explain(random_images(), method, targets=1) for one in (engine, bare))
        np.testing.assert_array_equal(found.raw, wanted.raw)


def test_a_softmax_that_is_not_over_classes_stays():
    net = build_net(lambda: Wrapped(lambda x: x.softmax(0)))
    engine = load_module(net, size=(12, 16))
    assert engine.interface.reading == "logit"
    one = random_images()[:1]  # the answers depend on the other images of the batch
    assert_close(engine.probabilities(engine.predict(one)), logits_of(net, one))


def test_activation():
    net = build_net(Modular)
    assert load_module(net, size=(12, 16)).interface.activation == "softmax"
    assert load_module(net, size=(12, 16), activation="sigmoid").interface.activation == "sigmoid"
    net.head = nn.Linear(7, 1)
    assert load_module(net, size=(12, 16)).interface.activation == "sigmoid"
    ended = build_net(lambda: Wrapped(lambda x: x.softmax(1)))
    overruled = load_module(ended, size=(12, 16), activation="sigmoid")
    assert overruled.interface.activation == "sigmoid"
    assert_close(overruled.predict(random_images()), logits_of(ended.net, random_images()))
    plain = load_module(ended, size=(12, 16), activation="none")
    assert_close(plain.predict(random_images()), logits_of(ended, random_images()))
    assert np.isnan(plain.explain(random_images(), "pixab").probabilities).all()
    with pytest.raises(MethodError, match="plain numbers"):
        plain.explain(random_images(), "pixab", score="probability")


PROBABILITIES = {
    "mean-of-two": lambda x: (x.softmax(1) + (x * -2).softmax(1)) / 2,
    "clamped": lambda x: x.softmax(1).clamp(1e-7, 1),
    "renormalised": lambda x: x.softmax(1).square() / x.softmax(1).square().sum(1, keepdim=True),
    "exp-of-log": lambda x: x.log_softmax(1).exp(),
    "one-and-the-rest": lambda x: torch.cat([1 - x[:, :1].sigmoid(), x[:, :1].sigmoid()], 1),
}


@pytest.mark.parametrize("ending", PROBABILITIES)
def test_answers_that_sum_to_one_are_a_distribution(ending):
    net = build_net(lambda: Wrapped(PROBABILITIES[ending]))
    engine = load_module(net, size=(12, 16))
    expected = logits_of(net, random_images())
    logits = engine.predict(random_images())
    assert engine.interface.activation == "softmax"
    assert_close(logits, np.log(expected.astype(np.float64)))
    assert_close(engine.probabilities(logits), expected)
    assert "distribution" in " ".join(engine.notes)
    assert "logits are log p" in engine.describe()
    twin = build_net(lambda: Wrapped(PROBABILITIES[ending])).double()
    with torch.enable_grad():
        leaf = torch.from_numpy(random_images()).double().requires_grad_()
        (wanted,) = torch.autograd.grad(twin(leaf).log()[:, 1].sum(), leaf)
    found, gradient = engine.input_gradients(
        random_images(), np.eye(expected.shape[1])[[1] * len(random_images())]
    )
    assert_close(found, logits)
    assert_close(gradient, wanted.numpy(), factor=8)  # five layers, forth and back


SHARES = {
    "hard-sigmoid": lambda x: functional.hardsigmoid(x),
    "clamped": lambda x: (x / 4 + 0.5).clamp(0, 1),
    "one-of-each-pair": lambda x: x[:, :4].reshape(-1, 2, 2).softmax(2)[:, :, 1],
}


@pytest.mark.parametrize("ending", SHARES)
def test_answers_that_are_kept_in_the_unit_are_sigmoids(ending):
    net = build_net(lambda: Wrapped(SHARES[ending]))
    engine = load_module(net, size=(12, 16))
    expected = logits_of(net, random_images())
    assert engine.interface.activation == "sigmoid"
    logits = engine.predict(random_images())
    assert_close(engine.probabilities(logits), expected)
    assert np.isfinite(logits).all()
    assert "read as sigmoids" in " ".join(engine.notes)
    shares = load_module(net, size=(12, 16), activation="softmax")
    found = shares.probabilities(shares.predict(random_images()))
    assert_close(found, expected / expected.sum(axis=1, keepdims=True))


SHAPES = {
    "squeezed-softmax": (lambda x: x[:, :, None, None].softmax(1).squeeze(-1).squeeze(-1), "Softmax"),
    "channels-last-softmax": (lambda x: x[:, None, None].softmax(-1), "Softmax"),
    "one-number-each": (lambda x: x[:, 0].sigmoid(), "Sigmoid"),
    "flattened-sigmoid": (lambda x: x[:, :, None].sigmoid().flatten(1), "Sigmoid"),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_an_ending_is_taken_off_in_any_shape(shape):
    wrap, ending = SHAPES[shape]
    net = build_net(lambda: Wrapped(wrap))
    engine = load_module(net, size=(12, 16))
    assert engine.interface.recognised == ending
    logits = engine.predict(random_images())
    assert_close(logits, logits_of(net.net, random_images())[:, : engine.num_classes])
    assert_close(engine.probabilities(logits), logits_of(net, random_images()).reshape(3, -1))


def test_what_changes_a_probability_afterwards_is_seen():
    """Softmax times 100 in place shares the softmax's memory, and is none."""
    net = build_net(lambda: Wrapped(lambda x: x.softmax(1).mul_(100)))
    engine = load_module(net, size=(12, 16))
    assert engine.interface.recognised is None
    assert_close(engine.predict(random_images()), logits_of(net, random_images()))


def test_a_module_that_runs_in_inference_mode():
    """Its tensors count no writes, and its operators are seen undivided: its numbers tell."""
    net = build_net(lambda: Wrapped(torch.inference_mode()(lambda x: x.softmax(1))))
    with pytest.raises(AdjointError, match="no gradient"):
        load_module(net, size=(12, 16)).explain(random_images(), "gradcam")
    engine = load_module(net, size=(12, 16), target="net.last")
    assert_close(engine.probabilities(engine.predict(random_images())), logits_of(net, random_images()))


def test_one_number_that_no_logit_would_be_is_a_plain_value():
    net = build_net(lambda: Wrapped(lambda x: x[:, :1] + 40))
    engine = load_module(net, size=(12, 16))
    assert engine.interface.activation == "none"
    found = engine.explain(random_images(), "pixab")
    assert_close(found.scores, logits_of(net, random_images())[:, 0])
    assert not found.flags.any()
    assert load_module(net, size=(12, 16), activation="sigmoid").interface.activation == "sigmoid"


# Of the largest value: 3 roundings of eps 2^-10 (2^-7 for bfloat16) a layer, five layers, forth and back.
HALF = {torch.float16: 30 * 2**-10, torch.bfloat16: 30 * 2**-7}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("method", ["gradcam", "activation", "gradient", "ablation"])
def test_parameters_of_other_types(dtype, method):
    expected = load_module(build_net(Modular), size=(12, 16)).explain(random_images(), method, targets=2)
    net = build_net(Modular).to(dtype)
    engine = load_module(net, size=(12, 16))
    found = engine.explain(random_images(), method, targets=2)
    assert found.raw.dtype == found.logits.dtype == np.float32
    if dtype == torch.float64:
        assert_close(found.raw, expected.raw, factor=32)  # one side rounds in every layer, forth and back
    elif method in ("gradcam", "activation"):  # the others subtract numbers that half precision rounds alike
        worst = np.abs(found.raw - expected.raw).max()
        assert worst <= HALF[dtype] * np.abs(expected.raw).max()
    assert "left out" in engine.head.describe()


def test_what_is_known_of_the_input():
    engine = load_module(build_net(Modular), size=(12, 16), labels=list("abcde"), preprocessing="imagenet")
    interface = engine.interface
    assert (interface.channels, interface.height, interface.width, interface.batch) == (3, None, None, None)
    assert (interface.num_classes, interface.layout) == (CLASSES, "NCHW")
    assert engine.labels == tuple("abcde")
    assert engine.preprocessing is not None
    assert engine.preprocessing.size == (12, 16)
    by_example = load_module(build_net(Modular), example=torch.zeros(1, 3, 12, 16))
    assert by_example.target.shape == (7, 3, 4)
    by_preprocessing = load_module(build_net(Modular), preprocessing={"size": [12, 16]})
    assert by_preprocessing.target.shape == (7, 3, 4)
    assert load_module(build_net(Modular)).target.shape == (7, 56, 56)
    with pytest.raises(InputError, match="4 labels were given for a model with 5 classes"):
        load_module(build_net(Modular), size=(12, 16), labels=list("abcd"))
    with pytest.raises(InputError, match=r"size=\(0, 4\) must be two whole numbers"):
        load_module(build_net(Modular), size=(0, 4))
    with pytest.raises(InputError, match=r"grid=3 must be two whole numbers"):
        load_module(build_net(Modular), grid=3)
    with pytest.raises(InputError, match=r"example must be a batch \(N, C, H, W\), not \(3, 4\)"):
        load_module(build_net(Modular), example=np.zeros((3, 4)))


def test_channels_nobody_can_read():
    class Shuffled(nn.Module):
        def __init__(self):
            super().__init__()
            self.mix = nn.PixelUnshuffle(2)
            self.head = nn.Linear(8, CLASSES)

        def forward(self, batch):
            return self.head(functional.relu(self.mix(batch)).mean((2, 3)))

    with pytest.raises(InputError, match=r"number of colours Shuffled takes.*example=, a batch"):
        load_module(build_net(Shuffled))
    engine = load_module(build_net(Shuffled), example=np.zeros((1, 2, 8, 8), np.float32))
    assert engine.interface.channels == 2
    assert engine.target.shape == (8, 4, 4)


def test_batches_are_checked():
    engine = load_module(build_net(Modular), size=(12, 16))
    with pytest.raises(InputError, match="3 colour channels"):
        engine.explain(np.zeros((1, 4, 12, 16), np.float32))
    with pytest.raises(InputError, match="NaN"):
        engine.explain(np.full((1, 3, 12, 16), np.nan, np.float32))
    with pytest.raises(TargetError, match="5"):
        engine.explain(random_images(), targets=5)
    assert engine.explain(torch.from_numpy(random_images()), "gradcam").maps.shape == (3, 12, 16)


def test_devices(monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr("camrt.engine.tensorrt_plans.cuda_devices.LIBRARY", "no-such-driver.so")
        with pytest.raises(BackendError, match="this needs an NVIDIA GPU, and its driver is not installed"):
            load_module(build_net(Modular), device="cuda")
    with monkeypatch.context() as patch:
        patch.setattr(
            import_module("camrt.engine.torch_models.model"), "list_cuda_devices", lambda: ("a card",)
        )
        patch.setattr(torch.cuda, "is_available", lambda: False)
        with pytest.raises(BackendError, match="this torch sees no GPU: install one that is built for CUDA"):
            load_module(build_net(Modular), device="cuda")
        patch.setattr(torch.cuda, "is_available", lambda: True)
        with pytest.raises(BackendError, match=r"Modular is on device 'cpu', and device='cuda:0' was asked"):
            load_module(build_net(Modular), device="cuda:0")
    with pytest.raises(BackendError, match="device='abacus' is no device torch knows"):
        load_module(build_net(Modular), device="abacus")
    for name in ("fpga", "meta", "hpu"):
        with pytest.raises(BackendError, match=f"device='{name}' cannot be used here"):
            load_module(build_net(Modular), device=name)
    with pytest.raises(BackendError, match=r"without values.*load its weights first"):
        load_module(build_net(Modular).to("meta"))
    net = build_net(Modular)
    net.head.to("meta")
    with pytest.raises(BackendError, match="without values"):
        load_module(net)
    engine = load_module(build_net(Modular), size=(12, 16))
    engine._model.model.module.to("meta")
    with pytest.raises(BackendError, match="without values"):
        engine.explain(random_images())


def test_other_runtimes():
    with pytest.raises(BackendError, match="runs on backend 'torch', not 'onnxruntime'"):
        load_module(build_net(Modular), backend="onnxruntime")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's, of TorchScript
def test_torchscript_is_refused():
    scripted = torch.jit.trace(build_net(Modular), torch.zeros(1, 3, 12, 16))
    with pytest.raises(BackendError, match="TorchScript module takes no hooks"):
        load_module(scripted)


def test_a_module_that_fails_on_the_probe():
    class Fixed(Modular):
        def forward(self, batch):
            return self.head(self.last(self.relu(self.body(self.stem(batch)))).flatten(2)[:, :, :7].mean(1))

    with pytest.raises(BackendError, match=r"Fixed failed on images of shape \(2, 3, 4, 4\).*size=\(H, W\)"):
        load_module(build_net(Fixed), size=(4, 4))


def test_gradients_that_are_stopped():
    class Frozen(Modular):
        """A trunk without gradients, as in fine-tuning: the head has them all the same."""

        def forward(self, batch):
            with torch.no_grad():
                x = self.relu(self.body(self.stem(batch)))
                x = self.relu(self.last(x))
            return self.head(self.pool(x).flatten(1))

    class Detached(Modular):
        def forward(self, batch):
            return super().forward(batch).detach()

    frozen = load_module(build_net(Frozen), target="last", size=(12, 16))
    expected = load_module(build_net(Modular), target="last", size=(12, 16))
    for method in ("gradcam", "pixab"):
        found, wanted = (one.explain(random_images(), method, targets=3) for one in (frozen, expected))
        np.testing.assert_array_equal(found.raw, wanted.raw)
    with pytest.raises(AdjointError, match="no gradient of the logits reaches the images"):
        frozen.explain(random_images(), "gradient")
    detached = load_module(build_net(Detached), target="last", size=(12, 16))
    with pytest.raises(AdjointError, match="no gradient of the logits reaches 'last'"):
        detached.explain(random_images(), "gradcam")
    np.testing.assert_array_equal(
        detached.explain(random_images(), "pixab", targets=3).raw,
        expected.explain(random_images(), "pixab", targets=3).raw,
    )


def rectifiers():
    return {
        "module": nn.ReLU(),
        "in-place-module": nn.ReLU(inplace=True),
        "function": functional.relu,
        "method": lambda x: x.relu(),
        "in-place-method": lambda x: x.relu_(),
        "clamp": lambda x: x.clamp(min=0),
        "relu6": functional.relu6,
        "relu6-module": nn.ReLU6(inplace=True),
    }


@pytest.mark.parametrize("spelt", rectifiers())
def test_guided_gradients_however_a_relu_is_spelt(spelt):
    """Against the definition: where a ReLU is open, only what is positive of the gradient passes."""

    class Rectified(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Conv2d(3, 4, 3, 1, 1), nn.Conv2d(4, 4, 3, 2, 1)
            self.head = nn.Linear(4, CLASSES)
            self.relu = rectifiers()[spelt]

        def forward(self, batch):
            x = self.relu(self.second(self.relu(self.first(batch) * 4)))
            return self.head(x.mean((2, 3)))

    net = build_net(Rectified)
    twin = build_net(Rectified).double()
    with torch.enable_grad():
        leaf = torch.from_numpy(random_images()).double().requires_grad_()
        one = twin.first(leaf) * 4
        shown = one.detach().clamp(0, 6) if "relu6" in spelt else one.detach().relu()
        shown.requires_grad_()
        two = twin.second(shown)
        out = two.detach().relu().requires_grad_()
        logits = twin.head(out.mean((2, 3)))
        (g,) = torch.autograd.grad(logits[:, 2].sum(), out)
        (g,) = torch.autograd.grad(two, shown, (g * (two > 0)).clamp(min=0))
        open_ = (one > 0) & (one < 6) if "relu6" in spelt else one > 0
        (expected,) = torch.autograd.grad(one, leaf, (g * open_).clamp(min=0))
    engine = load_module(net, size=(12, 16))
    found = engine.explain(random_images(), "guided", targets=2, blur=1).raw
    assert_close(
        found, expected.abs().amax(dim=1).numpy(), "float32", factor=4
    )  # three layers, forth and back


def test_guided_gradients_need_a_relu():
    class Smooth(Modular):
        def __init__(self):
            super().__init__()
            self.stem[2] = nn.GELU()
            self.relu = nn.LeakyReLU(0.1)

    with pytest.raises(AdjointError, match="this model has none"):
        load_module(build_net(Smooth), size=(12, 16)).explain(random_images(), "guided")


def test_the_front_door_takes_modules():
    engine = camrt.load(build_net(Modular), size=(12, 16), target=["stem", "last"], threads=1)
    assert [cut.target.name for cut in engine.cuts] == ["stem", "last"]
    assert engine.explain(random_images(), "gradcam").maps.shape == (3, 12, 16)


@pytest.mark.parametrize(("name", "kind"), [("fp16", torch.float16), ("bf16", torch.bfloat16)])
def test_precision(name, kind, tmp_path):
    """A module has the precision it has; what a file holds is made so."""
    net = build_net(Modular)
    with pytest.raises(InputError, match=f"precision='{name}'.*torch.float32: convert it with module.to"):
        load_module(net, size=(12, 16), precision=name)
    with pytest.raises(InputError, match="precision='int8' must be one of 'fp32', 'fp16', 'bf16'"):
        load_module(net, size=(12, 16), precision="int8")
    expected = load_module(build_net(Modular).to(kind), size=(12, 16), precision=name).predict(
        random_images()
    )
    path = tmp_path / "net.pt2"
    batch = torch.export.Dim("batch")
    program = torch.export.export(net, (torch.zeros(2, 3, 12, 16),), dynamic_shapes=({0: batch},))
    torch.export.save(program, path)
    engine = camrt.load(path, precision=name, trusted=True)
    assert_close(
        engine.predict(random_images()), expected, np.dtype("float16") if name == "fp16" else "bfloat16"
    )
    assert camrt.load(path, trusted=True).predict(random_images()).dtype == np.float32


def test_options_of_the_other_kind_of_model(tmp_path):
    net = build_net(Modular)
    with pytest.raises(InputError, match="plans= is TensorRT's, and means nothing to a torch model"):
        camrt.load(net, size=(12, 16), plans=tmp_path)
    with pytest.raises(InputError, match="compile='fast' must be None, True, or one of"):
        camrt.load(net, size=(12, 16), compile="fast")
    path = camrt.to_onnx(net, torch.zeros(2, 3, 12, 16), tmp_path / "net.onnx")
    with pytest.raises(InputError, match="compile= is for torch models"):
        camrt.load(tmp_path / "net.onnx" if path is None else path, compile=True)


@pytest.mark.parametrize(
    ("best", "name"),
    [
        (lambda logits: logits.topk(2)[0], "topk"),
        (lambda logits: logits.softmax(1).topk(3), "topk"),
        (lambda logits: logits.sort(dim=1, descending=True)[0], "sort"),
        (lambda logits: logits.max(1, keepdim=True), "max"),
    ],
    ids=["values", "both", "sorted", "max"],
)
def test_scores_by_rank_are_refused(best, name):
    with pytest.raises(UnsupportedModelError, match=rf"best scores of each image \({name}\)"):
        load_module(build_net(lambda: Wrapped(best)), size=(12, 16))
