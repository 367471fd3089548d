"""Composes the scene that ships with camrt from two photographs in the public domain.

    python -m experiments.compose_scene --out scene.jpg

The photographs are `chelsea` (a cat) and `coffee` (a cup of espresso), both CC0, which scikit-image carries.
They are laid one above the other on a soft background, so that a map of either class has one right place.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from numpy.typing import NDArray
from PIL import Image

from camrt.errors import CamrtError, InputError

__all__ = ["CANVAS", "PLACEMENTS", "Placement", "background", "compose", "main"]

CANVAS = 384
"""Side of the scene, in pixels."""
MAX_BYTES = 60_000
"""Most bytes the file may have."""


@dataclass(frozen=True)
class Placement:
    """One photograph's part and its place.

    Attributes:
        label: the class it shows.
        photograph: its name in `skimage.data`.
        part: half-open (r0, c0, r1, c1) in the photograph.
        frame: half-open (r0, c0, r1, c1) on the canvas.
    """

    label: str
    photograph: str
    part: tuple[int, int, int, int]
    frame: tuple[int, int, int, int]


PLACEMENTS = (
    Placement("cat", "chelsea", (0, 20, 280, 330), (12, 12, 242, 266)),
    Placement("espresso", "coffee", (10, 60, 390, 520), (250, 225, 372, 372)),
)


def background(canvas: int) -> NDArray[np.uint8]:
    """A soft, plain gradient, uint8 (S, S, 3): the colour of sand, a little darker below."""
    down = np.linspace(0, 1, canvas)[:, None, None]
    above, below = np.array([226.0, 220, 208]), np.array([214.0, 206, 192])
    return np.broadcast_to(above + (below - above) * down, (canvas, canvas, 3)).round().astype(np.uint8)


def compose(photographs: dict[str, NDArray[np.uint8]]) -> Image.Image:
    """Lays the photographs on the background.

    Args:
        photographs: name -> uint8 (H, W, 3), RGB, for every name in `PLACEMENTS`.

    Raises:
        InputError: a photograph is missing or smaller than the part wanted of it.
    """
    scene = Image.fromarray(background(CANVAS))
    for placement in PLACEMENTS:
        if placement.photograph not in photographs:
            raise InputError(f"the photograph {placement.photograph!r} is missing")
        r0, c0, r1, c1 = placement.part
        part = photographs[placement.photograph][r0:r1, c0:c1]
        if part.shape != (r1 - r0, c1 - c0, 3):
            raise InputError(f"{placement.photograph!r} is too small for rows {r0}–{r1}, columns {c0}–{c1}")
        top, left, bottom, right = placement.frame
        sized = Image.fromarray(part).resize((right - left, bottom - top), Image.Resampling.LANCZOS)
        scene.paste(sized, (left, top))
    return scene


def main(out: Annotated[Path, typer.Option(help="Where the JPEG file goes.")]) -> None:
    """Reads the photographs from scikit-image, composes the scene and writes it."""
    try:
        scene = compose({placement.photograph: _photograph(placement.photograph) for placement in PLACEMENTS})
    except CamrtError as error:
        raise typer.BadParameter(str(error)) from error
    scene.save(out, "JPEG", quality=88, optimize=True)
    if out.stat().st_size > MAX_BYTES:
        raise typer.BadParameter(f"{out} has {out.stat().st_size} bytes, more than {MAX_BYTES}")
    typer.echo(f"{out}: {out.stat().st_size} bytes")


def _photograph(name: str) -> NDArray[np.uint8]:
    """One photograph that scikit-image carries, uint8 (H, W, 3), RGB."""
    try:
        with files("skimage.data").joinpath(f"{name}.png").open("rb") as file:
            return np.asarray(Image.open(file).convert("RGB"), np.uint8)
    except (ModuleNotFoundError, OSError) as error:
        raise InputError(f"the photograph {name!r} needs scikit-image: {error}") from error


if __name__ == "__main__":
    typer.run(main)
