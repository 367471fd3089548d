"""ONNX Runtime on the CPU."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
from onnxruntime.capi import onnxruntime_pybind11_state as states

from camrt.engine.arrays import filled
from camrt.engine.backends.deadlines import expiring
from camrt.engine.places import HOST
from camrt.errors import BackendError, DeadlineError

__all__ = ["OnnxRuntime", "OnnxRuntimeRunner"]

FAILURES: tuple[type[Exception], ...] = (
    states.EPFail,
    states.Fail,
    states.InvalidArgument,
    states.InvalidGraph,
    states.InvalidProtobuf,
    states.ModelLoadCanceled,
    states.NoModel,
    states.NotImplemented,
    states.RuntimeException,
    RuntimeError,
)
ERRORS_ONLY = 3  # onnxruntime's severity: what it warns of is no concern of who asks for a map


class OnnxRuntime:
    """Makes runners on ONNX Runtime's CPU provider.

    Args:
        threads: Threads within an operator; None lets the runtime choose.
        load_deadline: Seconds a graph may take to be made ready.
        run_deadline: Seconds a single run of a batch may take.
    """

    name = "onnxruntime"
    scatters = True
    taps_cells = True
    place = HOST

    def __init__(
        self,
        *,
        threads: int | None = None,
        load_deadline: float = 60.0,
        run_deadline: float = 600.0,
    ) -> None:
        self.threads = threads
        self.load_deadline = load_deadline
        self.run_deadline = run_deadline

    def runner(self, model: onnx.ModelProto, *, label: str, batch: int | None = None) -> OnnxRuntimeRunner:
        """Makes a graph ready to run.

        Raises:
            DeadlineError: Making it ready took longer than the load deadline.
            BackendError: The runtime refuses the graph.
        """
        options = ort.SessionOptions()
        options.log_severity_level = ERRORS_ONLY
        if self.threads is not None:
            options.intra_op_num_threads = self.threads
        expired: list[bool] = []

        def cancel() -> None:
            expired.append(True)
            options.set_load_cancellation_flag(True)

        late = f"loading the {label} was stopped after the load deadline of {self.load_deadline:g} s"
        started = time.monotonic()
        try:
            with expiring(self.load_deadline, cancel):
                session = ort.InferenceSession(
                    model.SerializeToString(), options, providers=["CPUExecutionProvider"]
                )
        except FAILURES as error:
            if expired:
                raise DeadlineError(late) from error
            raise BackendError(f"onnxruntime refuses the {label}: {error}") from error
        if time.monotonic() - started > self.load_deadline:
            raise DeadlineError(late)
        return OnnxRuntimeRunner(session, label, batch, self.run_deadline)


class OnnxRuntimeRunner:
    """One session; safe to call from several threads at once."""

    def __init__(
        self, session: ort.InferenceSession, label: str, batch: int | None, run_deadline: float
    ) -> None:
        self._session = session
        self._label = label
        self._batch = batch
        self._deadline = run_deadline
        self._input = session.get_inputs()[0].name
        self.outputs = tuple(output.name for output in session.get_outputs())

    def rows(self, shape: tuple[int, ...]) -> npt.NDArray[Any]:
        """See `camrt.engine.backends.Runner`."""
        return np.empty(shape, np.float32)

    def __call__(
        self,
        batch: npt.NDArray[Any],
        fetch: Sequence[str] | None = None,
        beside: Mapping[str, npt.NDArray[Any]] | None = None,
    ) -> list[npt.NDArray[Any]]:
        """Runs a batch; a graph with a fixed batch size is run in pieces, the last one padded.

        Raises:
            DeadlineError: The run took longer than the run deadline.
            BackendError: The runtime failed.
        """
        names = list(fetch) if fetch is not None else list(self.outputs)
        feeds = {self._input: batch, **(beside or {})}
        if self._batch is None:
            return self._run(feeds, names)
        pieces = []
        for start in range(0, len(batch), self._batch):
            piece = {
                name: filled(values[start : start + self._batch], self._batch)
                for name, values in feeds.items()
            }
            count = min(self._batch, len(batch) - start)
            pieces.append([output[:count] for output in self._run(piece, names)])
        return [np.concatenate(outputs) for outputs in zip(*pieces, strict=True)]

    def _run(self, feeds: Mapping[str, npt.NDArray[Any]], names: list[str]) -> list[npt.NDArray[Any]]:
        options = ort.RunOptions()
        options.log_severity_level = ERRORS_ONLY + 1
        options.only_execute_path_to_fetches = len(names) < len(self.outputs)
        expired: list[bool] = []

        def stop() -> None:
            expired.append(True)
            options.terminate = True

        try:
            with expiring(self._deadline, stop):
                outputs: list[npt.NDArray[Any]] = self._session.run(names, feeds, options)
        except FAILURES as error:
            if expired:
                raise DeadlineError(
                    f"running the {self._label} was stopped after the run deadline of {self._deadline:g} s"
                ) from error
            raise BackendError(f"onnxruntime failed while running the {self._label}: {error}") from error
        return outputs
