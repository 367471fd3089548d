"""Runtimes that run a graph, one module each, imported only when asked for by name."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal, Protocol

import onnx

from camrt.engine.device import Device
from camrt.engine.runtime.ort_providers import HOST_PROVIDERS
from camrt.engine.tensorrt_plans.cuda_devices import list_cuda_devices
from camrt.errors import BackendError, InputError

if TYPE_CHECKING:
    from camrt.engine.tensorrt_plans.build import Precision

__all__ = ["Backend", "Runner", "make_onnx_runtime", "make_runtime"]

TENSORRT_BACKENDS = ("tensorrt", "tensorrt-rtx")
BACKENDS = ("onnxruntime", "openvino", *HOST_PROVIDERS, "onnxruntime-tensorrt", *TENSORRT_BACKENDS)


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

    def allocate_rows(self, shape: tuple[int, ...]) -> Any:
        """An array to be written and then given to the runner, in the float type that it computes in."""
        ...

    def __call__(
        self, batch: Any, fetch: Sequence[str] | None = None, extra_inputs: Mapping[str, Any] | None = None
    ) -> list[Any]:
        """Runs the graph on a batch and returns the outputs named by `fetch` (None: all of them).

        Args:
            batch: The graph's first input.
            fetch: Names of outputs.
            extra_inputs: Its other inputs by name, each with a row a row of `batch`.
        """
        ...


class Backend(Protocol):
    """What makes runners.

    Attributes:
        name: Its name.
        precision: What graphs are made to compute in; None leaves them as they are.
        supports_scatter_add: Whether it has a ScatterElements that adds.
        splits_last_layer: Whether the last layer of a head is a graph of its own, so that a logit is its own
            row alone; False where what is asked for is told only by waiting for a device, or where graphs
            are made ready beforehand.
        device: The device that its runners' inputs and outputs are on.
        first_run_tolerance: How far the first answers of its runners may be from ONNX Runtime's on the CPU,
            see `camrt.engine.runtime.first_run`; None where they are not compared.
    """

    name: str
    precision: Precision | None
    first_run_tolerance: float | None
    supports_scatter_add: bool
    splits_last_layer: bool
    device: Device

    def make_runner(self, model: onnx.ModelProto, *, label: str, batch: int | None = None) -> Runner:
        """Makes a graph ready to run.

        Args:
            model: The graph, with one input.
            label: What the graph is, for error messages.
            batch: Fixed batch size of the graph; None when it is open.
        """
        ...


def make_runtime(
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
    if name == "openvino":
        return make_openvino_runtime(device, threads, plans, precision)
    if device != "cpu" and device != "cuda" and not device.startswith("cuda:"):
        raise BackendError(f"device={device!r} must be 'cpu', 'cuda' or 'cuda:N'")
    if name in TENSORRT_BACKENDS:
        return make_tensorrt_runtime(name, device, plans, model, precision)
    if plans is not None and name != "onnxruntime-tensorrt":
        raise InputError(f"plans= is TensorRT's, and means nothing to backend={name!r}")
    if name in HOST_PROVIDERS and device != "cpu":
        raise BackendError(f"backend={name!r} takes arrays of the host: leave device= out")
    if device != "cpu":
        list_cuda_devices()  # before torch, or anything of CUDA's, is imported
        with require_torch(name):
            import torch

            from camrt.engine.runtime.ort_gpu import OnnxRuntimeGpu
            from camrt.engine.tensorrt_plans.build import check_precision
        provider: Literal["cuda", "tensorrt"] = "tensorrt" if name == "onnxruntime-tensorrt" else "cuda"
        kind = None if precision is None else check_precision(precision)
        return OnnxRuntimeGpu(provider, torch.device(device), precision=kind, cache=plans)
    if name == "onnxruntime-tensorrt":
        raise BackendError(f"backend={name!r} runs on a GPU: pass device='cuda' or 'cuda:N'")
    if precision not in (None, "fp32"):
        from camrt.engine.tensorrt_plans.build import check_precision

        check_precision(precision)
        raise InputError(
            f"precision={precision!r} is for a GPU, or for backend='openvino': ONNX Runtime on the CPU runs "
            "a file as it is"
        )
    return make_onnx_runtime(threads=threads, backend=name)


def make_onnx_runtime(
    *, threads: int | None, few_runs: bool = False, backend: str = "onnxruntime"
) -> Backend:
    """ONNX Runtime on the CPU; see `camrt.engine.runtime.ort_cpu.OnnxRuntime`."""
    from camrt.engine.runtime.ort_cpu import OnnxRuntime

    return OnnxRuntime(threads=threads, few_runs=few_runs, backend=backend)


def make_openvino_runtime(
    device: str, threads: int | None, plans: str | os.PathLike[str] | None, precision: str | None
) -> Backend:
    """OpenVINO; see `camrt.engine.runtime.openvino.OpenVino`.

    Raises:
        BackendError: It is missing, or has no such device here, or that does not compute so.
        InputError: An option that means nothing to it.
    """
    from camrt.engine.runtime.openvino import OpenVino

    if plans is not None:
        raise InputError("plans= is TensorRT's, and means nothing to backend='openvino'")
    return OpenVino(device=device, threads=threads, precision=precision)


def make_tensorrt_runtime(
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
    from camrt.engine.tensorrt_plans.bindings import import_bindings
    from camrt.engine.tensorrt_plans.store import PlanStore

    if plans is None:
        raise BackendError(
            f"backend={flavour!r} runs plans that were built before: build them with camrt export MODEL --to "
            f"{flavour} --out FOLDER, and pass plans=FOLDER"
        )
    if device == "cpu":
        raise BackendError(f"plans run on a GPU: pass device='cuda' or 'cuda:N', not {device!r}")
    trt = import_bindings(flavour, running=True)
    folder = PlanStore.open(plans, model, trt, precision)
    with require_torch(flavour):
        from camrt.engine.runtime.trt import TensorRT
    return TensorRT(folder, trt, device)


@contextmanager
def require_torch(name: str) -> Iterator[None]:
    """Says what is missing where torch is."""
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        extra = name if name in TENSORRT_BACKENDS else "gpu"
        raise BackendError(
            f"on a GPU camrt works with torch's tensors, and torch is missing: pip install 'camrt[{extra}]'"
        ) from None
