"""Folders of results: one run at a time, gone on with or replaced on request, and nothing else touched."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from camrt.engine.run_folder import JOURNAL_FILE, LOCK_FILE, RUN_FILE, RunFolder, lock_folder
from camrt.errors import InputError, StorageError


def folder(
    path: Path, made_of: str = "this", *, kind: str = "test", resume: bool = False, overwrite: bool = False
) -> RunFolder:
    return RunFolder(path, kind, {"data": made_of}, resume=resume, overwrite=overwrite)


def written(path: Path, *names: str) -> RunFolder:
    run = folder(path)
    run.claim(names)
    for name in names:
        (path / name).parent.mkdir(exist_ok=True)
        (path / name).write_text(name)
    run.finish({"number": 1})
    return run


def left(path: Path) -> set[str]:
    return {entry.name for entry in path.iterdir()}


def test_nothing_is_written_before_a_file_is_claimed(tmp_path: Path) -> None:
    with lock_folder(tmp_path / "out"):
        folder(tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_run_that_is_there_is_left_alone(tmp_path: Path) -> None:
    written(tmp_path, "a")
    with pytest.raises(InputError, match=r"holds results already.*--resume.*--overwrite"):
        folder(tmp_path)
    with pytest.raises(InputError, match="not both"):
        folder(tmp_path, resume=True, overwrite=True)
    with pytest.raises(InputError, match="another test, which differs in data"):
        folder(tmp_path, "that", resume=True)
    for how in ({"resume": True}, {"overwrite": True}):
        with pytest.raises(InputError, match=r"another kind of run \(test\)"):
            folder(tmp_path, kind="other", **how)


def test_going_on(tmp_path: Path) -> None:
    written(tmp_path, "a")
    notes = (tmp_path / JOURNAL_FILE).read_bytes()
    with (tmp_path / JOURNAL_FILE).open("ab") as file:
        file.write(b'{"finished": {"number": 2')  # torn
    run = folder(tmp_path, resume=True)
    assert run.finished == [{"number": 1}]
    assert (tmp_path / JOURNAL_FILE).read_bytes() == notes
    run.claim(["a"])  # again
    assert (tmp_path / JOURNAL_FILE).read_bytes() == notes


def test_drafts_of_killed_runs_are_removed_in_inner_folders_too(tmp_path: Path) -> None:
    written(tmp_path, "a", "parts/b")
    draft = ".camrt-0123456789abcdef.part"
    for place in (tmp_path, tmp_path / "parts"):
        (place / draft).touch()
    with lock_folder(tmp_path):
        folder(tmp_path, resume=True)
    assert left(tmp_path) == {"a", "parts", RUN_FILE, JOURNAL_FILE}
    assert left(tmp_path / "parts") == {"b"}


def test_replacing_removes_what_was_noted_and_nothing_else(tmp_path: Path) -> None:
    written(tmp_path, "a", "parts/b", "other/c", "gone")
    (tmp_path / "gone").unlink()
    (tmp_path / "mine").write_text("foreign")
    (tmp_path / "other" / "mine").write_text("foreign")
    run = folder(tmp_path, "that", overwrite=True)
    assert (tmp_path / "a").exists()  # until the new run has something
    run.claim(["new"])
    assert left(tmp_path) == {RUN_FILE, JOURNAL_FILE, "mine", "other"}
    assert left(tmp_path / "other") == {"mine"}
    assert json.loads((tmp_path / RUN_FILE).read_text())["made of"] == {"data": "that"}


def test_files_that_no_run_has_noted_are_not_written_over(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("foreign")
    with pytest.raises(StorageError, match="mine is there already, and is no result of this run"):
        folder(tmp_path).claim(["new", "mine"])
    assert left(tmp_path) == {"mine"}


@pytest.mark.parametrize(
    "name", ["../outside", "/etc/hostname", "a/../../outside", "C:\\x", 7, "", "link/outside"]
)
def test_notes_of_a_stranger_reach_nothing_outside(tmp_path: Path, name: object) -> None:
    inner = tmp_path / "out"
    written(inner, "a")
    outside = tmp_path / "outside"
    outside.write_text("foreign")
    if hasattr(os, "symlink"):
        (inner / "link").symlink_to(tmp_path)
    with (inner / JOURNAL_FILE).open("a") as file:
        file.write(json.dumps({"writes": [name]}) + "\n")
    try:
        folder(inner, overwrite=True).claim(["b"])
    except InputError as error:
        assert "damaged" in str(error)  # noqa: PT017 - either is right, by the name
    assert outside.read_text() == "foreign"


@pytest.mark.parametrize(
    "content", [b"[", b"[]", b"\xff", b"{}", b'{"run": 1, "made of": 2}', b"[" * 100_000]
)
def test_damaged_descriptions_are_errors(tmp_path: Path, content: bytes) -> None:
    written(tmp_path, "a")
    (tmp_path / RUN_FILE).write_bytes(content)
    with pytest.raises(InputError, match="damaged"):
        folder(tmp_path, resume=True)


@pytest.mark.parametrize("content", [b"[\n", b"[]\n", b"\xff\n", b'{"writes": 3}\n', b'{"writes": [[]]}\n'])
def test_damaged_notes_are_errors(tmp_path: Path, content: bytes) -> None:
    written(tmp_path, "a")
    (tmp_path / JOURNAL_FILE).write_bytes(content)
    with pytest.raises(InputError, match="damaged"):
        folder(tmp_path, resume=True)


HOLDING = """
import sys, time
from pathlib import Path
from camrt.engine.run_folder import lock_folder
with lock_folder(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


def test_one_run_at_a_time(tmp_path: Path) -> None:
    process = subprocess.Popen([sys.executable, "-c", HOLDING, str(tmp_path)], stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        assert process.stdout.readline().strip() == b"held"
        with (
            pytest.raises(InputError, match=f"another run.*{process.pid}|another run"),
            lock_folder(tmp_path),
        ):
            pass
    finally:
        process.kill()
        process.communicate()
    assert (tmp_path / LOCK_FILE).exists()  # nobody holds it any more
    with (
        lock_folder(tmp_path),
        pytest.raises(InputError, match="being written by another run"),
        lock_folder(tmp_path),
    ):
        pass
    assert not left(tmp_path)


FORKING = """
import os, signal, sys, time
from pathlib import Path
if SLOWLY:  # before ours is registered, and so it comes first
    os.register_at_fork(after_in_child=lambda: time.sleep(1))
from camrt.engine.run_folder import lock_folder
with lock_folder(Path(sys.argv[1])):
    child = os.fork()
    if bool(child) == SLOWLY:  # the child says so when it has let go
        print(child or os.getpid(), flush=True)
    time.sleep(600)
"""


@pytest.mark.parametrize("slowly", [False, True])
@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_a_forked_child_does_not_hold_what_its_killed_parent_held(tmp_path: Path, slowly: bool) -> None:
    """Nor does it where the parent is killed before the child has come to let go."""
    code = FORKING.replace("SLOWLY", str(slowly))
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    child = int(process.stdout.readline())
    try:
        process.kill()
        process.wait()
        with lock_folder(tmp_path):
            pass
    finally:
        os.kill(child, signal.SIGKILL)
        process.communicate()
