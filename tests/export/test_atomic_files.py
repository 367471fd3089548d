"""Files are whole or not there: full disks, killed processes, and what they leave."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from camrt.errors import StorageError
from camrt.export.io.atomic_files import open_atomic, open_draft, remove_drafts, write_atomic


def left(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_takes_its_place_whole(tmp_path: Path) -> None:
    place = tmp_path / "deep" / "file"
    write_atomic(place, b"one")
    with open_atomic(place) as file:
        file.write(b"two")
        assert place.read_bytes() == b"one"
    assert place.read_bytes() == b"two"
    assert left(place.parent) == ["file"]


@pytest.mark.skipif(sys.platform == "win32", reason="there is no umask")
@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_the_mode_follows_the_umask(tmp_path: Path, mask: int) -> None:
    before = os.umask(mask)
    try:
        write_atomic(tmp_path / "file", b"")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o666 & ~mask


def test_an_error_leaves_what_was_there(tmp_path: Path) -> None:
    write_atomic(tmp_path / "file", b"old")

    def broken() -> None:
        with open_atomic(tmp_path / "file") as file:
            file.write(b"new")
            raise ValueError("in between")

    with pytest.raises(ValueError, match="in between"):
        broken()
    assert (tmp_path / "file").read_bytes() == b"old"
    assert left(tmp_path) == ["file"]


@pytest.mark.parametrize(
    ("number", "words"),
    [(errno.ENOSPC, "the disk is full"), (errno.EFBIG, "so large"), (errno.EROFS, "ead-only")],
)
def test_what_the_disk_refuses_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, words: str
) -> None:
    write_atomic(tmp_path / "file", b"old")

    def refusing(_: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", refusing)
    with pytest.raises(StorageError, match=words) as caught:
        write_atomic(tmp_path / "file", b"new")
    assert str(tmp_path / "file") in str(caught.value)
    assert caught.value.errno == number
    assert (tmp_path / "file").read_bytes() == b"old"
    assert left(tmp_path) == ["file"]


def test_a_file_where_a_folder_should_be(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StorageError, match="cannot be written") as caught:
        write_atomic(tmp_path / "file" / "inner", b"")
    assert str(tmp_path / "file") in str(caught.value)


KILLED = """
import os, sys
from pathlib import Path
from camrt.export.io.atomic_files import open_draft
with open_draft(Path(sys.argv[1])) as draft:
    draft.file.write(b"half")
    draft.file.flush()
    os.kill(os.getpid(), 9)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="no such signal")
def test_drafts_of_killed_processes_are_removed_and_no_others(tmp_path: Path) -> None:
    foreign = [".camrt-notes", ".camrt-0123456789abcdef.part.d!", "photo.part"]
    for name in foreign:
        (tmp_path / name).touch()
    subprocess.run([sys.executable, "-c", KILLED, str(tmp_path / "file")], check=False)
    assert len(left(tmp_path)) == len(foreign) + 1
    with open_draft(tmp_path / "alive") as draft:
        remove_drafts(tmp_path)
        assert draft.path.exists()
        draft.file.write(b"whole")
    assert left(tmp_path) == sorted([*foreign, "alive"])
    assert (tmp_path / "alive").read_bytes() == b"whole"


def test_a_draft_may_be_read_by_its_name_before_it_takes_its_place(tmp_path: Path) -> None:
    def checked(content: bytes) -> Any:
        with open_draft(tmp_path / "model", ".onnx") as draft:
            draft.file.write(content)
            draft.file.flush()
            assert draft.path.suffix == ".onnx"
            if draft.path.read_bytes() != b"good":
                raise ValueError("bad")

    checked(b"good")
    with pytest.raises(ValueError, match="bad"):
        checked(b"wrong")
    assert (tmp_path / "model").read_bytes() == b"good"
    assert left(tmp_path) == ["model"]
