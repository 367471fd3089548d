"""TensorRT, running plans that were built before (`camrt.engine.plans`), on memory that torch gives it."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import torch

from camrt.engine.backends.halving import Halving
from camrt.engine.backends.onnxruntime import filled
from camrt.engine.plans.bindings import Bindings
from camrt.engine.plans.folder import PlanFolder
from camrt.errors import BackendError

__all__ = ["TensorRT", "TensorRTRunner"]

Array = npt.NDArray[Any]


class TensorRT:
    """Makes runners of the plans in a folder.

    Args:
        folder: The plans.
        trt: TensorRT, on a machine with a card.
        device: "cuda", or "cuda:N" for card N.

    Raises:
        BackendError: torch, whose memory plans run on, sees no card.
    """

    scatters = False

    def __init__(self, folder: PlanFolder, trt: Bindings, device: str) -> None:
        if not torch.cuda.is_available():
            raise BackendError("this torch sees no GPU: install one that is built for CUDA")
        self.name: str = trt.flavour
        self._folder = folder
        self._trt = trt.module
        self._device = torch.device(device)
        self._logger = trt.module.Logger(trt.module.Logger.ERROR)
        self._runtime = trt.module.Runtime(self._logger)

    def runner(self, model: onnx.ModelProto, *, label: str, batch: int | None = None) -> TensorRTRunner:
        """Makes the plan of a graph ready to run.

        Raises:
            BackendError: The folder has none, or TensorRT refuses it.
        """
        plan = self._folder.plan(model, label)
        with torch.cuda.device(self._device):
            engine = self._runtime.deserialize_cuda_engine(plan)
            context = None if engine is None else engine.create_execution_context()
        if context is None:
            raise BackendError(f"TensorRT refuses the plan of the {label}: build it again with camrt export")
        return TensorRTRunner(self._trt, engine, context, label, self._device)


class TensorRTRunner:
    """One plan; safe to call from several threads, one of which runs at a time."""

    def __init__(self, trt: Any, engine: Any, context: Any, label: str, device: Any) -> None:
        self._context = context
        self._label = label
        self._device = device
        self._lock = threading.Lock()
        kinds = {
            trt.DataType.FLOAT: torch.float32,
            trt.DataType.HALF: torch.float16,
            trt.DataType.BF16: torch.bfloat16,
        }
        names = [engine.get_tensor_name(number) for number in range(engine.num_io_tensors)]
        self._kinds = {name: kinds[engine.get_tensor_dtype(name)] for name in names}
        given = [name for name in names if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT]
        self.outputs = tuple(name for name in names if name not in given)
        self._first = given[0]
        self._inputs = given
        self._halving = Halving(label, (torch.OutOfMemoryError,), torch.cuda.empty_cache)
        self._least, _, self._most = (shape[0] for shape in engine.get_tensor_profile_shape(given[0], 0))

    def __call__(
        self, batch: Array, fetch: Sequence[str] | None = None, beside: Mapping[str, Array] | None = None
    ) -> list[Array]:
        """Runs a batch, in pieces of as many rows as the plan takes; see `camrt.engine.backends.Runner`.

        Raises:
            BackendError: TensorRT failed.
        """
        names = list(fetch) if fetch is not None else list(self.outputs)
        feeds = {self._first: batch, **(beside or {})}

        def run(start: int, end: int) -> list[Array]:
            return self._run({name: values[start:end] for name, values in feeds.items()}, names)

        pieces = self._halving.pieces(len(batch), run, most=self._most)
        return [np.concatenate(parts) if len(parts) > 1 else parts[0] for parts in zip(*pieces, strict=True)]

    def _run(self, feeds: Mapping[str, Array], names: list[str]) -> list[Array]:
        count = len(feeds[self._first])
        rows = max(count, self._least)
        with self._lock, torch.cuda.device(self._device):
            stream = torch.cuda.current_stream()
            held = {}
            for name in self._inputs:
                values = filled(feeds[name], rows)  # the plan takes no fewer
                held[name] = torch.from_numpy(np.ascontiguousarray(values)).to(
                    self._device, self._kinds[name]
                )
                self._demand(self._context.set_input_shape(name, tuple(held[name].shape)))
                self._demand(self._context.set_tensor_address(name, held[name].data_ptr()))
            for name in self.outputs:
                shape = tuple(self._context.get_tensor_shape(name))
                held[name] = torch.empty(shape, dtype=self._kinds[name], device=self._device)
                self._demand(self._context.set_tensor_address(name, held[name].data_ptr()))
            self._demand(self._context.execute_async_v3(stream.cuda_stream))
            stream.synchronize()
            return [held[name][:count].float().cpu().numpy() for name in names]

    def _demand(self, done: bool) -> None:
        if not done:
            raise BackendError(f"TensorRT failed while running the {self._label}")
