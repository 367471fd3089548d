"""camrt's metrics against the plain way of computing them, and against other libraries' metrics.

    python benchmarks/evaluation.py --out benchmarks/results/evaluation.json

Every comparison first checks that both sides give the same result, then times them in turn.
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import cv2
import numpy as np
import onnxruntime as ort
import torch
import typer
from cpu import check
from measure import Comparison, compare, peak_memory, table, write
from networks import Network, build_network, random_images
from sklearn.metrics import average_precision_score

import camrt
from camrt.engine.methods import make_method
from camrt.evaluation.metrics.box_accuracy import THRESHOLDS, overlaps
from camrt.evaluation.metrics.pixel_precision import EDGES, pxap
from camrt.evaluation.suite import Settings
from camrt.evaluation.suite.measurement import Measurements, measure_block, min_max_normalise
from camrt.evaluation.suite.plan import MeasurementPlan
from camrt.evaluation.suite.prepared_sample import PreparedSample
from camrt.kernels.resampling import bilinear

SIDE = 224
SAME_CURVE = 0.03
"""Of probabilities: maps are resized otherwise elsewhere, so that some pixels go in another order."""


def random_maps(count: int, cells: int) -> Any:
    """Maps of 224×224 made of a coarse grid, as those of class activations are."""
    rng = np.random.default_rng(cells)
    coarse = rng.random((count, cells, cells)).astype(np.float32) ** 2
    return np.stack([min_max_normalise(one) for one in bilinear(coarse, (SIDE, SIDE))])


def contour_overlaps(saliency: Any, boxes: Any) -> Any:
    """The benchmark's algorithm: for each threshold OpenCV's contours, their boxes, and the best overlap."""
    levels = (saliency * 255).astype(np.uint8)
    areas = (boxes[:, 2] - boxes[:, 0] + 1) * (boxes[:, 3] - boxes[:, 1] + 1)
    best = np.empty(len(THRESHOLDS))
    for index, threshold in enumerate(THRESHOLDS):
        _, above = cv2.threshold(levels, int(threshold * levels.max()), 255, cv2.THRESH_BINARY)
        contours, _ = cv2.findContours(above, cv2.RETR_TREE, cv2.CHAIN_APPROX_SIMPLE)
        found = np.array([cv2.boundingRect(contour) for contour in contours] or [(0, 0, 0, 0)])
        found[:, 2:] += found[:, :2]
        if len(contours):
            found[:, 2:] = np.minimum(found[:, 2:], SIDE - 1)
        low = np.maximum(found[:, None, :2], boxes[None, :, :2])
        high = np.minimum(found[:, None, 2:], boxes[None, :, 2:])
        common = np.maximum(high - low + 1, 0).prod(axis=2)
        own = (found[:, 2] - found[:, 0] + 1) * (found[:, 3] - found[:, 1] + 1)
        best[index] = (common / (own[:, None] + areas[None] - common)).max()
    return best


def box_accuracy(pairs: int) -> list[Comparison]:
    """MaxBoxAccV2's overlaps at 1000 thresholds."""
    few, many = 4, 200
    results = []
    for cells in (7, 14, 28):
        saliency = random_maps(many, cells)
        boxes = [np.array([[30, 40, 150, 170], [100, 90, 210, 200]])] * many
        expected = np.stack([contour_overlaps(saliency[i], boxes[i]) for i in range(few)])
        if not np.array_equal(overlaps(saliency[:few], boxes[:few]), expected):
            raise SystemExit("the overlaps differ: nothing is timed")

        def theirs(saliency: Any = saliency, boxes: Any = boxes) -> None:
            for i in range(few):
                contour_overlaps(saliency[i], boxes[i])

        for label, threads in (("camrt, 1 thread", 1), ("camrt", None)):
            results.append(
                compare(
                    f"MaxBoxAccV2 at 1000 thresholds, maps of {cells}×{cells} cells at 224×224, a map",
                    ("OpenCV contours at each threshold", theirs),
                    (label, partial(overlaps, saliency, boxes, threads=threads)),
                    at_least=50,
                    pairs=pairs,
                    scale=many / few,
                    notes=["overlaps at all 1000 thresholds equal to the last bit"],
                )
            )
    return results


