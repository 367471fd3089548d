"""What `camrt export MODEL.onnx --with METHODS` does."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from camrt.cli.output import make_console, strip_control
from camrt.errors import InputError

if TYPE_CHECKING:
    from camrt.engine.methods import Method

__all__ = ["parse_methods", "write_maps"]


def write_maps(source: str, out: Path, methods: list[str], **options: Any) -> None:
    """A model's file with maps in it.

    Args:
        source: The model's file.
        out: Where it goes.
        methods: As --with takes them.
        **options: Of `camrt.export.with_maps`; those that are None are left out.
    """
    from camrt.export import with_maps

    chosen = parse_methods(methods)
    options.pop("call_deadline", None)  # nothing is called later
    given = {name: value for name, value in options.items() if value is not None}
    with_maps(source, chosen, out, **given)
    make_console().print(
        f"{strip_control(str(out))}: {out.stat().st_size / 1e6:.1f} MB, with maps by "
        f"{', '.join(method.name for method in chosen)}; the same as the engine's on noise",
        soft_wrap=True,
    )


def parse_methods(texts: list[str]) -> list[Method]:
    """The methods of --with: names with commas between them, or one with options, NAME:KEY=VALUE.

    Raises:
        InputError: There is none.
        MethodError: There is no such method or option.
    """
    from camrt.engine.methods import make_method
    from camrt.engine.option_text import parse_options, split_method

    found = []
    for text in texts:
        for one in [text] if "=" in text else text.split(","):
            name, *own = split_method(one.strip())
            if not name:
                raise InputError(f"--with {text!r} must name methods, such as pixab,gradcam")
            found.append(make_method(name, parse_options(own)))
    return found
