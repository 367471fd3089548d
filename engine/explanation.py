"""What an engine answers: the maps of a batch, with everything needed to read, draw and keep them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack, cast

import numpy as np

from camrt.engine.array_types import ArrayT_co, NumPyArray
from camrt.engine.drawing_files import DrawingFormat, check_drawing_format, write_drawing
from camrt.engine.explanation_archive import read_archive, write_archive
from camrt.engine.explanation_drawing import DrawnExplanation
from camrt.engine.explanation_record import FLAG_NAMES
from camrt.engine.extras import import_extra
from camrt.engine.file_names import FileNames, overlay_name
from camrt.engine.images.read import ImageSource
from camrt.engine.images.style import StyleOptions
from camrt.engine.map_placement import DrawnOn
from camrt.engine.passes import PassCounts
from camrt.engine.save_arguments import check_file_name, check_result_folder, one_per_image, stem_of
from camrt.errors import InputError

if TYPE_CHECKING:
    import xarray

__all__ = ["FLAG_NAMES", "Explanation", "join_explanations"]


class Explanation(DrawnExplanation[ArrayT_co]):
    """The saliency of N images, for one target class each or for T: it can be read, drawn and kept.

    Its fields are those of `camrt.engine.explanation_record.ExplanationRecord`.
    """

    def numpy(self) -> Explanation[NumPyArray]:
        """The same with arrays of NumPy; waits for a device that they lie on."""
        arrays: dict[str, Any] = dict(self.arrays())
        return replace(cast("Explanation[NumPyArray]", self), **arrays)

    def save(
        self,
        folder: str | os.PathLike[str],
        stem: str | os.PathLike[str] | Iterable[str | os.PathLike[str]] | None = None,
        *,
        name: str = "explanation",
        format: DrawingFormat = "png",  # noqa: A002  # as Pillow and matplotlib call it
        images: Iterable[ImageSource] | None = None,
        on: DrawnOn | None = None,
        **style: Unpack[StyleOptions],
    ) -> list[Path]:
        """Write the overlays, if there is anything to draw on, and all arrays as one NumPy archive.

        An overlay is called STEM_RANK_CLASS-LABEL.png, RANK counting the image's targets from 1. The
        archive holds the fields of this class as arrays (`labels` and `uncertainty` only where known),
        `stems`, and a `manifest` in JSON; where images were given also `views`, what the model saw of them,
        and `framings` (N, 6): height and width of each, and the left, upper, right and lower edge of what the
        model saw of it. `Explanation.load` reads it, and so does `numpy.load(path, allow_pickle=False)`.
        Each file appears complete or not at all.

        Args:
            folder: Made if missing. With the suffix ".npz", the archive itself, and nothing is drawn.
            stem: How the images' files begin: one an image, or one text for a single image; made
                safe and unique (see `camrt.engine.file_names.FileNames`). Of a path its name without the
                suffix. Their indices, when left out.
            name: The archive's name, without ".npz".
            format: Of the drawings: "png", "jpeg" or "webp"; or "pdf" or "svg", which are figures with a
                title and a colour bar (`camrt[plot]`).
            images: What to draw on, one an image; see `overlay`.
            on: See `overlay`.
            **style: See `overlay`.

        Returns:
            What was written: the overlays, image by image and target by target, then the archive.

        Raises:
            InputError: Another number of stems, or of images to draw on, than of images; or a folder, a
                name, a format or a style that is none.
            MissingExtraError: matplotlib is needed, and not installed.
            ImageError: An image to draw on cannot be read.
            StorageError: The folder or a file cannot be written.

        Example:
            found = engine.explain(["cat.jpg"], top_k=3)
            found.save("results", "cat", format="jpeg")
            found.save("cat.npz")
            camrt.Explanation.load("cat.npz").overlay(0)
        """
        check_drawing_format(format)
        given = (f"{i:04d}" for i in range(len(self))) if stem is None else stem
        naming = FileNames()
        stems = [naming.unique_stem(stem_of(one)) for one in one_per_image("stems", given, len(self))]
        if isinstance(folder, (str, os.PathLike)) and os.fspath(folder).endswith(".npz"):
            archive = Path(folder)
            check_result_folder(archive.parent)
            write_archive(archive, self, stems)
            return [archive]
        place = check_result_folder(folder)
        check_file_name("name", name)
        sources = None if images is None else one_per_image("images to draw on", images, len(self))
        drawn = self.placement.has_images or sources is not None
        names = self.file_names(stems, name, drawn=drawn, suffix=format)
        each = range(self.targets_per_image)
        for i in range(len(self) if drawn else 0):
            image = None if sources is None else sources[i]
            ground = self.placement.ground(i, image, on)
            for t, file_name in zip(each, names[i * len(each) :], strict=False):
                if format in ("pdf", "svg"):
                    drawing: Any = self.one_target(i, t).plot(image=image, on=on, **style)
                else:
                    drawing = ground.draw(self.maps[self.index_of(i, t)], style)
                write_drawing(place / file_name, drawing, format)
        write_archive(place / names[-1], self, stems)
        return [place / file_name for file_name in names]

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Explanation[NumPyArray]:
        """Reads what `save` wrote, or `camrt explain` as arrays.

        Images are not read from where they were, since an archive may be a stranger's: drawings are on what
        the model saw, where the archive has it, or on what `overlay(image=...)` is given.

        Args:
            path: The archive, or the folder that holds it as explanation.npz.

        Returns:
            The explanation, in arrays of NumPy.

        Raises:
            InputError: There is none, or it is damaged, or of another version.
            MemoryLimitError: It is larger than half of the free memory.

        Example:
            found = camrt.Explanation.load("results")
        """
        fields = read_archive(path)
        try:
            return Explanation(**fields)
        except ValueError as error:
            raise InputError(f"{os.fspath(path)}: a damaged explanation: {error}") from error

    def one_target(self, i: int, t: int) -> Explanation[ArrayT_co]:
        """The explanation of one image for one of its targets alone.

        Raises:
            NoSuchImageError: No such image or target.
        """
        image, *_ = at = self.index_of(i, t)
        one, (*_, place) = self[image], at
        if self.targets.ndim == 1:
            return one
        fields = (
            "maps",
            "raw",
            "targets",
            "scores",
            "flags",
            *(() if self.uncertainty is None else ("uncertainty",)),
        )
        return replace(one, **{name: getattr(one, name)[:, place] for name in fields})

    def to_xarray(self) -> xarray.Dataset:
        """The explanation as a dataset of xarray, its dimensions named.

        Returns:
            `map` (image, target, y, x), `raw` (image, target, row, column), `class`, `score` and `flag`
            (image, target), `logit` and `probability` (image, class_index), with the labels as a coordinate
            where they are known, and the method as an attribute; arrays of NumPy.

        Raises:
            MissingExtraError: xarray is not installed (`camrt[xarray]`).

        Example:
            engine.explain(["cat.jpg"], top_k=3).to_xarray()["map"].sel(image=0).mean("target")
        """
        made = import_extra("xarray", "xarray")
        shape = (len(self), self.targets_per_image)
        held = self.arrays()
        of_target = {"map": ("maps", "y", "x"), "raw": ("raw", "row", "column"), "class": ("targets",)}
        of_target |= {"score": ("scores",), "flag": ("flags",)}
        if self.uncertainty is not None:
            of_target["uncertainty"] = ("uncertainty", "row", "column")
        variables: dict[str, Any] = {
            name: (
                ("image", "target", *axes),
                held[field].reshape(*shape, *held[field].shape[self.targets.ndim :]),
            )
            for name, (field, *axes) in of_target.items()
        }
        for name, field in (("logit", "logits"), ("probability", "probabilities")):
            variables[name] = (("image", "class_index"), held[field])
        known = self.labels is not None and len(self.labels) == self.logits.shape[1]
        coordinates = {"label": ("class_index", np.array(self.labels, np.str_))} if known else {}
        dataset: xarray.Dataset = made.Dataset(variables, coordinates, {"method": self.method})
        return dataset

    def write_arrays(self, path: Path, stems: Sequence[str]) -> None:
        """Write all arrays as one NumPy archive, as `save` does, without what the model saw of the images.

        Raises:
            StorageError: It cannot be written.
        """
        write_archive(path, self, stems, views=False)

    def file_names(
        self, stems: Sequence[str], name: str, *, drawn: bool = True, suffix: DrawingFormat = "png"
    ) -> list[str]:
        """What `save` calls its files, given beginnings that are safe and differ, and the archive's name.

        Args:
            stems: One an image.
            name: The archive's, without ".npz".
            drawn: Whether there are overlays.
            suffix: Of the overlays.
        """
        overlays = [
            overlay_name(
                stem,
                t + 1,
                int(self.targets[self.index_of(i, t)]),
                None if self.labels is None else self.label(i, t),
                suffix,
            )
            for i, stem in enumerate(stems)
            for t in range(self.targets_per_image)
        ]
        return [*(overlays if drawn else []), f"{name}.npz"]


def join_explanations(parts: Sequence[Explanation[Any]]) -> Explanation[NumPyArray]:
    """One explanation of the images of several, which one engine gave for one method; arrays of NumPy."""
    held = [part.numpy() for part in parts]
    first = held[0]
    arrays: dict[str, Any] = {
        name: np.concatenate([getattr(part, name) for part in held]) for name in first._array_names()
    }
    views = [part.views for part in held if part.views is not None]
    framings = [part.framings for part in held if part.framings is not None]
    sources = [part.sources for part in held if part.sources is not None]
    return replace(
        first,
        **arrays,
        passes=sum((part.passes for part in held), start=PassCounts()),
        seconds=sum(part.seconds for part in held),
        views=tuple(view for each in views for view in each) if len(views) == len(held) else None,
        framings=tuple(one for each in framings for one in each) if len(framings) == len(held) else None,
        sources=tuple(one for each in sources for one in each) if len(sources) == len(held) else None,
    )
