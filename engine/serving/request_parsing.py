"""What a request asks of an engine, read and checked before it is queued."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from typing import Any, TypeVar

from PIL import Image, UnidentifiedImageError

from camrt.engine.images.pillow_warnings import silence_pillow
from camrt.engine.methods import Method, make_method
from camrt.engine.option_text import freeze_lists, parse_value
from camrt.engine.serving.errors import TooLargeError, name_field
from camrt.engine.serving.limits import ServingLimits
from camrt.engine.serving.tensors import MOST_AXES, Array, Inference, texts
from camrt.errors import CamrtError, ImageError, InputError

__all__ = ["OUTPUTS", "PICTURE_FORMATS", "ParsedRequest", "naming", "parse_request"]

T = TypeVar("T")

OUTPUTS = ("logits", "probabilities", "targets", "labels", "scores", "saliency", "raw", "flags", "overlay")
"""Everything that can be asked for."""
EXPLAINED_OUTPUTS = frozenset(OUTPUTS) - {"logits", "probabilities"}
"""What takes an explanation; the others take a prediction."""
USUAL_OUTPUTS = ("logits", "targets", "saliency")
PICTURE_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")
"""Pillow's names of the formats that are taken from strangers."""
DEFAULT_METHOD = "pixab"
MOST_LETTERS = 1000  # of a name of a method, an option or a class
_MICROSECONDS = 1e-6


@dataclass(frozen=True)
class ParsedRequest:
    """A request, checked as far as that goes without the model's answer.

    Attributes:
        batch: Pictures, as the bytes of their files; or numbers (N, C, H, W).
        outputs: What goes back.
        method: What explains; None where a prediction is all that is asked for.
        targets: See `camrt.Engine.explain`, as are `top_k`, `size`, `fuse` and `dtype`.
        top_k: See there.
        size: See there.
        fuse: See there.
        dtype: See there.
        seconds: The request may take; None for what the service allows.
    """

    batch: list[bytes] | Array
    outputs: tuple[str, ...]
    method: Method | None
    targets: Any = None
    top_k: int | None = None
    size: Any = "image"
    fuse: Any = "mean"
    dtype: Any = None
    seconds: float | None = None


def parse_request(asked: Inference, limits: ServingLimits) -> ParsedRequest:
    """What a request asks.

    Args:
        asked: The request.
        limits: What it may be.

    Raises:
        CamrtError: Something is wrong with it; the message begins with the field.
    """
    outputs = tuple(dict.fromkeys(one.name for one in asked.outputs)) or USUAL_OUTPUTS
    for name in outputs:
        if name not in OUTPUTS:
            raise InputError(f"outputs.{name:.80}: there is no such output; there are {', '.join(OUTPUTS)}")
    unknown = sorted(set(asked.inputs) - {"images", "targets"})
    if unknown:
        raise InputError(f"inputs.{unknown[0]:.80}: there is no such input; there are images and targets")
    if "images" not in asked.inputs:
        raise InputError("inputs.images: it is missing")
    given = dict(asked.parameters)
    with naming("parameters.timeout"):
        seconds = read_timeout(given.pop("timeout", None))
    targets = read_targets(asked.inputs.get("targets"), given.pop("targets", None), asked.texts)
    with naming("targets"):
        check_lengths(targets)
    own = {name: given.pop(name) for name in ("top_k", "fuse", "dtype") if name in given}
    size = read_size(given.pop("size", "image"))
    name = given.pop("method", DEFAULT_METHOD)
    with naming("parameters.method"):
        check_lengths([name, *given])
        make_method(name, {})
    with naming("parameters"):
        method = make_method(name, read_options(given, asked.texts))
    explains = not EXPLAINED_OUTPUTS.isdisjoint(outputs)
    return ParsedRequest(
        batch=read_images(asked.inputs["images"], limits),
        outputs=outputs,
        method=method if explains else None,
        targets=targets,
        size=size,
        seconds=seconds,
        **own,
    )


@contextmanager
def naming(field: str) -> Iterator[None]:
    """Names a part of the request in the errors of the block."""
    try:
        yield
    except CamrtError as error:
        raise name_field(field, error) from None


