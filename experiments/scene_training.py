"""The training loop: single small images first, then scenes, with an averaged copy of the weights.

A batch of 64×64 images costs a quarter of a batch of 128×128 scenes, and the network is fully
convolutional up to its pooling; so it learns what things look like on single images, how to tell neighbours
apart on smaller scenes, and meets scenes of the full size only at the end.
"""

from __future__ import annotations

import math
import queue
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from camrt.errors import InputError
from camrt.training.heads import HeadKind
from camrt.training.small_network import STRIDE, SmallNetwork
from experiments.scene_loss import scene_loss
from experiments.scenes import SceneRecipe, Scenes, training_scenes
from experiments.tiny_imagenet import LabelledImages

__all__ = ["MEAN", "STD", "SceneTrainingSettings", "normalise", "train"]

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
"""Preprocessing: x = (pixel / 255 − MEAN) / STD, a channel each."""


@dataclass(frozen=True)
class SceneTrainingSettings:
    """Everything that decides the outcome, apart from the images.

    Attributes:
        seed: of the weights and of every scene.
        epochs: epochs in all; about half go to single images on a canvas of half the side, a third to
            scenes of three quarters of the side, the rest to scenes of the full side.
        batch: scenes a step.
        rate: the peak learning rate, after a linear warm-up and before a cosine descent to zero.
        decay: AdamW's weight decay, of the matrices and kernels only.
        memory: share of the averaged weights that survives a step.
        canvas: side of the scenes at the end, in pixels: the side of the classifier's input.
        head: "cam" or "calm".
    """

    seed: int = 0
    epochs: int = 25
    batch: int = 64
    rate: float = 4e-3
    decay: float = 0.05
    memory: float = 0.998
    canvas: int = 128
    head: HeadKind = "calm"

    def __post_init__(self) -> None:
        if self.epochs < 1:
            raise InputError(f"there is nothing to train in {self.epochs} epochs")
        if self.batch < 2 or self.rate <= 0 or not 0 <= self.memory < 1:
            raise InputError("batch must be at least 2, rate positive and memory in [0, 1)")
        if self.canvas < 64 or self.canvas % 32:
            raise InputError(f"the canvas must be a multiple of 32, at least 64, not {self.canvas}")

    def recipe(self, epoch: int) -> SceneRecipe:
        """What the scenes of one epoch, counted from 0, are drawn from."""
        done = epoch / self.epochs
        if done < 0.52:
            return SceneRecipe(canvas=self.canvas // 2, counts=(1.0, 0.0, 0.0, 0.0), whole=0.8)
        return SceneRecipe(canvas=self.canvas * 3 // 4 if done < 0.84 else self.canvas)


def normalise(canvases: torch.Tensor) -> torch.Tensor:
    """The network's input, from RGB pixels in 0 to 255: float32 (N, 3, H, W), channels last in memory."""
    mean = torch.tensor(MEAN).view(3, 1, 1)
    std = torch.tensor(STD).view(3, 1, 1)
    scaled = canvases.float().mul(1 / 255).sub_(mean).div_(std)
    return scaled.contiguous(memory_format=torch.channels_last)


def train(
    images: LabelledImages,
    settings: SceneTrainingSettings,
    report: Callable[[int, float, SmallNetwork], None],
) -> SmallNetwork:
    """Trains the network, in bfloat16 with float32 weights, on the processor.

    Args:
        images: the training images.
        settings: the recipe.
        report: called after every epoch with its number, its mean loss and the averaged network.

    Returns:
        The averaged network after the last epoch, in evaluation mode. No epoch is preferred by its accuracy.

    Raises:
        InputError: fewer images than a batch.
    """
    steps = len(images) // settings.batch
    if not steps:
        raise InputError(f"{len(images)} images do not fill one batch of {settings.batch}")
    torch.manual_seed(settings.seed)
    rng = np.random.default_rng(settings.seed)
    network = SmallNetwork(len(images.labels), settings.head)
    for parameter in network.parameters():
        if parameter.ndim == 4:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
    averaged = SmallNetwork(len(images.labels), settings.head).eval()
    averaged.load_state_dict(network.state_dict())
    optimiser = _build_optimizer(network, settings)
    total = steps * settings.epochs
    step = 0
    for epoch in range(settings.epochs):
        losses = []
        for scenes in _prefetch(training_scenes(images, settings.recipe(epoch), settings.batch, rng)):
            for group in optimiser.param_groups:
                group["lr"] = settings.rate * _lr_factor(step / total)
            with torch.autocast("cpu", torch.bfloat16):
                final = network.activations(normalise(scenes.canvases))
            loss = scene_loss(final, network.head, scenes.classes, scenes.frames, STRIDE)
            optimiser.zero_grad(set_to_none=True)
            torch.autograd.backward(loss)
            optimiser.step()
            step += 1
            _update_average(averaged, network, min(settings.memory, step / (step + 10)))
            losses.append(loss.item())
        report(epoch, float(np.mean(losses)), averaged)
    return averaged


def _prefetch(scenes: Iterator[Scenes], depth: int = 4) -> Iterator[Scenes]:
    """The same scenes in the same order, drawn by another thread while the network is busy."""
    drawn: queue.Queue[Scenes | BaseException | None] = queue.Queue(depth)

    def draw() -> None:
        try:
            for batch in scenes:
                drawn.put(batch)
            drawn.put(None)
        except BaseException as error:  # handed to the reader, which raises it
            drawn.put(error)

    threading.Thread(target=draw, daemon=True).start()
    while (batch := drawn.get()) is not None:
        if isinstance(batch, BaseException):
            raise batch
        yield batch


def _build_optimizer(network: nn.Module, settings: SceneTrainingSettings) -> torch.optim.Optimizer:
    decayed = [p for p in network.parameters() if p.ndim > 1]
    others = [p for p in network.parameters() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": settings.decay}, {"params": others, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, settings.rate)


def _lr_factor(progress: float, warm_up: float = 0.04) -> float:
    if progress < warm_up:
        return (progress + 1e-4) / warm_up
    return 0.5 * (1 + math.cos(math.pi * (progress - warm_up) / (1 - warm_up)))


@torch.no_grad()
def _update_average(averaged: nn.Module, network: nn.Module, memory: float) -> None:
    """Moves the averaged weights (and the running statistics) a little towards the present ones."""
    present = network.state_dict()
    for name, value in averaged.state_dict().items():
        if value.is_floating_point():
            value.lerp_(present[name], 1 - memory)
        else:
            value.copy_(present[name])
