"""Errors of the command line name options, not arguments of functions."""

from __future__ import annotations

import inspect
from collections.abc import Iterator

import pytest
import typer

from camrt.cli.main import app
from camrt.cli.option_names import OPTIONS, name_options


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            "stopped after its deadline of 3 s; call_deadline= sets another",
            "stopped after its deadline of 3 s; --call-deadline sets another",
        ),
        (
            "plans= is TensorRT's, and means nothing to backend='openvino'",
            "--plans is TensorRT's, and means nothing to --backend openvino",
        ),
        (
            "the last candidates are 'A' (engine.targets() lists them all)",
            "the last candidates are 'A' (camrt inspect lists them all)",
        ),
        ("if those are in 'a b', pass output='a b'", "if those are in 'a b', give --output 'a b'"),
        ("not known: preprocessing= says it", "not known: --preprocessing says it"),
        ("fuse='foo' must be one of 'mean', 'max'", "--fuse foo must be one of 'mean', 'max'"),
        ("stages=6 must be from 1 to 2", "--stages 6 must be from 1 to 2"),
        (
            "choose another target= (engine.targets() lists them)",
            "choose another --layer (camrt inspect lists them)",
        ),
        ("give targets= or top_k=, not both", "give --target or --top-k, not both"),
        ("open it with trusted=True if you trust it", "open it with --trust if you trust it"),
        ("run.seed=3/size=2: no such file", "run.seed=3/size=2: no such file"),
        ("verify=False to go on, --output x, score=logit", "verify=False to go on, --output x, score=logit"),
    ],
)
def test_arguments_become_options(text: str, told: str) -> None:
    assert name_options(text) == told


def test_every_option_is_one() -> None:
    assert set(OPTIONS.values()) <= set(all_options(app))


def all_options(group: typer.Typer) -> Iterator[str]:
    """The options of all commands, as Typer names them."""
    for command in group.registered_commands:
        assert command.callback is not None
        for name, parameter in inspect.signature(command.callback, eval_str=True).parameters.items():
            for info in getattr(parameter.annotation, "__metadata__", ()):
                yield from getattr(info, "param_decls", None) or ()
                yield f"--{name.replace('_', '-')}"
    for inner in group.registered_groups:
        assert inner.typer_instance is not None
        yield from all_options(inner.typer_instance)
