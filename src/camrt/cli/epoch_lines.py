"""What `camrt train` prints of each epoch. Importing this imports Lightning."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from lightning.pytorch.callbacks import Callback

from camrt.cli.progress import in_words

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer
    from rich.console import Console

    from camrt.cli.progress import ShowProgress

__all__ = ["EpochLines"]


class EpochLines(Callback):
    """Prints a line an epoch: its figures, how long it took, and how long the others will take.

    Args:
        screen: Where.
        show: Is told how many epochs are done.
    """

    def __init__(self, screen: Console, show: ShowProgress) -> None:
        self._screen = screen
        self._show = show
        self._epochs = 0  # of this process
        self._begun = self._started = time.monotonic()

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The first epoch begins."""
        self._begun = self._started = time.monotonic()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """A step is done."""
        if trainer.is_global_zero:
            self._show(trainer.current_epoch + (batch_idx + 1) / trainer.num_training_batches)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """An epoch is over, its validation too."""
        if not trainer.is_global_zero:
            return
        now, whole = time.monotonic(), trainer.max_epochs or 0
        self._epochs += 1
        figures = {name: float(value) for name, value in trainer.callback_metrics.items()}
        left = (now - self._begun) / self._epochs * max(whole - trainer.current_epoch - 1, 0)
        line = (
            f"epoch {trainer.current_epoch + 1} of {whole}: {describe_figures(figures)}; "
            f"{in_words(now - self._started)}, {in_words(left)} left"
        )
        self._started = now
        self._screen.print(line, markup=False, soft_wrap=True)


def describe_figures(figures: dict[str, float]) -> str:
    """The losses and accuracies among Lightning's metrics."""
    told = []
    for split, name in (("train", "training"), ("val", "validation")):
        loss, right = figures.get(f"{split}_loss"), figures.get(f"{split}_top1")
        if loss is not None and right is not None:
            told.append(f"{name} loss {loss:.4f}, top-1 {100 * right:.1f} %")
    return "; ".join(told)
