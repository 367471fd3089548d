"""What every method is: a frozen dataclass of options that turns answers into raw maps."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, fields
from functools import cache
from types import NoneType, UnionType
from typing import Any, ClassVar, Literal, Union, get_args, get_origin, get_type_hints

from typing_extensions import override

from camrt.engine.arrays import library
from camrt.engine.heads import Head
from camrt.engine.queries import HeadQueries, Need
from camrt.errors import MethodError

__all__ = ["ChannelMethod", "Cost", "MapShape", "Method", "Need", "weighted_sum"]

Array = Any  # of NumPy or of torch, see `camrt.engine.arrays`


@dataclass(frozen=True)
class MapShape:
    """Size of the activation at the cut: channels K, cells h×w."""

    channels: int
    height: int
    width: int


@dataclass(frozen=True)
class Cost:
    """What a map costs beside the one trunk pass an image.

    Attributes:
        head: Passes through the head, or a part of it, at most.
        full: Passes through the whole model, at most.
        why: The reason, in a few words.
        head_adjoint: Passes through the head and back, a target.
        full_adjoint: Passes through the whole model and back, a target.
    """

    head: int
    full: int
    why: str
    head_adjoint: int = 0
    full_adjoint: int = 0


@dataclass(frozen=True, kw_only=True)
class Method(ABC):
    """Options every method has.

    Attributes:
        postprocess: From raw map to saliency. "native": ReLU, normalisation, bilinear upsampling with
            half-pixel centres. "library": ReLU and min-max, upsampling, ReLU and min-max again, as the
            pytorch-grad-cam package does.
        normalisation: Within "native": "max" divides by the largest value, "minmax" takes the smallest off
            first.
    """

    name: ClassVar[str]
    needs: ClassVar[frozenset[Need]] = frozenset()
    """What `raw` asks for that not every pass through the trunk fetches; what is not declared is refused."""

    postprocess: Literal["native", "library"] = "native"
    normalisation: Literal["max", "minmax"] = "max"

    def __post_init__(self) -> None:
        hints = type_hints(type(self))
        for field in fields(self):
            hint, value = hints[field.name], getattr(self, field.name)
            choices = literal_choices(hint)
            if choices and not (isinstance(value, (str, NoneType)) and value in choices):
                raise MethodError(
                    f"{self.name}: {field.name}={value!r} is not understood; choose from "
                    f"{', '.join(map(repr, choices))}"
                )
            if hint is bool and not isinstance(value, bool):
                raise MethodError(f"{self.name}: {field.name}={value!r} must be True or False")

    def require_integer(self, option: str, least: int) -> None:
        """Refuses an option that is not a whole number of at least `least`."""
        value = getattr(self, option)
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise MethodError(f"{self.name}: {option}={value!r} must be a whole number >= {least}")

    @property
    def applies_relu(self) -> bool:
        """Whether negative values are cut off before normalisation."""
        return True

    @abstractmethod
    def raw(self, queries: HeadQueries) -> tuple[Array, Array]:
        """Raw maps (N, T, h, w), before ReLU and normalisation, and the scores (N, T) they explain."""

    @abstractmethod
    def cost(self, head: Head, shape: MapShape) -> Cost:
        """What a map costs on a head, all target classes together."""


class ChannelMethod(Method):
    """A method whose map is a weighted sum of the activation's channels, Σ_k α_k · A_k."""

    @abstractmethod
    def weights(self, queries: HeadQueries) -> tuple[Array, Array]:
        """The channels' weights α (N, T, K), and the scores (N, T) they explain."""

    @override
    def raw(self, queries: HeadQueries) -> tuple[Array, Array]:
        weights, scores = self.weights(queries)
        return weighted_sum(weights, queries.activations), scores


@cache
def type_hints(kind: type) -> dict[str, Any]:
    """A class's type hints: they are strings until Python compiles them, and are so once."""
    return get_type_hints(kind)


@cache
def literal_choices(hint: Any) -> tuple[str | None, ...]:
    """The values that a `Literal`, or an optional one, allows; none for any other type."""
    parts = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    if not any(get_origin(part) is Literal for part in parts):
        return ()
    return tuple(value for part in parts for value in (get_args(part) or (None,)))


def weighted_sum(weights: Array, activations: Array) -> Array:
    """Σ_k weights[n, t, k] · activations[n, k]: (N, T, h, w)."""
    xp = library(weights, activations)
    flat = xp.reshape(activations, (*activations.shape[:2], -1))
    maps = xp.matmul(xp.astype(weights, activations.dtype), flat)
    return xp.reshape(maps, (*weights.shape[:2], *activations.shape[2:]))
