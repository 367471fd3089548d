"""Methods by name."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Sequence
from dataclasses import fields
from functools import cache, lru_cache
from importlib import import_module
from typing import Any

from camrt.engine.methods.base import ChannelMethod, Cost, MapShape, Method, Need
from camrt.errors import MethodError
from camrt.kernels.fork_safety import block_forks

__all__ = ["ChannelMethod", "Cost", "MapShape", "Method", "Need", "make_method", "methods", "suggest_options"]

METHODS: dict[str, str] = {
    "cam": ".cam:CAM",
    "calm": ".calm:CALM",
    "activation": ".cam:ActivationCAM",
    "eigen": ".eigen:EigenCAM",
    "score": ".score:ScoreCAM",
    "ablation": ".ablation:AblationCAM",
    "pixab": ".pixab:PixabCAM",
    "grad": ".gradients:GradCAM",
    "grad++": ".gradients:GradCAMPlusPlus",
    "xgrad": ".gradients:XGradCAM",
    "hires": ".gradients:HiResCAM",
    "layer": ".gradients:LayerCAM",
    "gradelementwise": ".gradients:GradCAMElementWise",
    "eigengrad": ".eigen:EigenGradCAM",
    "segeigen": ".eigen:SegEigenCAM",
    "kpca": ".eigen:KernelPCACAM",
    "fem": ".fem:FEM",
    "random": ".random_weights:RandomCAM",
    "opti": ".opti:OptiCAM",
    "rise": ".rise:RISE",
    "occlusion": ".occlusion:Occlusion",
    "gradient": ".pixels:Gradient",
    "integrated": ".pixels:IntegratedGradients",
    "integratedtextbook": ".pixels:TextbookIntegratedGradients",
    "smoothgrad": ".pixels:SmoothGrad",
    "vargrad": ".pixels:VarGrad",
    "gradienttimesinput": ".attributions:GradientTimesInput",
    "expectedgradients": ".attributions:ExpectedGradients",
    "blurintegrated": ".paths:BlurIntegratedGradients",
    "guidedintegrated": ".paths:GuidedIntegratedGradients",
    "guided": ".guided:GuidedBackpropagation",
    "guidedgrad": ".guided:GuidedGradCAM",
    "guidedgrad++": ".guided:GuidedGradCAMPlusPlus",
    "guidedxgrad": ".guided:GuidedXGradCAM",
    "guidedscore": ".guided:GuidedScoreCAM",
    "guidedablation": ".guided:GuidedAblationCAM",
    "guidedactivation": ".guided:GuidedActivationCAM",
    "guidedpixab": ".guided:GuidedPixabCAM",
}
"""By canonical name, the module and the class: imported when a method is first asked for."""

FINER = re.compile(r"finer(.*)")  # Finer-CAM of any method: an option by a name of its own
KNOWN_NAMES = 256  # ways to write a method's name that are looked up once


@lru_cache(maxsize=KNOWN_NAMES)
def canonical_name(name: str) -> str:
    """A method's name without case, hyphens and "cam": "Score-CAM" -> "score", "GradCAMpp" -> "grad++"."""
    plain = re.sub(r"[\s_-]", "", name.lower())
    return re.sub("cam", "", re.sub("(plus){2}$|(?<=cam)pp$", "++", plain)) or plain


@cache
def find_method(name: str) -> type[Method]:
    """The class of a method in `METHODS`."""
    module, _, kind = METHODS[name].partition(":")
    with block_forks():
        found: type[Method] = getattr(import_module(module, __name__), kind)
    return found


def methods() -> dict[str, type[Method]]:
    """The methods by name. Each is a frozen dataclass: its fields are its options."""
    return {method.name: method for method in map(find_method, METHODS)}


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
    if isinstance(method, str) and method not in METHODS:
        finer = FINER.fullmatch(canonical_name(method))
        if finer is not None:
            return make_method(finer[1] or "gradcam", {"contrast": "similar"} | options)
    if not isinstance(method, str) or canonical_name(method) not in METHODS:
        listing = ", ".join(methods())
        close = difflib.get_close_matches(canonical_name(str(method)), METHODS, 1)
        hint = f"; did you mean {find_method(close[0]).name!r}?" if close else ""
        raise MethodError(f"unknown method {method!r}{hint} (methods: {listing})")
    found = find_method(canonical_name(method))
    if not options:
        return make_default(found)
    known = {field.name for field in fields(found)}
    unknown = sorted(set(options) - known)
    if unknown:
        raise MethodError(
            f"{found.name} has no option "
            f"{', '.join(map(repr, unknown))}{suggest_options(unknown, known)}; its options "
            f"are {', '.join(sorted(known))}"
        )
    return found(**options)


@cache
def make_default(kind: type[Method]) -> Method:
    """The method with its defaults, one for all calls: it cannot be changed."""
    return kind()


EXPLAIN_ARGUMENTS = ("targets", "top_k", "size", "fuse", "dtype", "out")
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
