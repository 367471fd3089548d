"""Accuracy of a classifier on pictures that it was not trained on: one at a time, and in scenes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from camrt.training.pictures import Pictures
from camrt.training.scenes import Scenes

__all__ = ["canvases_of", "measure", "squashed"]

Predict = Callable[[NDArray[np.uint8]], NDArray[np.float32]]
"""From canvases, uint8 (N, S, S, 3) in RGB, to logits, float32 (N, C)."""


def squashed(pictures: Pictures, canvas: int) -> NDArray[np.uint8]:
    """Each picture alone, squashed to the whole canvas by Pillow's bilinear filter: (N, S, S, 3), RGB."""
    return np.stack(
        [
            np.asarray(Image.fromarray(pixels).resize((canvas, canvas), Image.Resampling.BILINEAR))
            for pixels in pictures.pixels.permute(0, 2, 3, 1).numpy()
        ]
    )


def canvases_of(scenes: Scenes) -> NDArray[np.uint8]:
    """The pixels of scenes as a picture file would hold them: uint8 (N, S, S, 3), RGB."""
    return scenes.canvases.round().permute(0, 2, 3, 1).contiguous().numpy().astype(np.uint8)


def measure(predict: Predict, pictures: Pictures, scenes: Scenes) -> dict[str, float]:
    """Accuracies of a classifier.

    Args:
        predict: the classifier, with its preprocessing.
        pictures: held-out pictures, each judged alone on the whole canvas.
        scenes: held-out scenes.

    Returns:
        `top1` and `top5` on single pictures; `scene_top1`, the share of scenes whose best class is present;
        and `scene_recall`, the mean share of a scene's n classes found among its n best. Four decimals.
    """
    canvas = scenes.canvases.shape[-1]
    order = np.argsort(-predict(squashed(pictures, canvas)), axis=1, kind="stable")
    hits = order == pictures.classes[:, None]
    ranked = np.argsort(-predict(canvases_of(scenes)), axis=1, kind="stable")
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
