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

from camrt.export.budget import timed
from camrt.export.flow import Flow
from camrt.export.tokens import MapPlace

__all__ = ["choose"]

T = TypeVar("T", bound=Hashable)


def choose(flow: Flow[T], maps: Mapping[T, MapPlace], *, above_weights: bool = False) -> list[T]:
    """The tensors to cut at by the rules above: one, or two branches, or none.

    Args:
        flow: The model.
        maps: The tensors that hold maps, in the order they are made.
        above_weights: Whether only those count that have something learned behind them, as before the two
            branches of a CALM head.
    """
    clean = [tensor for tensor in maps if flow.clean(tensor)]
    if above_weights:
        clean = [tensor for tensor in clean if flow.weights_between(tensor)]
    learned = [tensor for tensor in clean if flow.weights_before(tensor)]
    found = last_taken_together(flow, maps, learned)
    chosen = [found] if found is not None else two_branches(flow, maps)
    if not chosen and (found := last_taken_together(flow, maps, clean)) is not None:
        chosen = [found]
    return [stepped_back(flow, maps, one) for one in chosen]


def last_taken_together(flow: Flow[T], maps: Mapping[T, MapPlace], listed: list[T]) -> T | None:
    """Rules 1 and 3; what follows a map (N, K, h, w) can but take its cells together."""
    for tensor in reversed(listed):
        if maps[tensor].layout == "map" or flow.takes_together(tensor):
            return tensor
    return None


def two_branches(flow: Flow[T], maps: Mapping[T, MapPlace]) -> list[T]:
    """Rule 2."""
    partial = [tensor for tensor in maps if flow.through(tensor) not in (0, flow.paths)]
    as_many: dict[int, list[T]] = defaultdict(list)
    # A tensor, and how many there are of those before it that exactly the other paths run through.
    pairs: list[tuple[T, list[T], int]] = []
    for tensor in partial:
        if flow.weights_before(tensor):
            others = as_many[flow.others(tensor)]
            pairs.append((tensor, others, len(others)))
            as_many[flow.through(tensor)].append(tensor)
    takes_together = cache(flow.takes_together)
    for second, others, count in reversed(pairs):
        if not count or not takes_together(second):
            continue
        before = flow.upstream(second)
        for number in timed(reversed(range(count))):
            if others[number] not in before and takes_together(others[number]):
                return [others[number], second]
    return []


def stepped_back(flow: Flow[T], maps: Mapping[T, MapPlace], start: T) -> T:
    """Rules 4 to 7, from a tensor to those before it that as much runs through."""
    known = [tensor for tensor in maps if flow.through(tensor) == flow.through(start)]
    current = start
    while True:
        before = read_by(flow, current, ("averages", "keeps"))
        if before is None or before not in known:
            before = read_by_linear_layer(flow, known, current) if maps[current].layout != "map" else None
        if before is None or (not flow.weights_before(before) and flow.weights_before(current)):
            break
        current = before
    if maps[current].prefix:
        current = without_tokens_in_front(flow, maps, known, current)
    if maps[current].layout == "map" and not flow.weights_between(current):
        current = read_by_class_convolution(flow, known, current)
    return current


def read_by(flow: Flow[T], tensor: T, kinds: tuple[str, ...]) -> T | None:
    """The only tensor read by the step that makes a tensor, when that is of one of those kinds."""
    step = flow.producer(tensor)
    return step.reads[0] if step is not None and step.kind in kinds and len(step.reads) == 1 else None


def read_by_linear_layer(flow: Flow[T], known: list[T], tensor: T) -> T | None:
    """Rule 5: the map read by the linear layer, with a bias or without, that makes a tensor."""
    current = tensor
    while (before := read_by(flow, current, ("keeps", "reshapes", "shifts"))) is not None:
        current = before
    read = read_by(flow, current, ("linear",))
    while read is not None and read not in known:
        read = read_by(flow, read, ("keeps", "reshapes"))
    return read


def without_tokens_in_front(flow: Flow[T], maps: Mapping[T, MapPlace], known: list[T], tensor: T) -> T:
    """Rule 6."""
    before = flow.upstream(tensor)
    alone = next((one for one in reversed(known) if one in before and not maps[one].prefix), None)
    if alone is None or not flow.weights_before(alone) or flow.weights_between(alone, tensor):
        return tensor
    return alone


def read_by_class_convolution(flow: Flow[T], known: list[T], tensor: T) -> T:
    """Rule 7."""
    current = tensor
    while (before := read_by(flow, current, ("by-channel", "keeps"))) is not None:
        current = before
    read = read_by(flow, current, ("pointwise",))
    while read is not None and read not in known:
        read = read_by(flow, read, ("keeps",))
    return tensor if read is None else read
