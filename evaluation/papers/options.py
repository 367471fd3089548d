"""How tables are measured."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from camrt.engine.methods.boxes import Assignment
from camrt.errors import InputError
from camrt.evaluation.checks import check_integer
from camrt.evaluation.papers.box_ablation import Reading

__all__ = ["Options"]

TopChannels = Literal["fixed", "scaled"]
TOP_CHANNELS: tuple[TopChannels, ...] = get_args(TopChannels)
READINGS: tuple[Reading, ...] = get_args(Reading)
ASSIGNMENTS: tuple[Assignment, ...] = get_args(Assignment)


@dataclass(frozen=True)
class Options:
    """How tables are measured.

    Attributes:
        methods: Measure these rows and no others: keys of the table's rows, or methods that it does not have,
            with options if need be. None measures all rows. Tables pixab-7 to pixab-10 have rows of
            Pixab-CAM alone, calm-4 rows of classes, and pass over it.
        limit: Measure this many images, drawn with the seed; None takes all. In calm-1, pairs of classes of
            each group.
        seed: Of everything that is drawn.
        step: Pixels altered at each point of a deletion or insertion curve; None takes a row of pixels.
        count: Adversarial images of each kind; the paper has 500.
        each_patch: Explain every patch of an image that has succeeded, not one that is drawn.
        readings: Of Pixab-CAM's denominators that the box ablation measures.
        assignments: Of boxes to cells that it measures.
        top_channels: Of how many channels COP is, in pixab-1: "fixed", of the paper's 100, or "scaled", of as
            large a share of the model's as 100 of 2048; then counts are of 100 all the same.
        superset: Classes that "+Y" takes together, a name of `camrt.engine.class_sets`; None takes ImageNet's
            for a model of 1000 classes and all, as for CUB, for one of 200.
        annotations: File or folder of the images' annotations, where it is not plain.
        resume: Go on with runs that were stopped.
        overwrite: Replace runs that are there.

    Raises:
        InputError: A value out of range.
    """

    methods: tuple[str, ...] | None = None
    limit: int | None = None
    seed: int = 0
    step: int | None = None
    count: int = 500
    each_patch: bool = False
    readings: tuple[Reading, ...] = READINGS
    assignments: tuple[Assignment, ...] = ASSIGNMENTS
    top_channels: TopChannels = "fixed"
    superset: str | None = None
    annotations: Path | None = None
    resume: bool = False
    overwrite: bool = False

    def __post_init__(self) -> None:
        for name, least in (("limit", 1), ("seed", 0), ("step", 1), ("count", 1)):
            value = getattr(self, name)
            if value is None and name in ("limit", "step"):
                continue
            check_integer(name, value, least)
        for name, allowed in (("readings", READINGS), ("assignments", ASSIGNMENTS)):
            given = getattr(self, name)
            if not given or not set(given) <= set(allowed):
                raise InputError(f"{name}={given!r} must be some of {', '.join(allowed)}")
        if self.top_channels not in TOP_CHANNELS:
            raise InputError(f"top_channels={self.top_channels!r} must be one of {', '.join(TOP_CHANNELS)}")
        if self.methods is not None and (not self.methods or not isinstance(self.methods, tuple)):
            raise InputError(f"methods={self.methods!r} must be a tuple of one or more names")
