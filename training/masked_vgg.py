"""VGG networks whose dense part cannot see the lower rows of the last map.

"CAM-Based Methods Can See through Walls" (ECML-PKDD 2024), section 4 (specification D3). The weights of the
first dense layer for the lower rows of the map are zero, and `camrt.training.masked_training` keeps them so.
What lies so low in an image that no row above reaches it is out of sight for the whole network, and an
explanation that marks it is wrong.

`camrt train masked-vgg` trains one.
"""

from __future__ import annotations

import math
from typing import Any, Final, cast

import torch
from torch import nn

from camrt.errors import InputError
from camrt.training.weight_masks import ZeroMask

__all__ = ["VGG16_BLOCKS", "MaskedVGG", "MaskedVGG16", "dead_rows", "seen_rows", "small_masked_vgg"]

Blocks = tuple[tuple[int, ...], ...]
"""Channels of the 3×3 convolutions of each block; a 2×2 max-pool lies between two blocks."""

VGG16_BLOCKS: Final[Blocks] = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 256))
"""torchvision's VGG16, but for the last convolution's 256 channels in place of 512."""

DENSE_INPUTS = (50176, 4096, 4096)
"""Inputs of the three dense layers of the paper's network."""


class MaskedVGG(nn.Module):
    """Convolutions with max-pools between their blocks, and three dense layers on the flattened last map.

    Initialised as torchvision's VGG: Kaiming's normal numbers in convolutions, N(0, 0.01²) in dense layers,
    biases 0. Where a dense layer has fewer inputs than the paper's, its deviation is larger by the root of
    their ratio, so that signals are as large as there; with 0.01 they would all but vanish.

    Args:
        blocks: Channels of the convolutions.
        size: Side of the images, in pixels.
        hidden: Units of the two hidden dense layers.
        num_classes: C.
        kept_rows: Rows of the last map, from the top, that the dense layers see.
        masked: False leaves all of them, for comparison.

    Attributes:
        features: Images to the last map (N, K, h, w), rectified: the layer that CAM methods explain.
        classifier: The flattened map to logits.
        kept_rows: Rows that are seen; h where `masked` is False.
        dead_rows: Rows of the image, at the bottom, that no output depends on.
        masks: What is held at zero; nothing where `masked` is False.

    Raises:
        InputError: Images too small for the pools, or `kept_rows` not between 1 and h.
    """

    def __init__(
        self,
        blocks: Blocks,
        size: int,
        hidden: int,
        num_classes: int,
        *,
        kept_rows: int,
        masked: bool = True,
    ) -> None:
        super().__init__()
        self.size = size
        self.features = build_convolutions(blocks)
        height = output_heights(self.features, size)[-1]
        if not 1 <= kept_rows <= height:
            raise InputError(f"kept_rows={kept_rows} must be between 1 and the map's {height} rows")
        self.kept_rows = kept_rows if masked else height
        self.dead_rows = size - seen_rows(self.features, self.kept_rows, size)
        channels = blocks[-1][-1]
        self.classifier = nn.Sequential(
            nn.Linear(channels * height * height, hidden),
            nn.ReLU(),
            nn.Dropout(0.5),
            nn.Linear(hidden, hidden),
            nn.ReLU(),
            nn.Dropout(0.5),
            nn.Linear(hidden, num_classes),
        )
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
            if isinstance(layer, nn.Conv2d | nn.Linear) and layer.bias is not None:
                nn.init.zeros_(layer.bias)
        dense = [layer for layer in self.classifier if isinstance(layer, nn.Linear)]
        for layer, inputs in zip(dense, DENSE_INPUTS, strict=True):
            nn.init.normal_(layer.weight, 0, 0.01 * math.sqrt(inputs / layer.in_features))
        self.masks: tuple[ZeroMask, ...] = ()
        if masked:
            unseen = torch.zeros(channels, height, height, dtype=torch.bool, device="cpu")
            unseen[:, kept_rows:] = True
            self.masks = (ZeroMask(cast("nn.Parameter", dense[0].weight), unseen.flatten()),)
        self.apply_masks()
        hooks: Any = self  # torch gives the next call no types
        hooks.register_load_state_dict_post_hook(lambda module, _: module.apply_masks())

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Images (N, 3, size, size) to logits (N, C)."""
        logits: torch.Tensor = self.classifier(self.features(images).flatten(1))
        return logits

    def apply_masks(self) -> None:
        """Sets what is held at zero to zero; done when the network is built and when weights are loaded."""
        for mask in self.masks:
            mask.apply()


class MaskedVGG16(MaskedVGG):
    """The paper's network: VGG16 for 224×224, its last map 256×14×14 without a pool behind it.

    Args:
        num_classes: C.
        kept_rows: Rows of the 14 that are seen; with 5 the last 54 rows of an image are out of sight.
        masked: False leaves all of them.
        hidden: Units of the two hidden dense layers.
    """

    def __init__(
        self, num_classes: int = 1000, kept_rows: int = 5, masked: bool = True, *, hidden: int = 4096
    ) -> None:
        super().__init__(VGG16_BLOCKS, 224, hidden, num_classes, kept_rows=kept_rows, masked=masked)


def small_masked_vgg(
    num_classes: int,
    kept_rows: int = 3,
    masked: bool = True,
    *,
    size: int = 64,
    width: int = 16,
    hidden: int = 256,
) -> MaskedVGG:
    """The same construction for a machine without a GPU: seven convolutions, a map of an eighth of the side.

    With 64×64 images and 3 of the 8 rows kept (38 %; in the paper 36 %), the last 18 rows of an image are
    out of sight (28 %; in the paper 24 %).

    Args:
        num_classes: C.
        kept_rows: Rows of the last map that are seen.
        masked: False leaves all of them.
        size: Side of the images.
        width: Channels of the first block.
        hidden: Units of the two hidden dense layers.

    Raises:
        InputError: As `MaskedVGG`.
    """
    blocks = ((width, width), (2 * width, 2 * width), (4 * width, 4 * width), (4 * width,))
    return MaskedVGG(blocks, size, hidden, num_classes, kept_rows=kept_rows, masked=masked)


def build_convolutions(blocks: Blocks) -> nn.Sequential:
    """3×3 convolutions of padding 1, each rectified, with a 2×2 max-pool between every two blocks."""
    layers: list[nn.Module] = []
    inputs = 3
    for number, block in enumerate(blocks):
        if number:
            layers.append(nn.MaxPool2d(2, 2))
        for outputs in block:
            layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.ReLU()]
            inputs = outputs
    return nn.Sequential(*layers)


def window_of(layer: nn.Module) -> tuple[int, int, int]:
    """(rows a layer's window spans, stride, padding at the top).

    Raises:
        InputError: A layer of another kind.
    """
    if isinstance(layer, nn.ReLU):
        return 1, 1, 0
    if isinstance(layer, nn.Conv2d | nn.MaxPool2d) and not isinstance(layer.padding, str):
        side, stride, padding, dilation = (
            int(value if isinstance(value, int) else value[0])
            for value in (layer.kernel_size, layer.stride, layer.padding, layer.dilation)
        )
        return dilation * (side - 1) + 1, stride, padding
    raise InputError(f"{layer} is neither a convolution, a max-pool nor a rectifier")


def output_heights(layers: nn.Sequential, size: int) -> list[int]:
    """Rows of the image and of each layer's output.

    Raises:
        InputError: Nothing is left of an image so small.
    """
    found = [size]
    for layer in layers:
        span, stride, padding = window_of(layer)
        found.append((found[-1] + 2 * padding - span) // stride + 1)
        if found[-1] < 1:
            raise InputError(f"images of side {size} are too small for the network's layers")
    return found


def seen_rows(layers: nn.Sequential, rows: int, size: int) -> int:
    """How many rows of the image, from the top, the first `rows` rows of the output depend on.

    Back through each layer, the last of n rows spans up to row (n − 1) · stride + window − padding of its
    input, or to the input's end.

    Args:
        layers: Convolutions, max-pools and rectifiers.
        rows: Rows of the output, at least 1.
        size: Side of the image.

    Raises:
        InputError: More rows than the output has, none, or a layer of another kind.
    """
    found = output_heights(layers, size)
    if not 1 <= rows <= found[-1]:
        raise InputError(f"rows={rows} must be between 1 and the map's {found[-1]}")
    for layer, height in zip(reversed(list(layers)), reversed(found[:-1]), strict=True):
        span, stride, padding = window_of(layer)
        rows = min((rows - 1) * stride + span - padding, height)
    return rows


def dead_rows(kept_rows: int, size: int = 224, blocks: Blocks = VGG16_BLOCKS) -> int:
    """How many rows at the bottom of an image are out of sight when only the upper rows of the map are seen.

    Of VGG16 at 224 pixels, by its receptive fields, 118 − 16 (kept_rows − 1), and none from 9 on.

    Args:
        kept_rows: Rows of the last map that are seen.
        size: Side of the image.
        blocks: The convolutions.

    Raises:
        InputError: `kept_rows` is not between 1 and the map's rows.
    """
    with torch.device("meta"):
        layers = build_convolutions(blocks)
    return size - seen_rows(layers, kept_rows, size)
