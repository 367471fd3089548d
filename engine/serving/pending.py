"""Requests that were taken, alone and as they are answered together."""

from __future__ import annotations

import math
import threading
import time
from concurrent.futures import Future
from dataclasses import dataclass, field

from camrt.engine.serving.questions import Answer, Question
from camrt.engine.serving.run_task import Asker
from camrt.errors import DeadlineError
from camrt.export.budget import Budget

__all__ = ["Group", "GroupBudget", "Pending", "late_error"]


@dataclass(eq=False)
class Pending:
    """A request that was taken, and its answer to be.

    Attributes:
        question: What it asks.
        future: Where the answer will be.
        arrived: When it came, by `time.monotonic`.
        group: What it is answered with.
    """

    question: Question
    future: Future[Answer] = field(default_factory=Future)
    arrived: float = field(default_factory=time.monotonic)
    group: Group | None = None
    _settling: threading.Lock = field(default_factory=threading.Lock)

    @property
    def end(self) -> float:
        """When an answer is of no use any more, by `time.monotonic`."""
        deadline = self.question.request.deadline
        return math.inf if deadline is None else deadline

    def give(self, answer: Answer) -> None:
        """Gives the answer, unless there is one, or the client has left."""
        if self._settling.acquire(blocking=False) and self.future.set_running_or_notify_cancel():
            self.future.set_result(answer)

    def fail(self, error: BaseException) -> None:
        """Gives an error instead, unless there is an answer, or the client has left."""
        if self._settling.acquire(blocking=False) and self.future.set_running_or_notify_cancel():
            self.future.set_exception(error)

    def note_cancelled(self) -> None:
        """Tells who waits for several futures that this one was cancelled."""
        if self._settling.acquire(blocking=False):
            self.future.set_running_or_notify_cancel()


@dataclass(eq=False)
class Group:
    """Requests that are answered by one call.

    Attributes:
        is_long: Whether it is one long question.
        members: The requests.
        asker: The thread that works on it; None before there is one.
    """

    is_long: bool
    members: list[Pending]
    asker: Asker | None = None

    @property
    def client(self) -> str:
        """Whose the first of them is."""
        return self.members[0].question.request.client

    @property
    def live(self) -> list[Pending]:
        """Those that somebody waits for."""
        return [member for member in self.members if not member.future.done()]

    @property
    def images(self) -> int:
        """How many images they are about."""
        return sum(member.question.images for member in self.members)


@dataclass(frozen=True)
class GroupBudget(Budget):
    """As much time as the last of some requests has, and none when nobody waits any more."""

    members: tuple[Pending, ...] = ()

    @property
    def end_time(self) -> float:
        """When the work must have ended, by `time.monotonic`."""
        return max((member.end for member in self.members if not member.future.done()), default=-math.inf)

    def deadline_error(self) -> DeadlineError:
        """The error that says so."""
        return late_error()


def late_error() -> DeadlineError:
    """The error of a request whose deadline has passed."""
    return DeadlineError("the request was stopped at its deadline: allow more time, or ask again later")
