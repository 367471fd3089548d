"""The fuzzer's own parts: changes, outcomes, the processes, the journal and the making of small files."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import onnx
import pytest

import camrt
import fuzz.trying
from camrt.errors import InputError, ModelFileError
from fuzz.changes import BYTES, KINDS
from fuzz.command import main, run
from fuzz.comparing import Wrong, compare, proportional, same
from fuzz.files import make_file, write_file
from fuzz.journal import Journal, table
from fuzz.minimising import fewest_changes, smallest
from fuzz.seeds import SEEDS, seed_bytes
from fuzz.trying import Limits, Outcome, Trial, check_maps, place_of
from fuzz.workers import Worker

SEED = "net-branches"


@pytest.fixture
def seed_file(tmp_path: Path) -> Path:
    return write_file(seed_bytes(SEED), tmp_path)


def test_the_file_of_a_number_is_always_the_same() -> None:
    first, again = (make_file(3, index) for index in (17, 17))
    assert first == again
    assert len({make_file(3, index).data for index in range(40)}) > 35
    assert make_file(4, 17) != first


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_changes_models(kind: str) -> None:
    changed = 0
    for number, name in enumerate(
        ["net-if", "net-branches", "net-functions", "net-scan", "net-quantised"] * 4
    ):
        model = onnx.ModelProto.FromString(seed_bytes(name))
        if KINDS[kind](model, random.Random(number)) is not None:
            changed += model.SerializeToString(deterministic=True) != seed_bytes(name)
    assert changed >= 3


@pytest.mark.parametrize("kind", BYTES)
def test_every_kind_changes_bytes(kind: str) -> None:
    data = seed_bytes(SEED)
    assert all(BYTES[kind](data, random.Random(number)) != data for number in range(3))
    assert isinstance(BYTES[kind](b"", random.Random(0)), bytes)


def test_changes_are_left_out_by_their_place() -> None:
    index = next(index for index in range(200) if len(make_file(5, index).changes) == 3)
    whole = make_file(5, index)
    assert make_file(5, index, without=[2]).changes == whole.changes[:2]
    assert make_file(5, index, without=[0, 1, 2]).changes == ()


# ---------------------------------------------------------------- outcomes


def test_a_seed_is_answered(seed_file: Path) -> None:
    steps: list[str] = []
    outcome = Trial(seed_file, 0, Limits(grace=60.0), steps.append).run()
    assert outcome.clean
    assert outcome.word == "answered"
    assert steps == ["load", "predict", "explain pixab", "describe", "explain all", "oracle"]


def test_an_error_of_camrt_is_a_refusal(tmp_path: Path) -> None:
    outcome = Trial(write_file(b"not a model", tmp_path), 0, Limits()).run()
    assert (outcome.word, outcome.where) == ("refused", "ModelFileError")


def test_any_other_error_is_raw_and_named_by_its_place(seed_file: Path, monkeypatch) -> None:
    def broken(*_: object) -> None:
        raise KeyError("no such thing")

    monkeypatch.setattr("camrt.engine.build.find_builtin_preprocessing", broken)
    outcome = Trial(seed_file, 0, Limits()).run()
    assert not outcome.clean
    assert outcome.key == "raw KeyError at engine.build:analyse_file"


def test_memory_and_time_beyond_the_limits_are_no_answer(seed_file: Path, monkeypatch) -> None:
    assert Trial(seed_file, 0, Limits(seconds=60.0, grace=-60.0)).run().word == "late"
    monkeypatch.setattr(fuzz.trying, "peak_bytes", lambda: 1 << 60)
    assert Trial(seed_file, 0, Limits(grace=60.0)).run().word == "memory"


def test_an_answer_that_is_not_the_files_is_wrong(seed_file: Path) -> None:
    engine = camrt.load(seed_file, threads=1)
    images = np.random.default_rng(0).standard_normal((2, 3, 8, 8), np.float32)
    logits = engine.predict(images)
    compare(seed_file, engine, images, logits)
    with pytest.raises(Wrong, match="the file's own answers differ"):
        compare(seed_file, engine, images, logits + np.eye(4)[3])
    with pytest.raises(Wrong, match="maps have shape"):
        check_maps(np.zeros((2, 8, 9), np.float32), images)
    with pytest.raises(Wrong, match=r"no float32 in \[0, 1\]"):
        check_maps(np.full((2, 8, 8), np.nan, np.float32), images)


def test_answers_are_compared_with_what_is_not_finite() -> None:
    answer = np.array([[1.0, np.inf, -2.0]])
    assert same(answer, answer.copy())
    assert not same(answer, np.array([[1.0, 5.0, -2.0]]))
    assert not same(answer, answer[:, :2])
    probabilities = np.array([[0.25, 0.75]])
    assert proportional(probabilities, 100 * probabilities)
    assert not proportional(probabilities, np.array([[0.75, 0.25]]))
    assert not proportional(probabilities, -probabilities)


def test_the_place_of_an_error_is_the_last_function_of_camrt(tmp_path: Path) -> None:
    with pytest.raises(ModelFileError) as caught:
        camrt.load(tmp_path / "absent.onnx")
    assert place_of(caught.value) == "export.io.model_bytes:read_bytes"


# ---------------------------------------------------------------- processes


def test_a_process_that_dies_or_hangs_is_begun_again(tmp_path: Path, seed_file: Path) -> None:
    with Worker(Limits(grace=60.0)) as worker:
        died, _ = worker.of_file(tmp_path / "absent.onnx", 0)
        assert (died.word, died.where) == ("crash", "start")
        assert worker.of_file(seed_file, 0)[0].word == "answered"
    with Worker(Limits(seconds=1e-3, grace=0.0)) as worker:
        assert worker.of_file(seed_file, 0)[0].word == "hang"


# ---------------------------------------------------------------- a run


def test_a_run_is_gone_on_with(tmp_path: Path) -> None:
    limits = Limits(grace=60.0)
    first = run(3, 8, tmp_path, limits)
    journal = tmp_path / "journal.jsonl"
    with journal.open("a") as file:
        file.write('{"index": 99, "kind": "nam')  # cut off while it was written
    with pytest.raises(InputError, match="--resume"):
        run(5, 8, tmp_path, limits)
    with pytest.raises(InputError, match="other settings"):
        run(5, 9, tmp_path, limits, resume=True)
    lines = run(5, 8, tmp_path, limits, resume=True)
    assert lines[:3] == first
    assert [line["index"] for line in lines] == [0, 1, 2, 3, 4]


def test_what_fails_is_kept_small_and_counted(tmp_path: Path, monkeypatch, capsys) -> None:
    def fails_on_pools(self: Worker, path: Path, index: int) -> tuple[Outcome, dict[str, object]]:
        pools = b"GlobalAveragePool" in path.read_bytes()
        return Outcome(*(("raw", "KeyError at export.pools:found") if pools else ("answered",))), {}

    def fails_on_one(self: Worker, seed: int, index: int) -> tuple[Outcome, dict[str, object]]:
        return fails_on_pools(self, write_file(make_file(seed, index).data, tmp_path), index)

    monkeypatch.setattr(Worker, "of_file", fails_on_pools)
    monkeypatch.setattr(Worker, "of_number", fails_on_one)
    out = tmp_path / "out"
    index = next(
        i for i in range(99) if make_file(1, i).kind == "names" and make_file(1, i).seed.startswith("zoo")
    )
    assert main(["--files", str(index + 1), "--seed", "1", "--out", str(out)]) == 1
    kept = sorted((out / "failures").glob("*.onnx"))
    assert kept
    assert all(path.name.startswith("raw_KeyError_at_export.pools_found__") for path in kept)
    smallest_kept = min(
        (onnx.load(path, load_external_data=False) for path in kept), key=lambda m: m.ByteSize()
    )
    assert [node.op_type for node in smallest_kept.graph.node] == ["GlobalAveragePool"]
    assert "× raw KeyError at export.pools:found" in capsys.readouterr().out
    assert "raw KeyError at export.pools:found" in (out / "table.md").read_text()


def test_the_table_counts_by_kind_and_by_outcome() -> None:
    lines = [
        {"index": 0, "kind": "names", **Outcome("refused", "ModelFileError").as_json()},
        {"index": 1, "kind": "names", **Outcome("answered").as_json()},
        {"index": 2, "kind": "wiring", **Outcome("raw", "KeyError at x:y").as_json()},
    ]
    text = table(lines)
    assert "| names | 2 | 1 | 1 | 0 |" in text
    assert "| all | 3 | 1 | 1 | 1 |" in text
    assert "Refused: ModelFileError 1." in text
    assert "- 1 × raw KeyError at x:y" in text


def test_a_journal_begins_with_its_settings(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "journal.jsonl", {"seed": 1}, resume=False)
    journal.add(4, "names", Outcome("answered"))
    assert json.loads(journal.path.read_text().splitlines()[0]) == {"seed": 1}
    assert Journal(journal.path, {"seed": 1}, resume=True).done == {4}


# ---------------------------------------------------------------- small files


def test_a_file_is_made_small_and_still_fails() -> None:
    def fails(data: bytes) -> bool:
        model = onnx.ModelProto()
        model.ParseFromString(data)
        return any(node.op_type == "Einsum" for node in model.graph.node)

    found = onnx.ModelProto.FromString(smallest(seed_bytes(SEED), fails))
    assert [node.op_type for node in found.graph.node] == ["Einsum"]
    assert not found.graph.initializer
    assert not found.graph.value_info


def test_bytes_are_made_few() -> None:
    data = b"\xff" * 300 + b"needle" + b"\xff" * 300
    found = smallest(data, lambda tried: b"needle" in tried)
    assert b"needle" in found
    assert len(found) < 40


def test_changes_that_do_not_matter_are_taken_back() -> None:
    index = next(index for index in range(200) if len(make_file(5, index).changes) == 3)
    found = fewest_changes(5, index, lambda _data: True)
    left = [make_file(5, index, without) for without in ([0, 1], [0, 2], [1, 2])]
    assert found in [made.data for made in left]


def test_there_are_seeds_of_every_sort() -> None:
    assert len(SEEDS) > 100
    assert max(len(seed_bytes(name)) for name in SEEDS) < 200_000
