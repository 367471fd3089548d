"""The training images: one zip file of small labelled images, read into memory as one uint8 tensor.

The file `tiny_imagenet40.zip` holds `SPLIT/WNID/NAME.JPEG` images of 64×64 and a `boxes.json` that names
the objects' boxes of each image as `[x0, y0, x1, y1]` with both ends included.
"""

from __future__ import annotations

import io
import json
import zipfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from camrt.errors import ImageError, InputError
from experiments.default_classes import LABELS, class_of_wnid

__all__ = ["ARCHIVE", "SIDE", "LabelledImages", "read_tiny_imagenet"]

ARCHIVE = "tiny_imagenet40.zip"
SIDE = 64
"""Height and width of every image, in pixels."""


@dataclass(frozen=True)
class LabelledImages:
    """Labelled images with the boxes of their objects.

    Attributes:
        pixels: uint8 (N, 3, 64, 64), RGB.
        classes: int64 (N,), indices into `labels`.
        boxes: one int64 array (n, 4) an image, half-open (r0, c0, r1, c1) in pixels of the 64×64 grid.
        labels: the class names.
    """

    pixels: torch.Tensor
    classes: NDArray[np.int64]
    boxes: tuple[NDArray[np.int64], ...]
    labels: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.classes)


def read_tiny_imagenet(folder: Path, split: str) -> LabelledImages:
    """Reads one split of the archive.

    Args:
        folder: the folder that holds `tiny_imagenet40.zip`.
        split: "train" or "val".

    Returns:
        The images of the classes in use, in the order of their paths.

    Raises:
        InputError: the folder or the archive is missing, is not a zip file, or holds nothing of that split.
        ImageError: an image in the archive cannot be decoded or has another size.
    """
    path = folder / ARCHIVE
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder; give the folder that holds {ARCHIVE}")
    if not path.is_file():
        raise InputError(f"{ARCHIVE} is not in {folder}")
    try:
        with zipfile.ZipFile(path) as archive:
            return _read_split(archive, split)
    except (zipfile.BadZipFile, KeyError, json.JSONDecodeError) as error:
        raise InputError(f"{path} is not the expected archive: {error}") from error


def _read_split(archive: zipfile.ZipFile, split: str) -> LabelledImages:
    class_of = class_of_wnid()
    inclusive = json.loads(archive.read("boxes.json"))
    names = [name for name in sorted(archive.namelist()) if _in_use(name, split, class_of)]
    if not names:
        raise InputError(f"the archive holds no image of the classes in use under {split}/")
    pixels = np.empty((len(names), SIDE, SIDE, 3), np.uint8)
    for index, name in enumerate(names):
        pixels[index] = _decode(archive.read(name), name)
    boxes = tuple(_half_open(inclusive.get(name, [])) for name in names)
    classes = np.array([class_of[PurePosixPath(name).parent.name] for name in names], np.int64)
    channels_first = torch.from_numpy(pixels).permute(0, 3, 1, 2).contiguous()
    return LabelledImages(channels_first, classes, boxes, LABELS)


def _in_use(name: str, split: str, class_of: dict[str, int]) -> bool:
    path = PurePosixPath(name)
    return path.suffix.lower() in {".jpeg", ".jpg", ".png"} and (
        len(path.parts) == 3 and path.parts[0] == split and path.parts[1] in class_of
    )


def _decode(data: bytes, name: str) -> NDArray[np.uint8]:
    try:
        with Image.open(io.BytesIO(data)) as image:
            pixels = np.asarray(image.convert("RGB"), np.uint8)
    except OSError as error:
        raise ImageError(f"{name} cannot be decoded: {error}") from error
    if pixels.shape != (SIDE, SIDE, 3):
        raise ImageError(f"{name} is {pixels.shape[1]}×{pixels.shape[0]}, not {SIDE}×{SIDE}")
    return pixels


def _half_open(inclusive: list[list[int]]) -> NDArray[np.int64]:
    """Turns inclusive (x0, y0, x1, y1) rows into half-open (r0, c0, r1, c1) rows."""
    x0, y0, x1, y1 = np.asarray(inclusive, np.int64).reshape(-1, 4).T
    return np.stack([y0, x0, y1 + 1, x1 + 1], axis=1)
