"""OpenVINO, on the CPU or on another device of Intel's, on NumPy's arrays.

It computes in float32 unless it is told otherwise: where a processor has bfloat16, OpenVINO would take that
by itself. Runs of one graph follow one another.
"""

from __future__ import annotations

import re
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

from camrt.engine.device import NUMPY_DEVICE
from camrt.engine.runtime.arenas import OUT_OF_MEMORY
from camrt.engine.runtime.host_runner import HostRunner
from camrt.engine.runtime.openvino_memory import RunSizes, reserve_constants
from camrt.engine.runtime.worker_threads import run_with_deadline
from camrt.engine.tensorrt_plans.build import Precision, check_precision
from camrt.errors import BackendError, CamrtError
from camrt.export.adjoint import is_gradient
from camrt.export.budget import allowed_memory, memory_limit_error
from camrt.export.graph.traversal import node_label, walk_nodes
from camrt.export.limits import ReadingLimits
from camrt.kernels.fork_safety import block_forks
from camrt.kernels.memory import trim_memory

__all__ = ["OpenVino", "OpenVinoRunner", "import_openvino"]

Array = npt.NDArray[Any]

KINDS: Mapping[Precision, str] = {"fp32": "f32", "fp16": "f16", "bf16": "bf16"}
CAPABILITIES: Mapping[Precision, str] = {"fp32": "FP32", "fp16": "FP16", "bf16": "BF16"}
FIRST_RUN_TOLERANCES: Mapping[Precision, float] = {"fp32": 1e-2, "fp16": 5e-2, "bf16": 0.2}
"""What is read wrongly is off by its own size. In float32 a gradient may be off by 1e-3, where a number
beside zero falls on the other side of it; in bfloat16 the last activations of MobileNets are off by 0.08."""
LACKING_OPERATORS = re.compile("No conversion rule found for operations: (.*)")
PLACES = re.compile(r"Exception from \S+:\d+:|Check '.*' failed at \S+:\d+:")
SHRINK_DIVISOR = 8  # memory is given back after runs that took the bound over this
TELEMETRY = "openvino_telemetry"


class OpenVino:
    """Makes runners on OpenVINO.

    Args:
        device: "cpu", or one of OpenVINO's names: "GPU", "GPU.1", "NPU".
        threads: Threads of a run on the CPU; None lets OpenVINO choose.
        precision: What graphs compute in, those of gradients excepted, which keep float32.

    Attributes:
        name: "openvino", with its version, the precision and the device.
        precision: As given.

    Raises:
        BackendError: OpenVINO is missing, or has no such device here, or that does not compute so.
        InputError: There is no such precision.
    """

    supports_scatter_add = True
    splits_last_layer = True
    device = NUMPY_DEVICE

    def __init__(
        self, *, device: str = "cpu", threads: int | None = None, precision: str | None = None
    ) -> None:
        runtime = import_openvino()
        core = runtime.Core()
        computes = check_precision(precision or "fp32")
        self.precision: Precision | None = computes
        self.first_run_tolerance: float | None = FIRST_RUN_TOLERANCES[computes]
        self._device = device.upper()
        if self._device not in core.available_devices:
            raise BackendError(
                f"OpenVINO has no device {device!r} here; it has {', '.join(core.available_devices)}"
            )
        able = core.get_property(self._device, "OPTIMIZATION_CAPABILITIES")
        if CAPABILITIES[computes] not in able:
            full = core.get_property(self._device, "FULL_DEVICE_NAME")
            raise BackendError(
                f"this {self._device} ({full}) does not compute in {computes}, says OpenVINO: leave "
                "precision= out"
            )
        self.name = f"openvino {runtime.__version__.partition('-')[0]}, {computes} on {self._device}"
        self._kind = KINDS[computes]
        self.threads = threads

    def make_runner(self, model: onnx.ModelProto, *, label: str, batch: int | None = None) -> OpenVinoRunner:
        """Makes a graph ready to run.

        Raises:
            DeadlineError: The call at hand has taken too long (`camrt.export.budget`).
            MemoryLimitError: Memory is short.
            BackendError: OpenVINO refuses the graph, or camrt could not stop it, or bound its memory.
        """
        check_stoppable(model, label)
        data = separate_uses(model).SerializeToString()
        kind = KINDS["fp32"] if is_gradient(model) else self._kind
        constants = {tensor.name for tensor in model.graph.initializer}
        inputs = tuple(value.name for value in model.graph.input if value.name not in constants)
        outputs = tuple(value.name for value in model.graph.output)

        def make(threads: int | None) -> OpenVinoSession:
            options = {"INFERENCE_PRECISION_HINT": kind, "EXECUTION_MODE_HINT": "ACCURACY"}
            if self._device == "CPU":
                # Threads of several processes would be pinned to the same processors.
                options |= {"NUM_STREAMS": "1", "ENABLE_CPU_PINNING": "NO"}
                if threads is not None:
                    options["INFERENCE_NUM_THREADS"] = str(threads)
            runtime = import_openvino()
            core = runtime.Core()

            def compile_graph() -> Any:
                return core.compile_model(core.read_model(data, b""), self._device, options)

            with translate_failures(label, "to make the {} ready", "OpenVINO refuses the {}"):
                graph = run_with_deadline(lambda: core.read_model(data, b""), leave)
                reserve_constants(graph, label)
                compiled = run_with_deadline(compile_graph, leave)
            sizes = RunSizes(graph, runtime.op.Parameter, label)
            shapes = [port.get_partial_shape() for port in compiled.inputs]
            if all(shape[1:].is_static for shape in shapes):
                sizes.reserve([(batch or 1, *map(int, shape[1:].to_shape())) for shape in shapes])
            return OpenVinoSession(compile_graph, compiled, inputs, outputs, sizes, label)

        return OpenVinoRunner(make, label, batch, self.threads)


