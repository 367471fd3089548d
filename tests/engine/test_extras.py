"""Libraries that are looked for and not imported."""

from __future__ import annotations

import sys
from types import ModuleType

import numpy as np
import pytest

from camrt.engine.arrays import is_masked
from camrt.engine.extras import find_imported
from camrt.engine.load import is_torch_model


@pytest.mark.parametrize("module", ["numpy.ma", "torch.nn"])
def test_a_module_that_another_thread_is_importing(module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is in `sys.modules` before anything is in it."""
    monkeypatch.setitem(sys.modules, module, ModuleType(module))
    assert find_imported(module, "MaskedArray") is None
    assert not is_masked(np.zeros(3))
    assert not is_torch_model("model.onnx")


def test_what_is_imported_is_found() -> None:
    masked = np.ma.masked_array([1, 2], [True, False])
    assert find_imported("numpy.ma", "MaskedArray") is np.ma.MaskedArray
    assert is_masked(masked)
    assert find_imported("no.such.module", "thing") is None
