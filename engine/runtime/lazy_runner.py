"""Runners that are made ready when they are first needed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from camrt.engine.runtime import Runner
from camrt.export.internal_errors import report_internal_errors
from camrt.kernels.fork_safety import ForkSafeLock

__all__ = ["LazyRunner"]


class LazyRunner:
    """A runner made on its first call, once, whichever thread calls first.

    Args:
        make: Makes the runner.
    """

    def __init__(self, make: Callable[[], Runner]) -> None:
        self._make: Callable[[], Runner] | None = make
        self._runner: Runner | None = None
        self._lock = ForkSafeLock()

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the graph's outputs."""
        return self._ready().outputs

    def allocate_rows(self, shape: tuple[int, ...]) -> Any:
        """An array to be written and then given to the runner."""
        return self._ready().allocate_rows(shape)

    def __call__(
        self, batch: Any, fetch: Sequence[str] | None = None, extra_inputs: Mapping[str, Any] | None = None
    ) -> list[Any]:
        """Runs a batch, see `camrt.engine.runtime.Runner`."""
        return self._ready()(batch, fetch, extra_inputs)

    def _ready(self) -> Runner:
        with self._lock:
            if self._runner is None:
                assert self._make is not None
                with report_internal_errors("the part of the graph that is run here"):
                    self._runner = self._make()
                self._make = None  # lets go of the graph
            return self._runner
