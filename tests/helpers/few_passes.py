"""Methods that run a model thousands of times by default, made short."""

from __future__ import annotations

from typing import Any

from camrt.engine.methods import Method, make_method, methods
from camrt.engine.methods.guided import GuidedMethod

__all__ = ["FEW_PASSES", "OF_FILES_WITH_LOGITS", "OF_SPECIAL_MODELS", "OF_TRANSFORMERS", "PRODUCTS", "short"]

# Refused on torch modules and CALM models, by name and with what to do instead.
OF_FILES_WITH_LOGITS = ("deeplift", "lrp", "lift", "relevance")
# Refused on what is no such model, or no file of one.
OF_TRANSFORMERS = ("rollout", "legrad", "vit-recipro")
OF_SPECIAL_MODELS = ("calm", *OF_TRANSFORMERS)

FEW_PASSES: dict[str, dict[str, Any]] = {
    "sess-gradcam": {"scales": 2},
    "rise": {"passes": 6, "cells": 2},
    "lime": {"passes": 8, "cells": 2},
    "kernelshap": {"passes": 8, "cells": 2},
    "aise": {"passes": 12, "widths": (0.1, 0.25)},
    "sscam": {"draws": 2},
    "iscam": {"draws": 2},
    "expected-gradients": {"draws": 3},
    "blur-integrated": {"steps": 3},
    "guided-integrated": {"steps": 3},
    "opticam": {"steps": 3},
}

PRODUCTS: dict[str, str] = {
    name: kind.map_class.name for name, kind in methods().items() if issubclass(kind, GuidedMethod)
}
"""Products of guided back-propagation with a map, and whose that is."""

FEW_PASSES |= {name: FEW_PASSES[map_] for name, map_ in PRODUCTS.items() if map_ in FEW_PASSES}


def short(name: str) -> Method:
    """A method by its name, with few passes."""
    return make_method(name, FEW_PASSES.get(name, {}))
