"""What an operator may want to know of a scheduler, as it happens."""

from __future__ import annotations

from typing import Protocol

from camrt.engine.passes import PassCounts

__all__ = ["NOBODY", "Observer"]


class Observer(Protocol):
    """What is told what a scheduler does: from its threads, so it must be quick, and must not raise."""

    def queued(self, seconds: float) -> None:
        """A request waited so long before a thread began to work on it."""
        ...

    def batch(self, rows: int, requests: int, fill: float, seconds: float) -> None:
        """A runner was run.

        Args:
            rows: Images, or altered images or activations.
            requests: How many groups of equal questions they are of.
            fill: Their size as a share of the largest batch's, in numbers: 1 for `max_batch` images.
            seconds: How long it took.
        """
        ...

    def passes(self, counts: PassCounts) -> None:
        """So many passes were made for some requests that were answered together."""
        ...

    def answered(self, method: str | None, seconds: float, error: BaseException | None) -> None:
        """A request has its answer, or will have none.

        Args:
            method: The method's name; None where only logits were asked for.
            seconds: Since it came.
            error: Why it has none.
        """
        ...


class Nobody:
    """An observer whom nothing is of interest to."""

    def queued(self, seconds: float) -> None:
        """See `Observer`."""

    def batch(self, rows: int, requests: int, fill: float, seconds: float) -> None:
        """See `Observer`."""

    def passes(self, counts: PassCounts) -> None:
        """See `Observer`."""

    def answered(self, method: str | None, seconds: float, error: BaseException | None) -> None:
        """See `Observer`."""


NOBODY: Observer = Nobody()
