"""What `camrt explain` does for a newcomer: it opens the picture, and says what to do next."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import typer

from camrt.cli.output import make_console, strip_control

__all__ = ["print_next_steps", "show_picture"]

NEXT_STEPS = (
    ("camrt explain PHOTO.jpg -o mine --show", "your photographs, by the embedded classifier"),
    (
        "camrt explain MODEL.onnx PHOTOS/ -o maps",
        "your classifier; what is known of it: camrt inspect MODEL.onnx",
    ),
    ("camrt methods", "the methods, to compare with -m gradcam,score,pixab"),
)


def show_picture(picture: Path | None) -> None:
    """Opens a picture with what the desktop opens such files with; says so where that cannot be."""
    console = make_console(stderr=True)
    if picture is None:
        console.print("no picture was written that could be shown")
    elif not has_desktop() or typer.launch(str(picture.resolve())):
        told = f"there is no desktop to show it on: open {picture} yourself"
        console.print(strip_control(told), markup=False, soft_wrap=True)


def has_desktop() -> bool:
    """Whether windows can be opened here."""
    return sys.platform in ("darwin", "win32") or any(
        os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY")
    )


def print_next_steps(picture: Path | None) -> None:
    """Prints where the picture is, and what to try next."""
    console = make_console()
    if picture is not None:
        console.print(strip_control(f"look at {picture}"), markup=False, soft_wrap=True)
    console.print("next:")
    wide = max(len(command) for command, _ in NEXT_STEPS)
    for command, what in NEXT_STEPS:
        console.print(f"  {command:<{wide}}  {what}", markup=False, soft_wrap=True)
