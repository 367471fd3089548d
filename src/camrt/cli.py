"""The command line, `camrt`: the commands of every room in one place. Importing it imports nothing heavy."""

from __future__ import annotations

from camrt.engine.cli import app
from camrt.evaluation import cli as evaluation
from camrt.evaluation import data_cli as data
from camrt.evaluation.reproduce import cli as reproduction
from camrt.export import cli as exporting
from camrt.training import cli as training

__all__ = ["app"]

training.add_commands(app)
exporting.add_command(app)
evaluation.add_commands(app)
data.add_commands(app)
reproduction.add_command(app)
