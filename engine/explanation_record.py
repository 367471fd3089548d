"""What an explanation holds of a batch, and how it is read; drawing and keeping it are built on top."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Generic, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from camrt.engine.array_types import ArrayT_co
from camrt.engine.arrays import to_numpy
from camrt.engine.images.framing import Framing
from camrt.engine.images.read import ImageSource
from camrt.engine.map_placement import check_index
from camrt.engine.passes import PassCounts

__all__ = ["ARRAY_FIELDS", "FLAG_NAMES", "ExplanationRecord"]

FLAG_NAMES = ("ok", "constant", "nothing positive", "not finite")
"""What the values of `Explanation.flags` mean; a map whose flag is not 0 is all zeros by policy."""

ARRAY_FIELDS = ("maps", "raw", "targets", "scores", "logits", "probabilities", "flags")


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class ExplanationRecord(Generic[ArrayT_co]):
    """The saliency of N images, for one target class each or for T.

    Arrays are of the kind that was explained: of NumPy, or tensors where the batch was, in annotations
    `Explanation[npt.NDArray[Any]]` and `Explanation[torch.Tensor]`. `numpy()` brings them all to NumPy.

    Args:
        method: The method with its options, as its `repr`.
        maps: targets.shape + (H, W) float32 in [0, 1].
        raw: targets.shape + (h, w), before ReLU and normalisation, on the target tensor's grid.
        targets: (N,) or (N, T) int64, the classes explained.
        scores: targets.shape, what the method explained: a logit or a probability, or a contrast of some.
        logits: (N, C); of a model that gives plain numbers (`activation="none"`), those.
        probabilities: (N, C); NaN of a model that gives plain numbers, which have none.
        flags: targets.shape uint8, see `FLAG_NAMES`.
        uncertainty: Of the shape of `raw`, its standard error over what the method drew at random, such as
            the masks of `rise`; NaN where there are too few draws to tell; None of methods that draw nothing,
            or do not say, and where the maps of several layers became one.
        passes: What was run for it.
        seconds: Wall-clock time of the whole call; on a GPU perhaps only until its work was queued.
        labels: The names of the C classes, if known.
        views: The N images as the model saw them, if images were given.
        framings: Which part of each image that is, if images were given.
        map_framing: Which part of the model's input the maps show; None for all of it.
        sources: The N images as they were given, if images were: paths, Pillow images, arrays or files'
            bytes, not copied; None for each that was an open file. They are drawn on.

    Raises:
        ValueError: Arrays whose shapes do not go together.
    """

    method: str
    maps: ArrayT_co
    raw: ArrayT_co
    targets: ArrayT_co
    scores: ArrayT_co
    logits: ArrayT_co
    probabilities: ArrayT_co
    flags: ArrayT_co
    passes: PassCounts
    seconds: float
    labels: tuple[str, ...] | None = None
    views: tuple[Image.Image, ...] | None = None
    framings: tuple[Framing, ...] | None = None
    map_framing: Framing | None = None
    uncertainty: ArrayT_co | None = None
    sources: tuple[ImageSource | None, ...] | None = None

    def __post_init__(self) -> None:
        shape = tuple(self.targets.shape)
        if len(shape) not in (1, 2):
            raise ValueError(f"targets must be (N,) or (N, T), got {shape}")
        for name, lead in {
            "maps": self.maps.shape[:-2],
            "raw": self.raw.shape[:-2],
            "scores": self.scores.shape,
            "flags": self.flags.shape,
        }.items():
            if tuple(lead) != shape:
                raise ValueError(f"{name} has shape {tuple(getattr(self, name).shape)}, the targets {shape}")
        if self.uncertainty is not None and self.uncertainty.shape != self.raw.shape:
            raise ValueError(
                f"uncertainty has shape {tuple(self.uncertainty.shape)}, the raw maps {tuple(self.raw.shape)}"
            )
        for name, each in (("views", self.views), ("framings", self.framings), ("sources", self.sources)):
            if each is not None and len(each) != len(self):
                raise ValueError(f"{len(each)} {name} of {len(self)} images")

    def __len__(self) -> int:
        return int(self.targets.shape[0])

    def __getitem__(self, chosen: int | slice) -> Self:
        """The explanation of one of the images, or of some, as an explanation of so many.

        `passes` and `seconds` stay those of the whole call.

        Raises:
            NoSuchImageError: There is no such image.
        """
        if not isinstance(chosen, slice):
            first = check_index(chosen, len(self), "image")
            chosen = slice(first, first + 1)
        arrays = {name: getattr(self, name)[chosen] for name in self._array_names()}
        return replace(
            self,
            **arrays,
            views=None if self.views is None else self.views[chosen],
            framings=None if self.framings is None else self.framings[chosen],
            sources=None if self.sources is None else self.sources[chosen],
        )

    def __iter__(self) -> Iterator[Self]:
        return (self[i] for i in range(len(self)))

    def _array_names(self) -> tuple[str, ...]:
        return (*ARRAY_FIELDS, *(() if self.uncertainty is None else ("uncertainty",)))

    @property
    def targets_per_image(self) -> int:
        """T, the number of targets explained for each image; 1 when `targets` is (N,)."""
        return int(self.targets.shape[1]) if self.targets.ndim == 2 else 1

    def __repr__(self) -> str:
        height, width = self.maps.shape[-2:]
        degenerate = int(np.count_nonzero(to_numpy(self.flags)))
        parts = [
            self.method,
            f"{len(self)} image{'s' * (len(self) != 1)}",
            f"{self.targets_per_image} target{'s' * (self.targets_per_image != 1)} each",
            f"maps {height}x{width}",
            *([f"{degenerate} degenerate"] if degenerate else []),
            f"passes: {self.passes}",
            f"{1000 * self.seconds / max(len(self), 1):.1f} ms an image",
        ]
        return f"<Explanation {'; '.join(parts)}>"

    def arrays(self) -> dict[str, NDArray[Any]]:
        """The arrays by their names, of NumPy; waits for a device that they lie on."""
        names = self._array_names()
        return {name: to_numpy(getattr(self, name)) for name in names}

    def index_of(self, i: int, t: int | None = None) -> tuple[int, ...]:
        """The index of image i's target t in every array of the targets' shape.

        Raises:
            NoSuchImageError: There is no such image or target.
        """
        image = check_index(i, len(self), "image")
        target = check_index(0 if t is None else t, self.targets_per_image, "target of an image")
        return (image, target) if self.targets.ndim == 2 else (image,)

    def label(self, i: int, t: int | None = None) -> str:
        """The name of a target class: its label, or "class 281" where labels are not known.

        Args:
            i: Which image.
            t: Which of its targets; the first when left out.

        Raises:
            NoSuchImageError: No such image or target.
        """
        target = int(self.targets[self.index_of(i, t)])
        if self.labels is None or not 0 <= target < len(self.labels):
            return f"class {target}"
        return self.labels[target]

    def answer(self, i: int, t: int | None = None) -> str:
        """What the model says of a target class, in digits: its probability, or its value where it has none.

        Args:
            i: Which image.
            t: Which of its targets; the first when left out.

        Raises:
            NoSuchImageError: No such image or target.
        """
        at = self.index_of(i, t)
        target, i = self.targets[at], at[0]
        chance = float(self.probabilities[i, target])
        return f"{chance:.3f}" if chance == chance else f"{float(self.logits[i, target]):.4g}"
