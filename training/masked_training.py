"""Training a masked VGG on images, as "CAM-Based Methods Can See through Walls" does (specification D3).

Random resized parts, SGD with momentum, a learning rate that falls to a tenth after each third of the epochs,
and the mask after every step. The command is `camrt train masked-vgg`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.nn import functional
from torch.utils.data import DataLoader

from camrt.engine.images.preprocess import Preprocessing
from camrt.engine.torch_models.model import parse_device
from camrt.engine.torch_models.to_onnx import to_onnx
from camrt.errors import DivergenceError, ImageError, InputError, TrainingError
from camrt.training.dataset import EpochBatchSampler, ImageDataset, collate
from camrt.training.masked_vgg import MaskedVGG
from camrt.training.splits import Split
from camrt.training.state_files import read_state, write_state
from camrt.training.weight_masks import register_mask_hook

__all__ = [
    "MaskedTrainingSettings",
    "RandomResizedCropDataset",
    "export_network",
    "measure_accuracy",
    "train",
]

CROP_AREA = (0.1, 1.0)
CROP_ASPECT = (0.8, 1.25)
"""Share of the image, and width by height, of the parts that are shown in training."""
BATCH = 256
LR = 0.03
"""The paper's batch, and its learning rate for it."""


@dataclass(frozen=True)
class RandomResizedCropDataset(ImageDataset):
    """Images in training: a random part of random area and proportions, resized, in half of cases mirrored.

    The part's area is uniform in `CROP_AREA` of the image's, its width by height log-uniform in
    `CROP_ASPECT`; what does not fit in is drawn again, and after ten times the largest part in the middle is
    taken. The canvas is
    not used: images are not squashed before.
    """

    def _augment(self, image: Image.Image, rng: np.random.Generator) -> Image.Image:
        height, width = self.preprocessing.size
        left, top, wide, tall = sample_crop_box(*image.size, rng)
        box = (left, top, left + wide, top + tall)
        view = image.resize((width, height), Image.Resampling.BILINEAR, box=box)
        return view.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if rng.random() < 0.5 else view


def sample_crop_box(width: int, height: int, rng: np.random.Generator) -> tuple[int, int, int, int]:
    """(left, top, width, height) of a random part of an image, see `RandomResizedCropDataset`."""
    for _ in range(10):
        area = rng.uniform(*CROP_AREA) * width * height
        aspect = math.exp(rng.uniform(math.log(CROP_ASPECT[0]), math.log(CROP_ASPECT[1])))
        wide, tall = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 1 <= wide <= width and 1 <= tall <= height:
            return int(rng.integers(width - wide + 1)), int(rng.integers(height - tall + 1)), wide, tall
    aspect = min(max(width / height, CROP_ASPECT[0]), CROP_ASPECT[1])
    wide, tall = max(1, min(width, round(height * aspect))), max(1, min(height, round(width / aspect)))
    return (width - wide) // 2, (height - tall) // 2, wide, tall


