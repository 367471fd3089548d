"""Small folders of labelled images, made for tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

__all__ = ["CLASSES", "coloured_squares", "wsol_benchmark"]

CLASSES = ("blue", "green", "red")


def coloured_squares(folder: Path, each: int = 12, side: int = 40, *, boxed: bool = False) -> Path:
    """A folder for each class, with images of noise and a bright square of that colour somewhere.

    Where they are boxed, `boxes.csv` says where the squares are.
    """
    rng = np.random.default_rng(0)
    boxes = ["file,label,x0,y0,x1,y1"]
    for name, channel in zip(CLASSES, (2, 1, 0), strict=True):
        (folder / name).mkdir(parents=True)
        for number in range(each):
            pixels = rng.integers(0, 120, (side, side, 3)).astype(np.uint8)
            top, left = rng.integers(0, side - 15, 2)
            pixels[top : top + 15, left : left + 15, channel] = 255
            Image.fromarray(pixels).save(folder / name / f"{number:02d}.png")
            boxes.append(f"{name}/{number:02d}.png,{name},{left},{top},{left + 15},{top + 15}")
    if boxed:
        (folder / "boxes.csv").write_text("\n".join(boxes) + "\n")
    return folder


def wsol_benchmark(root: Path) -> tuple[Path, Path]:
    """A data set as the WSOL benchmark lays it out."""
    images = coloured_squares(root / "dataset" / "CUB", each=4)
    for split, numbers in (("train", (0, 1)), ("val", (2,)), ("test", (3,))):
        folder = root / "metadata" / "CUB" / split
        folder.mkdir(parents=True)
        names = [f"{name}/{number:02d}.png" for name in CLASSES for number in numbers]
        (folder / "image_ids.txt").write_text("\n".join(names) + "\n")
        lines = [f"{name},{CLASSES.index(name.split('/')[0])}" for name in names]
        (folder / "class_labels.txt").write_text("\n".join(lines) + "\n")
    return root / "metadata" / "CUB", images
