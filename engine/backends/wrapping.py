"""A runner around another one: what it does not change is the other's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from camrt.engine.backends import Runner

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
        """See `camrt.engine.backends.Runner`."""
        return self._runner.outputs

    def rows(self, shape: tuple[int, ...]) -> Any:
        """See `camrt.engine.backends.Runner`."""
        return self._runner.rows(shape)

    def __call__(
        self, batch: Any, fetch: Sequence[str] | None = None, beside: Mapping[str, Any] | None = None
    ) -> list[Any]:
        """See `camrt.engine.backends.Runner`."""
        return self._runner(batch, fetch, beside)
