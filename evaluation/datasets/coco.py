"""COCO instances: one JSON file of images, categories and objects with boxes, polygons or run lengths."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Hashable, Mapping
from pathlib import Path
from typing import Any

from camrt.errors import DataError
from camrt.evaluation.datasets.annotation_checks import (
    AnnotationChecker,
    SourceLocation,
    find_single_class,
    quote_untrusted,
)
from camrt.evaluation.datasets.regions import PolygonRegion, Region, RunLengthRegion, decode_run_lengths
from camrt.evaluation.datasets.samples import Box, Mask, Sample
from camrt.export.io.text_files import read_file_bytes

__all__ = ["read_coco"]

_ROUNDING = 0.02  # as for boxes


def read_coco(checker: AnnotationChecker, path: Path) -> list[Sample]:
    """The images that the file lists, with their objects.

    Boxes are [x, y, width, height]. A crowd (`iscrowd`) has no box and no object pixels; what it covers is
    to be ignored. Images are looked for in the root, in its folder `images`, and for a file called
    `instances_NAME.json` in its folder NAME. Objects of a category that is no class of the model are left
    out: one problem a category, with their number.
    """
    data = _parsed(checker, path)
    if data is None:
        return [
            Sample(checker.relative_name(image), image, None) for image in checker.find_images(checker.root)
        ]
    folders = [checker.root, checker.root / "images", checker.root / path.stem.removeprefix("instances_")]
    entries = _by_id(checker, path, data["images"], "image")
    annotations = _by_id(checker, path, data["annotations"], "annotation")
    label_of = _labels(checker, path, data.get("categories"), annotations)
    objects: dict[Hashable, dict[Hashable, Mapping[str, Any]]] = {key: {} for key in entries}
    for key, annotation in annotations.items():
        image_id = annotation.get("image_id")
        if not _is_id(image_id) or image_id not in objects:
            checker.report(
                SourceLocation(path, None, f"annotation {quote_untrusted(key)}"),
                f"there is no image {quote_untrusted(image_id)}",
            )
        else:
            objects[image_id][key] = annotation
    samples: dict[Path, Sample] = {}
    for key, entry in entries.items():
        place = SourceLocation(path, None, f"image {quote_untrusted(key)}")
        name = entry.get("file_name")
        if not isinstance(name, str):
            checker.report(place, "file_name must be text; the image is left out")
            continue
        image = checker.find_image(name, place, folders)
        if image is None:
            continue
        if image in samples:
            checker.report(
                place, f"another image has the file {quote_untrusted(name)} too; this one is left out"
            )
            continue
        samples[image] = _sample(checker, path, image, entry, objects[key], label_of)
    return list(samples.values())


def _parsed(checker: AnnotationChecker, path: Path) -> dict[str, Any] | None:
    """The file's content, with lists of images and annotations; None, and a problem, if it is not that."""
    try:
        data = json.loads(read_file_bytes(path))
    except json.JSONDecodeError as error:
        checker.report(SourceLocation(path, error.lineno), f"not JSON: {error.msg} (column {error.colno})")
        return None
    except UnicodeDecodeError as error:
        line = error.object.count(b"\n", 0, error.start) + 1
        checker.report(SourceLocation(path, line), "not UTF-8")
        return None
    except (ValueError, RecursionError) as error:  # a number of thousands of digits; lists in lists in lists
        checker.report(SourceLocation(path), f"not JSON that can be read: {str(error)[:80]}")
        return None
    lists = ("images", "annotations")
    if not isinstance(data, dict) or not all(isinstance(data.get(part), list) for part in lists):
        checker.report(
            SourceLocation(path), "not COCO instances: it must be an object with images and annotations"
        )
        return None
    return data


def _is_id(value: object) -> bool:
    return isinstance(value, int | str) and not isinstance(value, bool)


def _by_id(
    checker: AnnotationChecker, path: Path, items: Any, what: str
) -> dict[Hashable, Mapping[str, Any]]:
    """The objects of a list by their ids; of several with the same id the first."""
    found: dict[Hashable, Mapping[str, Any]] = {}
    for position, item in enumerate(items):
        place = SourceLocation(path, None, f"{what} at position {position}")
        if not isinstance(item, dict) or not _is_id(item.get("id")):
            checker.report(place, "must be an object with an id; it is left out")
        elif item["id"] in found:
            checker.report(place, f"its id {quote_untrusted(item['id'])} was there before; it is left out")
        else:
            found[item["id"]] = item
    return found


def _labels(
    checker: AnnotationChecker, path: Path, items: Any, annotations: Mapping[Hashable, Mapping[str, Any]]
) -> dict[Hashable, int]:
    """The model's class for each category that has one; a problem for each other category in use."""
    if not isinstance(items, list):
        checker.report(SourceLocation(path), "there is no list of categories")
        items = []
    categories = _by_id(checker, path, items, "category")
    used = Counter(
        item.get("category_id") for item in annotations.values() if _is_id(item.get("category_id"))
    )
    labels: dict[Hashable, int] = {}
    for key, category in categories.items():
        name = category.get("name")
        label = checker.classes.find(name) if isinstance(name, str) else None
        if label is not None:
            labels[key] = label
        elif used[key]:
            reason = checker.classes.reason(name) if isinstance(name, str) else "its name must be text"
            checker.report(
                SourceLocation(path, None, f"category {quote_untrusted(key)}"),
                f"{reason}; its {used[key]} annotations are left out",
            )
    for unknown in sorted(used.keys() - categories.keys(), key=str):
        checker.report(
            SourceLocation(path, None, f"category {quote_untrusted(unknown)}"),
            f"it is not in the list of categories; its {used[unknown]} annotations are left out",
        )
    return labels


