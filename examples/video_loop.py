"""Explains frames as they come, and prints how many a second.

    python examples/video_loop.py            # no camera: a window that wanders over the bundled scene
    python examples/video_loop.py 0 --show   # the first camera; needs opencv-python, and a desktop
    python examples/video_loop.py film.mp4 --model mobilenet_v2.onnx --preprocessing tf

Ctrl-C ends it.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from typing import Annotated

import numpy as np
import typer
from numpy.typing import NDArray
from PIL import Image

import camrt
import camrt.default

Frame = NDArray[np.uint8]


def wander(side: int = 256) -> Iterator[Frame]:
    """Windows (side, side, 3) of the bundled scene, one beside the other."""
    with Image.open(camrt.default.scene_path()) as opened:
        scene = np.asarray(opened.convert("RGB"))
    for step in itertools.count():
        top = int((scene.shape[0] - side) * (0.5 + 0.5 * np.sin(step / 20)))
        left = int((scene.shape[1] - side) * (0.5 + 0.5 * np.cos(step / 33)))
        yield scene[top : top + side, left : left + side]


def film(source: str) -> Iterator[Frame]:
    """The frames (H, W, 3) of a camera, by its number, or of a file."""
    import cv2

    opened = cv2.VideoCapture(int(source) if source.isdecimal() else source)
    opened.set(cv2.CAP_PROP_BUFFERSIZE, 1)  # the newest frame, not those that were waited for
    try:
        while (read := opened.read())[0]:
            yield read[1][..., ::-1].copy()
    finally:
        opened.release()


def main(
    source: Annotated[str | None, typer.Argument(help="A camera's number, or a file of a film.")] = None,
    model: str = "default",
    preprocessing: str | None = None,
    method: Annotated[str, typer.Option("--method", "-m")] = "pixab",
    show: bool = False,
    frames: Annotated[int | None, typer.Option(min=1, help="Stop after so many.")] = None,
) -> None:
    """Explain frames until Ctrl-C."""
    engine = camrt.load(model, preprocessing=preprocessing)
    begun, since, last = time.perf_counter(), 0, ""
    for number, frame in enumerate(itertools.islice(wander() if source is None else film(source), frames), 1):
        found = engine.explain([frame], method)
        if show:
            import cv2

            cv2.imshow("camrt", np.asarray(found.overlay(0, image=frame))[..., ::-1])
            cv2.waitKey(1)
        since, last = since + 1, f"{found.label(0)} {found.answer(0)}"
        seconds = time.perf_counter() - begun
        if seconds >= 1 or number == frames:
            typer.echo(f"{since / seconds:5.1f} frames a second, {last}")
            begun, since = time.perf_counter(), 0


if __name__ == "__main__":
    typer.run(main)
