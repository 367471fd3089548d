"""Two thousand mutated files: each is refused by a camrt error, or answered as plain onnxruntime does."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from fuzz.seeds import SEEDS
from fuzz.trying import Limits
from fuzz.workers import Worker

SEED = 2026
FILES, SLICE = 2000, 100
# A machine may be busy: what takes long is then refused at a deadline, and nothing is called late.
LIMITS = Limits(seconds=10.0, grace=50.0)


@pytest.fixture(scope="session")
def worker() -> Iterator[Worker]:
    with Worker(LIMITS) as started:
        yield started


@pytest.mark.parametrize("first", range(0, FILES, SLICE))
def test_mutated_files_are_refused_or_answered(first: int, worker: Worker) -> None:
    failed = []
    for index in range(first, first + SLICE):
        outcome, _ = worker.of_number(SEED, index)
        if not outcome.clean:
            failed.append(f"python -m tests.fuzz --seed {SEED} --only {index} --out fuzzed: {outcome}")
    assert not failed, "\n".join(failed)


@pytest.mark.parametrize("name", [name for name in SEEDS if not name.startswith(("zoo-", "ending-"))])
def test_seeds_are_answered(name: str, worker: Worker, tmp_path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(SEEDS[name]().SerializeToString())
    outcome, _ = worker.of_file(path, 0)
    assert outcome.word == "answered", outcome
