"""ONNX Runtime on a GPU: its CUDA and TensorRT providers, on tensors that stay there."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Literal, TypeAlias

import onnx
import onnxruntime as ort
import torch
from onnx import TensorProto
from torch.utils.dlpack import from_dlpack

from camrt.engine.arrays import concat, pad_rows
from camrt.engine.device import Device, TorchDevice
from camrt.engine.runtime.arenas import OUT_OF_MEMORY
from camrt.engine.runtime.batch_splitting import OomSplitter
from camrt.engine.runtime.deadline import stop_at_deadline
from camrt.engine.runtime.ort_cpu import FAILURES, SEVERITY_ERROR
from camrt.engine.runtime.ort_sessions import (
    CUDA,
    TENSORRT,
    LockedSession,
    Providers,
    StreamSessions,
    check_built,
    cuda_provider,
    tensorrt_provider,
)
from camrt.engine.runtime.run_sharing import shareable
from camrt.engine.runtime.trt import ALIGNMENT, numbered_cuda_device
from camrt.engine.tensorrt_plans.build import Precision, cast_to_precision, check_precision
from camrt.engine.tensorrt_plans.cuda_devices import list_cuda_devices
from camrt.errors import BackendError, InputError
from camrt.export.onnx_sessions import describe_failure
from camrt.kernels.tensor_checks import HALVES

__all__ = ["OnnxRuntimeGpu", "OnnxRuntimeGpuRunner"]

Provider: TypeAlias = Literal["cuda", "tensorrt"]

ELEMENT_TYPES: Mapping[str, tuple[int, torch.dtype]] = {
    "tensor(float)": (TensorProto.FLOAT, torch.float32),
    "tensor(float16)": (TensorProto.FLOAT16, torch.float16),
    "tensor(bfloat16)": (TensorProto.BFLOAT16, torch.bfloat16),
    "tensor(double)": (TensorProto.DOUBLE, torch.float64),
    "tensor(int64)": (TensorProto.INT64, torch.int64),
    "tensor(int32)": (TensorProto.INT32, torch.int32),
    "tensor(bool)": (TensorProto.BOOL, torch.bool),
}
DEFAULT_STREAM = 1
"""CUDA's own number for the default stream. onnxruntime takes 0 for no stream, and then makes one of its own,
which waits for nothing that torch has queued."""
NO_SYNCHRONIZE = "disable_synchronize_execution_providers"


class OnnxRuntimeGpu:
    """Makes runners on ONNX Runtime's CUDA provider, or on its TensorRT provider.

    Nothing is computed on the CPU but sizes: a graph with an operator that the provider does not take is
    refused. ONNX Runtime itself counts there (`counting`), since it has sizes there.

    The TensorRT provider leaves what TensorRT does not take to CUDA's. It builds its engines at the first run
    of a graph and whenever the range of batch sizes grows, which takes a while; and where a part of a graph
    is CUDA's, it waits for the device after its own. The CUDA provider computes float32 as such; TensorRT
    rounds what it multiplies to TensorFloat-32, unless the environment has NVIDIA_TF32_OVERRIDE=0.

    Args:
        provider: "cuda" or "tensorrt".
        device: A card; the one that is torch's current device where it has no number.
        precision: What graphs compute in, those of gradients excepted, which keep float32; None leaves them
            as they are.
        cache: Folder that TensorRT's engines are kept in, for the same graph and card.

    Attributes:
        name: "onnxruntime" or "onnxruntime-tensorrt".
        precision: As given.

    Raises:
        InputError: An option makes no sense.
        BackendError: There is no card, or ONNX Runtime or torch was built without CUDA.
    """

    supports_scatter_add = True
    splits_last_layer = False
    first_run_tolerance: float | None = None

    def __init__(
        self,
        provider: Provider,
        device: torch.device,
        *,
        precision: Precision | None = None,
        cache: str | os.PathLike[str] | None = None,
    ) -> None:
        if provider not in ("cuda", "tensorrt"):
            raise InputError(f"onnxruntime has no provider {provider!r}; choose from 'cuda', 'tensorrt'")
        if device.type != "cuda":
            raise InputError(f"onnxruntime's {provider} provider runs on a GPU, not on {str(device)!r}")
        if precision is not None:
            check_precision(precision)
        if cache is not None and provider != "tensorrt":
            raise InputError("cache= keeps TensorRT's engines: it means nothing with the CUDA provider")
        list_cuda_devices()
        check_built((CUDA,) if provider == "cuda" else (TENSORRT, CUDA))
        self.name = "onnxruntime" if provider == "cuda" else "onnxruntime-tensorrt"
        self.precision: Precision | None = precision
        self._device = numbered_cuda_device(str(device))
        self.device: Device = TorchDevice(self._device)
        self._provider = provider
        self._cache = None if cache is None else os.fspath(cache)

    def make_runner(
        self, model: onnx.ModelProto, *, label: str, batch: int | None = None
    ) -> OnnxRuntimeGpuRunner:
        """Makes a graph ready to run on torch's current stream; on another one it is made ready when it runs.

        Raises:
            DeadlineError: The call at hand has taken too long (`camrt.export.budget`).
            BackendError: The runtime refuses the graph, the provider's libraries are missing, or the provider
                does not take every operator.
        """
        graph = model if self.precision is None else cast_to_precision(model, self.precision)
        sessions = StreamSessions(graph, label, self._providers)
        return OnnxRuntimeGpuRunner(sessions, label, batch, self._device)

    def _providers(self, stream: int) -> Providers:
        number = str(self._device.index)
        return (
            cuda_provider(number, stream)
            if self._provider == "cuda"
            else tensorrt_provider(number, stream, self._cache)
        )


class OnnxRuntimeGpuRunner:
    """One graph; safe to call from several threads and on any of torch's streams.

    Args:
        sessions: The graph's sessions.
        label: What it is, for error messages.
        batch: Its fixed batch size; None when it is open.
        device: Where its tensors lie.
    """

    def __init__(
        self,
        sessions: StreamSessions,
        label: str,
        batch: int | None,
        device: torch.device,
    ) -> None:
        self._sessions = sessions
        self._label = label
        self._batch = batch
        self._device = device
        with self._current():
            session = sessions.session_for(current_stream(device)).session
        self._inputs = {value.name: self._kind(value.name, value.type) for value in session.get_inputs()}
        self._first = next(iter(self._inputs))
        self.outputs = tuple(output.name for output in session.get_outputs())
        self._halving = OomSplitter(
            label, (_OutOfMemoryError, torch.OutOfMemoryError), torch.cuda.empty_cache
        )

    def allocate_rows(self, shape: tuple[int, ...]) -> torch.Tensor:
        """Allocates a buffer for rows that this runner is given."""
        return torch.empty(shape, dtype=self._inputs[self._first][1], device=self._device)

    @shareable
    def __call__(
        self,
        batch: torch.Tensor,
        fetch: Sequence[str] | None = None,
        extra_inputs: Mapping[str, torch.Tensor] | None = None,
    ) -> list[torch.Tensor]:
        """Queues a batch; a graph with a fixed batch size is run in pieces, the last one padded.

        The whole graph is run whatever is fetched: `RunOptions.only_execute_path_to_fetches` does nothing but
        in onnxruntime's builds for training.

        Args:
            batch: On the device, of any float type.
            fetch: Names of outputs; half types are given as float32.
            extra_inputs: Likewise.

        Raises:
            DeadlineError: The call at hand has taken too long (`camrt.export.budget`), queueing included.
            BackendError: The runtime failed, or a tensor lies elsewhere.
        """
        names = list(fetch) if fetch is not None else list(self.outputs)
        feeds = {self._first: batch, **(extra_inputs or {})}
        for name, values in feeds.items():
            if values.device != self._device:
                raise BackendError(
                    f"{name!r} of the {self._label} lies on {values.device}, and it runs on {self._device}: "
                    "put it there first"
                )

        def run(start: int, end: int) -> list[torch.Tensor]:
            return self._run({name: values[start:end] for name, values in feeds.items()}, names)

        with self._current():
            if len(batch) == 0:
                return run(0, 0)
            pieces = (
                self._halving.run_in_pieces(len(batch), run)
                if self._batch is None
                else self._fixed_pieces(len(batch), run, self._batch)
            )
            return [concat(parts) for parts in zip(*pieces, strict=True)]

    def _fixed_pieces(
        self, count: int, run: Callable[[int, int], list[torch.Tensor]], size: int
    ) -> list[list[torch.Tensor]]:
        try:
            return [run(start, min(start + size, count)) for start in range(0, count, size)]
        except (_OutOfMemoryError, torch.OutOfMemoryError) as error:
            raise BackendError(
                f"the device's memory does not hold the {size} rows that the {self._label} takes at once: "
                f"{error}"
            ) from error

    def _run(self, feeds: Mapping[str, torch.Tensor], names: list[str]) -> list[torch.Tensor]:
        where = self._device.type, self._device.index or 0
        count = len(feeds[self._first])
        own = self._sessions.session_for(current_stream(self._device))
        binding = own.session.io_binding()
        # Torch may give the memory of these away again once they are freed, but only to what is queued on the
        # same stream behind the run.
        held = {name: self._taken(name, values) for name, values in feeds.items()}
        for name, values in held.items():
            element, _ = self._inputs[name]
            binding.bind_input(name, *where, element, tuple(values.shape), values.data_ptr())
        fetched = list(dict.fromkeys(names))
        for name in fetched:
            binding.bind_output(name, *where)
        options = ort.RunOptions()
        options.log_severity_level = SEVERITY_ERROR + 1
        options.add_run_config_entry(NO_SYNCHRONIZE, "1")
        self._queue(own, binding, options)
        found = dict(zip(fetched, map(to_torch_tensor, binding.get_outputs()), strict=True))
        return [found[name][:count] if self._batch is not None else found[name] for name in names]

    def _queue(self, own: LockedSession, binding: ort.IOBinding, options: ort.RunOptions) -> None:
        def stop() -> None:
            options.terminate = True

        try:
            with own.lock, stop_at_deadline(stop):
                own.session.run_with_iobinding(binding, options)
        except FAILURES as error:
            if OUT_OF_MEMORY.search(str(error)):
                raise _OutOfMemoryError(str(error)) from error
            raise BackendError(
                f"onnxruntime failed while running the {self._label}: {describe_failure(error)}"
            ) from error

    def _taken(self, name: str, values: torch.Tensor) -> torch.Tensor:
        """An input as the graph takes it: of its type, contiguous, aligned, and of as many rows."""
        taken = values.to(self._inputs[name][1]).contiguous()
        if self._batch is not None and len(taken):
            taken = pad_rows(taken, self._batch)
        return taken.clone() if taken.data_ptr() % ALIGNMENT else taken

    def _kind(self, name: str, kind: str) -> tuple[int, torch.dtype]:
        if kind not in ELEMENT_TYPES:
            raise BackendError(f"{name!r} of the {self._label} is a {kind}, which cannot be run on a device")
        return ELEMENT_TYPES[kind]

    def _current(self) -> AbstractContextManager[object]:
        """Torch's current device is this one: onnxruntime makes it CUDA's, and leaves it so."""
        return torch.cuda.device(self._device) if self._device.type == "cuda" else nullcontext()


class _OutOfMemoryError(Exception):
    """ONNX Runtime found too little memory on the device."""


def current_stream(device: torch.device) -> int:
    """CUDA's handle of torch's current stream; 0 where there are no streams."""
    if device.type != "cuda":
        return 0
    return int(torch.cuda.current_stream(device).cuda_stream) or DEFAULT_STREAM


def to_torch_tensor(value: ort.OrtValue) -> torch.Tensor:
    """An output as a tensor on its memory, which it keeps; half types are cast to float32."""
    found: torch.Tensor = from_dlpack(value)
    if value.data_type() == "tensor(bool)":  # given as uint8
        return found.view(torch.bool)
    return found.float() if found.dtype in HALVES else found
