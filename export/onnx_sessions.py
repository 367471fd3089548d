"""Sessions of ONNX Runtime: all are made here, so that none goes its own way when it fails.

By default its Python class prints "EP Error ..." on stdout where a session cannot be made or a run fails, and
tries everything a second time on the CPU.

A session with threads of its own cannot be freed in a child that was forked: it waits for them, or ends the
process. So such a session of the parent's is kept in its children, and not run: see
`camrt.engine.runtime.ort_cpu`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any
from weakref import WeakSet

from camrt.kernels.fork_safety import never_free, renew_after_fork

if TYPE_CHECKING:
    import onnxruntime

__all__ = ["CPU_ONLY", "describe_failure", "open_session"]

_CODE = re.compile(r"\[ONNXRuntimeError\] : \d+ : \w+ : ")
_PLACE = re.compile(r"\S*/\S+\.(?:h|cc|cpp|cu):\d+ (?:[\w:<>~&*,]+ )*[\w:<>~]+\([^()]*\)(?: const)? ?")

CPU_ONLY = ("CPUExecutionProvider",)


class _Threaded:
    """The sessions of this process that have threads."""

    def __init__(self) -> None:
        self.sessions: WeakSet[onnxruntime.InferenceSession] = WeakSet()
        renew_after_fork(self)

    def renew(self) -> None:
        for session in list(self.sessions):
            never_free(session)
        self.sessions = WeakSet()


_THREADED = _Threaded()


def describe_failure(error: Exception) -> str:
    """What ONNX Runtime says of a failure, on one line and without the places in its own source code."""
    return " ".join(_PLACE.sub("", _CODE.sub("", str(error))).split())


def open_session(
    model: bytes | str | os.PathLike[str],
    options: onnxruntime.SessionOptions,
    providers: Sequence[Any] = CPU_ONLY,
) -> onnxruntime.InferenceSession:
    """A session that computes where it is told, or raises what ONNX Runtime raises; nothing is printed.

    Args:
        model: A file's bytes or its path.
        options: Of the session.
        providers: Names of providers, or of each with its options; the first is preferred.
    """
    runtime = import_module("onnxruntime")  # slow to import, and seldom needed by those who only read files
    made: onnxruntime.InferenceSession = runtime.InferenceSession(
        model, options, providers=list(providers), enable_fallback=0
    )
    if options.intra_op_num_threads != 1:
        _THREADED.sessions.add(made)
    return made
