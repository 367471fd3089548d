"""Explaining torch modules on a card, beside predicting on it: parts c to f of `gpu.py`.

Every network's answers are compared with their definitions in float64 before it is timed. What is compared
runs in turn, several rounds of it; each side is timed by CUDA's events and by a clock on the host that waits
for the card at either end, and the table states the quartiles of the ratio within rounds. Engine and module
are given the same images, which lie on the card: the engine in float32, the bare module in its own type.
"""

from __future__ import annotations

import copy
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from typing import Any
from unittest import mock

import torch
from gpu_references import (
    LARGE,
    SMALL,
    Agreement,
    Shape,
    agreements,
    build_module,
    random_images,
    relative_difference,
)
from gpu_timing import ExplainReport, PairedTiming, PeakMemory, TimeBudget, summarise_pair, time_in_turn
from networks import torchvision_models
from torch import nn

import camrt

__all__ = ["ExplainReport", "Options", "run_parts"]

Tensor = torch.Tensor

KINDS = (torch.float32, torch.bfloat16)
METHODS = ("cam", "eigen", "gradcam", "pixab", "ablation")
BATCHES = (1, 32, 256)
ROWS = 256
"""Rows that engines run at once, and the largest batch."""
FEW = 32
"""Rows at once, where memory is measured for fewer; and images in a batch beside other packages."""
SAME_MAP = 5e-3
"""What two packages' maps in [0, 1] may differ by: two resamplings, and differences of logits."""
PIXAB_GOAL, SCORE_GOAL, PEER_GOAL, GROWTH_GOAL = 1.10, 1.10, 1000.0, 1.05


@dataclass(frozen=True)
class Options:
    """What is run, and how.

    Attributes:
        parts: Letters.
        device: Where.
        check: Whether results are compared and nothing is timed.
        large: Whether the networks are those that are timed, or small ones.
        compile: Given to `camrt.load` where it is not None.
        channels_last: Whether modules' weights are laid out so.
        until: When to be done, by `time.perf_counter`: as rounds are counted, nothing is left out for it.
    """

    parts: str
    device: torch.device
    check: bool
    large: bool
    compile: str | None
    channels_last: bool
    until: float


@dataclass(frozen=True)
class BenchmarkModel:
    """A network in a type, and what is needed to explain it.

    Attributes:
        shape: Its architecture.
        module: It, on the device.
        name: Its name and type.
        options: How all is run.
        pace: Shares out time.
        differences: The largest relative difference of each method's results from their definitions.
    """

    shape: Shape
    module: nn.Module
    name: str
    options: Options
    pace: TimeBudget
    differences: dict[str, float]

    @property
    def methods(self) -> list[str]:
        """Those whose times are compared, in order: what was found to be of them."""
        return [method for method in METHODS if method in self.differences]

    @property
    def kind(self) -> torch.dtype:
        """The type it computes in."""
        return next(self.module.parameters()).dtype

    def engine(self, batch_size: int = ROWS, target: str | None = None) -> Any:
        """camrt's, of the module."""
        compiled = {} if self.options.compile is None else {"compile": self.options.compile}
        side = self.shape.side
        return camrt.load(
            self.module,
            device=str(self.options.device),
            target=target,
            batch_size=batch_size,
            size=(side, side),
            **compiled,
        )

    def images(self, count: int) -> Tensor:
        """(count, 3, H, W) float32, of numbers that the module's type has too."""
        return random_images(count, self.shape.side, self.options.device).to(self.kind).float()


