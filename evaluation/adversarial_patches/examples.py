"""Images in which it is known where a model sees a class, as they are kept.

"Pixab-CAM: Attend Pixel, not Channel" (ICLR 2022 submission), section on adversarial patches (specification
E3). `camrt.evaluation.adversarial_patches.builders` makes them, and says what they are.
"""

from __future__ import annotations

import io
import os
import zipfile
import zlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from camrt.errors import DataError
from camrt.evaluation.box_masks import boxes_to_mask
from camrt.export.budget import reserve
from camrt.export.io.atomic_files import write_atomic

__all__ = ["AdversarialExamples"]

Array = npt.NDArray[Any]
Indices = npt.NDArray[np.int64]

FORMAT = "camrt.adversarial_examples/1"


@dataclass(frozen=True, eq=False)
class AdversarialExamples:
    """Images with adversarial patches; patch k of image n is at [n][k] of what is kept for patches.

    Attributes:
        kind: "ae1", patches on natural images, or "ae2", on zeros.
        images: (N, C, H, W) float32, as the model takes them.
        boxes: N arrays (n, 4) int64, half-open (r0, c0, r1, c1): the patches.
        classes: N arrays (n,) int64, different within an image.
        alone: N arrays (n,) float64, the probability of a patch's class with that patch alone on zeros.
        succeeded: N arrays (n,) bool, whether that class comes first then, and with the confidence wanted.
        chosen: (N,) int64, which patch is explained; it has succeeded.
        probabilities: (N,) float64 of the explained class, with all patches together.
        scenes: (N,) int64, which natural image is behind them; −1 for none.
        attempts: Attacks made.
        failures: Attacks that failed. A patch is tried again elsewhere with another class; after its last try
            it stays in the image, with `succeeded` false.
        left_out: Images asked for of which no patch succeeded; they are not among the N.
        model: SHA-256 of the model's file; empty for a module that came from none.

    Raises:
        DataError: Arrays that do not fit.
    """

    kind: Literal["ae1", "ae2"]
    images: Array
    boxes: tuple[Indices, ...]
    classes: tuple[Indices, ...]
    alone: tuple[npt.NDArray[np.float64], ...]
    succeeded: tuple[npt.NDArray[np.bool_], ...]
    chosen: Indices
    probabilities: npt.NDArray[np.float64]
    scenes: Indices
    attempts: int
    failures: int
    left_out: int
    model: str

    def __post_init__(self) -> None:
        count = len(self.images)
        if self.kind not in ("ae1", "ae2") or self.images.ndim != 4 or not count:
            raise DataError(f"examples of kind {self.kind!r} with images {self.images.shape}")
        parts = (self.boxes, self.classes, self.alone, self.succeeded)
        rows = (self.chosen, self.probabilities, self.scenes)
        if any(len(part) != count for part in parts) or any(row.shape != (count,) for row in rows):
            raise DataError(f"what is kept of the patches does not belong to {count} images")
        for boxes, classes, alone, succeeded, chosen in zip(*parts, self.chosen, strict=True):
            shape = (len(boxes),)
            if boxes.shape != (*shape, 4) or not (classes.shape == alone.shape == succeeded.shape == shape):
                raise DataError("an image's boxes, classes, probabilities and successes differ in number")
            if not (0 <= chosen < len(boxes) and succeeded[chosen]):
                raise DataError(f"patch {chosen} of {len(boxes)} is explained, and is none that succeeded")
            boxes_to_mask(boxes, self.images.shape[2:])

    def __len__(self) -> int:
        return len(self.images)

    @property
    def targets(self) -> Indices:
        """(N,): the classes explained."""
        return np.array([own[k] for own, k in zip(self.classes, self.chosen, strict=True)], np.int64)

    @property
    def target_boxes(self) -> tuple[Indices, ...]:
        """N arrays (1, 4): the patches of the classes explained."""
        return tuple(own[k : k + 1] for own, k in zip(self.boxes, self.chosen, strict=True))

    def repeat_per_patch(self, probabilities: Array) -> AdversarialExamples:
        """The same images once for each patch that has succeeded, which is then the one explained.

        More is learned from each attack, and maps of one image are not independent.

        Args:
            probabilities: (N, classes) of the images.

        Raises:
            DataError: Probabilities of another number of images.
        """
        if len(probabilities) != len(self):
            raise DataError(f"probabilities of {len(probabilities)} images for {len(self)}")
        owner, patch = (
            np.concatenate(parts)
            for parts in zip(
                *((np.full(own.sum(), n), np.flatnonzero(own)) for n, own in enumerate(self.succeeded)),
                strict=True,
            )
        )
        classes = np.array([self.classes[n][k] for n, k in zip(owner, patch, strict=True)], np.int64)
        repeated: dict[str, Any] = {name: tuple(getattr(self, name)[n] for n in owner) for name in _RAGGED}
        return replace(
            self,
            **repeated,
            images=self.images[owner],
            chosen=patch.astype(np.int64),
            probabilities=np.asarray(probabilities, np.float64)[owner, classes],
            scenes=self.scenes[owner],
        )

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Writes them as one .npz file, which appears complete or not at all."""
        path = Path(path)
        arrays: dict[str, Any] = {name: np.concatenate(getattr(self, name)) for name in _RAGGED}
        arrays |= {name: getattr(self, name) for name in _WHOLE}
        arrays |= {"format": FORMAT, "each": np.array([len(own) for own in self.boxes], np.int64)}
        content = io.BytesIO()
        np.savez_compressed(content, **arrays)
        write_atomic(path, content.getvalue())
        return path

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> AdversarialExamples:
        """Reads what `save` wrote.

        Raises:
            DataError: The file is missing, damaged, or something else.
            MemoryLimitError: Unpacked it is larger than the memory there is.
        """
        try:
            with Path(path).open("rb") as file, np.load(file, allow_pickle=False) as archive:
                reserve(
                    sum(member.file_size for member in archive.zip.infolist()), f"what is packed in {path}"
                )
                if str(archive["format"]) != FORMAT:
                    raise DataError(f"{path} holds {str(archive['format'])!r:.60}, not {FORMAT!r}")
                fields: dict[str, Any] = {name: archive[name] for name in _WHOLE}
                cuts = np.cumsum(archive["each"])[:-1]
                fields |= {name: tuple(np.split(archive[name], cuts)) for name in _RAGGED}
            fields |= {name: fields[name].item() for name in _SCALARS}
            return cls(**fields)
        except DataError:
            raise
        except (
            OSError,
            EOFError,
            LookupError,
            TypeError,
            ValueError,
            zipfile.BadZipFile,
            zlib.error,
        ) as error:
            raise DataError(f"{path} is not a file of adversarial examples: {error}") from None


_RAGGED = ("boxes", "classes", "alone", "succeeded")
_SCALARS = ("kind", "attempts", "failures", "left_out", "model")
_WHOLE = ("images", "chosen", "probabilities", "scenes", *_SCALARS)
