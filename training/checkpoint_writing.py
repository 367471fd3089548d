"""Lightning callbacks that write a run's files: the kept weights, and checkpoints to resume from."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any, Literal

import lightning
from lightning.pytorch.callbacks import Callback, ModelCheckpoint

from camrt.errors import DivergenceError
from camrt.training import runs
from camrt.training.recipe import Recipe
from camrt.training.runs import RunDescription

__all__ = ["WeightsWriter", "checkpoint_callbacks"]


class WeightsWriter(Callback):
    """Writes model.safetensors: the weights of the epoch with the smallest validation loss, or of the last.

    Args:
        folder: The run's folder.
        description: What the weights are; figures are added to its provenance.
        keep: As the recipe has it.
    """

    def __init__(self, folder: Path, description: RunDescription, keep: Literal["best", "last"]) -> None:
        self.folder = folder
        self.description = description
        self.keep = keep
        self.best = math.inf

    def state_dict(self) -> dict[str, Any]:
        """The best loss so far."""
        return {"best": self.best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """The inverse of `state_dict`."""
        self.best = state_dict["best"]

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Writes the weights when they are the run's own."""
        if trainer.sanity_checking or not trainer.is_global_zero:
            return
        figures = {
            name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("val_")
        }
        if not math.isfinite(figures["val_loss"]):
            raise DivergenceError(
                f"the validation loss is {figures['val_loss']} after epoch {trainer.current_epoch + 1}: a "
                "smaller lr, warmup or gradient_clip may help; what was saved before is still there"
            )
        if self.keep == "best" and not figures["val_loss"] < self.best:
            return
        self.best = min(self.best, figures["val_loss"])
        classifier: Any = pl_module.classifier
        provenance = {
            **self.description.provenance,
            "epochs_trained": trainer.current_epoch + 1,
            "steps": trainer.global_step,
            **{name: round(value, 6) for name, value in figures.items()},
        }
        described = dataclasses.replace(self.description, provenance=provenance)
        runs.save_run(self.folder, classifier.state_dict(), described)


class MidEpochCheckpoint(ModelCheckpoint):
    """Writes a checkpoint every n steps, except at an epoch's last, which is written after validation.

    A run that went on from a state in between would pass over the epoch's validation, and so perhaps over its
    best weights.
    """

    def on_train_batch_end(self, trainer: Any, *given: Any, **named: Any) -> None:
        """See Lightning's."""
        if not trainer.is_last_batch:
            super().on_train_batch_end(trainer, *given, **named)


def checkpoint_callbacks(folder: Path, recipe: Recipe) -> list[ModelCheckpoint]:
    """What writes a run's state: after each epoch, and every so many steps where that is asked."""
    place: dict[str, Any] = {"dirpath": folder, "filename": Path(runs.STATE).stem}
    written = [
        ModelCheckpoint(**place, enable_version_counter=False, every_n_epochs=1, save_on_train_epoch_end=True)
    ]
    if recipe.checkpoint_steps:
        written.append(
            MidEpochCheckpoint(
                **place, enable_version_counter=False, every_n_train_steps=recipe.checkpoint_steps
            )
        )
    for callback in written:
        callback.FILE_EXTENSION = Path(runs.STATE).suffix
    return written
