"""The arithmetic of the comparison of heads: its tables, and what is measured of a file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from helpers.calm_models import calm_model

pytest.importorskip("torch")
pytest.importorskip("lightning")

import camrt
from camrt.training.splits import Split
from experiments.compare_heads import (
    HEADS,
    RATES,
    ComparisonData,
    format_report,
    format_table,
    measure_engine,
    replace_tables,
)


def rows(data: str) -> list[dict[str, Any]]:
    """Three seeds of everything: accuracies 0.5, 0.6 and 0.7."""
    found = []
    for head in HEADS:
        for rate in RATES[data]:
            for seed in range(3):
                row = {"data": data, "head": head, "lr": rate, "seed": seed, "accuracy": 0.5 + seed / 10}
                row |= {"completeness": 20.0 if head == "cam" else 1e-8}
                row |= {f"ratio_{share}": 0.9 for share in (10, 30, 50)}
                found.append(row)
    return found


def test_means_and_spreads() -> None:
    lines = list(format_table(rows("mri"), "mri"))
    assert len(lines) == 2 + 6
    assert (
        lines[2]
        == "| cam | 0.02 | 60.0 ± 10.0 % | 20.000 ± 0.000 | 0.900 ± 0.000 | 0.900 ± 0.000 | 0.900 ± 0.000 |"
    )
    assert "| calm-ml | 0.02 | 60.0 ± 10.0 % | 1.0e-08 |" in lines[3]


def test_words_around_the_tables_stay(tmp_path: Path) -> None:
    path = tmp_path / "report.md"
    text = format_report(rows("mri") + rows("natural"), "command", {"chance": 0.1, "centre": 0.2})
    replace_tables(path, "first")
    path.write_text("Before.\n" + path.read_text() + "\nAfter.\n")
    replace_tables(path, text)
    found = path.read_text()
    assert found.startswith("Before.\n")
    assert found.endswith("\nAfter.\n")
    assert "first" not in found
    assert "Pointing by chance 10.0 %, at the centre 20.0 %." in found
    assert found.count("## ") == 2


def test_what_is_measured_of_a_file(tmp_path: Path) -> None:
    files, classes = [], []
    for number in range(12):
        pixels = np.random.default_rng(number).integers(0, 256, (16, 16, 3), np.uint8)
        files.append(tmp_path / f"{number}.png")
        Image.fromarray(pixels).save(files[-1])
        classes.append(number % 4)
    held = Split(tuple(files), np.array(classes), ("a", "b", "c", "d"))
    steps = camrt.Preprocessing.named("imagenet-squash", (16, 16))
    engine = camrt.load(calm_model().save(tmp_path / "calm.onnx"), preprocessing=steps)
    batch = np.stack([steps.array(steps.view(Image.open(path))) for path in files])
    found = measure_engine(engine, ComparisonData("noise", held, held, {}, None), most=8)
    assert found["accuracy"] == pytest.approx(
        (engine.predict(batch).argmax(1) == held.classes).mean(), abs=1e-5
    )
    assert found["completeness"] < 1e-6
    assert {"removed_10", "random_30", "ratio_50"} <= set(found)
    assert "pointing" not in found
    assert json.loads(json.dumps(found)) == pytest.approx(found, nan_ok=True)
