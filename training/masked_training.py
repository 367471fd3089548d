"""Training a masked VGG on pictures, as "CAM-Based Methods Can See through Walls" does (specification D3).

Random resized parts, SGD with momentum, a learning rate that falls to a tenth after each third of the epochs,
and the mask after every step. The command is `python -m camrt.training.masked_vgg`.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from PIL import Image
from torch.nn import functional
from torch.utils.data import DataLoader

from camrt.engine.preprocessing import Preprocessing
from camrt.errors import CamrtError, InputError, PictureError, TrainingError
from camrt.export.from_torch import to_onnx
from camrt.training.masked_vgg import MaskedVGG, MaskedVGG16, small_masked_vgg
from camrt.training.masking import hold_after_steps
from camrt.training.splits import Split, split_folder
from camrt.training.views import PictureViews, ShuffledBatches, collate

__all__ = ["ResizedCrops", "Settings", "accuracy", "main", "publish", "train"]

AREA = (0.1, 1.0)
ASPECT = (0.8, 1.25)
"""Share of the picture, and width by height, of the parts that are shown in training."""
BATCH = 256
LR = 0.03
"""The paper's batch, and its learning rate for it."""


@dataclass(frozen=True)
class ResizedCrops(PictureViews):
    """Pictures in training: a random part of random area and proportions, resized, in half of cases mirrored.

    The part's area is uniform in `AREA` of the picture's, its width by height log-uniform in `ASPECT`; what
    does not fit in is drawn again, and after ten times the largest part in the middle is taken. The canvas is
    not used: pictures are not squashed before.
    """

    def _varied(self, picture: Image.Image, rng: np.random.Generator) -> Image.Image:
        height, width = self.preprocessing.size
        left, top, wide, tall = part(*picture.size, rng)
        box = (left, top, left + wide, top + tall)
        view = picture.resize((width, height), Image.Resampling.BILINEAR, box=box)
        return view.transpose(Image.Transpose.FLIP_LEFT_RIGHT) if rng.random() < 0.5 else view


