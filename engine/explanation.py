"""What an engine answers: the maps of a batch, with everything needed to read, draw and keep them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import astuple, dataclass, replace
from pathlib import Path
from typing import Any, Generic, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from camrt.engine.array_types import ArrayT_co, NumPyArray
from camrt.engine.arrays import to_numpy
from camrt.engine.file_names import FileNames, overlay_name
from camrt.engine.images.framing import Framing
from camrt.engine.images.read import ImageSource
from camrt.engine.map_placement import MapPlacement, check_index
from camrt.engine.passes import PassCounts
from camrt.engine.save_arguments import check_file_name, check_result_folder, one_per_image, stem_of
from camrt.export.io.atomic_files import open_atomic

__all__ = ["FLAG_NAMES", "Explanation", "join_explanations"]

FLAG_NAMES = ("ok", "constant", "nothing positive", "not finite")
"""What the values of `Explanation.flags` mean; a map whose flag is not 0 is all zeros by policy."""

ARRAY_FIELDS = ("maps", "raw", "targets", "scores", "logits", "probabilities", "flags")


@dataclass(frozen=True, kw_only=True, eq=False, repr=False)
class Explanation(Generic[ArrayT_co]):
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
        for name, each in (("views", self.views), ("framings", self.framings)):
            if each is not None and len(each) != len(self):
                raise ValueError(f"{len(each)} {name} of {len(self)} images")

    def __len__(self) -> int:
        return int(self.targets.shape[0])

    def __getitem__(self, chosen: int | slice) -> Explanation[ArrayT_co]:
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
        )

    def __iter__(self) -> Iterator[Explanation[ArrayT_co]]:
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

    def numpy(self) -> Explanation[NumPyArray]:
        """The same with arrays of NumPy; waits for a device that they lie on."""
        return replace(cast("Explanation[NumPyArray]", self), **self._on_host())

    def _on_host(self) -> dict[str, Any]:
        names = self._array_names()
        return {name: to_numpy(getattr(self, name)) for name in names}

    def _at(self, i: int, t: int | None) -> tuple[int, ...]:
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
        target = int(self.targets[self._at(i, t)])
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
        at = self._at(i, t)
        target, i = self.targets[at], at[0]
        chance = float(self.probabilities[i, target])
        return f"{chance:.3f}" if chance == chance else f"{float(self.logits[i, target]):.4g}"

    def on_original(self, i: int, t: int = 0) -> NDArray[np.float32]:
        """One of the maps on the image as it was given: zero where the preprocessing cut it off.

        Args:
            i: Which image.
            t: Which of its targets.

        Returns:
            (H, W) float32 in [0, 1], of the image's size, upright.

        Raises:
            InputError: The batch was given as numbers.
            NoSuchImageError: No such image or target.
        """
        at = self._at(i, t)
        return self._placement.on_original(at[0], self.maps[at])

    @property
    def _placement(self) -> MapPlacement:
        return MapPlacement(self.views, self.framings, self.map_framing)

    def overlay(
        self, i: int, t: int = 0, opacity: float = 0.5, *, image: ImageSource | None = None
    ) -> Image.Image:
        """An image with one of its maps in colours over it.

        Args:
            i: Which image.
            t: Which of its targets.
            opacity: Of the most salient pixels, in [0, 1].
            image: What to draw on instead of what the model saw: the image that was explained, in any
                size but that (a file, Pillow image or uint8 array), and nothing is drawn where preprocessing
                cut it off; or, where the batch was given as numbers, any, over which the map is stretched.

        Returns:
            An RGB image, of the size of what the model saw or of `image`.

        Raises:
            InputError: There is no image to draw on, it has other proportions, or the opacity is outside
                [0, 1].
            ImageError: The image cannot be read.
            NoSuchImageError: No such image or target.
        """
        at = self._at(i, t)
        return self._placement.overlay(at[0], self.maps[at], opacity, image)

    def sheet(self, i: int, columns: int = 4, *, image: ImageSource | None = None) -> Image.Image:
        """An image and the overlays of all its targets on one sheet, each with its probability or value.

        Args:
            i: Which image.
            columns: Images a row.
            image: What to draw on instead of what the model saw, see `overlay`; brought to at most 512 pixels
                a side.

        Raises:
            InputError: There is no image to draw on (see `overlay`), or columns below 1.
            ImageError: The image cannot be read.
            NoSuchImageError: No such image.
        """
        (i, *_), each = self._at(i, None), range(self.targets_per_image)
        captions = [f"{self.answer(i, t)} {self.label(i, t)}" for t in each]
        return self._placement.sheet(i, [self.maps[self._at(i, t)] for t in each], captions, columns, image)

    def save(
        self,
        folder: str | os.PathLike[str],
        stem: str | os.PathLike[str] | Iterable[str | os.PathLike[str]] | None = None,
        *,
        name: str = "explanation",
        opacity: float = 0.5,
        images: Iterable[ImageSource] | None = None,
    ) -> list[Path]:
        """Write the overlays as PNG, if there is anything to draw on, and all arrays as one NumPy archive.

        An overlay is called STEM_RANK_CLASS-LABEL.png, RANK counting the image's targets from 1. The
        archive holds the fields of this class as arrays (`labels` and `uncertainty` only where known) and
        `stems`; where images were given also `framings` (N, 6): height and width of each, and the left,
        upper, right and lower edge of what the model saw of it. It is read by `numpy.load(path,
        allow_pickle=False)`. Each file appears complete or not at all.

        Args:
            folder: Made if missing.
            stem: How the images' files begin: one an image, or one text for a single image; made
                safe and unique (see `camrt.engine.file_names.FileNames`). Of a path its name without the
                suffix. Their indices, when left out.
            name: The archive's name, without ".npz".
            opacity: Of the overlays.
            images: What to draw on instead of what the model saw, one an image; see `overlay`.

        Returns:
            What was written: the overlays, image by image and target by target, then the archive.

        Raises:
            InputError: Another number of stems, or of images to draw on, than of images; or a folder or a
                name that is none.
            ImageError: An image to draw on cannot be read.
            StorageError: The folder or a file cannot be written.
        """
        place = check_result_folder(folder)
        check_file_name("name", name)
        given = (f"{i:04d}" for i in range(len(self))) if stem is None else stem
        naming = FileNames()
        stems = [naming.unique_stem(stem_of(one)) for one in one_per_image("stems", given, len(self))]
        sources = None if images is None else one_per_image("images to draw on", images, len(self))
        names = self.file_names(stems, name, drawn=self.views is not None or sources is not None)
        places = [(i, t) for i in range(len(self)) for t in range(self.targets_per_image)]
        for (i, t), file_name in zip(places, names[:-1], strict=False):  # no overlays without images
            drawing = self.overlay(i, t, opacity, image=None if sources is None else sources[i])
            with open_atomic(place / file_name) as file:
                drawing.save(file, format="PNG")
        self.write_arrays(place / names[-1], stems)
        return [place / file_name for file_name in names]

    def write_arrays(self, path: Path, stems: Sequence[str]) -> None:
        """Write all arrays as one NumPy archive, as `save` does.

        Raises:
            StorageError: It cannot be written.
        """
        arrays = self._arrays(stems)
        with open_atomic(path) as file:
            np.savez(file, **arrays)

    def file_names(self, stems: Sequence[str], name: str, *, drawn: bool = True) -> list[str]:
        """What `save` calls its files, given beginnings that are safe and differ, and the archive's name.

        Args:
            stems: One an image.
            name: The archive's, without ".npz".
            drawn: Whether there are overlays.
        """
        overlays = [
            overlay_name(
                stem,
                t + 1,
                int(self.targets[self._at(i, t)]),
                None if self.labels is None else self.label(i, t),
            )
            for i, stem in enumerate(stems)
            for t in range(self.targets_per_image)
        ]
        return [*(overlays if drawn else []), f"{name}.npz"]

    def _arrays(self, stems: Sequence[str]) -> dict[str, Any]:
        arrays = {
            "method": np.array(self.method),
            **self._on_host(),
            "passes": np.array(astuple(self.passes), np.int64),
            "seconds": np.array(self.seconds, np.float64),
            "stems": np.array(stems, np.str_),
        }
        if self.framings is not None:
            arrays["framings"] = np.array(
                [(*framing.size, *framing.region.box) for framing in self.framings], np.float64
            )
        if self.labels is not None:
            arrays["labels"] = np.array(self.labels, np.str_)
        return arrays


def join_explanations(parts: Sequence[Explanation[Any]]) -> Explanation[NumPyArray]:
    """One explanation of the images of several, which one engine gave for one method; arrays of NumPy."""
    held = [part.numpy() for part in parts]
    first = held[0]
    arrays: dict[str, Any] = {
        name: np.concatenate([getattr(part, name) for part in held]) for name in first._array_names()
    }
    views = [part.views for part in held if part.views is not None]
    framings = [part.framings for part in held if part.framings is not None]
    return replace(
        first,
        **arrays,
        passes=sum((part.passes for part in held), start=PassCounts()),
        seconds=sum(part.seconds for part in held),
        views=tuple(view for each in views for view in each) if len(views) == len(held) else None,
        framings=tuple(one for each in framings for one in each) if len(framings) == len(held) else None,
    )
