"""Methods that run a model thousands of times by default, made short."""

from __future__ import annotations

from typing import Any

from camrt.engine.methods import Method, make_method

__all__ = ["FEW_PASSES", "short"]

FEW_PASSES: dict[str, dict[str, Any]] = {
    "rise": {"passes": 6, "cells": 2},
    "expected-gradients": {"draws": 3},
    "blur-integrated": {"steps": 3},
    "guided-integrated": {"steps": 3},
}


def short(name: str) -> Method:
    """A method by its name, with few passes."""
    return make_method(name, FEW_PASSES.get(name, {}))
