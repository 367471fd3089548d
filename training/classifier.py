"""A classifier that explains itself: a trunk that gives a map, and a CAM or CALM head on it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from camrt.errors import InputError
from camrt.training.heads import CALMHead, CAMHead, HeadKind, class_scores
from camrt.training.strides import set_map_stride
from camrt.training.trunks import extract_trunk, map_shape

__all__ = ["Classifier", "ParameterGroups", "with_head"]


class Classifier(nn.Module):
    """A trunk and a head.

    Args:
        trunk: Images (N, 3, H, W) to features (N, K, h, w).
        head: On features of K channels.
        new_layers: Names of the trunk's layers that were not trained before, as the head never was.
    """

    def __init__(self, trunk: nn.Module, head: CAMHead | CALMHead, new_layers: tuple[str, ...] = ()) -> None:
        super().__init__()
        self.trunk = trunk
        self.head = head
        self.new_layers = new_layers

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Images (N, 3, H, W) to logits (N, C).

        A CALM classifier's are log p(y|x): their softmax is p(y|x), as with any logits.
        """
        return self.head.scores(self.trunk(images))

    def maps(self, images: torch.Tensor) -> torch.Tensor:
        """Images to what the head gives, (N, C, h, w): class maps of CAM, log p(y,z|x) of CALM."""
        maps: torch.Tensor = self.head(self.trunk(images))
        return maps

    def exported_outputs(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """What an exported file gives, by name, see `camrt.to_onnx`."""
        features = self.trunk(images)
        if isinstance(self.head, CAMHead):
            return {"logits": self.head.scores(features), "class_maps": self.head(features)}
        log_place = self.head.log_place(features)
        log_joint = self.head.log_class_at_place(features) + log_place
        return {
            "probabilities": class_scores(log_joint).exp(),
            "log_joint": log_joint,
            "place_probabilities": log_place.exp(),
        }

    def exported_head(self) -> dict[str, Any]:
        """What the outputs of an exported file are."""
        if isinstance(self.head, CAMHead):
            return {"kind": "cam", "logits": "logits", "class_maps": "class_maps"}
        names = ("probabilities", "log_joint", "place_probabilities")
        return {"kind": "calm", **{name: name for name in names}}


@dataclass(frozen=True)
class ParameterGroups:
    """Parameters by the learning rate that they get.

    Attributes:
        base: Those that were trained before.
        new: Those that were not.
    """

    base: tuple[nn.Parameter, ...]
    new: tuple[nn.Parameter, ...]

    @classmethod
    def from_classifier(
        cls, classifier: Classifier, rule: Literal["pretrained", "reference"] = "pretrained"
    ) -> ParameterGroups:
        """Splits a classifier's parameters (specification A6).

        Args:
            classifier: The classifier.
            rule: "pretrained": the head and the trunk's new layers are new. "reference": as the released code
                of CALM tells them apart, by parts of their names; of ResNets the last stage and the first
                normalisation are new too, but for the last stage's layers named conv1.
        """
        base: list[nn.Parameter] = []
        new: list[nn.Parameter] = []
        for name, parameter in iter_parameters(classifier):
            fresh = name.startswith("head.") or belongs_to(name, classifier.new_layers)
            if rule == "reference" and not fresh:
                fresh = is_new_in_reference(name)
            (new if fresh else base).append(parameter)
        return cls(tuple(base), tuple(new))


def with_head(
    backbone: nn.Module,
    head: HeadKind,
    num_classes: int,
    *,
    map_stride: int | None = None,
    reference: bool = False,
    size: tuple[int, int] = (224, 224),
) -> Classifier:
    """Turns a classifier into a CAM or CALM classifier of other classes; its trunk keeps its weights.

    Args:
        backbone: A torchvision or timm classifier, or any other that torch.fx can trace, whose head pools or
            flattens its last map. It is taken apart, not copied.
        head: "cam" or "calm".
        num_classes: C.
        map_stride: Pixels of the image that one cell of the map shall stand for; None leaves the trunk's.
        reference: For CALM, see `CALMHead`.
        size: (H, W) of images that the backbone takes.

    Returns:
        The classifier; its head is new: Xavier-uniform weights, biases zero.

    Raises:
        InputError: The backbone has another kind of head, or cannot have maps of this stride.
    """
    trunk = extract_trunk(backbone, size)
    if map_stride is not None:
        set_map_stride(trunk, map_stride, size)
    return Classifier(trunk, build_head(head, map_shape(trunk, size)[0], num_classes, reference=reference))


def build_head(
    kind: HeadKind, channels: int, num_classes: int, *, reference: bool = False
) -> CAMHead | CALMHead:
    """An untrained head of a kind."""
    head: CAMHead | CALMHead
    if kind == "cam":
        if reference:
            raise InputError("reference=True is a form of the CALM head; a CAM head has one form")
        head = CAMHead(channels, num_classes)
    elif kind == "calm":
        head = CALMHead(channels, num_classes, reference=reference)
    else:
        raise InputError(f"head={kind!r} must be 'cam' or 'calm'")
    for layer in head.children():
        assert isinstance(layer, nn.Conv2d)
        assert layer.bias is not None
        nn.init.xavier_uniform_(layer.weight)
        nn.init.zeros_(layer.bias)
    return head


def iter_parameters(classifier: Classifier) -> Iterator[tuple[str, nn.Parameter]]:
    """Parameters with their names, the trunk's without its prefixes."""
    for name, parameter in classifier.named_parameters():
        yield name.removeprefix("trunk.").removeprefix("model."), parameter


def belongs_to(name: str, layers: tuple[str, ...]) -> bool:
    """Whether a parameter belongs to one of the layers."""
    return any(name == layer or name.startswith(f"{layer}.") for layer in layers)


def is_new_in_reference(name: str) -> bool:
    """What the released code of CALM calls new in a ResNet, by substrings of the parameter's name."""
    old = ("conv1", "layer1", "layer2", "layer3")
    return name.startswith(("layer4.", "bn1.")) and not any(part in name for part in old)
