"""TensorRT, running plans that were built before (`camrt.engine.tensorrt_plans`), on torch's memory."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import onnx
import torch

from camrt.engine.arrays import concat
from camrt.engine.device import Device, TorchDevice, check_gpu
from camrt.engine.runtime.batch_splitting import OomSplitter
from camrt.engine.runtime.run_sharing import shareable
from camrt.engine.tensorrt_plans.bindings import Bindings, TensorRTModule
from camrt.engine.tensorrt_plans.build import Precision
from camrt.engine.tensorrt_plans.store import PlanStore
from camrt.errors import BackendError

if TYPE_CHECKING:
    from camrt.engine.tensorrt_plans.bindings import tensorrt_rtx_bindings as api

__all__ = ["ALIGNMENT", "TensorRT", "TensorRTRunner", "numbered_cuda_device"]

ALIGNMENT = 256
"""Bytes that TensorRT wants addresses to be a multiple of; what torch allocates on a GPU is."""


class TensorRT:
    """Makes runners of the plans in a folder.

    Args:
        folder: The plans.
        trt: TensorRT, on a machine with a card.
        device: "cuda", or "cuda:N" for card N.

    Raises:
        BackendError: torch, whose memory plans run on, sees no such card.
    """

    supports_scatter_add = False
    splits_last_layer = False
    precision: Precision | None = None  # plans have the one that they were built with
    first_run_tolerance: float | None = None

    def __init__(self, folder: PlanStore, trt: Bindings, device: str) -> None:
        self.name: str = trt.flavour
        self._folder = folder
        self._trt = trt.module
        self._device = numbered_cuda_device(device)
        self.device: Device = TorchDevice(self._device)
        self._logger = trt.module.Logger(trt.module.Logger.ERROR)
        self._runtime = trt.module.Runtime(self._logger)

    def make_runner(self, model: onnx.ModelProto, *, label: str, batch: int | None = None) -> TensorRTRunner:
        """Makes the plan of a graph ready to run.

        Raises:
            BackendError: The folder has none, or TensorRT refuses it.
        """
        plan = self._folder.read_plan(model, label)
        with torch.cuda.device(self._device):
            engine = self._runtime.deserialize_cuda_engine(plan)
            context = None if engine is None else engine.create_execution_context()
        if engine is None or context is None:
            raise BackendError(f"TensorRT refuses the plan of the {label}: build it again with camrt export")
        return TensorRTRunner(self._trt, engine, context, model, label, self._device)


class TensorRTRunner:
    """One plan; safe to call from several threads and on any of torch's streams.

    Runs are queued on a stream of the runner's own, since on the default one TensorRT waits for the device at
    every run. So they follow one another, as they must: a plan has one working memory. That stream waits for
    what the caller's stream holds, and the caller's waits for the run. Torch gives freed memory away again in
    the order of the stream it was allocated on, the caller's, and so not before the run has ended.

    Args:
        trt: TensorRT.
        engine: The plan.
        context: What runs it.
        model: The graph it was built of, whose names it has.
        label: What it is, for error messages.
        device: The card, numbered.
    """

    def __init__(
        self,
        trt: TensorRTModule,
        engine: api.ICudaEngine,
        context: api.IExecutionContext,
        model: onnx.ModelProto,
        label: str,
        device: torch.device,
    ) -> None:
        kinds = {
            trt.DataType.FLOAT: torch.float32,
            trt.DataType.HALF: torch.float16,
            trt.DataType.BF16: torch.bfloat16,
        }
        names = [engine.get_tensor_name(number) for number in range(engine.num_io_tensors)]
        self._context = context
        self._label = label
        self._device = device
        self._lock = threading.Lock()
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._kinds = {name: kinds[engine.get_tensor_dtype(name)] for name in names}
        self._inputs = [name for name in names if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT]
        self._first = model.graph.input[0].name
        self.outputs = tuple(value.name for value in model.graph.output)
        self._halving = OomSplitter(label, (torch.OutOfMemoryError,), torch.cuda.empty_cache)
        fixed = engine.get_tensor_shape(self._first)[0]
        if fixed < 0:
            least, _, most = engine.get_tensor_profile_shape(self._first, 0)
            self._least, self._most = least[0], most[0]
        else:
            self._least = self._most = fixed

    def allocate_rows(self, shape: tuple[int, ...]) -> torch.Tensor:
        """Allocates a buffer for rows that this runner is given."""
        return torch.empty(shape, dtype=self._kinds[self._first], device=self._device)

    @shareable
    def __call__(
        self,
        batch: torch.Tensor,
        fetch: Sequence[str] | None = None,
        extra_inputs: Mapping[str, torch.Tensor] | None = None,
    ) -> list[torch.Tensor]:
        """Queues a batch, in pieces of as many rows as the plan takes; see `camrt.engine.runtime.Runner`.

        Args:
            batch: On the device, of any float type.
            fetch: Names of outputs.
            extra_inputs: Likewise.

        Raises:
            BackendError: TensorRT failed, or a tensor lies elsewhere.
        """
        names = list(fetch) if fetch is not None else list(self.outputs)
        feeds = {self._first: batch, **(extra_inputs or {})}

        def run(start: int, end: int) -> list[torch.Tensor]:
            return self._run({name: values[start:end] for name, values in feeds.items()}, names)

        if len(batch) == 0:
            return run(0, 0)
        pieces = self._halving.run_in_pieces(len(batch), run, most=self._most)
        return [concat(parts) for parts in zip(*pieces, strict=True)]

    def _run(self, feeds: Mapping[str, torch.Tensor], names: list[str]) -> list[torch.Tensor]:
        count = len(feeds[self._first])
        rows = max(count, self._least)  # the plan takes no fewer
        with self._lock, torch.cuda.device(self._device):
            held = {name: self._taken(name, feeds[name], rows) for name in self._inputs}
            for name, values in held.items():
                self._demand(self._context.set_input_shape(name, tuple(values.shape)))
            for name in self.outputs:  # those that nobody asked for need memory too
                shape = tuple(self._context.get_tensor_shape(name))
                held[name] = torch.empty(shape, dtype=self._kinds[name], device=self._device)
            for name, values in held.items():
                self._demand(self._context.set_tensor_address(name, values.data_ptr()))
            current = torch.cuda.current_stream()
            self._stream.wait_stream(current)
            queued = self._context.execute_async_v3(self._stream.cuda_stream)
            current.wait_stream(self._stream)
            self._demand(queued)
            return [held[name][:count].float() for name in names]

    def _taken(self, name: str, values: torch.Tensor, rows: int) -> torch.Tensor:
        """An input as the plan takes it: of its type, contiguous, aligned, and of so many rows or more."""
        if values.device != self._device:
            raise BackendError(
                f"{name!r} of the {self._label} lies on {values.device}, and its plan runs on "
                f"{self._device}: put it there first"
            )
        if len(values) < rows:
            padded = torch.zeros((rows, *values.shape[1:]), dtype=self._kinds[name], device=self._device)
            padded[: len(values)] = values
            return padded
        taken = values.to(self._kinds[name]).contiguous()
        return taken.clone() if taken.data_ptr() % ALIGNMENT else taken

    def _demand(self, done: bool) -> None:
        if not done:
            raise BackendError(f"TensorRT failed while running the {self._label}")


def numbered_cuda_device(device: str) -> torch.device:
    """A card by its number: for "cuda", the one that is torch's current device now.

    Raises:
        BackendError: torch sees no such card.
    """
    check_gpu()
    try:
        named = torch.device(device)
    except RuntimeError as error:
        raise BackendError(f"torch knows no device {device!r}: pass 'cuda' or 'cuda:N'") from error
    number = torch.cuda.current_device() if named.index is None else named.index
    if number >= torch.cuda.device_count():
        raise BackendError(
            f"there is no {device!r}: this torch sees {torch.cuda.device_count()} GPUs, numbered from 0"
        )
    return torch.device("cuda", number)
