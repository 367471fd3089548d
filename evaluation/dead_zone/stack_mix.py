"""STACK-MIX: images whose lower rows, from another image of the class, a masked network cannot see.

"CAM-Based Methods Can See through Walls" (ECML-PKDD 2024), section 4 and Eq. 6 (specification D13): 100
classes, and for each the upper 170 rows of one image of 224×224 over the lower 54 rows of another. An
explanation should mark the upper object alone. The paper then looked through the images by hand, to make
sure that the second object lies in the lower rows; that is left to whoever builds a set. The command is
`camrt data stack-mix`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from camrt.engine.digests import combined_digest, file_digest
from camrt.engine.images.preprocess import Preprocessing
from camrt.engine.images.read import list_class_folders, list_images, read_image
from camrt.errors import DataError, ImageError, InputError
from camrt.export.io.atomic_files import open_atomic, write_atomic

__all__ = [
    "CLASSES",
    "DEAD_ROWS",
    "MANIFEST",
    "StackMixFiles",
    "StackedImages",
    "draw_stacks",
    "stack_mix",
    "write_stack_mix",
]

CLASSES = 100
"""How many classes the paper draws."""
DEAD_ROWS = 54
"""Rows of an image of 224×224 that the paper's masked VGG16 cannot see."""
MANIFEST = "manifest.json"
STACK_FILE = "stack_mix.png"


def stack_mix(
    top: npt.NDArray[Any], bottom: npt.NDArray[Any], dead_rows: int = DEAD_ROWS
) -> npt.NDArray[Any]:
    """The upper rows of one image over the lower rows of another (Eq. 6).

    Args:
        top: (H, W, 3); its rows 0 to H − dead_rows − 1 are taken.
        bottom: The same shape and type; its last `dead_rows` rows are taken.
        dead_rows: At least 1, and fewer than H.

    Returns:
        A new array (H, W, 3).

    Raises:
        InputError: Arrays of other shapes, or of two types, or `dead_rows` out of range.
    """
    if top.ndim != 3 or top.shape[2] != 3 or top.shape != bottom.shape or top.dtype != bottom.dtype:
        raise InputError(
            f"both images must be (H, W, 3) of one size and type, not {top.shape} of {top.dtype} and "
            f"{bottom.shape} of {bottom.dtype}"
        )
    height = len(top)
    if not 0 < dead_rows < height:
        raise InputError(f"dead_rows={dead_rows} must be at least 1 and fewer than the {height} rows")
    return np.concatenate([top[: height - dead_rows], bottom[height - dead_rows :]])


@dataclass(frozen=True)
class StackMixFiles:
    """A set of stacked images that was written.

    Attributes:
        files: The images, one a class.
        labels: Their classes.
        left_out: Classes that were drawn and have fewer than two different images that can be read.
        unreadable: Files that were tried and cannot be read.
    """

    files: tuple[Path, ...]
    labels: tuple[str, ...]
    left_out: tuple[str, ...]
    unreadable: tuple[Path, ...]


