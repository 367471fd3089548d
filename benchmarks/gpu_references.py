"""Networks for `gpu_explain.py`, and what explanations of them must be, in float64."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from networks import torchvision_models

__all__ = [
    "LARGE",
    "SMALL",
    "Agreement",
    "Shape",
    "agreements",
    "build_module",
    "random_images",
    "relative_difference",
]

Tensor = torch.Tensor
nn, functional = torch.nn, torch.nn.functional

CHUNK = 256
"""Rows that a definition runs at once."""
MASKS = 64
"""Channels whose masks a definition runs, at most."""
SPREAD = 1.5
"""Standard deviation over classes that logits are given: softmaxes neither flat nor saturated."""
FLAT = 0.01
"""A map in [0, 1] whose values differ by less shows nothing, and nothing can be told from it."""


# ---------------------------------------------------------------- networks


@dataclass(frozen=True)
class Shape:
    """A classifier's architecture.

    Attributes:
        name: What it is called in tables.
        make: Makes it, on the CPU, with random weights.
        side: Height and width of its images.
        layers: Submodules of 512 and of 2048 channels, where it has such.
    """

    name: str
    make: Callable[[], nn.Module]
    side: int
    layers: tuple[str, ...] = ()


class SmallNet(nn.Module):
    """Convolutions with batch norm, one of them gone around, and a head."""

    def __init__(self, last: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        self.around = nn.Sequential(nn.Conv2d(8, 8, 3, 1, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        self.layer4 = nn.Sequential(last, nn.ReLU())
        self.head = head

    def forward(self, batch: Tensor) -> Tensor:
        """Logits (N, 10)."""
        stem = self.stem(batch)
        logits: Tensor = self.head(self.layer4(stem + self.around(stem)))
        return logits


class Branches(nn.Module):
    """Two convolutions beside each other."""

    def __init__(self) -> None:
        super().__init__()
        self.narrow = nn.Conv2d(8, 6, 1, 2)
        self.wide = nn.Conv2d(8, 6, 3, 2, 1)

    def forward(self, maps: Tensor) -> Tensor:
        """(N, 12, h, w)."""
        return torch.cat([self.narrow(maps), self.wide(maps)], dim=1)


def pooled() -> nn.Module:
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(), nn.Linear(12, 10))


def flattened() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(12 * 49, 32), nn.ReLU(), nn.Dropout(), nn.Linear(32, 10))


LARGE = (
    Shape("ResNet-50", lambda: torchvision_models().resnet50(weights=None), 224, ("layer2", "layer4")),
    Shape("VGG-16", lambda: torchvision_models().vgg16(weights=None), 224),
    Shape("Inception-v3", lambda: torchvision_models().inception_v3(weights=None, init_weights=False), 299),
)
SMALL = (
    Shape("small ResNet", lambda: SmallNet(nn.Conv2d(8, 12, 3, 2, 1), pooled()), 28),
    Shape("small VGG", lambda: SmallNet(nn.Conv2d(8, 12, 3, 2, 1), flattened()), 28),
    Shape("small Inception", lambda: SmallNet(Branches(), pooled()), 28),
)


def random_images(count: int, side: int, device: torch.device) -> Tensor:
    """Smooth random images, (count, 3, side, side) float32."""
    coarse = torch.randn(count, 3, 14, 14, generator=torch.Generator().manual_seed(2))
    return functional.interpolate(coarse.to(device), (side, side), mode="bicubic")


def build_module(shape: Shape, device: torch.device) -> nn.Module:
    """A classifier with seeded random weights on the device, in evaluation mode.

    Batch norms get the statistics of bright and dim images, so that neither these nor masked ones are
    strange to it; the last layer gets a scale at which softmaxes are neither flat nor saturated.
    """
    torch.manual_seed(0)
    module = shape.make().to(device)
    light = torch.linspace(0.05, 1, 32, device=device)[:, None, None, None]
    batch = light * random_images(32, shape.side, device)
    norms = [part for part in module.modules() if isinstance(part, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = None
        norm.reset_running_stats()
    with torch.no_grad():
        if norms:
            module.train()(batch)
        spread = module.eval()(batch).std(dim=1).mean()
        last = [part for part in module.modules() if isinstance(part, nn.Linear)][-1]
        last.weight *= SPREAD / spread
        last.bias *= SPREAD / spread
    return module


# ---------------------------------------------------------------- definitions


class ReferenceExplainer:
    """Explanations by their definitions: what they alter is altered in a tensor, and run.

    What follows the activation is a copy of the module in float64.

    Args:
        module: The classifier.
        path: The submodule to explain at; it is called once a pass, and nothing goes around it.
        batch: Images (N, C, H, W) float32.
        activations: (N, K, h, w), what the submodule gave for them.
        targets: (N,) the classes to explain.
    """

    def __init__(
        self, module: nn.Module, path: str, batch: Tensor, activations: Tensor, targets: list[int]
    ) -> None:
        self._module = module
        self._path = path
        self._batch = batch
        self._kind = next(module.parameters()).dtype
        self._twin = copy.deepcopy(module).double()
        self._activations = activations.double()
        self._targets = targets
        self.logits = torch.cat([self._run_head(one[None]) for one in self._activations])

    def own_activations(self) -> Tensor:
        """What the submodule gives when the module is called as it is."""
        found: list[Tensor] = []
        with hook_submodule(self._module, self._path, lambda _, __, output: found.append(output.clone())):
            self._module(self._batch.to(self._kind))
        return found[0]

    def ablation(self, i: int) -> Tensor:
        """Ablation-CAM's weights (K,): (Y − Y_−k) / |Y|, Y a logit."""
        channels, target = len(self._activations[i]), self._targets[i]

        def without(some: Tensor) -> Tensor:
            rows = self._activations[i].repeat(len(some), 1, 1, 1)
            rows[torch.arange(len(some), device=some.device), some] = 0
            return rows

        whole = self.logits[i, target]
        return (whole - self._answers(channels, without)[:, target]) / whole.abs()

    def cam(self, i: int) -> Tensor:
        """CAM's map (h, w) before it is rectified: Σ_k W_k A_k + b, of the target's row of the last layer."""
        last = [part for part in self._twin.modules() if isinstance(part, nn.Linear)][-1]
        target = self._targets[i]
        return torch.einsum("k,kij->ij", last.weight[target], self._activations[i]) + last.bias[target]

    def eigen(self, i: int) -> Tensor:
        """Eigen-CAM's map (h, w): cells, centred, on their first principal direction, the peak positive."""
        cells = self._activations[i].flatten(1).T
        cells = cells - cells.mean(dim=0)
        projected = cells @ torch.linalg.svd(cells, full_matrices=False).Vh[0]
        projected = projected * projected[projected.abs().argmax()].sign()
        return projected.reshape(self._activations[i].shape[1:])

    def gradcam(self, i: int) -> Tensor:
        """Grad-CAM's weights (K,): means of the logit's gradient."""
        leaf = self._activations[i : i + 1].clone().requires_grad_()
        with torch.enable_grad():
            (gradient,) = torch.autograd.grad(self._run_head(leaf)[0, self._targets[i]], leaf)
        return gradient[0].mean(dim=(1, 2))

    def pixab(self, i: int) -> tuple[Tensor, float]:
        """Pixab-CAM's map (h, w) before it is rectified, and the largest quotient of probabilities in it.

        Over the boxes of each shape, sides 1 and 2, that cover a cell, the mean of (Y − Y_−b) / Y, where the
        box is set to zero, and of (Y_+b − Y₀) / Y₀, where all but the box is; the shapes count equally.
        """
        activation, target = self._activations[i], self._targets[i]
        _, height, width = activation.shape
        shapes = [(tall, wide) for tall in (1, 2) for wide in (1, 2)]
        whole = self.logits[i : i + 1].softmax(1)[0, target]
        nothing = self._run_head(torch.zeros_like(activation[None])).softmax(1)[0, target]
        means, most = [], 0.0
        for tall, wide in shapes:
            corners = [(r, c) for r in range(1 - tall, height) for c in range(1 - wide, width)]
            inside = torch.zeros(len(corners), 1, height, width, dtype=torch.float64)
            for box, (r, c) in zip(inside, corners, strict=True):
                box[:, max(r, 0) : r + tall, max(c, 0) : c + wide] = 1
            inside = inside.to(activation.device)
            parts = []
            for own in (1 - inside, inside):
                answers = self._answers(len(corners), lambda some, own=own: activation * own[some])
                parts.append(answers.softmax(1)[:, target])
            fallen, risen = parts[0] / whole, parts[1] / nothing
            values = (1 - fallen) + (risen - 1)
            means.append(torch.einsum("bij,b->ij", inside[:, 0], values) / inside[:, 0].sum(dim=0))
            most = max(most, float(fallen.max()), float(risen.max()))
        return torch.stack(means).mean(dim=0), most

    def score(self, i: int, channels: Tensor) -> Tensor:
        """Score-CAM's weights of some channels: p(x ∘ m_k) − p(0), m_k a channel upsampled and scaled.

        The model that is asked is the copy in float64. But one in a half type is asked itself: over many
        layers its roundings are of the size of what is looked for.
        """
        size = (self._batch.shape[2], self._batch.shape[3])
        masks = functional.interpolate(self._activations[i : i + 1, channels], size, mode="bilinear")[0]
        low, high = masks.amin(dim=(1, 2), keepdim=True), masks.amax(dim=(1, 2), keepdim=True)
        constant = (low == high)[:, 0, 0]
        masks = torch.where(low == high, 0, (masks - low) / (high - low))
        masked = torch.cat([self._batch[i].double() * masks[:, None], torch.zeros_like(self._batch[:1])])
        single = self._kind == torch.float32
        parts = [
            self._twin(some) if single else self._module(some.to(self._kind)) for some in masked.split(CHUNK)
        ]
        chances = torch.cat(parts).double().softmax(1)[:, self._targets[i]]
        return torch.where(constant, 0, chances[:-1] - chances[-1])

    def _run_head(self, rows: Tensor) -> Tensor:
        """Logits of activations (B, K, h, w)."""
        with hook_submodule(self._twin, self._path, lambda *_: rows):
            logits: Tensor = self._twin(self._batch[:1].double())
        return logits

    def _answers(self, count: int, alter: Callable[[Tensor], Tensor]) -> Tensor:
        """Logits (count, C) of altered activations, given those to be made."""
        every = torch.arange(count, device=self._batch.device)
        return torch.cat([self._run_head(alter(some)) for some in every.split(CHUNK)])


