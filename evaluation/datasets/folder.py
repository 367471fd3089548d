"""Pictures in one folder a class, as ImageFolder has them; or in one folder without classes."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from camrt.evaluation.datasets.intake import Intake, Place
from camrt.evaluation.datasets.samples import Sample

__all__ = ["class_of_folders", "read_folder"]


def read_folder(intake: Intake) -> list[Sample]:
    """Every picture under the root; its class is that of the outermost folder it is in."""
    found = {intake.name(path): path for path in intake.pictures(intake.root)}
    folders = [
        entry.name
        for entry in sorted(intake.root.iterdir())
        if entry.is_dir() and not entry.is_symlink() and not entry.name.startswith(".")
    ]
    filled = {name.split("/")[0] for name in found if "/" in name}
    for folder in folders:
        if folder not in filled:
            intake.report(Place(intake.root / folder), "the folder has no readable picture")
    class_of = class_of_folders(intake, intake.root, folders)
    return [Sample(name, path, class_of.get(name.split("/")[0])) for name, path in found.items()]


def class_of_folders(intake: Intake, parent: Path, folders: Iterable[str]) -> dict[str, int | None]:
    """The class of each class folder.

    Where no name is a class's and there are as many folders as classes, they are the classes in the order of
    their names, and a note says so; otherwise each name that is no class's is a problem.
    """
    names = sorted(folders)
    class_of = {name: intake.classes.find(name) for name in names}
    if len(names) == intake.classes.num_classes and set(class_of.values()) == {None}:
        intake.note(
            f"no folder in {parent} has a class's name; in the order of their names the {len(names)} "
            "folders were taken for the model's classes"
        )
        return {name: index for index, name in enumerate(names)}
    for name, label in class_of.items():
        if label is None:
            reason = intake.classes.reason(name)
            intake.report(Place(parent / name), f"{reason}; its pictures have no class")
    return class_of
