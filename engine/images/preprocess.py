"""How an image becomes the numbers a model wants, and back.

A `Preprocessing` is a value: it can be named ("imagenet"), written into an ONNX file's metadata as
JSON, and compared. Its two steps are kept apart, since an overlay is drawn on the outcome of the first:

    image --view--> the pixels the model sees (PIL, RGB) --array--> (C, H, W) float32
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from numbers import Real
from operator import index
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from camrt.engine.images.framing import Framing
from camrt.engine.images.read import read_image
from camrt.errors import InputError
from camrt.export.geometry.region import Region

__all__ = ["METADATA_KEY", "NAMES", "Preprocessing"]

METADATA_KEY = "camrt.preprocessing"
"""The ONNX metadata key under which `Preprocessing.to_json` is stored."""

_IMAGENET: dict[str, Any] = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
_NAMED: dict[str, dict[str, Any]] = {
    "imagenet": {**_IMAGENET, "resize": "crop", "crop_fraction": 0.875},
    "imagenet-squash": {**_IMAGENET, "resize": "squash"},
    "tf": {"scale": 1 / 127.5, "mean": (1.0,), "std": (1.0,)},
    "unit": {},
    "raw": {"scale": 1.0},
}
NAMES: tuple[str, ...] = tuple(_NAMED)
"""What `Preprocessing.named` knows."""

_COLOURS = ("RGB", "BGR", "L")
_RESIZES = ("squash", "crop")
_FILTERS = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "nearest": Image.Resampling.NEAREST,
}
_LONGEST_SIDE = 16384  # far above any classifier's input; bounds what a hostile file can ask for
_SMALLEST_CROP = 0.01


@dataclass(frozen=True)
class Preprocessing:
    """The steps from an image to a model's input: x = (pixel · scale − mean) / std.

    Args:
        size: (H, W), the pixels the model wants.
        mean: One number, or one a channel, in the model's channel order.
        std: The same; positive.
        scale: Multiplies the 8-bit pixels first.
        colours: The model's channel order; "L" is one grey channel.
        resize: "squash" resizes the whole image to `size`, ignoring its proportions; "crop" keeps them:
            the short side goes to round(size / crop_fraction), then the centre is cut out, as in
            torchvision's evaluation transform.
        crop_fraction: Used by "crop" alone; in [0.01, 1].
        interpolation: Pillow's filter of that name (antialiased, except "nearest").

    Raises:
        InputError: A field of the wrong type or out of range; the message names it.
    """

    size: tuple[int, int]
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    std: tuple[float, ...] = (1.0, 1.0, 1.0)
    scale: float = 1 / 255
    colours: Literal["RGB", "BGR", "L"] = "RGB"
    resize: Literal["squash", "crop"] = "squash"
    crop_fraction: float = 0.875
    interpolation: Literal["bilinear", "bicubic", "nearest"] = "bilinear"

    def __post_init__(self) -> None:
        _one_of("colours", self.colours, _COLOURS)
        _one_of("resize", self.resize, _RESIZES)
        _one_of("interpolation", self.interpolation, tuple(_FILTERS))
        checked = {
            "size": _size(self.size),
            "mean": _per_channel("mean", self.mean, self.channels),
            "std": _per_channel("std", self.std, self.channels),
            "scale": _number("scale", self.scale),
            "crop_fraction": _number("crop_fraction", self.crop_fraction),
        }
        for name, value in checked.items():
            object.__setattr__(self, name, value)
        if min(self.std) <= 0:
            raise InputError(f"preprocessing: std must be positive, got {self.std}")
        if self.scale <= 0:
            raise InputError(f"preprocessing: scale must be positive, got {self.scale}")
        if not _SMALLEST_CROP <= self.crop_fraction <= 1:
            raise InputError(
                f"preprocessing: crop_fraction must be in [{_SMALLEST_CROP}, 1], got {self.crop_fraction}"
            )

    @property
    def channels(self) -> int:
        """C, the channels of the model's input: 1 for grey, otherwise 3."""
        return 1 if self.colours == "L" else 3

    @classmethod
    def named(cls, name: str, size: tuple[int, int] | None, channels: int = 3) -> Self:
        """The preprocessing of that name, at (H, W).

        "imagenet" is torchvision's evaluation transform (centre crop); "imagenet-squash" the same numbers
        on the whole image; "tf" maps pixels to [−1, 1]; "unit" to [0, 1]; "raw" leaves them, 0 to 255.

        Args:
            name: The name.
            size: (H, W).
            channels: 1 for a grey image, normalised by the means of the colours' numbers; otherwise 3.

        Raises:
            InputError: An unknown name, or no size.
        """
        if name not in _NAMED:
            raise InputError(f"preprocessing: unknown name {name!r}; known names: {', '.join(NAMES)}")
        given = dict(_NAMED[name])
        if channels == 1:
            given["colours"] = "L"
            given |= {key: (sum(given[key]) / len(given[key]),) for key in ("mean", "std") if key in given}
        return cls._from_fields(given, size)

    @property
    def name(self) -> str | None:
        """The name that stands for these steps at this size; None where none does."""
        return next((name for name in NAMES if self == self.named(name, self.size, self.channels)), None)

    @property
    def levels(self) -> tuple[float, float]:
        """The lowest and the highest number that it makes of a pixel."""
        ends = [
            (level * self.scale - mean) / std
            for level in (0, 255)
            for mean, std in zip(self.mean, self.std, strict=True)
        ]
        return min(ends), max(ends)

    @classmethod
    def coerce(
        cls, value: Preprocessing | str | Mapping[str, Any] | None, size: tuple[int, int] | None = None
    ) -> Preprocessing | None:
        """A preprocessing from whatever a caller may give.

        Args:
            value: A preprocessing (returned as it is), a name, a mapping of fields, or None (returned).
            size: (H, W) the model wants, for a name and for a mapping without "size".

        Raises:
            InputError: An unknown name or key, a value of the wrong type, or a size nobody gave.
        """
        if value is None or isinstance(value, Preprocessing):
            return value
        if isinstance(value, str):
            return cls.named(value, size)
        if isinstance(value, Mapping):
            return cls._from_fields(value, size)
        raise InputError(
            f"preprocessing: expected a Preprocessing, a name, a mapping or None, got {type(value).__name__}"
        )

    def to_json(self) -> str:
        """One line of JSON, an object whose keys are the fields."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str, size: tuple[int, int] | None = None) -> Self:
        """The inverse of `to_json`; missing keys take their defaults.

        Args:
            text: A JSON object.
            size: (H, W), for an object without "size".

        Raises:
            InputError: Not a JSON object, an unknown key, a value of the wrong type, or no size.
        """
        try:
            value = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise InputError(f"preprocessing: not valid JSON: {error}") from None
        if not isinstance(value, dict):
            raise InputError(f"preprocessing: expected a JSON object, got {type(value).__name__}")
        return cls._from_fields(value, size)

    @classmethod
    def _from_fields(cls, given: Mapping[str, Any], size: tuple[int, int] | None) -> Self:
        known = [field.name for field in fields(cls)]
        unknown = [str(key) for key in given if key not in known]
        if unknown:
            raise InputError(
                f"preprocessing: unknown key {', '.join(map(repr, unknown))}; known keys: {', '.join(known)}"
            )
        complete = dict(given) if size is None else {"size": size, **given}
        if "size" not in complete:
            raise InputError("preprocessing: its size (H, W) is stated neither here nor by the model")
        return cls(**complete)

    def view(self, image: Image.Image) -> Image.Image:
        """The pixels the model will see.

        Args:
            image: Any image; anything but RGB goes through `camrt.engine.images.read.read_image`.

        Returns:
            An RGB image of `size`; grey when the model sees grey.

        Raises:
            ImageError: An image without pixels, or of a kind that has no RGB form.
        """
        if image.mode != "RGB" or 0 in image.size:
            image = read_image(image)
        if self.colours == "L":
            image = image.convert("L")
        height, width = self.size
        box = self.framing((image.height, image.width)).region.box
        view = image.resize((width, height), _FILTERS[self.interpolation], box=box)
        return view.convert("RGB")

    def framing(self, image: tuple[int, int]) -> Framing:
        """The part of an image (H, W) that the model sees.

        Resizing this box to `size` is resizing the whole and then cropping, without ever building the
        resized whole, which for a very long image would be huge.
        """
        if self.resize == "squash":
            return Framing.whole(image)
        height, width = image
        H, W = self.size
        tall, wide = round(H / self.crop_fraction), round(W / self.crop_fraction)
        if tall * width >= wide * height:
            wide = tall * width // height
        else:
            tall = wide * height // width
        left, upper = round((wide - W) / 2), round((tall - H) / 2)
        region = Region(
            left * width / wide,
            upper * height / tall,
            min((left + W) * width / wide, width),
            min((upper + H) * height / tall, height),
        )
        return Framing(image, region)

    def array(self, view: Image.Image) -> NDArray[np.float32]:
        """The model's input for one view.

        Args:
            view: An image of `size`, from `view`.

        Returns:
            (C, H, W) float32, each number rounded once.

        Raises:
            InputError: A view of another size.
        """
        height, width = self.size
        if view.size != (width, height):
            raise InputError(
                f"preprocessing: the view is {view.height}x{view.width} (HxW), expected {height}x{width}"
            )
        pixels = np.asarray(view.convert("L" if self.colours == "L" else "RGB"))
        planes = pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
        if self.colours == "BGR":
            planes = planes[::-1]
        levels = np.arange(256) * self.scale
        array = np.empty((self.channels, height, width), np.float32)
        for channel, (mean, std) in enumerate(zip(self.mean, self.std, strict=True)):
            table = ((levels - mean) / std).astype(np.float32)
            array[channel] = table[planes[channel]]
        return array

    def image(self, array: NDArray[np.floating[Any]]) -> Image.Image:
        """The inverse of `array`, for inputs that came as numbers.

        Args:
            array: (C, H, W), of any H and W; what falls outside [0, 255] as a pixel is clipped.

        Returns:
            An RGB image.

        Raises:
            InputError: Another shape, or numbers that are not finite.
        """
        array = np.asarray(array)
        if array.ndim != 3 or array.shape[0] != self.channels or 0 in array.shape:
            raise InputError(f"preprocessing: expected ({self.channels}, H, W), got {array.shape}")
        if not np.isfinite(array).all():
            raise InputError("preprocessing: the array holds numbers that are not finite")
        mean, std = (np.asarray(values)[:, None, None] for values in (self.mean, self.std))
        planes = np.rint((array * std + mean) / self.scale).clip(0, 255).astype(np.uint8)
        if self.colours == "BGR":
            planes = planes[::-1]
        return Image.fromarray(np.broadcast_to(planes, (3, *planes.shape[1:])).transpose(1, 2, 0).copy())


def _one_of(name: str, value: object, allowed: tuple[str, ...]) -> None:
    if not isinstance(value, str) or value not in allowed:
        raise InputError(f"preprocessing: {name} must be one of {', '.join(allowed)}, got {value!r}")


def _number(name: str, value: object) -> float:
    try:
        number = math.nan if isinstance(value, bool) or not isinstance(value, Real) else float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise InputError(f"preprocessing: {name} must be a finite number, got {value!r:.60}")
    return number


def _per_channel(name: str, value: object, channels: int) -> tuple[float, ...]:
    if not isinstance(value, Sequence | np.ndarray) or isinstance(value, str):
        raise InputError(f"preprocessing: {name} must be a list of numbers, got {value!r:.60}")
    numbers = tuple(_number(name, item) for item in value)
    if len(set(numbers)) == 1 and len(numbers) in (1, 3):
        return numbers[:1] * channels
    if len(numbers) != channels:
        allowed = "1 number" if channels == 1 else f"1 or {channels} numbers"
        raise InputError(f"preprocessing: {name} must hold {allowed}, got {len(numbers)}")
    return numbers


def _size(value: object) -> tuple[int, int]:
    try:
        if not isinstance(value, Sequence | np.ndarray) or any(isinstance(side, bool) for side in value):
            raise TypeError
        height, width = (index(side) for side in value)
    except (TypeError, ValueError):
        raise InputError(f"preprocessing: size must be two whole numbers (H, W), got {value!r:.60}") from None
    if not (1 <= height <= _LONGEST_SIDE and 1 <= width <= _LONGEST_SIDE):
        raise InputError(
            f"preprocessing: each side of size must be in [1, {_LONGEST_SIDE}], got {(height, width)}"
        )
    return height, width
