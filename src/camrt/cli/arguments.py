"""Reading the command line's arguments: what they mean, or a clear error."""

from __future__ import annotations

import glob
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

from camrt.cli.output import print_left_out
from camrt.default import resolve_model_path
from camrt.errors import InputError, TargetError

if TYPE_CHECKING:
    from camrt.engine.batch import MapSize
    from camrt.engine.engine import Engine
    from camrt.engine.images.preprocess import Preprocessing

__all__ = [
    "draw_images",
    "engine_preprocessing",
    "model_and_images",
    "parse_bytes",
    "parse_map_size",
    "parse_pair",
    "parse_seconds",
    "parse_size",
    "parse_target",
    "read_labels",
    "read_preprocessing",
]


MODEL_SUFFIXES = frozenset({".onnx", ".ort", ".pt2", ".pt", ".pth", ".pb", ".tflite", ".h5", ".safetensors"})
"""How files of models end, those among them that camrt refuses to load."""


def model_and_images(first: str, others: Sequence[str]) -> tuple[Path | None, list[str]]:
    """The model file, and the sources of images, that positional arguments mean.

    The first is the model, unless it can be nothing but images by its name: that of an image, list or
    archive, a pattern, or a folder. Then all are images, for the embedded classifier.

    Args:
        first: The first argument.
        others: Those behind it.

    Returns:
        The model, None where none is named; and the images.

    Raises:
        InputError: There are no images, or a model stands among them.
    """
    models = [one for one in others if PurePath(one).suffix.lower() in MODEL_SUFFIXES]
    if models:
        raise InputError(f"{models[0]} is a model: first the model, then the images")
    if is_images(first):
        return None, [first, *others]
    if not others:
        raise InputError(f"give the images to explain after the model: camrt explain {first} IMAGES...")
    return resolve_model_path(first), list(others)


def is_images(source: str) -> bool:
    """Whether an argument can be nothing but images, by its name alone or because it is a folder."""
    from camrt.engine.images.read import is_image_name
    from camrt.engine.runs.path_lists import LIST_SUFFIXES
    from camrt.engine.runs.tar_archives import ARCHIVE_SUFFIXES

    suffix = PurePath(source).suffix.lower()
    named = is_image_name(source) or suffix in LIST_SUFFIXES | ARCHIVE_SUFFIXES
    return named or (suffix not in MODEL_SUFFIXES and (Path(source).is_dir() or glob.has_magic(source)))


def draw_images(paths: Sequence[Path], limit: int | None, seed: int) -> list[Path]:
    """The images under some paths: all, or `limit` of them, drawn with the seed, in their order.

    Raises:
        ImageError: A path does not exist, or a folder holds no image.
    """
    from numpy.random import default_rng

    from camrt.engine.images.read import find_images

    found = list(find_images(paths, on_results=print_left_out))
    if limit is None or limit >= len(found):
        return found
    return [found[place] for place in sorted(default_rng(seed).choice(len(found), limit, replace=False))]


def parse_size(text: str | None) -> tuple[int, int] | None:
    """(H, W) of a --size such as 224x224."""
    return None if text is None else parse_pair("--size", text)


def parse_map_size(text: str) -> MapSize:
    """The maps' size that --map-size says: image, map or HxW."""
    named: dict[str, MapSize] = {"image": "image", "map": "map"}
    return named.get(text) or parse_pair("--map-size", text)


def parse_pair(option: str, text: str) -> tuple[int, int]:
    """(H, W) of an option such as 224x224."""
    match = re.fullmatch(r"(\d{1,6})[xX](\d{1,6})", text)
    if match is None:
        raise InputError(f"{option} must be HxW, such as 224x224, got {text!r}")
    return int(match[1]), int(match[2])


def parse_bytes(option: str, text: str) -> int:
    """Bytes of an option such as 2GiB, 500MB or 1000000."""
    match = re.fullmatch(r"([0-9]{1,18}(?:\.[0-9]{1,18})?)\s*(?:([kmgt])(i?))?b?", text.strip().lower())
    count = 0.0
    if match is not None:
        number, prefix, binary = match.groups()
        count = float(number) * (1024 if binary else 1000) ** (" kmgt".index(prefix) if prefix else 0)
    if not 1 <= count < 1 << 60:
        raise InputError(f"{option} must be a number of bytes, such as 2GiB, 500MB or 1000000, got {text!r}")
    return int(count)


def parse_seconds(option: str, text: str) -> float:
    """Seconds of an option such as 30 or 2.5; inf for no bound."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not seconds > 0:
        raise InputError(
            f"{option} must be seconds above zero, such as 30, or inf for no bound; got {text!r}"
        )
    return seconds


def read_labels(path: Path | None) -> tuple[str, ...] | dict[int, str] | None:
    """Class names of a --labels file: a JSON array or object, or one a line."""
    from camrt.engine.options import read_label_file

    if path is None:
        return None
    found = read_label_file(path, f"--labels {path}")
    return found if isinstance(found, dict) else tuple(found)


def read_preprocessing(
    value: str | None, size: tuple[int, int] | None
) -> Preprocessing | str | Mapping[str, Any] | None:
    """What to give to `load`: complete where --size is given, else for the model's own size."""
    from camrt.engine.images.preprocess import NAMES, Preprocessing
    from camrt.engine.options import read_text_file

    if value is None:
        return None
    given: Any = value
    if value not in NAMES:
        if not Path(value).is_file():
            raise InputError(f"--preprocessing {value}: neither one of {', '.join(NAMES)} nor a JSON file")
        try:
            given = json.loads(read_text_file(Path(value), f"--preprocessing {value}"))
        except (ValueError, RecursionError) as error:
            raise InputError(f"--preprocessing {value}: not valid JSON: {error}") from None
        if not isinstance(given, dict):
            raise InputError(f"--preprocessing {value}: expected a JSON object")
        if not given:
            keys = ", ".join(one.name for one in fields(Preprocessing))
            raise InputError(f"--preprocessing {value}: it says nothing; its keys are {keys}")
        if size is not None:
            given["size"] = size
    return given if size is None else Preprocessing.coerce(given, size)


def engine_preprocessing(engine: Engine, size: tuple[int, int] | None) -> Preprocessing:
    """The engine's preprocessing, at the size of --size where it is given."""
    from camrt.engine.images.preprocess import NAMES

    if engine.preprocessing is None:
        raise InputError(
            "the model does not say how it wants its images prepared; "
            f"say --preprocessing {'|'.join(NAMES)}, or a JSON file"
        )
    return engine.preprocessing if size is None else replace(engine.preprocessing, size=size)


def parse_target(text: str, engine: Engine) -> int:
    """The class that a --target means: an index, or a name."""
    from camrt.engine.targets import find_class

    if re.fullmatch(r"[+-]?\d{1,18}", text):
        if not 0 <= int(text) < engine.num_classes:
            raise TargetError(f"--target {text}: classes are 0 to {engine.num_classes - 1}")
        return int(text)
    if not engine.labels:
        raise TargetError(f"--target {text}: the model has no class names; give an index, or --labels FILE")
    try:
        return find_class(text, engine.labels)
    except TargetError as error:
        raise TargetError(f"--target {text}: {error}") from None
