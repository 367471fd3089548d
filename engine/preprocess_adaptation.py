"""Preprocessing and model brought together: what the file does by itself is not done to its images again.

1. Where the file says what numbers it is made for, by its type or its first nodes, a preprocessing that has
   a name is taken for its resizing and cropping alone, and pixels 0 to 255 are spread over those numbers.
2. Without any, images are then resized to the file's size, and nothing else.
3. A model of one channel gets grey images, and the means of a named preprocessing's numbers.
4. A preprocessing that was spelt out is used as it is; one that cannot be meant for the file is refused where
   the file takes whole numbers, and warned of where it takes any.
"""

from __future__ import annotations

from dataclasses import replace

from onnx import TensorProto

from camrt.engine.caller_warnings import warn_caller
from camrt.engine.images.preprocess import Preprocessing
from camrt.errors import InputError, InputRangeWarning
from camrt.export.geometry.builtin_preprocessing import BuiltinPreprocessing
from camrt.export.rewrites.input_form import INTEGER_RANGES
from camrt.export.rewrites.interface import Interface

__all__ = ["Levels", "adapt_preprocessing", "expected_levels"]

Levels = tuple[float, float]
PIXELS: Levels = (0.0, 255.0)
PIXEL_TYPES = (TensorProto.UINT8, TensorProto.INT32)  # that hold pixels, where the graph says nothing else
MIN_LEVELS = 16  # whole numbers that an image's levels may fall together to
MAX_RANGE_RATIO = 16.0  # how many times wider one range may be than the other


def expected_levels(interface: Interface, front: BuiltinPreprocessing) -> Levels | None:
    """The lowest and highest number that a model is made for, where its file says so."""
    if front.levels is not None:
        return front.levels
    return PIXELS if interface.element in PIXEL_TYPES else None


def adapt_preprocessing(
    steps: Preprocessing | None, interface: Interface, front: BuiltinPreprocessing
) -> tuple[Preprocessing | None, list[str]]:
    """The preprocessing that a model's images get.

    Args:
        steps: What was asked for, or what the file's metadata say.
        interface: What the model takes.
        front: What it does before its first layer.

    Returns:
        The preprocessing, None where it is not known; and what was changed, in sentences.

    Raises:
        InputError: It makes other channels than the model takes, or numbers that the file cannot hold.
    """
    levels = expected_levels(interface, front)
    whole = interface.element in INTEGER_RANGES
    if steps is None:
        height, width = interface.height, interface.width
        if levels is None or height is None or width is None or interface.channels not in (1, 3):
            return None, []
        plain = Preprocessing.named("raw", (height, width), interface.channels)
        low, high = levels
        return rescale_to(plain, levels), [
            f"no preprocessing was given: images are resized to {height}×{width}, and their pixels given "
            f"as numbers from {low:g} to {high:g}, for which the file is made"
        ]
    name = steps.name
    if name is not None:
        steps = Preprocessing.named(name, steps.size, 1 if interface.channels == 1 else 3)
    if steps.channels != interface.channels:
        raise InputError(
            f"the preprocessing makes {steps.channels} colour channels of an image, and the model takes "
            f"{interface.channels}: leave preprocessing= out and pass arrays (N, {interface.channels}, H, W)"
        )
    if name is not None and levels is not None:
        plain = rescale_to(steps, levels)
        if plain == steps:
            return steps, []
        return plain, [
            f"preprocessing {name!r} is taken for its resizing and cropping alone: the file itself is made "
            f"for numbers from {levels[0]:g} to {levels[1]:g}"
        ]
    check_range(steps, levels, interface.element if whole else None)
    return steps, []


def rescale_to(steps: Preprocessing, levels: Levels) -> Preprocessing:
    """The same geometry, with pixels 0 to 255 spread over other numbers."""
    low, high = levels
    return replace(
        steps, scale=(high - low) / 255, mean=(-low,) * steps.channels, std=(1.0,) * steps.channels
    )


def check_range(steps: Preprocessing, levels: Levels | None, element: int | None) -> None:
    """Refuses or warns of a preprocessing whose numbers cannot be meant for the file.

    Args:
        steps: The preprocessing.
        levels: What the file is made for, where it says so.
        element: Its type, where that is one of whole numbers.
    """
    low, high = steps.levels
    told = f"the preprocessing makes numbers from {low:.4g} to {high:.4g}"
    if element is not None:
        least, most = INTEGER_RANGES[element]
        if high - low < MIN_LEVELS or low < least - 0.5 or high > most + 0.5:
            raise InputError(
                f"{told}, and the file takes whole numbers of type {TensorProto.DataType.Name(element)}, "
                f"{least:g} to {most:g}: say how pixels become those, with camrt.Preprocessing(size=(H, W), "
                "scale=...), scale=1 for pixels as they are"
            )
    elif levels is not None:
        share = (high - low) / (levels[1] - levels[0])
        if not 1 / MAX_RANGE_RATIO <= share <= MAX_RANGE_RATIO:
            warn_caller(
                f"{told}, and the file's first nodes are made for numbers from {levels[0]:g} to "
                f"{levels[1]:g}: it seems to normalise images itself",
                InputRangeWarning,
            )
