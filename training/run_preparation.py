"""Checks and locks a run's folder before training, and finds the checkpoint to resume from."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from lightning.fabric.utilities.rank_zero import rank_zero_only

from camrt.engine.run_folder import RunFolder, lock_folder
from camrt.errors import TrainingError
from camrt.training import runs
from camrt.training.recipe import Recipe
from camrt.training.splits import Split, describe_difference, summarise_splits

__all__ = ["check_run_folder", "is_first_process", "lock_run_folder", "prepare_run"]


@contextmanager
def lock_run_folder(folder: Path) -> Iterator[None]:
    """Locks the run's folder; of several distributed processes only rank 0 takes the lock."""
    with lock_folder(folder) if is_first_process() else nullcontext():
        yield


def check_run_folder(folder: Path, *, resume: bool, overwrite: bool) -> None:
    """Looks whether a folder holds a run, before anything else is done.

    Raises:
        TrainingError: It is taken, or holds nothing to go on with.
    """
    begun = (folder / runs.RECIPE).exists()
    if resume and not overwrite and not begun:
        raise TrainingError(f"{folder} holds no run to go on with")
    if begun and not resume and not overwrite:
        raise TrainingError(
            f"{folder} holds a run already: go on with it (--resume), replace it (--overwrite), or choose "
            "another folder"
        )


def prepare_run(
    folder: Path,
    recipe: Recipe,
    data: tuple[Split, Split],
    facts: Mapping[str, Any] | None,
    *,
    resume: bool,
    overwrite: bool,
) -> Path | None:
    """The state to go on from, if any; `facts` are what `summarise_splits` says of the data, if it was asked.

    Raises:
        TrainingError: The folder is taken, or holds nothing to go on with, or another recipe, other classes
            or other images.
        InputError: It holds a run of another kind.
    """
    state = folder / runs.STATE
    written = folder / runs.RECIPE
    if not is_first_process():  # the first has looked, and has written since
        return state if resume and state.exists() else None
    check_run_folder(folder, resume=resume, overwrite=overwrite)
    # What a run that was stopped before it began has noted is replaced in any case.
    noted = RunFolder(folder, "training", {}, resume=resume or not overwrite, overwrite=overwrite)
    noted.check(runs.FILES)
    if not resume:
        noted.claim([])
        return None
    before = dataclasses.asdict(Recipe.read(written, {"recipe": "paper-imagenet"}))
    now = dataclasses.asdict(recipe)
    free = ("epochs", "workers", "patience", "checkpoint_steps")
    if changed := [
        f"{name} ({before[name]!r}, now {now[name]!r})"
        for name in now
        if now[name] != before[name] and name not in free
    ]:
        raise TrainingError(f"{folder} was begun with other settings: {', '.join(changed)}")
    try:
        begun = json.loads((folder / runs.DATA).read_text(encoding="utf-8"))
        labels, images = begun["labels"], begun["images"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise TrainingError(f"{folder / runs.DATA} cannot be read: {error!r}") from error
    present = facts or summarise_splits(data)
    if labels != present["labels"]:
        raise TrainingError(
            f"{folder} was begun with other classes: {describe_difference(present['labels'], labels)}"
        )
    if begun != present:
        others = "others in their places" if begun.get("names") != present["names"] else "with other contents"
        raise TrainingError(
            f"{folder} was begun with other images: {images[0]} and {images[1]} then, {len(data[0])} "
            f"and {len(data[1])} now, or {others}"
        )
    return state if state.exists() else None


def is_first_process() -> bool:
    """Whether this is the first of the processes that train together, or the only one."""
    return not getattr(rank_zero_only, "rank", 0)