def part(width: int, height: int, rng: np.random.Generator) -> tuple[int, int, int, int]:
    """(left, top, width, height) of a random part of a picture, see `ResizedCrops`."""
    for _ in range(10):
        area = rng.uniform(*AREA) * width * height
        aspect = math.exp(rng.uniform(math.log(ASPECT[0]), math.log(ASPECT[1])))
        wide, tall = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 1 <= wide <= width and 1 <= tall <= height:
            return int(rng.integers(width - wide + 1)), int(rng.integers(height - tall + 1)), wide, tall
    aspect = min(max(width / height, ASPECT[0]), ASPECT[1])
    wide, tall = max(1, min(width, round(height * aspect))), max(1, min(height, round(width / aspect)))
    return (width - wide) // 2, (height - tall) // 2, wide, tall


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How a network is trained; the defaults are the paper's.

    Attributes:
        epochs: How many times each picture is shown; the learning rate falls to a tenth after each third.
        batch_size: Pictures a step.
        lr: Learning rate of SGD; None takes the paper's 0.03 for 256 pictures, in proportion to the batch.
        momentum: SGD's.
        weight_decay: SGD's.
        seed: Of weights, order, views and dropout.
        workers: Processes that read pictures.
        device: torch's: "cpu" or "cuda".
        mixed: Whether to compute in bfloat16 where torch finds it safe; weights stay float32.

    Raises:
        InputError: A setting out of range.
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

    def __post_init__(self) -> None:
        if self.lr is None:
            object.__setattr__(self, "lr", LR * self.batch_size / BATCH)
        if self.epochs < 1 or self.batch_size < 1 or self.workers < 0 or self.seed < 0:
            raise InputError(
                f"epochs={self.epochs} and batch_size={self.batch_size} must be at least 1, "
                f"workers={self.workers} and seed={self.seed} not negative"
            )
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

    def rate_in(self, epoch: int) -> float:
        """The learning rate in an epoch, counted from 0."""
        return self.rate * 0.1 ** (3 * epoch // self.epochs)


def train(
    network: MaskedVGG,
    pictures: Split,
    settings: Settings,
    report: Callable[[int, float], None] = lambda epoch, loss: None,
) -> None:
    """Trains a network in place by cross-entropy, its masks applied after every step; on `settings.device`.

    Args:
        network: The network; left in training mode.
        pictures: What to train on.
        settings: How.
        report: Called after every epoch with its number, from 0, and its mean loss.

    Raises:
        TrainingError: The loss is not finite.
        PictureError: A picture cannot be read.
    """
    preprocessing = preprocessing_of(network)
    views = ResizedCrops(pictures, preprocessing, preprocessing.size, settings.seed)
    batches = ShuffledBatches(len(pictures), settings.batch_size, settings.seed, shuffled=True)
    loader = loader_of(views, batches, settings)
    network.to(settings.device).train()
    optimizer = torch.optim.SGD(
        network.parameters(),
        lr=settings.rate,
        momentum=settings.momentum,
        weight_decay=settings.weight_decay,
    )
    held = hold_after_steps(optimizer, network.masks)
    for epoch in range(settings.epochs):
        batches.epoch = epoch
        for group in optimizer.param_groups:
            group["lr"] = settings.rate_in(epoch)
        losses = []
        for step, batch in enumerate(loader):
            if isinstance(batch, PictureError):
                raise batch
            torch.manual_seed((settings.seed * 1009 + epoch) * 1_000_003 + step)  # dropout
            shown, labels = (tensor.to(settings.device) for tensor in batch)
            with torch.autocast(torch.device(settings.device).type, torch.bfloat16, enabled=settings.mixed):
                loss = functional.cross_entropy(network(shown), labels)
            losses.append(loss.item())
            if not math.isfinite(losses[-1]):
                raise TrainingError(
                    f"the loss is {losses[-1]} in step {step + 1} of epoch {epoch + 1}: try a smaller lr"
                )
            optimizer.zero_grad(set_to_none=True)
            torch.autograd.backward(loss)
            optimizer.step()
        report(epoch, float(np.mean(losses)))
    held.remove()


def accuracy(network: MaskedVGG, pictures: Split, settings: Settings) -> tuple[float, float]:
    """Top-1 and top-5 accuracy on whole pictures: the short side to the network's, then the centre.

    Args:
        network: The network, on `settings.device`; put into evaluation mode.
        pictures: What to measure on.
        settings: Batches, workers and device.

    Raises:
        PictureError: A picture cannot be read.
    """
    views = PictureViews(pictures, preprocessing_of(network), None, settings.seed)
    batches = ShuffledBatches(len(pictures), settings.batch_size, settings.seed, shuffled=False)
    network.eval()
    right = np.zeros(2, np.int64)
    with torch.no_grad():
        for batch in loader_of(views, batches, settings):
            if isinstance(batch, PictureError):
                raise batch
            shown, labels = (tensor.to(settings.device) for tensor in batch)
            order = torch.argsort(network(shown), dim=1, descending=True, stable=True)
            found = order[:, :5] == labels[:, None]
            right += np.array([int(found[:, 0].sum()), int(found.sum())])
    return float(right[0] / len(pictures)), float(right[1] / len(pictures))


def loader_of(views: PictureViews, batches: ShuffledBatches, settings: Settings) -> DataLoader[Any]:
    """Batches of pictures, read by other processes where settings say so."""
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
    """How whole pictures become a network's input: the short side to its side, then the centre."""
    return Preprocessing(
        (network.size, network.size),
        (0.485, 0.456, 0.406),
        (0.229, 0.224, 0.225),
        resize="crop",
        crop_fraction=1.0,
    )


def main(
    data: Annotated[Path, typer.Option(help="Class folders, or train/ and val/ with class folders each.")],
    out: Annotated[Path, typer.Option(help="Where the ONNX file goes.")],
    epochs: Annotated[int, typer.Option(help="How many times each picture is shown.")] = Settings.epochs,
    network: Annotated[str, typer.Option(help="small, for 64×64; or vgg16, the paper's.")] = "small",
    unmasked: Annotated[bool, typer.Option("--unmasked", help="Let the network see all rows.")] = False,
    kept_rows: Annotated[int | None, typer.Option(help="Rows of the last map that are seen.")] = None,
    batch_size: Annotated[int, typer.Option(help="Pictures a step.")] = Settings.batch_size,
    lr: Annotated[float | None, typer.Option(help="Learning rate; else 0.03 · batch size / 256.")] = None,
    seed: Annotated[int, typer.Option(help="Of weights, order, views and dropout.")] = Settings.seed,
    workers: Annotated[int, typer.Option(help="Processes that read pictures.")] = Settings.workers,
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = Settings.device,
    mixed: Annotated[bool, typer.Option("--mixed", help="Compute in bfloat16 where it is safe.")] = False,
) -> None:
    """Trains a masked VGG, measures it, and exports it to ONNX."""
    try:
        settings = Settings(
            epochs=epochs,
            batch_size=batch_size,
            lr=lr,
            seed=seed,
            workers=workers,
            device=device,
            mixed=mixed,
        )
        if network not in ("small", "vgg16"):
            raise InputError(f"network {network!r} must be 'small' or 'vgg16'")
        pictures, held = split_folder(data, 0.1, seed)
        torch.manual_seed(seed)
        build = small_masked_vgg if network == "small" else MaskedVGG16
        rows = {} if kept_rows is None else {"kept_rows": kept_rows}
        model = build(len(pictures.labels), masked=not unmasked, **rows)
    except CamrtError as error:
        raise typer.BadParameter(str(error)) from error
    typer.echo(
        f"{len(pictures)} pictures of {len(pictures.labels)} classes to train on, {len(held)} to measure on; "
        f"{model.kept_rows} rows of the map are seen, the last {model.dead_rows} of {model.size} rows of a "
        "picture are not"
    )
    started = time.perf_counter()

    def report(epoch: int, loss: float) -> None:
        typer.echo(f"epoch {epoch + 1} loss {loss:.4f} after {time.perf_counter() - started:.0f} s")

    train(model, pictures, settings, report)
    top1, top5 = accuracy(model, held, settings)
    typer.echo(f"top-1 {100 * top1:.1f} %, top-5 {100 * top5:.1f} %")
    publish(model.cpu(), held, settings, {"network": network, "top1": top1, "top5": top5}, out)
    typer.echo(f"{out}: {out.stat().st_size / 1e6:.1f} MB")


def publish(network: MaskedVGG, held: Split, settings: Settings, figures: dict[str, Any], out: Path) -> None:
    """Writes a network as an ONNX file that says how it was made, and is compared with it on a few pictures.

    Args:
        network: The network, on the CPU.
        held: Pictures it was not trained on.
        settings: What it was trained with.
        figures: What was measured.
        out: Where the file goes.

    Raises:
        BackendError: The file gives other logits.
    """
    preprocessing = preprocessing_of(network)
    views = PictureViews(held, preprocessing, None, settings.seed)
    batch = collate([views[0, index] for index in range(min(4, len(held)))])
    if isinstance(batch, PictureError):
        raise batch
    provenance = {
        "script": "python -m camrt.training.masked_vgg",
        "settings": asdict(settings),
        "kept_rows": network.kept_rows,
        "dead_rows": network.dead_rows,
        "torch": torch.__version__,
        **figures,
    }
    to_onnx(
        network.eval(), batch[0], out, labels=held.labels, preprocessing=preprocessing, provenance=provenance
    )
