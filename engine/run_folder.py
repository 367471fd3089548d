"""Folders of results: who writes into one, what was written, and whether a run may go on in it.

    run.json        what the run is, and everything that its results depend on
    written.jsonl   a line before each file that is written, naming it, and notes of what is finished

A run holds its folder while it writes. What another run left there is gone on with (`resume`), replaced
(`overwrite`: exactly the files that it noted) or left alone with an error.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import Any

from camrt.errors import InputError, StorageError
from camrt.export.io.atomic_files import is_same_file, remove_drafts, storage_errors, try_lock, write_atomic

__all__ = [
    "DATA_SET",
    "JOURNAL_FILE",
    "RUN_FILE",
    "RunFolder",
    "check_unused",
    "holds_run",
    "lock_folder",
    "read_notes",
    "read_results",
]

RUN_FILE = "run.json"
JOURNAL_FILE = "written.jsonl"
LOCK_FILE = ".camrt-lock"
DATA_SET = "stack-mix"
"""The kind of run that makes images to be used as images; what others write are results."""

MAX_NOTES = 1 << 28  # bytes of notes that are read where images are looked for, in folders of anybody
FORK_WAIT_SECONDS = 10.0  # seconds that a child which was just forked gets to let go of what its parent held

_LOCK_HANDLES: set[int] = set()


class RunFolder:
    """A folder that a run writes its results into; `lock_folder` must be entered before.

    Nothing is written until the first file is claimed, so that a run that is refused before leaves nothing.

    Args:
        folder: The folder.
        kind: What the run makes, such as "evaluation".
        identity: Everything that the results depend on, as JSON has it.
        resume: Go on with the run that is there, if one is.
        overwrite: Remove the files of the run that is there, if one is.

    Raises:
        InputError: There is a run and neither was asked for, or both; or another run than this is there.
        StorageError: The folder cannot be read or written.
    """

    def __init__(
        self, folder: Path, kind: str, identity: Mapping[str, Any], *, resume: bool, overwrite: bool
    ) -> None:
        if resume and overwrite:
            raise InputError(
                "go on with the run in a folder (--resume) or replace it (--overwrite), not both"
            )
        self.folder = folder
        self.description = {"run": kind, "made of": json.loads(json.dumps(identity))}
        self._begun = False
        self._former: set[str] | None = None
        self._claimed: set[str] = set()
        self._notes: list[dict[str, Any]] = []
        description, journal = folder / RUN_FILE, folder / JOURNAL_FILE
        if not description.exists() and not journal.exists():
            return
        lines, whole = _read_journal(journal)
        check_unused(folder, resume=resume, overwrite=overwrite)
        found = _read_description(description)
        if found is not None and found["run"] != kind:
            raise InputError(f"{folder} holds another kind of run ({found['run']}): choose another folder")
        names = {name for line in lines for name in line.get("writes", ())}
        for inner in {(folder / name).parent for name in names}:
            if inner.is_dir():
                remove_drafts(inner)
        if overwrite:
            self._former = names
            return
        if found is None:
            raise InputError(f"{folder} holds a run that was being replaced: replace it (--overwrite)")
        made, own = found["made of"], self.description["made of"]
        differing = sorted(key for key in {*made, *own} if made.get(key) != own.get(key))
        if differing:
            raise InputError(
                f"{folder} holds another {kind}, which differs in {', '.join(differing)}"
                f"{describe_differences(made, own, differing)}; replace it (--overwrite), or choose another "
                "folder"
            )
        self._notes = [line["finished"] for line in lines if isinstance(line.get("finished"), dict)]
        if whole is not None:
            with storage_errors(journal):
                os.truncate(journal, whole)
        self._claimed = names
        self._begun = True

    @property
    def claimed(self) -> frozenset[str]:
        """The names of all files that were noted before they were written."""
        return frozenset(self._claimed)

    @property
    def replaced_files(self) -> frozenset[str]:
        """The names of all files of the run that is to be replaced, until it is."""
        return frozenset(self._former or ())

    @property
    def finished(self) -> list[dict[str, Any]]:
        """What was noted with `finish`, by this run and by those that it goes on with."""
        return self._notes

    def check(self, names: Sequence[str]) -> None:
        """Looks whether files could be claimed, so that a long run does not find out in the end.

        Raises:
            StorageError: One is there already that no run has noted.
        """
        for name in names:
            known = name in self._claimed or name in (self._former or ())
            if not known and os.path.lexists(self.folder / name):
                raise StorageError(
                    f"{self.folder / name} is there already, and is no result of this run: move it away, or "
                    "choose another folder"
                )

    def clear(self) -> None:
        """Removes the run that is to be replaced, if one is: its files, and what says that it was there.

        Raises:
            StorageError: A file cannot be removed.
        """
        if self._former is not None:
            _remove(self.folder, self._former)
            self._former = None

    def claim(self, names: Sequence[str]) -> None:
        """Notes that files will be written, before they are; again is nothing.

        Args:
            names: Their names in the folder, with "/" between folders in it.

        Raises:
            StorageError: One is there already that no run has noted, or the note cannot be written.
        """
        self.clear()
        self.check(names)
        new = [name for name in dict.fromkeys(names) if name not in self._claimed]
        if not self._begun:
            text = json.dumps(self.description, indent=1, sort_keys=True)
            write_atomic(self.folder / RUN_FILE, text.encode())
            self._begun = True
        if new:
            self._append({"writes": new})
            self._claimed.update(new)

    def finish(self, note: Mapping[str, Any]) -> None:
        """Notes that something is finished, all its files being written.

        Raises:
            StorageError: The note cannot be written.
        """
        self._append({"finished": note})
        self._notes.append(dict(note))

    def remove(self, names: Sequence[str]) -> None:
        """Removes files that were claimed and are no results any more."""
        for name in names:
            if name in self._claimed:
                _unlink(self.folder, name)

    def _append(self, line: Mapping[str, Any]) -> None:
        path = self.folder / JOURNAL_FILE
        content = (json.dumps(line) + "\n").encode()
        with storage_errors(path), path.open("ab") as file:
            before = file.tell()
            try:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            except OSError:
                with suppress(OSError):
                    file.truncate(before)
                raise


MOST_TOLD = 5  # differences that are named


def describe_differences(there: Mapping[str, Any], here: Mapping[str, Any], keys: Sequence[str]) -> str:
    """What differs, there and here, of what has names and short values; empty where nothing has."""
    found = []
    for key in keys:
        pair = there.get(key), here.get(key)
        if all(isinstance(one, dict) for one in pair):
            first, second = (dict(one or {}) for one in pair)
            found += [
                f"{name} was {first.get(name)!r:.60} and is {second.get(name)!r:.60}"
                for name in sorted({*first, *second})
                if first.get(name) != second.get(name)
            ]
    return f" ({'; '.join(found[:MOST_TOLD])})" if found else ""


def check_unused(folder: Path, *, resume: bool, overwrite: bool) -> None:
    """Refuses a folder that holds results where it was not said what becomes of them; long before they are.

    Raises:
        InputError: It does.
    """
    if not resume and not overwrite and any((folder / name).exists() for name in (RUN_FILE, JOURNAL_FILE)):
        raise InputError(
            f"{folder} holds results already: go on with them (--resume), replace them (--overwrite), or "
            "choose another folder"
        )


def holds_run(folder: Path, kind: str, identity: Mapping[str, Any]) -> bool:
    """Whether a folder holds the results of the same run, which would come out the same again."""
    try:
        found = _read_description(folder / RUN_FILE)
    except InputError:
        return False
    return found == {"run": kind, "made of": json.loads(json.dumps(identity))}


def read_results(folder: Path) -> frozenset[str] | None:
    """The files in a folder that a run noted as its results; None where there is no run, or a data set's."""
    notes = [folder / RUN_FILE, folder / JOURNAL_FILE]
    try:
        if not all(path.is_file() and path.stat().st_size <= MAX_NOTES for path in notes):
            return None
        description, (lines, _) = _read_description(notes[0]), _read_journal(notes[1])
    except (InputError, OSError):
        return None  # another program's files of these names, or ours damaged: every image may be anybody's
    if description is None or description["run"] == DATA_SET:
        return None
    return frozenset(name for line in lines for name in line.get("writes", ()))


