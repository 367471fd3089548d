"""The engine checks itself when it is loaded: what it would answer is compared with what the model answers.

A graph read wrongly gives maps that look right. So the model is run on pictures of noise, one alone and the
same one twice among three:

1. both answers for that picture must be the same, or the model tells the rows of a batch apart, mixes its
   pictures, or draws random numbers;
2. behind each cut, the head's graph must give the model's logits, and a factored head must answer what that
   graph answers on altered activations (`camrt.engine.heads.comparison`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import onnx
from onnx import TensorProto

from camrt.engine.arrays import host
from camrt.engine.backends import Backend, Runner
from camrt.engine.backends.shaped import ShapedRunner
from camrt.engine.cuts import Cut, make_cuts, picture_adjoints
from camrt.engine.heads import Asked, GenericHead
from camrt.engine.heads.comparison import (
    Comparison,
    Precision,
    Reference,
    along_picture_gradients,
    asked_of,
    compare,
    compare_head,
    relative_error,
)
from camrt.engine.noise import noise
from camrt.engine.places import Place
from camrt.engine.scores import ScoreKind
from camrt.errors import BackendError, CutError, UnsupportedModelError
from camrt.export.adjoint import GRADIENT, WEIGHTING, passed_roundings
from camrt.export.batch_effects import across_batch, drawing
from camrt.export.cutting import ACTIVATION, TargetTensor
from camrt.export.endings import InverseLink
from camrt.export.graph import Graph
from camrt.export.input_form import INTEGER_RANGES
from camrt.export.interface import LOGITS, Interface
from camrt.export.operators import ROUNDING

__all__ = ["Report", "VerifiedCuts", "Verify", "verified_cuts", "verify"]

Array = Any  # of NumPy or of torch, see `camrt.engine.arrays`
Verify = bool | Literal["thorough"]

# Largest error of a picture's gradient along itself: a whole network bends more on the way than a head does.
BENDS = 0.15
# Of the three pictures, the one that is run alone as well. It comes once more behind, since in the middle it
# stays where it is when a model turns the batch around.
ROW = 1
SPREADS = (1.0, 0.25, 4.0)  # of the noise that a thorough check looks at


@dataclass(frozen=True)
class Report:
    """What a check found.

    Attributes:
        rows: Whether a picture is answered alike alone and among others.
        again: Whether it is answered alike twice; asked only where there is reason to.
        cuts: For each cut what was compared.
        unseen: Why nothing could be compared, in a sentence; None where something was.
    """

    rows: tuple[Comparison, ...] = ()
    again: Comparison | None = None
    cuts: tuple[tuple[Comparison, ...], ...] = ()
    unseen: str | None = None

    @property
    def is_random(self) -> bool:
        """Whether equal calls get different answers."""
        return self.again is not None and not self.again.agrees

    @property
    def mixes_rows(self) -> bool:
        """Whether what a picture gets depends on the batch around it."""
        return not all(one.agrees for one in self.rows)

    def disagreement(self, cut: int) -> Comparison | None:
        """What disagrees most at a cut; None where all agrees."""
        wrong = [one for one in self.cuts[cut] if not one.agrees] if cut < len(self.cuts) else []
        return max(wrong, key=lambda one: one.error / one.allowed, default=None)

    @property
    def comparisons(self) -> tuple[Comparison, ...]:
        """Everything that was compared."""
        again = () if self.again is None else (self.again,)
        return (*self.rows, *again, *(one for cut in self.cuts for one in cut))


def verify(
    runner: Runner,
    cuts: Sequence[Cut],
    references: Sequence[Reference],
    shape: tuple[int, ...],
    activation: InverseLink,
    place: Place,
    precision: Precision,
    *,
    kind: ScoreKind,
    draws: bool,
    levels: tuple[float, float] | None = None,
    thorough: bool = False,
) -> Report:
    """Compares what a model's cuts answer with what the model answers, on noise.

    Args:
        runner: The whole model with the cuts' further outputs.
        cuts: The cuts.
        references: For each of them its head's graph.
        shape: Of a batch of three pictures.
        activation: How logits become probabilities.
        place: Where the engine computes.
        precision: How closely answers must agree.
        kind: Which scores are compared.
        draws: Whether the graph has operators that draw random numbers.
        levels: The lowest and highest number that the model is made for, where that is known.
        thorough: Whether more noise and every question are tried.
    """
    report = Report()
    for number, spread in enumerate(SPREADS if thorough else SPREADS[:1]):
        pictures = noise(shape, seed=number, spread=spread, levels=levels)
        pictures[ROW:] = pictures[ROW]
        try:
            found = examine(
                runner,
                cuts,
                references,
                place.put(pictures),
                activation,
                precision,
                kind=kind,
                draws=draws,
                thorough=thorough,
            )
        except BackendError as error:
            return Report(unseen=f"it could not be run on noise of shape {pictures.shape}: {error}")
        report = joint(report, found)
    return report


def joint(one: Report, other: Report) -> Report:
    """Two reports as one."""
    cuts = [(*(one.cuts[i] if i < len(one.cuts) else ()), *compared) for i, compared in enumerate(other.cuts)]
    again = one.again if one.again is not None and not one.again.agrees else other.again or one.again
    return Report((*one.rows, *other.rows), again, tuple(cuts), one.unseen or other.unseen)


def examine(
    runner: Runner,
    cuts: Sequence[Cut],
    references: Sequence[Reference],
    pictures: Array,
    activation: InverseLink,
    precision: Precision,
    *,
    kind: ScoreKind,
    draws: bool,
    thorough: bool,
) -> Report:
    """One batch of three pictures, and one of them alone; see `verify`."""
    names = list(dict.fromkeys([LOGITS, *(name for cut in cuts for name in cut.taps.values())]))

    def run(batch: Array) -> dict[str, Array]:
        return dict(zip(names, runner(batch, names), strict=True))

    among, single = run(pictures), pictures[ROW : ROW + 1]
    alone = run(single)
    if not np.isfinite(host(among[LOGITS])).all():
        return Report(unseen="its logits for noise are not finite")
    shown = [LOGITS, *(cut.taps[ACTIVATION] for cut in cuts)]
    rows = Comparison(
        "a picture alone and among others",
        max(
            relative_error(row, host(alone[name])[0], precision, host(among[name]).mean(axis=0))
            for name in shown
            for row in host(among[name])[ROW:]
        ),
        precision.relative,
    )
    again = None
    if draws or not rows.agrees:
        twice = run(single)
        again = Comparison(
            "a picture twice",
            max(relative_error(twice[name], alone[name], precision) for name in shown),
            precision.relative / 10,
        )
        if not again.agrees or not rows.agrees:
            return Report((rows,), again)
    compared = []
    for cut, reference in zip(cuts, references, strict=True):
        natural = [natural_of(cut, outputs, activation, kind) for outputs in (alone, among)]
        compared.append(tuple(compare_head(cut.head, reference, natural, precision, thorough=thorough)))
    return Report((rows,), again, tuple(compared))


def natural_of(cut: Cut, outputs: Mapping[str, Array], activation: InverseLink, kind: ScoreKind) -> Asked:
    """The circumstances of questions at a cut about pictures that were run."""
    extras = {role: outputs[name] for role, name in cut.taps.items()}
    return asked_of(extras.pop(ACTIVATION), outputs[LOGITS], extras, activation, kind=kind)


@dataclass(frozen=True)
class VerifiedCuts:
    """A model's cuts, after they were compared with the model.

    Attributes:
        interface: The model's interface; its batch is one where pictures must be run alone.
        tapped: The whole model with the cuts' further outputs.
        runner: It, made ready.
        cuts: The cuts.
        notes: What was found, in sentences.
        comparisons: What was compared.
    """

    interface: Interface
    tapped: onnx.ModelProto
    runner: Runner
    cuts: tuple[Cut, ...]
    notes: tuple[str, ...]
    comparisons: tuple[Comparison, ...]


def verified_cuts(
    model: onnx.ModelProto,
    graph: Graph,
    targets: list[TargetTensor],
    tensors: list[str],
    interface: Interface,
    runtime: Backend,
    analyst: Backend,
    batch_size: int,
    threads: int | None,
    size: tuple[int, int] | None,
    levels: tuple[float, float] | None,
    level: Verify,
) -> VerifiedCuts:
    """Cuts a model, compares the cuts with the model, and takes what agrees.

    A head whose factored form does not answer what its graph answers is run as that graph. A model that does
    not answer a picture alike alone and among others is run one picture at a time.

    Args:
        model: See `camrt.engine.cuts.make_cuts`, as the arguments up to `interface`.
        graph: See there.
        targets: See there.
        tensors: See there.
        interface: See there.
        runtime: What runs the engine's graphs.
        analyst: What runs graphs here; what is compared are its answers.
        batch_size: Rows a batch.
        threads: Threads of the native kernels.
        size: (H, W) of the noise where the graph leaves it open.
        levels: The lowest and highest number that the model is made for, where that is known.
        level: False compares nothing, "thorough" everything.

    Raises:
        UnsupportedModelError: Equal calls get different answers, or a batch of fixed size is mixed.
        CutError: The head's graph does not give the model's logits.
    """
    notes: list[str] = []
    unfactored: dict[int, str] = {}
    if together := across_batch(graph):
        interface = one_at_a_time(interface, f"takes all pictures of a batch together ({together[0]})")
        notes.append(f"{together[0]} takes all pictures of a batch together: they are run one at a time")
    runner: Runner
    here = runtime if level is False or type(runtime) is type(analyst) else analyst
    precision = precision_of(graph)
    while True:
        tapped, cuts, references = make_cuts(
            model, graph, targets, tensors, interface, here, batch_size, threads, unfactored, analyst
        )
        runner = shaped(here.runner(tapped, label="model", batch=interface.batch), interface, cuts)
        if level is False:
            return VerifiedCuts(interface, tapped, runner, cuts, tuple(notes), ())
        report = verify(
            runner,
            cuts,
            references,
            interface.probe_shape(3, size),
            interface.inverse_link,
            here.place,
            precision,
            kind="logit" if interface.joint is None else "probability",
            draws=bool(drawing(graph)),
            levels=levels,
            thorough=level == "thorough",
        )
        if report.is_random:
            raise UnsupportedModelError(
                f"the model answers the same picture differently each time ({report.again}): "
                f"{', '.join((drawing(graph) or across_batch(graph))[:3]) or 'something in it'} draws random "
                "numbers, or changes from call to call; export it in evaluation mode"
            )
        if report.mixes_rows and interface.batch != 1:
            interface = one_at_a_time(
                interface, f"answers a picture otherwise among others ({report.rows[0]})"
            )
            notes.append("the model answers a picture otherwise among others: pictures are run one at a time")
            continue
        wrong = {number: report.disagreement(number) for number in range(len(cuts))}
        if broken := {number: one for number, one in wrong.items() if one is not None}:
            for number, one in broken.items():
                if number in unfactored or isinstance(cuts[number].head, GenericHead):
                    raise CutError(
                        f"behind target {targets[number].name!r} the model does not answer what its parts "
                        f"answer ({one}); choose another target= (engine.targets() lists them), or "
                        "verify=False to go on all the same"
                    )
                kind = cuts[number].head.kind
                unfactored[number] = f"its {kind} form does not answer what the graph answers: {one}"
                notes.append(
                    f"the {kind} form of the head was not used, since it gives other answers ({one})"
                )
            continue
        if report.unseen is not None:
            notes.append(f"the engine's answers were not compared with the model's: {report.unseen}")
        break
    comparisons = report.comparisons
    # Whole numbers are rounded in front, where gradients pass straight through: differences do not.
    whole = interface.element in INTEGER_RANGES
    if level == "thorough" and report.unseen is None and precision.slopes is not None and not whole:
        back = picture_adjoints(model, graph, interface, here)["plain"]
        pictures = here.place.put(noise(interface.probe_shape(2, size), levels=levels))
        comparisons += compare_pictures(runner, back, pictures, interface.num_classes, precision)
    if here is not runtime:
        tapped, cuts, _ = make_cuts(
            model, graph, targets, tensors, interface, runtime, batch_size, threads, unfactored
        )
        runner = shaped(runtime.runner(tapped, label="model", batch=interface.batch), interface, cuts)
    return VerifiedCuts(interface, tapped, runner, cuts, tuple(notes), comparisons)


def shaped(runner: Runner, interface: Interface, cuts: Sequence[Cut]) -> Runner:
    """The model's runner, whose logits and activations are held to the shapes they were found to have."""
    shapes: dict[str, tuple[int | None, ...]] = {LOGITS: (interface.num_classes,)}
    for cut in cuts:
        channels, height, width = cut.target.shape
        sizes = (height, width) if interface.fixed_size else (None, None)
        shapes[cut.taps[ACTIVATION]] = (channels, *sizes)
    return ShapedRunner(runner, shapes)


