"""What to measure, and how: the settings of an evaluation."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from camrt.engine.methods import Method, canonical_name, make_method, single_methods
from camrt.engine.methods import methods as registry
from camrt.engine.option_text import parse_options, split_method
from camrt.errors import InputError, MethodError
from camrt.evaluation.checks import check_integer
from camrt.evaluation.metrics.sensitivity import check_radius

__all__ = ["Settings", "parse_methods"]


@dataclass(frozen=True)
class Settings:
    """How the metrics are measured.

    Attributes:
        step: Pixels altered at each point of a deletion or insertion curve; None takes a row of pixels, as
            RISE does.
        shares: The shares of pixels that remove-and-classify erases.
        base: What it puts in their place: the "blur"red image, or "zero".
        road: The shares of pixels that ROAD removes.
        infidelity_squares: How many squares of each image infidelity sets to zero; each is a run of the
            model, whose answer serves all methods.
        sensitivity_draws: How many noisy copies of each image max-sensitivity has every method explain.
        sensitivity_radius: The largest change of a value in them, in units of the model's input.
        pxap: "exact", or the benchmark's "reference" bins.
        postprocess: "library" has maps normalised as the pytorch-grad-cam package does, which μ was published
            with; None leaves it to each method.
        seed: Of everything that is drawn.
        limit: Measure this many images, drawn with the seed; None takes all.
        examples: How many images the report shows.

    Raises:
        InputError: A value out of range.
    """

    step: int | None = None
    shares: tuple[float, ...] = (0.1, 0.3, 0.5, 0.7, 0.9)
    base: Literal["blur", "zero"] = "blur"
    road: tuple[float, ...] = (0.2, 0.4, 0.6, 0.8)
    infidelity_squares: int = 100
    sensitivity_draws: int = 10
    sensitivity_radius: float = 0.02
    pxap: Literal["exact", "reference"] = "exact"
    postprocess: Literal["native", "library"] | None = None
    seed: int = 0
    limit: int | None = None
    examples: int = 8

    def __post_init__(self) -> None:
        for name, least in (
            ("step", 1),
            ("infidelity_squares", 1),
            ("sensitivity_draws", 1),
            ("seed", 0),
            ("limit", 1),
            ("examples", 0),
        ):
            value = getattr(self, name)
            if value is None and name in ("step", "limit"):
                continue
            check_integer(name, value, least)
        check_radius("sensitivity_radius", self.sensitivity_radius)
        for name in ("shares", "road"):
            shares = getattr(self, name)
            if not shares or not all(0 < share < 1 for share in shares):
                raise InputError(f"{name}={shares} must lie between 0 and 1")
        for name, allowed in (
            ("base", ("blur", "zero")),
            ("pxap", ("exact", "reference")),
            ("postprocess", ("native", "library", None)),
        ):
            if getattr(self, name) not in allowed:
                raise InputError(
                    f"{name}={getattr(self, name)!r} must be one of {', '.join(map(str, allowed))}"
                )


def parse_methods(
    methods: str | Sequence[str | Method] | Mapping[str, str | Method], postprocess: str | None = None
) -> dict[str, Method]:
    """Methods by the name that tables give them.

    A text is a method's name, with options if need be: "score",
    "pixab:denominators=N1:perspectives=deletion". "all" means every method, but for
    products with guided back-propagation.

    Args:
        methods: One or several; or a mapping from names.
        postprocess: Option of that name of every method whose own was not given; None leaves it.

    Raises:
        MethodError: An unknown method or option.
        InputError: No method, something that is none, or two of the same name.
    """
    if isinstance(methods, Mapping):
        pairs = list(methods.items())
    elif not isinstance(methods, str | Method | Iterable):
        raise InputError(f'methods={methods!r} must be names of methods, or methods, or "all"')
    else:
        listed = [methods] if isinstance(methods, str | Method) else list(methods)
        listed = list(single_methods()) if listed == ["all"] else listed
        pairs = [(format_method(one) if isinstance(one, Method) else one, one) for one in listed]
    if not pairs:
        raise InputError("no method was asked for")
    found: dict[str, Method] = {}
    for name, given in pairs:
        if not isinstance(given, str | Method):
            raise InputError(f"{given!r:.80} is no method: give a name, or camrt.methods()[name](...)")
        if name in found:
            raise InputError(f"two methods are called {name!r}")
        found[name] = _built(given, postprocess)
    return found


def _built(given: str | Method, postprocess: str | None) -> Method:
    if isinstance(given, Method):
        return given
    name, *texts = split_method(given)
    options: dict[str, Any] = parse_options(texts)
    if canonical_name(name) not in {canonical_name(known) for known in registry()}:
        make_method(name, {})  # raises, and offers what is alike
    if postprocess is not None:
        options = {"postprocess": postprocess} | options
    try:
        return make_method(name, options)
    except MethodError as error:
        raise MethodError(f"{given}: {error}") from None


def format_method(method: Method) -> str:
    """A method's name with the options that are not its defaults, as `parse_methods` reads them."""
    default = type(method)()
    names = [name for name in vars(method) if getattr(method, name) != getattr(default, name)]
    return ":".join([method.name, *(f"{name}={_text(getattr(method, name))}" for name in names)])


def _text(value: Any) -> str:
    import json

    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"))
