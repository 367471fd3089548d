"""Making other explanation libraries importable."""

from __future__ import annotations

import sys
from typing import Any

import pytest

__all__ = ["import_peer", "mend_torchvision"]

_KEPT: list[Any] = []  # a torch library's definitions last as long as the object that made them


def mend_torchvision() -> None:
    """Makes an installed torchvision importable.

    PyPI's torchvision cannot load its operators beside a CPU-only torch, and then fails on import for want of
    two operators' schemas, which nothing here uses; they are defined for it.
    """
    import torch

    try:
        import torchvision  # noqa: F401
    except ModuleNotFoundError:
        pass
    except RuntimeError:
        library = torch.library.Library("torchvision", "FRAGMENT")
        for operator in ("nms", "qnms"):
            library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _KEPT.append(library)
        for module in [module for module in sys.modules if module.split(".")[0] == "torchvision"]:
            del sys.modules[module]


def import_peer(name: str) -> Any:
    """Imports an optional library that may import torchvision, or skips the test."""
    pytest.importorskip("torch")
    mend_torchvision()
    return pytest.importorskip(name)