def compare_pictures(
    runner: Runner, back: Runner, pictures: Array, classes: int, precision: Precision
) -> tuple[Comparison, ...]:
    """The gradient with respect to the picture, compared with differences of the model's logits."""

    def gradients(batch: Array, weighting: Array) -> tuple[Array, Array]:
        logits, gradient = back(batch, [LOGITS, GRADIENT], {WEIGHTING: weighting})
        return logits, gradient

    chosen = sorted({0, classes - 1})
    pairs = along_picture_gradients(pictures, gradients, lambda rows: runner(rows, [LOGITS])[0], chosen)
    return tuple(compare("gradient of the picture", pairs, precision, BENDS))


def one_at_a_time(interface: Interface, why: str) -> Interface:
    """The interface of a model that is run one picture at a time."""
    if interface.batch is not None and interface.batch > 1:
        raise UnsupportedModelError(
            f"the model {why}, and its batch size is fixed at {interface.batch}: export it with an open "
            "batch axis, or for one picture"
        )
    return replace(interface, batch=1)


def precision_of(graph: Graph) -> Precision:
    """How closely answers agree, by the numbers that a graph computes with."""
    half = any(kind in (TensorProto.FLOAT16, TensorProto.BFLOAT16) for kind in graph.types.values())
    rounding = [node for node in graph.nodes if node.op_type in ROUNDING]
    # What is put in front to make whole numbers of pictures rounds nothing that is compared.
    quantised = not all(node.output[0].startswith("camrt_") for node in rounding)
    return Precision.of(half=half, quantised=quantised or bool(passed_roundings(graph)))