@contextmanager
def hook_submodule(module: nn.Module, path: str, hook: Callable[..., Any]) -> Iterator[None]:
    """Hooks a submodule for as long as the block runs."""
    handle = module.get_submodule(path).register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def saliency(raw: Tensor, size: tuple[int, int], lowest: bool) -> Tensor:
    """Maps (N, H, W) of raw ones (N, h, w): rectified, scaled to [0, 1] and upsampled.

    Args:
        raw: Before they are rectified.
        size: (H, W).
        lowest: Whether the smallest value becomes zero.
    """
    maps = raw.double().relu()
    low = maps.amin(dim=(1, 2), keepdim=True) if lowest else 0
    maps = (maps - low) / (maps.amax(dim=(1, 2), keepdim=True) - low)
    return functional.interpolate(maps[:, None], size, mode="bilinear")[:, 0]


# ---------------------------------------------------------------- comparison


@dataclass(frozen=True)
class Agreement:
    """How far a result is from its definition.

    Attributes:
        what: The result.
        method: The method that it is of.
        difference: The largest, relative to the largest magnitude expected.
        bound: What that must not pass.
    """

    what: str
    method: str
    difference: float
    bound: float

    @property
    def holds(self) -> bool:
        """Whether it agrees."""
        return self.difference <= self.bound


