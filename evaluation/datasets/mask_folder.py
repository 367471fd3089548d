"""Pictures beside a folder of PNG masks with the same names."""

from __future__ import annotations

from pathlib import Path

from camrt.evaluation.datasets.folder import class_of_folders
from camrt.evaluation.datasets.intake import Intake, Place
from camrt.evaluation.datasets.regions import PngRegion
from camrt.evaluation.datasets.samples import Mask, Sample

__all__ = ["MASKS", "read_mask_folder"]

MASKS = "masks"


def read_mask_folder(intake: Intake, folder: Path) -> list[Sample]:
    """Every picture under the root with the mask of its name, 0 background and 1 or 255 object.

    Pictures are in the root's folder `images`, or else in the root, possibly in one folder a class; masks
    are in the same folders below theirs. A folder `ignore` beside the masks' may hold what to ignore, in PNG
    files of the same names. A picture without a mask has no mask, which is listed.

    Args:
        intake: Where problems are listed.
        folder: Of the masks.
    """
    ignore = folder.parent / "ignore"
    pictures_in = intake.root / "images"
    if not pictures_in.is_dir():
        pictures_in = intake.root
    pictures = intake.pictures(pictures_in, without=(folder, ignore))
    inner = {path: path.relative_to(pictures_in) for path in pictures}
    folders = {path.parts[0] for path in inner.values() if len(path.parts) > 1}
    class_of = class_of_folders(intake, pictures_in, folders)
    left = {root: _png_files(intake, root) for root in (folder, ignore)}
    owners: dict[Path, Path] = {}
    samples = []
    for picture, name in inner.items():
        label = class_of.get(name.parts[0])
        mask_name = name.with_name(name.stem + ".png")
        if mask_name in owners:
            other = intake.name(owners[mask_name])
            intake.report(Place(picture), f"{other} has the same mask {mask_name.as_posix()}")
        owners[mask_name] = picture
        masks = _masks(intake, picture, mask_name, folder, ignore, label)
        samples.append(Sample(intake.name(picture), picture, label, (), masks))
    for root, names in left.items():
        for lost in sorted(names - owners.keys()):
            intake.report(Place(root / lost), "there is no readable picture of this name")
    return samples


def _png_files(intake: Intake, root: Path) -> set[Path]:
    """The PNG files in a folder of masks; a problem for each other picture file, which is no mask."""
    found = set()
    for path in sorted(root.rglob("*")) if root.is_dir() else ():
        inner = path.relative_to(root)
        if not path.is_file() or any(part.startswith(".") for part in inner.parts):
            continue
        if path.suffix == ".png":
            found.add(inner)
        else:
            intake.report(Place(path), "masks are NAME.png files; it is left out")
    return found


def _masks(
    intake: Intake, picture: Path, name: Path, folder: Path, ignore: Path, label: int | None
) -> tuple[Mask, ...]:
    size = intake.size(picture)
    assert size is not None
    regions: list[PngRegion | None] = []
    for root in (folder, ignore):
        path = root / name
        regions.append(intake.png(path, size) if path.is_file() else None)
        if path.is_file() and regions[-1] is None:
            return ()  # without what to ignore, a mask would count pixels that it must not
    region, ignored = regions
    if region is None:
        intake.report(Place(picture), "no mask")
    if region is None and ignored is None:
        return ()
    return (Mask(label, region, () if ignored is None else (ignored,)),)