def read_notes(folder: Path) -> list[dict[str, Any]]:
    """What a run in a folder noted with `RunFolder.finish`, in its order.

    Raises:
        InputError: Its notes are damaged, or cannot be read.
    """
    lines, _ = _read_journal(folder / JOURNAL_FILE)
    return [line["finished"] for line in lines if isinstance(line.get("finished"), dict)]


def _read_journal(journal: Path) -> tuple[list[dict[str, Any]], int | None]:
    """The whole lines of a journal, and where the last of them ends if something torn follows."""
    try:
        content = journal.read_bytes()
    except FileNotFoundError:
        return [], None
    except OSError as error:
        raise InputError(f"{journal} cannot be read: {error.strerror or error}") from error
    end = content.rfind(b"\n") + 1
    try:
        lines = [json.loads(line) for line in content[:end].splitlines() if line]
        for line in lines:
            if not isinstance(line, dict) or not all(_is_inside(name) for name in line.get("writes", ())):
                raise ValueError(f"{line!r:.80} is no note of this folder's files")
    except (ValueError, TypeError, RecursionError) as error:
        raise InputError(f"{journal} is damaged: {error}; choose another folder") from error
    return lines, None if end == len(content) else end


def _is_inside(name: object) -> bool:
    """Whether a name can only mean something inside a folder."""
    if not isinstance(name, str) or "\0" in name or "\\" in name or ":" in name:
        return False
    path = PurePosixPath(name)
    return bool(path.parts) and not path.is_absolute() and ".." not in path.parts


