"""Sessions of ONNX Runtime's CUDA and TensorRT providers, which compute nothing elsewhere."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import onnx
import onnxruntime as ort

from camrt.engine.backends.arenas import weight_bytes
from camrt.engine.backends.counting import CPU, counts_named, left_to_the_cpu
from camrt.engine.backends.deadlines import stopped_in_time
from camrt.engine.backends.onnxruntime import ERRORS_ONLY, FAILURES
from camrt.errors import BackendError
from camrt.export.onnx_sessions import session_of
from camrt.kernels.caches import ByteCache

__all__ = ["CUDA", "TENSORRT", "Providers", "Session", "Sessions", "check_built", "cuda", "tensorrt"]

Providers: TypeAlias = list[tuple[str, dict[str, str]]]

CUDA, TENSORRT = "CUDAExecutionProvider", "TensorrtExecutionProvider"
NAMES: Mapping[str, str] = {CUDA: "CUDA", TENSORRT: "TensorRT"}
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
NOT_STARTED = re.compile("Please install TensorRT libraries|CUDA_PATH is set but CUDA")
"""What is raised where a provider's libraries are missing; mostly a session is made without it instead."""
MOST_BYTES, BESIDE_WEIGHTS = 4 << 30, 64 << 20
RECORDING = "session.record_ep_graph_assignment_info"


def cuda(number: str, stream: int) -> Providers:
    """The CUDA provider of a card, queueing on a stream.

    Its memory grows by what is asked for, not by powers of two: torch's lies on the same card. float32 is not
    rounded to TensorFloat-32.
    """
    options = {"device_id": number, "user_compute_stream": str(stream)}
    return [(CUDA, {**options, "arena_extend_strategy": "kSameAsRequested", "use_tf32": "0"})]


def tensorrt(number: str, stream: int, cache: str | None) -> Providers:
    """The TensorRT provider of a card, and CUDA's behind it."""
    options = {"device_id": number, "user_compute_stream": str(stream)}
    if cache is not None:
        options |= {"trt_engine_cache_enable": "True", "trt_engine_cache_path": cache}
    return [(TENSORRT, options), *cuda(number, stream)]


def check_built(wanted: Sequence[str]) -> None:
    """Refuses an onnxruntime without these providers.

    Raises:
        BackendError: It was built without one, or is too old to say what a provider takes.
    """
    built = ort.get_available_providers()
    for name in wanted:
        if name not in built:
            raise BackendError(
                f"this onnxruntime was built without its {NAMES[name]} provider: "
                "pip uninstall onnxruntime && pip install onnxruntime-gpu"
            )
    if not hasattr(ort.InferenceSession, "get_provider_graph_assignment_info"):
        raise BackendError(
            f"onnxruntime {ort.__version__} cannot say which operators a provider takes: "
            "pip install 'onnxruntime-gpu>=1.24.1'"
        )


@dataclass
class Session:
    """A session of ONNX Runtime.

    Attributes:
        session: It.
        lock: Held by whoever runs it: CUDA's libraries have one handle a stream, for one thread at a time.
    """

    session: ort.InferenceSession
    lock: threading.Lock = field(default_factory=threading.Lock)


class Sessions:
    """The sessions of one graph: one for each stream that runs are queued on, each with the graph's weights.

    There are two at least, and otherwise as many as `MOST_BYTES` hold: those of streams that were used last.

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
        self._model, self._counts = counts_named(model)
        self._label = label
        self._providers = providers
        self._size = weight_bytes(model) + BESIDE_WEIGHTS
        self._made: ByteCache[Session] = ByteCache(max(MOST_BYTES, 2 * self._size))
        self._lock = threading.Lock()

    def of(self, stream: int) -> Session:
        """The session of a stream.

        Raises:
            DeadlineError: The call at hand has taken too long (`camrt.export.budget`).
            BackendError: See `OnnxRuntimeOnDevice.runner`.
        """
        with self._lock:
            return self._made.get(stream, lambda: Session(self._make(self._providers(stream))), self._size)

    def _make(self, providers: Providers) -> ort.InferenceSession:
        options = ort.SessionOptions()
        options.log_severity_level = ERRORS_ONLY
        options.intra_op_num_threads = 1
        options.add_session_config_entry(RECORDING, "1")
        try:
            with stopped_in_time(lambda: options.set_load_cancellation_flag(True)):
                session = session_of(self._model, options, providers)
        except FAILURES as error:
            if NOT_STARTED.search(str(error)):
                raise not_started(providers[0][0]) from error
            raise BackendError(f"onnxruntime refuses the {self._label}: {error}") from error
        self._check([name for name, _ in providers], session)
        return session

    def _check(self, wanted: Sequence[str], session: ort.InferenceSession) -> None:
        """Refuses a session that computes elsewhere: onnxruntime makes one whatever is missing."""
        if CPU in wanted:
            return
        started = session.get_providers()
        for name in wanted:
            if name not in started:
                raise not_started(name)
        if left := left_to_the_cpu(session, self._counts):
            raise BackendError(
                f"onnxruntime's {NAMES[wanted[0]]} provider does not take every operator of the "
                f"{self._label}: {', '.join(left)} would run on the CPU; run the model with device='cpu'"
            )


def not_started(provider: str) -> BackendError:
    """A provider's libraries are missing; onnxruntime itself has written which."""
    return BackendError(
        f"onnxruntime could not start its {NAMES[provider]} provider, and says why above: "
        f"{LIBRARIES[provider]}"
    )
