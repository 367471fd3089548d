"""Images beside a folder of PNG masks with the same names."""

from __future__ import annotations

from pathlib import Path

from camrt.evaluation.datasets.annotation_checks import AnnotationChecker, SourceLocation
from camrt.evaluation.datasets.class_folders import match_class_folders
from camrt.evaluation.datasets.regions import PngRegion
from camrt.evaluation.datasets.samples import Mask, Sample

__all__ = ["MASKS", "read_mask_folder"]

MASKS = "masks"


def read_mask_folder(checker: AnnotationChecker, folder: Path) -> list[Sample]:
    """Every image under the root with the mask of its name, 0 background and 1 or 255 object.

    Images are in the root's folder `images`, or else in the root, possibly in one folder a class; masks
    are in the same folders below theirs. A folder `ignore` beside the masks' may hold what to ignore, in PNG
    files of the same names. An image without a mask has no mask, which is listed.

    Args:
        checker: Where problems are listed.
        folder: Of the masks.
    """
    ignore = folder.parent / "ignore"
    images_in = checker.root / "images"
    if not images_in.is_dir():
        images_in = checker.root
    images = checker.find_images(images_in, without=(folder, ignore))
    inner = {path: path.relative_to(images_in) for path in images}
    folders = {path.parts[0] for path in inner.values() if len(path.parts) > 1}
    class_of = match_class_folders(checker, images_in, folders)
    left = {root: _png_files(checker, root) for root in (folder, ignore)}
    owners: dict[Path, Path] = {}
    samples = []
    for image, name in inner.items():
        label = class_of.get(name.parts[0])
        mask_name = name.with_name(name.stem + ".png")
        if mask_name in owners:
            other = checker.relative_name(owners[mask_name])
            checker.report(SourceLocation(image), f"{other} has the same mask {mask_name.as_posix()}")
        owners[mask_name] = image
        masks = _masks(checker, image, mask_name, folder, ignore, label)
        samples.append(Sample(checker.relative_name(image), image, label, (), masks))
    for root, names in left.items():
        for lost in sorted(names - owners.keys()):
            checker.report(SourceLocation(root / lost), "there is no readable image of this name")
    return samples


def _png_files(checker: AnnotationChecker, root: Path) -> set[Path]:
    """The PNG files in a folder of masks; a problem for each other image file, which is no mask."""
    found = set()
    for path in sorted(root.rglob("*")) if root.is_dir() else ():
        inner = path.relative_to(root)
        if not path.is_file() or any(part.startswith(".") for part in inner.parts):
            continue
        if path.suffix == ".png":
            found.add(inner)
        else:
            checker.report(SourceLocation(path), "masks are NAME.png files; it is left out")
    return found


def _masks(
    checker: AnnotationChecker, image: Path, name: Path, folder: Path, ignore: Path, label: int | None
) -> tuple[Mask, ...]:
    size = checker.image_size(image)
    assert size is not None
    regions: list[PngRegion | None] = []
    for root in (folder, ignore):
        path = root / name
        regions.append(checker.check_png_mask(path, size) if path.is_file() else None)
        if path.is_file() and regions[-1] is None:
            return ()  # without what to ignore, a mask would count pixels that it must not
    region, ignored = regions
    if region is None:
        checker.report(SourceLocation(image), "no mask")
    if region is None and ignored is None:
        return ()
    return (Mask(label, region, () if ignored is None else (ignored,)),)
