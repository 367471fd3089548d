"""The libraries that training needs: what to do about one that is missing, or does not load."""

from __future__ import annotations

import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from camrt.errors import TrainingError

__all__ = ["training_imports"]

LIBRARIES = ("lightning", "torchmetrics", "torchvision", "timm", "torch")


@contextmanager
def training_imports(extra: str = "train") -> Iterator[None]:
    """Imports within it that fail for a library name it, and what to do.

    Args:
        extra: The one that installs what is missing.

    Raises:
        TrainingError: A library is missing, or is installed and cannot be imported.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("camrt"):
            raise
        raise TrainingError(
            f"this needs {error.name}, which is missing: pip install 'camrt[{extra}]'"
        ) from error
    except (AttributeError, ImportError, OSError, RuntimeError) as error:
        failed = find_failed_library(error)
        if failed is None:
            raise
        raise TrainingError(
            f"{failed} is installed, and cannot be imported: {error}. {describe_remedy(failed)}"
        ) from error


def find_failed_library(error: BaseException) -> str | None:
    """The innermost library in whose code an error arose; torch only where there is no other."""
    modules = (str(frame.f_globals.get("__name__")) for frame, _ in traceback.walk_tb(error.__traceback__))
    met = [name for name in (module.partition(".")[0] for module in modules) if name in LIBRARIES]
    return next((name for name in reversed(met) if name != "torch"), met[-1] if met else None)


def describe_remedy(library: str) -> str:
    """What to do about a library that is installed and does not load."""
    if library != "torchvision":
        return f"Install it anew: pip install --force-reinstall {library}"
    import torch

    build = torch.__version__.partition("+")[2] or "cpu"
    return (
        f"It is made for another torch than the {torch.__version__} that is here: install its partner, pip "
        f"install --force-reinstall torchvision --index-url https://download.pytorch.org/whl/{build}, or "
        "pip uninstall torchvision: training works without it, but for torchvision's own backbones"
    )
