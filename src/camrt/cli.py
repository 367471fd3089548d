"""The command line, `camrt`: the commands of every room in one place. Importing it imports nothing heavy."""

from __future__ import annotations

from camrt.engine.cli import app
from camrt.training.cli import add_commands

__all__ = ["app"]

add_commands(app)