def pixel_precision(pairs: int) -> list[Comparison]:
    """PxAP on 200 maps."""
    saliency = random_maps(200, 7)
    rng = np.random.default_rng(0)
    masks = (bilinear(rng.random((200, 5, 5)).astype(np.float32), (SIDE, SIDE)) > 0.6).astype(np.uint8, "C")
    masks[:, :8] = 255

    def scikit() -> float:
        counted = masks != 255
        return 100 * float(average_precision_score(masks[counted], saliency[counted]))

    def plain() -> float:
        counts = np.zeros((2, len(EDGES) - 1))
        for one, mask in zip(saliency, masks, strict=True):
            for row, mark in enumerate((0, 1)):
                counts[row] += np.histogram(one[mask == mark], EDGES)[0]
        hits, alarms = counts[1][::-1].cumsum(), counts[0][::-1].cumsum()
        some = hits + alarms > 0
        gained = np.diff(hits, prepend=0)[some] / hits[-1]
        return 100 * float((gained * (hits / np.maximum(hits + alarms, 1))[some]).sum())

    def sorted_numpy() -> float:
        counted = masks != 255
        scores, marks = saliency[counted], masks[counted]
        order = np.argsort(-scores, kind="stable")
        scores, marks = scores[order], marks[order].astype(np.int64)
        last = np.append(np.flatnonzero(np.diff(scores)), len(scores) - 1)
        hits = marks.cumsum()[last]
        return 100 * float((np.diff(hits, prepend=0) * hits / (last + 1)).sum() / hits[-1])

    exact = partial(pxap, saliency, masks)
    binned = partial(pxap, saliency, masks, definition="reference")
    sides: list[tuple[str, str, Any, Any]] = [
        ("exact average precision", "scikit-learn", scikit, exact),
        ("exact average precision", "NumPy's stable sort", sorted_numpy, exact),
        ("PxAP in 0.001 bins", "NumPy's histogram of each map", plain, binned),
    ]
    return [
        compare(
            f"{what} on 200 maps of 224×224",
            (peer, theirs),
            ("camrt", ours),
            at_least=10,
            pairs=pairs,
            notes=[check(f"{what}, {peer}", np.array(ours().value), np.array(theirs()), 1e-9)],
        )
        for what, peer, theirs, ours in sides
    ]


def prepare_samples(batch: Any) -> list[PreparedSample]:
    """A batch as the suite reads it."""
    return [PreparedSample(str(i), None, image, (), ()) for i, image in enumerate(batch)]


def curves(engine: Any, batch: Any, step: int, *metrics: str) -> Measurements:
    """Deletion and insertion of Grad-CAM."""
    empty = engine.predict(np.zeros_like(batch[:1]))[0]
    plan = MeasurementPlan(
        engine, {"gradcam": make_method("gradcam", {})}, metrics, Settings(step=step), (SIDE, SIDE), empty
    )
    return measure_block(plan, prepare_samples(batch))


