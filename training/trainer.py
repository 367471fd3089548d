"""The Lightning module of a run, and `fit`; a run that is resumed ends with the same weights."""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import signal
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import Callback, EarlyStopping
from lightning.pytorch.loggers import CSVLogger, Logger
from torch.nn import functional
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

import camrt
from camrt.engine.images.preprocess import Preprocessing
from camrt.engine.run_folder import RunFolder
from camrt.errors import DivergenceError, TrainingError
from camrt.export.io.atomic_files import storage_errors, write_atomic
from camrt.training import runs
from camrt.training.checkpoint_io import SafetensorsCheckpointIO
from camrt.training.checkpoint_writing import WeightsWriter, checkpoint_callbacks
from camrt.training.classifier import Classifier, ParameterGroups
from camrt.training.data_module import TrainingDataModule, unwrap_batch
from camrt.training.dataset import Batch, EpochBatchSampler
from camrt.training.heads import class_scores
from camrt.training.losses import calm_em_loss
from camrt.training.recipe import Recipe
from camrt.training.run_preparation import is_first_process, lock_run_folder, prepare_run
from camrt.training.runs import RunDescription
from camrt.training.splits import Split, describe_difference, summarise_splits

__all__ = ["fit"]


class TrainingRun(lightning.LightningModule):
    """A classifier in training.

    Args:
        classifier: The classifier.
        recipe: How it is trained.
        steps: Steps an epoch.
    """

    def __init__(self, classifier: Classifier, recipe: Recipe, steps: int) -> None:
        super().__init__()
        self.classifier = classifier
        self.recipe = recipe
        self.steps = steps
        self.teacher: AveragedModel | None = None
        if recipe.teacher_decay:
            average = get_ema_multi_avg_fn(recipe.teacher_decay)  # type: ignore[no-untyped-call]
            self.teacher = AveragedModel(classifier, multi_avg_fn=average, use_buffers=True)
            self.teacher.requires_grad_(False)

    def configure_optimizers(self) -> Any:
        """SGD, new layers at their own learning rate, and the schedule, step by step."""
        recipe = self.recipe
        groups = ParameterGroups.from_classifier(self.classifier, recipe.groups)
        optimizer = torch.optim.SGD(
            [
                {"params": list(group), "lr": lr}
                for group, lr in ((groups.base, recipe.lr), (groups.new, recipe.lr * recipe.new_layer_factor))
                if group
            ],
            lr=recipe.lr,
            momentum=recipe.momentum,
            weight_decay=recipe.weight_decay,
            nesterov=recipe.nesterov,
        )
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: recipe.lr_factor(step, self.steps)
        )
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Dropout and the like follow from the seed and the step alone."""
        torch.manual_seed((self.recipe.seed * 1_000_003 + self.global_step) * 1_009 + self.global_rank)

    def training_step(self, batch: Batch, batch_idx: int) -> torch.Tensor:
        """The loss of one batch.

        Raises:
            DivergenceError: It is not finite.
        """
        images, labels = unwrap_batch(batch)
        if self.recipe.head == "calm-em":
            joint = self.classifier.maps(images)
            loss = calm_em_loss(joint, labels, self._teacher_joint(images))
            scores = class_scores(joint)
        else:  # the cross-entropy of log p(y|x) is the marginal likelihood's loss
            scores = self.classifier(images)
            loss = functional.cross_entropy(scores, labels)
        if not math.isfinite(loss.item()):
            raise DivergenceError(
                f"the loss is {loss.item()} in step {batch_idx + 1} of epoch {self.current_epoch + 1} (step "
                f"{self.global_step + 1} in all): a smaller lr, warmup or gradient_clip may help; what was "
                "saved before is still there"
            )
        self.log(
            "train_loss",
            loss,
            on_step=False,
            on_epoch=True,
            prog_bar=True,
            batch_size=len(labels),
            sync_dist=True,
        )
        right = (scores.argmax(1) == labels).float().mean()
        self.log("train_top1", right, on_step=False, on_epoch=True, batch_size=len(labels), sync_dist=True)
        return loss

    def on_before_zero_grad(self, optimizer: Any) -> None:
        """Updates the exponential moving average of the weights (the teacher) after each step."""
        if self.teacher is not None and self.global_step > 0:
            self.teacher.update_parameters(self.classifier)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Loss −log p(y|x) and accuracy."""
        images, labels = unwrap_batch(batch)
        scores = self.classifier(images)
        loss = functional.cross_entropy(scores.float(), labels)
        right = (scores.argmax(1) == labels).float().mean()
        for name, value in (("val_loss", loss), ("val_top1", right)):
            self.log(name, value, prog_bar=True, batch_size=len(labels), sync_dist=True)

    def _teacher_joint(self, images: torch.Tensor) -> torch.Tensor | None:
        if self.teacher is None:
            return None
        teacher: Any = self.teacher.module
        with torch.no_grad():
            joint: torch.Tensor = teacher.eval().maps(images)
        return joint