class OpenVinoSession:
    """A compiled graph; see `camrt.engine.runtime.host_runner.HostSession`.

    A run that was cancelled leaves a compiled graph in a state in which it answers for the rows of that run
    whatever it is given. So runs wait for each other here, and the one after it, or after one that failed,
    compiles the graph again.

    Args:
        compile_graph: Compiles it.
        compiled: What that gave.
        inputs: Names of its inputs, in order.
        outputs: Names of its outputs, in order.
        sizes: What runs of it take.
        label: What it is, for error messages.
    """

    survives_fork = False

    def __init__(
        self,
        compile_graph: Callable[[], Any],
        compiled: Any,
        inputs: tuple[str, ...],
        outputs: tuple[str, ...],
        sizes: RunSizes,
        label: str,
    ) -> None:
        self.input = inputs[0]
        self.outputs = outputs
        self._tensor = import_openvino().Tensor
        self._compile_graph = compile_graph
        self._compiled: Any = compiled  # None when it is to be compiled again
        self._turn = threading.Lock()
        self._kinds = {
            name: port.element_type.to_dtype() for name, port in zip(inputs, compiled.inputs, strict=True)
        }
        self._sizes = sizes
        self._label = label

    def release_unused(self) -> None:
        """Gives back what no run is using."""
        if self._turn.acquire(blocking=False):
            try:
                self._release()
            finally:
                self._turn.release()

    def _release(self) -> None:
        if self._compiled is not None:
            self._compiled.release_memory()
        trim_memory()

    def run(self, feeds: Mapping[str, Array], names: list[str]) -> list[Array]:
        """See `camrt.engine.runtime.host_runner.HostSession`."""
        count = len(feeds[self.input])
        given = [
            np.ascontiguousarray(feeds[name] if count else np.zeros((1, *feeds[name].shape[1:])), kind)
            for name, kind in self._kinds.items()
        ]
        large = self._sizes.reserve([values.shape for values in given]) > allowed_memory() // SHRINK_DIVISOR
        positions = [self.outputs.index(name) for name in names]
        stopped = threading.Event()
        requests: list[Any] = []

        def run() -> list[Array]:
            with self._turn:
                if stopped.is_set():
                    return []  # which nobody waits for
                if self._compiled is None:
                    self._compiled = self._compile_graph()
                # A request that ran fewer rows before writes beyond its memory, where an input is an output.
                request = self._compiled.create_infer_request()
                requests.append(request)
                for number, values in enumerate(given):
                    request.set_input_tensor(number, self._tensor(values, shared_memory=True))
                compiled, self._compiled = self._compiled, None
                request.start_async()
                request.wait()
                found = [request.get_output_tensor(number).data.copy() for number in positions]
                if not stopped.is_set():
                    self._compiled = compiled
                if large:
                    self._release()
                return found

        def stop() -> None:
            stopped.set()
            for request in requests:
                request.cancel()

        with translate_failures(self._label, "for a run of the {}", "OpenVINO failed while running the {}"):
            answers = run_with_deadline(run, stop)
        return answers if count else [answer[:0] for answer in answers]


