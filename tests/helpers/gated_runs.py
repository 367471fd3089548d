"""Runs of ONNX Runtime that wait until a test lets them go, and are written down."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from camrt.engine.runtime.ort_cpu import ArenaSession
from camrt.errors import BackendError

__all__ = ["GatedRuns"]

SECONDS = 30.0  # a test that waits longer has failed


@dataclass
class GatedRuns:
    """What stands before every run of a session.

    Attributes:
        rows: Rows of the runs that began, in their order.
        refuse: Says whether a run fails, given its rows.
    """

    rows: list[int] = field(default_factory=list)
    refuse: Callable[[np.ndarray], bool] = lambda _: False
    _changed: threading.Condition = field(default_factory=threading.Condition)
    _allowed: float = float("inf")

    @classmethod
    def put(cls, monkeypatch: pytest.MonkeyPatch) -> GatedRuns:
        """Puts one there for the time of a test; it is open."""
        gate, run = cls(), ArenaSession.run

        def gated(session: Any, feeds: Mapping[str, np.ndarray], names: list[str]) -> list[np.ndarray]:
            gate.enter(feeds[session.input])
            return run(session, feeds, names)

        monkeypatch.setattr(ArenaSession, "run", gated)
        return gate

    def enter(self, rows: np.ndarray) -> None:
        with self._changed:
            self.rows.append(len(rows))
            number = len(self.rows)
            self._changed.notify_all()
            if not self._changed.wait_for(lambda: number <= self._allowed, SECONDS):
                raise TimeoutError("the test did not let the run go")
        if self.refuse(rows):
            raise BackendError("refused by the test")

    def close(self) -> None:
        """Lets no further run go."""
        with self._changed:
            self._allowed = len(self.rows)

    def let_go(self, runs: float = float("inf")) -> None:
        """Lets so many further runs go; all by default."""
        with self._changed:
            self._allowed += runs
            self._changed.notify_all()

    def step(self) -> int:
        """Lets the run that waits here go, and waits for the next one.

        Returns:
            The rows of that.
        """
        following = len(self.rows) + 1
        self.let_go(1)
        self.wait_for(following)
        return self.rows[following - 1]

    def wait_for(self, count: int) -> None:
        """Waits until so many runs have come here."""
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.rows) >= count, SECONDS), self.rows
