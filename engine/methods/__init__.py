"""Methods by name."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from dataclasses import fields
from typing import Any

from camrt.engine.methods.ablation import AblationCAM
from camrt.engine.methods.base import ChannelMethod, Cost, MapShape, Method, Need
from camrt.engine.methods.calm import CALM
from camrt.engine.methods.cam import CAM, ActivationCAM
from camrt.engine.methods.eigen import EigenCAM
from camrt.engine.methods.gradients import GradCAM, GradCAMPlusPlus, HiResCAM, LayerCAM, XGradCAM
from camrt.engine.methods.guided import (
    GuidedAblationCAM,
    GuidedActivationCAM,
    GuidedBackpropagation,
    GuidedGradCAM,
    GuidedGradCAMPlusPlus,
    GuidedPixabCAM,
    GuidedScoreCAM,
    GuidedXGradCAM,
)
from camrt.engine.methods.opti import OptiCAM
from camrt.engine.methods.pixab import PixabCAM
from camrt.engine.methods.pixels import (
    Gradient,
    IntegratedGradients,
    SmoothGrad,
    TextbookIntegratedGradients,
    VarGrad,
)
from camrt.engine.methods.score import ScoreCAM
from camrt.errors import MethodError

__all__ = ["ChannelMethod", "Cost", "MapShape", "Method", "Need", "make_method", "methods", "suggest_options"]

METHODS: tuple[type[Method], ...] = (
    CAM,
    CALM,
    ActivationCAM,
    EigenCAM,
    ScoreCAM,
    AblationCAM,
    PixabCAM,
    GradCAM,
    GradCAMPlusPlus,
    XGradCAM,
    HiResCAM,
    LayerCAM,
    OptiCAM,
    Gradient,
    IntegratedGradients,
    TextbookIntegratedGradients,
    SmoothGrad,
    VarGrad,
    GuidedBackpropagation,
    GuidedGradCAM,
    GuidedGradCAMPlusPlus,
    GuidedXGradCAM,
    GuidedScoreCAM,
    GuidedAblationCAM,
    GuidedActivationCAM,
    GuidedPixabCAM,
)


def canonical_name(name: str) -> str:
    """A method's name without case, hyphens and "cam": "Score-CAM" -> "score", "Grad-CAM++" -> "grad++"."""
    plain = re.sub(r"[\s_-]", "", name.lower())
    return re.sub(r"cam(\+*)$", r"\1", plain) or plain


METHODS_BY_NAME: dict[str, type[Method]] = {canonical_name(method.name): method for method in METHODS}


def methods() -> dict[str, type[Method]]:
    """The methods by name. Each is a frozen dataclass: its fields are its options."""
    return {method.name: method for method in METHODS}


def make_method(method: str | Method, options: dict[str, Any]) -> Method:
    """The method of that name with those options, or the method itself.

    Raises:
        MethodError: Unknown method or option.
    """
    if isinstance(method, Method):
        if options:
            raise MethodError(
                f"options ({', '.join(options)}) go into the method itself when one is given: "
                f"{type(method).__name__}({', '.join(f'{name}=...' for name in options)})"
            )
        return method
    if not isinstance(method, str) or canonical_name(method) not in METHODS_BY_NAME:
        listing = ", ".join(methods())
        close = difflib.get_close_matches(canonical_name(str(method)), METHODS_BY_NAME, 1)
        hint = f"; did you mean {METHODS_BY_NAME[close[0]].name!r}?" if close else ""
        raise MethodError(f"unknown method {method!r}{hint} (methods: {listing})")
    found = METHODS_BY_NAME[canonical_name(method)]
    known = {field.name for field in fields(found)}
    unknown = sorted(set(options) - known)
    if unknown:
        raise MethodError(
            f"{found.name} has no option "
            f"{', '.join(map(repr, unknown))}{suggest_options(unknown, known)}; its options "
            f"are {', '.join(sorted(known))}"
        )
    return found(**options)


EXPLAIN_ARGUMENTS = ("targets", "top_k", "size", "fuse")
"""Of `Engine.explain`, which are no options of a method."""


def suggest_options(unknown: Sequence[str], known: Iterable[str]) -> str:
    """What options that there are not may have been meant to be."""
    close = [
        match
        for name in unknown
        for match in difflib.get_close_matches(name, [*known, *EXPLAIN_ARGUMENTS], 1)
    ]
    if close:
        return f"; did you mean {' and '.join(f'{name}=' for name in dict.fromkeys(close))}?"
    if any("layer" in name for name in unknown):
        return "; where to explain is camrt.load's target="
    return ""