class OpenVinoRunner(HostRunner[OpenVinoSession]):
    """One graph that OpenVINO has compiled; see `HostRunner`."""


def import_openvino() -> Any:
    """OpenVINO's package.

    When it is imported it tells Google Analytics so, from a process that it forks, unless its telemetry is
    missing; so that is missing while it is imported here.

    Raises:
        BackendError: It is not installed.
    """
    with block_forks():
        silenced = TELEMETRY not in sys.modules
        if silenced:
            sys.modules[TELEMETRY] = None  # type: ignore[assignment]  # Python's own way to say so
        try:
            return import_module("openvino")
        except ModuleNotFoundError as error:
            if error.name != "openvino":
                raise
            raise BackendError("OpenVINO is missing: pip install 'camrt[openvino]'") from None
        finally:
            if silenced:
                del sys.modules[TELEMETRY]


@contextmanager
def translate_failures(label: str, purpose: str, failed: str) -> Iterator[None]:
    """Raises errors of camrt's for those of OpenVINO's.

    Args:
        label: The graph.
        purpose: What memory is short for, where it is.
        failed: What else has failed.

    Raises:
        MemoryLimitError: Memory is short.
        BackendError: Anything else.
    """
    try:
        yield
    except CamrtError:
        raise
    except (RuntimeError, MemoryError) as error:
        if isinstance(error, MemoryError) or OUT_OF_MEMORY.search(str(error)):
            raise memory_limit_error(purpose.format(label)) from error
        lacking = LACKING_OPERATORS.search(str(error))
        said = (
            f"it has no operator {lacking[1].strip()}"
            if lacking
            else " ".join(PLACES.sub("", str(error)).split())
        )
        raise BackendError(f"{failed.format(label)}: {said}; backend='onnxruntime' may run it") from error


def check_stoppable(model: onnx.ModelProto, label: str) -> None:
    """Refuses loops: OpenVINO looks whether to stop between two operators, and a Loop is one.

    Raises:
        BackendError: The graph has one.
    """
    nodes = walk_nodes(model.graph.node, ReadingLimits.max_depth).nodes
    loop = next((node for node in nodes if node.op_type == "Loop"), None)
    if loop is not None:
        raise BackendError(
            f"the {label} has a Loop ({node_label(loop)}), which OpenVINO does not stop when a call is over "
            "its deadline: run the model with backend='onnxruntime'"
        )


def separate_uses(model: onnx.ModelProto) -> onnx.ModelProto:
    """A graph in which each weight is read in one way: another way, as a gradient's, reads a copy of it.

    OpenVINO 2026.4 keeps weights that it has laid out for an operator by their address and the new layout,
    whatever the layout was that they were read in. So of one square matrix, used as it is and transposed, or
    of one kernel with as many channels before as behind, used by a convolution and by the transposed one, the
    second use gets what was made for the first, where the batch is open.
    """
    weights = {tensor.name: tensor for tensor in model.graph.initializer if len(tensor.dims) > 1}
    own = onnx.ModelProto()
    own.CopyFrom(model)
    names: dict[tuple[str, tuple[str, int, int]], str] = {}
    uses: Counter[str] = Counter()
    for node in own.graph.node:
        transposed = next((one.i for one in node.attribute if one.name == "transB"), 0)
        for number, name in enumerate(node.input):
            if name not in weights:
                continue
            use = name, (node.op_type, number, transposed)
            if use not in names:
                names[use] = f"{name}_camrt_use_{uses[name]}" if uses[name] else name
                if uses[name]:
                    copy = own.graph.initializer.add()
                    copy.CopyFrom(weights[name])
                    copy.name = names[use]
                uses[name] += 1
            node.input[number] = names[use]
    return own


def leave() -> None:
    """Compiling cannot be told to stop: what takes too long is left to end by itself."""