def _sample(
    checker: AnnotationChecker,
    path: Path,
    image: Path,
    entry: Mapping[str, Any],
    objects: Mapping[Hashable, Mapping[str, Any]],
    label_of: Mapping[Hashable, int],
) -> Sample:
    size = checker.image_size(image)
    assert size is not None
    boxes: list[Box] = []
    masks: list[Mask] = []
    place = SourceLocation(path, None, f"image {quote_untrusted(entry['id'])}")
    stated = [_number(entry.get(side)) for side in ("width", "height")]
    unstated = "width" not in entry and "height" not in entry
    if objects and (unstated or checker.is_stated_size(stated, size, place)):
        for key, item in objects.items():
            _read_annotation(
                checker,
                item,
                SourceLocation(path, None, f"annotation {quote_untrusted(key)}"),
                size,
                label_of,
                boxes,
                masks,
            )
    return Sample(
        checker.relative_name(image), image, find_single_class(boxes, masks), tuple(boxes), tuple(masks)
    )


def _read_annotation(
    checker: AnnotationChecker,
    item: Mapping[str, Any],
    location: SourceLocation,
    size: tuple[int, int],
    label_of: Mapping[Hashable, int],
    boxes: list[Box],
    masks: list[Mask],
) -> None:
    """One annotation's box and mask, whichever are sound."""
    category = item.get("category_id")
    if not _is_id(category):
        checker.report(location, "category_id must be a number or text; the annotation is left out")
        return
    if category not in label_of:
        return  # reported once for the whole category
    label = label_of[category]
    crowd = item.get("iscrowd", 0)
    if crowd not in (0, 1):
        checker.report(location, "iscrowd must be 0 or 1; the annotation is left out")
        return
    segmentation = item.get("segmentation")
    drawn = segmentation not in (None, [])
    if crowd and not drawn:
        checker.report(location, "a crowd without a segmentation; it is left out")
        return
    if not crowd and (item.get("bbox") is not None or not drawn):
        box = _box(checker, label, item.get("bbox"), size, location)
        if box is not None:
            boxes.append(box)
    if drawn:
        try:
            region = _region(checker, segmentation, size, location)
        except DataError as error:
            checker.report(location, f"{error}; its mask is left out")
        else:
            masks.append(Mask(label, None, (region,)) if crowd else Mask(label, region))


def _box(
    checker: AnnotationChecker, label: int, bbox: object, size: tuple[int, int], location: SourceLocation
) -> Box | None:
    if not isinstance(bbox, list) or len(bbox) != 4:
        checker.report(location, "bbox must be [x, y, width, height]; the box is left out")
        return None
    x, y, width, height = map(_number, bbox)
    right = None if x is None or width is None else x + width
    below = None if y is None or height is None else y + height
    return checker.check_box(label, (x, y, _finite(right), _finite(below)), size, location)


def _region(
    checker: AnnotationChecker, segmentation: Any, size: tuple[int, int], location: SourceLocation
) -> Region:
    """A segmentation's pixels.

    Raises:
        DataError: It is neither polygons nor run lengths of the image's size.
    """
    if isinstance(segmentation, dict):
        if segmentation.get("size") != list(size):
            raise DataError(f"the run lengths' size must be the image's, {list(size)}")
        counts = segmentation.get("counts")
        if isinstance(counts, str):
            return RunLengthRegion(tuple(decode_run_lengths(counts)), size)
        if isinstance(counts, list) and all(_is_id(count) and not isinstance(count, str) for count in counts):
            return RunLengthRegion(tuple(counts), size)
        raise DataError("the run lengths' counts must be a list of whole numbers or text")
    if not isinstance(segmentation, list):
        raise DataError("a segmentation must be a list of polygons or run lengths")
    rings = tuple(_ring(ring, size) for ring in segmentation)
    ends = [(max(ring[axis::2]), min(ring[axis::2]), size[1 - axis]) for ring in rings for axis in (0, 1)]
    if any(low < -_ROUNDING or high > side + _ROUNDING for high, low, side in ends):
        checker.report(location, "a polygon reaches outside the image; it is clipped")
    return PolygonRegion(rings)


def _ring(ring: object, size: tuple[int, int]) -> tuple[float, ...]:
    if not isinstance(ring, list) or len(ring) < 6 or len(ring) % 2:
        raise DataError("a polygon must be a list x, y, x, y, ... of three corners or more")
    edges = [number for value in ring if (number := _number(value)) is not None]
    if len(edges) != len(ring):
        raise DataError("a polygon's corners must be finite numbers")
    for axis, side in ((0, size[1]), (1, size[0])):
        low, high = min(edges[axis::2]), max(edges[axis::2])
        if low >= side or high <= 0:
            raise DataError("a polygon is outside the image")
        if low < -side or high > 2 * side:
            raise DataError("a polygon reaches further outside the image than the image is large")
        if low == high:
            raise DataError("a polygon has no area")
    return tuple(edges)


def _number(value: object) -> float | None:
    """A finite number of JSON; None for anything else."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return _finite(float(value))
    except OverflowError:  # an integer of hundreds of digits
        return None


def _finite(value: float | None) -> float | None:
    return value if value is not None and abs(value) < float("inf") else None
