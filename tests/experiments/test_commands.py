"""The experiments' commands start."""

from __future__ import annotations

from importlib import import_module

import pytest
import typer
from typer.testing import CliRunner

pytest.importorskip("lightning", reason="experiments train")


@pytest.mark.parametrize(
    "name", ["compare_heads", "default_classifier", "drawing_look", "evaluate_default", "score_budget"]
)
def test_help(name: str) -> None:
    app = typer.Typer()
    app.command()(import_module(f"experiments.{name}").main)
    found = CliRunner().invoke(app, ["--help"])
    assert found.exit_code == 0, found.output
    assert "--out" in found.output
