"""What goes back: arrays by the outputs' names, of what an engine answered."""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO
from typing import Any

import numpy as np

from camrt.engine.explanation import Explanation
from camrt.engine.serving.request_parsing import ParsedRequest, naming
from camrt.engine.serving.tensors import Array
from camrt.errors import InputError

__all__ = ["explained_outputs", "predicted_outputs"]


def predicted_outputs(
    parsed: ParsedRequest, logits: Array, probabilities: Callable[[Array], Array]
) -> dict[str, Array]:
    """Outputs of a prediction.

    Args:
        parsed: What was asked.
        logits: (N, C).
        probabilities: Makes probabilities of them.

    Raises:
        InputError: The model has no probabilities.
    """
    made = {"logits": logits}
    if "probabilities" in parsed.outputs:
        with naming("outputs.probabilities"):
            made["probabilities"] = probabilities(logits)
    return {name: made[name] for name in parsed.outputs}


def explained_outputs(parsed: ParsedRequest, found: Explanation[Array]) -> dict[str, Array]:
    """Outputs of an explanation.

    Args:
        parsed: What was asked.
        found: The engine's answer, of arrays of NumPy.

    Raises:
        InputError: The model has no probabilities, or no names of its classes; or there is no picture.
    """
    return {name: _MAKERS[name](found) for name in parsed.outputs}


def _labels(found: Explanation[Array]) -> Array:
    if found.labels is None:
        raise InputError("outputs.labels: the names of this model's classes are not known")
    names = np.empty(found.targets.shape, object)
    names.flat[:] = [found.labels[target] for target in found.targets.flat]
    return names


def _overlays(found: Explanation[Array]) -> Array:
    if found.views is None:
        raise InputError("outputs.overlay: it is drawn on pictures, and the images came as numbers")
    drawings = np.empty(found.targets.shape, object)
    for place in np.ndindex(*drawings.shape):
        file = BytesIO()
        with naming("outputs.overlay"):
            found.overlay(*place).save(file, format="PNG")
        drawings[place] = file.getvalue()
    return drawings


def _probabilities(found: Explanation[Array]) -> Array:
    if np.isnan(found.probabilities).all():
        raise InputError("outputs.probabilities: this model gives plain numbers, which have none")
    return found.probabilities


_MAKERS: dict[str, Callable[[Explanation[Any]], Array]] = {
    "logits": lambda found: found.logits,
    "probabilities": _probabilities,
    "targets": lambda found: found.targets,
    "labels": _labels,
    "scores": lambda found: found.scores,
    "saliency": lambda found: found.maps,
    "raw": lambda found: found.raw,
    "flags": lambda found: found.flags,
    "overlay": _overlays,
}
