"""Which TensorRT there is."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import Any, Literal, TypeAlias, get_args

from camrt.engine.plans.cards import Card, cards
from camrt.errors import BackendError, InputError

__all__ = ["FLAVOURS", "Bindings", "Flavour", "bindings"]

Flavour: TypeAlias = Literal["tensorrt", "tensorrt-rtx"]
FLAVOURS: tuple[Flavour, ...] = get_args(Flavour)
MODULES = {"tensorrt": ("tensorrt",), "tensorrt-rtx": ("tensorrt_rtx", "tensorrt_rtx_bindings")}


@dataclass(frozen=True)
class Bindings:
    """A TensorRT that was imported.

    Attributes:
        flavour: "tensorrt", whose plans are for one kind of card, or "tensorrt-rtx", whose plans are finished
            on the card that runs them.
        module: Its Python module.
        version: Its version.
        card: The first card; None where plans are only built, and for any card.
    """

    flavour: Flavour
    module: Any
    version: str
    card: Card | None


def bindings(flavour: str, *, running: bool) -> Bindings:
    """Imports TensorRT.

    CUDA is asked first: some of TensorRT's libraries crash where there is no card.

    Args:
        flavour: Which one.
        running: Whether plans are to be run, which needs a card; TensorRT for RTX builds them without.

    Raises:
        InputError: An unknown flavour.
        BackendError: There is no card, or TensorRT is missing.
    """
    if flavour not in FLAVOURS:
        raise InputError(f"{flavour!r} is no TensorRT; choose from {', '.join(map(repr, FLAVOURS))}")
    card = cards()[0] if running or flavour == "tensorrt" else None
    missing: ImportError | None = None
    for name in MODULES[flavour]:
        try:
            module = import_module(name)
        except ImportError as error:
            missing = error
            continue
        chosen: Flavour = "tensorrt" if flavour == "tensorrt" else "tensorrt-rtx"
        return Bindings(chosen, module, str(module.__version__), card if chosen == "tensorrt" else None)
    raise BackendError(f"{flavour} is missing ({missing}): pip install 'camrt[{flavour}]'") from missing