def _read_description(description: Path) -> dict[str, Any] | None:
    """What `run.json` says; None where it is missing."""
    try:
        found = json.loads(description.read_bytes())
        return {"run": str(found["run"]), "made of": dict(found["made of"])}
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise InputError(
            f"{description} is damaged, or of another camrt: {error!r}; choose another folder"
        ) from error


def _remove(folder: Path, names: set[str]) -> None:
    """Removes a run's files, what says that there is one last, and folders in it that are empty then."""
    with storage_errors(folder):
        for name in sorted(names):
            _unlink(folder, name)
        for inner in sorted(
            {parent for name in names for parent in PurePosixPath(name).parents}, reverse=True
        ):
            if inner.parts:
                with suppress(OSError):  # something else is in it
                    (folder / inner).rmdir()
        for name in (RUN_FILE, JOURNAL_FILE):
            (folder / name).unlink(missing_ok=True)


def _unlink(folder: Path, name: str) -> None:
    path = folder / name
    if path.parent.resolve().is_relative_to(folder.resolve()) and not path.is_dir():
        path.unlink(missing_ok=True)


@contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """Holds a folder for one run, and removes what killed runs left half written in it.

    The folder is made if missing, and removed again where nothing was written. A run that is killed holds
    nothing any more.

    Raises:
        InputError: Another process holds it, or it is a file.
        StorageError: It cannot be made or written.
    """
    new = not folder.exists()
    if not new and not folder.is_dir():
        raise InputError(f"{folder} is a file, and results go into a folder: name another")
    path = folder / LOCK_FILE
    with storage_errors(path):
        folder.mkdir(parents=True, exist_ok=True)
        handle = _open_lock(folder, path)
    owner = os.getpid()
    _LOCK_HANDLES.add(handle)
    try:
        remove_drafts(folder)
        yield
    finally:
        if os.getpid() == owner:
            _LOCK_HANDLES.discard(handle)
            with suppress(OSError):
                if sys.platform != "win32":
                    path.unlink(missing_ok=True)
                os.close(handle)
                if sys.platform == "win32":  # not while it is open
                    path.unlink(missing_ok=True)
            if new:
                with suppress(OSError):  # there are results in it
                    folder.rmdir()


def _open_lock(folder: Path, path: Path) -> int:
    """The lock of a folder, open."""
    until = time.monotonic() + FORK_WAIT_SECONDS
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        if not try_lock(handle):
            os.close(handle)
            holder = _read_holder(path)
            if holder is not None and _has_ended(*holder) and time.monotonic() < until:
                time.sleep(0.01)  # a child of it has not come to `_close_inherited_locks` yet
                continue
            who = "" if holder is None else f" (process {holder[0]} on {holder[1]})"
            raise InputError(
                f"{folder} is being written by another run{who}: wait for it, or choose another folder"
            )
        if is_same_file(handle, path):
            break
        os.close(handle)  # whoever had it has just removed it
    with suppress(OSError):  # the note is for people; a full disk is met where results are written
        os.ftruncate(handle, 0)
        os.write(handle, f"{os.getpid()} {socket.gethostname()}\n".encode())
    return handle


def _read_holder(path: Path) -> tuple[int, str] | None:
    """The process that noted that it holds a folder, and its host."""
    try:
        number, host = path.read_text(encoding="utf-8").split()
        return int(number), host
    except (OSError, ValueError):
        return None


def _has_ended(number: int, host: str) -> bool:
    """Whether a process has surely ended."""
    if sys.platform == "win32" or host != socket.gethostname() or number < 1:
        return False
    try:
        os.kill(number, 0)
    except ProcessLookupError:
        return True
    except (OSError, OverflowError):
        return False
    return False


def _close_inherited_locks() -> None:
    """In a process that was forked off: the folders stay its parent's, and are free when that ends."""
    for handle in _LOCK_HANDLES:
        with suppress(OSError):
            os.close(handle)
    _LOCK_HANDLES.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_inherited_locks)
