"""Runtimes that run a graph, one module each, imported only when asked for by name."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Literal, Protocol

import onnx

from camrt.engine.places import Place
from camrt.engine.plans.cards import cards
from camrt.errors import BackendError, InputError

__all__ = ["Backend", "Runner", "onnx_runtime", "runtime_named"]

PLANNED = ("tensorrt", "tensorrt-rtx")
BACKENDS = ("onnxruntime", "onnxruntime-tensorrt", *PLANNED)


class Runner(Protocol):
    """A graph made ready to run: float32 arrays in, float32 arrays out, the batch axis first.

    They are arrays of the backend's place: of NumPy, or tensors on its device. Tensors may be in the graph's
    own float type too, and runs on a device are queued behind what torch's current stream there holds: what
    they give may not have been computed yet when they return.
    """

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the graph's outputs."""
        ...

    def rows(self, shape: tuple[int, ...]) -> Any:
        """An array to be written and then given to the runner, in the float type that it computes in."""
        ...

    def __call__(
        self, batch: Any, fetch: Sequence[str] | None = None, beside: Mapping[str, Any] | None = None
    ) -> list[Any]:
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
        taps_cells: Whether the cells' contributions are taken out of the model's own graph: no where a kernel
            needs none.
        place: Where its runners take arrays and give them.
    """

    name: str
    scatters: bool
    taps_cells: bool
    place: Place

    def runner(self, model: onnx.ModelProto, *, label: str, batch: int | None = None) -> Runner:
        """Makes a graph ready to run.

        Args:
            model: The graph, with one input.
            label: What the graph is, for error messages.
            batch: Fixed batch size of the graph; None when it is open.
        """
        ...


def runtime_named(
    name: str,
    *,
    device: str,
    threads: int | None,
    plans: str | os.PathLike[str] | None,
    precision: str | None,
    model: str,
) -> Backend:
    """What runs the graphs of a file; the arguments are those of `camrt.load`.

    Args:
        name: The backend.
        device: Where it runs.
        threads: Of a runtime on the CPU.
        plans: Folder of TensorRT's plans.
        precision: What graphs compute in.
        model: SHA-256 of the file.

    Raises:
        BackendError: It is unknown, or does not run there, or something that it needs is missing.
        InputError: An option that means nothing to it.
    """
    if name not in BACKENDS:
        raise BackendError(f"unknown backend {name!r}; camrt has {', '.join(map(repr, BACKENDS))}")
    if device != "cpu" and device != "cuda" and not device.startswith("cuda:"):
        raise BackendError(f"device={device!r} must be 'cpu', 'cuda' or 'cuda:N'")
    if name in PLANNED:
        return planned(name, device, plans, model, precision)
    if plans is not None and name != "onnxruntime-tensorrt":
        raise InputError(f"plans= is TensorRT's, and means nothing to backend={name!r}")
    if device != "cpu":
        cards()  # before torch, or anything of CUDA's, is imported
        with torch_needed(name):
            import torch

            from camrt.engine.backends.onnxruntime_device import OnnxRuntimeOnDevice
            from camrt.engine.plans.building import checked_precision
        provider: Literal["cuda", "tensorrt"] = "tensorrt" if name == "onnxruntime-tensorrt" else "cuda"
        kind = None if precision is None else checked_precision(precision)
        return OnnxRuntimeOnDevice(provider, torch.device(device), precision=kind, cache=plans)
    if name != "onnxruntime":
        raise BackendError(f"backend={name!r} runs on a GPU: pass device='cuda' or 'cuda:N'")
    if precision not in (None, "fp32"):
        raise InputError(f"precision={precision!r} is for a GPU: on the CPU a file is run as it is")
    return onnx_runtime(threads=threads)


def onnx_runtime(*, threads: int | None, few_runs: bool = False) -> Backend:
    """ONNX Runtime on the CPU; see `camrt.engine.backends.onnxruntime.OnnxRuntime`."""
    from camrt.engine.backends.onnxruntime import OnnxRuntime

    return OnnxRuntime(threads=threads, few_runs=few_runs)


def planned(
    flavour: str, device: str, plans: str | os.PathLike[str] | None, model: str, precision: str | None
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
    if device == "cpu":
        raise BackendError(f"plans run on a GPU: pass device='cuda' or 'cuda:N', not {device!r}")
    trt = bindings(flavour, running=True)
    folder = PlanFolder.open(plans, model, trt, precision)
    with torch_needed(flavour):
        from camrt.engine.backends.tensorrt import TensorRT
    return TensorRT(folder, trt, device)


@contextmanager
def torch_needed(name: str) -> Iterator[None]:
    """Says what is missing where torch is."""
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        extra = name if name in PLANNED else "gpu"
        raise BackendError(
            f"on a GPU camrt works with torch's tensors, and torch is missing: pip install 'camrt[{extra}]'"
        ) from None
