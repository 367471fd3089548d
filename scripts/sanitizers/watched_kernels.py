"""Puts the sanitized kernels in the place of the installed ones: imported before camrt, or by `pytest -p`."""

from __future__ import annotations

import sys

from watched import extension

__all__ = ["NATIVE"]

assert "camrt.kernels" not in sys.modules, "the installed kernels are in use already"
NATIVE = extension("_native", "camrt.kernels._native")
