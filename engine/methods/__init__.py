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

__all__ = [
    "ChannelMethod",
    "Cost",
    "MapShape",
    "Method",
    "Need",
    "make_method",
    "methods",
    "single_methods",
    "suggest_options",
]

METHODS: dict[str, str] = {
    "cam": ".cam:CAM",
    "calm": ".calm:CALM",
    "activation": ".cam:ActivationCAM",
    "eigen": ".eigen:EigenCAM",
    "score": ".score:ScoreCAM",
    "ablation": ".ablation:AblationCAM",
    "pixab": ".pixab:PixabCAM",
    "recipro": ".recipro:ReciproCAM",
    "grad": ".gradients:GradCAM",
    "grad++": ".gradients:GradCAMPlusPlus",
    "xgrad": ".gradients:XGradCAM",
    "hires": ".gradients:HiResCAM",
    "layer": ".gradients:LayerCAM",
    "smoothgrad++": ".smooth:SmoothGradCAMPlusPlus",
    "shapley": ".shapley:ShapleyCAM",
    "lift": ".lift:LIFTCAM",
    "relevance": ".relevance:RelevanceCAM",
    "gradelementwise": ".gradients:GradCAMElementWise",
    "eigengrad": ".eigen:EigenGradCAM",
    "segeigen": ".eigen:SegEigenCAM",
    "kpca": ".eigen:KernelPCACAM",
    "fem": ".fem:FEM",
    "random": ".random_weights:RandomCAM",
    "opti": ".opti:OptiCAM",
    "rise": ".rise:RISE",
    "occlusion": ".occlusion:Occlusion",
    "lime": ".surrogates:LIME",
    "kernelshap": ".surrogates:KernelSHAP",
    "aise": ".aise:AISE",
    "ss": ".averaged_score:SSCAM",
    "is": ".averaged_score:ISCAM",
    "gradient": ".pixels:Gradient",
    "integrated": ".pixels:IntegratedGradients",
    "integratedtextbook": ".pixels:TextbookIntegratedGradients",
    "smoothgrad": ".pixels:SmoothGrad",
    "vargrad": ".pixels:VarGrad",
    "gradienttimesinput": ".attributions:GradientTimesInput",
    "expectedgradients": ".attributions:ExpectedGradients",
    "blurintegrated": ".paths:BlurIntegratedGradients",
    "guidedintegrated": ".paths:GuidedIntegratedGradients",
    "rollout": ".attention:AttentionRollout",
    "legrad": ".attention:LeGrad",
    "vitrecipro": ".vit_recipro:ViTReciproCAM",
    "deeplift": ".propagation:DeepLift",
    "lrp": ".propagation:LRP",
    "fullgrad": ".full:FullGrad",
    "guided": ".guided:GuidedBackpropagation",
}
"""By canonical name, the module and the class: imported when a method is first asked for."""
WRAPPERS: dict[str, str] = {
    "guided": ".guided:times_guided",
    "sess": ".sess:scaled_and_slid",
    "refine": ".refine:refined",
}
"""By what may stand before the name of any class-activation map, what makes a method of it, or None."""
OF_THEMSELVES = {"sess": "sessgrad", "refine": "refinegrad++"}
"""The map that a wrapper's name alone means."""

FINER = re.compile(r"finer(.*)")  # Finer-CAM of any method: an option by a name of its own
KNOWN_NAMES = 256  # ways to write a method's name that are looked up once


@lru_cache(maxsize=KNOWN_NAMES)
def canonical_name(name: str) -> str:
    """A method's name without case, hyphens and "cam": "Score-CAM" -> "score", "GradCAMpp" -> "grad++"."""
    plain = re.sub(r"[\s_-]", "", name.lower())
    short = re.sub("cam", "", re.sub("(plus){2}$|(?<=cam)pp$", "++", plain))
    return plain if short in ("", "guided") else OF_THEMSELVES.get(short, short)


@cache
def import_from(place: str) -> Any:
    """What a module of this folder holds by a name, imported when it is first asked for."""
    module, _, name = place.partition(":")
    with block_forks():
        return getattr(import_module(module, __name__), name)


def find_method(name: str) -> type[Method] | None:
    """The class of a method in `METHODS`, or of what one of `WRAPPERS` makes of it; None of other names."""
    if name in METHODS:
        found: type[Method] = import_from(METHODS[name])
        return found
    for prefix, place in WRAPPERS.items():
        inner = METHODS.get(name.removeprefix(prefix)) if name.startswith(prefix) else None
        if inner is not None:
            made: type[Method] | None = import_from(place)(import_from(inner))
            return made
    return None


def methods() -> dict[str, type[Method]]:
    """The methods by name. Each is a frozen dataclass: its fields are its options.

    Of products with guided back-propagation all are listed, of other wrappers what can stand for all.
    """
    products = map(find_method, (f"guided{name}" for name in METHODS))
    return single_methods() | {method.name: method for method in products if method is not None}


def single_methods() -> dict[str, type[Method]]:
    """The methods but for products with guided back-propagation, which say nothing of their own."""
    found = map(find_method, [*METHODS, OF_THEMSELVES["sess"]])
    return {method.name: method for method in found if method is not None}


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
    found = find_method(canonical_name(method)) if isinstance(method, str) else None
    if found is None:
        known_names = {canonical_name(name): name for name in methods()}
        close = difflib.get_close_matches(canonical_name(str(method)), known_names, 1)
        hint = f"; did you mean {known_names[close[0]]!r}?" if close else ""
        raise MethodError(
            f"unknown method {method!r}{hint} (methods: {', '.join(single_methods())}; and finer-, "
            f"{', '.join(f'{prefix}-' for prefix in WRAPPERS)} before the name of a class-activation map)"
        )
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
