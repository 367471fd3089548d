"""`engine.describe()`: what was found in a file, and what each method costs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from camrt.engine.methods import methods
from camrt.errors import MethodError

if TYPE_CHECKING:
    from camrt.engine.session import Engine

__all__ = ["describe"]


def describe(engine: Engine) -> str:
    """A plain-text description of an engine."""
    interface, target = engine.interface, engine.target
    size = f"{interface.height or 'H'}×{interface.width or 'W'}"
    ending = (
        f"ends in {interface.recognised}, taken off to reach the logits"
        if interface.recognised
        else "ends in logits"
    )
    batch = "any" if interface.batch is None else f"fixed at {interface.batch}; batches are cut and padded"
    known = "known" if engine.preprocessing is not None else "not known: pass preprocessing= to camrt.load"
    lines = [
        f"{engine.path.name}",
        f"  input   (N, {interface.channels}, {size}), {interface.layout} in the file; batch size {batch}",
        f"  output  {interface.num_classes} classes, {ending}; probabilities by {interface.activation}",
        f"  picture preprocessing {known}",
        f"  target  {target.name!r} ({target.operator}), K×h×w = {'×'.join(map(str, target.shape))}",
        f"  head    {engine.head.describe()}",
        *(f"  note    {note}" for note in engine.notes),
        "",
        f"  {'method':<12}{'head passes':>12}{'full passes':>12}  beside one trunk pass a picture, at most",
    ]
    for name, method in methods().items():
        try:
            cost = method().cost(engine.head, engine.map_shape)
            lines.append(f"  {name:<12}{cost.head:>12}{cost.full:>12}  {cost.why}")
        except MethodError as error:
            lines.append(f"  {name:<12}{'-':>12}{'-':>12}  {error}")
    return "\n".join(lines)
