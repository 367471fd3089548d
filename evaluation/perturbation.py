"""Predictions on perturbed images: equal queries are run once, in full batches.

All perturbation metrics ask about images of a few kinds: some pixels of one sheet (the image, its blurred
copies, zeros) put into another along a ranking, some pixels of a ranking imputed from the others, a box set
to zero, or the image multiplied by a map. `PerturbationQueries` collects such questions about a few images,
whoever asks them; equal ones become one. Then it fills the model's input buffer, `batch_size` rows at a time,
and keeps of each answer the probabilities that were asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from camrt.engine.arrays import library, to_device_async, to_float32, to_numpy, zeros
from camrt.errors import InputError
from camrt.evaluation.imputation import impute_pixels
from camrt.kernels.perturb import perturb

__all__ = ["IMAGE", "ZERO", "PerturbationQueries", "PerturbationResult"]

Array = Any  # of NumPy or of torch, see `camrt.engine.arrays`
Indices = npt.NDArray[np.int64]
Predict: TypeAlias = Callable[[Array], Array]
Query: TypeAlias = tuple[Any, ...]

IMAGE, ZERO = "image", "zero"
"""The two sheets that there always are: an image itself, and zeros in the model's input space."""


@dataclass(frozen=True, eq=False)
class PerturbationResult:
    """Predictions for all queries of a PerturbationQueries.

    Attributes:
        probabilities: (Q, T) of each question: those of its image's classes.
        predicted: (Q,) the class of the largest logit.
        passes: How many altered images were run.
    """

    probabilities: npt.NDArray[np.float64]
    predicted: Indices
    passes: int


