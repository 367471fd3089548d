"""What a module gives as a map: channels first, channels last, or a row of tokens."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from camrt.errors import CutError
from camrt.export.geometry import map_formats
from camrt.export.geometry.map_formats import find_token_grid

__all__ = ["MapLayout", "layout_from_shape"]

MIN_TOKENS = 4


@dataclass(frozen=True)
class MapLayout:
    """How a tensor is read as a map (N, K, h, w).

    Attributes:
        kind: "map" (N, K, h, w), "channels-last" (N, h, w, K), or "tokens" (N, prefix + h·w, K).
        shape: (K, h, w) where it was found.
        prefix: Tokens in front of the patches; they are no part of the map.
    """

    kind: map_formats.MapLayout
    shape: tuple[int, int, int]
    prefix: int = 0

    def to_map(self, tensor: torch.Tensor, image: tuple[int, int]) -> torch.Tensor:
        """The map (N, K, h, w) in a tensor, for images of (H, W)."""
        if self.kind == "map":
            return tensor
        if self.kind == "channels-last":
            return tensor.permute(0, 3, 1, 2)
        patches = tensor[:, self.prefix :].transpose(1, 2)
        return patches.reshape(*patches.shape[:2], *self.grid(patches.shape[2], image))

    def from_map(self, maps: torch.Tensor, prefix: torch.Tensor | None) -> torch.Tensor:
        """The tensor a map (N, K, h, w) stands for, with the tokens (N, prefix, K) in front of it."""
        if self.kind == "map":
            return maps.clone()
        if self.kind == "channels-last":
            return maps.permute(0, 2, 3, 1).clone(memory_format=torch.contiguous_format)
        patches = maps.flatten(2).transpose(1, 2)
        if prefix is None or not self.prefix:
            return patches.clone(memory_format=torch.contiguous_format)
        return torch.cat([prefix, patches], dim=1)

    def grid(self, cells: int, image: tuple[int, int]) -> tuple[int, int]:
        """(h, w) of that many patches: the one found at loading, or of the image's proportions."""
        _, height, width = self.shape
        if cells == height * width:
            return height, width
        height = round(math.sqrt(cells * image[0] / image[1]))
        if not height or cells % height:
            raise CutError(
                f"{cells} tokens of images {image[0]}×{image[1]} are no grid of their proportions: "
                "load the module with size= that of the images, and grid=(h, w)"
            )
        return height, cells // height


def layout_from_shape(
    shape: tuple[int, ...],
    image: tuple[int, int],
    patches: list[tuple[int, int]],
    grid: tuple[int, int] | None,
) -> MapLayout | None:
    """How a tensor of a shape may be read as a map; None when it cannot.

    Args:
        shape: Of the tensor.
        image: (H, W) of the images it was made from.
        patches: (h, w) of the maps before it, for tokens.
        grid: (h, w) as the caller says.
    """
    if len(shape) == 3 and shape[1] >= MIN_TOKENS:
        fitting = find_token_grid(shape[1], patches, grid)
        return None if fitting is None else MapLayout("tokens", (shape[2], *fitting[1]), fitting[0])
    if len(shape) != 4:
        return None
    _, a, b, c = shape
    last = grid == (a, b) and grid != (b, c) if grid in ((a, b), (b, c)) else is_channels_last(shape, image)
    layout = MapLayout("channels-last", (c, a, b)) if last else MapLayout("map", (a, b, c))
    return layout if layout.shape[1] * layout.shape[2] > 1 else None


def is_channels_last(shape: tuple[int, ...], image: tuple[int, int]) -> bool:
    """Whether the second and third axis have the image's proportions rather than the last two."""
    wanted = math.log(image[0] / image[1])
    _, a, b, c = shape
    return abs(math.log(a / b) - wanted) < abs(math.log(b / c) - wanted)