@dataclass(frozen=True)
class Bounds:
    """What a type's rounding may do, relative to the largest magnitude.

    Attributes:
        once: To arithmetic on numbers that are given: sums of thousands of terms.
        logit: To a logit of a head that is run, of the largest logit.
        model: To a score of the whole model.
    """

    once: float
    logit: float
    model: float


BOUNDS = {torch.float32: Bounds(2e-5, 4e-6, 5e-3), torch.bfloat16: Bounds(2e-2, 8e-3, 0.25)}
LOOSEST = 0.5
"""No bound is above it: what differs by more is another map."""
NONE = 1e-9
"""The bound of what is either right or wrong."""


def relative_difference(found: Tensor, expected: Tensor) -> float:
    """The largest, relative to the largest magnitude expected."""
    return float((found.double() - expected.double()).abs().max() / expected.double().abs().max())


def agreements(engine: Any, module: nn.Module, batch: Tensor, methods: tuple[str, ...]) -> list[Agreement]:
    """Compares an engine's answers for a few images with their definitions.

    Args:
        engine: Made of the module.
        module: In evaluation mode, in float32 or bfloat16.
        batch: Images (N, C, H, W) float32.
        methods: Of "cam", "eigen", "gradcam", "pixab", "ablation" and "score".
    """
    kind = next(module.parameters()).dtype
    bounds, path = BOUNDS[kind], engine.target.name
    logits = engine.predict(batch)
    targets = logits.argmax(dim=1).tolist()
    activations = engine.channel_weights(batch, "gradcam", targets=targets)[1]
    wanted = ReferenceExplainer(module, path, batch, activations, targets)
    found = [
        Agreement("logits", "predict", relative_difference(logits, wanted.logits), bounds.once),
        Agreement(
            "activations", "predict", relative_difference(activations, wanted.own_activations()), bounds.model
        ),
    ]
    for method in methods:
        answer = engine.explain(batch, method)
        wrong = sum(one != target for one, target in zip(answer.targets.tolist(), targets, strict=True))
        found.append(Agreement("targets", method, wrong / len(targets), NONE))
        if method == "pixab":
            found += pixab_agreements(answer, wanted, engine, bounds)
        elif method in ("cam", "eigen"):
            define = getattr(wanted, method)
            found += [
                agreement("raw map", method, raw, define(i), bounds.once) for i, raw in enumerate(answer.raw)
            ]
        else:
            found += channel_agreements(method, answer, wanted, engine, batch, targets, bounds)
        expected = saliency(answer.raw, answer.maps.shape[1:], method == "pixab")
        found.append(
            Agreement("maps", method, relative_difference(answer.maps, expected), BOUNDS[torch.float32].once)
        )
        spread = float((answer.maps.amax(dim=(1, 2)) - answer.maps.amin(dim=(1, 2))).min())
        if spread < FLAT:
            found.append(Agreement(f"a map whose values differ by {spread:.1e}", method, math.inf, NONE))
    return found


