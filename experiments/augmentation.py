"""Chance applied to pixels: random crops, mirrors, colours and backgrounds, drawn from a NumPy generator."""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional

__all__ = ["jitter_colours", "random_backgrounds", "random_crop"]


def random_crop(image: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """A random part of one image, mirrored half of the time.

    Args:
        image: (3, H, W).
        rng: the source of chance.

    Returns:
        (3, h, w): two times in five almost the whole image, else 35 % to 100 % of its area, with an aspect
        of 3:4 to 4:3 of the image's own.
    """
    height, width = image.shape[1:]
    area = rng.uniform(0.85, 1.0) if rng.random() < 0.4 else rng.uniform(0.35, 1.0)
    aspect = float(np.exp(rng.uniform(np.log(3 / 4), np.log(4 / 3))))
    h = min(height, max(1, round(height * (area / aspect) ** 0.5)))
    w = min(width, max(1, round(width * (area * aspect) ** 0.5)))
    top, left = int(rng.integers(0, height - h + 1)), int(rng.integers(0, width - w + 1))
    part = image[:, top : top + h, left : left + w]
    return part.flip(2) if rng.random() < 0.5 else part


def jitter_colours(images: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """Varies brightness, contrast, saturation, tint and sharpness of each image by itself.

    Args:
        images: float32 (N, 3, H, W) in 0 to 255.
        rng: the source of chance.

    Returns:
        float32 of the same shape; values may leave 0 to 255 a little.
    """

    def between(low: float, high: float, channels: int = 1) -> torch.Tensor:
        return torch.from_numpy(rng.uniform(low, high, (len(images), channels, 1, 1)).astype(np.float32))

    sharp = functional.avg_pool2d(images, 3, 1, 1, count_include_pad=False).sub_(images)
    varied = sharp.mul_(between(-1.0, 0.7)).add_(images)
    varied.mul_(between(0.9, 1.1, 3))
    saturation = between(0.4, 1.5)
    grey = varied.mean(1, keepdim=True)
    varied.mul_(saturation).add_(grey.mul_(1 - saturation))
    contrast = between(0.6, 1.4)
    mean = varied.mean((1, 2, 3), keepdim=True)
    return varied.mul_(contrast).add_(mean * (between(0.7, 1.3) - contrast))


def random_backgrounds(
    number: int, canvas: int, images: torch.Tensor, rng: np.random.Generator
) -> torch.Tensor:
    """Backgrounds without an object: flat colours, soft clouds of colour, or images blurred away.

    Args:
        number: N, how many.
        canvas: S, their side in pixels.
        images: uint8 (M, 3, H, W), the images to blur.
        rng: the source of chance.

    Returns:
        float32 (N, 3, S, S) in about 0 to 255.
    """
    colours = rng.uniform(0, 255, (number, 3, 1, 1)).astype(np.float32)
    clouds = rng.standard_normal((number, 3, 5, 5), np.float32) * rng.uniform(0, 40, (number, 1, 1, 1))
    coarse = torch.from_numpy((colours + clouds).astype(np.float32))
    sources = torch.from_numpy(rng.integers(0, len(images), number))
    blurred = functional.adaptive_avg_pool2d(images[sources].float(), 5)
    kind = torch.from_numpy(rng.random((number, 1, 1, 1)) < 0.4)
    coarse = torch.where(kind, blurred, coarse)
    return functional.interpolate(coarse, (canvas, canvas), mode="bilinear", align_corners=True)
