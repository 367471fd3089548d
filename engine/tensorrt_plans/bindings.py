"""Which TensorRT there is."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Protocol, cast

from camrt.engine.tensorrt_plans.cuda_devices import CudaDevice, list_cuda_devices
from camrt.errors import BackendError, InputError

if TYPE_CHECKING:
    # Named as itself, so that others take it from here. It has no types of its own: tests make them.
    import tensorrt_rtx_bindings as tensorrt_rtx_bindings  # type: ignore[import-not-found, import-untyped, unused-ignore]

__all__ = ["Bindings", "TensorRTModule", "import_bindings"]

MODULES = {"tensorrt": ("tensorrt",), "tensorrt-rtx": ("tensorrt_rtx", "tensorrt_rtx_bindings")}


class TensorRTModule(Protocol):
    """What camrt uses of TensorRT's Python module: the types of TensorRT for RTX, which the other has too."""

    __version__: str
    Builder: type[tensorrt_rtx_bindings.Builder]
    DataType: type[tensorrt_rtx_bindings.DataType]
    ILogger: type[tensorrt_rtx_bindings.ILogger]
    Logger: type[tensorrt_rtx_bindings.Logger]
    OnnxParser: type[tensorrt_rtx_bindings.OnnxParser]
    Runtime: type[tensorrt_rtx_bindings.Runtime]
    TensorIOMode: type[tensorrt_rtx_bindings.TensorIOMode]


@dataclass(frozen=True)
class Bindings:
    """A TensorRT that was imported.

    Attributes:
        flavour: "tensorrt", whose plans are for one kind of card, or "tensorrt-rtx", whose plans are finished
            on the card that runs them.
        module: Its Python module.
        version: Its version.
        cuda_device: The first card; None where plans are only built, and for any card.
    """

    flavour: str
    module: TensorRTModule
    version: str
    cuda_device: CudaDevice | None


def import_bindings(flavour: str, *, running: bool) -> Bindings:
    """Imports TensorRT.

    CUDA is asked first: some of TensorRT's libraries crash where there is no card.

    Args:
        flavour: Which one.
        running: Whether plans are to be run, which needs a card; TensorRT for RTX builds them without.

    Raises:
        InputError: An unknown flavour.
        BackendError: There is no card, or TensorRT is missing.
    """
    if flavour not in MODULES:
        raise InputError(f"{flavour!r} is no TensorRT; choose from {', '.join(map(repr, MODULES))}")
    for_a_card = flavour == "tensorrt"
    card = list_cuda_devices()[0] if running or for_a_card else None
    missing: ImportError | None = None
    for name in MODULES[flavour]:
        try:
            module = cast("TensorRTModule", import_module(name))
        except ImportError as error:
            missing = error
            continue
        return Bindings(flavour, module, str(module.__version__), card if for_a_card else None)
    raise BackendError(f"{flavour} is missing ({missing}): pip install 'camrt[{flavour}]'") from missing
