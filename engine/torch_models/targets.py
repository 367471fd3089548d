"""Where a module can be cut, and where it is when nobody says.

One forward pass on a probe, with hooks on every submodule, lists the calls; a module called several times
counts with its last call. A candidate gives a map: (N, K, h, w), (N, h, w, K), or tokens (N, L, K) that are a
grid behind a few others. Which it is follows from what autograd recorded (`axes`); of tensors about whose
axes that says nothing, from their shape alone (`grids`).

The default is where the file would be cut that is exported from the module: the rules of
`camrt.export.heads.target_rules` find a tensor, and the target is the outermost module that gives it, or
gives the same cells laid out otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from camrt.engine.torch_models.axes import GradientEdge, operation_name
from camrt.engine.torch_models.calls import Call, class_name
from camrt.engine.torch_models.flow import AutogradTrace
from camrt.engine.torch_models.map_layout import MapLayout, layout_from_shape
from camrt.errors import CutError
from camrt.export.geometry.axis_parts import CellTokens
from camrt.export.geometry.map_formats import MapFormat, find_map_format
from camrt.export.heads import target_rules
from camrt.export.heads.cut import TargetTensor

__all__ = ["Candidate", "choose_candidates", "find_candidates"]

# Give what they were given, or its mean over windows.
PASS_THROUGH_MODULES = ("Dropout", "Dropout2d", "AlphaDropout", "Identity", "AvgPool2d", "AdaptiveAvgPool2d")


@dataclass(frozen=True, eq=False)
class Candidate:
    """A module the model could be cut at.

    Attributes:
        call: Its last call.
        layout: How its output is a map.
        clean: Whether no way from the image to the logits goes around it.
    """

    call: Call
    layout: MapLayout
    clean: bool

    @property
    def path(self) -> str:
        """The module's path."""
        return self.call.path

    def to_target_tensor(self) -> TargetTensor:
        """The candidate as `Engine.targets` lists it."""
        return TargetTensor(
            self.path,
            self.path,
            class_name(self.call.module),
            self.layout.shape,
            self.clean,
            layout=self.layout.kind,
            prefix=self.layout.prefix,
        )


def find_candidates(
    calls: list[Call], trace: AutogradTrace, images: tuple[int, ...], grid: tuple[int, int] | None
) -> list[Candidate]:
    """Every module whose last call gave a map the logits depend on, in the order the calls ended.

    Args:
        calls: A recorded pass with gradients.
        trace: What autograd recorded of it.
        images: (N, C, H, W), the shape of what it was computed from.
        grid: (h, w) of tokens as the caller says.
    """
    flow = trace.flow
    last = {call.path: call for call in calls}
    found: list[Candidate] = []
    patches: list[tuple[int, int]] = []
    for call in sorted(last.values(), key=lambda call: call.end):
        if call.shape is None or call.shape[0] != images[0]:
            continue
        place = edge_of(call)
        layout = find_layout(trace, place, call.shape, images, patches, grid)
        through = 0 if place is None else flow.count_through(place)
        if layout is None or not (through or flow.paths == 0):
            continue
        if layout.kind == "map":
            patches.append(layout.shape[1:])
        found.append(Candidate(call, layout, through == flow.paths > 0))
    return found


def edge_of(call: Call) -> GradientEdge | None:
    """The place of what a call gave; None where autograd did not follow it."""
    return None if call.edge is None or call.edge[0] is None else call.edge


def find_layout(
    trace: AutogradTrace,
    place: GradientEdge | None,
    shape: tuple[int, ...],
    images: tuple[int, ...],
    patches: list[tuple[int, int]],
    grid: tuple[int, int] | None,
) -> MapLayout | None:
    """How a tensor is a map: by its axes, or by its shape when nothing is known of them."""
    roles = () if place is None else trace.roles.get(place, ())
    found = find_map_format(roles, shape, images[0], grid) if roles else None
    if found is not None:
        return MapLayout(*found)
    if any(role in ("h", "w") or isinstance(role, CellTokens) for role in roles):
        return None
    return layout_from_shape(shape, (images[2], images[3]), patches, grid)


def choose_candidates(
    listed: list[Candidate],
    calls: list[Call],
    trace: AutogradTrace,
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
        return default_candidates(outside, trace, grid, above_weights=joint is not None)
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


def default_candidates(
    listed: list[Candidate], trace: AutogradTrace, grid: tuple[int, int] | None, *, above_weights: bool
) -> list[Candidate]:
    """The modules that give what the rules of `camrt.export.heads.target_rules` find."""
    maps: dict[GradientEdge, MapFormat] = {}
    for place, roles in trace.roles.items():
        found = find_map_format(roles, trace.shapes[place], trace.batch, grid)
        if found is not None:
            maps[place] = found
    chosen = target_rules.choose_tensors(trace.flow, maps, above_weights=above_weights)
    given = [find_producing_module(place, maps[place], listed, trace) for place in chosen]
    targets = [item for item in given if item is not None]
    if targets and len(targets) == len(chosen):
        return targets
    # Nothing is known of any axis, or autograd followed nothing: the last map, by its shape.
    telling = [item for item in listed if is_informative(item) and item.layout.kind != "tokens"]
    last = [item for item in telling if item.clean] or telling
    if not last:
        raise CutError(
            "no module of this model gives a map (N, K, h, w), so there is nothing to explain; name one with "
            "target=, and for tokens (N, L, K) say grid=(h, w)"
        )
    return last[-1:]


def find_producing_module(
    place: GradientEdge, held: MapFormat, listed: list[Candidate], trace: AutogradTrace
) -> Candidate | None:
    """The outermost module that gives a tensor's cells.

    Else the last one before it of as many cells that as much runs through; else the first behind it of as
    many; else the last one before it.
    """
    flow, current = trace.flow, place
    while True:
        same = [item for item in listed if edge_of(item.call) == current and item.layout.shape == held.shape]
        if same:
            return ([item for item in same if is_informative(item)] or same)[-1]
        step = flow.producer(current)
        if step is None or len(step.reads) > 1:
            break
        if step.kind not in ("keeps", "reshapes") and operation_name(current[0]) != "Slice":
            break
        current = step.reads[0]
    around = [(item, edge_of(item.call)) for item in listed if is_informative(item)]
    before, behind = flow.upstream(place), flow.downstream(place)
    as_much = [
        item for item, at in around if at in before and flow.count_through(at) == flow.count_through(place)
    ]
    cells = [item for item in as_much if item.layout.shape == held.shape]
    cells = cells[-1:] or [item for item, at in around if at in behind and item.layout.shape == held.shape]
    return next(iter(cells or as_much[-1:]), None)


def is_informative(item: Candidate) -> bool:
    """Whether a module gives more than what it was given, or its mean over windows."""
    return class_name(item.call.module) not in PASS_THROUGH_MODULES
