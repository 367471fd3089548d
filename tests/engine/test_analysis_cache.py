"""What is kept of an analysis: the same answers come of it, and nothing else is taken for it."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import camrt
from camrt.engine import analysis as analysis_module
from camrt.engine import verification
from camrt.engine.runtime import ort_cpu
from camrt.engine.runtime.ort_cpu import ArenaSession, OnnxRuntime
from camrt.errors import StorageError
from camrt.export.io import cache_folder
from helpers import zoo

HEADS = (
    "gap-flatten-gemm",
    "clip-before-the-pool",
    "convolution-relu-pool-gemm",
    "gemm-relu-gemm",
    "squeeze-and-excite-behind-the-cut",
)
METHODS = ("pixab", "gradcam", "ablation", "gradient")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A cache folder for this test."""
    place = tmp_path / "caches" / "camrt"
    monkeypatch.setenv("CAMRT_CACHE", str(place))
    return place


@pytest.fixture
def counts(monkeypatch):
    """How many sessions were made, how often they were run, and how often an engine was checked."""
    found = {"sessions": 0, "runs": 0, "checks": 0}

    def count(owner: Any, name: str, what: str) -> None:
        original = getattr(owner, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            found[what] += 1
            return original(*args, **kwargs)

        monkeypatch.setattr(owner, name, call)

    count(OnnxRuntime, "make_runner", "sessions")
    count(ArenaSession, "run", "runs")
    count(verification, "verify", "checks")
    return found


def model_file(folder: Path, head: str = HEADS[0], seed: int = 0, channels: int = 64) -> Path:
    rng = np.random.default_rng(seed)
    made = zoo.classifier(zoo.HEADS[head].make(rng, channels, 4, 4, 20), rng, size=(8, 8))
    return zoo.save(made.model, folder / f"model-{seed}.onnx")


def answers(engine: Any) -> list[bytes]:
    """Everything an engine says, of two images too, as bytes."""
    batch = np.random.default_rng(0).standard_normal((2, 3, 8, 8), np.float32)
    maps = [engine.explain(batch, method) for method in METHODS]
    said = [engine.describe(), engine.notes, engine.verification, engine.targets(), engine.interface]
    return [*(one.maps.tobytes() + one.raw.tobytes() for one in maps), repr(said).encode()]


def entries(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.camrt-entry")) if folder.exists() else []


@pytest.mark.parametrize("head", HEADS)
def test_answers_are_the_same_bits_with_the_cache(folder, tmp_path, head):
    path = model_file(tmp_path, head)
    expected = answers(camrt.load(path, threads=1, cache=False))
    assert entries(folder) == []
    for _ in range(2):
        assert answers(camrt.load(path, threads=1)) == expected
        assert len(entries(folder)) == 1


def test_what_was_kept_is_not_looked_for_again(folder, tmp_path, counts):
    path = model_file(tmp_path)
    camrt.load(path, threads=1)
    assert counts["checks"] == 1
    counts.update(sessions=0, runs=0, checks=0)
    camrt.load(path, threads=1)
    assert counts == {"sessions": 1, "runs": 0, "checks": 0}


def test_a_load_makes_few_sessions_and_runs(tmp_path, counts):
    """The model, and its head to compare with; see `camrt.engine.verification`."""
    camrt.load(model_file(tmp_path), threads=1)
    assert counts["sessions"] <= 3
    assert counts["runs"] <= 15


def test_weights_are_not_written_out_for_the_runtime(folder, tmp_path, monkeypatch):
    path, sizes = model_file(tmp_path, channels=2000), []
    original = ort_cpu.open_session

    def measured(model: Any, *given: Any) -> Any:
        sizes.append(len(model))
        return original(model, *given)

    monkeypatch.setattr(ort_cpu, "open_session", measured)
    for _ in range(2):
        camrt.load(path, threads=1)
    assert path.stat().st_size > 300_000
    assert sizes
    assert max(sizes) < 40_000


def test_weights_that_stand_in_the_file_are_not_written_again(folder, tmp_path):
    path = model_file(tmp_path, channels=2000)
    camrt.load(path, threads=1, verify=False)
    (entry,) = entries(folder)
    assert path.stat().st_size > 300_000
    assert entry.stat().st_size < 40_000
    if os.name == "posix":
        assert folder.stat().st_mode & 0o777 == 0o700


def test_another_file_option_version_or_processor_is_analysed_by_itself(
    folder, tmp_path, counts, monkeypatch
):
    path = model_file(tmp_path)
    camrt.load(path, threads=1)
    camrt.load(model_file(tmp_path, seed=1), threads=1)
    camrt.load(path, threads=1, target="trunk_linear")
    camrt.load(path, threads=1, activation="sigmoid")
    monkeypatch.setattr(analysis_module, "environment", lambda: ("another one",))
    camrt.load(path, threads=1)
    assert counts["checks"] == 5
    assert len(entries(folder)) == 5


def test_the_same_file_elsewhere_is_known(folder, tmp_path, counts):
    path = model_file(tmp_path)
    camrt.load(path, threads=1)
    path.rename(tmp_path / "moved.onnx")
    engine = camrt.load(tmp_path / "moved.onnx", threads=1)
    assert counts["checks"] == 1
    assert engine.path.name == "moved.onnx"


def test_damaged_entries_are_made_again(folder, tmp_path, counts):
    path = model_file(tmp_path)
    expected = answers(camrt.load(path, threads=1))
    (entry,) = entries(folder)
    whole = entry.read_bytes()
    damages = [b"", whole[:20], whole[:-1], whole + b"\0", whole[:200] + b"\1" + whole[201:]]
    for damaged in damages:
        entry.write_bytes(damaged)
        assert answers(camrt.load(path, threads=1)) == expected
        assert entry.read_bytes() == whole
    assert counts["checks"] == 1 + len(damages)


def repack(whole: bytes, change: Any) -> bytes:
    """An entry's bytes with other JSON in it, and a checksum that is right."""
    content = whole[cache_folder.HEADER_BYTES :]
    size = int.from_bytes(content[:8], "little")
    told = json.loads(content[8 : 8 + size])
    text = json.dumps(change(told)).encode()
    return len(text).to_bytes(8, "little") + text + content[8 + size :]


@pytest.mark.parametrize(
    "change",
    [
        lambda told: {**told, "key": "another"},
        lambda told: {**told, "weights": [[10**12, 4, 0]]},
        lambda told: {**told, "weights": [[4, 4, 999]]},
        lambda told: {**told, "weights": [told["weights"][0], *told["weights"]]},
        lambda told: {**told, "weights": [[*told["weights"][0][:1], 4096, *told["weights"][0][2:]]]},
        lambda told: {**told, "weights": "x"},
        lambda told: {**told, "analysis": {}},
        lambda told: {**told, "analysis": {**told["analysis"], "front": {"is": "Path", "of": {}}}},
        lambda told: {**told, "analysis": {**told["analysis"], "front": {"is": "Interface", "of": {"a": 1}}}},
        lambda told: [],
        lambda told: None,
    ],
)
def test_entries_of_another_form_are_not_taken(folder, tmp_path, counts, change):
    path = model_file(tmp_path)
    camrt.load(path, threads=1)
    (entry,) = entries(folder)
    whole = entry.read_bytes()
    key = entry.name.removesuffix(cache_folder.SUFFIX)
    assert cache_folder.write_entry(folder, key, repack(whole, change))
    camrt.load(path, threads=1)
    assert counts["checks"] == 2
    assert entry.read_bytes() == whole


@pytest.mark.skipif(os.name != "posix", reason="modes of folders are POSIX's")
def test_a_folder_that_others_may_write_into_is_not_used(folder, tmp_path, counts):
    path = model_file(tmp_path)
    camrt.load(path, threads=1)
    folder.chmod(0o777)
    camrt.load(path, threads=1)
    assert counts["checks"] == 2


@pytest.mark.skipif(os.name != "posix", reason="links need rights elsewhere")
def test_an_entry_that_is_a_link_is_not_followed(folder, tmp_path):
    folder.mkdir(parents=True, mode=0o700)
    assert cache_folder.write_entry(folder, "ab", b"content")
    (folder / f"ab{cache_folder.SUFFIX}").rename(tmp_path / "elsewhere")
    (folder / f"ab{cache_folder.SUFFIX}").symlink_to(tmp_path / "elsewhere")
    assert cache_folder.read_entry(folder, "ab") is None


def test_a_cache_that_cannot_be_written_is_no_error(folder, tmp_path, monkeypatch):
    path = model_file(tmp_path)
    folder.parent.mkdir(parents=True)
    folder.write_text("a file")
    camrt.load(path, threads=1)
    folder.unlink()

    def full(place: Path, content: bytes) -> None:
        raise StorageError("the disk is full")

    monkeypatch.setattr(cache_folder, "write_atomic", full)
    camrt.load(path, threads=1)
    assert entries(folder) == []


def test_what_was_used_longest_ago_is_removed(folder, monkeypatch):
    monkeypatch.setattr(cache_folder, "MAX_CACHE_BYTES", 3500)
    for number in range(3):
        assert cache_folder.write_entry(folder, f"{number:02}", bytes(1000))
        os.utime(folder / f"{number:02}{cache_folder.SUFFIX}", (number, number))
    assert cache_folder.read_entry(folder, "00") == bytes(1000)
    assert cache_folder.write_entry(folder, "03", bytes(1000))
    assert [entry.name[:2] for entry in entries(folder)] == ["00", "02", "03"]


def test_an_entry_larger_than_may_be_is_not_written(folder, monkeypatch):
    monkeypatch.setattr(cache_folder, "MAX_ENTRY_BYTES", 1000)
    assert not cache_folder.write_entry(folder, "00", bytes(1000))
    assert entries(folder) == []


def test_several_that_load_at_once_write_one_whole_entry(folder, tmp_path):
    path, found = model_file(tmp_path), []
    threads = [
        threading.Thread(target=lambda: found.append(answers(camrt.load(path, threads=1)))) for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found[0] == found[1] == found[2] == answers(camrt.load(path, threads=1))
    assert len(list(folder.iterdir())) == 1


def test_the_cache_can_be_turned_off(folder, tmp_path, monkeypatch):
    path = model_file(tmp_path)
    camrt.load(path, threads=1, cache=False)
    monkeypatch.setenv("CAMRT_CACHE", "off")
    camrt.load(path, threads=1)
    assert not folder.exists()
    with pytest.raises(camrt.errors.InputError, match="cache=1 must be True or False"):
        camrt.load(path, cache=1)  # type: ignore[arg-type]


def test_files_with_external_data_are_analysed_each_time(folder, tmp_path, counts):
    model = onnx.load(model_file(tmp_path))
    path = tmp_path / "outside.onnx"
    onnx.save(model, path, save_as_external_data=True, location="weights.bin", size_threshold=100)
    for _ in range(2):
        camrt.load(path, threads=1)
    assert counts["checks"] == 2
    assert entries(folder) == []


@pytest.mark.skipif(os.name != "posix", reason="other systems have folders of their own")
def test_the_folder_is_where_caches_belong(tmp_path, monkeypatch):
    monkeypatch.setattr(cache_folder.sys, "platform", "linux")
    monkeypatch.delenv("CAMRT_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder.find_cache_folder() == tmp_path / "camrt"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_folder.find_cache_folder() == tmp_path / "home" / ".cache" / "camrt"
