"""A torch module and the file exported from it are cut at the same activation when nobody says where.

Architectures are timm's, made small, with random weights. A few are tried each time;
CAMRT_ALL_ARCHITECTURES=1 tries all, and by both exporters, which takes some minutes.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

import camrt
from camrt.engine.arrays import to_numpy
from camrt.export.heads.cut import ACTIVATION
from helpers.peer_libraries import import_peer
from helpers.tolerances import assert_close
from helpers.torch_exporters import export
from helpers.torch_nets import activation_and_gradient

torch = pytest.importorskip("torch")
pytest.importorskip("onnxscript")

CLASSES = 10
# Blocks of a transformer in float32, once by torch and once by ONNX Runtime.
DEEP = 32.0


@dataclass(frozen=True)
class Small:
    """A small network of an architecture.

    Attributes:
        make: Makes it, from timm's package of models.
        size: (H, W) of its images.
        targets: Modules it is cut at.
        shapes: (K, h, w) of what they give.
        quick: Whether it takes part when not all were asked for.
        traced: Whether the exporter that traces can write it.
    """

    make: Callable[[Any], Any]
    size: tuple[int, int]
    targets: tuple[str, ...]
    shapes: tuple[tuple[int, int, int], ...]
    quick: bool = True
    traced: bool = True


def vit(**options: Any) -> Callable[[Any], Any]:
    options = {"patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 2, **options}
    return lambda models: models.vision_transformer.VisionTransformer(
        img_size=(32, 48), num_classes=CLASSES, **options
    )


def named(name: str, **options: Any) -> Callable[[Any], Any]:
    return lambda models: models.create_model(name, num_classes=CLASSES, **options)


def mvit(models: Any) -> Any:
    module = models.mvitv2
    settings = module.MultiScaleVitCfg(depths=(1, 1), embed_dim=16, num_heads=1, stride_q=((1, 1), (2, 2)))
    return module.MultiScaleVit(settings, img_size=(64, 64), num_classes=CLASSES)


def mixer(models: Any) -> Any:
    return models.mlp_mixer.MlpMixer(
        img_size=64, patch_size=16, embed_dim=24, num_blocks=2, num_classes=CLASSES
    )


def crossvit(models: Any) -> Any:
    return models.crossvit.CrossVit(
        img_size=48, img_scale=(1.0, 1.0), patch_size=(8, 12), embed_dim=(16, 24),
        depth=((1, 1, 0), (1, 1, 0)), num_heads=(2, 2), mlp_ratio=(2.0, 2.0, 1.0), num_classes=CLASSES,
    )  # fmt: skip


SMALL = {
    "class-token": Small(vit(), (32, 48), ("blocks.0",), ((24, 4, 6),)),
    "mean-of-patches": Small(vit(global_pool="avg"), (32, 48), ("blocks",), ((24, 4, 6),)),
    "cait": Small(
        named(
            "cait_xxs24_224", img_size=32, patch_size=8, depth=2, embed_dim=24, num_heads=2,
            depth_token_only=1,
        ),
        (32, 32), ("blocks",), ((24, 4, 4),),
    ),
    "clip-resnet": Small(
        named("test_byobnet", head_type="attn_abs", img_size=64), (64, 64), ("stages",), ((256, 2, 2),)
    ),
    "levit": Small(
        named(
            "levit_128s", img_size=64, embed_dim=(16, 24), depth=(1, 1), num_heads=(2, 2), key_dim=8
        ),
        (64, 64), ("stages",), ((24, 2, 2),),
    ),
    "mixer": Small(mixer, (64, 64), ("norm",), ((24, 4, 4),)),
    "mvit": Small(mvit, (64, 64), ("norm",), ((32, 8, 8),)),
    "swin": Small(
        named(
            "swin_tiny_patch4_window7_224", img_size=32, window_size=4, depths=(2, 2), embed_dim=16,
            num_heads=(2, 2),
        ),
        (32, 32), ("norm",), ((32, 4, 4),),
    ),
    "crossvit": Small(
        crossvit, (48, 48), ("blocks.1.blocks.0", "blocks.1.blocks.1"), ((16, 6, 6), (24, 4, 4))
    ),
    "ghostnet": Small(named("ghostnet_050"), (64, 96), ("blocks",), ((480, 2, 3),), quick=False),
    "convnext": Small(named("test_convnext"), (64, 96), ("stages",), ((64, 2, 3),), quick=False),
    "mambaout": Small(named("test_mambaout"), (64, 96), ("stages",), ((64, 2, 3),), quick=False),
    "efficientnet": Small(named("test_efficientnet"), (64, 96), ("bn2",), ((256, 2, 3),), quick=False),
    "eva": Small(
        named("eva02_tiny_patch14_224", img_size=28, depth=2, embed_dim=24, num_heads=2),
        (28, 28), ("blocks.1",), ((24, 2, 2),), quick=False, traced=False,
    ),
    "csatv2": Small(
        named("csatv2", dims=(8, 16, 24, 32), depths=(1, 1, 1, 1), transformer_depths=(0, 0, 1, 1)),
        (64, 64), ("stages.2",), ((24, 2, 2),), quick=False, traced=False,
    ),
}  # fmt: skip
ALL = os.environ.get("CAMRT_ALL_ARCHITECTURES") == "1"
CHOSEN = [
    pytest.param(name, exporter, id=f"{name}-{exporter}")
    for name, small in SMALL.items()
    for exporter in ("script", "dynamo")
    if (small.traced or exporter == "dynamo") and (ALL or (small.quick and exporter == "script"))
]


def built(small: Small) -> Any:
    """The network, with numbers in place of what begins as zeros, and scales that differ."""
    import_peer("torchvision")
    models = import_peer("timm").models
    torch.manual_seed(0)
    net = small.make(models)
    with torch.no_grad():
        for parameter in net.parameters():
            if parameter.abs().max() < 1e-3:
                parameter.normal_(std=0.3)
            elif parameter.ndim == 1:
                parameter.mul_(1 + 0.3 * torch.randn_like(parameter))
    return net.eval()


def as_map(tensor: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
    """What a module gives as (N, K, h, w), which may be that already, or channels last, or tokens."""
    channels, height, width = shape
    if tensor.shape[1:] == shape:
        return tensor
    cells = tensor.reshape(len(tensor), -1, channels)[:, -height * width :]
    return cells.swapaxes(1, 2).reshape(len(tensor), *shape)


@pytest.mark.parametrize(("name", "exporter"), CHOSEN)
def test_the_file_is_cut_where_the_module_is(name, exporter, tmp_path):
    small = SMALL[name]
    net = built(small)
    images = np.random.default_rng(0).standard_normal((2, 3, *small.size), np.float32)
    classes = np.array([1, 2])
    expected = [
        tuple(as_map(one, shape) for one in activation_and_gradient(net, target, images, classes))
        for target, shape in zip(small.targets, small.shapes, strict=True)
    ]
    path = export(net, small.size, tmp_path / "model.onnx", dynamo=exporter == "dynamo", opened=True)
    engines = (camrt.load(net, size=small.size, example=images, threads=1), camrt.load(path, threads=1))
    assert tuple(cut.target.name for cut in engines[0].cuts) == small.targets
    for engine in engines:
        assert tuple(cut.target.shape for cut in engine.cuts) == small.shapes
        taps = [cut.taps[ACTIVATION] for cut in engine.cuts]
        for found, (values, _) in zip(engine._model(engine.device.put(images), taps), expected, strict=True):
            assert_close(to_numpy(found), values, np.float32, factor=DEEP)
    if len(small.targets) == 1:
        ((values, gradient),) = expected
        terms = values * np.maximum(gradient, 0)
        # the sum's own size may be far below that of its terms
        factor = DEEP * np.abs(terms).sum(axis=1).max() / np.abs(terms.sum(axis=1)).max()
        for engine in engines:
            found = engine.explain(images, "layercam", targets=classes, size="map").raw
            assert_close(found, terms.sum(axis=1), np.float32, factor=factor)
    else:
        ours, theirs = (engine.explain(images, "gradcam", targets=classes).maps for engine in engines)
        assert ours.max() > 0
        assert_close(ours, theirs, np.float32, factor=DEEP * DEEP)  # scaled to [0, 1]
