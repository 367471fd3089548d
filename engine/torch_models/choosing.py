"""Where a module can be cut, and where it is when nobody says.

One forward pass on a probe, with hooks on every submodule, lists the calls; a module called several times
counts with its last call. A candidate gives a map: (N, K, h, w), (N, h, w, K), or tokens (N, L, K) that are a
grid behind a few others (`camrt.export.tokens`). The default, in this order:

1. When the last thing that happens to maps happens to tokens: the second to last of the last row of equal
   blocks. The last block's tokens often reach the logits through the class token alone.
2. Otherwise the last module with a map that no way from the picture goes around and that is no average
   pooling. Of several modules that give the same tensor this is the outermost.
3. When no weights follow that, it is a stack of class maps, and the target is what the last 1×1 convolution
   reads (SqueezeNet).
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import torch

from camrt.engine.torch_models.calls import Call, kind_of
from camrt.engine.torch_models.grids import Layout, layout_of
from camrt.engine.torch_models.paths import Ways
from camrt.errors import CutError
from camrt.export.cutting import TargetTensor

__all__ = ["Candidate", "candidates", "choose"]

POOLING = ("AvgPool2d", "AdaptiveAvgPool2d")
SAYS_NOTHING = ("Dropout", "Dropout2d", "AlphaDropout", "Identity", *POOLING)


@dataclass(frozen=True, eq=False)
class Candidate:
    """A module the model could be cut at.

    Attributes:
        call: Its last call.
        layout: How its output is a map.
        clean: Whether no way from the picture to the logits goes around it.
    """

    call: Call
    layout: Layout
    clean: bool

    @property
    def path(self) -> str:
        """The module's path."""
        return self.call.path

    def tensor(self) -> TargetTensor:
        """The candidate as `Engine.targets` lists it."""
        return TargetTensor(
            self.path,
            self.path,
            kind_of(self.call.module),
            self.layout.shape,
            self.clean,
            layout=self.layout.kind,
            prefix=self.layout.prefix,
        )


def candidates(
    calls: list[Call], logits: torch.Tensor, leaf: torch.Tensor, grid: tuple[int, int] | None
) -> list[Candidate]:
    """Every module whose last call gave a map the logits depend on, in the order the calls ended.

    Args:
        calls: A recorded pass with gradients.
        logits: What it gave.
        leaf: The pictures it was computed from.
        grid: (h, w) of tokens as the caller says.
    """
    ways = Ways(logits, leaf)
    picture = (leaf.shape[2], leaf.shape[3])
    last = {call.path: call for call in calls}
    found: list[Candidate] = []
    patches: list[tuple[int, int]] = []
    for call in sorted(last.values(), key=lambda call: call.end):
        if call.shape is None or call.shape[0] != len(leaf):
            continue
        layout = layout_of(call.shape, picture, patches, grid)
        through = ways.through(call.grad)
        if layout is None or not (through or ways.all == 0):
            continue
        if layout.kind == "map":
            patches.append(layout.shape[1:])
        found.append(Candidate(call, layout, through == ways.all > 0))
    return found


def choose(
    listed: list[Candidate],
    calls: list[Call],
    module: torch.nn.Module,
    wanted: str | None,
    classes: int,
    joint: str | None = None,
) -> Candidate:
    """The candidate asked for, or the default one, which is not part of a CALM head (whose path is `joint`).

    Raises:
        CutError: There is none, or the name means no candidate.
    """
    if wanted is None:
        inside = "" if joint is None else f"{joint}."
        outside = [item for item in listed if joint is None or not f"{item.path}.".startswith(inside)]
        return default(outside, calls, classes)
    match = next((item for item in listed if item.path == wanted), None)
    if match is not None:
        return match
    nearest = ", ".join(repr(item.path) for item in listed[-5:]) or "none"
    called = next((call for call in reversed(calls) if call.path == wanted), None)
    if called is not None:
        given = f"gives {called.shape}" if called.shape else "gives no tensor first"
        reason = f"{given}, no map that the logits depend on; for tokens pass grid=(h, w)"
    elif wanted and wanted in dict(module.named_modules()):
        reason = "was not called in a forward pass"
    else:
        reason = "is no module's path"
    raise CutError(
        f"target {wanted!r} {reason}; the last candidates are {nearest} (engine.targets() lists them all)"
    )


def default(listed: list[Candidate], calls: list[Call], classes: int) -> Candidate:
    """Rules 1 to 3 of this module's description."""
    averaged = {place(call) for call in calls if kind_of(call.module) in POOLING}
    maps = [item for item in listed if item.layout.kind != "tokens" and place(item.call) not in averaged]
    maps = [item for item in maps if kind_of(item.call.module) not in SAYS_NOTHING]
    blocks = last_blocks([item for item in listed if item.layout.kind == "tokens"])
    if blocks and (not maps or blocks[-1].call.end > maps[-1].call.end):
        return blocks[-2]
    clean = [item for item in maps if item.clean] or maps
    if not clean:
        raise CutError(
            "no module of this model gives a map (N, K, h, w), so there is nothing to explain; name one with "
            "target=, and for tokens (N, L, K) say grid=(h, w)"
        )
    if any(call.start > clean[-1].call.end and has_weights(call.module) for call in calls):
        return clean[-1]
    return before_class_convolution(clean, calls, classes)


def place(call: Call) -> Any:
    """What tells one tensor from another: its place in the autograd graph, or the call that gave it."""
    return call.grad if call.grad is not None and call.grad[0] is not None else call


def last_blocks(listed: list[Candidate]) -> list[Candidate]:
    """The last row of two or more modules of one class in one container."""
    rows: dict[tuple[str, str], list[Candidate]] = defaultdict(list)
    for item in listed:
        rows[item.path.rpartition(".")[0], kind_of(item.call.module)].append(item)
    several = [row for row in rows.values() if len(row) > 1]
    return max(several, key=lambda row: row[-1].call.end, default=[])


def has_weights(module: torch.nn.Module) -> bool:
    """Whether a module itself, not its parts, multiplies by something learned."""
    return any(parameter.ndim > 1 for parameter in module.parameters(recurse=False))


def before_class_convolution(clean: list[Candidate], calls: list[Call], classes: int) -> Candidate:
    """What the 1×1 convolution reads that made class maps; the last candidate when there is none."""
    end = clean[-1].call.end
    for call in sorted(calls, key=lambda call: call.start, reverse=True):
        weight = getattr(call.module, "weight", None)
        if call.end > end or not isinstance(weight, torch.Tensor) or weight.ndim < 2:
            continue
        before = [item for item in clean if item.call.end < call.start]
        if weight.shape[0] == classes and tuple(weight.shape[2:]) == (1, 1) and before:
            return before[-1]
        break
    return clean[-1]
