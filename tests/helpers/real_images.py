"""Validation images of the folder that `CAMRT_DATA` names."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

__all__ = ["box_share", "find_validation_images"]


def find_validation_images(data: Path, count: int):
    """The first images whose boxes take up less than a third of them."""
    with zipfile.ZipFile(data / "pictures" / "imagenet_val400.zip") as archive:
        images, labels, boxes = [], [], []
        for entry in json.loads(archive.read("boxes.json")):
            rows = [(y0, x0, y1, x1) for x0, y0, x1, y1 in entry["boxes"]]
            if not rows or box_share(np.asarray(rows), 227) > 1 / 3:
                continue
            name = entry["file"] if entry["file"].startswith("images/") else f"images/{entry['file']}"
            with Image.open(io.BytesIO(archive.read(name))) as image:
                images.append(image.convert("RGB"))
            labels.append(entry["label"])
            boxes.append(rows)
            if len(images) == count:
                break
    return images, np.array(labels), boxes


def box_share(boxes: np.ndarray, size: int) -> float:
    covered = np.zeros((size, size), bool)
    for r0, c0, r1, c1 in np.asarray(boxes, int):
        covered[r0:r1, c0:c1] = True
    return float(covered.mean())
