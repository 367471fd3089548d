"""The types of `Engine.evaluate`, which imports nothing of `camrt.evaluation`: an entry point names it."""

from __future__ import annotations

from typing import Any, Protocol

__all__ = ["EvaluationResult", "EvaluationSettings"]


class EvaluationSettings(Protocol):
    """What `camrt.evaluation.Settings` is, to a type checker."""

    @property
    def seed(self) -> int:
        """Of everything that is drawn."""

    @property
    def limit(self) -> int | None:
        """How many images are measured; None for all."""


class EvaluationResult(Protocol):
    """What a `camrt.evaluation.Evaluation` has."""

    @property
    def results(self) -> dict[str, Any]:
        """What `results.json` holds: settings, counts, problems and the figures of every method."""

    @property
    def figures(self) -> dict[str, dict[str, dict[str, Any]]]:
        """For each method the figure of each metric; `["pixab"]["deletion"]["value"]`."""