def check_lengths(given: Any, depth: int = 0) -> None:
    """Refuses names beyond all measure, which would be compared with every name that there is.

    Args:
        given: A name, or lists of them, one in another.
        depth: In how many lists it is.

    Raises:
        InputError: There is one.
    """
    if isinstance(given, str) and len(given) > MOST_LETTERS:
        raise InputError(f"a name of {len(given)} letters; none has more than {MOST_LETTERS}")
    if depth > MOST_AXES:
        raise InputError("lists in one another are too deep")
    if isinstance(given, (list, tuple)):
        for one in given:
            check_lengths(one, depth + 1)


def read_timeout(value: Any) -> float | None:
    """The seconds of a `timeout`, which the protocol's clients send in microseconds."""
    if value is None:
        return None
    if type(value) is not int or not 0 < value < 1 << 62:
        raise InputError(f"{value!r:.40} must be a whole number of microseconds above 0")
    return value * _MICROSECONDS


def read_options(given: Mapping[str, Any], as_text: bool) -> dict[str, Any]:
    """A method's options: texts of version 2 are read as on the command line."""
    try:
        return {
            name: parse_value(value) if as_text and isinstance(value, str) else freeze_lists(value)
            for name, value in given.items()
        }
    except RecursionError:
        raise InputError("lists in one another are too deep") from None


def read_targets(tensor: Array | None, parameter: Any, as_text: bool) -> Any:
    """Targets: an input, or a parameter where one class, or a list in JSON, is meant for all images."""
    if tensor is not None and parameter is not None:
        raise InputError("parameters.targets: targets are an input already; give one of them")
    if tensor is not None:
        return texts("inputs.targets", tensor) if tensor.dtype.kind == "O" else tensor
    if as_text and isinstance(parameter, str):
        parsed = parse_value(parameter)
        return list(parsed) if isinstance(parsed, tuple) else parsed if type(parsed) is int else parameter
    return parameter


def read_size(value: Any) -> Any:
    """A size as text, "224x224", in the engine's form; all else is left to the engine."""
    match = re.fullmatch(r"(\d{1,6})[xX](\d{1,6})", value) if isinstance(value, str) else None
    return (int(match[1]), int(match[2])) if match else value


def read_images(tensor: Array, limits: ServingLimits) -> list[bytes] | Array:
    """The pictures or the numbers of a request, within limits."""
    if not tensor.ndim:
        raise InputError("inputs.images: its shape must be [N] of pictures, or [N, C, H, W] of numbers")
    limits.check_images(len(tensor))
    if tensor.dtype.kind != "O":
        return tensor
    if tensor.ndim > 2 or tensor.size != len(tensor):  # Triton's clients send (N, 1)
        raise InputError(f"inputs.images: pictures must have shape [N], not {list(tensor.shape)}")
    pictures: list[bytes] = tensor.ravel().tolist()
    for number, picture in enumerate(pictures):
        with naming(f"inputs.images[{number}]"):
            check_picture(picture, limits.pixels)
    return pictures


def check_picture(content: bytes, most_pixels: int) -> None:
    """Refuses a picture by what its beginning says, before a pixel is decoded.

    Raises:
        TooLargeError: It has too many pixels.
        ImageError: It is no picture of a format that is taken.
    """
    formats = ", ".join(PICTURE_FORMATS)
    try:
        with silence_pillow(), Image.open(BytesIO(content), formats=PICTURE_FORMATS) as image:
            width, height = image.size
    except Image.DecompressionBombError:
        raise TooLargeError(f"the picture has more than {most_pixels} pixels") from None
    except UnidentifiedImageError:
        raise ImageError(f"not a picture of a format that is taken: {formats}") from None
    except Exception as error:  # damaged files make Pillow raise almost anything
        raise ImageError(f"a damaged picture, or of no format that is taken ({formats}): {error}") from None
    if width * height > most_pixels:
        raise TooLargeError(f"the picture has {width}x{height} pixels, at most {most_pixels} are taken")
