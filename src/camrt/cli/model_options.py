"""The options of every command that loads a model which say how the model is read: --output and its like."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Annotated, Any

import typer

from camrt.cli.arguments import parse_bytes, parse_pair, parse_seconds
from camrt.cli.output import report_errors

__all__ = ["ModelOptions", "with_model_options"]

ModelOptions = dict[str, Any]
"""Arguments of `camrt.load`: those of the options that were given."""

OPTIONS: dict[str, Any] = {
    "output": Annotated[
        str | None,
        typer.Option(help="Output with the class scores, or a tensor inside, when several could be."),
    ],
    "activation": Annotated[
        str | None,
        typer.Option(help="softmax, sigmoid, or none for plain numbers: overrules what the model ends in."),
    ],
    "layout": Annotated[
        str | None, typer.Option(help="NCHW or NHWC: the axes of the file's input, where it does not tell.")
    ],
    "grid": Annotated[
        str | None,
        typer.Option(help="HxW of the cells of a vision transformer, where the model does not say."),
    ],
    "trust": Annotated[
        bool | None,
        typer.Option(
            "--trust", help="Open a .pt2 file, which runs code in it: only if you trust its author."
        ),
    ],
    "max_memory": Annotated[
        str | None,
        typer.Option(
            help="Bytes that loading, or a call, may allocate at once, such as 2GiB; half of what is free "
            "and 8 GiB at most, where it is not given."
        ),
    ],
    "load_deadline": Annotated[
        str | None, typer.Option(help="Seconds that loading may take in all; inf for no bound.")
    ],
    "call_deadline": Annotated[
        str | None, typer.Option(help="Seconds that a call of the engine may take in all; inf for no bound.")
    ],
}


def with_model_options(command: Callable[..., None]) -> Callable[..., None]:
    """Gives a command the options above; what they say is its argument `model_options`, a `ModelOptions`."""
    signature = inspect.signature(command, eval_str=True)
    own = [one for one in signature.parameters.values() if one.name != "model_options"]
    added = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=kind)
        for name, kind in OPTIONS.items()
    ]

    @functools.wraps(command)
    def run(**given: Any) -> None:
        texts = {name: given.pop(name) for name in OPTIONS}
        with report_errors():
            model_options = parse_model_options(texts)
        command(**given, model_options=model_options)

    run.__signature__ = signature.replace(parameters=[*own, *added])  # type: ignore[attr-defined]
    run.__annotations__ = {one.name: one.annotation for one in (*own, *added)}
    return run


def parse_model_options(texts: dict[str, Any]) -> ModelOptions:
    """What options given as text mean to `camrt.load`.

    Raises:
        InputError: A grid that is none, or no bytes, or no seconds.
    """
    given: ModelOptions = {name: text for name, text in texts.items() if text is not None}
    if "grid" in given:
        given["grid"] = parse_pair("--grid", given["grid"])
    if "max_memory" in given:
        given["max_memory"] = parse_bytes("--max-memory", given["max_memory"])
    for name in ("load_deadline", "call_deadline"):
        if name in given:
            given[name] = parse_seconds(f"--{name.replace('_', '-')}", given[name])
    if "trust" in given:
        given["trusted"] = given.pop("trust")
    return given
