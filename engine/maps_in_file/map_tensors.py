"""What the graph of a map starts from: the activation, the logits and the target classes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

from camrt.engine.maps_in_file.file_graph import FileGraph
from camrt.engine.scores import ScoreKind
from camrt.export.outputs.output_form import InverseLink

__all__ = ["MapTensors", "ScoreWriter", "Targets", "choose_targets"]

Targets = Literal["one", "several", "predicted"]
"""What a file takes for the classes to explain; see `camrt.export.with_maps`."""
PREDICTED = -1
"""As a target, the class with the largest logit."""


@dataclass(frozen=True, kw_only=True)
class MapTensors:
    """Tensors that maps are made of, and their sizes.

    Attributes:
        make: Makes the nodes.
        activation: (N, K, h, w) float32.
        logits: (N, C) float32.
        targets: (N, T) int64, each a class.
        one_target: Whether T is one.
        channels: K.
        classes: C.
        cells: (h, w); None where images may have any size.
        link: How logits become probabilities.
        has_logits: False of a CALM model, whose scores are probabilities.
    """

    make: FileGraph
    activation: str
    logits: str
    targets: str
    one_target: bool
    channels: int
    classes: int
    cells: tuple[int, int] | None
    link: InverseLink
    has_logits: bool

    @cached_property
    def images(self) -> str:
        """[N]."""
        return self.make.sizes(self.targets, 0, 1)

    @cached_property
    def target_count(self) -> str:
        """[T]."""
        return self.make.sizes(self.targets, 1, 2)

    @property
    def repeats(self) -> str | int:
        """T, as rows are repeated for each target."""
        return 1 if self.one_target else self.target_count

    @cached_property
    def cell_count(self) -> str:
        """h·w, a float32 number."""
        make = self.make
        if self.cells is not None:
            return make.number(self.cells[0] * self.cells[1])
        product = make.reduce("ReduceProd", make.sizes(self.activation, 2, 4), [0], keepdims=False)
        return make.as_float(product)

    @cached_property
    def flat_activation(self) -> str:
        """(N, K, h·w)."""
        return self.make.reshape(self.activation, [0, self.channels, -1])

    def on_map(self, flat: str) -> str:
        """(N, T, h·w) as (N, T, h, w)."""
        make = self.make
        front = make.sizes(flat, 0, 2)
        return make.reshape(flat, make.concat([front, make.sizes(self.activation, 2, 4)], 0))

    def of_classes(self, maps: str, classes: str) -> str:
        """Maps (N, T, h, w) of classes (N, T), among those of all (N, C, h, w)."""
        make = self.make
        shape = make.concat([make.shape_of(classes), make.sizes(maps, 2, 4)], 0)
        index = make.add("Expand", make.unsqueeze(classes, [2, 3]), shape)
        return make.add("GatherElements", maps, index, axis=1)

    def weighted_sum(self, weights: str) -> str:
        """Σ_k weights[n, t, k] · A[n, k]: (N, T, h, w)."""
        return self.on_map(self.make.add("MatMul", weights, self.flat_activation))

    def per_target(self, rows: str, rank: int) -> str:
        """(N·T, ...) as (N, T, ...); `rank` is the number of axes of the rows."""
        make = self.make
        front = make.concat([self.images, make.indices([-1])], 0)
        return make.reshape(rows, make.concat([front, make.sizes(rows, 1, rank)], 0))


def choose_targets(make: FileGraph, logits: str, target: str | None, several: bool) -> tuple[str, str | None]:
    """Target classes (N, T), and whether each of them is one.

    Args:
        make: Makes the nodes.
        logits: (N, C).
        target: The input that says which, int64 (N,), or (N, T) for several; None takes the predicted class.
        several: Whether it is (N, T).

    Returns:
        int64 (N, T), every number of them a class, and a truth tensor (N, T), false where none was; None
        where the file chooses all of them.
    """
    predicted = make.add("ArgMax", logits, axis=1, keepdims=1)
    if target is None:
        return predicted, None
    # Laid beside as many rows as there are images: a target of another length is refused by the runtime.
    rows = target if several else make.unsqueeze(target, [1])
    asked = make.slice(make.concat([rows, predicted], 1), [0], [-1], [1])
    last = make.add("Sub", make.sizes(logits, 1, 2), make.indices([1]))
    least, none = make.indices([PREDICTED]), make.indices([0])
    valid = make.add("And", make.add("GreaterOrEqual", asked, least), make.add("LessOrEqual", asked, last))
    within = make.add("Min", make.add("Max", asked, none), last)
    return make.add("Where", make.add("Equal", asked, least), predicted, within), valid


@dataclass(frozen=True)
class ScoreWriter:
    """Reads the target classes' scores off logits.

    Attributes:
        tensors: What the maps are of.
        kind: Logit or probability; of a CALM model always the probability.
    """

    tensors: MapTensors
    kind: ScoreKind

    @property
    def is_probability(self) -> bool:
        """Whether scores are probabilities."""
        return self.kind == "probability" or not self.tensors.has_logits

    @property
    def needs_softmax(self) -> bool:
        """Whether a score needs the logits of all classes."""
        return self.is_probability and self.tensors.link == "softmax"

    def read(self, logits: str, rank: int) -> str:
        """Scores (N, ..., T) of logits (N, ..., C) of that many axes."""
        if self.needs_softmax:
            return self.own(self.tensors.make.add("Softmax", logits, axis=-1), rank)
        return self.of_own_logits(self.own(logits, rank))

    def own(self, numbers: str, rank: int) -> str:
        """The targets' numbers (N, ..., T) among those of all classes (N, ..., C)."""
        make, targets = self.tensors.make, self.tensors.targets
        if rank > 2:
            middle = make.sizes(numbers, 1, rank - 1)
            shape = make.concat([self.tensors.images, middle, self.tensors.target_count], 0)
            targets = make.add("Expand", make.unsqueeze(targets, list(range(1, rank - 1))), shape)
        return make.add("GatherElements", numbers, targets, axis=rank - 1)

    def of_own_logits(self, logits: str) -> str:
        """Scores of the targets' own logits, where no softmax is over them."""
        if not self.is_probability or self.tensors.link == "none":
            return logits
        return self.tensors.make.add("Sigmoid" if self.tensors.link == "sigmoid" else "Exp", logits)

    def own_slope(self) -> str:
        """∂score/∂logit (N, T) of the targets to their own logits, where no softmax is over them."""
        make, chosen = self.tensors.make, self.own(self.tensors.logits, 2)
        if not self.is_probability or self.tensors.link == "none":
            return make.add("Add", make.add("Mul", chosen, make.number(0.0)), make.number(1.0))
        slope = self.of_own_logits(chosen)
        if self.tensors.link == "sigmoid":
            slope = make.add("Mul", slope, make.add("Sigmoid", make.add("Neg", chosen)))
        return slope

    def weighting(self) -> str:
        """∂score/∂logits (N, T, C), see `camrt.engine.scores.ScoreReader.weighting`."""
        tensors, make = self.tensors, self.tensors.make
        every = make.constant(range(tensors.classes))
        own = make.add("Equal", make.unsqueeze(tensors.targets, [2]), every)
        if not self.is_probability or tensors.link == "none":
            return make.as_float(own)
        if not self.needs_softmax:
            return make.masked(make.unsqueeze(self.own_slope(), [2]), own)
        shares = make.add("Softmax", tensors.logits, axis=-1)
        others = make.add("Where", own, make.number(0.0), make.unsqueeze(shares, [1]))
        rest = make.reduce_sum(others, [2], keepdims=True)
        signed = make.add("Where", own, rest, make.add("Neg", others))
        return make.add("Mul", make.unsqueeze(self.own(shares, 2), [2]), signed)
