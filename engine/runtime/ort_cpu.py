"""ONNX Runtime on the CPU.

A process that was forked has none of the threads of its parent's sessions, and a session that another thread
was running may hold locks that are never let go of there. So a child runs none of those: what has made them
makes them anew there when they are next needed, of the same graph. They have one thread then, as the workers
of torch's DataLoader have: threads that wait for work by turning in circles, times the number of children,
are slower than none. Sessions without threads that nobody was running are kept, and share their memory.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
from onnxruntime.capi import onnxruntime_pybind11_state as states

from camrt.engine.arrays import concat, pad_rows
from camrt.engine.device import NUMPY_DEVICE
from camrt.engine.runtime.arenas import (
    OUT_OF_MEMORY,
    Arena,
    count_folded_results,
    limit_constant_folding,
    register_arena,
    weight_bytes,
)
from camrt.engine.runtime.batch_splitting import OomSplitter
from camrt.engine.runtime.deadline import call_after
from camrt.engine.runtime.worker_threads import run_with_deadline
from camrt.errors import BackendError, MemoryLimitError, UnsupportedModelError
from camrt.export.budget import allowed_memory, memory_limit_error, reserve_array, seconds_left
from camrt.export.onnx_sessions import open_session
from camrt.kernels.fork_safety import ForkSafeLock, never_free, renew_after_fork

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
    UnicodeDecodeError,  # its message quotes a name of the file's that is no text
)
LARGE_WEIGHT_SIZE = 1 << 14  # numbers: a smaller one is not worth the care
QUICK_SECONDS = 0.01  # seconds: what takes less is run without another thread the next time
QUICK_TIMEOUT = 0.3  # seconds after which it is stopped there, if it does take long
SEVERITY_ERROR = 3  # onnxruntime's severity: what it warns of is no concern of who asks for a map


@dataclass(frozen=True)
class ExternalWeights:
    """A graph whose large weights a session reads where they lie.

    Attributes:
        model: The graph without them.
        names: Their names.
        values: They, which must outlive the session.
    """

    model: onnx.ModelProto
    names: tuple[str, ...]
    values: tuple[ort.OrtValue, ...]

    def add_to_options(self, options: ort.SessionOptions) -> None:
        """Hands them to the session that these options are for."""
        if self.names:
            options.add_external_initializers(list(self.names), list(self.values))


def externalize_weights(model: onnx.ModelProto) -> ExternalWeights:
    """Takes a graph's large float32 weights out of it, for sessions that read them where they lie.

    They are neither written out, nor read back, nor copied once more. The graph itself is not changed.
    """
    light = onnx.ModelProto(ir_version=model.ir_version)
    light.opset_import.extend(model.opset_import)
    light.functions.extend(model.functions)
    graph = light.graph
    graph.name = model.graph.name
    for field in ("node", "input", "output", "value_info", "sparse_initializer"):
        getattr(graph, field).extend(getattr(model.graph, field))
    names: list[str] = []
    arrays: list[npt.NDArray[Any]] = []
    for tensor in model.graph.initializer:
        if tensor.data_type != onnx.TensorProto.FLOAT or math.prod(tensor.dims) < LARGE_WEIGHT_SIZE:
            graph.initializer.append(tensor)
            continue
        values = np.ascontiguousarray(onnx.numpy_helper.to_array(tensor))
        stub = graph.initializer.add(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
        stub.data_location = onnx.TensorProto.EXTERNAL
        stub.external_data.add(key="location", value="held by the caller")
        stub.external_data.add(key="length", value=str(values.nbytes))
        names.append(tensor.name)
        arrays.append(values)
    held = tuple(ort.OrtValue.ortvalue_from_numpy(values) for values in arrays)
    return ExternalWeights(light, tuple(names), held)


class OnnxRuntime:
    """Makes runners on ONNX Runtime's CPU provider.

    Args:
        threads: Threads within an operator; None lets the runtime choose.
        few_runs: Whether its graphs are run a few times only: weights are then left as they are, which makes
            a graph ready sooner, rather than laid out anew for speed.
    """

    name = "onnxruntime"
    supports_scatter_add = True
    taps_cell_contributions = True
    device = NUMPY_DEVICE

    def __init__(self, *, threads: int | None = None, few_runs: bool = False) -> None:
        self.threads = threads
        self.few_runs = few_runs

    def make_runner(
        self, model: onnx.ModelProto, *, label: str, batch: int | None = None
    ) -> OnnxRuntimeRunner:
        """Makes a graph ready to run.

        Its runs take no more memory than the call at hand may take, beside the weights.

        Raises:
            DeadlineError: The call at hand has taken too long (`camrt.export.budget`).
            MemoryLimitError: Memory is short.
            BackendError: The runtime refuses the graph.
        """
        held = externalize_weights(model) if self.few_runs else None
        data = (model if held is None else held.model).SerializeToString()
        folded, weights = count_folded_results(model), weight_bytes(model)

        def make(threads: int | None) -> ArenaSession:
            options = ort.SessionOptions()
            options.log_severity_level = SEVERITY_ERROR
            if threads is not None:
                options.intra_op_num_threads = threads
            if held is not None:
                options.add_session_config_entry("session.disable_prepacking", "1")
                held.add_to_options(options)
            limit_constant_folding(options, folded)
            limit = allowed_memory() + 2 * weights  # which may be laid out anew
            try:
                with register_arena(limit) as arena:
                    arena.add_to_options(options)
                    session = run_with_deadline(
                        lambda: open_session(data, options),
                        lambda: options.set_load_cancellation_flag(True),
                    )
            except FAILURES as error:
                if OUT_OF_MEMORY.search(str(error)):
                    raise memory_limit_error(f"to make the {label} ready") from error
                raise BackendError(f"onnxruntime refuses the {label}: {error}") from error
            return ArenaSession(session, arena)

        return OnnxRuntimeRunner(make, label, batch, self.threads)


@dataclass(frozen=True)
class ArenaSession:
    """A session, and the arena that it has its memory in."""

    session: ort.InferenceSession
    arena: Arena


class OnnxRuntimeRunner:
    """One session; safe to call from several threads at once, and in processes that are forked.

    Args:
        make: Makes the session, given its threads: at once, and in a child that cannot use its parent's.
        label: What the graph is, for error messages.
        batch: Fixed batch size of the graph; None when it is open.
        threads: Threads within an operator; None lets the runtime choose.
    """

    def __init__(
        self, make: Callable[[int | None], ArenaSession], label: str, batch: int | None, threads: int | None
    ) -> None:
        self._make = make
        self._threads = threads
        self._made: ArenaSession | None = make(threads)
        self._making = ForkSafeLock()
        self._halving = OomSplitter(label, (MemoryLimitError,), self._empty)
        self._label = label
        self._batch = batch
        # By what is fetched, bytes of the largest batch that was quick: only what may take long is worth
        # another thread.
        self._quick: dict[tuple[str, ...], int] = {}
        session = self._made.session
        self._input = session.get_inputs()[0].name
        self.outputs = tuple(output.name for output in session.get_outputs())
        renew_after_fork(self)

    def renew(self) -> None:
        """Starts anew in a forked child, see `camrt.kernels.fork_safety`."""
        made = self._made
        if made is not None and (self._threads != 1 or made.arena.runs):
            never_free(made)  # what was being run cannot be freed either
            self._made = None
        self._threads = 1

    def _ready(self) -> ArenaSession:
        made = self._made
        if made is None:
            with self._making:
                if self._made is None:
                    self._made = self._make(self._threads)
                made = self._made
        return made

    def _empty(self) -> None:
        self._ready().arena.release_unused()

    def allocate_rows(self, shape: tuple[int, ...]) -> npt.NDArray[Any]:
        """Allocates a buffer for rows that this runner is given."""
        reserve_array(shape, f"rows of the {self._label}")
        return np.empty(shape, np.float32)

    def __call__(
        self,
        batch: npt.NDArray[Any],
        fetch: Sequence[str] | None = None,
        extra_inputs: Mapping[str, npt.NDArray[Any]] | None = None,
    ) -> list[npt.NDArray[Any]]:
        """Runs a batch; a graph with a fixed batch size is run in pieces, the last one padded.

        One with an open batch size is run in pieces where memory does not hold the whole batch.

        Raises:
            DeadlineError: The call at hand has taken too long (`camrt.export.budget`).
            MemoryLimitError: It needs more than it may for a single row.
            BackendError: The runtime failed.
        """
        names = list(fetch) if fetch is not None else list(self.outputs)
        feeds = {self._input: batch, **(extra_inputs or {})}
        if self._batch is None:
            if len(batch) == 0:
                return self._run(feeds, names)
            parts = self._halving.run_in_pieces(
                len(batch),
                lambda start, end: self._run(
                    {name: values[start:end] for name, values in feeds.items()}, names
                ),
            )
            return [concat(check_same_shape(outputs, self._label)) for outputs in zip(*parts, strict=True)]
        pieces = []
        for start in range(0, len(batch), self._batch):
            piece = {
                name: pad_rows(values[start : start + self._batch], self._batch)
                for name, values in feeds.items()
            }
            count = min(self._batch, len(batch) - start)
            pieces.append([output[:count] for output in self._run(piece, names)])
        return [
            np.concatenate(check_same_shape(outputs, self._label)) for outputs in zip(*pieces, strict=True)
        ]

    def _run(self, feeds: Mapping[str, npt.NDArray[Any]], names: list[str]) -> list[npt.NDArray[Any]]:
        try:
            return self._once(feeds, names)
        except MemoryLimitError:  # perhaps for what runs of other sizes left behind
            self._empty()
            return self._once(feeds, names)

    def _once(self, feeds: Mapping[str, npt.NDArray[Any]], names: list[str]) -> list[npt.NDArray[Any]]:
        options = ort.RunOptions()
        options.log_severity_level = SEVERITY_ERROR + 1
        options.only_execute_path_to_fetches = len(names) < len(self.outputs)
        made = self._ready()

        def run() -> list[npt.NDArray[Any]]:
            with made.arena.in_use():
                outputs: list[npt.NDArray[Any]] = made.session.run(names, feeds, options)
            return outputs

        def stop() -> None:
            options.terminate = True

        fetched, size = tuple(names), feeds[self._input].nbytes
        try:
            if size <= self._quick.get(fetched, -1):
                with made.arena.watch_memory(), call_after(min(seconds_left(), QUICK_TIMEOUT), stop):
                    try:
                        return run()
                    except FAILURES:
                        if not options.terminate:
                            raise
                # What was quick with other numbers is not: run it again, where it can be left.
                self._quick.pop(fetched, None)
                options.terminate = False
            started = time.monotonic()
            with made.arena.watch_memory():
                outputs = run_with_deadline(run, stop)
        except FAILURES as error:
            if OUT_OF_MEMORY.search(str(error)):
                raise memory_limit_error(f"for a run of the {self._label}") from error
            raise BackendError(f"onnxruntime failed while running the {self._label}: {error}") from error
        if time.monotonic() - started < QUICK_SECONDS:
            self._quick[fetched] = max(size, self._quick.get(fetched, -1))
        return outputs


def check_same_shape(parts: Sequence[Any], label: str) -> list[Any]:
    """An output of several runs, for so many rows each.

    Raises:
        UnsupportedModelError: It has no rows, or another shape from run to run, as what counts numbers has.
    """
    if len(parts) == 1 and not isinstance(parts[0], np.ndarray):
        return list(parts)  # a sequence or a map, which is no tensor: who reads answers says so
    shapes = {part.shape[1:] if isinstance(part, np.ndarray) and part.ndim else None for part in parts}
    if len(shapes) > 1 or None in shapes:
        raise UnsupportedModelError(
            f"what the {label} gives has another shape for other images ({len(shapes)} shapes), or no "
            "batch axis: no (N, C) class scores come of that"
        )
    return list(parts)
