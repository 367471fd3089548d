"""ONNX Runtime's execution providers on the host, other than the CPU's own.

Each leaves the operators that it does not take to the CPU provider, as it is meant to. What must not happen
is that ONNX Runtime leaves the provider itself out. Its OpenVINO provider is not among them: it runs other
numbers of rows by the same request, and then gives wrong numbers or writes beyond its memory (version 1.24.1,
where an input is an output as it is); `camrt.engine.runtime.openvino` takes a request a run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import import_module

from camrt.errors import BackendError

__all__ = ["HOST_PROVIDERS", "HostProvider", "check_provider"]


@dataclass(frozen=True)
class HostProvider:
    """A provider.

    Attributes:
        name: ONNX Runtime's name for it.
        source: How an onnxruntime that has it is installed.
        options: Its options, given the threads of a run; None lets it choose.
        memory_pattern: Whether sessions with it may plan their memory beforehand.
    """

    name: str
    source: str
    options: Callable[[int | None], dict[str, str]]
    memory_pattern: bool = True


HOST_PROVIDERS: Mapping[str, HostProvider] = {
    "onnxruntime-xnnpack": HostProvider(
        "XnnpackExecutionProvider",
        "build onnxruntime with --use_xnnpack",
        lambda threads: {} if threads is None else {"intra_op_num_threads": str(threads)},
    ),
    "onnxruntime-coreml": HostProvider(
        "CoreMLExecutionProvider",
        "it is in onnxruntime for macOS",
        lambda threads: {"ModelFormat": "MLProgram"},  # the other format computes in float16
    ),
    "onnxruntime-directml": HostProvider(
        "DmlExecutionProvider",
        "pip uninstall onnxruntime && pip install onnxruntime-directml, on Windows",
        lambda threads: {},
        memory_pattern=False,
    ),
}
"""By the name of the backend."""


def check_provider(provider: HostProvider, started: list[str] | None = None) -> None:
    """Refuses an onnxruntime without a provider.

    Args:
        provider: It.
        started: The providers of a session that was made with it; None for those that were built in.

    Raises:
        BackendError: It is missing.
    """
    # Slow to import, and not needed by those who look for a backend's name.
    found = import_module("onnxruntime").get_available_providers() if started is None else started
    if provider.name not in found:
        without = "has no" if started is None else "did not start its"
        raise BackendError(
            f"this onnxruntime {without} {provider.name}, but {', '.join(found)}: {provider.source}"
        )
