"""A small vision transformer that knows a few photographs by heart, for pictures of maps on tokens.

It is trained for minutes on parts of the photographs, each a class, laid on noise: it recognises these and
nothing else, and no figure should be taken from it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional

import camrt
from camrt.engine.images.preprocess import Preprocessing

__all__ = ["PhotographTransformer", "draw_batch", "train_transformer"]

SIDE = 96
PREPROCESSING = Preprocessing(size=(SIDE, SIDE), mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))


class PhotographTransformer(nn.Module):
    """A ViT for images of 96×96 pixels: patches of 8×8, four blocks of 96 channels, a class token."""

    def __init__(self, classes: int, width: int = 96, blocks: int = 4, patch: int = 8) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, width, patch, patch)
        self.token = nn.Parameter(torch.zeros(1, 1, width))
        self.places = nn.Parameter(0.02 * torch.randn(1, 1 + (SIDE // patch) ** 2, width))
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(width, 3, 2 * width, 0.0, "gelu", batch_first=True, norm_first=True)
            for _ in range(blocks)
        )
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, classes)

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, classes) of images (N, 3, 96, 96)."""
        cells = self.embed(images).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.token.expand(images.shape[0], -1, -1), cells], 1) + self.places
        for block in self.blocks:
            tokens = block(tokens)
        logits: Tensor = self.head(self.norm(tokens)[:, 0])
        return logits


def draw_batch(
    rng: np.random.Generator, photographs: list[Image.Image], count: int
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Parts of photographs in many sizes, somewhere on noise; and which photographs they are of."""
    labels = rng.integers(0, len(photographs), count)
    images = []
    for label in labels:
        photograph = photographs[label]
        part = rng.uniform(0.35, 1) * min(photograph.size)
        left, top = (rng.uniform(0, side - part) for side in photograph.size)
        side = int(rng.uniform(0.4, 1) * SIDE)
        seen = photograph.resize(
            (side, side), Image.Resampling.BILINEAR, (left, top, left + part, top + part)
        )
        pixels = np.asarray(seen)[:, :: rng.choice((-1, 1))] * rng.uniform(0.8, 1.1)
        canvas = rng.integers(0, 256, 3) + rng.normal(0, 20, (SIDE, SIDE, 3))
        row, column = rng.integers(0, SIDE - side + 1, 2)
        canvas[row : row + side, column : column + side] = pixels
        images.append(np.clip(canvas, 0, 255))
    numbers = (np.stack(images) / 255 - 0.5) / 0.25
    return numbers.transpose(0, 3, 1, 2).astype(np.float32), labels


def train_transformer(
    photographs: Mapping[str, Image.Image], path: Path, steps: int = 400, batch: int = 32, seed: int = 0
) -> None:
    """Trains the transformer and writes its file, with labels and preprocessing.

    Args:
        photographs: By the names of their classes.
        path: Where the ONNX file goes.
        steps: Of AdamW, its learning rate rising and falling once.
        batch: Images a step.
        seed: Of weights and images.
    """
    small = [image.copy() for image in photographs.values()]
    for image in small:
        image.thumbnail((4 * SIDE, 4 * SIDE))
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    net = PhotographTransformer(len(photographs))
    optimiser = torch.optim.AdamW(net.parameters(), weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 1e-3, steps)
    for _ in range(steps):
        images, labels = draw_batch(rng, small, batch)
        loss = functional.cross_entropy(net(torch.from_numpy(images)), torch.from_numpy(labels))
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]  # torch's
        optimiser.step()
        schedule.step()
    torch.backends.mha.set_fastpath_enabled(False)  # one fused operator that ONNX does not have
    camrt.to_onnx(
        net.eval(),
        torch.zeros(1, 3, SIDE, SIDE),
        path,
        labels=list(photographs),
        preprocessing=PREPROCESSING,
        provenance={"made by": "experiments.photograph_transformer", "steps": steps, "loss": loss.item()},
    )
