"""PASCAL VOC: an XML file a picture, boxes in pixels counted from 1 with both ends inside."""

from __future__ import annotations

from pathlib import Path

from camrt.errors import DataError
from camrt.evaluation.datasets.intake import Intake, Place, number, only_class, shown
from camrt.evaluation.datasets.samples import Box, Sample
from camrt.evaluation.datasets.xml_tree import Element, XmlError, read_xml

__all__ = ["find_xml", "read_voc"]


def find_xml(folder: Path) -> list[Path]:
    """The XML files in a folder and the folders in it, in the order of their names."""
    hidden = (path for path in folder.rglob("*.xml") if path.is_file())
    return sorted(
        path for path in hidden if not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )


def read_voc(intake: Intake, folder: Path, *, difficult: bool) -> list[Sample]:
    """The pictures with their boxes; the edge xmin becomes x0 = xmin − 1, the edge xmax stays.

    Pictures are in the root's folder `JPEGImages` or `images`, or else in the root. An XML file belongs to
    the picture of the same name, in the same folder below its own root; failing that, to the one it names.

    Args:
        intake: Where problems are listed.
        folder: Of the XML files; may be the pictures' own.
        difficult: Keep the objects that are marked as difficult; otherwise they are left out and counted.
    """
    places = (intake.root / "JPEGImages", intake.root / "images", intake.root)
    pictures_in = next(place for place in places if place.is_dir())
    pictures = intake.pictures(pictures_in)
    named: dict[Path, list[Path]] = {}
    for picture in pictures:
        named.setdefault(picture.relative_to(pictures_in).with_suffix(""), []).append(picture)
    boxes: dict[Path, list[Box]] = {}
    skipped = 0
    for path in find_xml(folder):
        try:
            root = read_xml(path)
            if root.tag != "annotation":
                raise XmlError(f"the outermost element is {shown(root.tag)}, not annotation", root.line)
        except XmlError as error:
            intake.report(Place(path, error.line), f"{error}; the file is left out")
            root = None
        except OSError as error:
            intake.report(Place(path), f"cannot be read: {error.strerror or error}")
            root = None
        found = _picture(intake, path, root, named.get(path.relative_to(folder).with_suffix("")), pictures_in)
        if found is None:
            continue
        if found in boxes:
            intake.report(Place(path), f"{intake.name(found)} has another annotation; this one is left out")
            continue
        boxes[found], left_out = _objects(intake, path, root, found, difficult)
        skipped += left_out
    if skipped:
        intake.note(f"{skipped} objects marked as difficult were left out")
    for picture in pictures:
        if picture not in boxes:
            intake.report(Place(picture), "no annotation")
            boxes[picture] = []
    return [Sample(intake.name(path), path, only_class(own, ()), tuple(own)) for path, own in boxes.items()]


def _picture(
    intake: Intake, path: Path, root: Element | None, same: list[Path] | None, folder: Path
) -> Path | None:
    """The picture of an XML file; None, and a problem, if there is none."""
    stated = root.one("filename") if root is not None else None
    if same:
        exact = [picture for picture in same if stated is not None and picture.name == stated.text]
        return (exact or same)[0]
    if root is None:
        return None
    if stated is None or not stated.text:
        intake.report(Place(path), "there is no picture of this name, and the file names none")
        return None
    return intake.picture(stated.text, Place(path, stated.line), [folder])


def _objects(
    intake: Intake, path: Path, root: Element | None, picture: Path, difficult: bool
) -> tuple[list[Box], int]:
    """The boxes of a picture, and how many difficult objects were left out."""
    size = intake.size(picture)
    assert size is not None
    boxes: list[Box] = []
    skipped = 0
    if root is None or not _made_on(intake, path, root, size):
        return boxes, skipped
    for item in root.all("object"):
        try:
            if not difficult and _is_difficult(item):
                skipped += 1
                continue
            name = item.one("name")
            if name is None:
                raise DataError("an object without a name; it is left out")
            edges = _edges(item)
        except DataError as error:
            intake.report(Place(path, item.line), str(error))
            continue
        label = intake.classes.find(name.text)
        if label is None:
            reason = intake.classes.reason(name.text)
            intake.report(Place(path, name.line), f"{reason}; the object is left out")
            continue
        box = intake.box(label, edges, size, Place(path, item.line))
        if box is not None:
            boxes.append(box)
    return boxes, skipped


def _made_on(intake: Intake, path: Path, root: Element, size: tuple[int, int]) -> bool:
    """Whether the annotations are of the picture's size, as far as they say; some tools write 0 and 0."""
    stated = root.one("size")
    if stated is None:
        return True
    texts = [side.text if (side := stated.one(tag)) is not None else "" for tag in ("width", "height")]
    sides = [number(text) for text in texts]
    return sides == [0, 0] or intake.stated_size(sides, size, Place(path, stated.line))


def _is_difficult(item: Element) -> bool:
    flag = item.one("difficult")
    if flag is not None and flag.text not in ("0", "1", ""):
        raise DataError(f"difficult must be 0 or 1, not {shown(flag.text)}; the object is left out")
    return flag is not None and flag.text == "1"


def _edges(item: Element) -> tuple[float | None, ...]:
    bounds = item.one("bndbox")
    if bounds is None:
        raise DataError("an object without bndbox; it is left out")
    found = [bounds.one(tag) for tag in ("xmin", "ymin", "xmax", "ymax")]
    x0, y0, x1, y1 = (number(edge.text) if edge is not None else None for edge in found)
    return None if x0 is None else x0 - 1, None if y0 is None else y0 - 1, x1, y1
