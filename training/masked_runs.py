"""Runs of `camrt train masked-vgg`: from pictures to a file of a masked VGG, in a folder that is taken up.

Each file takes its place when it is whole:

    last.safetensors    the state to go on from, until the run is finished
    losses.csv          the mean loss of each epoch
    model.onnx          the network, with its accuracy on the held-out pictures
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Literal

import torch

from camrt.engine.run_folders import DESCRIPTION, RunFolder, held
from camrt.errors import InputError, TrainingError
from camrt.export.files import storage_errors, write_whole
from camrt.training.masked_training import Settings, accuracy, publish, train
from camrt.training.masked_vgg import MaskedVGG, MaskedVGG16, small_masked_vgg
from camrt.training.splits import Split, summary

__all__ = ["MODEL", "MaskedRun", "train_masked"]

STATE: Final = "last.safetensors"
LOSSES: Final = "losses.csv"
MODEL: Final = "model.onnx"
FREE: Final = ("workers", "checkpoint_steps", "device")
"""Settings that a run may be taken up with others of."""


@dataclass(frozen=True, kw_only=True)
class MaskedRun:
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
    settings: Settings = field(default_factory=Settings)

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
    asked: MaskedRun,
    network: MaskedVGG,
    pictures: Split,
    held_out: Split,
    folder: Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    report: Callable[[int, float], None] = lambda epoch, loss: None,
    advance: Callable[[float], None] = lambda epochs: None,
) -> dict[str, float]:
    """Trains a network, measures it, and writes it as an ONNX file.

    Args:
        asked: What is trained, and how.
        network: What `asked.build` gave.
        pictures: What to train on.
        held_out: What to measure on, of the same classes.
        folder: The run's folder.
        resume: Go on with the run that is in the folder.
        overwrite: Replace the run that is in the folder, if one is.
        report: Called after every epoch with its number, from 0, and its mean loss.
        advance: Called after every step with the epochs that are done, as a fraction.

    Returns:
        `top1` and `top5` on the held-out pictures.

    Raises:
        TrainingError: There is nothing to go on with, or it is damaged; or the loss is not finite.
        InputError: The folder holds something else, or a run of other settings or pictures.
        PictureError: A picture cannot be read.
        BackendError: The file does not give the network's answers.
        StorageError: The folder cannot be written; what was saved before is kept.
    """
    if resume and not overwrite and not (folder / DESCRIPTION).exists():
        raise TrainingError(f"{folder} holds no run to go on with")
    settings = {k: v for k, v in dataclasses.asdict(asked.settings).items() if k not in FREE}
    with held(folder), storage_errors(folder):
        identity: dict[str, Any] = {
            "network": asked.network,
            "kept rows": network.kept_rows,
            **settings,
            **summary((pictures, held_out)),
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
        means = train(network, pictures, asked.settings, report, state=folder / STATE, advance=advance)
        rows = ["epoch,loss", *(f"{number},{mean:.6f}" for number, mean in enumerate(means, start=1))]
        write_whole(folder / LOSSES, ("\n".join(rows) + "\n").encode())
        top1, top5 = accuracy(network, held_out, asked.settings)
        figures = {"top1": top1, "top5": top5}
        facts = {"network": asked.network, **figures}
        publish(network.cpu(), held_out, asked.settings, facts, folder / MODEL)
        noted.finish(figures)
        noted.remove([STATE])
    return figures
