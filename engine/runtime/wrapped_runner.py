"""A runner around another one: what it does not change is the other's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from camrt.engine.runtime import Runner

__all__ = ["WrappedRunner"]


class WrappedRunner:
    """A runner that gives what another one gives; others derive from it.

    Args:
        runner: The other one.
    """

    def __init__(self, runner: Runner) -> None:
        self._runner = runner

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the outputs that can be asked for."""
        return self._runner.outputs

    def allocate_rows(self, shape: tuple[int, ...]) -> Any:
        """Allocates a buffer for rows that this runner is given."""
        return self._runner.allocate_rows(shape)

    def __call__(
        self, batch: Any, fetch: Sequence[str] | None = None, extra_inputs: Mapping[str, Any] | None = None
    ) -> list[Any]:
        """Runs the other runner."""
        return self._runner(batch, fetch, extra_inputs)
