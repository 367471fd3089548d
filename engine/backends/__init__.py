"""Runtimes that run a graph, one module each, imported only when asked for by name."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy.typing as npt
import onnx

from camrt.errors import BackendError

__all__ = ["Backend", "Runner", "check_backend", "onnx_runtime", "tensorrt"]

BACKENDS = ("onnxruntime", "tensorrt", "tensorrt-rtx")


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


def check_backend(name: str) -> None:
    """Refuses a backend that there is none of for files.

    Raises:
        BackendError: It is unknown.
    """
    if name not in BACKENDS:
        raise BackendError(f"unknown backend {name!r}; camrt has {', '.join(map(repr, BACKENDS))}")


def onnx_runtime(*, device: str, threads: int | None, load_deadline: float, run_deadline: float) -> Backend:
    """ONNX Runtime.

    Raises:
        BackendError: It has no such device.
    """
    from camrt.engine.backends.onnxruntime import OnnxRuntime

    return OnnxRuntime(device=device, threads=threads, load_deadline=load_deadline, run_deadline=run_deadline)


def tensorrt(
    flavour: str,
    device: str,
    plans: str | os.PathLike[str] | None,
    model: str,
    precision: str | None,
) -> Backend:
    """TensorRT, running plans that were built before.

    Args:
        flavour: "tensorrt" or "tensorrt-rtx".
        device: "cuda" or "cuda:N".
        plans: The folder of plans.
        model: SHA-256 of the model's file.
        precision: What plans must compute in; None takes any.

    Raises:
        BackendError: There is no card, TensorRT or torch is missing, or the plans are stale or foreign.
    """
    from camrt.engine.plans.bindings import bindings
    from camrt.engine.plans.folder import PlanFolder

    if plans is None:
        raise BackendError(
            f"backend={flavour!r} runs plans that were built before: build them with camrt export MODEL --to "
            f"{flavour} --out FOLDER, and pass plans=FOLDER"
        )
    if device != "cuda" and not device.startswith("cuda:"):
        raise BackendError(f"plans run on a GPU: pass device='cuda' or 'cuda:N', not {device!r}")
    trt = bindings(flavour, running=True)
    folder = PlanFolder.open(plans, model, trt, precision)
    try:
        from camrt.engine.backends.tensorrt import TensorRT
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise BackendError(
            f"plans run on memory that torch gives them, and torch is missing: pip install 'camrt[{flavour}]'"
        ) from None
    return TensorRT(folder, trt, device)
