"""Where a model is cut when nobody says: one list of rules, for files and for torch modules.

Of the tensors that hold a map (N, K, h, w), or tokens or channels-last numbers that are one:

1. The last one that everything the logits are made of runs through, that something learned made, and whose
   cells are still taken together behind it: pooled, flattened or attended to. Of a transformer whose logits
   read the class token alone that is what its last block reads.
2. Where there is none, the last two that everything runs through one or the other of, as in a network of two
   branches: both are targets, and their maps are fused.
3. Where there are none either, the last tensor as in 1 that nothing learned made.

From there back to the activation *before* it is pooled:

4. over average pooling and what changes nothing (VGG's adaptive pool);
5. over a linear layer on tokens, which may be no more than the keys and values of a pooling by attention;
6. where tokens were put in front of the cells and nothing learned has worked on them since, to the cells
   alone (the mean in front of CLIP's pooling by attention);
7. where nothing learned follows, it is a stack of class maps: over functions of each number, batch norms and
   one 1×1 convolution, to the features that convolution reads (SqueezeNet, NiN).

A torch module can be cut only where a submodule gives a tensor. Where none gives the one these rules find,
which then a function made, it is cut at the last submodule before it that everything runs through and that
gives as many cells; where there is none at the first behind it that gives as many; and else at the last one
before it whatever its cells.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Mapping
from functools import cache
from typing import TypeVar

from camrt.export.budget import with_deadline
from camrt.export.geometry.map_formats import MapFormat
from camrt.export.heads.flow import Flow

__all__ = ["choose_tensors", "find_class_convolution_source", "find_only_source"]

T = TypeVar("T", bound=Hashable)


def choose_tensors(flow: Flow[T], maps: Mapping[T, MapFormat], *, above_weights: bool = False) -> list[T]:
    """The tensors to cut at by the rules above: one, or two branches, or none.

    Args:
        flow: The model.
        maps: The tensors that hold maps, in the order they are made.
        above_weights: Whether only those count that have something learned behind them, as before the two
            branches of a CALM head.
    """
    clean = [tensor for tensor in maps if flow.is_clean_cut(tensor)]
    if above_weights:
        clean = [tensor for tensor in clean if flow.has_weights_between(tensor)]
    learned = [tensor for tensor in clean if flow.has_weights_before(tensor)]
    found = find_last_mixed(flow, maps, learned)
    chosen = [found] if found is not None else find_two_branches(flow, maps)
    if not chosen and (found := find_last_mixed(flow, maps, clean)) is not None:
        chosen = [found]
    return [step_back(flow, maps, one) for one in chosen]


def find_last_mixed(flow: Flow[T], maps: Mapping[T, MapFormat], listed: list[T]) -> T | None:
    """Rules 1 and 3: the last tensor whose cells are mixed later; always so for a map (N, K, h, w)."""
    for tensor in reversed(listed):
        if maps[tensor].layout == "map" or flow.mixes_cells(tensor):
            return tensor
    return None


def find_two_branches(flow: Flow[T], maps: Mapping[T, MapFormat]) -> list[T]:
    """Rule 2: the last two tensors such that every path runs through exactly one of them."""
    partial = [tensor for tensor in maps if flow.count_through(tensor) not in (0, flow.paths)]
    as_many: dict[int, list[T]] = defaultdict(list)
    # A tensor, and how many there are of those before it that exactly the other paths run through.
    pairs: list[tuple[T, list[T], int]] = []
    for tensor in partial:
        if flow.has_weights_before(tensor):
            others = as_many[flow.count_around(tensor)]
            pairs.append((tensor, others, len(others)))
            as_many[flow.count_through(tensor)].append(tensor)
    takes_together = cache(flow.mixes_cells)
    for second, others, count in reversed(pairs):
        if not count or not takes_together(second):
            continue
        before = flow.upstream(second)
        for number in with_deadline(reversed(range(count))):
            if others[number] not in before and takes_together(others[number]):
                return [others[number], second]
    return []


def step_back(flow: Flow[T], maps: Mapping[T, MapFormat], start: T) -> T:
    """Rules 4 to 7: steps back to earlier tensors that lie on the same number of paths."""
    known = [tensor for tensor in maps if flow.count_through(tensor) == flow.count_through(start)]
    current = start
    while True:
        before = find_only_source(flow, current, ("averages", "keeps"))
        if before is None or before not in known:
            before = find_linear_source(flow, known, current) if maps[current].layout != "map" else None
        if before is None or (not flow.has_weights_before(before) and flow.has_weights_before(current)):
            break
        current = before
    if maps[current].prefix:
        current = skip_prefix_tokens(flow, maps, known, current)
    if maps[current].layout == "map" and not flow.has_weights_between(current):
        current = find_class_convolution_source(flow, known, current)
    return current


def find_only_source(flow: Flow[T], tensor: T, kinds: tuple[str, ...]) -> T | None:
    """The only tensor read by the step that makes a tensor, when that is of one of those kinds."""
    step = flow.producer(tensor)
    return step.reads[0] if step is not None and step.kind in kinds and len(step.reads) == 1 else None


def find_linear_source(flow: Flow[T], known: list[T], tensor: T) -> T | None:
    """Rule 5: the map read by the linear layer, with a bias or without, that makes a tensor."""
    current = tensor
    while (before := find_only_source(flow, current, ("keeps", "reshapes", "shifts"))) is not None:
        current = before
    read = find_only_source(flow, current, ("linear",))
    while read is not None and read not in known:
        read = find_only_source(flow, read, ("keeps", "reshapes"))
    return read


def skip_prefix_tokens(flow: Flow[T], maps: Mapping[T, MapFormat], known: list[T], tensor: T) -> T:
    """Rule 6: the cells before prefix tokens were put in front, if nothing learned lies between."""
    before = flow.upstream(tensor)
    alone = next((one for one in reversed(known) if one in before and not maps[one].prefix), None)
    if alone is None or not flow.has_weights_before(alone) or flow.has_weights_between(alone, tensor):
        return tensor
    return alone


def find_class_convolution_source(flow: Flow[T], known: list[T], tensor: T) -> T:
    """Rule 7: what the 1×1 convolution reads that makes a class map; the map itself if none does."""
    current = tensor
    while (before := find_only_source(flow, current, ("by-channel", "keeps"))) is not None:
        current = before
    read = find_only_source(flow, current, ("pointwise",))
    while read is not None and read not in known:
        read = find_only_source(flow, read, ("keeps",))
    return tensor if read is None else read
