"""Guided back-propagation, alone and times any class-activation map."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, make_dataclass
from functools import cache
from typing import Any, ClassVar, Literal

from camrt.engine.arrays import library
from camrt.engine.heads import Head
from camrt.engine.images.framing import uncropped_saliency
from camrt.engine.methods.base import CONTRAST_OPTIONS, Cost, MapShape, Method, type_hints
from camrt.engine.methods.pixels import Array, Gradient, gaussian_blur
from camrt.engine.queries import HeadQueries, Need
from camrt.engine.scores import ScoreKind
from camrt.export.adjoint import ReluRule

__all__ = ["GuidedBackpropagation", "GuidedMethod", "times_guided"]


@dataclass(frozen=True, kw_only=True)
class GuidedBackpropagation(Gradient):
    """Guided back-propagation: V(x) with ReLUs that pass on only gradients that are positive too.

    Its maps are made of single pixels, of which the strongest outshines the rest: a small blur shows them.

    "Striving for Simplicity: The All Convolutional Net" (Springenberg et al., 2015, section 3.4). A model
    without a ReLU is refused.
    """

    name: ClassVar[str] = "guided"
    relu: ClassVar[ReluRule] = "guided"

    blur: int = 9

    @property
    def no_counterfactual(self) -> str:
        return ""  # ReLUs pass on what is positive


@dataclass(frozen=True, kw_only=True)
class GuidedMethod(Method):
    """Guided back-propagation times a class-activation map at the image's size.

    "Pixab-CAM: Attend Pixel, not Channel" (ICLR 2022 submission), Figure 9, for seven maps; for Grad-CAM
    already in "Grad-CAM" (Selvaraju et al., ICCV 2017, section 3.3).

    Attributes:
        score: Of both factors; None takes the logit for guided back-propagation, and the map's own.
        blur: Side of the Gaussian kernel that smooths the product, see `PixelMethod`.
    """

    map_class: ClassVar[type[Method]]
    """The class of the map's method, whose own options are options here."""

    normalisation: Literal["max", "minmax"] = "minmax"
    score: ScoreKind | None = None
    blur: int = 9

    def __post_init__(self) -> None:
        super().__post_init__()
        assert self.back_propagation  # refuses what it does not understand, and so does the map's
        for option, value in vars(self.map_method).items():
            if option not in GUIDED_OPTIONS:
                object.__setattr__(self, option, value)  # as the map has brought it to one form

    def __reduce__(self) -> tuple[Any, ...]:
        return remake, (self.map_class, {option.name: getattr(self, option.name) for option in fields(self)})

    @property
    def back_propagation(self) -> GuidedBackpropagation:
        """The fine factor."""
        return GuidedBackpropagation(score=self.score or "logit", blur=self.blur)

    @property
    def map_method(self) -> Method:
        """The coarse factor, with the options that are its own."""
        passed = {option.name for option in fields(self.map_class)} - {"postprocess", "normalisation"}
        if self.smooth == "augment":  # of the product
            passed.discard("smooth")
        if self.score is None:
            passed.discard("score")
        if self.map_class.no_contrast:  # the fine factor is of the contrast all the same
            passed.difference_update(CONTRAST_OPTIONS)
        elif self.map_class().no_counterfactual:
            passed.discard("counterfactual")
        return self.map_class(**{name: getattr(self, name) for name in passed})

    def raw(self, queries: HeadQueries) -> tuple[Array, Array]:
        coarse, fine = self.map_method, self.back_propagation
        found, _, _ = coarse.smoothed_raw(queries)
        found = coarse.displayed(found)
        size = (queries.images.shape[2], queries.images.shape[3])
        xp = library(found)
        flat = xp.reshape(xp.astype(found, xp.float32, copy=False), (-1, *found.shape[2:]), copy=True)
        where, _ = uncropped_saliency(
            flat,
            queries.framing,
            mode="native",
            normalisation=coarse.normalisation,
            relu=True,
            threads=queries.threads,
        )
        each = [fine.maps(queries, target) for target in range(queries.targets.shape[1])]
        both = xp.stack(each, axis=1) * xp.reshape(where, (*found.shape[:2], *size))
        return gaussian_blur(both, self.blur), queries.scores(fine.score)

    def smoothed_raw(self, queries: HeadQueries) -> tuple[Array, Array, Array | None]:
        return self.raw_with_uncertainty(queries)  # the map is smoothed before it is multiplied

    def cost(self, head: Head, shape: MapShape) -> Cost:
        coarse, fine = self.map_method.cost(head, shape), self.back_propagation.cost(head, shape)
        return Cost(
            coarse.head + fine.head,
            coarse.full + fine.full,
            fine.why,
            head_adjoint=coarse.head_adjoint + fine.head_adjoint,
            full_adjoint=coarse.full_adjoint + fine.full_adjoint,
        )


GUIDED_OPTIONS = frozenset(option.name for option in fields(GuidedMethod))


@cache
def times_guided(map_class: type[Method]) -> type[GuidedMethod] | None:
    """The class of guided back-propagation times a method's map, with the options of both.

    None of a method whose maps are no class-activation maps: they lie on the pixels, or are CALM's own.
    """
    if map_class.needs & {Need.PIXELS, Need.JOINT}:
        return None
    hints = type_hints(map_class)
    own = [
        (option.name, hints[option.name], field(default=option.default))
        for option in fields(map_class)
        if option.name not in GUIDED_OPTIONS
    ]
    title = (map_class.__doc__ or map_class.name).partition(":")[0]
    stated = {
        "name": f"guided-{map_class.name}",
        "map_class": map_class,
        "sums_channels": map_class.sums_channels,
        "needs": map_class.needs | GuidedBackpropagation.needs,
        "__doc__": f"Guided back-propagation times the {title} map at the image's size.",
        "__module__": __name__,
    }
    made = make_dataclass(
        f"Guided{map_class.__name__}",
        own,
        bases=(GuidedMethod,),
        namespace=stated,
        frozen=True,
        kw_only=True,
    )
    assert issubclass(made, GuidedMethod)
    return made


def remake(map_class: type[Method], options: dict[str, Any]) -> GuidedMethod:
    """A method as it was before it was pickled."""
    made = times_guided(map_class)
    assert made is not None
    return made(**options)
