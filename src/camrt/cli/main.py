"""The `camrt` command: registers the subcommands of all packages. Importing it imports nothing heavy."""

from __future__ import annotations

from camrt.cli import data, evaluate, export, reproduce, train
from camrt.cli.explain import app

__all__ = ["app"]

train.add_commands(app)
export.add_command(app)
evaluate.add_commands(app)
data.add_commands(app)
reproduce.add_command(app)
