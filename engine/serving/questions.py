"""Which requests ask the same of other images, so that one call answers them together."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from math import prod
from typing import Any

import numpy as np
import numpy.typing as npt

from camrt.engine.batch import join_batches
from camrt.engine.engine import Engine
from camrt.engine.explanation import Explanation
from camrt.engine.methods import Method
from camrt.engine.serving.requests import ExplainRequest
from camrt.engine.targets import parse_targets
from camrt.errors import CamrtError

__all__ = ["Answer", "Question", "QuestionReader", "ask_together"]

Array = Any  # of NumPy or of torch, see `camrt.engine.arrays`
Answer = Explanation[Any] | npt.NDArray[np.float32]
"""An explanation, or logits (N, C), in arrays of NumPy."""

KNOWN_METHODS = 256  # methods with options, whose costs are remembered
SHORT = 16.0  # passes through the model an image: questions of no more are asked for several requests at once


@dataclass(frozen=True, eq=False)
class Question:
    """What a request asks.

    Attributes:
        request: The request.
        targets: (N, T) classes; None where the model's answer decides.
        several: Whether they were given as (N, T) rather than (N,).
        kind: Equal for questions that can be asked together; None for one that is asked by itself.
    """

    request: ExplainRequest
    targets: npt.NDArray[np.int64] | None
    several: bool
    kind: Hashable

    @property
    def images(self) -> int:
        """How many images it is about."""
        return len(self.request.batch.images)


class QuestionReader:
    """Finds out which of the requests to an engine can be asked together.

    Args:
        engine: The engine.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._passes = lru_cache(KNOWN_METHODS)(partial(count_passes, engine))

    def read(self, request: ExplainRequest) -> Question:
        """What a request asks.

        Raises:
            TargetError: Its classes are none of the model's.
        """
        targets, several = None, False
        if request.targets is not None and request.top_k is None:
            count, classes = len(request.batch.images), self._engine.num_classes
            targets, several = parse_targets(request.targets, count, classes, self._engine.labels)
        return Question(request, targets, several, self._find_kind(request, targets, several))

    def _find_kind(
        self, request: ExplainRequest, targets: npt.NDArray[np.int64] | None, several: bool
    ) -> Hashable:
        """What questions that can be asked together have in common; None for a long one."""
        batch, method = request.batch, request.method
        shape = tuple(batch.images.shape[1:])
        if method is None:
            return shape
        framings = batch.framings if request.size == "original" else None
        try:
            kind = (
                shape,
                method,
                None if targets is None else (targets.shape[1], several),
                request.targets is None,
                request.top_k,
                request.size if isinstance(request.size, str) else tuple(request.size),
                request.fuse,
                request.dtype,
                batch.views is None,
                None if framings is None else framings[0].size,
            )
            hash(kind)
        except TypeError:  # an option of the method is a list or an array, or the size is none
            return None
        return kind if self._passes(method, shape) <= SHORT else None


def count_passes(engine: Engine, method: Method, shape: tuple[int, ...]) -> float:
    """About how many passes through the model an image costs; infinity where that is not known."""
    try:
        cost = method.cost_of_all(engine.head, engine.map_shape)
    except CamrtError:  # the method is not for this model, and says so when it is asked
        return float("inf")
    altered = engine.head.row_size(engine.target.shape) / prod(shape)
    there_and_back = cost.full_adjoint + altered * cost.head_adjoint
    return 1 + cost.full + altered * cost.head + 2 * there_and_back


def ask_together(engine: Engine, questions: Sequence[Question]) -> list[Answer]:
    """The answers to questions of one kind, by one call.

    The passes and seconds of an explanation are those of all questions together.

    Raises:
        CamrtError: See `camrt.Engine.explain`; of whichever question.
    """
    first = questions[0].request
    batch = join_batches([question.request.batch for question in questions])
    found: Answer
    if first.method is None:
        found = engine.predict(batch)
    else:
        found = engine.explain(
            batch,
            first.method,
            targets=join_targets(questions),
            top_k=first.top_k,
            size=first.size,
            fuse=first.fuse,
            dtype=first.dtype,
        )
    if len(questions) == 1:
        return [found]
    answers, done = [], 0
    for question in questions:
        following = done + question.images
        answers.append(found[done:following])
        done = following
    return answers


def join_targets(questions: Sequence[Question]) -> Any:
    """The classes of all questions, as `camrt.Engine.explain` takes them."""
    first = questions[0]
    if first.targets is None:
        return first.request.targets
    targets = np.concatenate([question.targets for question in questions if question.targets is not None])
    return targets if first.several else targets[:, 0]
