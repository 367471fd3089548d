"""The `camrt` command: registers the subcommands of all packages. Importing it imports nothing heavy."""

from __future__ import annotations

import inspect

import typer

from camrt.cli import (
    concepts,
    data,
    doctor,
    evaluate,
    export,
    inspect_model,
    list_methods,
    reproduce,
    serve,
    train,
)
from camrt.cli.explain import app
from camrt.cli.help_layout import LaidOutCommand

__all__ = ["app"]

inspect_model.add_command(app)
list_methods.add_command(app)
concepts.add_command(app)
train.add_commands(app)
export.add_command(app)
evaluate.add_commands(app)
data.add_commands(app)
reproduce.add_command(app)
serve.add_command(app)
doctor.add_command(app)


def lay_out_help(group: typer.Typer) -> None:
    """Has the help of all commands wrapped where the terminal ends, not where their source lines do."""
    for command in group.registered_commands:
        command.cls = LaidOutCommand
        paragraphs = inspect.getdoc(command.callback or lay_out_help) or ""
        command.help = "\n\n".join(" ".join(part.split()) for part in paragraphs.split("\n\n"))
    for inner in group.registered_groups:
        if inner.typer_instance is not None:
            lay_out_help(inner.typer_instance)


lay_out_help(app)
