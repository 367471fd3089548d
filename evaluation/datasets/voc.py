"""PASCAL VOC: an XML file an image, boxes in pixels counted from 1 with both ends inside."""

from __future__ import annotations

from pathlib import Path

from camrt.errors import DataError
from camrt.evaluation.datasets.annotation_checks import (
    AnnotationChecker,
    SourceLocation,
    find_single_class,
    parse_number,
    quote_untrusted,
)
from camrt.evaluation.datasets.samples import Box, Sample
from camrt.evaluation.datasets.xml_tree import Element, XmlError, read_xml

__all__ = ["find_xml", "read_voc"]


def find_xml(folder: Path) -> list[Path]:
    """The XML files in a folder and the folders in it, in the order of their names."""
    hidden = (path for path in folder.rglob("*.xml") if path.is_file())
    return sorted(
        path for path in hidden if not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )


def read_voc(checker: AnnotationChecker, folder: Path, *, difficult: bool) -> list[Sample]:
    """The images with their boxes; the edge xmin becomes x0 = xmin − 1, the edge xmax stays.

    Images are in the root's folder `JPEGImages` or `images`, or else in the root. An XML file belongs to
    the image of the same name, in the same folder below its own root; failing that, to the one it names.

    Args:
        checker: Where problems are listed.
        folder: Of the XML files; may be the images' own.
        difficult: Keep the objects that are marked as difficult; otherwise they are left out and counted.
    """
    places = (checker.root / "JPEGImages", checker.root / "images", checker.root)
    images_in = next(place for place in places if place.is_dir())
    images = checker.find_images(images_in)
    named: dict[Path, list[Path]] = {}
    for image in images:
        named.setdefault(image.relative_to(images_in).with_suffix(""), []).append(image)
    boxes: dict[Path, list[Box]] = {}
    skipped = 0
    for path in find_xml(folder):
        try:
            root = read_xml(path)
            if root.tag != "annotation":
                raise XmlError(
                    f"the outermost element is {quote_untrusted(root.tag)}, not annotation", root.line
                )
        except XmlError as error:
            checker.report(SourceLocation(path, error.line), f"{error}; the file is left out")
            root = None
        except OSError as error:
            checker.report(SourceLocation(path), f"cannot be read: {error.strerror or error}")
            root = None
        found = _image(checker, path, root, named.get(path.relative_to(folder).with_suffix("")), images_in)
        if found is None:
            continue
        if found in boxes:
            checker.report(
                SourceLocation(path),
                f"{checker.relative_name(found)} has another annotation; this one is left out",
            )
            continue
        boxes[found], left_out = _objects(checker, path, root, found, difficult)
        skipped += left_out
    if skipped:
        checker.add_note(f"{skipped} objects marked as difficult were left out")
    for image in images:
        if image not in boxes:
            checker.report(SourceLocation(image), "no annotation")
            boxes[image] = []
    return [
        Sample(checker.relative_name(path), path, find_single_class(own, ()), tuple(own))
        for path, own in boxes.items()
    ]


def _image(
    checker: AnnotationChecker, path: Path, root: Element | None, same: list[Path] | None, folder: Path
) -> Path | None:
    """The image of an XML file; None, and a problem, if there is none."""
    stated = root.find("filename") if root is not None else None
    if same:
        exact = [image for image in same if stated is not None and image.name == stated.text]
        return (exact or same)[0]
    if root is None:
        return None
    if stated is None or not stated.text:
        checker.report(SourceLocation(path), "there is no image of this name, and the file names none")
        return None
    return checker.find_image(stated.text, SourceLocation(path, stated.line), [folder])


def _objects(
    checker: AnnotationChecker, path: Path, root: Element | None, image: Path, difficult: bool
) -> tuple[list[Box], int]:
    """The boxes of an image, and how many difficult objects were left out."""
    size = checker.image_size(image)
    assert size is not None
    boxes: list[Box] = []
    skipped = 0
    if root is None or not _has_stated_size(checker, path, root, size):
        return boxes, skipped
    for item in root.find_all("object"):
        try:
            if not difficult and _is_difficult(item):
                skipped += 1
                continue
            name = item.find("name")
            if name is None:
                raise DataError("an object without a name; it is left out")
            edges = _edges(item)
        except DataError as error:
            checker.report(SourceLocation(path, item.line), str(error))
            continue
        label = checker.classes.find(name.text)
        if label is None:
            reason = checker.classes.reason(name.text)
            checker.report(SourceLocation(path, name.line), f"{reason}; the object is left out")
            continue
        box = checker.check_box(label, edges, size, SourceLocation(path, item.line))
        if box is not None:
            boxes.append(box)
    return boxes, skipped


def _has_stated_size(checker: AnnotationChecker, path: Path, root: Element, size: tuple[int, int]) -> bool:
    """Whether the annotations are of the image's size, as far as they say; some tools write 0 and 0."""
    stated = root.find("size")
    if stated is None:
        return True
    texts = [side.text if (side := stated.find(tag)) is not None else "" for tag in ("width", "height")]
    sides = [parse_number(text) for text in texts]
    return sides == [0, 0] or checker.is_stated_size(sides, size, SourceLocation(path, stated.line))


def _is_difficult(item: Element) -> bool:
    flag = item.find("difficult")
    if flag is not None and flag.text not in ("0", "1", ""):
        raise DataError(f"difficult must be 0 or 1, not {quote_untrusted(flag.text)}; the object is left out")
    return flag is not None and flag.text == "1"


def _edges(item: Element) -> tuple[float | None, ...]:
    bounds = item.find("bndbox")
    if bounds is None:
        raise DataError("an object without bndbox; it is left out")
    found = [bounds.find(tag) for tag in ("xmin", "ymin", "xmax", "ymax")]
    x0, y0, x1, y1 = (parse_number(edge.text) if edge is not None else None for edge in found)
    return None if x0 is None else x0 - 1, None if y0 is None else y0 - 1, x1, y1
