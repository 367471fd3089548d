"""Backbones by name: networks of ours, the paper's three, and all of torchvision's and timm's."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, Final

import torch
from torch import nn

from camrt.errors import InputError, TrainingError
from camrt.training import paper_trunks
from camrt.training.classifier import Classifier, build_head
from camrt.training.heads import HeadKind
from camrt.training.libraries import training_imports
from camrt.training.small_network import SmallNetwork, TinyNetwork
from camrt.training.strides import set_map_stride
from camrt.training.tensor_files import read_tensors
from camrt.training.trunks import TimmTrunk, extract_trunk, map_shape

__all__ = ["PAPER_NETWORKS", "SMALL_NETWORKS", "build_classifier", "load_trunk_weights"]

SMALL_NETWORKS: Final[dict[str, Callable[[int], nn.Module]]] = {"small": SmallNetwork, "tiny": TinyNetwork}
"""Networks for a machine without a GPU, from scratch."""
PAPER_NETWORKS: Final = ("resnet50", "vgg16", "vgg16_bn", "inception_v3")
"""The networks of "Keep CALM and Improve Visual Feature Attribution", from torchvision."""


def build_classifier(
    backbone: str,
    head: HeadKind,
    num_classes: int,
    *,
    map_stride: int | None,
    size: tuple[int, int],
    pretrained: str = "none",
    reference: bool = False,
) -> Classifier:
    """A CAM or CALM classifier with a backbone that is named.

    Args:
        backbone: See `camrt.training.recipe.Recipe`.
        head: "cam" or "calm".
        num_classes: C.
        map_stride: Pixels that a cell of the map stands for; None leaves the backbone's own.
        size: (H, W) of the images.
        pretrained: "none"; "imagenet"; or a .safetensors file of the trunk's weights, or a run's folder.
        reference: For CALM, see `CALMHead`.

    Raises:
        InputError: An unknown backbone, or one that cannot have such a head or such maps.
        TrainingError: Weights that cannot be read or do not fit, or a library that is missing.
    """
    trunk, new_layers = build_trunk(backbone, map_stride, size, pretrained == "imagenet")
    head_module = build_head(head, map_shape(trunk, size)[0], num_classes, reference=reference)
    if pretrained not in ("none", "imagenet"):
        load_trunk_weights(trunk, Path(pretrained))
        new_layers = ()
    return Classifier(trunk, head_module, new_layers)


def build_trunk(
    backbone: str, map_stride: int | None, size: tuple[int, int], imagenet: bool
) -> tuple[nn.Module, tuple[str, ...]]:
    """A trunk, and the names of those of its layers that nobody has trained."""
    if backbone in SMALL_NETWORKS:
        if imagenet:
            raise InputError(
                f"there are no ImageNet weights for {backbone!r}: pretrained must be 'none' or a file"
            )
        trunk = extract_trunk(SMALL_NETWORKS[backbone](1), size)
    elif backbone in PAPER_NETWORKS:
        network = torchvision_model(backbone, imagenet)
        stride = 8 if map_stride is None else map_stride
        if backbone == "resnet50":
            return paper_trunks.resnet50(network, stride), ()
        make = paper_trunks.inception_v3 if backbone == "inception_v3" else paper_trunks.vgg16
        trunk = make(network, stride)
        return trunk, paper_trunks.new_layers(trunk)
    elif backbone.startswith("torchvision:"):
        trunk = extract_trunk(torchvision_model(backbone.removeprefix("torchvision:"), imagenet), size)
    elif backbone.startswith("timm:"):
        trunk = extract_trunk(timm_model(backbone.removeprefix("timm:"), imagenet), size)
    else:
        raise InputError(
            f"backbone {backbone!r} is not known; there are "
            f"{', '.join((*SMALL_NETWORKS, *PAPER_NETWORKS))}, torchvision:NAME "
            "and timm:NAME"
        )
    if map_stride is not None:
        set_map_stride(trunk, map_stride, size)
    return trunk, ()


def torchvision_model(name: str, imagenet: bool) -> nn.Module:
    """One of torchvision's classifiers."""
    with training_imports("backbones"):
        models = import_module("torchvision.models")
    options: dict[str, Any] = {"init_weights": False} if name in ("inception_v3", "googlenet") else {}
    if name not in models.list_models(module=models):
        raise InputError(
            f"torchvision has no classifier {name!r}; torchvision.models.list_models() names them"
        )
    model: nn.Module = models.get_model(
        name, weights="DEFAULT" if imagenet else None, **({} if imagenet else options)
    )
    return model


def timm_model(name: str, imagenet: bool) -> nn.Module:
    """One of timm's classifiers."""
    with training_imports("backbones"):
        timm = import_module("timm")
    if not timm.is_model(name):
        raise InputError(f"timm has no model {name!r}; timm.list_models() names them")
    model: nn.Module = timm.create_model(name, pretrained=imagenet)
    return model


def load_trunk_weights(trunk: nn.Module, source: Path) -> None:
    """Gives a trunk the weights of a file, or of another run's trunk; the head there is dropped.

    Args:
        trunk: The trunk, changed in place.
        source: A .safetensors file, or a run's folder.

    Raises:
        TrainingError: It cannot be read, is a pickle, or has other weights than this trunk.
    """
    path = source / "model.safetensors" if source.is_dir() else source
    if path.suffix in (".pt", ".pth", ".bin", ".ckpt", ".pkl"):
        raise TrainingError(
            f"{path} is a pickle, which can run code when it is read: load it yourself with torch.load, if "
            "you trust where it comes from, and save its weights with safetensors.torch.save_file"
        )
    tensors, _ = read_tensors(path)
    wanted = (trunk.model if isinstance(trunk, TimmTrunk) else trunk).state_dict()
    for prefix in ("", "trunk.", "trunk.model."):
        found = {
            name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)
        }
        if weight_names(wanted) <= set(found):
            tensors = found
            break
    if missing := sorted(weight_names(wanted) - set(tensors)):
        raise TrainingError(f"{path} has no weights for {', '.join(missing[:3])}{' …' * (len(missing) > 3)}")
    for name, value in wanted.items():
        if name in tensors and tensors[name].shape != value.shape:
            raise TrainingError(
                f"{path}: {name} has shape {tuple(tensors[name].shape)}, this trunk's {tuple(value.shape)}"
            )
    with torch.no_grad():
        for name, value in wanted.items():
            if name in tensors:
                value.copy_(tensors[name])


def weight_names(state: Mapping[str, torch.Tensor]) -> set[str]:
    """The names of a state that weights must be given for; counters of batches may be missing."""
    return {name for name in state if not name.endswith("num_batches_tracked")}
