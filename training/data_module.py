"""The Lightning data module of a run; its training batches resume at the trainer's current step."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import lightning
import torch
from torch.utils.data import DataLoader

from camrt.engine.images.preprocess import Preprocessing
from camrt.errors import ImageError
from camrt.training.dataset import Batch, EpochBatchSampler, ImageDataset, Key, collate
from camrt.training.recipe import Recipe
from camrt.training.splits import Split

__all__ = ["TrainingDataModule", "unwrap_batch"]


class TrainingDataModule(lightning.LightningDataModule):
    """The images of a run.

    Args:
        recipe: How they are shown.
        train: Those to train on.
        validation: Those to validate on.
        preprocessing: How the network takes them.
    """

    def __init__(self, recipe: Recipe, train: Split, validation: Split, preprocessing: Preprocessing) -> None:
        super().__init__()
        self.recipe = recipe
        self.train = train
        self.validation = validation
        self.preprocessing = preprocessing

    def train_dataloader(self) -> DataLoader[Any]:
        """Training batches, from the trainer's current epoch and step on."""
        canvas = (self.recipe.canvas, self.recipe.canvas)
        views = ImageDataset(self.train, self.preprocessing, canvas, self.recipe.seed)
        return self._loader(views, _ResumingBatches(self.trainer, len(self.train), self.recipe))

    def val_dataloader(self) -> DataLoader[Any]:
        """All images to validate on, in order."""
        trainer: Any = self.trainer
        batches = EpochBatchSampler(
            len(self.validation),
            self.recipe.batch_size,
            self.recipe.seed,
            shuffled=False,
            rank=trainer.global_rank,
            world=trainer.world_size,
        )
        return self._loader(
            ImageDataset(self.validation, self.preprocessing, None, self.recipe.seed), batches
        )

    def _loader(self, views: ImageDataset, batches: EpochBatchSampler) -> DataLoader[Any]:
        workers = self.recipe.workers
        return _StatelessLoader(
            views,
            batch_sampler=batches,
            collate_fn=collate,
            num_workers=workers,
            persistent_workers=workers > 0,
            generator=torch.Generator(),  # workers' seeds are not drawn from the global one
        )


class _StatelessLoader(DataLoader[Any]):
    """A loader without a state of its own: the sampler computes its position from trainer.global_step."""

    def state_dict(self) -> dict[str, Any]:
        """Nothing."""
        return {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Nothing to do."""


class _ResumingBatches(EpochBatchSampler):
    """The batches of whatever epoch the trainer is in, from the step it has come to."""

    def __init__(self, trainer: Any, count: int, recipe: Recipe) -> None:
        super().__init__(
            count,
            recipe.batch_size,
            recipe.seed,
            shuffled=True,
            rank=trainer.global_rank,
            world=trainer.world_size,
        )
        self.trainer = trainer

    def __iter__(self) -> Iterator[list[Key]]:
        self.epoch, self.done = divmod(self.trainer.global_step, len(self))
        return super().__iter__()


def unwrap_batch(batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns a batch; raises the error if loading one of its images failed."""
    if isinstance(batch, ImageError):
        raise batch
    return batch
