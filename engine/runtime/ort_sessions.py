"""Sessions of ONNX Runtime's CUDA and TensorRT providers, which compute nothing elsewhere."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import onnx
import onnxruntime as ort

from camrt.engine.runtime.arenas import weight_bytes
from camrt.engine.runtime.deadline import stop_at_deadline
from camrt.engine.runtime.ort_cpu import FAILURES, SEVERITY_ERROR
from camrt.engine.runtime.shape_nodes import CPU, find_cpu_operators, name_shape_nodes
from camrt.errors import BackendError
from camrt.export.onnx_sessions import describe_failure, open_session
from camrt.kernels.caches import ByteCache

__all__ = [
    "CUDA",
    "TENSORRT",
    "LockedSession",
    "Providers",
    "StreamSessions",
    "check_built",
    "cuda_provider",
    "tensorrt_provider",
]

Providers: TypeAlias = list[tuple[str, dict[str, str]]]

CUDA, TENSORRT = "CUDAExecutionProvider", "TensorrtExecutionProvider"
PROVIDER_NAMES: Mapping[str, str] = {CUDA: "CUDA", TENSORRT: "TensorRT"}
LIBRARIES: Mapping[str, str] = {
    CUDA: (
        "it needs cuDNN 9 and the CUDA it was built for, which is CUDA 13 for onnxruntime-gpu 1.31: "
        "pip install 'onnxruntime-gpu[cuda,cudnn]'"
    ),
    TENSORRT: (
        "it needs TensorRT 10, libnvinfer.so.10 and libnvonnxparser.so.10, where the loader finds them: "
        "pip install 'tensorrt-cu13<11', and put its folder tensorrt_libs on LD_LIBRARY_PATH"
    ),
}
MISSING_LIBRARIES = re.compile("Please install TensorRT libraries|CUDA_PATH is set but CUDA")
"""What is raised where a provider's libraries are missing; mostly a session is made without it instead."""
MAX_SESSION_BYTES, SESSION_OVERHEAD_BYTES = 4 << 30, 64 << 20
RECORD_ASSIGNMENT = "session.record_ep_graph_assignment_info"


def cuda_provider(number: str, stream: int) -> Providers:
    """The CUDA provider of a card, queueing on a stream.

    Its memory grows by what is asked for, not by powers of two: torch's lies on the same card. float32 is not
    rounded to TensorFloat-32.
    """
    options = {"device_id": number, "user_compute_stream": str(stream)}
    return [(CUDA, {**options, "arena_extend_strategy": "kSameAsRequested", "use_tf32": "0"})]


def tensorrt_provider(number: str, stream: int, cache: str | None) -> Providers:
    """The TensorRT provider of a card, and CUDA's behind it."""
    options = {"device_id": number, "user_compute_stream": str(stream)}
    if cache is not None:
        options |= {"trt_engine_cache_enable": "True", "trt_engine_cache_path": cache}
    return [(TENSORRT, options), *cuda_provider(number, stream)]


def check_built(wanted: Sequence[str]) -> None:
    """Refuses an onnxruntime without these providers.

    Raises:
        BackendError: It was built without one, or is too old to say what a provider takes.
    """
    built = ort.get_available_providers()
    for name in wanted:
        if name not in built:
            raise BackendError(
                f"this onnxruntime was built without its {PROVIDER_NAMES[name]} provider: "
                "pip uninstall onnxruntime && pip install onnxruntime-gpu"
            )
    if not hasattr(ort.InferenceSession, "get_provider_graph_assignment_info"):
        raise BackendError(
            f"onnxruntime {ort.__version__} cannot say which operators a provider takes: "
            "pip install 'onnxruntime-gpu>=1.24.1'"
        )


@dataclass
class LockedSession:
    """A session of ONNX Runtime.

    Attributes:
        session: It.
        lock: Held by whoever runs it: CUDA's libraries have one handle a stream, for one thread at a time.
    """

    session: ort.InferenceSession
    lock: threading.Lock = field(default_factory=threading.Lock)


class StreamSessions:
    """The sessions of one graph: one for each stream that runs are queued on, each with the graph's weights.

    There are two at least, and otherwise as many as `MAX_SESSION_BYTES` hold: those of streams that were used
    last.

    A session queues all its work on the stream that it was made with. When that is the caller's current one,
    the stream itself keeps runs in order with what is queued before and after them, and nothing has to wait.
    It also keeps memory in order: what a freed output gives back to the session is written again by a later
    run, behind all that was queued to read it. One session with events between its stream and the callers'
    would order runs, but not that memory, which another thread can give back at any time.

    Args:
        model: The graph; it is not changed.
        label: What it is, for error messages.
        providers: The providers of a stream, the first preferred, and their options.
    """

    def __init__(self, model: onnx.ModelProto, label: str, providers: Callable[[int], Providers]) -> None:
        self._model, self._counts = name_shape_nodes(model)
        self._label = label
        self._providers = providers
        self._size = weight_bytes(model) + SESSION_OVERHEAD_BYTES
        self._made: ByteCache[LockedSession] = ByteCache(max(MAX_SESSION_BYTES, 2 * self._size))
        self._lock = threading.Lock()

    def session_for(self, stream: int) -> LockedSession:
        """The session of a stream.

        Raises:
            DeadlineError: The call at hand has taken too long (`camrt.export.budget`).
            BackendError: See `OnnxRuntimeGpu.make_runner`.
        """
        with self._lock:
            return self._made.get(
                stream, lambda: LockedSession(self._make(self._providers(stream))), self._size
            )

    def _make(self, providers: Providers) -> ort.InferenceSession:
        options = ort.SessionOptions()
        options.log_severity_level = SEVERITY_ERROR
        options.intra_op_num_threads = 1
        options.add_session_config_entry(RECORD_ASSIGNMENT, "1")
        try:
            with stop_at_deadline(lambda: options.set_load_cancellation_flag(True)):
                session = open_session(self._model, options, providers)
        except FAILURES as error:
            if MISSING_LIBRARIES.search(str(error)):
                raise missing_libraries_error(providers[0][0]) from error
            raise BackendError(f"onnxruntime refuses the {self._label}: {describe_failure(error)}") from error
        self._check([name for name, _ in providers], session)
        return session

    def _check(self, wanted: Sequence[str], session: ort.InferenceSession) -> None:
        """Refuses a session that computes elsewhere: onnxruntime makes one whatever is missing."""
        if CPU in wanted:
            return
        started = session.get_providers()
        for name in wanted:
            if name not in started:
                raise missing_libraries_error(name)
        if left := find_cpu_operators(session, self._counts):
            raise BackendError(
                f"onnxruntime's {PROVIDER_NAMES[wanted[0]]} provider does not take every operator of the "
                f"{self._label}: {', '.join(left)} would run on the CPU; run the model with device='cpu'"
            )


def missing_libraries_error(provider: str) -> BackendError:
    """A provider's libraries are missing; onnxruntime itself has written which."""
    return BackendError(
        f"onnxruntime could not start its {PROVIDER_NAMES[provider]} provider, and says why above: "
        f"{LIBRARIES[provider]}"
    )
