"""Accuracy of a classifier on images that it was not trained on: one at a time, and in scenes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from experiments.scenes import Scenes
from experiments.tiny_imagenet import LabelledImages

__all__ = ["canvases_to_uint8", "measure_accuracy", "squash_images"]

Predict = Callable[[NDArray[np.uint8]], NDArray[np.float32]]
"""From canvases, uint8 (N, S, S, 3) in RGB, to logits, float32 (N, C)."""


def squash_images(images: LabelledImages, canvas: int) -> NDArray[np.uint8]:
    """Each image alone, squashed to the whole canvas by Pillow's bilinear filter: (N, S, S, 3), RGB."""
    return np.stack(
        [
            np.asarray(Image.fromarray(pixels).resize((canvas, canvas), Image.Resampling.BILINEAR))
            for pixels in images.pixels.permute(0, 2, 3, 1).numpy()
        ]
    )


def canvases_to_uint8(scenes: Scenes) -> NDArray[np.uint8]:
    """The pixels of scenes as an image file would hold them: uint8 (N, S, S, 3), RGB."""
    return scenes.canvases.round().permute(0, 2, 3, 1).contiguous().numpy().astype(np.uint8)


def measure_accuracy(predict: Predict, images: LabelledImages, scenes: Scenes) -> dict[str, float]:
    """Accuracies of a classifier.

    Args:
        predict: the classifier, with its preprocessing.
        images: held-out images, each judged alone on the whole canvas.
        scenes: held-out scenes.

    Returns:
        `top1` and `top5` on single images; `scene_top1`, the share of scenes whose best class is present;
        and `scene_recall`, the mean share of a scene's n classes found among its n best. Four decimals.
    """
    canvas = scenes.canvases.shape[-1]
    order = np.argsort(-predict(squash_images(images, canvas)), axis=1, kind="stable")
    hits = order == images.classes[:, None]
    ranked = np.argsort(-predict(canvases_to_uint8(scenes)), axis=1, kind="stable")
    recalls = [
        len(set(row[: len(present)]) & present) / len(present)
        for row, classes in zip(ranked.tolist(), scenes.classes.tolist(), strict=True)
        if (present := set(classes) - {-1})
    ]
    figures = {
        "top1": hits[:, 0].mean(),
        "top5": hits[:, :5].any(axis=1).mean(),
        "scene_top1": (ranked[:, :1] == scenes.classes).any(axis=1).mean(),
        "scene_recall": np.mean(recalls),
    }
    return {name: round(float(value), 4) for name, value in figures.items()}
