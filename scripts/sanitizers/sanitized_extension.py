"""Imports extensions that scripts/sanitizers.sh has built, from the folder that CAMRT_WATCHED names."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType

__all__ = ["load_extension"]


def load_extension(name: str, imported_as: str) -> ModuleType:
    """Imports an extension.

    Args:
        name: Its target in CMake.
        imported_as: Its full name in Python.
    """
    (path,) = Path(os.environ["CAMRT_WATCHED"]).glob(f"{name}.*.so")
    spec = importlib.util.spec_from_file_location(imported_as, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[imported_as] = module
    spec.loader.exec_module(module)
    return module
