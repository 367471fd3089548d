"""Methods made of any class-activation map, whose own options they take too."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, make_dataclass
from functools import cache
from typing import Any, ClassVar, Literal

from camrt.engine.arrays import library
from camrt.engine.images.framing import uncropped_saliency
from camrt.engine.methods.base import CONTRAST_OPTIONS, Method, type_hints
from camrt.engine.queries import HeadQueries, Need
from camrt.engine.scores import ScoreKind

__all__ = ["MapWrapper", "is_class_activation_map", "title_of", "wrap"]

Array = Any  # of NumPy or of torch, see `camrt.engine.arrays`


@dataclass(frozen=True, kw_only=True)
class MapWrapper(Method):
    """A method on the image's pixels that is made of a class-activation map.

    Attributes:
        score: Of the map too; None takes the map's own.
    """

    map_class: ClassVar[type[Method]]
    """The class of the map's method, whose own options are options here."""
    wrapper: ClassVar[type[MapWrapper]]
    """What is made of the map, whichever it is."""
    prefix: ClassVar[str]
    """What the name has before that of the map's method."""
    summary: ClassVar[str]
    """What it is, in a line, with {} for the map's name."""

    score: ScoreKind | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        for option, value in vars(self.map_method).items():  # which refuses what it does not understand
            if option not in option_names(self.wrapper):
                object.__setattr__(self, option, value)  # as the map has brought it to one form

    def __reduce__(self) -> tuple[Any, ...]:
        options = {name: getattr(self, name) for name in option_names(type(self))}
        return remake, (self.wrapper, self.map_class, options)

    @property
    def map_method(self) -> Method:
        """The map's method, with the options that are its own."""
        passed = set(option_names(self.map_class)) - {"postprocess", "normalisation"}
        if self.smooth == "augment":  # of the whole
            passed.discard("smooth")
        if self.score is None:
            passed.discard("score")
        if self.map_class.no_contrast:
            passed.difference_update(CONTRAST_OPTIONS)
        elif self.map_class().no_counterfactual:
            passed.discard("counterfactual")
        return self.map_class(**{name: getattr(self, name) for name in passed})

    def map_saliency(self, queries: HeadQueries, mode: Literal["native", "library"]) -> tuple[Array, Array]:
        """The map's saliency (N, T, H, W) at the image's size, and its flags (N, T)."""
        method = self.map_method
        found, _, _ = method.smoothed_raw(queries)
        found = method.displayed(found)
        xp = library(found)
        flat = xp.reshape(xp.astype(found, xp.float32, copy=False), (-1, *found.shape[2:]), copy=True)
        maps, flags = uncropped_saliency(
            flat,
            queries.framing,
            mode=mode,
            normalisation=method.normalisation,
            relu=method.applies_relu,
            threads=queries.threads,
        )
        lead = found.shape[:2]
        return xp.reshape(maps, (*lead, *maps.shape[1:])), xp.reshape(flags, lead)

    def smoothed_raw(self, queries: HeadQueries) -> tuple[Array, Array, Array | None]:
        return self.raw_with_uncertainty(queries)  # it is the map that is smoothed


@cache
def option_names(kind: type[Method]) -> tuple[str, ...]:
    """The options of a method's class."""
    return tuple(option.name for option in fields(kind))


@cache
def wrap(wrapper: type[MapWrapper], map_class: type[Method]) -> type[MapWrapper] | None:
    """The class of what a wrapper makes of a method's map, with the options of both.

    None of a method whose maps are no class-activation maps, see `is_class_activation_map`.
    """
    if not is_class_activation_map(map_class):
        return None
    hints = type_hints(map_class)
    own = [
        (option.name, hints[option.name], field(default=option.default))
        for option in fields(map_class)
        if option.name not in option_names(wrapper)
    ]
    stated = {
        "name": f"{wrapper.prefix}-{map_class.name}",
        "map_class": map_class,
        "wrapper": wrapper,
        "sums_channels": map_class.sums_channels,
        "needs": map_class.needs | {Need.PIXELS},
        "__doc__": wrapper.summary.format(title_of(map_class)),
        "__module__": __name__,
    }
    name = f"{wrapper.prefix.capitalize()}{map_class.__name__}"
    made = make_dataclass(name, own, bases=(wrapper,), namespace=stated, frozen=True, kw_only=True)
    assert issubclass(made, wrapper)
    return made


def remake(wrapper: type[MapWrapper], map_class: type[Method], options: dict[str, Any]) -> MapWrapper:
    """A method as it was before it was pickled."""
    made = wrap(wrapper, map_class)
    assert made is not None
    return made(**options)


def is_class_activation_map(kind: type[Method]) -> bool:
    """Whether a method's maps are of the activation, not of the image's pixels, CALM's own or attention's."""
    return not kind.needs & {Need.PIXELS, Need.JOINT, Need.ATTENTION}


def title_of(kind: type[Method]) -> str:
    """A method's name as its paper writes it."""
    return (kind.__doc__ or kind.name).partition(":")[0]
