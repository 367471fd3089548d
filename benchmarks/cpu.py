"""camrt on the CPU against a plain prediction and against other explanation libraries.

    python benchmarks/cpu.py --out benchmarks/results/cpu.json

Every comparison first checks that both sides give the same result, then times them in turn.
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import onnxruntime as ort
import torch
import typer
from measure import Comparison, compare, peak_memory, run_python, summarise, table, write
from networks import Network, build_network, random_images

import camrt
from camrt.engine.methods import make_method
from camrt.export.heads.cut import ACTIVATION
from camrt.export.rewrites.interface import LOGITS

BATCH = 32


def relative_difference(actual: Any, expected: Any) -> float:
    """Largest difference, relative to the largest magnitude expected."""
    wide = np.asarray(expected, np.float64)
    return float(np.abs(np.asarray(actual, np.float64) - wide).max() / np.abs(wide).max())


def check(what: str, actual: Any, expected: Any, limit: float) -> str:
    """A note that two results agree.

    Raises:
        SystemExit: They do not; nothing is timed.
    """
    difference = relative_difference(actual, expected)
    if not difference <= limit:
        raise SystemExit(f"{what}: results differ by {difference:.2g} (limit {limit:g}); nothing was timed")
    return f"largest relative difference {difference:.1e}"


def plain_session(path: Path) -> Any:
    """Runs onnxruntime on the file as it is, with its defaults."""
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return lambda batch: session.run(["logits"], {"input": batch})[0]


def overhead(net: Network, pairs: int) -> list[Comparison]:
    """What `explain` costs beside `predict` on a pooled-linear head, batch of 32."""
    engine = camrt.load(net.path)
    batch = random_images(BATCH)
    plain = plain_session(net.path)
    note = check("predict and onnxruntime", engine.predict(batch), plain(batch), 1e-5)
    results = []
    for method in ("pixab", "ablation", "cam"):
        results.append(
            compare(
                f"{method} on ResNet-18, batch {BATCH}",
                ("explain", partial(engine.explain, batch, method)),
                ("predict", partial(engine.predict, batch)),
                at_most=1.05,
                pairs=3 * pairs,  # the difference looked for is smaller than the noise of one pair
                warm=3,
                notes=[note],
            )
        )
    return results


def predict_against_runtime(net: Network, pairs: int) -> list[Comparison]:
    """What loading through camrt costs a prediction, each in a process of its own.

    Two sessions in one process keep each other's threads from the processors, so that neither is measured.
    """
    timing = (
        "import time, statistics\n"
        f"batch = np.random.default_rng(0).standard_normal(({BATCH}, 3, 224, 224), np.float32)\n"
        "times = []\n"
        "for _ in range(12):\n"
        "    started = time.perf_counter()\n"
        "    run(batch)\n"
        "    times.append(time.perf_counter() - started)\n"
        "print(statistics.median(times[2:]))"
    )
    ours = f"import camrt, numpy as np\nrun = camrt.load({str(net.path)!r}).predict\n{timing}"
    plain = (
        "import onnxruntime, numpy as np\n"
        f"session = onnxruntime.InferenceSession({str(net.path)!r}, providers=['CPUExecutionProvider'])\n"
        f"run = lambda batch: session.run(['logits'], {{'input': batch}})\n{timing}"
    )
    samples: tuple[list[float], list[float]] = ([], [])
    for _ in range(max(5, pairs * 3 // 5)):
        for side, code in enumerate((ours, plain)):
            samples[side].append(float(run_python(code)))
    return [
        summarise(
            f"predict on ResNet-18, batch {BATCH}, a process each",
            ("camrt predict", "onnxruntime on the file"),
            samples,
            at_most=1.05,
        )
    ]


def ablation_against_grad_cam(net: Network, pairs: int) -> list[Comparison]:
    """Ablation-CAM on ResNet-18, an image, against pytorch-grad-cam's."""
    from pytorch_grad_cam import AblationCAM
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    engine = camrt.load(net.path)
    batch = random_images(BATCH)
    target = int(engine.predict(batch[:1]).argmax())
    peer: Any = AblationCAM(model=net.module, target_layers=[net.layer], ratio_channels_to_ablate=1.0)

    def theirs() -> Any:
        return peer(torch.from_numpy(batch[:1]), [ClassifierOutputTarget(target)])

    def ours() -> Any:
        return engine.explain(batch, "ablation", targets=target, postprocess="library").maps

    note = check("maps of the first image", ours()[0], theirs()[0], 2e-3)
    return [
        compare(
            "Ablation-CAM on ResNet-18, an image",
            ("pytorch-grad-cam, 1 image", theirs),
            (f"camrt, {BATCH} images", ours),
            at_least=400,
            pairs=max(3, pairs // 3),
            warm=0,
            scale=BATCH,
            notes=[note],
        )
    ]


def score_cam(net: Network, pairs: int) -> list[Comparison]:
    """Score-CAM on ResNet-18 against the same number of plain forward passes, and pytorch-grad-cam's."""
    from pytorch_grad_cam import ScoreCAM
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    engine = camrt.load(net.path)
    batch = random_images(1)
    target = int(engine.predict(batch).argmax())
    plain = plain_session(net.path)
    ours = partial(
        engine.explain, batch, "score", targets=target, definition="grad-cam", postprocess="library"
    )
    passes = ours().passes
    filled = random_images(BATCH)

    def forwards() -> None:
        for start in range(0, passes.full, BATCH):
            plain(filled[: min(BATCH, passes.full - start)])
        plain(batch)

    results = [
        compare(
            f"Score-CAM on ResNet-18, an image ({passes.full + passes.trunk} passes)",
            ("explain", ours),
            ("as many plain forward passes", forwards),
            at_most=1.05,
            pairs=max(3, pairs // 2),
        )
    ]
    peer: Any = ScoreCAM(model=net.module, target_layers=[net.layer])
    peer.batch_size = BATCH

    def theirs() -> Any:
        return peer(torch.from_numpy(batch), [ClassifierOutputTarget(target)])

    note = check("maps", ours().maps[0], theirs()[0], 5e-3)
    results.append(
        compare(
            "Score-CAM on ResNet-18, an image",
            ("pytorch-grad-cam", theirs),
            ("camrt", ours),
            at_least=1.5,
            pairs=3,
            warm=0,
            notes=[note],
        )
    )
    return results


def score_cam_memory(net: Network) -> list[Comparison]:
    """Peak resident memory of Score-CAM against predict at the same batch size, each in its own process."""
    load = (
        "import camrt, numpy as np\n"
        f"engine = camrt.load({str(net.path)!r}, batch_size={BATCH})\n"
        f"batch = np.random.default_rng(0).standard_normal(({BATCH}, 3, 224, 224), np.float32)\n"
    )
    predict = peak_memory(f"{load}for _ in range(3): engine.predict(batch)")
    score = peak_memory(f"{load}engine.explain(batch[:2], 'score')")
    ratio = score / predict
    return [
        Comparison(
            "peak memory of Score-CAM on ResNet-18 (512 channels)",
            ("explain", f"predict, batch {BATCH}"),
            "≤ 1.3×",
            ratio <= 1.3,
            (ratio,) * 3,
            (0.0, 0.0),
            ([], []),
            None,
            [f"{score / 2**20:.0f} MiB against {predict / 2**20:.0f} MiB, whole processes"],
        )
    ]


def flattened(net: Network, pairs: int) -> list[Comparison]:
    """Ablation-CAM on VGG-16's flattened head against its floor and against the generic answer."""
    engine = camrt.load(net.path)
    batch = random_images(1)
    target = int(engine.predict(batch).argmax())
    head: Any = engine.head
    contributions = head._contributions  # the parts of the floor are timed by themselves
    weight = contributions.factors.weight.reshape(contributions.features, -1)
    outputs = engine._model(batch, [LOGITS, ACTIVATION])
    activations = outputs[1]
    live = int((activations != 0).any(axis=(2, 3)).sum())
    vector = activations.reshape(-1)
    rows = np.repeat((weight @ vector)[None], live, axis=0)

    def floor() -> None:
        weight @ vector
        for start in range(0, live, head._batch_size):
            head._rest(rows[start : start + head._batch_size])

    method = make_method("ablation", {})
    generic = generic_engine(net.path)

    def answer(which: Any) -> Any:
        return which.explain(batch, method, targets=target).raw

    questions = {id(which): build_query(which, batch, target) for which in (engine, generic)}

    def channels(which: Any) -> Any:
        return which.head.scores_without_channels(questions[id(which)])

    note = check("raw maps, partial products and generic", answer(engine), answer(generic), 1e-4)
    return [
        compare(
            f"channel ablation behind VGG-16's flattened head, {live} channels",
            ("partial products", partial(channels, engine)),
            ("floor: first layer read once, rest on the batch", floor),
            at_most=1.3,
            pairs=pairs,
            notes=[note],
        ),
        compare(
            f"channel ablation behind VGG-16's flattened head, {live} channels",
            ("generic", partial(channels, generic)),
            ("partial products", partial(channels, engine)),
            at_least=3.5,
            pairs=max(3, pairs // 2),
            notes=[note],
        ),
    ]


def build_query(engine: Any, batch: np.ndarray, target: int) -> Any:
    """The question that Ablation-CAM puts to a head, its trunk pass done."""
    from camrt.engine.heads import QueryContext
    from camrt.engine.passes import PassCounts
    from camrt.engine.scores import ScoreReader

    logits, activations = engine._model(batch, [LOGITS, ACTIVATION])
    reader = ScoreReader(np.full((len(batch), 1), target), "logit", "softmax")
    return QueryContext(activations, logits, reader, PassCounts(), {})


def generic_engine(path: Path) -> Any:
    """An engine whose head is not factored."""
    from unittest import mock

    from camrt.engine import cuts
    from camrt.export.heads.factoring import Unfactored

    unfactored = Unfactored("asked for by a benchmark")
    with mock.patch.object(cuts, "factor_head", return_value=unfactored):
        return camrt.load(path)


def main(
    out: Annotated[Path, typer.Option(help="Where the JSON goes; a table goes beside it.")] = Path(
        "benchmarks/results/cpu.json"
    ),
    pairs: Annotated[int, typer.Option(help="Counted pairs a comparison.")] = 15,
    only: Annotated[list[str] | None, typer.Option(help="Parts to run.")] = None,
) -> None:
    """Runs the comparisons and writes them down."""
    parts = only or ["overhead", "predict", "ablation", "score", "memory", "flattened"]
    results: list[Comparison] = []
    resnet = build_network("resnet18") if set(parts) - {"flattened"} else None
    if resnet is not None:
        if "overhead" in parts:
            results += overhead(resnet, pairs)
        if "predict" in parts:
            results += predict_against_runtime(resnet, pairs)
        if "ablation" in parts:
            results += ablation_against_grad_cam(resnet, pairs)
        if "score" in parts:
            results += score_cam(resnet, pairs)
        if "memory" in parts:
            results += score_cam_memory(resnet)
    if "flattened" in parts:
        results += flattened(build_network("vgg16"), pairs)
    write(out, results, f"python benchmarks/cpu.py {' '.join(sys.argv[1:])}".strip())
    print(table(results))
    print(f"{sum(not result.met for result in results)} goals missed", file=sys.stderr)


if __name__ == "__main__":
    typer.run(main)
