"""Which format a folder of annotated images is in."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from camrt.errors import DataError, InputError
from camrt.evaluation.datasets.csv_table import read_csv_header
from camrt.evaluation.datasets.mask_folder import MASKS
from camrt.evaluation.datasets.voc import find_xml
from camrt.evaluation.datasets.wsol import IMAGE_IDS

__all__ = ["KINDS", "detect_format"]

KINDS = ("folder", "csv", "coco", "voc", "wsol", "masks")
"""The formats: class folders, a CSV file, COCO, PASCAL VOC, the WSOL benchmark's, and PNG masks."""


def detect_format(root: Path, annotations: Path | None, kind: str | None) -> tuple[str, Path | None]:
    """The format, and where its annotations are.

    Args:
        root: The data set's folder.
        annotations: The file or folder of the annotations; looked for in the root when None.
        kind: One of `KINDS`; recognised when None.

    Returns:
        The kind, and the annotations' file or folder; None for "folder".

    Raises:
        DataError: Annotations that are missing, of no known format, of several, or not those of the kind.
        InputError: An unknown kind, or annotations given for "folder", which has none.
    """
    if kind is not None and kind not in KINDS:
        raise InputError(f"kind={kind!r} must be one of {', '.join(KINDS)}")
    if annotations is not None:
        if kind == "folder":
            raise InputError("kind 'folder' has no annotations but the folders' names")
        return _detect_given(annotations, kind)
    if kind == "folder":
        return kind, None
    found = {name: places for name in _FINDERS if (places := _FINDERS[name](root))}
    if kind is not None:
        found = {kind: found.get(kind, [])}
        if not found[kind]:
            raise DataError(f"{root}: no annotations of kind {kind!r} in it; say where they are")
    if not found:
        return "folder", None
    places = [place for each in found.values() for place in each]
    if len(places) > 1:
        names = ", ".join(str(place) for place in places)
        raise DataError(f"{root}: several annotations: {names}; say which to read")
    return next(iter(found)), places[0]


def _detect_given(annotations: Path, kind: str | None) -> tuple[str, Path]:
    if not annotations.exists():
        raise DataError(f"{annotations}: no such file or folder")
    if annotations.is_dir():
        fitting = {
            "wsol": (annotations / IMAGE_IDS).is_file(),
            "voc": bool(find_xml(annotations)),
            "masks": next(annotations.rglob("*.png"), None) is not None,
        }
    else:
        fitting = {
            "coco": annotations.suffix.lower() == ".json",
            "csv": annotations.suffix.lower() == ".csv",
        }
        if not annotations.is_file():
            raise DataError(f"{annotations}: is not a regular file")
    if kind is not None:
        if kind not in fitting:
            wanted = "file" if annotations.is_dir() else "folder"
            raise DataError(f"{annotations}: annotations of kind {kind!r} are in a {wanted}")
        return kind, annotations
    kinds = [name for name, fits in fitting.items() if fits]
    if not kinds:
        raise DataError(f"{annotations}: not annotations of a known kind ({', '.join(KINDS[1:])})")
    return kinds[0], annotations


def _find_csv(root: Path) -> list[Path]:
    found = []
    for path in sorted(root.glob("*.csv")):
        try:
            read_csv_header(path)
        except DataError:
            continue  # some other table
        found.append(path)
    return found


def _find_coco(root: Path) -> list[Path]:
    patterns = ("annotations.json", "instances*.json", "*coco*.json")
    folders = (root, root / "annotations")
    return sorted({path for folder in folders for pattern in patterns for path in folder.glob(pattern)})


def _find_voc(root: Path) -> list[Path]:
    if (root / "Annotations").is_dir() and find_xml(root / "Annotations"):
        return [root / "Annotations"]
    return [root] if find_xml(root) else []


def _find_wsol(root: Path) -> list[Path]:
    return [folder for folder in (root, root / "metadata") if (folder / IMAGE_IDS).is_file()]


def _find_masks(root: Path) -> list[Path]:
    return [root / MASKS] if next((root / MASKS).rglob("*.png"), None) is not None else []


_FINDERS: dict[str, Callable[[Path], list[Path]]] = {
    "csv": _find_csv,
    "coco": _find_coco,
    "voc": _find_voc,
    "wsol": _find_wsol,
    "masks": _find_masks,
}
