"""The graphics cards that CUDA's driver knows of, asked without any other library."""

from __future__ import annotations

import ctypes
import sys
from dataclasses import dataclass

from camrt.errors import BackendError

__all__ = ["CudaDevice", "list_cuda_devices"]

LIBRARY = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
MAJOR, MINOR = 75, 76  # the driver's numbers for the two parts of a compute capability
MAX_NAME_LENGTH = 256


@dataclass(frozen=True)
class CudaDevice:
    """A graphics card.

    Attributes:
        name: As the driver calls it.
        capability: Compute capability, such as (9, 0).
    """

    name: str
    capability: tuple[int, int]

    def __str__(self) -> str:
        return f"{self.name} (sm_{self.capability[0]}{self.capability[1]})"


def list_cuda_devices() -> tuple[CudaDevice, ...]:
    """Lists the cards, at least one, in the order that device numbers count them.

    Raises:
        BackendError: There is no driver, it fails, or it knows of no card.
    """
    try:
        cuda = ctypes.CDLL(LIBRARY)
    except OSError as error:
        raise BackendError(
            f"this needs an NVIDIA GPU, and its driver is not installed ({LIBRARY} was not found): install "
            "the driver; device='cpu' runs a model without one"
        ) from error
    _check(cuda, cuda.cuInit(0), "the driver cannot be started")
    count = ctypes.c_int()
    _check(cuda, cuda.cuDeviceGetCount(ctypes.byref(count)), "the GPUs cannot be counted")
    found = []
    for number in range(count.value):
        handle, major, minor = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
        name = ctypes.create_string_buffer(MAX_NAME_LENGTH)
        failed = f"GPU {number} cannot be asked what it is"
        _check(cuda, cuda.cuDeviceGet(ctypes.byref(handle), number), failed)
        _check(cuda, cuda.cuDeviceGetName(name, MAX_NAME_LENGTH, handle), failed)
        for part, attribute in ((major, MAJOR), (minor, MINOR)):
            _check(cuda, cuda.cuDeviceGetAttribute(ctypes.byref(part), attribute, handle), failed)
        found.append(CudaDevice(name.value.decode(errors="replace"), (major.value, minor.value)))
    if not found:
        raise BackendError(
            "this needs an NVIDIA GPU, and the driver knows of none (CUDA_VISIBLE_DEVICES hides them?)"
        )
    return tuple(found)


def _check(cuda: ctypes.CDLL, code: int, failed: str) -> None:
    if code == 0:
        return
    text = ctypes.c_char_p()
    cuda.cuGetErrorString(code, ctypes.byref(text))
    reason = text.value.decode(errors="replace") if text.value else f"error {code}"
    raise BackendError(f"this needs an NVIDIA GPU: {failed} ({reason})")
