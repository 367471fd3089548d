"""Files beside models are a stranger's too: settings, labels, annotations, checkpoints run nothing."""

from __future__ import annotations

import importlib.util
import pickle
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import camrt
from camrt.engine.tensorrt_plans.store import MANIFEST, PlanStore
from camrt.errors import BackendError, DataError, InputError, MemoryLimitError, TrainingError
from camrt.evaluation.adversarial_patches.examples import AdversarialExamples
from camrt.evaluation.datasets import xml_tree
from camrt.export.budget import Budget, within_budget
from camrt.export.io.text_files import read_file_bytes, read_text_file
from camrt.training.recipe import Recipe
from helpers.hostile_models import FolderMakingPickle
from helpers.peer_libraries import mend_torchvision

NESTED = "[" * 100_000


def test_settings_in_yaml_run_nothing(tmp_path: Path) -> None:
    path, marker = tmp_path / "settings.yaml", tmp_path / "ran"
    for text in (f"!!python/object/apply:os.makedirs ['{marker}']", NESTED, "a: &a [*a]", "\0", "- lr"):
        path.write_text(text)
        with pytest.raises(InputError):
            Recipe.read(path, {})
    path.write_text("lr: 1" + "0" * 400)
    with pytest.raises(InputError, match="lr="):
        Recipe.read(path, {})
    path.write_text("#" * (1 << 20) + "\nlr: 1.0")
    with pytest.raises(InputError, match=r"more than 1\.0 MiB"):
        Recipe.read(path, {})
    assert not marker.exists()


@pytest.mark.parametrize("text", [NESTED, '{"a": ' * 100_000, '{"0": 3}', "[1, 2]"], ids=range(4))
def test_labels_in_json_that_are_none(text: str, tmp_path: Path) -> None:
    path = tmp_path / "labels.json"
    path.write_text(text)
    with pytest.raises(InputError, match=r"labels=.*labels\.json"):
        camrt.load("default", labels=path)


def test_examples_that_are_pickles_or_bombs(tmp_path: Path) -> None:
    path, marker = tmp_path / "examples.npz", tmp_path / "ran"
    for content in (np.array([FolderMakingPickle(marker)], object), np.array("camrt")):
        np.savez(path, format=content)
        with pytest.raises(DataError):
            AdversarialExamples.load(path)
    path.write_bytes(pickle.dumps(FolderMakingPickle(marker)))
    with pytest.raises(DataError):
        AdversarialExamples.load(path)
    assert not marker.exists()
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("format.npy", bytes(1 << 24))
    assert path.stat().st_size < 100_000
    with (
        within_budget(Budget(max_memory=1 << 20)),
        pytest.raises(MemoryLimitError, match="what is packed in"),
    ):
        AdversarialExamples.load(path)


def test_lists_of_plans_that_are_nested(tmp_path: Path) -> None:
    (tmp_path / MANIFEST).write_text(NESTED)
    trt: Any = None  # it is not asked
    with pytest.raises(BackendError, match="is damaged"):
        PlanStore.open(tmp_path, "", trt, None)


def test_checkpoints_that_are_damaged(tmp_path: Path) -> None:
    if importlib.util.find_spec("lightning") is None:
        pytest.skip("Lightning is not installed")
    mend_torchvision()
    from camrt.training.checkpoint_io import SafetensorsCheckpointIO
    from camrt.training.state_files import STRUCTURE
    from camrt.training.tensor_files import write_tensors

    path = tmp_path / "state.safetensors"
    for text in (NESTED, "{", '{"tensor": "none"}', '{"a": 1, "b": 2}', '{"mapping": 3}'):
        write_tensors(path, {}, {STRUCTURE: text})
        with pytest.raises(TrainingError, match="is no checkpoint of a run, or damaged"):
            SafetensorsCheckpointIO().load_checkpoint(path)
    path.write_bytes(pickle.dumps(FolderMakingPickle(tmp_path / "ran")))
    with pytest.raises(TrainingError, match="cannot be read as safetensors"):
        SafetensorsCheckpointIO().load_checkpoint(path)
    assert not (tmp_path / "ran").exists()


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="there is no file without an end")
def test_a_file_without_an_end_is_read_no_further_than_allowed() -> None:
    for read in (read_file_bytes, read_text_file):
        with pytest.raises(OSError, match="more than 1000 bytes"):
            read(Path("/dev/zero"), 1000)


def test_annotations_larger_than_any(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.xml"
    path.write_text(f"<annotation>{' ' * 1000}</annotation>")
    assert xml_tree.read_xml(path).tag == "annotation"
    monkeypatch.setattr(xml_tree, "_MAX_BYTES", 1000)
    with pytest.raises(OSError, match="more than 1000 bytes"):
        xml_tree.read_xml(path)