def fit(
    recipe: Recipe,
    train: Split,
    validation: Split,
    folder: Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    accelerator: str = "auto",
    devices: int | str = "auto",
    strategy: str = "auto",
    progress: bool = True,
    tensorboard: bool = False,
    data_name: str = "",
    facts: Mapping[str, Any] | None = None,
    callbacks: tuple[Callback, ...] = (),
) -> RunDescription:
    """Trains a classifier and leaves it in a folder.

    Args:
        recipe: How.
        train: Images to train on.
        validation: Images to validate on, of the same classes.
        folder: The run's folder, see `camrt.training.runs`.
        resume: Go on with the run that is in the folder.
        overwrite: Replace the run that is in the folder, if one is.
        accelerator: Lightning's: "cpu", "gpu", "auto".
        devices: Lightning's: how many, or "auto".
        strategy: Lightning's: "ddp", "auto".
        progress: Whether to show progress bars.
        tensorboard: Also log for TensorBoard, which must be installed.
        data_name: What the images are, for the provenance.
        facts: What `camrt.training.splits.summarise_splits` says of the images, if it was asked just before:
            it reads them all.
        callbacks: Further callbacks of Lightning.

    Returns:
        What the weights in the folder are.

    Raises:
        TrainingError: The folder holds another run, or none to go on with; its classes or settings are
            others; or a library is missing.
        DivergenceError: The loss is not finite.
        InputError: A recipe that cannot be built, or a folder that is being written by another run.
        ImageError: An image cannot be read.
        StorageError: The folder cannot be written; what was saved before is kept.
    """
    if validation.labels != train.labels:
        raise TrainingError(
            "images to validate on are of other classes: "
            f"{describe_difference(validation.labels, train.labels)}"
        )
    asked: dict[str, Any] = {"accelerator": accelerator, "devices": devices, "strategy": strategy}
    with lock_run_folder(folder), storage_errors(folder):
        data = (train, validation)
        state = prepare_run(folder, recipe, data, facts, resume=resume, overwrite=overwrite)
        return _fit_in_locked_folder(
            recipe,
            train,
            validation,
            folder,
            state,
            asked,
            progress,
            tensorboard,
            data_name,
            facts,
            callbacks,
        )


