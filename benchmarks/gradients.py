"""The Grad-CAM family on the CPU against a plain prediction and against other explanation libraries.

    python benchmarks/gradients.py --out benchmarks/results/gradients.json

Every comparison first checks that both sides give the same result, then times them in turn.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from cpu import check
from measure import Comparison, compare, run_python, summarise, table, write
from networks import Network, build_network, random_images

import camrt
from camrt.export.adjoint import GRADIENT, WEIGHTING, build_adjoint_model
from camrt.export.heads.cut import build_head_model
from camrt.export.rewrites.interface import LOGITS

BATCHES = (1, 32)
FAMILY = ("gradcam", "gradcam++", "xgradcam", "hirescam", "layercam")
# Largest relative difference of maps in [0, 1] that two runtimes and two bilinear resamplings leave.
SAME_MAP = 5e-3


def overhead(net: Network, name: str, at_most: float, pairs: int) -> list[Comparison]:
    """What `explain` costs beside `predict`, for each method of the family, batch 1 and 32."""
    engine = camrt.load(net.path)
    results = []
    for count in BATCHES:
        batch = random_images(count)
        for method in FAMILY:
            results.append(
                compare(
                    f"{method} on {name}, batch {count}",
                    ("explain", partial(engine.explain, batch, method)),
                    ("predict", partial(engine.predict, batch)),
                    at_most=at_most,
                    pairs=3 * pairs if count == 1 else pairs,
                    warm=3 if count == 1 else 1,
                )
            )
    return results


def against_grad_cam(net: Network, name: str, pairs: int) -> list[Comparison]:
    """Each method against pytorch-grad-cam's on the same weights, as that library normalises."""
    import pytorch_grad_cam as peer
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    classes = (peer.GradCAM, peer.GradCAMPlusPlus, peer.XGradCAM, peer.HiResCAM, peer.LayerCAM)
    engine = camrt.load(net.path)
    results = []
    for method, made in zip(FAMILY, classes, strict=True):
        cam: Any = made(model=net.module, target_layers=[net.layer])
        options = {"definition": "grad-cam"} if method == "gradcam++" else {}
        for count in BATCHES:
            batch = random_images(count)
            targets = engine.predict(batch).argmax(axis=1)
            wanted = [ClassifierOutputTarget(int(target)) for target in targets]
            ours = partial(engine.explain, batch, method, targets=targets, postprocess="library", **options)
            theirs = partial(cam, torch.from_numpy(batch), wanted)
            note = check(f"{method} on {name}, batch {count}", ours().maps, theirs(), SAME_MAP)
            results.append(
                compare(
                    f"{method} on {name}, batch {count}",
                    ("pytorch-grad-cam", theirs),
                    ("camrt", ours),
                    at_least=1.0,
                    pairs=pairs,
                    notes=[note],
                )
            )
        cam.activations_and_grads.release()
    return results


def against_torchcam_and_captum(net: Network, name: str, pairs: int) -> list[Comparison]:
    """Grad-CAM's raw map against torchcam's and captum's, which do not bring it to the image's size."""
    from captum.attr import LayerGradCam
    from torchcam.methods import GradCAM

    engine = camrt.load(net.path)
    results = []
    for count in BATCHES:
        batch = random_images(count)
        tensor = torch.from_numpy(batch)
        targets = engine.predict(batch).argmax(axis=1)
        ours = partial(engine.explain, batch, "gradcam", targets=targets, size="map")
        layered: Any = LayerGradCam(net.module, net.layer)

        def captum(tensor: Any = tensor, targets: Any = targets, layered: Any = layered) -> Any:
            return layered.attribute(tensor, target=torch.from_numpy(targets), relu_attributions=True)

        def torchcam(tensor: Any = tensor, targets: Any = targets) -> Any:
            with GradCAM(net.module, target_layer=net.layer) as extractor:
                return extractor([int(target) for target in targets], net.module(tensor))[0]

        raw = np.maximum(ours().raw, 0)
        peers: list[tuple[str, Callable[[], Any], Any, Any]] = [
            ("captum", captum, raw, captum().detach().numpy()[:, 0]),
            ("torchcam", torchcam, stretch_maps(raw), torchcam().detach().numpy()),
        ]
        for peer, theirs, mine, expected in peers:
            note = check(f"{peer}, Grad-CAM on {name}, batch {count}", mine, expected, SAME_MAP)
            results.append(
                compare(
                    f"Grad-CAM on {name}, batch {count}",
                    (peer, theirs),
                    ("camrt", ours),
                    at_least=1.0,
                    pairs=pairs,
                    notes=[note],
                )
            )
    return results