def compare_with_predict(subject: BenchmarkModel, engine: Any) -> Iterator[PairedTiming]:
    """(c): methods beside predictions, and the module by itself."""
    for count in BATCHES:
        batch = subject.images(count)
        own = batch.to(subject.kind)
        sides = [
            partial(subject.module, own),
            partial(engine.predict, batch),
            *(partial(engine.explain, batch, method) for method in subject.methods),
        ]
        module, predict, *explained = time_in_turn(sides, subject.pace.seconds(4))
        for method, samples in zip(subject.methods, explained, strict=True):
            yield summarise_pair(
                "c",
                f"{method} on {subject.name}, batch {count}",
                ("explain", samples),
                ("predict", predict),
                found=subject.differences[method],
                at_most=PIXAB_GOAL if method == "pixab" and count > 1 else None,
                module=module,
            )


def compare_with_forward_passes(subject: BenchmarkModel, engine: Any) -> Iterator[PairedTiming]:
    """(d): Score-CAM of an image beside the passes that its masked images need."""
    batch = subject.images(1)
    channels = engine.target.shape[0]
    filled = subject.images(ROWS).to(subject.kind)
    last = channels % ROWS or ROWS

    def forwards() -> None:
        for start in range(0, channels, ROWS):
            subject.module(filled if start + ROWS <= channels else filled[:last])

    score, plain = time_in_turn([partial(engine.explain, batch, "score"), forwards], subject.pace.seconds(8))
    yield summarise_pair(
        "d",
        f"Score-CAM on {subject.name}, {channels} channels, {ROWS} rows at once",
        ("explain", score),
        (f"{-(-channels // ROWS)} forward passes", plain),
        found=subject.differences["score"],
        at_most=SCORE_GOAL,
    )


@dataclass(frozen=True)
class Peer:
    """A method of another package.

    Attributes:
        name: The package's and the method's.
        method: camrt's.
        theirs: Maps of a batch, given its targets.
        how: Options with which camrt makes the same maps.
        counts: Images for either, each pair a comparison.
        goal: What the ratio of times an image is to reach, for the last of them.
    """

    name: str
    method: str
    theirs: Callable[[Tensor, list[int]], Tensor]
    how: Mapping[str, Any]
    counts: tuple[tuple[int, int], ...]
    goal: float | None = None


def find_peers(module: nn.Module, layer: nn.Module, missing: list[str]) -> Iterator[Peer]:
    """Those whose packages are there; the others are named in `missing`."""
    one, many = (1, 1), (FEW, FEW)
    several = (one, (1, FEW))  # it takes images one by one
    like_theirs = {"postprocess": "library"}
    grad_cam = import_package("pytorch_grad_cam", "grad-cam", missing)
    if grad_cam is not None:
        of_package = partial(run_grad_cam, grad_cam, module, layer)
        yield Peer("grad-cam's GradCAM", "gradcam", partial(of_package, "GradCAM"), like_theirs, (one, many))
        yield Peer(
            "grad-cam's AblationCAM",
            "ablation",
            partial(of_package, "AblationCAM"),
            like_theirs,
            several,
            PEER_GOAL,
        )
        how = {**like_theirs, "definition": "grad-cam"}
        yield Peer("grad-cam's ScoreCAM", "score", partial(of_package, "ScoreCAM"), how, (one,))
    torchcam = import_package("torchcam.methods", "torchcam", missing)
    if torchcam is not None:
        of_package = partial(run_torchcam, torchcam, module, layer)
        how = {"normalisation": "minmax", "size": "map"}
        yield Peer("torchcam's GradCAM", "gradcam", partial(of_package, "GradCAM"), how, (one, many))
        how = {**how, "definition": "torchcam"}
        yield Peer("torchcam's ScoreCAM", "score", partial(of_package, "ScoreCAM"), how, (one,))


def import_package(name: str, package: str, missing: list[str]) -> Any:
    """Another package's module; None, and a sentence in `missing`, where it cannot be imported."""
    try:
        torchvision_models()  # which they import
        return import_module(name)
    except ImportError as error:
        missing.append(f"{package} ({error})")
        return None