@dataclass(frozen=True, eq=False)
class StackedImages:
    """Stacked images that were drawn and not written yet.

    Attributes:
        images: By class, (size, size, 3).
        notes: What `manifest.json` says of each, in the order of the classes.
        manifest: What `manifest.json` holds.
        left_out: As of `StackMixFiles`.
        unreadable: As of `StackMixFiles`.
    """

    images: Mapping[str, npt.NDArray[np.uint8]]
    notes: Sequence[Mapping[str, Any]]
    manifest: Mapping[str, Any]
    left_out: tuple[str, ...]
    unreadable: tuple[Path, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """The files that are written, in the order they are: the manifest last, since it says they are."""
        return (*(note["file"] for note in self.notes), MANIFEST)

    def write(self, out: Path) -> StackMixFiles:
        """Writes them; each file takes its place when it is whole.

        Raises:
            StorageError: One cannot be written.
        """
        files = tuple(out / note["file"] for note in self.notes)
        for note, path in zip(self.notes, files, strict=True):
            with open_atomic(path) as file:
                Image.fromarray(self.images[note["class"]]).save(file, format="PNG")
        write_atomic(out / MANIFEST, (json.dumps(self.manifest, indent=1) + "\n").encode())
        labels = tuple(note["class"] for note in self.notes)
        return StackMixFiles(files, labels, self.left_out, self.unreadable)


def write_stack_mix(
    folder: Path,
    out: Path,
    *,
    dead_rows: int = DEAD_ROWS,
    size: int = 224,
    classes: int | Sequence[str] | None = None,
    first: int | None = None,
    seed: int = 0,
) -> StackMixFiles:
    """Writes one stacked image a class, from two different images of it drawn at random.

    `out` then holds `CLASS/stack_mix.png`, and `manifest.json`, which names for each the two files it is
    made of, and the seed, the dead rows, the classes that were left out and the files that cannot be read.

    Args:
        folder: As for `draw_stacks`, with the other arguments.
        out: Where the set goes: a folder that is empty or not there yet.
        dead_rows: See there.
        size: See there.
        classes: See there.
        first: See there.
        seed: See there.

    Raises:
        InputError: As `draw_stacks`.
        DataError: As `draw_stacks`; or there is something in `out`.
        StorageError: A file cannot be written.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DataError(f"{out} is there already and not an empty folder: choose another, or empty it")
    stacks = draw_stacks(folder, dead_rows=dead_rows, size=size, classes=classes, first=first, seed=seed)
    return stacks.write(out)


def draw_stacks(
    folder: Path,
    *,
    dead_rows: int = DEAD_ROWS,
    size: int = 224,
    classes: int | Sequence[str] | None = None,
    first: int | None = None,
    seed: int = 0,
) -> StackedImages:
    """Draws one stacked image a class, from two different images of it.

    Images are shown as in validation: the short side to `size`, then the centre. A class is left out, and
    another drawn in its place if there is one, when fewer than two of its images can be read and differ.

    Args:
        folder: A folder for each class, with images at any depth.
        dead_rows: Rows taken from the second image.
        size: Side of the images.
        classes: How many classes to draw; or their names; None draws 100, or takes all if there are fewer.
        first: Draw from the first so many classes alone, in the order of their names: of ImageNet's folders
            the paper's 398 animals. None draws from all.
        seed: Of the draw. A class's two images depend on the seed and its own files alone.

    Raises:
        InputError: `dead_rows`, `size`, `classes` or `first` out of range.
        DataError: No such folder or class, no class with two images, or fewer classes than asked for.
    """
    preprocessing = stack_preprocessing(size)
    if not 0 < dead_rows < size:
        raise InputError(f"dead_rows={dead_rows} must be at least 1 and fewer than the {size} rows")
    order, wanted = draw_classes(folder, classes, first, seed)
    stacks: dict[str, npt.NDArray[np.uint8]] = {}
    left_out: list[str] = []
    unreadable: list[Path] = []
    noted: list[dict[str, Any]] = []
    for name in order:
        if len(stacks) == wanted:
            break
        pair = draw_pair(folder / name, preprocessing, seed, unreadable)
        if len(pair) < 2:
            left_out.append(name)
            continue
        (top, upper), (bottom, lower) = pair
        stacks[name] = stack_mix(upper, lower, dead_rows)
        noted.append(
            {
                "file": f"{name}/{STACK_FILE}",
                "class": name,
                "top": top.relative_to(folder).as_posix(),
                "bottom": bottom.relative_to(folder).as_posix(),
                "contents": [file_digest(top), file_digest(bottom)],
            }
        )
    if not stacks or (isinstance(classes, int) and len(stacks) < classes):
        raise DataError(
            f"{folder} has {len(stacks)} classes with two different images that can be read, and "
            f"{'one is' if not isinstance(classes, int) else f'{classes} are'} needed; too few in: "
            f"{', '.join(left_out[:5])}{' …' * (len(left_out) > 5)}"
        )
    notes = sorted(noted, key=lambda note: str(note["class"]))
    manifest = {
        "source": folder.resolve().name,
        "seed": seed,
        "size": size,
        "dead_rows": dead_rows,
        "listing": hash_listing(folder),
        "images": notes,
        "left_out": sorted(left_out),
        "unreadable": sorted(path.relative_to(folder).as_posix() for path in unreadable),
    }
    return StackedImages(stacks, notes, manifest, tuple(sorted(left_out)), tuple(unreadable))


def stack_preprocessing(size: int) -> Preprocessing:
    """How images are shown before they are stacked."""
    return Preprocessing((size, size), resize="crop", crop_fraction=1.0)


def hash_listing(folder: Path) -> str:
    """A hash of the names and sizes of all images in a folder: the draw depends on which there are."""
    return combined_digest(
        part
        for path in list_images(folder)
        for part in (path.relative_to(folder).as_posix(), path.stat().st_size)
    )


def is_built_from(manifest: Mapping[str, Any], folder: Path) -> bool:
    """Whether a set was made of the images that a folder holds now, by their contents."""
    try:
        return manifest["listing"] == hash_listing(folder) and all(
            note["contents"] == [file_digest(folder / note[part]) for part in ("top", "bottom")]
            for note in manifest["images"]
        )
    except (KeyError, TypeError):
        return False


def draw_classes(
    folder: Path, classes: int | Sequence[str] | None, first: int | None, seed: int
) -> tuple[list[str], int]:
    """The classes in the order they are tried, and how many of them are wanted.

    Raises:
        InputError: A number below 1, or no names, or names and `first`.
        DataError: No such folder, no class folders, or not those that were named.
    """
    if not folder.is_dir():
        raise DataError(f"{folder} is no folder")
    names = list_class_folders(folder)
    if not names:
        raise DataError(f"{folder} holds no folders: each class needs one, with its images")
    if first is not None and first < 1:
        raise InputError(f"first={first} must be at least 1")
    if classes is not None and not isinstance(classes, int):
        if isinstance(classes, str) or not classes or len(set(classes)) < len(classes):
            raise InputError(f"classes={classes!r} must be a number, or names, each once")
        if first is not None:
            raise InputError("classes that are named are not drawn: leave out first, or give a number")
        if missing := [name for name in classes if name not in names]:
            raise DataError(f"{folder} holds no class {', '.join(map(repr, missing[:5]))}")
        return list(classes), len(classes)
    wanted = CLASSES if classes is None else classes
    if wanted < 1:
        raise InputError(f"classes={classes} must be at least 1")
    names = names[:first]
    return [names[place] for place in np.random.default_rng(seed).permutation(len(names))], wanted


def draw_pair(
    folder: Path, preprocessing: Preprocessing, seed: int, unreadable: list[Path]
) -> list[tuple[Path, npt.NDArray[np.uint8]]]:
    """Two images of a class that can be read and differ, with their pixels (H, W, 3); or fewer.

    Args:
        folder: The class's folder.
        preprocessing: Size and cut.
        seed: Of the draw.
        unreadable: Files that cannot be read are appended here.
    """
    paths = list_images(folder)
    rng = np.random.default_rng((seed, *folder.name.encode()))
    found: list[tuple[Path, npt.NDArray[np.uint8]]] = []
    for place in rng.permutation(len(paths)):
        try:
            pixels = np.asarray(preprocessing.view(read_image(paths[place])))
        except ImageError:
            unreadable.append(paths[place])
            continue
        if all(not np.array_equal(pixels, other) for _, other in found):
            found.append((paths[place], pixels))
        if len(found) == 2:
            break
    return found