def stretch_maps(maps: np.ndarray) -> np.ndarray:
    """Each map brought to [0, 1] by its own smallest and largest value."""
    low, high = (reduce(axis=(1, 2), keepdims=True) for reduce in (maps.min, maps.max))
    return np.asarray((maps - low) / (high - low))


def mid_network(net: Network, pairs: int) -> list[Comparison]:
    """The adjoint of the half of ResNet-18 behind its second stage, against that half's forward pass."""
    from camrt.engine.batch_axis import resolve_batch_axis
    from camrt.engine.runtime import make_onnx_runtime
    from camrt.engine.shape_probe import make_shape_observer
    from camrt.export.io.model_file import read_model
    from camrt.export.rewrites.interface import standardise

    runtime = make_onnx_runtime(threads=None)
    model = read_model(net.path).model
    interface = standardise(model)
    interface, graph, _ = resolve_batch_axis(model, interface, runtime, None, make_shape_observer(runtime))
    target = next(t for t in reversed(camrt.load(net.path).targets()) if t.clean and t.shape[0] == 128)
    forward = runtime.make_runner(
        build_head_model(model, graph, target.name, LOGITS, input_name="map", batch=None), label="head"
    )
    back = runtime.make_runner(
        build_adjoint_model(model, graph, target.name, input_name="map", batch=None), label="adjoint"
    )
    results = []
    for count in BATCHES:
        maps = np.random.default_rng(0).random((count, *target.shape), np.float32)
        weighting = np.eye(interface.num_classes, dtype=np.float32)[np.zeros(count, int)]
        both = partial(back, maps, [LOGITS, GRADIENT], {WEIGHTING: weighting})
        note = check(f"logits, batch {count}", both()[0], forward(maps)[0], 1e-4)
        results.append(
            compare(
                f"adjoint behind {target.name!r} (128×28×28) of ResNet-18, batch {count}",
                ("forth and back", both),
                ("forward", partial(forward, maps)),
                at_most=2.5,
                pairs=2 * pairs,
                notes=[note],
            )
        )
    return results


def first_map(net: Network, name: str, pairs: int) -> list[Comparison]:
    """Seconds from the call of load to the first map, beside onnxruntime's to its first prediction."""
    batch = "batch = np.random.default_rng(0).standard_normal((1, 3, 224, 224), np.float32)\n"
    head = "import time, numpy as np, {module}\n" + batch + "started = time.perf_counter()\n"
    tail = "\nprint(time.perf_counter() - started)"
    ours = f"{head.format(module='camrt')}camrt.load({str(net.path)!r}).explain(batch, 'gradcam').maps{tail}"
    plain = (
        f"{head.format(module='onnxruntime')}session = onnxruntime.InferenceSession({str(net.path)!r}, "
        f"providers=['CPUExecutionProvider'])\nsession.run(None, {{'input': batch}}){tail}"
    )
    samples: tuple[list[float], list[float]] = ([], [])
    for _ in range(max(3, pairs // 3)):
        for side, code in enumerate((ours, plain)):
            samples[side].append(float(run_python(code)))
    sides = ("camrt.load to the first Grad-CAM map", "onnxruntime to the first prediction")
    return [summarise(f"a new process, {name}", sides, samples)]


def main(
    out: Annotated[Path, typer.Option(help="Where the JSON goes; a table goes beside it.")] = Path(
        "benchmarks/results/gradients.json"
    ),
    pairs: Annotated[int, typer.Option(help="Counted pairs a comparison.")] = 9,
    only: Annotated[list[str] | None, typer.Option(help="Parts to run.")] = None,
) -> None:
    """Runs the comparisons and writes them down."""
    parts = only or ["overhead", "peers", "middle", "first"]
    results: list[Comparison] = []
    for name, shape, at_most in (("ResNet-18", "resnet18", 1.10), ("VGG-16", "vgg16", 1.25)):
        net = build_network(shape)
        if "overhead" in parts:
            results += overhead(net, name, at_most, pairs)
        if "peers" in parts:
            results += against_grad_cam(net, name, max(3, pairs // 3))
            results += against_torchcam_and_captum(net, name, max(3, pairs // 3))
        if "middle" in parts and shape == "resnet18":
            results += mid_network(net, pairs)
        if "first" in parts:
            results += first_map(net, name, pairs)
    write(out, results, f"python benchmarks/gradients.py {' '.join(sys.argv[1:])}".strip())
    print(table(results))
    print(f"{sum(not result.met for result in results)} goals missed", file=sys.stderr)


if __name__ == "__main__":
    typer.run(main)
