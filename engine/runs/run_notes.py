"""What a run notes in its folder: which blocks are finished, and what the rows in it are."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from camrt.engine.run_folder import RunFolder
from camrt.engine.runs.blocks import FinishedBlock
from camrt.engine.runs.result_table import RESULTS, make_table
from camrt.export.io.atomic_files import write_atomic

__all__ = ["MANIFEST", "RunNotes", "read_finished"]

MANIFEST = "manifest.json"


def read_finished(notes: Iterable[Mapping[str, Any]]) -> dict[int, FinishedBlock]:
    """The blocks that are finished, by number.

    Raises:
        InputError: A note is damaged.
    """
    finished: dict[int, FinishedBlock] = {}
    for note in notes:
        if isinstance(note.get("block"), int):
            finished.pop(note["block"], None)
            if not note.get("dropped"):
                finished[note["block"]] = FinishedBlock.from_note(note)
    return finished


class RunNotes:
    """Notes the blocks of a run.

    Args:
        folder: Its folder.
        table: Whether results.csv will be written.

    Attributes:
        former: Blocks that were finished before this run, by number.
    """

    def __init__(self, folder: RunFolder, table: bool = False) -> None:
        self._folder = folder
        if table:
            folder.check([RESULTS])
        self.former = read_finished(folder.finished)
        self._written: set[str] = set()  # names of files that are this run's
        self._lines: dict[int, str] = {}  # of results.csv, by block
        self._table_holds = True  # whether the one that is there, if any, is still right

    def claim(self, names: list[str]) -> None:
        """Notes files that will be written."""
        self._folder.claim(names)
        self._drop_table()
        self._written.update(names)

    def keep(self, number: int) -> None:
        """Takes a block as it is."""
        self._written.update(self.former[number].files)
        self._lines[number] = self.former[number].lines

    def finish(self, number: int, block: FinishedBlock) -> None:
        """Notes that a block's files are whole.

        One of which nothing could be read, and nothing tells of that, is looked at again by the next run.
        """
        if not block.files and len(block.errors) == block.images:
            return
        self._lines[number] = block.lines
        if block.maps is not None and MANIFEST not in self._written:
            self._write_manifest(block.maps)
        self._folder.finish({"block": number, **vars(block)})

    def drop(self, number: int) -> None:
        """Removes what an earlier run wrote of a block that is another one now."""
        former = self.former[number]
        self._drop_table()
        self._folder.finish({"block": number, "dropped": True})
        self._folder.remove([name for name in former.files if name not in self._written])

    def write_table(self) -> None:
        """Writes results.csv, if the blocks have lines of it.

        Raises:
            StorageError: It cannot be written.
        """
        lines = [self._lines[number] for number in sorted(self._lines)]
        if any(lines):
            self._folder.claim([RESULTS])
            write_atomic(self._folder.folder / RESULTS, make_table(lines).encode())

    def _drop_table(self) -> None:
        """Removes results.csv of an earlier run, which blocks of this one are not in."""
        if self._table_holds:
            self._table_holds = False
            self._folder.remove([RESULTS])

    def _write_manifest(self, maps: Mapping[str, Any]) -> None:
        """What the rows are, for who opens them: settings, hashes, versions, sizes."""
        self.claim([MANIFEST])
        told = {**self._folder.description, "maps": maps, "working folder": str(Path.cwd())}
        text = json.dumps(told, indent=1, sort_keys=True)
        write_atomic(self._folder.folder / MANIFEST, text.encode())
