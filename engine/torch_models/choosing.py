"""Where a module can be cut, and where it is when nobody says.

One forward pass on a probe, with hooks on every submodule, lists the calls; a module called several times
counts with its last call. A candidate gives a map: (N, K, h, w), (N, h, w, K), or tokens (N, L, K) that are a
grid behind a few others. Which it is follows from what autograd recorded (`axes`); of tensors about whose
axes that says nothing, from their shape alone (`grids`).

The default is where the file would be cut that is exported from the module: the rules of
`camrt.export.choosing` find a tensor, and the target is the outermost module that gives it, or gives the same
cells laid out otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from camrt.engine.torch_models.axes import Place, operation
from camrt.engine.torch_models.calls import Call, kind_of
from camrt.engine.torch_models.flow import Recorded
from camrt.engine.torch_models.grids import Layout, layout_of
from camrt.errors import CutError
from camrt.export import choosing
from camrt.export.axis_parts import CellTokens
from camrt.export.cutting import TargetTensor
from camrt.export.tokens import MapPlace, map_in

__all__ = ["Candidate", "candidates", "choose"]

# Give what they were given, or its mean over windows.
SAYS_NOTHING = ("Dropout", "Dropout2d", "AlphaDropout", "Identity", "AvgPool2d", "AdaptiveAvgPool2d")


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
    calls: list[Call], trace: Recorded, pictures: tuple[int, ...], grid: tuple[int, int] | None
) -> list[Candidate]:
    """Every module whose last call gave a map the logits depend on, in the order the calls ended.

    Args:
        calls: A recorded pass with gradients.
        trace: What autograd recorded of it.
        pictures: (N, C, H, W), the shape of what it was computed from.
        grid: (h, w) of tokens as the caller says.
    """
    flow = trace.flow
    last = {call.path: call for call in calls}
    found: list[Candidate] = []
    patches: list[tuple[int, int]] = []
    for call in sorted(last.values(), key=lambda call: call.end):
        if call.shape is None or call.shape[0] != pictures[0]:
            continue
        place = place_of(call)
        layout = layout_in(trace, place, call.shape, pictures, patches, grid)
        through = 0 if place is None else flow.through(place)
        if layout is None or not (through or flow.paths == 0):
            continue
        if layout.kind == "map":
            patches.append(layout.shape[1:])
        found.append(Candidate(call, layout, through == flow.paths > 0))
    return found


def place_of(call: Call) -> Place | None:
    """The place of what a call gave; None where autograd did not follow it."""
    return None if call.grad is None or call.grad[0] is None else call.grad


def layout_in(
    trace: Recorded,
    place: Place | None,
    shape: tuple[int, ...],
    pictures: tuple[int, ...],
    patches: list[tuple[int, int]],
    grid: tuple[int, int] | None,
) -> Layout | None:
    """How a tensor is a map: by its axes, or by its shape when nothing is known of them."""
    roles = () if place is None else trace.roles.get(place, ())
    found = map_in(roles, shape, pictures[0], grid) if roles else None
    if found is not None:
        return Layout(*found)
    if any(role in ("h", "w") or isinstance(role, CellTokens) for role in roles):
        return None
    return layout_of(shape, (pictures[2], pictures[3]), patches, grid)


def choose(
    listed: list[Candidate],
    calls: list[Call],
    trace: Recorded,
    module: torch.nn.Module,
    wanted: str | None,
    grid: tuple[int, int] | None,
    joint: str | None = None,
) -> list[Candidate]:
    """The candidate asked for, or the default ones, no part of a CALM head (whose path is `joint`).

    Raises:
        CutError: There is none, or the name means no candidate.
    """
    if wanted is None:
        inside = "" if joint is None else f"{joint}."
        outside = [item for item in listed if joint is None or not f"{item.path}.".startswith(inside)]
        return default(outside, trace, grid, above_weights=joint is not None)
    match = next((item for item in listed if item.path == wanted), None)
    if match is not None:
        return [match]
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


def default(
    listed: list[Candidate], trace: Recorded, grid: tuple[int, int] | None, *, above_weights: bool
) -> list[Candidate]:
    """The modules that give what the rules of `camrt.export.choosing` find."""
    maps: dict[Place, MapPlace] = {}
    for place, roles in trace.roles.items():
        found = map_in(roles, trace.shapes[place], trace.batch, grid)
        if found is not None:
            maps[place] = found
    chosen = choosing.choose(trace.flow, maps, above_weights=above_weights)
    given = [module_giving(place, maps[place], listed, trace) for place in chosen]
    targets = [item for item in given if item is not None]
    if targets and len(targets) == len(chosen):
        return targets
    # Nothing is known of any axis, or autograd followed nothing: the last map, by its shape.
    telling = [item for item in listed if tells(item) and item.layout.kind != "tokens"]
    last = [item for item in telling if item.clean] or telling
    if not last:
        raise CutError(
            "no module of this model gives a map (N, K, h, w), so there is nothing to explain; name one with "
            "target=, and for tokens (N, L, K) say grid=(h, w)"
        )
    return last[-1:]


def module_giving(place: Place, held: MapPlace, listed: list[Candidate], trace: Recorded) -> Candidate | None:
    """The outermost module that gives a tensor's cells.

    Else the last one before it of as many cells that as much runs through; else the first behind it of as
    many; else the last one before it.
    """
    flow, current = trace.flow, place
    while True:
        same = [item for item in listed if place_of(item.call) == current and item.layout.shape == held.shape]
        if same:
            return ([item for item in same if tells(item)] or same)[-1]
        step = flow.producer(current)
        if step is None or len(step.reads) > 1:
            break
        if step.kind not in ("keeps", "reshapes") and operation(current[0]) != "Slice":
            break
        current = step.reads[0]
    around = [(item, place_of(item.call)) for item in listed if tells(item)]
    before, behind = flow.upstream(place), flow.downstream(place)
    as_much = [item for item, at in around if at in before and flow.through(at) == flow.through(place)]
    cells = [item for item in as_much if item.layout.shape == held.shape]
    cells = cells[-1:] or [item for item, at in around if at in behind and item.layout.shape == held.shape]
    return next(iter(cells or as_much[-1:]), None)


def tells(item: Candidate) -> bool:
    """Whether a module gives more than what it was given, or its mean over windows."""
    return kind_of(item.call.module) not in SAYS_NOTHING
