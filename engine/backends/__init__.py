"""Runtimes that run a graph, one module each, imported only when asked for by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy.typing as npt
import onnx

from camrt.errors import BackendError

__all__ = ["Backend", "Runner", "backend"]

BACKENDS = ("onnxruntime",)


class Runner(Protocol):
    """A graph made ready to run: float32 arrays in, float32 arrays out, the batch axis first."""

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the graph's outputs."""
        ...

    def __call__(
        self,
        batch: npt.NDArray[Any],
        fetch: Sequence[str] | None = None,
        beside: Mapping[str, npt.NDArray[Any]] | None = None,
    ) -> list[npt.NDArray[Any]]:
        """Runs the graph on a batch and returns the outputs named by `fetch` (None: all of them).

        Args:
            batch: The graph's first input.
            fetch: Names of outputs.
            beside: Its other inputs by name, each with a row a row of `batch`.
        """
        ...


class Backend(Protocol):
    """What makes runners.

    Attributes:
        name: Its name.
        scatters: Whether it has a ScatterElements that adds.
    """

    name: str
    scatters: bool

    def runner(self, model: onnx.ModelProto, *, label: str, batch: int | None = None) -> Runner:
        """Makes a graph ready to run.

        Args:
            model: The graph, with one input.
            label: What the graph is, for error messages.
            batch: Fixed batch size of the graph; None when it is open.
        """
        ...


def backend(
    name: str, *, device: str, threads: int | None, load_deadline: float, run_deadline: float
) -> Backend:
    """The backend of that name; never another one in its place.

    Raises:
        BackendError: Unknown name, or the backend has no such device.
    """
    if name not in BACKENDS:
        raise BackendError(f"unknown backend {name!r}; camrt has {', '.join(map(repr, BACKENDS))}")
    from camrt.engine.backends.onnxruntime import OnnxRuntime

    return OnnxRuntime(device=device, threads=threads, load_deadline=load_deadline, run_deadline=run_deadline)
