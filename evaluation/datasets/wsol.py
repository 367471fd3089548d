"""The metadata of the WSOL benchmark: lists of images, classes, sizes, boxes or masks."""

from __future__ import annotations

from pathlib import Path

from camrt.errors import DataError
from camrt.evaluation.datasets.annotation_checks import (
    AnnotationChecker,
    SourceLocation,
    parse_number,
    quote_untrusted,
)
from camrt.evaluation.datasets.regions import PngRegion
from camrt.evaluation.datasets.samples import Box, Mask, Sample

__all__ = ["IMAGE_IDS", "read_wsol"]

IMAGE_IDS = "image_ids.txt"


def read_wsol(checker: AnnotationChecker, folder: Path) -> list[Sample]:
    """The images of `image_ids.txt`, named relative to the root.

    `class_labels.txt` has lines ID,LABEL; `image_sizes.txt`, if there, ID,WIDTH,HEIGHT; `localization.txt`,
    if there, ID,X0,Y0,X1,Y1 or ID,MASK,IGNORE with PNG files relative to the root, IGNORE possibly blank.

    Box edges are the file's own whole numbers, x1 and y1 inside the box, as the benchmark's measure takes
    them; nothing is added or subtracted (`Dataset.inclusive_boxes`). The benchmark's files count from 0 or
    from 1, so edges may be as large as the width and the height. Masks of another size than their image
    are brought to its size by the nearest pixel, as the benchmark does, and a note counts them.

    Raises:
        DataError: There is no `image_ids.txt`.
    """
    ids = folder / IMAGE_IDS
    if not ids.is_file():
        raise DataError(f"{folder}: there is no {IMAGE_IDS}")
    images: dict[str, Path | None] = {}
    for line, name in checker.read_lines(ids):
        if name in images:
            checker.report(
                SourceLocation(ids, line), f"{quote_untrusted(name)} was there before; the line is left out"
            )
        else:
            images[name] = checker.find_image(name, SourceLocation(ids, line), [checker.root])
    known = {name: path for name, path in images.items() if path is not None}
    labels = _labels(checker, folder, images)
    unsound = _find_size_mismatches(checker, folder, images)
    boxes: dict[str, list[Box]] = {name: [] for name in known}
    masks: dict[str, list[Mask]] = {name: [] for name in known}
    _localization(checker, folder, images, labels, unsound, boxes, masks)
    samples: dict[Path, Sample] = {}
    for name, path in known.items():
        if path in samples:
            checker.report(
                SourceLocation(ids), f"{quote_untrusted(name)} is the file of another line; it is left out"
            )
            continue
        own, objects = tuple(boxes[name]), tuple(masks[name])
        samples[path] = Sample(checker.relative_name(path), path, labels.get(name), own, objects)
    return list(samples.values())


def _fields(
    checker: AnnotationChecker, path: Path, images: dict[str, Path | None], counts: tuple[int, ...]
) -> list[tuple[int, str, list[str]]]:
    """The lines of a file as (line, id, other fields), without those that are unsound."""
    found = []
    for line, text in checker.read_lines(path):
        name, *fields = (part.strip() for part in text.split(","))
        if len(fields) not in counts:
            wanted = " or ".join(str(count + 1) for count in counts)
            checker.report(
                SourceLocation(path, line), f"{len(fields) + 1} fields, not {wanted}; the line is left out"
            )
        elif name not in images:
            checker.report(
                SourceLocation(path, line),
                f"{quote_untrusted(name)} is not in {IMAGE_IDS}; the line is left out",
            )
        else:
            found.append((line, name, fields))
    return found


def _labels(checker: AnnotationChecker, folder: Path, images: dict[str, Path | None]) -> dict[str, int]:
    path = folder / "class_labels.txt"
    if not path.is_file():
        checker.report(SourceLocation(folder), f"there is no {path.name}; no image has a class")
        return {}
    labels: dict[str, int] = {}
    seen: set[str] = set()
    for line, name, (text,) in _fields(checker, path, images, (1,)):
        if name in seen:
            checker.report(
                SourceLocation(path, line), f"{quote_untrusted(name)} was there before; the line is left out"
            )
            continue
        seen.add(name)
        label = checker.find_label(text, SourceLocation(path, line))
        if label is not None:
            labels[name] = label
    for name in sorted(images.keys() - seen):
        checker.report(SourceLocation(path), f"{quote_untrusted(name)} has no class")
    return labels


def _find_size_mismatches(
    checker: AnnotationChecker, folder: Path, images: dict[str, Path | None]
) -> set[str]:
    """The images that are not of the size that their boxes were made on."""
    path = folder / "image_sizes.txt"
    unsound: set[str] = set()
    seen: set[str] = set()
    if not path.is_file():
        return unsound
    for line, name, fields in _fields(checker, path, images, (2,)):
        image = images[name]
        if name in seen:
            checker.report(
                SourceLocation(path, line), f"{quote_untrusted(name)} was there before; the line is left out"
            )
        elif image is not None:
            size = checker.image_size(image)
            assert size is not None
            if not checker.is_stated_size(
                [parse_number(text) for text in fields], size, SourceLocation(path, line)
            ):
                unsound.add(name)
        seen.add(name)
    return unsound


def _localization(
    checker: AnnotationChecker,
    folder: Path,
    images: dict[str, Path | None],
    labels: dict[str, int],
    unsound: set[str],
    boxes: dict[str, list[Box]],
    masks: dict[str, list[Mask]],
) -> None:
    path = folder / "localization.txt"
    if not path.is_file():
        checker.add_note(f"{folder} has no {path.name}, so no image has boxes or masks")
        return
    scaled = 0
    seen: set[str] = set()
    for line, name, fields in _fields(checker, path, images, (2, 4)):
        seen.add(name)
        image = images[name]
        if image is None:
            continue  # reported where the image was looked for
        size = checker.image_size(image)
        assert size is not None
        place = SourceLocation(path, line)
        if len(fields) == 4:
            if name in unsound:
                continue  # reported with the size
            edges = [_whole(text) for text in fields]
            box = checker.check_box(labels.get(name), edges, size, place, inclusive=True)
            if box is not None:
                boxes[name].append(box)
        else:
            mask, other_size = _mask(checker, place, fields, size, labels.get(name))
            scaled += other_size
            if mask is not None:
                masks[name].append(mask)
    if scaled:
        checker.add_note(f"{scaled} masks have another size than their images and are brought to it")
    for name in sorted(boxes.keys() - seen):
        checker.report(SourceLocation(path), f"{quote_untrusted(name)} has no box and no mask")


def _mask(
    checker: AnnotationChecker,
    location: SourceLocation,
    fields: list[str],
    size: tuple[int, int],
    label: int | None,
) -> tuple[Mask | None, bool]:
    """An instance's mask with its ignore region, and whether it has another size than the image."""
    regions: list[PngRegion | None] = []
    for text, what in zip(fields, ("the mask", "the ignore mask"), strict=True):
        file = checker.find_file(text, location, [checker.root], what) if text else None
        regions.append(checker.check_png_mask(file, size, scaled=True) if file is not None else None)
        if text and regions[-1] is None:
            return None, False  # without what to ignore, a mask would count pixels that it must not
    region, ignored = regions
    if region is None and ignored is None:
        checker.report(location, "neither a mask nor an ignore mask is named")
        return None, False
    other = any(each is not None and checker.image_size(each.path) != size for each in regions)
    return Mask(label, region, () if ignored is None else (ignored,)), other


def _whole(text: str) -> float | None:
    value = parse_number(text)
    return value if value is not None and value == int(value) else None
