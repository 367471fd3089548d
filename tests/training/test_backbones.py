"""Backbones: any classifier's trunk, its weights kept; finer maps; the paper's three; parameter groups."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from helpers.peer_libraries import import_peer

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

from camrt.errors import InputError, TrainingError  # noqa: E402
from camrt.training.backbones import build_classifier, load_trunk_weights  # noqa: E402
from camrt.training.classifier import Classifier, ParameterGroups, with_head  # noqa: E402
from camrt.training.small_network import SmallNetwork, TinyNetwork  # noqa: E402

SIZE = (64, 64)
# (torchvision's name, the module that gives its last map, that map's channels, cells a side of 64×64
# images)
NETWORKS = [
    ("resnet18", "layer4", 512, 2),
    ("densenet121", "features", 1024, 2),
    ("mobilenet_v2", "features", 1280, 2),
    ("mobilenet_v3_small", "features", 576, 2),
    ("efficientnet_b0", "features", 1280, 2),
    ("convnext_tiny", "features", 768, 2),
    ("squeezenet1_1", "features", 512, 3),
    ("shufflenet_v2_x0_5", "conv5", 1024, 2),
    ("mnasnet0_5", "layers", 1280, 2),
    ("regnet_y_400mf", "trunk_output", 440, 2),
    ("vgg11_bn", "features", 512, 2),
    ("swin_t", "permute", 768, 2),
]


def models() -> Any:
    import_peer("torchvision")
    from torchvision import models as found

    return found


@pytest.mark.peers
@pytest.mark.parametrize(("name", "last", "channels", "cells"), NETWORKS, ids=[row[0] for row in NETWORKS])
def test_torchvisions_trunks_keep_their_weights(name: str, last: str, channels: int, cells: int) -> None:
    torch.manual_seed(0)
    network = models().get_model(name, weights=None).eval()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    images = torch.randn(2, 3, *SIZE)
    seen: list[torch.Tensor] = []
    part = network.get_submodule(last)
    handle = part.register_forward_hook(lambda _, __, output: seen.append(output.clone()))
    with torch.no_grad():
        network(images)
    handle.remove()
    expected = torch.relu(seen[0]) if name.startswith("densenet") else seen[0]
    classifier = with_head(network, "calm", 7, size=SIZE)
    with torch.no_grad():
        features = classifier.trunk(images)
        joint = classifier.maps(images)
    assert features.shape == (2, channels, cells, cells)
    torch.testing.assert_close(features, expected)
    assert joint.shape == (2, 7, cells, cells)
    torch.testing.assert_close(joint.exp().sum((1, 2, 3)), torch.ones(2))
    for key, value in classifier.trunk.state_dict().items():
        torch.testing.assert_close(value, before[key], atol=0, rtol=0)
    classifier.maps(images).sum().backward()
    assert all(parameter.grad is not None for parameter in classifier.parameters())


@pytest.mark.peers
@pytest.mark.parametrize(
    "name", ["resnet18", "convnextv2_atto", "mobilenetv3_small_050", "vgg11", "swin_tiny_patch4_window7_224"]
)
def test_timms_trunks_keep_their_weights(name: str) -> None:
    timm = import_peer("timm")
    torch.manual_seed(0)
    size = (224, 224) if name.startswith("swin") else SIZE
    network = timm.create_model(name, pretrained=False).eval()
    images = torch.randn(2, 3, *size)
    with torch.no_grad():
        expected = network.forward_features(images)
    if name.startswith("swin"):
        expected = expected.permute(0, 3, 1, 2)
    classifier = with_head(network, "cam", 5, size=size)
    with torch.no_grad():
        torch.testing.assert_close(classifier.trunk(images), expected)
    classifier(images).sum().backward()
    assert all(parameter.grad is not None for parameter in classifier.parameters())


@pytest.mark.peers
def test_a_vision_transformer_has_no_map_to_put_a_head_on() -> None:
    timm = import_peer("timm")
    with pytest.raises(InputError, match="tokens and no map"):
        with_head(timm.create_model("vit_tiny_patch16_224"), "calm", 5)
    with pytest.raises(InputError, match="has no map"):
        with_head(models().vit_b_16(image_size=32), "calm", 5, size=(32, 32))


@pytest.mark.parametrize("network", [SmallNetwork, TinyNetwork])
@pytest.mark.parametrize("head", ["cam", "calm"])
def test_own_networks(network: type[nn.Module], head: Any) -> None:
    torch.manual_seed(0)
    classifier = with_head(network(9), head, 4, size=SIZE)
    logits = classifier(torch.randn(3, 3, *SIZE))
    assert logits.shape == (3, 4)
    assert classifier.maps(torch.randn(3, 3, *SIZE)).shape == (3, 4, 8, 8)
    if head == "calm":
        torch.testing.assert_close(logits.exp().sum(1), torch.ones(3))


@pytest.mark.peers
@pytest.mark.parametrize(
    ("name", "stride", "cells"),
    [
        ("resnet18", 16, 4),
        ("resnet18", 8, 8),
        ("resnet18", 4, 16),
        ("vgg11", 8, 8),
        ("mobilenet_v2", 8, 8),
        ("densenet121", 16, 4),
    ],
)
def test_finer_maps(name: str, stride: int, cells: int) -> None:
    network = models().get_model(name, weights=None).eval()
    weights = {key: value.clone() for key, value in network.state_dict().items()}
    classifier = with_head(network, "calm", 3, map_stride=stride, size=SIZE)
    with torch.no_grad():
        assert classifier.trunk(torch.zeros(1, 3, *SIZE)).shape[2:] == (cells, cells)
        assert classifier.trunk(torch.zeros(1, 3, 96, 128)).shape[2:] == (96 // stride, 128 // stride)
    for key, value in classifier.trunk.state_dict().items():
        torch.testing.assert_close(value, weights[key], atol=0, rtol=0)


def test_strides_that_cannot_be_reached() -> None:
    for stride, words in ((16, "coarser than the trunk's own"), (3, "cannot be reached"), (0, ">= 1")):
        with pytest.raises(InputError, match=words):
            with_head(TinyNetwork(2), "calm", 3, map_stride=stride, size=SIZE)


@pytest.mark.peers
@pytest.mark.parametrize("stride", [8, 16])
@pytest.mark.parametrize(
    ("name", "channels"), [("resnet50", 2048), ("vgg16", 1024), ("vgg16_bn", 1024), ("inception_v3", 1024)]
)
def test_the_papers_three(name: str, channels: int, stride: int) -> None:
    """Specification A5: maps of 14×14 and 28×28, 2048 or 1024 channels, and which layers are new."""
    models()
    with torch.device("meta"):  # shapes alone, of weights that nobody draws
        classifier = build_classifier(name, "calm", 20, map_stride=stride, size=(224, 224)).eval()
        with torch.no_grad():
            features = classifier.trunk(torch.randn(1, 3, 224, 224))
    assert features.shape == (1, channels, 224 // stride, 224 // stride)
    names = dict(classifier.trunk.named_parameters())
    new = {key.split(".")[0] for key in names if key.split(".")[0] in classifier.new_layers}
    expected = {
        "resnet50": set(),
        "vgg16": {"new_conv6"},
        "vgg16_bn": {"new_conv6", "new_norm6"},
        "inception_v3": {"new_conv7", "new_conv8"},
    }
    assert new == expected[name]
    groups = ParameterGroups.from_classifier(classifier)
    heads = {id(parameter) for parameter in classifier.head.parameters()}
    assert heads < {id(parameter) for parameter in groups.new} or not new
    assert len(groups.base) + len(groups.new) == len(list(classifier.parameters()))


@pytest.mark.peers
def test_inceptions_maps_on_the_way() -> None:
    models()
    with torch.device("meta"):  # shapes alone
        classifier = build_classifier("inception_v3", "cam", 5, map_stride=8, size=(224, 224)).eval()
    sides: list[int] = []
    watched = (
        "Conv2d_1a_3x3",
        "Conv2d_2a_3x3",
        "Conv2d_2b_3x3",
        "maxpool1",
        "Conv2d_3b_1x1",
        "Conv2d_4a_3x3",
        "maxpool2",
    )
    for name in watched:
        part = classifier.trunk.get_submodule(name)
        part.register_forward_hook(lambda _, __, output: sides.append(output.shape[2]))
    with torch.no_grad():
        classifier(torch.zeros(1, 3, 224, 224, device="meta"))
    assert sides == [112, 110, 110, 56, 56, 54, 28]


@pytest.mark.peers
def test_parameter_groups_by_the_released_codes_names() -> None:
    """The last stage is new but for its layers named conv1, and so is the first normalisation."""
    classifier = with_head(models().resnet18(weights=None), "cam", 5, size=SIZE)
    groups = ParameterGroups.from_classifier(classifier, "reference")
    names = {id(parameter): name for name, parameter in classifier.named_parameters()}
    new = {names[id(parameter)].removeprefix("trunk.") for parameter in groups.new}
    assert {
        "bn1.weight",
        "layer4.0.conv2.weight",
        "layer4.1.bn1.weight",
        "layer4.0.downsample.0.weight",
    } <= new
    assert (
        not {"conv1.weight", "layer4.0.conv1.weight", "layer3.1.bn1.weight", "layer2.0.downsample.0.weight"}
        & new
    )
    plain = {names[id(parameter)] for parameter in ParameterGroups.from_classifier(classifier).new}
    assert plain == {"head.classes.weight", "head.classes.bias"}


def test_new_heads_are_xavier_with_zero_biases() -> None:
    torch.manual_seed(0)
    classifier = with_head(SmallNetwork(2), "calm", 50, size=SIZE)
    weight = classifier.head.classes.weight.detach().numpy()
    bound = np.sqrt(6 / (weight.shape[0] + weight.shape[1]))
    assert np.abs(weight).max() <= bound
    assert np.abs(weight).max() > 0.95 * bound
    assert not classifier.head.classes.bias.detach().numpy().any()


def test_a_head_that_convolves_is_refused() -> None:
    class Convolving(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Conv2d(3, 4, 3, 2), nn.Conv2d(4, 2, 3)
            self.last = nn.Linear(2, 5)

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return self.last(self.second(self.first(images)).flatten(1))

    with pytest.raises(InputError, match="does not end in a pooled-linear or flattened head: second"):
        with_head(Convolving(), "cam", 3, size=(7, 7))


def test_wrong_heads_and_backbones_are_refused() -> None:
    with pytest.raises(InputError, match="'cam' or 'calm'"):
        with_head(TinyNetwork(2), "grad", 3, size=SIZE)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="a CAM head has one form"):
        with_head(TinyNetwork(2), "cam", 3, reference=True, size=SIZE)
    with pytest.raises(InputError, match="'nonesuch' is not known"):
        build_classifier("nonesuch", "cam", 3, map_stride=None, size=SIZE)
    with pytest.raises(InputError, match="no ImageNet weights"):
        build_classifier("tiny", "cam", 3, map_stride=None, size=SIZE, pretrained="imagenet")

    class Flat(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return images.mean((2, 3)) @ torch.ones(3, 4)

    with pytest.raises(InputError, match="has no map"):
        with_head(Flat(), "cam", 3, size=SIZE)

    class Branching(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return images if images.sum() > 0 else -images

    with pytest.raises(InputError, match=r"cannot trace it .*camrt.training.Classifier yourself"):
        with_head(Branching(), "cam", 3, size=SIZE)


@pytest.mark.peers
def test_unknown_library_models_are_refused() -> None:
    import_peer("timm")
    for name, words in (
        ("torchvision:nonesuch", "torchvision has no classifier"),
        ("timm:nonesuch", "timm has no model"),
    ):
        with pytest.raises(InputError, match=words):
            build_classifier(name, "cam", 3, map_stride=None, size=SIZE)


def test_weights_of_a_file(tmp_path: Path) -> None:
    from safetensors.torch import save_file

    torch.manual_seed(0)
    source = with_head(TinyNetwork(2), "cam", 3, size=SIZE)
    save_file(source.trunk.state_dict(), tmp_path / "trunk.safetensors")
    save_file(source.state_dict(), tmp_path / "whole.safetensors")
    for name in ("trunk", "whole"):
        fresh = build_classifier(
            "tiny", "calm", 5, map_stride=None, size=SIZE, pretrained=str(tmp_path / f"{name}.safetensors")
        )
        for key, value in fresh.trunk.state_dict().items():
            torch.testing.assert_close(value, source.trunk.state_dict()[key], atol=0, rtol=0)
    with pytest.raises(TrainingError, match="has no weights for"):
        build_classifier(
            "small", "calm", 5, map_stride=None, size=SIZE, pretrained=str(tmp_path / "trunk.safetensors")
        )
    broken = {key: value[:1] if value.ndim > 1 else value for key, value in source.trunk.state_dict().items()}
    save_file(broken, tmp_path / "other.safetensors")
    with pytest.raises(TrainingError, match=r"has shape .*, this trunk's"):
        load_trunk_weights(source.trunk, tmp_path / "other.safetensors")
    with pytest.raises(TrainingError, match="is a pickle, which can run code"):
        load_trunk_weights(source.trunk, tmp_path / "weights.pth")
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "trunk.safetensors").read_bytes()[:-9])
    for name in ("cut", "missing"):
        with pytest.raises(TrainingError, match="cannot be read as safetensors"):
            load_trunk_weights(source.trunk, tmp_path / f"{name}.safetensors")


def test_a_classifier_of_ones_own() -> None:
    """What torch.fx cannot trace is put together by hand."""
    from camrt.training.heads import CALMHead

    classifier = Classifier(nn.Conv2d(3, 6, 3, 2), CALMHead(6, 4))
    assert classifier(torch.zeros(2, 3, 9, 9)).shape == (2, 4)
