"""Images in one folder a class, as ImageFolder has them; or in one folder without classes."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from camrt.engine.images.read import list_class_folders
from camrt.evaluation.datasets.annotation_checks import AnnotationChecker, SourceLocation
from camrt.evaluation.datasets.samples import Sample

__all__ = ["match_class_folders", "read_class_folders"]


def read_class_folders(checker: AnnotationChecker) -> list[Sample]:
    """Every image under the root; its class is that of the outermost folder it is in."""
    found = {checker.relative_name(path): path for path in checker.find_images(checker.root)}
    folders = [name for name in list_class_folders(checker.root) if not (checker.root / name).is_symlink()]
    filled = {name.split("/")[0] for name in found if "/" in name}
    for folder in folders:
        if folder not in filled:
            checker.report(SourceLocation(checker.root / folder), "the folder has no readable image")
    class_of = match_class_folders(checker, checker.root, folders)
    return [Sample(name, path, class_of.get(name.split("/")[0])) for name, path in found.items()]


def match_class_folders(
    checker: AnnotationChecker, parent: Path, folders: Iterable[str]
) -> dict[str, int | None]:
    """The class of each class folder.

    Where no name is a class's and there are as many folders as classes, they are the classes in the order of
    their names, and a note says so; otherwise each name that is no class's is a problem.
    """
    names = sorted(folders)
    class_of = {name: checker.classes.find(name) for name in names}
    if len(names) == checker.classes.num_classes and set(class_of.values()) == {None}:
        checker.add_note(
            f"no folder in {parent} has a class's name; in the order of their names the {len(names)} "
            "folders were taken for the model's classes"
        )
        return {name: index for index, name in enumerate(names)}
    for name, label in class_of.items():
        if label is None:
            reason = checker.classes.reason(name)
            checker.report(SourceLocation(parent / name), f"{reason}; its images have no class")
    return class_of
