"""Runs of `camrt train masked-vgg`: from images to a file of a masked VGG, in a folder that is taken up.

Each file takes its place when it is whole:

    last.safetensors    the state to go on from, until the run is finished
    losses.csv          the mean loss of each epoch
    model.onnx          the network, with its accuracy on the held-out images
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

import torch

from camrt.engine.run_folder import RUN_FILE, RunFolder, lock_folder
from camrt.errors import InputError, TrainingError
from camrt.export.io.atomic_files import storage_errors, write_atomic
from camrt.training.masked_training import MaskedTrainingSettings, export_network, measure_accuracy, train
from camrt.training.masked_vgg import MaskedVGG, MaskedVGG16, small_masked_vgg
from camrt.training.splits import Split, summarise_splits

__all__ = ["MODEL", "MaskedRunConfig", "train_masked"]

STATE: Final = "last.safetensors"
LOSSES: Final = "losses.csv"
MODEL: Final = "model.onnx"
CHANGEABLE_SETTINGS: Final = ("workers", "checkpoint_steps", "device")
"""Settings that a run may be taken up with others of."""


@dataclass(frozen=True, kw_only=True)
class MaskedRunConfig:
    """What is trained, and how.

    Attributes:
        network: "small", for 64×64; or "vgg16", the paper's.
        kept_rows: Rows of the last map that are seen; None for the network's own, 3 of 8 or 5 of 14.
        masked: False lets the network see all rows, for comparison.
        settings: How.

    Raises:
        InputError: There is no such network.
    """

    network: Literal["small", "vgg16"] = "small"
    kept_rows: int | None = None
    masked: bool = True
    settings: MaskedTrainingSettings = field(default_factory=MaskedTrainingSettings)

    def __post_init__(self) -> None:
        if self.network not in ("small", "vgg16"):
            raise InputError(f"network {self.network!r} must be 'small' or 'vgg16'")

    def build(self, num_classes: int) -> MaskedVGG:
        """The network before training; its weights follow from the seed.

        Raises:
            InputError: Its map has not so many rows to keep.
        """
        rows = {} if self.kept_rows is None else {"kept_rows": self.kept_rows}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.settings.seed)
            if self.network == "small":
                return small_masked_vgg(num_classes, masked=self.masked, **rows)
            return MaskedVGG16(num_classes, masked=self.masked, **rows)


def train_masked(
    config: MaskedRunConfig,
    network: MaskedVGG,
    images: Split,
    held_out: Split,
    folder: Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    on_epoch: Callable[[int, float], None] = lambda epoch, loss: None,
    on_step: Callable[[float], None] = lambda epochs: None,
) -> dict[str, float]:
    """Trains a network, measures it, and writes it as an ONNX file.

    Args:
        config: What is trained, and how.
        network: What `config.build` gave.
        images: What to train on.
        held_out: What to measure on, of the same classes.
        folder: The run's folder.
        resume: Go on with the run that is in the folder.
        overwrite: Replace the run that is in the folder, if one is.
        on_epoch: Called after every epoch with its number, from 0, and its mean loss.
        on_step: Called after every step with the epochs that are done, as a fraction.

    Returns:
        `top1` and `top5` on the held-out images.

    Raises:
        TrainingError: There is nothing to go on with, or it is damaged; or the loss is not finite.
        InputError: The folder holds something else, or a run of other settings or images.
        ImageError: An image cannot be read.
        BackendError: The file does not give the network's answers.
        StorageError: The folder cannot be written; what was saved before is kept.
    """
    if resume and not overwrite and not (folder / RUN_FILE).exists():
        raise TrainingError(f"{folder} holds no run to go on with")
    settings = {k: v for k, v in dataclasses.asdict(config.settings).items() if k not in CHANGEABLE_SETTINGS}
    with lock_folder(folder), storage_errors(folder):
        identity: dict[str, Any] = {
            "network": config.network,
            "kept rows": network.kept_rows,
            **settings,
            **summarise_splits((images, held_out)),
        }
        noted = RunFolder(folder, "masked training", identity, resume=resume, overwrite=overwrite)
        noted.check([STATE, LOSSES, MODEL])
        if noted.finished:
            if not (folder / MODEL).exists():
                raise TrainingError(
                    f"{folder} holds a run that is finished, and its {MODEL} was taken away: train it again "
                    "(--overwrite)"
                )
            noted.remove([STATE])
            return {name: float(noted.finished[-1][name]) for name in ("top1", "top5")}
        noted.claim([STATE, LOSSES, MODEL])
        means = train(network, images, config.settings, on_epoch, state=folder / STATE, on_step=on_step)
        rows = ["epoch,loss", *(f"{number},{mean:.6f}" for number, mean in enumerate(means, start=1))]
        write_atomic(folder / LOSSES, ("\n".join(rows) + "\n").encode())
        top1, top5 = measure_accuracy(network, held_out, config.settings)
        figures = {"top1": top1, "top5": top5}
        facts = {"network": config.network, **figures}
        export_network(network.cpu(), held_out, config.settings, facts, folder / MODEL)
        noted.finish(figures)
        noted.remove([STATE])
    return figures
