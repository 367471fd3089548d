"""Dataset and batch sampler of a run: augmentation and order follow from (seed, epoch, index) alone.

Nothing here keeps a state. The view of image i in epoch e, and the batches of epoch e, follow from (seed,
e, i), so that a run that was cut off anywhere goes on as if it had not been.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from PIL import Image
from torch.utils.data import Dataset, Sampler

from camrt.engine.images.preprocess import Preprocessing
from camrt.engine.images.read import read_image
from camrt.errors import ImageError
from camrt.training.splits import Split

__all__ = ["Batch", "EpochBatchSampler", "ImageDataset", "Key", "collate"]

Key = tuple[int, int]
"""(epoch, image)."""
Batch = tuple[torch.Tensor, torch.Tensor] | ImageError
"""Images (N, C, H, W) float32 and classes (N,); or what was wrong with one of them."""
Item = tuple[torch.Tensor, int] | ImageError


@dataclass(frozen=True)
class ImageDataset(Dataset[Item]):
    """Images as a network takes them.

    Attributes:
        split: The images.
        preprocessing: What the network takes when it is used, whole images or their centre.
        canvas: (H, W) that images are squashed to before a random part of the preprocessing's size is cut
            out and, in half of the cases, mirrored ("Keep CALM and Improve Visual Feature Attribution": 256
            to 224); None shows them as they will be when it is used.
        seed: Which parts.
    """

    split: Split
    preprocessing: Preprocessing
    canvas: tuple[int, int] | None
    seed: int

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, key: Key) -> Item:
        epoch, index = key
        try:
            image = read_image(self.split.files[index])
        except ImageError as error:
            return error  # raised where it is read from: a worker process would bury it in a traceback
        if self.canvas is None:
            view = self.preprocessing.view(image)
        else:
            view = self._augment(image, np.random.default_rng((self.seed, epoch, index)))
        return torch.from_numpy(self.preprocessing.array(view)), int(self.split.classes[index])

    def _augment(self, image: Image.Image, rng: np.random.Generator) -> Image.Image:
        assert self.canvas is not None
        height, width = self.preprocessing.size
        whole = replace(self.preprocessing, size=self.canvas, resize="squash").view(image)
        top, left = (
            int(rng.integers(0, max(0, c - s) + 1)) for c, s in zip(self.canvas, (height, width), strict=True)
        )
        part = whole.crop((left, top, left + width, top + height))
        return part.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if rng.random() < 0.5 else part


class EpochBatchSampler(Sampler[list[Key]]):
    """Batches of one epoch: every image once, in an order drawn from (seed, epoch).

    Of several processes each takes its share of every batch, and all run equally many.

    Args:
        count: N, how many images there are.
        size: Images a batch, of one process.
        seed: Which orders.
        shuffled: False keeps the images in order, and the last, smaller batch too.
        rank: Number of this process.
        world: How many processes there are.
    """

    def __init__(
        self, count: int, size: int, seed: int, *, shuffled: bool, rank: int = 0, world: int = 1
    ) -> None:
        self.count, self.size, self.seed, self.shuffled = count, size, seed, shuffled
        self.rank, self.world = rank, world
        self.epoch = 0
        self.done = 0

    def __len__(self) -> int:
        each = self.size * self.world
        return max(1, self.count // each) if self.shuffled else -(-self.count // each)

    def __iter__(self) -> Iterator[list[Key]]:
        order = np.arange(self.count)
        if self.shuffled:
            order = np.random.default_rng((self.seed, self.epoch)).permutation(self.count)
        each = self.size * self.world
        for number in range(self.done, len(self)):
            block = order[number * each : (number + 1) * each]
            mine = block[self.rank :: self.world]
            if len(mine):
                yield [(self.epoch, int(index)) for index in mine]


def collate(items: list[Item]) -> Batch:
    """A batch from its images, or the first of them that could not be read."""
    images, classes = [], []
    for item in items:
        if isinstance(item, ImageError):
            return item
        images.append(item[0])
        classes.append(item[1])
    return torch.stack(images), torch.tensor(classes)
