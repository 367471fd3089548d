"""The engine checks itself when it is loaded: what it would answer is compared with what the model answers.

A graph read wrongly gives maps that look right. So the model is run on images of noise, one alone and the
same one twice among three:

1. both answers for that image must be the same, or the model tells the rows of a batch apart, mixes its
   images, or draws random numbers;
2. behind each cut, the head's graph must give the model's logits, and a factored head must answer what that
   graph answers on altered activations (`camrt.engine.heads.comparison`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto

from camrt.engine.arrays import to_numpy
from camrt.engine.cuts import Cut, check_output_shapes, make_cuts, make_image_adjoints
from camrt.engine.device import Device
from camrt.engine.head_making import ModelToCut
from camrt.engine.heads import GenericHead, QueryContext
from camrt.engine.heads.comparison import (
    Comparison,
    ReferenceHead,
    Tolerance,
    compare_head,
    compare_pairs,
    image_slope_pairs,
    make_query_context,
    relative_error,
)
from camrt.engine.noise import normal_noise
from camrt.engine.options import Verify
from camrt.engine.runtime import Backend, Runner
from camrt.engine.scores import ScoreKind
from camrt.engine.tensorrt_plans.build import Precision
from camrt.engine.trial_runs import refuse_unrunnable
from camrt.errors import BackendError, CutError, UnsupportedModelError
from camrt.export.adjoint import GRADIENT, WEIGHTING, find_straight_through
from camrt.export.graph.batch_effects import find_cross_batch_nodes, find_random_nodes
from camrt.export.graph.index import Graph
from camrt.export.graph.operators import ROUNDING
from camrt.export.heads.cut import ACTIVATION, TargetTensor
from camrt.export.outputs.output_form import InverseLink
from camrt.export.rewrites.input_form import INTEGER_RANGES
from camrt.export.rewrites.interface import LOGITS, Interface

__all__ = [
    "VerificationReport",
    "VerifiedCuts",
    "make_verified_cuts",
    "verify",
]

Array = Any  # of NumPy or of torch, see `camrt.engine.arrays`

# Largest error of an image's gradient along itself: a whole network bends more on the way than a head does.
GRADIENT_TOLERANCE = 0.15
# Of the three images, the one that is run alone as well. It comes once more behind, since in the middle it
# stays where it is when a model turns the batch around.
REPEATED_ROW = 1
NOISE_SPREADS = (1.0, 0.25, 4.0)  # of the noise that a thorough check looks at


@dataclass(frozen=True)
class VerificationReport:
    """What a check found.

    Attributes:
        rows: Whether an image is answered alike alone and among others.
        repeated: Whether it is answered alike twice; asked only where there is reason to.
        cuts: For each cut what was compared.
        not_compared_reason: Why nothing could be compared, in a sentence; None where something was.
    """

    rows: tuple[Comparison, ...] = ()
    repeated: Comparison | None = None
    cuts: tuple[tuple[Comparison, ...], ...] = ()
    not_compared_reason: str | None = None

    @property
    def is_random(self) -> bool:
        """Whether equal calls get different answers."""
        return self.repeated is not None and not self.repeated.agrees

    @property
    def mixes_rows(self) -> bool:
        """Whether what an image gets depends on the batch around it."""
        return not all(one.agrees for one in self.rows)

    def disagreement(self, cut: int) -> Comparison | None:
        """What disagrees most at a cut; None where all agrees."""
        wrong = [one for one in self.cuts[cut] if not one.agrees] if cut < len(self.cuts) else []
        return max(wrong, key=lambda one: one.error / one.allowed, default=None)

    @property
    def comparisons(self) -> tuple[Comparison, ...]:
        """Everything that was compared."""
        again = () if self.repeated is None else (self.repeated,)
        return (*self.rows, *again, *(one for cut in self.cuts for one in cut))


def verify(
    runner: Runner,
    cuts: Sequence[Cut],
    references: Sequence[ReferenceHead],
    shape: tuple[int, ...],
    activation: InverseLink,
    device: Device,
    precision: Tolerance,
    *,
    kind: ScoreKind,
    draws: bool,
    levels: tuple[float, float] | None = None,
    thorough: bool = False,
) -> VerificationReport:
    """Compares what a model's cuts answer with what the model answers, on noise.

    Args:
        runner: The whole model with the cuts' further outputs.
        cuts: The cuts.
        references: For each of them its head's graph.
        shape: Of a batch of three images.
        activation: How logits become probabilities.
        device: Where the engine computes.
        precision: How closely answers must agree.
        kind: Which scores are compared.
        draws: Whether the graph has operators that draw random numbers.
        levels: The lowest and highest number that the model is made for, where that is known.
        thorough: Whether more noise and every question are tried.
    """
    report = VerificationReport()
    for number, spread in enumerate(NOISE_SPREADS if thorough else NOISE_SPREADS[:1]):
        images = normal_noise(shape, seed=number, spread=spread, levels=levels)
        images[REPEATED_ROW:] = images[REPEATED_ROW]
        try:
            found = verify_batch(
                runner,
                cuts,
                references,
                device.put(images),
                activation,
                precision,
                kind=kind,
                draws=draws,
                thorough=thorough,
            )
        except BackendError as error:
            return VerificationReport(
                not_compared_reason=f"it could not be run on noise of shape {images.shape}: {error}"
            )
        report = merge_reports(report, found)
    return report


def merge_reports(one: VerificationReport, other: VerificationReport) -> VerificationReport:
    """Two reports as one."""
    cuts = [(*(one.cuts[i] if i < len(one.cuts) else ()), *compared) for i, compared in enumerate(other.cuts)]
    again = (
        one.repeated
        if one.repeated is not None and not one.repeated.agrees
        else other.repeated or one.repeated
    )
    return VerificationReport(
        (*one.rows, *other.rows), again, tuple(cuts), one.not_compared_reason or other.not_compared_reason
    )


def verify_batch(
    runner: Runner,
    cuts: Sequence[Cut],
    references: Sequence[ReferenceHead],
    images: Array,
    activation: InverseLink,
    precision: Tolerance,
    *,
    kind: ScoreKind,
    draws: bool,
    thorough: bool,
) -> VerificationReport:
    """One batch of three images, and one of them alone; see `verify`."""
    names = list(dict.fromkeys([LOGITS, *(name for cut in cuts for name in cut.taps.values())]))

    def run(batch: Array) -> dict[str, Array]:
        return dict(zip(names, runner(batch, names), strict=True))

    among, single = run(images), images[REPEATED_ROW : REPEATED_ROW + 1]
    alone = run(single)
    if not np.isfinite(to_numpy(among[LOGITS])).all():
        return VerificationReport(not_compared_reason="its logits for noise are not finite")
    shown = [LOGITS, *(cut.taps[ACTIVATION] for cut in cuts)]
    rows = Comparison(
        "an image alone and among others",
        max(
            relative_error(row, to_numpy(alone[name])[0], precision, to_numpy(among[name]).mean(axis=0))
            for name in shown
            for row in to_numpy(among[name])[REPEATED_ROW:]
        ),
        precision.relative,
    )
    again = None
    if draws or not rows.agrees:
        twice = run(single)
        again = Comparison(
            "an image twice",
            max(relative_error(twice[name], alone[name], precision) for name in shown),
            precision.relative / 10,
        )
        if not again.agrees or not rows.agrees:
            return VerificationReport((rows,), again)
    compared = []
    for cut, reference in zip(cuts, references, strict=True):
        natural = [cut_query_context(cut, outputs, activation, kind) for outputs in (alone, among)]
        compared.append(tuple(compare_head(cut.head, reference, natural, precision, thorough=thorough)))
    return VerificationReport((rows,), again, tuple(compared))


def cut_query_context(
    cut: Cut, outputs: Mapping[str, Array], activation: InverseLink, kind: ScoreKind
) -> QueryContext:
    """The circumstances of questions at a cut about images that were run."""
    extras = {role: outputs[name] for role, name in cut.taps.items()}
    return make_query_context(extras.pop(ACTIVATION), outputs[LOGITS], extras, activation, kind=kind)


@dataclass(frozen=True)
class VerifiedCuts:
    """A model's cuts, after they were compared with the model.

    Attributes:
        interface: The model's interface; its batch is one where images must be run alone.
        tapped: The whole model with the cuts' further outputs.
        runner: It, made ready.
        cuts: The cuts.
        notes: What was found, in sentences.
        comparisons: What was compared.
        unfactored: Why the heads of some targets, by their number, are run as graphs.
    """

    interface: Interface
    tapped: onnx.ModelProto
    runner: Runner
    cuts: tuple[Cut, ...]
    notes: tuple[str, ...]
    comparisons: tuple[Comparison, ...]
    unfactored: Mapping[int, str]


def make_verified_cuts(
    whole: ModelToCut,
    targets: list[TargetTensor],
    tensors: list[str],
    *,
    runtime: Backend,
    analyst: Backend,
    size: tuple[int, int] | None,
    levels: tuple[float, float] | None,
    level: Verify,
) -> VerifiedCuts:
    """Cuts a model, compares the cuts with the model, and takes what agrees.

    A head whose factored form does not answer what its graph answers is run as that graph. A model that does
    not answer an image alike alone and among others is run one image at a time.

    Args:
        whole: The model.
        targets: What was asked for.
        tensors: For each of them, the (N, K, h, w) tensor that stands for it in the graph.
        runtime: What runs the engine's graphs.
        analyst: What runs graphs here; what is compared are its answers.
        size: (H, W) of the noise where the graph leaves it open.
        levels: The lowest and highest number that the model is made for, where that is known.
        level: False compares nothing, "thorough" everything.

    Raises:
        UnsupportedModelError: Equal calls get different answers, or a batch of fixed size is mixed.
        CutError: The head's graph does not give the model's logits.
    """
    graph, interface = whole.graph, whole.interface
    notes: list[str] = []
    unfactored: dict[int, str] = {}
    if together := find_cross_batch_nodes(graph):
        interface = limit_batch_to_one(interface, f"takes all images of a batch together ({together[0]})")
        notes.append(f"{together[0]} takes all images of a batch together: they are run one at a time")
    runner: Runner
    answers_itself = type(runtime) is type(analyst) or runtime.first_run_tolerance is not None
    here = runtime if level is False or answers_itself else analyst
    precision = tolerance_of(graph, here.precision)
    while True:
        tapped, cuts, references = make_cuts(
            replace(whole, interface=interface), targets, tensors, here, unfactored, analyst
        )
        runner = check_output_shapes(
            here.make_runner(tapped, label="model", batch=interface.batch), interface, cuts
        )
        if level is False:
            return VerifiedCuts(interface, tapped, runner, cuts, tuple(notes), (), unfactored)
        report = verify(
            runner,
            cuts,
            references,
            interface.probe_shape(3, size),
            interface.inverse_link,
            here.device,
            precision,
            kind="logit" if interface.joint is None else "probability",
            draws=bool(find_random_nodes(graph)),
            levels=levels,
            thorough=level == "thorough",
        )
        if report.is_random:
            random_nodes = (find_random_nodes(graph) or find_cross_batch_nodes(graph))[:3]
            raise UnsupportedModelError(
                f"the model answers the same image differently each time ({report.repeated}): "
                f"{', '.join(random_nodes) or 'something in it'} draws random "
                "numbers, or changes from call to call; export it in evaluation mode"
            )
        if report.mixes_rows and interface.batch != 1:
            interface = limit_batch_to_one(
                interface, f"answers an image otherwise among others ({report.rows[0]})"
            )
            notes.append("the model answers an image otherwise among others: images are run one at a time")
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
        if report.not_compared_reason is not None:
            refuse_unrunnable(runner, interface, size, here.device)
            notes.append(
                f"the engine's answers were not compared with the model's: {report.not_compared_reason}"
            )
        break
    comparisons = report.comparisons
    # Whole numbers are rounded in front, where gradients pass straight through: differences do not.
    integers = interface.element in INTEGER_RANGES
    if (
        level == "thorough"
        and report.not_compared_reason is None
        and precision.slopes is not None
        and not integers
    ):
        back = make_image_adjoints(whole.model, graph, interface, here)["plain"]
        images = here.device.put(normal_noise(interface.probe_shape(2, size), levels=levels))
        comparisons += compare_image_gradients(runner, back, images, interface.num_classes, precision)
    if here is not runtime:
        tapped, cuts, _ = make_cuts(
            replace(whole, interface=interface), targets, tensors, runtime, unfactored
        )
        runner = check_output_shapes(
            runtime.make_runner(tapped, label="model", batch=interface.batch), interface, cuts
        )
    return VerifiedCuts(interface, tapped, runner, cuts, tuple(notes), comparisons, unfactored)


def compare_image_gradients(
    runner: Runner, back: Runner, images: Array, classes: int, precision: Tolerance
) -> tuple[Comparison, ...]:
    """The gradient with respect to the image, compared with differences of the model's logits."""

    def gradients(batch: Array, weighting: Array) -> tuple[Array, Array]:
        logits, gradient = back(batch, [LOGITS, GRADIENT], {WEIGHTING: weighting})
        return logits, gradient

    chosen = sorted({0, classes - 1})
    pairs = image_slope_pairs(images, gradients, lambda rows: runner(rows, [LOGITS])[0], chosen)
    return tuple(compare_pairs("gradient of the image", pairs, precision, GRADIENT_TOLERANCE))


def limit_batch_to_one(interface: Interface, why: str) -> Interface:
    """The interface of a model that is run one image at a time."""
    if interface.batch is not None and interface.batch > 1:
        raise UnsupportedModelError(
            f"the model {why}, and its batch size is fixed at {interface.batch}: export it with an open "
            "batch axis, or for one image"
        )
    return replace(interface, batch=1)


def tolerance_of(graph: Graph, precision: Precision | None) -> Tolerance:
    """How closely answers agree, by the numbers that a graph computes with, or is made to compute with."""
    half = precision in ("fp16", "bf16") or any(
        kind in (TensorProto.FLOAT16, TensorProto.BFLOAT16) for kind in graph.types.values()
    )
    rounding = [node for node in graph.nodes if node.op_type in ROUNDING]
    # What is put in front to make whole numbers of images rounds nothing that is compared.
    quantised = not all(node.output[0].startswith("camrt_") for node in rounding)
    return Tolerance.of(half=half, quantised=quantised or bool(find_straight_through(graph)))