def run_grad_cam(
    package: Any,
    module: nn.Module,
    layer: nn.Module,
    made: str,
    batch: Tensor,
    targets: list[int],
) -> Tensor:
    """Maps of the grad-cam package."""
    output = package.utils.model_targets.ClassifierOutputTarget
    bars = mock.patch("tqdm.tqdm", lambda items: items)  # its progress is no part of its work
    with bars, torch.enable_grad(), getattr(package, made)(model=module, target_layers=[layer]) as cam:
        cam.batch_size = ROWS
        found = cam(input_tensor=batch, targets=[output(target) for target in targets])
    return torch.from_numpy(found)


def run_torchcam(
    package: Any,
    module: nn.Module,
    layer: nn.Module,
    made: str,
    batch: Tensor,
    targets: list[int],
) -> Tensor:
    """Maps of the torchcam package."""
    own = {"batch_size": ROWS} if made == "ScoreCAM" else {}
    with torch.enable_grad(), getattr(package, made)(module, target_layer=layer, **own) as extractor:
        scores = module(batch)
        (found,) = extractor(targets if len(targets) > 1 else targets[0], scores)
    result: Tensor = found.detach()
    return result


def compare_with_peers(subject: BenchmarkModel, engine: Any, report: ExplainReport) -> Iterator[PairedTiming]:
    """(e): other packages on the same module, of the same images."""
    layer = subject.module.get_submodule(engine.target.name)
    agreed: list[Agreement] = []
    for peer in find_peers(subject.module, layer, report.missing):
        batch = subject.images(FEW)
        targets = engine.predict(batch).argmax(dim=1).tolist()
        try:
            with disable_tf32():
                expected = peer.theirs(batch[:1], targets[:1])
                ours = engine.explain(batch[:1], peer.method, targets=targets[:1], **peer.how).maps
        except Exception as error:  # another package's, which is not to take the rest with it
            report.failed.append(f"{peer.name} on {subject.name}: {error!r}")
            traceback.print_exc()
            continue
        agreed.append(Agreement("maps", peer.name, relative_difference(ours.cpu(), expected.cpu()), SAME_MAP))
        report.agreements[f"{subject.name}, other packages"] = agreed
        if subject.options.check or not agreed[-1].holds:
            continue
        for theirs, own in peer.counts:
            sides = [
                partial(peer.theirs, batch[:theirs], targets[:theirs]),
                partial(engine.explain, batch[:own], peer.method, **peer.how),
            ]
            first, second = time_in_turn(sides, subject.pace.seconds(6))
            yield summarise_pair(
                "e",
                f"{peer.name} on {subject.name}",
                (f"theirs, batch {theirs}", first),
                (f"camrt, batch {own}", second),
                found=agreed[-1].difference,
                at_least=peer.goal if own > theirs else None,
                scale=own / theirs,
            )


def measure_peak(call: Callable[[Tensor], Any], batch: Tensor) -> tuple[float, float]:
    """MiB given out by torch at most while a batch is answered, and before it."""
    call(batch[:1])  # what is made once is there
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    result = call(batch)
    torch.cuda.synchronize()
    most = torch.cuda.max_memory_allocated()
    del result
    return most / 2**20, before / 2**20


def compare_memory(subject: BenchmarkModel) -> Iterator[PeakMemory]:
    """(f): the peak of each method beside a prediction's, for two batch sizes."""
    batch = subject.images(max(BATCHES))
    for rows in (FEW, ROWS):
        engine = subject.engine(rows)
        label = f"on {subject.name}, {len(batch)} images, {rows} rows at once"
        predicted, before = measure_peak(engine.predict, batch)
        yield PeakMemory(f"predict {label}", predicted, before, "itself", 1.0, "", True)
        for method in subject.methods:
            most, before = measure_peak(partial(engine.explain, method=method), batch)
            yield PeakMemory(f"{method} {label}", most, before, "predict", most / predicted, "", True)


