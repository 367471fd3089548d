"""Modules that take images channels last, against the same module by itself in float64."""

from __future__ import annotations

import copy

import numpy as np
import pytest

import camrt
from camrt.errors import BackendError, InputError
from helpers.tolerances import assert_close
from helpers.torch_nets import CLASSES, Modular, build_net, nn, random_images, torch

SIZE = (12, 16)


class Turned(Modular):
    """Takes (N, H, W, C), and brings it to its convolutions."""

    def forward(self, batch):
        assert batch.shape[-1] == 3
        return super().forward(batch.permute(0, 3, 1, 2))


class Banded(nn.Module):
    """Linear layers on images (N, H, W, 6), seen by `view`, which wants them one after the other."""

    def __init__(self):
        super().__init__()
        self.bands = nn.Linear(6, 5)
        self.act = nn.GELU()
        self.mix = nn.Conv2d(5, 7, 3, 2, 1)
        self.head = nn.Linear(7, CLASSES)

    def forward(self, batch):
        count, height, width, _ = batch.shape
        x = self.act(self.bands(batch.view(count, height * width, 6)))
        x = self.mix(x.view(count, height, width, 5).permute(0, 3, 1, 2))
        return self.head(x.relu().mean((2, 3)))


class Detoured(Modular):
    """Its first convolution among its parts is not the first that is run."""

    def __init__(self):
        super().__init__()
        parts = dict(self._modules)
        self._modules.clear()
        self.added = nn.Conv2d(8, 8, 1)
        self._modules.update(parts)

    def forward(self, images):
        x = self.relu(self.added(self.body(self.stem(images))))
        return self.head(self.pool(self.relu(self.last(x))).flatten(1))


def checked(net, engine, batch):
    """Logits and input gradients are those of the module itself, in float64."""
    twin = copy.deepcopy(net).double()
    given = torch.from_numpy(batch).double().requires_grad_()
    logits = twin(given.permute(0, 2, 3, 1).contiguous())
    logits[:, 2].sum().backward()
    assert_close(engine.predict(batch), logits.detach().numpy(), np.float32, factor=8)  # five layers
    found = engine.explain(batch, "gradient", targets=2)
    assert found.maps.shape == (len(batch), *SIZE)
    weighting = np.zeros((len(batch), CLASSES), np.float32)
    weighting[:, 2] = 1
    _, gradient = engine.input_gradients(batch, weighting)
    assert_close(gradient, given.grad.numpy(), np.float32, factor=32)  # and back


def bands(count=3):
    return np.random.default_rng(3).standard_normal((count, 6, *SIZE), np.float32)


def test_an_example_with_channels_last():
    net = build_net(Turned)
    engine = camrt.load(net, example=np.zeros((2, *SIZE, 3), np.float32))
    assert (engine.interface.layout, engine.interface.channels) == ("NHWC", 3)
    assert engine.target.shape == (7, 3, 4)
    assert "NHWC" in engine.describe()
    checked(net, engine, random_images())
    plain = camrt.load(build_net(Modular), size=SIZE)
    for method in ("pixab", "ablation", "gradcam"):
        ours, theirs = (one.explain(random_images(), method, targets=2).raw for one in (engine, plain))
        assert_close(ours, theirs, factor=16)


def test_bands_that_the_first_layer_reads_from_the_last_axis():
    net = build_net(Banded)
    engine = camrt.load(net, example=np.zeros((2, *SIZE, 6), np.float32))
    assert (engine.interface.layout, engine.interface.channels) == ("NHWC", 6)
    checked(net, engine, bands())
    cells = engine.target.shape[1:]
    assert cells == (6, 8)


def test_a_layout_that_is_said():
    net = build_net(Turned)
    engine = camrt.load(net, size=SIZE, layout="NHWC")
    checked(net, engine, random_images())
    with pytest.raises(BackendError, match="failed on images"):
        camrt.load(net, size=SIZE, layout="NCHW")
    with pytest.raises(InputError, match=r"layout='HWC' must be 'NCHW' .* or 'NHWC'"):
        camrt.load(net, size=SIZE, layout="HWC")


def test_an_exported_module_with_channels_last(tmp_path):
    net = build_net(Turned)
    program = torch.export.export(net, (torch.zeros(2, *SIZE, 3),))
    torch.export.save(program, tmp_path / "model.pt2")
    engine = camrt.load(tmp_path / "model.pt2", trusted=True)
    assert (engine.interface.layout, engine.interface.batch) == ("NHWC", 2)
    assert (engine.interface.height, engine.interface.width) == SIZE
    checked(net, engine, random_images())


@pytest.mark.parametrize("shape", [(2, 3, 32, 3), (2, 3, 8, 4), (2, 3, 3, 3)])
def test_what_stays_channels_first(shape):
    engine = camrt.load(build_net(Modular), example=np.zeros(shape, np.float32))
    assert (engine.interface.layout, engine.interface.channels) == ("NCHW", 3)


def test_colours_that_the_first_convolution_does_not_tell():
    net = build_net(Detoured)
    assert next(part for part in net.modules() if isinstance(part, nn.Conv2d)) is net.added
    engine = camrt.load(net, size=SIZE)
    assert engine.interface.channels == 3
