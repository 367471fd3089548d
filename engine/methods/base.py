"""What every method is: a frozen dataclass of options that turns answers into raw maps."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, fields
from functools import cache
from types import NoneType, UnionType
from typing import Any, ClassVar, Literal, Union, get_args, get_origin, get_type_hints

from typing_extensions import override

from camrt.engine.arrays import library
from camrt.engine.augmentation import AUGMENTATIONS
from camrt.engine.contrast import Contrast
from camrt.engine.heads import Head
from camrt.engine.methods.components import component_along_sum
from camrt.engine.queries import HeadQueries, Need
from camrt.errors import MethodError

__all__ = ["ChannelMethod", "Cost", "DrawnMethod", "MapShape", "Method", "Need", "weighted_sum"]

Array = Any  # of NumPy or of torch, see `camrt.engine.arrays`
CONTRAST_OPTIONS = ("contrast", "strength", "rivals", "counterfactual")
SHARED_OPTIONS = (*CONTRAST_OPTIONS, "absolute", "smooth")
"""Options that every method takes, told of only where they are given."""
SAME_FOR_EVERY_CLASS = "its map is the same for every class"
"""Why a map cannot be of a contrast."""
MAGNITUDES = "its map is of magnitudes, which a negative score has too"
"""Why a map cannot be counterfactual."""


@dataclass(frozen=True)
class MapShape:
    """Size of the activation at the cut: channels K, cells h×w.

    Attributes:
        channels: K.
        height: h.
        width: w.
        image: (H, W) of the model's input, where it is fixed.
    """

    channels: int
    height: int
    width: int
    image: tuple[int, int] | None = None


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
        contrast: Other classes d, for why this one and not those: every score the method asks for, logit or
            probability, is s_c − γ · mean_d s_d. One class or several; or (T, R), as many for each of T
            targets; or "similar", the classes whose logits are nearest to the target's: Finer-CAM
            ("Finer-CAM: Spotting the Difference Reveals Finer Details for Visual Explanation", Zhang et al.,
            CVPR 2025). With "similar-weighted" these count by the softmax of their logits, through which the
            gradient goes, as in the pytorch-grad-cam package (but for the 1e-9 that it adds to a
            denominator). A class against itself has a map of zeros.
        strength: γ; None takes Finer-CAM's 0.6 for "similar", else 1.
        rivals: How many similar classes; None takes 3, or all others where there are fewer.
        counterfactual: Every score is negative: the map shows what speaks against the class ("Grad-CAM",
            Selvaraju et al., IJCV 2020, section 3.3).
        absolute: Magnitudes are shown of what speaks for and against, instead of cutting off the one.
        smooth: "augment": the mean of the saliency of six copies of each image, mirrored or not and times 1,
            0.9 or 1.1 as the model takes it, laid back on the image; it is not brought to [0, 1] again.
            "eigen", of maps that are a sum over channels: their first principal component instead of their
            sum, centred, with the sign that goes along with the sum. Both as in the pytorch-grad-cam package,
            where the sign of the second is left to chance. On a GPU torch's eigh waits for the device.
    """

    name: ClassVar[str]
    fusion: ClassVar[Literal["product"] | None] = None
    """How the maps of several layers become one, where the method says it; it then needs several."""
    sums_channels: ClassVar[bool] = False
    """Whether the map is a sum over channels, which `weighted_activations` gives."""
    no_contrast: ClassVar[str] = ""
    """Why the map cannot be of another score than the class's own; empty where it can."""
    needs: ClassVar[frozenset[Need]] = frozenset()
    """What `raw` asks for that not every pass through the trunk fetches; what is not declared is refused."""

    postprocess: Literal["native", "library"] = "native"
    normalisation: Literal["max", "minmax"] = "max"
    contrast: Any = None
    strength: float | None = None
    rivals: int | None = None
    counterfactual: bool = False
    absolute: bool = False
    smooth: Literal["augment", "eigen"] | None = None

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls.__repr__ = Method.__repr__  # type: ignore[method-assign]  # dataclasses leave what is there

    def __repr__(self) -> str:
        """The class with its options, those of every method only where they are given."""
        shown = [
            f"{field.name}={getattr(self, field.name)!r}"
            for field in fields(self)
            if field.name not in SHARED_OPTIONS or getattr(self, field.name) != field.default
        ]
        return f"{type(self).__name__}({', '.join(shown)})"

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

        for option, refusal in (
            ("contrast", self.no_contrast),
            ("counterfactual", self.no_contrast or self.no_counterfactual),
        ):
            value = getattr(self, option)
            if refusal and value is not None and value is not False:
                raise MethodError(f"{self.name}: {option}={value!r} is not for it: {refusal}")
        object.__setattr__(self, "contrast", self.score_contrast.against)
        if self.smooth == "eigen" and not self.sums_channels:
            raise MethodError(f"{self.name}: smooth='eigen' is not for it: its map is no sum over channels")

    @property
    def no_counterfactual(self) -> str:
        """Why the map cannot be of a negative score; empty where it can."""
        return ""

    @property
    def score_contrast(self) -> Contrast:
        """What the scores are held against."""
        return Contrast.of_options(self.contrast, self.strength, self.rivals, self.counterfactual)

    def require_integer(self, option: str, least: int) -> None:
        """Refuses an option that is not a whole number of at least `least`."""
        value = getattr(self, option)
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise MethodError(f"{self.name}: {option}={value!r} must be a whole number >= {least}")

    def require_number(
        self, option: str, least: float = -math.inf, *, above: float = -math.inf, most: float = math.inf
    ) -> None:
        """Refuses an option that is not a finite number from `least`, or above `above`, to `most`."""
        value = getattr(self, option)
        number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
        if not number or value < least or value <= above or value > most:
            bound = f" >= {least:g}" if least > -math.inf else f" > {above:g}" if above > -math.inf else ""
            bound += f" and <= {most:g}" if most < math.inf else ""
            raise MethodError(f"{self.name}: {option}={value!r} must be a number{bound}")

    @property
    def applies_relu(self) -> bool:
        """Whether negative values are cut off before normalisation."""
        return True

    @abstractmethod
    def raw(self, queries: HeadQueries) -> tuple[Array, Array]:
        """Raw maps (N, T, h, w), before ReLU and normalisation, and the scores (N, T) they explain."""

    def raw_with_uncertainty(self, queries: HeadQueries) -> tuple[Array, Array, Array | None]:
        """What `raw` gives, and the standard error of the raw maps over what is drawn for them.

        None of a method that draws nothing, or does not say.
        """
        return *self.raw(queries), None

    def weighted_activations(self, queries: HeadQueries) -> tuple[Iterator[Array], Array]:
        """For each target what a map that `sums_channels` is the sum of, (N, K, h, w); and the scores."""
        raise NotImplementedError

    def smoothed_raw(self, queries: HeadQueries) -> tuple[Array, Array, Array | None]:
        """Raw maps, scores and uncertainty with `smooth` taken into account as far as one image goes."""
        if self.smooth != "eigen":
            return self.raw_with_uncertainty(queries)
        products, scores = self.weighted_activations(queries)
        maps = [component_along_sum(product) for product in products]
        return library(*maps).stack(maps, axis=1), scores, None

    def displayed(self, raw: Array) -> Array:
        """What of raw maps is made into saliency: they themselves, or their magnitudes."""
        return library(raw).abs(raw) if self.absolute else raw

    def cost_of_all(self, head: Head, shape: MapShape) -> Cost:
        """`cost`, of all copies of an image that a map is made of."""
        one, copies = self.cost(head, shape), len(AUGMENTATIONS)
        if self.smooth != "augment":
            return one
        return Cost(
            copies * one.head,
            copies * one.full + copies - 1,
            f"{one.why}; of {copies} copies of the image",
            head_adjoint=copies * one.head_adjoint,
            full_adjoint=copies * one.full_adjoint,
        )

    @abstractmethod
    def cost(self, head: Head, shape: MapShape) -> Cost:
        """What a map costs on a head, all target classes together."""


class DrawnMethod(Method):
    """A method that draws at random, and says how far its maps may be from what they tend to."""

    @abstractmethod
    @override
    def raw_with_uncertainty(self, queries: HeadQueries) -> tuple[Array, Array, Array]: ...

    @override
    def raw(self, queries: HeadQueries) -> tuple[Array, Array]:
        return self.raw_with_uncertainty(queries)[:2]


class ChannelMethod(Method):
    """A method whose map is a weighted sum of the activation's channels, Σ_k α_k · A_k."""

    sums_channels: ClassVar[bool] = True

    @abstractmethod
    def weights(self, queries: HeadQueries) -> tuple[Array, Array]:
        """The channels' weights α (N, T, K), and the scores (N, T) they explain."""

    @override
    def raw(self, queries: HeadQueries) -> tuple[Array, Array]:
        weights, scores = self.weights(queries)
        return weighted_sum(weights, queries.activations), scores

    @override
    def weighted_activations(self, queries: HeadQueries) -> tuple[Iterator[Array], Array]:
        weights, scores = self.weights(queries)
        each = (weights[:, target, :, None, None] for target in range(weights.shape[1]))
        return (some * queries.activations for some in each), scores


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
