"""Makes the classifier that ships with camrt.

    python -m camrt.training.default_classifier --data FOLDER --out classifier.onnx

FOLDER holds `tiny_imagenet40.zip`. The script trains a small residual network on scenes composed of the
archive's training pictures, measures it once on the validation pictures, exports it to ONNX, and puts the
file in place only when onnxruntime gives torch's logits on validation pictures.
"""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from numpy.typing import NDArray

from camrt.errors import CamrtError
from camrt.training.accuracy import measure, squashed
from camrt.training.default_export import preprocessing, save_checked, to_onnx
from camrt.training.pictures import Pictures, read_pictures
from camrt.training.scene_training import MEAN, STD, Settings, normalised, train
from camrt.training.scenes import held_out_scenes
from camrt.training.small_network import SmallNetwork

__all__ = ["DATA", "SCENES", "SCENE_SEED", "main", "publish"]

DATA = (
    "40 classes of Tiny ImageNet (64×64), 38 of them kept and merged into 33; the 19,000 training pictures, "
    "as scenes of one to four on a canvas, with the frame of each picture known to the loss and the object's "
    "box unknown; accuracy on the 1,900 validation pictures, by which no epoch was chosen"
)
"""What the classifier was made of, for its provenance."""
SCENES = 500
"""Held-out scenes to measure on."""
SCENE_SEED = 2024
"""Their seed."""


def main(
    data: Annotated[Path, typer.Option(help="Folder that holds tiny_imagenet40.zip.")],
    out: Annotated[Path, typer.Option(help="Where the ONNX file goes.")],
    epochs: Annotated[int, typer.Option(help="Epochs in all.")] = Settings.epochs,
    seed: Annotated[int, typer.Option(help="Seed of weights and scenes.")] = Settings.seed,
    threads: Annotated[int, typer.Option(help="Threads of torch; 0 leaves its default.")] = 0,
    weights: Annotated[
        Path | None, typer.Option(help="Also keep torch's weights here, after every epoch.")
    ] = None,
) -> None:
    """Trains, measures, exports and verifies the embedded classifier."""
    if threads:
        torch.set_num_threads(threads)
    try:
        settings = Settings(seed=seed, epochs=epochs)
        pictures, held_out = read_pictures(data, "train"), read_pictures(data, "val")
    except CamrtError as error:
        raise typer.BadParameter(str(error)) from error
    started = time.perf_counter()

    def report(epoch: int, loss: float, network: SmallNetwork) -> None:
        typer.echo(f"epoch {epoch} loss {loss:.4f} after {time.perf_counter() - started:.0f} s")
        if weights is not None:
            torch.save(network.state_dict(), weights)

    network = train(pictures, settings, report)
    publish(network, settings, held_out, out)


def publish(network: SmallNetwork, settings: Settings, held_out: Pictures, out: Path) -> dict[str, float]:
    """Measures a network, and writes it with its metadata once a hundred held-out pictures verify the file.

    Args:
        network: the trained network, in evaluation mode.
        settings: what it was trained with.
        held_out: the validation pictures.
        out: where the ONNX file goes.

    Returns:
        The accuracies, as `measure` names them.
    """

    def predict(canvases: NDArray[np.uint8]) -> NDArray[np.float32]:
        parts = np.array_split(canvases, -(-len(canvases) // 100))
        with torch.no_grad():
            return np.concatenate([network(_inputs(part)).numpy() for part in parts])

    scenes = held_out_scenes(held_out, SCENES, settings.canvas, SCENE_SEED)
    figures = measure(predict, held_out, scenes)
    typer.echo(f"measured: {figures}")
    provenance: dict[str, Any] = {
        "script": "python -m camrt.training.default_classifier",
        "data": DATA,
        "seed": settings.seed,
        "epochs": settings.epochs,
        "accuracy": figures,
        "scenes": {"number": SCENES, "seed": SCENE_SEED},
        "settings": asdict(settings),
        "torch": torch.__version__,
    }
    metadata = {
        "labels": list(held_out.labels),
        "preprocessing": preprocessing(settings.canvas, MEAN, STD),
        "provenance": provenance,
    }
    model = to_onnx(network, settings.canvas, metadata)
    spread = squashed(held_out, settings.canvas)[:: max(1, len(held_out) // 100)]
    difference = save_checked(model, out, network, _inputs(spread).contiguous().numpy())
    typer.echo(f"{out}: {out.stat().st_size} bytes; logits within {difference:.2g} of torch's")
    return figures


def _inputs(canvases: NDArray[np.uint8]) -> torch.Tensor:
    return normalised(torch.from_numpy(canvases).permute(0, 3, 1, 2))


if __name__ == "__main__":
    typer.run(main)