@dataclass(frozen=True, kw_only=True)
class MaskedTrainingSettings:
    """How a network is trained; the defaults are the paper's.

    Attributes:
        epochs: How many times each image is shown; the learning rate falls to a tenth after each third.
        batch_size: Images a step.
        lr: Learning rate of SGD; None takes the paper's 0.03 for 256 images, in proportion to the batch.
        momentum: SGD's.
        weight_decay: SGD's.
        seed: Of weights, order, views and dropout.
        workers: Processes that read images.
        device: torch's: "cpu" or "cuda".
        mixed: Whether to compute in bfloat16 where torch finds it safe; weights stay float32.
        checkpoint_steps: Steps between checkpoints, beside that after each epoch; 0 for none.

    Raises:
        InputError: A setting out of range.
        BackendError: There is no such device.
    """

    epochs: int = 90
    batch_size: int = BATCH
    lr: float | None = None
    momentum: float = 0.9
    weight_decay: float = 1e-4
    seed: int = 3
    workers: int = 2
    device: str = "cpu"
    mixed: bool = False
    checkpoint_steps: int = 0

    def __post_init__(self) -> None:
        parse_device(self.device)
        if self.lr is None:
            object.__setattr__(self, "lr", LR * self.batch_size / BATCH)
        least = {"epochs": 1, "batch_size": 1, "workers": 0, "seed": 0, "checkpoint_steps": 0}
        for name, low in least.items():
            if getattr(self, name) < low:
                raise InputError(f"{name}={getattr(self, name)} must be at least {low}")
        if not (0 < self.rate < math.inf and 0 <= self.momentum < 1 and 0 <= self.weight_decay < math.inf):
            raise InputError(
                f"lr={self.lr} must be positive, momentum={self.momentum} in [0, 1) and "
                f"weight_decay={self.weight_decay} not negative"
            )

    @property
    def rate(self) -> float:
        """The learning rate at the beginning."""
        assert self.lr is not None
        return self.lr

    def lr_in_epoch(self, epoch: int) -> float:
        """The learning rate in an epoch, counted from 0."""
        return self.rate * 0.1 ** (3 * epoch // self.epochs)


@dataclass
class TrainingProgress:
    """Progress of a run: finished epochs, finished steps of the current epoch, and losses.

    Attributes:
        epoch: Epochs that are done.
        step: Steps of the next one that are done.
        losses: Of those steps.
        means: Mean losses of the epochs.
    """

    epoch: int = 0
    step: int = 0
    losses: list[float] = field(default_factory=list)
    means: list[float] = field(default_factory=list)


def train(
    network: MaskedVGG,
    images: Split,
    settings: MaskedTrainingSettings,
    on_epoch: Callable[[int, float], None] = lambda epoch, loss: None,
    *,
    state: Path | None = None,
    on_step: Callable[[float], None] = lambda epochs: None,
) -> list[float]:
    """Trains a network in place by cross-entropy, its masks applied after every step; on `settings.device`.

    Orders, views and dropout follow from the seed and the place alone, so that a training that goes on from
    a state ends with the same weights as one that was not cut off.

    Args:
        network: The network; left in training mode.
        images: What to train on.
        settings: How.
        on_epoch: Called after every epoch with its number, from 0, and its mean loss.
        state: Where the state is written after each epoch, and every `settings.checkpoint_steps` steps; if it
            is there, training goes on from it. None keeps none.
        on_step: Called after every step with the epochs that are done, as a fraction.

    Returns:
        The mean loss of each epoch.

    Raises:
        DivergenceError: The loss is not finite.
        TrainingError: The state is damaged, or another network's.
        ImageError: An image cannot be read.
        StorageError: The state cannot be written.
    """
    preprocessing = preprocessing_of(network)
    views = RandomResizedCropDataset(images, preprocessing, preprocessing.size, settings.seed)
    batches = EpochBatchSampler(len(images), settings.batch_size, settings.seed, shuffled=True)
    loader = build_loader(views, batches, settings)
    network.to(settings.device).train()
    optimizer = torch.optim.SGD(
        network.parameters(),
        lr=settings.rate,
        momentum=settings.momentum,
        weight_decay=settings.weight_decay,
    )
    held = register_mask_hook(optimizer, network.masks)
    place = (
        TrainingProgress() if state is None or not state.exists() else load_state(state, network, optimizer)
    )
    while place.epoch < settings.epochs:
        batches.epoch, batches.done = place.epoch, place.step
        for group in optimizer.param_groups:
            group["lr"] = settings.lr_in_epoch(place.epoch)
        for batch in loader:
            if isinstance(batch, ImageError):
                raise batch
            place.losses.append(train_step(network, optimizer, batch, settings, place))
            place.step += 1
            on_step(place.epoch + place.step / len(batches))
            if (
                settings.checkpoint_steps
                and place.step % settings.checkpoint_steps == 0
                and place.step < len(batches)
            ):
                save_state(state, network, optimizer, place)
        means = [*place.means, float(np.mean(place.losses))]
        place = TrainingProgress(place.epoch + 1, 0, [], means)
        save_state(state, network, optimizer, place)
        on_epoch(place.epoch - 1, means[-1])
    held.remove()
    return place.means


def train_step(
    network: MaskedVGG,
    optimizer: torch.optim.Optimizer,
    batch: Any,
    settings: MaskedTrainingSettings,
    progress: TrainingProgress,
) -> float:
    """Takes one step, and gives the loss before it.

    Raises:
        DivergenceError: The loss is not finite.
    """
    torch.manual_seed((settings.seed * 1009 + progress.epoch) * 1_000_003 + progress.step)  # dropout
    shown, labels = (tensor.to(settings.device) for tensor in batch)
    with torch.autocast(torch.device(settings.device).type, torch.bfloat16, enabled=settings.mixed):
        loss = functional.cross_entropy(network(shown), labels)
    found: float = loss.item()
    if not math.isfinite(found):
        raise DivergenceError(
            f"the loss is {found} in step {progress.step + 1} of epoch {progress.epoch + 1}: try a smaller lr"
        )
    optimizer.zero_grad(set_to_none=True)
    torch.autograd.backward(loss)
    optimizer.step()
    return found


def save_state(
    state: Path | None, network: MaskedVGG, optimizer: torch.optim.Optimizer, progress: TrainingProgress
) -> None:
    """Writes the state."""
    if state is not None:
        content = {
            "network": network.state_dict(),
            "optimizer": optimizer.state_dict(),
            "place": asdict(progress),
        }
        write_state(state, content)


def load_state(state: Path, network: MaskedVGG, optimizer: torch.optim.Optimizer) -> TrainingProgress:
    """Brings a network and its optimiser to a state that was written.

    Raises:
        TrainingError: It is damaged, or another network's.
    """
    content = read_state(state)
    try:
        network.load_state_dict(content["network"])
        optimizer.load_state_dict(content["optimizer"])
        return TrainingProgress(**content["place"])
    except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
        raise TrainingError(f"{state} is no state of this network: {error!r:.200}") from error


def measure_accuracy(
    network: MaskedVGG, images: Split, settings: MaskedTrainingSettings
) -> tuple[float, float]:
    """Top-1 and top-5 accuracy on whole images: the short side to the network's, then the centre.

    Args:
        network: The network, on `settings.device`; put into evaluation mode.
        images: What to measure on.
        settings: Batches, workers and device.

    Raises:
        ImageError: An image cannot be read.
    """
    views = ImageDataset(images, preprocessing_of(network), None, settings.seed)
    batches = EpochBatchSampler(len(images), settings.batch_size, settings.seed, shuffled=False)
    network.eval()
    right = np.zeros(2, np.int64)
    with torch.no_grad():
        for batch in build_loader(views, batches, settings):
            if isinstance(batch, ImageError):
                raise batch
            shown, labels = (tensor.to(settings.device) for tensor in batch)
            order = torch.argsort(network(shown), dim=1, descending=True, stable=True)
            found = order[:, :5] == labels[:, None]
            right += np.array([int(found[:, 0].sum()), int(found.sum())])
    return float(right[0] / len(images)), float(right[1] / len(images))


def build_loader(
    views: ImageDataset, batches: EpochBatchSampler, settings: MaskedTrainingSettings
) -> DataLoader[Any]:
    """Batches of images, read by other processes where settings say so."""
    workers = settings.workers
    return DataLoader(
        views,
        batch_sampler=batches,
        collate_fn=collate,
        num_workers=workers,
        persistent_workers=workers > 0,
        generator=torch.Generator(),  # workers' seeds are not drawn from the global one
    )


def preprocessing_of(network: MaskedVGG) -> Preprocessing:
    """How whole images become a network's input: the short side to its side, then the centre."""
    return Preprocessing(
        (network.size, network.size),
        (0.485, 0.456, 0.406),
        (0.229, 0.224, 0.225),
        resize="crop",
        crop_fraction=1.0,
    )


def export_network(
    network: MaskedVGG, held: Split, settings: MaskedTrainingSettings, figures: dict[str, Any], out: Path
) -> None:
    """Writes a network as an ONNX file that says how it was made, and is compared with it on a few images.

    Args:
        network: The network, on the CPU.
        held: Images it was not trained on.
        settings: What it was trained with.
        figures: What was measured.
        out: Where the file goes.

    Raises:
        BackendError: The file gives other logits.
    """
    preprocessing = preprocessing_of(network)
    views = ImageDataset(held, preprocessing, None, settings.seed)
    batch = collate([views[0, index] for index in range(min(4, len(held)))])
    if isinstance(batch, ImageError):
        raise batch
    provenance = {
        "command": "camrt train masked-vgg",
        "settings": asdict(settings),
        "kept_rows": network.kept_rows,
        "dead_rows": network.dead_rows,
        "torch": torch.__version__,
        **figures,
    }
    to_onnx(
        network.eval(), batch[0], out, labels=held.labels, preprocessing=preprocessing, provenance=provenance
    )
