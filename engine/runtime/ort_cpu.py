"""ONNX Runtime on the CPU."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
from onnxruntime.capi import onnxruntime_pybind11_state as states

from camrt.engine.device import NUMPY_DEVICE
from camrt.engine.runtime.arenas import (
    OUT_OF_MEMORY,
    Arena,
    count_folded_results,
    limit_constant_folding,
    register_arena,
    weight_bytes,
)
from camrt.engine.runtime.deadline import call_after
from camrt.engine.runtime.host_runner import HostRunner
from camrt.engine.runtime.ort_providers import HOST_PROVIDERS, check_provider
from camrt.engine.runtime.worker_threads import run_with_deadline
from camrt.errors import BackendError
from camrt.export.adjoint import is_gradient
from camrt.export.budget import allowed_memory, memory_limit_error, seconds_left
from camrt.export.graph.held_weights import is_held_type, tensor_values
from camrt.export.onnx_sessions import CPU_ONLY, describe_failure, open_session
from camrt.kernels.processors import usable_processors

if TYPE_CHECKING:
    from camrt.engine.tensorrt_plans.build import Precision

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
FIRST_RUN_TOLERANCE = 1e-2  # of other providers: see `camrt.engine.runtime.openvino`
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
        if not is_held_type(tensor):
            graph.initializer.append(tensor)
            continue
        values = np.ascontiguousarray(tensor_values(tensor))
        stub = graph.initializer.add(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
        stub.data_location = onnx.TensorProto.EXTERNAL
        stub.external_data.add(key="location", value="held by the caller")
        stub.external_data.add(key="length", value=str(values.nbytes))
        names.append(tensor.name)
        arrays.append(values)
    held = tuple(ort.OrtValue.ortvalue_from_numpy(values) for values in arrays)
    return ExternalWeights(light, tuple(names), held)


class OnnxRuntime:
    """Makes runners on ONNX Runtime's CPU provider, or on another one that takes arrays of the host.

    Args:
        threads: Threads within an operator; None lets the runtime choose.
        few_runs: Whether its graphs are run a few times only: weights are then left as they are, which makes
            a graph ready sooner, rather than laid out anew for speed.
        backend: "onnxruntime", or a name of `HOST_PROVIDERS`.

    Attributes:
        name: The backend.

    Raises:
        BackendError: This ONNX Runtime does not have the provider.
    """

    supports_scatter_add = True
    splits_last_layer = True
    device = NUMPY_DEVICE
    precision: Precision | None = None

    def __init__(
        self, *, threads: int | None = None, few_runs: bool = False, backend: str = "onnxruntime"
    ) -> None:
        self.name = backend
        self.provider = HOST_PROVIDERS.get(backend)
        self.first_run_tolerance = None if self.provider is None else FIRST_RUN_TOLERANCE
        if self.provider is not None:
            check_provider(self.provider)
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
        held = externalize_weights(model)
        data = held.model.SerializeToString()
        folded, weights = count_folded_results(model), weight_bytes(model)

        def make(threads: int | None) -> ArenaSession:
            options = ort.SessionOptions()
            options.log_severity_level = SEVERITY_ERROR
            usable = usable_processors()
            if threads is not None or usable < (os.cpu_count() or 1):  # which is what onnxruntime looks at
                options.intra_op_num_threads = usable if threads is None else threads
            # Threads that wait by turning in circles take processors from the next session: trunk, head,
            # adjoint. An adjoint's many short steps are faster without any of that.
            options.add_session_config_entry("session.force_spinning_stop", "1")
            if is_gradient(model):
                options.add_session_config_entry("session.intra_op.allow_spinning", "0")
            if self.few_runs:
                options.add_session_config_entry("session.disable_prepacking", "1")
            held.add_to_options(options)
            providers: list[Any] = list(CPU_ONLY)
            if self.provider is not None:
                providers.insert(0, (self.provider.name, self.provider.options(threads)))
                options.enable_mem_pattern = self.provider.memory_pattern
            limit_constant_folding(options, folded)
            limit = allowed_memory() + 2 * weights  # which may be laid out anew
            try:
                with register_arena(limit) as arena:
                    arena.add_to_options(options)
                    session = run_with_deadline(
                        lambda: open_session(data, options, providers),
                        lambda: options.set_load_cancellation_flag(True),
                    )
            except FAILURES as error:
                if OUT_OF_MEMORY.search(str(error)):
                    raise memory_limit_error(f"to make the {label} ready") from error
                raise BackendError(f"onnxruntime refuses the {label}: {describe_failure(error)}") from error
            if self.provider is not None:
                check_provider(self.provider, session.get_providers())
            return ArenaSession(session, arena, label, threads)

        return OnnxRuntimeRunner(make, label, batch, self.threads)


class ArenaSession:
    """A session, and the arena that it has its memory in; see `camrt.engine.runtime.host_runner.HostSession`.

    Args:
        session: It.
        arena: The arena.
        label: What the graph is, for error messages.
        threads: Threads within an operator; None lets the runtime choose.
    """

    def __init__(self, session: ort.InferenceSession, arena: Arena, label: str, threads: int | None) -> None:
        self.session = session
        self.arena = arena
        self.input: str = session.get_inputs()[0].name
        self.outputs = tuple(output.name for output in session.get_outputs())
        self._label = label
        self._threads = threads
        # By what is fetched, bytes of the largest batch that was quick: only what may take long is worth
        # another thread.
        self._quick: dict[tuple[str, ...], int] = {}

    @property
    def survives_fork(self) -> bool:
        """Whether a child can go on with it: it has no threads, and nobody runs it."""
        return self._threads == 1 and not self.arena.runs

    def release_unused(self) -> None:
        """Gives back what no run is using."""
        self.arena.release_unused()

    def run(self, feeds: Mapping[str, npt.NDArray[Any]], names: list[str]) -> list[npt.NDArray[Any]]:
        """See `camrt.engine.runtime.host_runner.HostSession`."""
        options = ort.RunOptions()
        options.log_severity_level = SEVERITY_ERROR + 1
        options.only_execute_path_to_fetches = len(names) < len(self.outputs)

        def run() -> list[npt.NDArray[Any]]:
            with self.arena.in_use():
                outputs: list[npt.NDArray[Any]] = self.session.run(names, feeds, options)
            return outputs

        def stop() -> None:
            options.terminate = True

        fetched, size = tuple(names), next(iter(feeds.values())).nbytes
        try:
            if size <= self._quick.get(fetched, -1):
                # What as large a batch was quick with is in the arena already: nothing grows.
                with call_after(min(seconds_left(), QUICK_TIMEOUT), stop):
                    try:
                        return run()
                    except FAILURES:
                        if not options.terminate:
                            raise
                # What was quick with other numbers is not: run it again, where it can be left.
                self._quick.pop(fetched, None)
                options.terminate = False
            started = time.monotonic()
            with self.arena.watch_memory():
                outputs = run_with_deadline(run, stop)
        except FAILURES as error:
            if OUT_OF_MEMORY.search(str(error)):
                raise memory_limit_error(f"for a run of the {self._label}") from error
            raise BackendError(
                f"onnxruntime failed while running the {self._label}: {describe_failure(error)}"
            ) from error
        if time.monotonic() - started < QUICK_SECONDS:
            self._quick[fetched] = max(size, self._quick.get(fetched, -1))
        return outputs


class OnnxRuntimeRunner(HostRunner[ArenaSession]):
    """One graph in a session of ONNX Runtime; see `HostRunner`."""