def compare_mask_memory(subject: BenchmarkModel) -> Iterator[PeakMemory]:
    """(f): Score-CAM's peak for more and more masks, the rows at once the same."""
    batch = subject.images(1)
    fewest: tuple[int, float] | None = None
    for layer in subject.shape.layers:
        engine = subject.engine(target=layer)
        most, before = measure_peak(partial(engine.explain, method="score"), batch)
        masks = engine.target.shape[0]
        fewest = fewest or (masks, most)
        grown = most / fewest[1]
        yield PeakMemory(
            f"Score-CAM at {layer!r} of {subject.name}, {masks} masks, {ROWS} rows at once",
            most,
            before,
            f"{fewest[0]} masks",
            grown,
            f"≤ {GROWTH_GOAL:g}×" if masks > fewest[0] else "",
            grown <= GROWTH_GOAL,
        )


@contextmanager
def disable_tf32() -> Iterator[None]:
    """Convolutions of float32 are not rounded to TF32, as torch does on its own."""
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        yield


# ---------------------------------------------------------------- all of it


def run_parts(report: ExplainReport, options: Options) -> Iterator[None]:
    """Runs the parts, one network in one type after another; stops for a moment after each result.

    A network that disagrees is not timed. One that breaks does not take the others with it.

    Args:
        report: Filled as results come.
        options: What is run.
    """
    shapes = LARGE if options.large else SMALL
    kinds = len(KINDS) * len(shapes)
    works = ("c" in options.parts) * kinds * len(BATCHES) + ("d" in options.parts) * kinds
    pace = TimeBudget(options.until, works + ("e" in options.parts) * 8)
    methods = (*METHODS, *(("score",) if "d" in options.parts else ()))
    if "f" in options.parts and options.check:
        report.missing.append("memory is measured on a card, without --check")
    for shape in shapes:
        made = build_module(shape, options.device)
        for kind in KINDS:
            module = copy.deepcopy(made).to(kind)
            if options.channels_last:
                module = module.to(memory_format=torch.channels_last)
            name = f"{shape.name}, {str(kind).removeprefix('torch.')}"
            subject = BenchmarkModel(shape, module, name, options, pace, {})
            try:
                with torch.no_grad():
                    yield from run_network(subject, report, methods, first=shape is shapes[0])
            except Exception as error:
                report.failed.append(f"{name}: {error!r}")
                traceback.print_exc()
            if options.device.type == "cuda":
                torch.cuda.empty_cache()
            yield


def run_network(
    subject: BenchmarkModel, report: ExplainReport, methods: tuple[str, ...], first: bool
) -> Iterator[None]:
    """All parts of one network in one type; stops for a moment after each result.

    Args:
        subject: It.
        report: Filled as results come.
        methods: Whose results are compared, CAM's only where the head has such maps.
        first: Whether it is the network that other packages are run on.
    """
    options = subject.options
    engine = subject.engine()
    with disable_tf32():
        asked = tuple(one for one in methods if one != "cam" or engine.head.has_class_maps)
        found = agreements(engine, subject.module, subject.images(2), asked)
    report.agreements[subject.name] = found
    for one in found:
        subject.differences[one.method] = max(subject.differences.get(one.method, 0.0), one.difference)
    agreed = all(one.holds for one in found)
    print(f"{subject.name}: {'agrees' if agreed else 'DIFFERS'}", file=sys.stderr, flush=True)
    runs: list[Iterator[PairedTiming | PeakMemory]] = []
    if agreed and not options.check:
        runs += [compare_with_predict(subject, engine)] if "c" in options.parts else []
        runs += [compare_with_forward_passes(subject, engine)] if "d" in options.parts else []
        runs += [compare_memory(subject), compare_mask_memory(subject)] if "f" in options.parts else []
    if "e" in options.parts and first and subject.kind == torch.float32:
        runs.append(compare_with_peers(subject, engine, report))
    for run in runs:
        for result in run:
            print(result, file=sys.stderr, flush=True)
            (report.peaks if isinstance(result, PeakMemory) else report.paired).append(result)
            yield
