"""Operators that pick numbers by index, or put them in by index: the cotangents go the other way."""

from __future__ import annotations

from collections.abc import Sequence

from onnx import helper

from camrt.export.adjoint.registry import BackwardStep, rule

__all__: list[str] = []


def scatter_add(step: BackwardStep, indices: str, g: str, axis: int) -> str:
    """Zeros of the input's shape with `g` added at places along an axis."""
    make = step.make
    return make.add(
        "ScatterElements", make.zeros(make.shape_of(step.x)), indices, g, axis=axis, reduction="add"
    )


@rule("TopK")
def _largest(step: BackwardStep) -> Sequence[str | None]:
    """ȳ to the numbers that were picked; their places have no derivative."""
    g = step.cotangents[0]
    if g is None:
        return step.no_gradient()
    make, node = step.make, step.node
    places = node.output[1] if len(node.output) > 1 else ""
    if not places:
        places = make.new_name()
        again = helper.make_node("TopK", list(node.input), [make.new_name(), places])
        again.attribute.extend(node.attribute)
        make.nodes.append(again)
    return [scatter_add(step, places, g, step.attribute("axis", -1))]


@rule("GatherElements")
def _gather_elements(step: BackwardStep) -> Sequence[str | None]:
    return [scatter_add(step, step.input(1), step.g, step.attribute("axis", 0))]


@rule("ScatterElements")
def _scatter_elements(step: BackwardStep) -> Sequence[str | None]:
    """What was overwritten gets nothing; what was put in gets ȳ from where it was put."""
    make, indices = step.make, step.input(1)
    axis = step.attribute("axis", 0)
    picked = make.add("GatherElements", step.g, indices, axis=axis)
    kept = step.g
    if not is_additive(step):
        kept = make.add("ScatterElements", step.g, indices, make.zeros(make.shape_of(indices)), axis=axis)
    return [kept, None, picked]


@rule("ScatterND")
def _scatter_nd(step: BackwardStep) -> Sequence[str | None]:
    make, indices = step.make, step.input(1)
    picked = make.add("GatherND", step.g, indices)
    kept = step.g
    if not is_additive(step):
        kept = make.add("ScatterND", step.g, indices, make.zeros(make.shape_of(step.input(2))))
    return [kept, None, picked]


def is_additive(step: BackwardStep) -> bool:
    """Whether what is put in is added to what was there."""
    reduction = step.attribute("reduction", "none")
    if reduction not in ("none", "add"):
        raise step.refuse(f"putting numbers in by {reduction!r} has no rule")
    return bool(reduction == "add")


@rule("MaxUnpool")
def _unpooled(step: BackwardStep) -> Sequence[str | None]:
    """Each number from where it was put, by its place in the whole tensor."""
    make = step.make
    return [make.add("Gather", make.reshape(step.g, [-1]), step.input(1), axis=0)]


@rule("ReverseSequence")
def _reversed(step: BackwardStep) -> Sequence[str | None]:
    """The same once more."""
    axes = {"batch_axis": step.attribute("batch_axis", 1), "time_axis": step.attribute("time_axis", 0)}
    return [step.make.add("ReverseSequence", step.g, step.input(1), **axes)]


@rule("CenterCropPad")
def _centred(step: BackwardStep) -> Sequence[str | None]:
    """Back to the size it had: what was cut off is zero, what was put around is cut off."""
    make = step.make
    rank = len(step.shape(step.x))
    axes = [axis % rank for axis in step.attribute("axes", range(rank))]
    sizes = make.add("Gather", make.shape_of(step.x), make.indices(axes), axis=0)
    return [make.add("CenterCropPad", step.g, sizes, axes=axes)]


@rule("Col2Im")
def _columns(step: BackwardStep) -> Sequence[str | None]:
    """The windows cut out again: a convolution with one weight a place in the window."""
    make = step.make
    block = step.numbers(2, "block_shape")
    rank, places = len(block), 1
    for size in block:
        places *= size
    channels = step.shape(step.y)[1]
    apart = make.add(
        "Reshape", step.g,
        make.concat([make.indices([-1, 1]), make.slice(make.shape_of(step.y), [2], [2 + rank], [0])], 0),
    )  # fmt: skip
    weight = make.reshape(make.units(make.indices([places])), [places, 1, *block])
    columns = make.add(
        "Conv", apart, weight, strides=step.attribute("strides", [1] * rank),
        dilations=step.attribute("dilations", [1] * rank), pads=step.attribute("pads", [0] * 2 * rank),
    )  # fmt: skip
    return [make.reshape(columns, [-1, channels * places, step.shape(step.x)[2]])]
