"""Scenes: one to four labelled images on one canvas, over a soft background.

A classifier trained on scenes has to answer for each object by itself, so that its class activation maps
can be judged by where the object is.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from camrt.errors import InputError
from experiments.augmentation import jitter_colours, random_backgrounds, random_crop
from experiments.scene_layout import MAX_IMAGES, boxes_to_canvas, sample_frames
from experiments.tiny_imagenet import LabelledImages

__all__ = ["SceneRecipe", "Scenes", "held_out_scenes", "object_boxes", "training_scenes"]


@dataclass(frozen=True)
class SceneRecipe:
    """How training scenes are drawn.

    Attributes:
        canvas: side of the canvas, in pixels.
        counts: the chances of one, two, three and four images; they sum to one.
        whole: for a single image, the chance that it fills the canvas.
        grain: the chance that a scene gets noise added to every pixel.
    """

    canvas: int = 128
    counts: tuple[float, float, float, float] = (0.4, 0.25, 0.15, 0.2)
    whole: float = 0.5
    grain: float = 0.3

    def __post_init__(self) -> None:
        if min(self.counts) < 0 or abs(sum(self.counts) - 1) > 1e-9:
            raise InputError(f"the chances of one to four images must sum to one, not {self.counts}")
        if not (0 <= self.whole <= 1 and 0 <= self.grain <= 1):
            raise InputError("whole and grain are chances, between 0 and 1")


@dataclass(frozen=True)
class Scenes:
    """A batch of scenes.

    Attributes:
        canvases: float32 (N, 3, S, S), RGB in 0 to 255.
        sources: int64 (N, 4), the index of each image in its collection; −1 pads.
        classes: int64 (N, 4), the class of each image; −1 pads.
        frames: int64 (N, 4, 4), where each image lies, half-open (r0, c0, r1, c1); zeros pad.
    """

    canvases: torch.Tensor
    sources: NDArray[np.int64]
    classes: NDArray[np.int64]
    frames: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.classes)


def training_scenes(
    images: LabelledImages, recipe: SceneRecipe, batch: int, rng: np.random.Generator
) -> Iterator[Scenes]:
    """One epoch: as many scenes as there are images, each image leading one scene.

    Every image is cropped, mirrored and recoloured at random; the others of a scene are drawn freely.

    Args:
        images: the training images.
        recipe: how scenes are drawn.
        batch: scenes a batch; the last, smaller batch is left out.
        rng: the source of chance; the same state gives the same scenes.
    """
    order = rng.permutation(len(images))
    for start in range(0, len(order) - batch + 1, batch):
        sources, frames = _sample_sources(rng, recipe, order[start : start + batch], len(images))
        yield _compose(images, sources, frames, recipe, rng, vary=True)


def held_out_scenes(images: LabelledImages, number: int, canvas: int, seed: int) -> Scenes:
    """Scenes to judge by: one to four whole, unaltered images of different classes, each count as often.

    Args:
        images: images kept out of training; those without a box are never drawn.
        number: N, how many scenes.
        canvas: side of the canvas, in pixels.
        seed: the same seed gives the same scenes.

    Raises:
        InputError: fewer than four classes have boxed images.
    """
    rng = np.random.default_rng(seed)
    boxed = np.array([index for index, boxes in enumerate(images.boxes) if len(boxes)], np.int64)
    classes = np.unique(images.classes[boxed])
    if len(classes) < MAX_IMAGES:
        raise InputError(f"scenes need boxed images of at least {MAX_IMAGES} classes, not {len(classes)}")
    sources = np.full((number, MAX_IMAGES), -1, np.int64)
    frames = np.zeros((number, MAX_IMAGES, 4), np.int64)
    for index in range(number):
        count = index % MAX_IMAGES + 1
        for slot, chosen in enumerate(rng.choice(classes, count, replace=False)):
            sources[index, slot] = rng.choice(boxed[images.classes[boxed] == chosen])
        frames[index, :count] = sample_frames(rng, count, canvas)
    return _compose(images, sources, frames, SceneRecipe(canvas=canvas, grain=0.0), rng, vary=False)


def object_boxes(scenes: Scenes, images: LabelledImages, scene: int, slot: int) -> NDArray[np.int64]:
    """The boxes of one unaltered image's objects: int64 (n, 4), half-open in pixels of the canvas."""
    height, width = images.pixels.shape[2:]
    boxes = images.boxes[scenes.sources[scene, slot]]
    return boxes_to_canvas(boxes, scenes.frames[scene, slot], (height, width))


def _sample_sources(
    rng: np.random.Generator, recipe: SceneRecipe, leaders: NDArray[np.int64], available: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    counts = rng.choice(MAX_IMAGES, len(leaders), p=recipe.counts) + 1
    sources = rng.integers(0, available, (len(leaders), MAX_IMAGES))
    sources[:, 0] = leaders
    sources[np.arange(MAX_IMAGES) >= counts[:, None]] = -1
    frames = np.zeros((len(leaders), MAX_IMAGES, 4), np.int64)
    for index, count in enumerate(counts):
        frames[index, :count] = sample_frames(rng, int(count), recipe.canvas, recipe.whole)
    return sources, frames


def _compose(
    images: LabelledImages,
    sources: NDArray[np.int64],
    frames: NDArray[np.int64],
    recipe: SceneRecipe,
    rng: np.random.Generator,
    vary: bool,
) -> Scenes:
    """Paints the images named by `sources` into `frames`, on fresh backgrounds."""
    scene_of, slot_of = np.nonzero(sources >= 0)
    chosen = images.pixels[torch.from_numpy(sources[scene_of, slot_of])].float()
    if vary:
        chosen = jitter_colours(chosen, rng)
    canvases = random_backgrounds(len(sources), recipe.canvas, images.pixels, rng)
    for image, scene, slot in zip(chosen, scene_of, slot_of, strict=True):
        r0, c0, r1, c1 = frames[scene, slot].tolist()
        part = random_crop(image, rng) if vary else image
        mode = "bicubic" if vary and rng.random() < 0.3 else "bilinear"
        sized = functional.interpolate(part[None], (r1 - r0, c1 - c0), mode=mode, antialias=True)
        canvases[scene, :, r0:r1, c0:c1] = sized[0]
    if recipe.grain and vary:
        noisy = np.nonzero(rng.random(len(sources)) < recipe.grain)[0]
        canvases[noisy] += _grain(len(noisy), recipe.canvas, rng)
    classes = np.where(sources >= 0, images.classes[sources], -1)
    return Scenes(canvases.clamp_(0, 255), sources, classes, frames)


def _grain(number: int, canvas: int, rng: np.random.Generator) -> torch.Tensor:
    strengths = torch.from_numpy(rng.uniform(2, 16, (number, 1, 1, 1)).astype(np.float32))
    noise = rng.standard_normal((number, 3, canvas, canvas), np.float32)
    return torch.from_numpy(noise) * strengths