def pixab_agreements(answer: Any, wanted: ReferenceExplainer, engine: Any, bounds: Bounds) -> list[Agreement]:
    """Pixab-CAM's raw maps."""
    found = []
    for i, raw in enumerate(answer.raw):
        expected, most = wanted.pixab(i)
        # a probability is off by as much of itself as its logits are off
        rounding = bounds.logit * wanted.logits[i].abs().max() * most / expected.abs().max()
        bound = bounds.once + runs_head(engine) * float(rounding)
        found.append(agreement("raw map", "pixab", raw, expected, bound))
    return found


def channel_agreements(
    method: str,
    answer: Any,
    wanted: ReferenceExplainer,
    engine: Any,
    batch: Tensor,
    targets: list[int],
    bounds: Bounds,
) -> list[Agreement]:
    """Weights of channels, and raw maps, which are their sums."""
    weights, activations = engine.channel_weights(batch, method, targets=targets)
    summed = torch.einsum("nk,nkij->nij", weights.double(), activations.double())
    found = [agreement("raw maps", method, answer.raw, summed, BOUNDS[torch.float32].once)]
    for i, own in enumerate(weights):
        bound = bounds.once
        if method == "ablation":
            expected = wanted.ablation(i)
            score = wanted.logits[i, targets[i]].abs()
            rounding = 2 * bounds.logit * wanted.logits[i].abs().max() / (score * expected.abs().max())
            bound += runs_head(engine) * float(rounding)
        elif method == "gradcam":
            expected = wanted.gradcam(i)
            bound *= 1 + 4 * runs_head(engine)  # products of matrices one after another, and ReLUs near zero
        else:
            some = torch.arange(0, len(own), max(1, len(own) // MASKS), device=own.device)
            expected, own, bound = wanted.score(i, some), own[some], bounds.model
        found.append(agreement("weights", method, own, expected, bound))
    return found


def runs_head(engine: Any) -> bool:
    """Whether altered activations are run through the head; else they are answered by algebra."""
    return bool(engine.head.channel_passes(1)[0])


def agreement(what: str, method: str, found: Tensor, expected: Tensor, bound: float) -> Agreement:
    return Agreement(what, method, relative_difference(found, expected), min(bound, LOOSEST))