class PerturbationQueries:
    """Questions about some images, and their answers.

    Args:
        images: (n, C, H, W) float32, as the model takes them. Where they lie altered images are made: as
            tensors on a GPU they never leave it.
        logits: (n, classes) of the images as they are, on the host, when they are known: they need not be
            asked for again.
        classes: (n, T) the classes whose probabilities matter, for each image, on the host.
        sheets: Further sheets, by name: (n, C, H, W) each, where the images lie.
        empty: (classes,) logits of an image of zeros, when they are known, on the host.
    """

    def __init__(
        self,
        images: Array,
        logits: Array | None,
        classes: Indices,
        sheets: Mapping[str, Array] | None = None,
        empty: Array | None = None,
    ) -> None:
        xp = library(images)
        self.images = images if images.dtype == xp.float32 else to_float32(images)
        self.logits = logits
        self.classes = classes
        self.empty = empty
        count = len(self.images)
        further = dict(sheets or {})
        if {IMAGE, ZERO} & set(further):
            raise InputError(f"the sheets {IMAGE!r} and {ZERO!r} are there already")
        if any(sheet.shape != self.images.shape for sheet in further.values()):
            raise InputError("every sheet must have the images' shape")
        self._sheets = xp.concat(
            [
                self.images,
                *(to_float32(sheet) for sheet in further.values()),
                xp.zeros_like(self.images[:1]),  # not 0 times an image, which may hold infinities
            ]
        )
        self._first = {name: number * count for number, name in enumerate([IMAGE, *further])}
        self._rankings: dict[tuple[int, bytes], int] = {}
        self._ranks: list[Indices] = []
        self._masks: dict[tuple[int, bytes], int] = {}
        self._maps: list[Array] = []
        self._questions: dict[Query, int] = {}
        self._known: dict[int, Array] = {}

    def __len__(self) -> int:
        return len(self._questions)

    @property
    def pixels(self) -> int:
        """H·W of an image."""
        return int(self.images.shape[2] * self.images.shape[3])

    def add_ranked(
        self, image: int, ranks: Indices, counts: Iterable[int], first: str, rest: str
    ) -> list[int]:
        """Asks about sheet `rest` with the first pixels of a ranking taken from sheet `first`.

        Args:
            image: Which one.
            ranks: (H·W,) place of each pixel, from 0.
            counts: How many pixels are taken from `first`, for each question.
            first: A sheet's name.
            rest: Another's.

        Returns:
            Where the answers will be, one a count.
        """
        ranking = self._ranking(image, ranks)
        places = []
        for count in counts:
            if count <= 0 or first == rest:
                question: Query = ("sheet", self._sheet(rest, image))
            elif count >= self.pixels:
                question = ("sheet", self._sheet(first, image))
            else:
                question = (
                    "ranked",
                    ranking,
                    int(count),
                    self._sheet(first, image),
                    self._sheet(rest, image),
                )
            places.append(self._place((*question, image)))
        return places

    def add_masked(self, image: int, saliency: Array, logits: Array | None = None) -> int:
        """Asks about an image multiplied by a map (H, W); says where the answer will be.

        Args:
            image: Which one.
            saliency: The map.
            logits: (classes,) on the host, where they are known.
        """
        values = np.ascontiguousarray(saliency, dtype=np.float32)
        if values.shape != self.images.shape[2:]:
            raise InputError(f"a map of {values.shape} for images of {self.images.shape[2:]}")
        key = (image, values.tobytes())
        if key not in self._masks:
            self._masks[key] = len(self._maps)
            self._maps.append(values)
        place = self._place(("masked", self._masks[key], image))
        if logits is not None:
            self._known[place] = logits
        return place

    def add_imputed(self, image: int, ranks: Indices, first: int, end: int, noise: str = ZERO) -> int:
        """Asks about an image some of whose pixels are guessed from the others, see `impute_pixels`.

        Args:
            image: Which one.
            ranks: (H·W,) place of each pixel, from 0.
            first: Pixels of this place up to `end` are guessed.
            end: The place of the first that is not; not all pixels can be guessed.
            noise: The sheet that is added to what was guessed.

        Returns:
            Where the answer will be.
        """
        if end <= first:
            return self._place(("sheet", self._sheet(IMAGE, image), image))
        sheet = self._sheet(noise, image)
        return self._place(("imputed", self._ranking(image, ranks), int(first), int(end), sheet, image))

    def add_without_box(self, image: int, box: Sequence[int]) -> int:
        """Asks about an image with a box of pixels zero; says where the answer will be.

        Args:
            image: Which one.
            box: Half-open (r0, c0, r1, c1), in pixels.
        """
        return self._place(("box", *map(int, box), image))

    def run(
        self,
        predict: Predict,
        probabilities: Callable[[Array], Array],
        batch_size: int,
        advance: Callable[[int], None] | None = None,
    ) -> PerturbationResult:
        """Runs every question once.

        Args:
            predict: From images, which lie where those given do, to logits (n, classes).
            probabilities: From logits to probabilities, on the host.
            batch_size: Images a batch, the bound on memory.
            advance: Told how many images were run, from time to time.
        """
        questions = list(self._questions)
        image = np.array([question[-1] for question in questions], np.int64)
        chosen = np.empty((len(questions), self.classes.shape[1]), np.float64)
        predicted = np.empty(len(questions), np.int64)
        zero = len(self._sheets) - 1

        def enter(places: Indices, logits: Array) -> None:
            found = probabilities(logits)
            chosen[places] = np.take_along_axis(found, self.classes[image[places]], axis=1)
            predicted[places] = logits.argmax(axis=1)

        open_, passes = [], 0
        for place, question in enumerate(questions):
            here = np.array([place])
            if question[0] == "sheet" and question[1] < len(self.images) and self.logits is not None:
                enter(here, self.logits[question[1]][None])
            elif question[0] == "sheet" and question[1] == zero and self.empty is not None:
                enter(here, self.empty[None])
            elif place in self._known:
                enter(here, self._known[place][None])
            else:
                open_.append(place)
        # Questions of one kind together, so that each batch is filled by few calls of a kernel.
        open_.sort(key=lambda place: questions[place][0])
        buffer = zeros((min(batch_size, max(len(open_), 1)), *self.images.shape[1:]), self.images)
        for start in range(0, len(open_), batch_size):
            block = open_[start : start + batch_size]
            rows = buffer[: len(block)]
            self._fill([questions[place] for place in block], rows)
            enter(np.array(block), to_numpy(predict(rows)))
            passes += len(block)
            if advance is not None:
                advance(len(block))
        return PerturbationResult(chosen, predicted, passes)

    def _fill(self, questions: list[Query], rows: Array) -> None:
        """Writes the images that some questions are about; those of one kind lie together."""
        kinds = [question[0] for question in questions]
        for kind in dict.fromkeys(kinds):
            place = kinds.index(kind)
            own = questions[place : place + kinds.count(kind)]
            out = rows[place : place + len(own)]
            if kind == "masked":
                for row, (_, mask, image) in zip(out, own, strict=True):
                    row[...] = self.images[image] * to_device_async(self._maps[mask], row)
            elif kind == "sheet":
                for row, (_, sheet, _) in zip(out, own, strict=True):
                    row[...] = self._sheets[sheet]
            elif kind == "box":
                for row, (_, top, left, bottom, right, image) in zip(out, own, strict=True):
                    row[...] = self.images[image]
                    row[:, top:bottom, left:right] = 0
            elif kind == "imputed":
                for row, (_, ranking, start, end, noise, image) in zip(out, own, strict=True):
                    filled = self._impute(image, self._ranks[ranking], start, end, noise)
                    row[...] = to_device_async(filled, row)
            else:
                used = sorted({question[1] for question in own})
                local = {ranking: number for number, ranking in enumerate(used)}
                choices = [(local[ranking], *others) for _, ranking, *others, _ in own]
                ranks, ranking, count, first, rest = (
                    to_device_async(one, self._sheets)
                    for one in (np.stack([self._ranks[one] for one in used]), *np.array(choices).T.copy())
                )
                perturb(self._sheets, ranks, ranking, count, first, rest, out)

    def _impute(
        self, image: int, ranks: Indices, first: int, end: int, noise: int
    ) -> npt.NDArray[np.float32]:
        """An image (C, H, W) with the pixels of some places of a ranking guessed, on the host."""
        guessed = ((ranks >= first) & (ranks < end)).reshape(self.images.shape[2:])
        filled = impute_pixels(to_numpy(self.images[image]), guessed)
        return (filled + np.where(guessed, to_numpy(self._sheets[noise]), 0)).astype(np.float32)

    def _place(self, question: Query) -> int:
        return self._questions.setdefault(question, len(self._questions))

    def _ranking(self, image: int, ranks: Indices) -> int:
        key = (image, ranks.tobytes())
        if key not in self._rankings:
            self._rankings[key] = len(self._ranks)
            self._ranks.append(ranks)
        return self._rankings[key]

    def _sheet(self, name: str, image: int) -> int:
        if name == ZERO:
            return len(self._sheets) - 1
        if name not in self._first:
            raise InputError(f"there is no sheet {name!r}; sheets: {ZERO}, {', '.join(self._first)}")
        return self._first[name] + image