def _fit_in_locked_folder(
    recipe: Recipe,
    train: Split,
    validation: Split,
    folder: Path,
    state: Path | None,
    asked: Mapping[str, Any],
    progress: bool,
    tensorboard: bool,
    data_name: str,
    facts: Mapping[str, Any] | None,
    callbacks: tuple[Callback, ...],
) -> RunDescription:
    """As `fit`, in a folder that is held."""
    preprocessing = Preprocessing.named("imagenet-squash", (recipe.size, recipe.size))
    description = RunDescription(
        head=runs.head_kind(recipe),
        backbone=recipe.backbone,
        map_stride=recipe.map_stride,
        reference_calm=recipe.reference_calm,
        labels=train.labels,
        preprocessing=preprocessing,
        provenance={
            "recipe": dataclasses.asdict(recipe),
            "data": {"name": data_name, "train": len(train), "validation": len(validation)},
            "versions": {
                "camrt": camrt.__version__,
                "torch": torch.__version__,
                "lightning": lightning.__version__,
            },
        },
    )
    classifier = runs.build_from_recipe(recipe, len(train.labels))
    log = CSVLogger(folder, name=runs.LOGS)
    if is_first_process():
        noted = RunFolder(folder, "training", {}, resume=True, overwrite=False)
        logs = Path(log.log_dir).relative_to(folder).as_posix()
        noted.claim([*runs.FILES, f"{logs}/metrics.csv", f"{logs}/hparams.yaml"])
        known = facts or summarise_splits((train, validation))
        write_atomic(folder / runs.DATA, (json.dumps(known) + "\n").encode())
        recipe.write(folder / runs.RECIPE)  # last: without it there is no run to go on with
    loggers: list[Logger] = [log]
    if tensorboard:
        loggers.append(tensorboard_logger(folder))
    ending = [EarlyStopping("val_loss", patience=recipe.patience)] if recipe.patience else []
    with silence_lightning():
        try:
            trainer = lightning.Trainer(
                **asked,
                precision=recipe.precision,  # type: ignore[arg-type]  # Lightning says what it may be
                max_epochs=recipe.epochs,
                gradient_clip_val=recipe.gradient_clip or None,
                logger=loggers,
                callbacks=[
                    WeightsWriter(folder, description, recipe.keep),
                    *ending,
                    *checkpoint_callbacks(folder, recipe),
                    *callbacks,
                ],
                plugins=[SafetensorsCheckpointIO()],
                enable_progress_bar=progress,
                enable_model_summary=False,
                use_distributed_sampler=False,
                num_sanity_val_steps=0,
                log_every_n_steps=50,
            )
        except (MisconfigurationException, ValueError) as error:
            raise TrainingError(f"Lightning cannot train so: {error}") from error
        batches = EpochBatchSampler(
            len(train), recipe.batch_size, recipe.seed, shuffled=True, world=trainer.world_size
        )
        run = TrainingRun(classifier, recipe, len(batches))
        with restore_interrupts():
            trainer.fit(
                run, datamodule=TrainingDataModule(recipe, train, validation, preprocessing), ckpt_path=state
            )
    return runs.read_description(folder)


@contextmanager
def restore_interrupts() -> Iterator[None]:
    """Ctrl-C as it is elsewhere in Python: Lightning makes exit code 1 of it, and has later ones ignored.

    Raises:
        KeyboardInterrupt: A signal asked for the end.
    """
    handler = signal.getsignal(signal.SIGINT)
    try:
        yield
    except SystemExit as end:
        if isinstance(end.__context__, KeyboardInterrupt):
            raise KeyboardInterrupt from None
        raise
    finally:
        if signal.getsignal(signal.SIGINT) != handler:
            signal.signal(signal.SIGINT, handler)


def tensorboard_logger(folder: Path) -> Logger:
    """Lightning's logger for TensorBoard.

    Raises:
        TrainingError: TensorBoard is missing.
    """
    from lightning.pytorch.loggers import TensorBoardLogger

    try:
        return TensorBoardLogger(folder, name=runs.LOGS)
    except ModuleNotFoundError as error:
        raise TrainingError("logs for TensorBoard need it: pip install tensorboard") from error


@contextmanager
def silence_lightning() -> Iterator[None]:
    """Silences Lightning's warnings about data-loader workers, logging intervals and hardware."""
    log = logging.getLogger("lightning.pytorch")
    level = log.level
    with warnings.catch_warnings():
        for words in (
            ".*does not have many workers.*",
            ".*smaller than the logging interval.*",
            ".*Checkpoint directory.*",
            ".*isinstance.treespec, LeafSpec.*",
        ):
            warnings.filterwarnings("ignore", words)
        log.setLevel(logging.WARNING)
        try:
            yield
        finally:
            log.setLevel(level)
