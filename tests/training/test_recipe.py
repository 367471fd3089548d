"""Recipes: the paper's numbers, YAML, and what is refused."""

from __future__ import annotations

import dataclasses
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from camrt.errors import InputError
from camrt.training.recipe import RECIPES, Recipe


def test_the_papers_settings() -> None:
    """Specification A6."""
    for name, lr in (("paper-cub", 3e-5), ("paper-openimages", 5e-5), ("paper-imagenet", 7e-5)):
        recipe = Recipe.from_settings({"recipe": name})
        assert recipe.lr == lr
        assert (recipe.momentum, recipe.nesterov, recipe.weight_decay) == (0.9, True, 1e-4)
        assert (recipe.batch_size, recipe.epochs, recipe.new_layer_factor) == (64, 40, 10.0)
        assert (recipe.size, recipe.canvas, recipe.map_stride) == (224, 256, 8)
    recipe = Recipe.from_settings({"recipe": "paper-cub"})
    factors = [recipe.lr_factor(epoch * 10, 10) for epoch in range(40)]
    assert factors[:29] == [1.0] * 29
    assert factors[29:] == [0.1] * 11


def test_the_localisation_benchmarks_settings() -> None:
    """Specification A6: what the paper's localisation runs have but for the learning rate."""
    found = {
        name: Recipe.from_settings({"recipe": f"wsol-{name}"}) for name in ("imagenet", "cub", "openimages")
    }
    assert {r.batch_size for r in found.values()} == {32}
    assert [r.epochs for r in found.values()] == [10, 50, 10]
    assert [r.step_every for r in found.values()] == [3, 15, 3]
    assert [r.weight_decay for r in found.values()] == [1e-4, 1e-4, 5e-4]
    factors = [found["cub"].lr_factor(epoch * 7, 7) for epoch in (0, 13, 14, 28, 29, 43, 44)]
    assert np.allclose(factors, [1, 1, 0.1, 0.1, 0.01, 0.01, 0.001])


def test_the_recipe_follows_from_the_weights() -> None:
    assert Recipe.from_settings({"backbone": "small"}).lr == RECIPES["scratch"]["lr"]
    assert Recipe.from_settings({"pretrained": "imagenet"}).lr == 7e-5


def test_other_schedules() -> None:
    cosine = Recipe.from_settings({"epochs": 5, "warmup": 1, "schedule": "cosine"})
    factors = [cosine.lr_factor(step, 4) for step in range(20)]
    assert factors[:5] == [0.25, 0.5, 0.75, 1.0, 1.0]
    assert all(a > b for a, b in pairwise(factors[4:]))
    assert 0 < factors[-1] < 0.05
    assert Recipe.from_settings({"schedule": "constant", "warmup": 0}).lr_factor(1000, 1) == 1.0


def test_yaml_there_and_back(tmp_path: Path) -> None:
    recipe = Recipe.from_settings(
        {"lr": 0.003, "head": "calm-ml", "map_stride": None, "precision": "bf16-mixed"}
    )
    recipe.write(tmp_path / "recipe.yaml")
    assert Recipe.read(tmp_path / "recipe.yaml", {}) == recipe
    changed = Recipe.read(tmp_path / "recipe.yaml", {"lr": 1})
    assert changed == dataclasses.replace(recipe, lr=1.0)
    (tmp_path / "short.yaml").write_text("recipe: paper-cub\nweight_decay: 5e-4\n")
    assert Recipe.read(tmp_path / "short.yaml", {}).weight_decay == 5e-4


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"nonesuch": 1}, "unknown setting 'nonesuch'"),
        ({"recipe": "cake"}, "recipe 'cake' is not known"),
        ({"head": "grad"}, "head='grad' must be one of 'cam', 'calm-ml', 'calm-em'"),
        ({"epochs": 0}, "epochs=0 must be at least 1"),
        ({"epochs": 1.5}, "epochs=1.5 must be of type int"),
        ({"epochs": True}, "epochs=True must be of type int"),
        ({"lr": -1.0}, "lr=-1.0 must not be negative"),
        ({"lr": float("nan")}, "lr=nan must not be negative, and finite"),
        ({"lr": "fast"}, "lr='fast' must be of type float"),
        ({"canvas": 10}, "canvas=10 must be at least 64"),
        ({"momentum": 1.0}, "momentum=1.0 must be below 1"),
        ({"head": "cam", "teacher_decay": 0.9}, "teacher_decay is for head 'calm-em'"),
        ({"head": "cam", "reference_calm": True}, "reference_calm is for CALM heads"),
        ({"map_stride": "fine"}, "map_stride='fine' must be of type int"),
    ],
)
def test_wrong_settings_are_refused(settings: dict[str, object], words: str) -> None:
    with pytest.raises(InputError, match=words):
        Recipe.from_settings(settings)


def test_files_that_are_no_recipe(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read as YAML"):
        Recipe.read(tmp_path / "missing.yaml", {})
    (tmp_path / "list.yaml").write_text("- 1\n")
    with pytest.raises(InputError, match="must hold settings by name"):
        Recipe.read(tmp_path / "list.yaml", {})
    (tmp_path / "broken.yaml").write_text("lr: [1\n")
    with pytest.raises(InputError, match="cannot be read as YAML"):
        Recipe.read(tmp_path / "broken.yaml", {})
