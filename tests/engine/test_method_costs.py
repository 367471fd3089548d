"""`camrt methods --model`: every method with its passes and its time, or why the model lacks it."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

import camrt
from camrt.cli.main import app
from camrt.cli.method_costs import MethodCost, measure_methods
from helpers.annotated_images import colour_model


def test_every_method_is_measured_reckoned_or_refused(tmp_path: Path) -> None:
    engine = camrt.load(colour_model(tmp_path / "colours.onnx"))
    found = {one.name: one for one in measure_methods(engine, most_seconds=0.05)}
    assert list(found) == list(camrt.methods())
    assert found["gradcam"].is_measured
    assert found["gradcam"].passes == ("0", "0", "0", "0")
    assert found["cam"].milliseconds is not None
    assert found["calm"].passes == ("-",) * 4
    assert found["calm"].milliseconds is None
    assert "CALM model" in found["calm"].why
    assert not found["rise"].is_measured
    assert found["rise"].time.startswith("about ")


@pytest.mark.parametrize(
    ("milliseconds", "measured", "words"),
    [
        (None, False, "-"),
        (0.12345, True, "0.123 ms"),
        (999.0, True, "999 ms"),
        (1234.0, True, "1.23 s"),
        (290_252.0, False, "about 290 s"),
    ],
)
def test_times_in_words(milliseconds: float | None, measured: bool, words: str) -> None:
    assert MethodCost("x", (), milliseconds, measured, "").time == words


def test_the_command(tmp_path: Path) -> None:
    path = colour_model(tmp_path / "colours.onnx")
    done = CliRunner().invoke(app, ["methods", "--model", str(path), "--most-seconds", "0.02"])
    assert done.exit_code == 0, done.output
    assert len(done.stdout.splitlines()) == len(camrt.methods()) + 2
    assert "needs a CALM model" in done.stdout
    refused = CliRunner().invoke(app, ["methods", "--model", str(tmp_path / "none.onnx")])
    assert refused.exit_code == 2
    assert "none.onnx" in refused.stderr
