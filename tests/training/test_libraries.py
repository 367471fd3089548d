"""Libraries that training needs, where they are missing or do not load."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest

from camrt.errors import TrainingError
from camrt.training.libraries import training_imports


def make_module(folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, text: str) -> None:
    (folder / f"{name}.py").write_text(text)
    monkeypatch.syspath_prepend(folder)
    for module in [module for module in sys.modules if module.partition(".")[0] == name]:
        monkeypatch.delitem(sys.modules, module)


def test_a_torchvision_that_does_not_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch", reason="torch is missing: pip install 'camrt[torch]'")
    make_module(tmp_path, monkeypatch, "torchvision", "raise RuntimeError('operator nms does not exist')")
    make_module(tmp_path, monkeypatch, "timm", "import torchvision")
    with (
        pytest.raises(
            TrainingError,
            match=r"^torchvision is installed, and cannot be imported: operator nms does not exist. "
            r"It is made for another torch than the .* that is here: install its partner, pip install",
        ) as raised,
        training_imports(),
    ):
        importlib.import_module("timm")
    assert torch.__version__ in str(raised.value)


def test_another_library_that_does_not_load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_module(tmp_path, monkeypatch, "timm", "raise OSError('libsomething.so.1: cannot open')")
    message = r"^timm is .*libsomething.* pip install --force-reinstall timm$"
    with pytest.raises(TrainingError, match=message), training_imports():
        importlib.import_module("timm")


def test_a_library_that_is_missing() -> None:
    message = r"^this needs no_such_library, .* 'camrt\[backbones\]'$"
    with pytest.raises(TrainingError, match=message), training_imports("backbones"):
        importlib.import_module("no_such_library")


def test_errors_of_others_are_left_alone() -> None:
    with pytest.raises(RuntimeError, match="mine"), training_imports():
        raise RuntimeError("mine")
