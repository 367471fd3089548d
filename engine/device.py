"""The device of an engine's arrays: NumPy on the host, or torch on a CPU or GPU."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from camrt.engine.arrays import to_numpy
from camrt.errors import BackendError
from camrt.kernels.fork_safety import renew_after_fork

if TYPE_CHECKING:
    import torch

__all__ = ["NUMPY_DEVICE", "Device", "NumpyDevice", "TorchDevice", "check_gpu"]


class Device(Protocol):
    """Where the runners of a runtime take their arrays, and where heads and methods compute."""

    def put(self, values: Any) -> Any:
        """Brings an array of NumPy or of torch here."""
        ...

    def from_dlpack(self, producer: Any) -> Any:
        """Takes an array of any library through DLPack, without a copy where that can be."""
        ...


class NumpyDevice:
    """Arrays of NumPy."""

    def __str__(self) -> str:
        return "NumPy's arrays"

    def __repr__(self) -> str:
        return "NumpyDevice()"

    def put(self, values: Any) -> npt.NDArray[Any]:
        """Brings an array here."""
        return to_numpy(values)

    def from_dlpack(self, producer: Any) -> npt.NDArray[Any]:
        """Takes an array of any library through DLPack."""
        return np.from_dlpack(producer)


NUMPY_DEVICE: Device = NumpyDevice()


def check_gpu() -> None:
    """Refuses a torch that sees no GPU.

    Raises:
        BackendError: This one sees none.
    """
    import torch

    if not torch.cuda.is_available():
        raise BackendError("this torch sees no GPU: install one that is built for CUDA")


class TorchDevice:
    """Tensors of torch on one of its devices, the CPU among them.

    Args:
        device: The device.

    Raises:
        BackendError: There are no kernels for it, or Triton is missing.
    """

    def __init__(self, device: torch.device) -> None:
        if device.type not in ("cpu", "cuda"):
            raise BackendError(
                f"camrt computes on the CPU and on CUDA's GPUs, and this model is on {str(device)!r}: move it"
            )
        if device.type == "cuda" and find_spec("triton") is None:
            raise BackendError(
                "kernels on a GPU are Triton's, and Triton is missing: pip install 'camrt[gpu]'"
            )
        self.device = device
        self._lost = False
        if device.type == "cuda":
            renew_after_fork(self)

    def renew(self) -> None:
        """Starts anew in a forked child, see `camrt.kernels.fork_safety`."""
        self._lost = True

    def __str__(self) -> str:
        return f"tensors on {self.device}"

    def put(self, values: Any) -> torch.Tensor:
        """See `Device`.

        Raises:
            BackendError: This process was forked from the one that the engine is of, and it is on a card.
        """
        import torch

        if self._lost:
            raise BackendError(
                "this process was forked from one that uses CUDA, which does not work in it: start processes "
                "by spawn instead of fork, and load the model there"
            )
        if not isinstance(values, torch.Tensor):
            values = torch.from_numpy(np.array(values))
        moved: torch.Tensor = values.to(self.device)
        return moved

    def from_dlpack(self, producer: Any) -> torch.Tensor:
        """Takes an array of any library through DLPack."""
        from torch.utils.dlpack import from_dlpack

        taken: torch.Tensor = from_dlpack(producer)
        return taken
