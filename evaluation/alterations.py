"""What the model says of altered pictures: every question answered once, in full batches.

All perturbation metrics ask about pictures of two kinds: some pixels of one sheet (the picture, its blurred
copies, zeros) put into another along a ranking, or the picture multiplied by a map. `Alterations` collects
such questions about a few pictures, whoever asks them; equal ones become one. Then it fills the model's input
buffer, `batch_size` rows at a time, and keeps of each answer the probabilities that were asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from camrt.errors import InputError
from camrt.kernels.perturb import perturb

__all__ = ["PICTURE", "ZERO", "Alterations", "Answers"]

Array = npt.NDArray[Any]
Indices = npt.NDArray[np.int64]
Predict: TypeAlias = Callable[[Array], Array]
Question: TypeAlias = tuple[Any, ...]

PICTURE, ZERO = "picture", "zero"
"""The two sheets that there always are: a picture itself, and zeros in the model's input space."""


@dataclass(frozen=True, eq=False)
class Answers:
    """What was answered.

    Attributes:
        probabilities: (Q, T) of each question: those of its picture's classes.
        predicted: (Q,) the class of the largest logit.
        passes: How many altered pictures were run.
    """

    probabilities: npt.NDArray[np.float64]
    predicted: Indices
    passes: int


class Alterations:
    """Questions about some pictures, and their answers.

    Args:
        pictures: (n, C, H, W) float32, as the model takes them.
        logits: (n, classes) of the pictures as they are: they need not be asked for again.
        classes: (n, T) the classes whose probabilities matter, for each picture.
        sheets: Further sheets, by name: (n, C, H, W) each.
        empty: (classes,) logits of a picture of zeros, when they are known.
    """

    def __init__(
        self,
        pictures: Array,
        logits: Array,
        classes: Indices,
        sheets: Mapping[str, Array] | None = None,
        empty: Array | None = None,
    ) -> None:
        self.pictures = np.ascontiguousarray(pictures, dtype=np.float32)
        self.logits = logits
        self.classes = classes
        self.empty = empty
        count = len(self.pictures)
        further = dict(sheets or {})
        if {PICTURE, ZERO} & set(further):
            raise InputError(f"the sheets {PICTURE!r} and {ZERO!r} are there already")
        if any(sheet.shape != self.pictures.shape for sheet in further.values()):
            raise InputError("every sheet must have the pictures' shape")
        self._sheets = np.concatenate(
            [
                self.pictures,
                *(np.asarray(sheet, np.float32) for sheet in further.values()),
                np.zeros_like(self.pictures[:1]),  # not 0 times a picture, which may hold infinities
            ]
        )
        self._first = {name: number * count for number, name in enumerate([PICTURE, *further])}
        self._rankings: dict[tuple[int, bytes], int] = {}
        self._ranks: list[Indices] = []
        self._masks: dict[tuple[int, bytes], int] = {}
        self._maps: list[Array] = []
        self._questions: dict[Question, int] = {}

    def __len__(self) -> int:
        return len(self._questions)

    @property
    def pixels(self) -> int:
        """H·W of a picture."""
        return int(self.pictures.shape[2] * self.pictures.shape[3])

    def ranked(self, picture: int, ranks: Indices, counts: Iterable[int], first: str, rest: str) -> list[int]:
        """Asks about sheet `rest` with the first pixels of a ranking taken from sheet `first`.

        Args:
            picture: Which one.
            ranks: (H·W,) place of each pixel, from 0.
            counts: How many pixels are taken from `first`, for each question.
            first: A sheet's name.
            rest: Another's.

        Returns:
            Where the answers will be, one a count.
        """
        ranking = self._ranking(picture, ranks)
        places = []
        for count in counts:
            if count <= 0 or first == rest:
                question: Question = ("sheet", self._sheet(rest, picture))
            elif count >= self.pixels:
                question = ("sheet", self._sheet(first, picture))
            else:
                question = (
                    "ranked",
                    ranking,
                    int(count),
                    self._sheet(first, picture),
                    self._sheet(rest, picture),
                )
            places.append(self._place((*question, picture)))
        return places

    def masked(self, picture: int, saliency: Array) -> int:
        """Asks about a picture multiplied by a map (H, W); says where the answer will be."""
        values = np.ascontiguousarray(saliency, dtype=np.float32)
        if values.shape != self.pictures.shape[2:]:
            raise InputError(f"a map of {values.shape} for pictures of {self.pictures.shape[2:]}")
        key = (picture, values.tobytes())
        if key not in self._masks:
            self._masks[key] = len(self._maps)
            self._maps.append(values)
        return self._place(("masked", self._masks[key], picture))

    def answer(
        self,
        predict: Predict,
        probabilities: Callable[[Array], Array],
        batch_size: int,
        advance: Callable[[int], None] | None = None,
    ) -> Answers:
        """Runs every question once.

        Args:
            predict: From pictures to logits (n, classes).
            probabilities: From logits to probabilities.
            batch_size: Pictures a batch, the bound on memory.
            advance: Told how many pictures were run, from time to time.
        """
        questions = list(self._questions)
        picture = np.array([question[-1] for question in questions], np.int64)
        chosen = np.empty((len(questions), self.classes.shape[1]), np.float64)
        predicted = np.empty(len(questions), np.int64)
        zero = len(self._sheets) - 1

        def enter(places: Indices, logits: Array) -> None:
            found = probabilities(logits)
            chosen[places] = np.take_along_axis(found, self.classes[picture[places]], axis=1)
            predicted[places] = logits.argmax(axis=1)

        open_, passes = [], 0
        for place, question in enumerate(questions):
            here = np.array([place])
            if question[0] == "sheet" and question[1] < len(self.pictures):
                enter(here, self.logits[question[1]][None])
            elif question[0] == "sheet" and question[1] == zero and self.empty is not None:
                enter(here, self.empty[None])
            else:
                open_.append(place)
        # Questions of one kind together, so that each batch is filled by few calls of a kernel.
        open_.sort(key=lambda place: questions[place][0])
        buffer = np.empty((min(batch_size, max(len(open_), 1)), *self.pictures.shape[1:]), np.float32)
        for start in range(0, len(open_), batch_size):
            block = open_[start : start + batch_size]
            rows = buffer[: len(block)]
            self._fill([questions[place] for place in block], rows)
            enter(np.array(block), predict(rows))
            passes += len(block)
            if advance is not None:
                advance(len(block))
        return Answers(chosen, predicted, passes)

    def _fill(self, questions: list[Question], rows: Array) -> None:
        """Writes the pictures that some questions are about; those of one kind lie together."""
        kinds = [question[0] for question in questions]
        for kind in dict.fromkeys(kinds):
            start = kinds.index(kind)
            own = questions[start : start + kinds.count(kind)]
            out = rows[start : start + len(own)]
            if kind == "masked":
                for row, (_, mask, picture) in zip(out, own, strict=True):
                    np.multiply(self.pictures[picture], self._maps[mask], out=row)
            elif kind == "sheet":
                for row, (_, sheet, _) in zip(out, own, strict=True):
                    row[...] = self._sheets[sheet]
            else:
                used = sorted({question[1] for question in own})
                local = {ranking: number for number, ranking in enumerate(used)}
                perturb(
                    self._sheets,
                    np.stack([self._ranks[ranking] for ranking in used]),
                    [local[question[1]] for question in own],
                    [question[2] for question in own],
                    [question[3] for question in own],
                    [question[4] for question in own],
                    out,
                )

    def _place(self, question: Question) -> int:
        return self._questions.setdefault(question, len(self._questions))

    def _ranking(self, picture: int, ranks: Indices) -> int:
        key = (picture, ranks.tobytes())
        if key not in self._rankings:
            self._rankings[key] = len(self._ranks)
            self._ranks.append(ranks)
        return self._rankings[key]

    def _sheet(self, name: str, picture: int) -> int:
        if name == ZERO:
            return len(self._sheets) - 1
        if name not in self._first:
            raise InputError(f"there is no sheet {name!r}; sheets: {ZERO}, {', '.join(self._first)}")
        return self._first[name] + picture
