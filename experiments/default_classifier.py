"""Makes the classifier that ships with camrt.

    python -m experiments.default_classifier --data FOLDER --out classifier.onnx

FOLDER holds `tiny_imagenet40.zip`. The script trains a small residual network with a CALM or CAM head on
scenes composed of the archive's training images, measures it once on the validation images, exports it to
ONNX, and puts the file in place only when onnxruntime gives torch's answers on validation images.
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

from camrt.engine.images.preprocess import Preprocessing
from camrt.engine.torch_models.to_onnx import to_onnx
from camrt.errors import CamrtError, InputError, ModelFileError
from camrt.training.classifier import Classifier
from camrt.training.heads import CALMHead, CAMHead
from camrt.training.small_network import SmallNetwork
from experiments.accuracy import measure_accuracy, squash_images
from experiments.scene_training import SceneTrainingSettings, normalise, train
from experiments.scenes import held_out_scenes
from experiments.tiny_imagenet import LabelledImages, read_tiny_imagenet

__all__ = ["DATA", "SCENES", "SCENE_SEED", "main", "measure_and_export", "to_classifier"]

DATA = (
    "40 classes of Tiny ImageNet (64×64), 38 of them kept and merged into 33; the 19,000 training images, "
    "as scenes of one to four on a canvas, with the frame of each image known to the loss and the object's "
    "box unknown; accuracy on the 1,900 validation images, by which no epoch was chosen"
)
"""What the classifier was made of, for its provenance."""
SCENES = 500
"""Held-out scenes to measure on."""
SCENE_SEED = 2024
"""Their seed."""
OPSET = 18
MAX_BYTES = 2_000_000
"""Most bytes the file may have."""


def main(
    data: Annotated[Path, typer.Option(help="Folder that holds tiny_imagenet40.zip.")],
    out: Annotated[Path, typer.Option(help="Where the ONNX file goes.")],
    epochs: Annotated[int, typer.Option(help="Epochs in all.")] = SceneTrainingSettings.epochs,
    seed: Annotated[int, typer.Option(help="Seed of weights and scenes.")] = SceneTrainingSettings.seed,
    head: Annotated[str, typer.Option(help="calm or cam.")] = SceneTrainingSettings.head,
    threads: Annotated[int, typer.Option(help="Threads of torch; 0 leaves its default.")] = 0,
    weights: Annotated[
        Path | None, typer.Option(help="Also keep torch's weights here, after every epoch.")
    ] = None,
) -> None:
    """Trains, measures, exports and verifies the embedded classifier."""
    if threads:
        torch.set_num_threads(threads)
    try:
        if head not in ("cam", "calm"):
            raise InputError(f"head {head!r} must be 'cam' or 'calm'")
        settings = SceneTrainingSettings(seed=seed, epochs=epochs, head=head)  # type: ignore[arg-type]  # checked above
        images, held_out = read_tiny_imagenet(data, "train"), read_tiny_imagenet(data, "val")
    except CamrtError as error:
        raise typer.BadParameter(str(error)) from error
    started = time.perf_counter()

    def report(epoch: int, loss: float, network: SmallNetwork) -> None:
        typer.echo(f"epoch {epoch} loss {loss:.4f} after {time.perf_counter() - started:.0f} s")
        if weights is not None:
            torch.save(network.state_dict(), weights)

    network = train(images, settings, report)
    measure_and_export(network, settings, held_out, out)


def measure_and_export(
    network: SmallNetwork, settings: SceneTrainingSettings, held_out: LabelledImages, out: Path
) -> dict[str, float]:
    """Measures a network, and writes it with its metadata once a hundred held-out images verify the file.

    Args:
        network: the trained network, in evaluation mode.
        settings: what it was trained with.
        held_out: the validation images.
        out: where the ONNX file goes.

    Returns:
        The accuracies, as `measure_accuracy` names them.
    """

    def predict(canvases: NDArray[np.uint8]) -> NDArray[np.float32]:
        parts = np.array_split(canvases, -(-len(canvases) // 100))
        with torch.no_grad():
            return np.concatenate([network(_to_inputs(part)).numpy() for part in parts])

    scenes = held_out_scenes(held_out, SCENES, settings.canvas, SCENE_SEED)
    figures = measure_accuracy(predict, held_out, scenes)
    typer.echo(f"measured: {figures}")
    provenance: dict[str, Any] = {
        "script": "python -m experiments.default_classifier",
        "data": DATA,
        "seed": settings.seed,
        "epochs": settings.epochs,
        "accuracy": figures,
        "scenes": {"number": SCENES, "seed": SCENE_SEED},
        "settings": asdict(settings),
        "torch": torch.__version__,
    }
    spread = squash_images(held_out, settings.canvas)[:: max(1, len(held_out) // 100)]
    to_onnx(
        to_classifier(network),
        _to_inputs(spread).contiguous(),
        out,
        labels=held_out.labels,
        preprocessing=Preprocessing.named("imagenet-squash", (settings.canvas, settings.canvas)),
        opset=OPSET,
        provenance=provenance,
    )
    if out.stat().st_size > MAX_BYTES:
        raise ModelFileError(f"{out} has {out.stat().st_size} bytes, more than {MAX_BYTES}")
    typer.echo(f"{out}: {out.stat().st_size} bytes, the same as torch on {len(spread)} images")
    return figures


def to_classifier(network: SmallNetwork) -> Classifier:
    """The network as a classifier that says of its file what it is."""
    if isinstance(network.head, CALMHead):
        return Classifier(network.trunk, network.head).eval()
    head = CAMHead(network.head.in_features, network.head.out_features)
    with torch.no_grad():
        head.classes.weight.copy_(network.head.weight[:, :, None, None])
        assert head.classes.bias is not None
        head.classes.bias.copy_(network.head.bias)
    return Classifier(network.trunk, head).eval()


def _to_inputs(canvases: NDArray[np.uint8]) -> torch.Tensor:
    return normalise(torch.from_numpy(canvases).permute(0, 3, 1, 2))


if __name__ == "__main__":
    typer.run(main)