def against_passes(net: Network, pairs: int) -> list[Comparison]:
    """Both curves against the forward passes they need, in the same runtime."""
    engine = camrt.load(net.path)
    batch = random_images(4)
    step = SIDE * 4
    passes = curves(engine, batch, step, "deletion", "insertion").passes
    session = ort.InferenceSession(str(net.path), providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    rows = np.random.default_rng(0).standard_normal((32, 3, SIDE, SIDE)).astype(np.float32)

    def plain() -> None:
        left = passes
        while left > 0:
            session.run(None, {name: rows[: min(left, 32)]})
            left -= 32

    return [
        compare(
            f"deletion and insertion on ResNet-18, {len(batch)} images, {passes} passes",
            ("camrt, Grad-CAM's map included", partial(curves, engine, batch, step, "deletion", "insertion")),
            ("as many plain forward passes in onnxruntime", plain),
            at_most=1.15,
            pairs=pairs,
        )
    ]


def against_libraries(net: Network, pairs: int) -> list[Comparison]:
    """The same curves by torchcam and Quantus, on the same weights, images and steps."""
    import quantus
    from torchcam.methods import GradCAM
    from torchcam.metrics import DeletionInsertionMetric

    engine = camrt.load(net.path)
    batch, steps = random_images(2), 28
    step = SIDE * SIDE // steps
    tensor = torch.from_numpy(batch)
    targets = engine.predict(batch).argmax(axis=1)
    ours = partial(curves, engine, batch, step, "deletion", "insertion")
    softmax = partial(torch.softmax, dim=-1)

    def torchcam() -> float:
        with GradCAM(net.module, target_layer=net.layer) as extractor:
            metric = DeletionInsertionMetric(extractor, softmax, steps=steps)
            metric.update(tensor)
            return metric.summary()["deletion_auc"]

    deletion = np.mean([row["deletion"] for row in ours().maps])
    results = [
        compare(
            f"deletion and insertion on ResNet-18, {len(batch)} images, {steps} steps",
            ("torchcam", torchcam),
            ("camrt", ours),
            at_least=1.0,
            pairs=pairs,
            notes=[check("torchcam's deletion", deletion, np.array(torchcam()), SAME_CURVE)],
        )
    ]
    explained = engine.explain(batch, "gradcam").maps[:, None]
    flipping = quantus.PixelFlipping(
        features_in_step=7168, perturb_baseline="black", normalise=False, disable_warnings=True
    )

    def pixel_flipping() -> Any:
        return np.array(
            flipping(net.module, batch, targets, a_batch=explained, softmax=True, device="cpu", batch_size=32)
        )

    steps = 3 * SIDE * SIDE // 7168  # Quantus counts colours, and wants a divisor of the pixels
    alone = partial(curves, engine, batch, -(-SIDE * SIDE // steps), "deletion")
    points = [len(curve) for curve in pixel_flipping()]
    if points != [steps] * len(batch):
        raise SystemExit(f"Quantus gives {points} points, not {steps}: nothing is timed")
    results.append(
        compare(
            f"deletion on ResNet-18, {len(batch)} images, {steps} steps",
            ("Quantus", pixel_flipping),
            ("camrt", alone),
            at_least=1.0,
            pairs=pairs,
            notes=[
                "as many passes on both sides; Quantus alters colours one by one, so values differ",
            ],
        )
    )
    return results


def memory(net: Network) -> list[Comparison]:
    """Peak memory of a whole process, with few steps and with many."""
    code = (
        "import sys; sys.path.insert(0, {here!r})\n"
        "from evaluation import curves, images\nimport camrt\n"
        "curves(camrt.load({path!r}), images(4), {step}, 'deletion', 'insertion')"
    )
    here = str(Path(__file__).parent)
    # Both fill whole batches: 8 steps of two curves on 4 images are 56 passes.
    few, many = (
        peak_memory(code.format(here=here, path=str(net.path), step=step)) for step in (SIDE * 28, SIDE * 4)
    )
    ratio = many / few
    return [
        Comparison(
            "peak memory of deletion and insertion, 4 images",
            ("56 steps", "8 steps"),
            "≤ 1.05×",
            ratio <= 1.05,
            (ratio,) * 3,
            (0.0, 0.0),
            ([], []),
            None,
            [f"{many / 2**20:.0f} MiB and {few / 2**20:.0f} MiB, whole processes, torch imported in both"],
        )
    ]


def main(
    out: Annotated[Path, typer.Option()] = Path("benchmarks/results/evaluation.json"),
    pairs: Annotated[int, typer.Option(min=1)] = 7,
) -> None:
    """Runs every comparison, and writes the samples and a table."""
    net = build_network("resnet18")
    results = [
        *box_accuracy(pairs),
        *pixel_precision(pairs),
        *against_passes(net, pairs),
        *against_libraries(net, max(pairs // 2, 1)),
        *memory(net),
    ]
    write(out, results, f"python {' '.join(sys.argv)}")
    print(table(results))


if __name__ == "__main__":
    typer.run(main)
