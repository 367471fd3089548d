"""Puts the sanitized kernels in the place of the installed ones: imported before camrt, or by `pytest -p`."""

from __future__ import annotations

import sys

from sanitized_extension import load_extension

__all__ = ["NATIVE"]

assert "camrt.kernels" not in sys.modules, "the installed kernels are in use already"
NATIVE = load_extension("_native", "camrt.kernels._native")
