"""Runs over many images: `camrt explain --write maps` against prediction, one step at a time, and a peer.

    python benchmarks/runs.py mobilenet_v2.onnx photos/ --preprocessing tf

All sides read the same files. Each is a process of its own, timed from its first image on, its model being
loaded; they follow each other in turn. What they give is compared first.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import onnxruntime
import typer
from measure import Comparison, peak_memory, run_python, summarise, table, write
from PIL import Image

import camrt
from camrt.cli.explain_run import explain_sources
from camrt.engine.images.read import find_images
from camrt.engine.runs.decoding import DecodedImage, Decoding, read_ahead
from camrt.engine.runs.job import ExplainJob
from camrt.engine.runs.sources import find_items
from camrt.engine.runs.stream import Question

PREDICTION_GOAL, SEQUENCE_GOAL = 0.93, 1.3  # images a second over plain prediction's, over one step at a time
RESUME_GOAL = 1.0  # seconds beyond start-up, of a finished run of 10,000 rows
RESUMED_ROWS = 10_000
MANY_IMAGES, MEMORY_GOAL = 20_000, 1.1
MAP_TOLERANCE = 2e-3  # float16, and batches of other sizes

SETUP = """
import json, sys, time
sys.path.insert(0, {folder!r})
import runs
print(json.dumps(runs.{call}))
"""


def images_of(data: str, count: int) -> list[str]:
    """The first images of a folder, over again where there are too few."""
    found = [str(path) for path in find_images([data])]
    return [found[number % len(found)] for number in range(count)]


def explain_run(model: str, data: str, count: int, steps: str, out: str) -> float:
    """Seconds of the run of `camrt explain --method pixab --write maps`."""
    engine = load(model, steps)
    job = ExplainJob(
        question=Question(engine=engine, method="pixab"),
        decoding=Decoding.of(engine.preprocessing),
        batch_size=32,
        block_size=256,
        out=Path(out),
        results=frozenset({"maps"}),
    )
    warm(engine)
    started = time.perf_counter()
    explain_sources(job, images_of(data, count), column=None, resume=False, overwrite=True, quiet=True)
    return time.perf_counter() - started


def predict_ahead(model: str, data: str, count: int, steps: str, out: str) -> float:
    """Seconds of plain ONNX Runtime on the same images, decoded by the same threads."""
    engine = load(model, steps)
    decoding = Decoding.of(engine.preprocessing)
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    session.run(None, {name: np.zeros(engine.interface.probe_shape(32), np.float32)})
    started = time.perf_counter()
    items = find_items(images_of(data, count))
    with read_ahead((partial(decoding.decode, item) for item in items), decoding.threads, 64) as reading:
        held: list[np.ndarray] = []
        logits = []
        for image in reading:
            assert isinstance(image, DecodedImage)
            assert image.seen is not None
            held.append(image.seen.array)
            if len(held) == 32:
                logits.append(session.run(None, {name: np.stack(held)})[0])
                held = []
        if held:
            logits.append(session.run(None, {name: np.stack(held)})[0])
    spent = time.perf_counter() - started
    np.save(out, np.concatenate(logits))
    return spent


def one_after_the_other(model: str, data: str, count: int, steps: str, out: str) -> float:
    """Seconds of reading, explaining and writing a batch, and only then the next."""
    engine = load(model, steps)
    warm(engine)
    started = time.perf_counter()
    paths = images_of(data, count)
    for start in range(0, count, 32):
        found = engine.explain(paths[start : start + 32], "pixab", dtype="float16")
        np.savez_compressed(f"{out}-{start}.npz", maps=found.maps, raw=found.raw, targets=found.targets)
    return time.perf_counter() - started


def peer(model: str, data: str, count: int, steps: str, out: str) -> float:
    """Seconds of a DataLoader and pytorch-grad-cam's Grad-CAM, on torchvision's MobileNetV2."""
    sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
    from helpers.peer_libraries import mend_torchvision

    mend_torchvision()  # before what imports it
    import torch
    import torchvision
    from pytorch_grad_cam import GradCAM
    from torch.utils.data import DataLoader, Dataset

    paths = images_of(data, count)
    preprocessing = load(model, steps).preprocessing
    assert preprocessing is not None

    class Images(Dataset[Any]):
        def __len__(self) -> int:
            return len(paths)

        def __getitem__(self, number: int) -> Any:
            with Image.open(paths[number]) as image:
                return torch.from_numpy(preprocessing.array(preprocessing.view(image.convert("RGB"))))

    net = torchvision.models.mobilenet_v2().eval()
    cam = GradCAM(net, [net.features[-1]])
    loader = DataLoader(Images(), batch_size=32, num_workers=len(os.sched_getaffinity(0)))
    started = time.perf_counter()
    for number, batch in enumerate(loader):
        np.savez_compressed(f"{out}-{number}.npz", maps=cam(batch, None).astype(np.float16))
    return time.perf_counter() - started


def load(model: str, steps: str) -> camrt.Engine:
    given: Any = steps if not steps.startswith("{") else json.loads(steps)
    return camrt.load(model, preprocessing=given)


def warm(engine: camrt.Engine) -> None:
    engine.explain(np.zeros(engine.interface.probe_shape(32), np.float32), "pixab")


def call(function: Callable[..., float], *given: Any) -> float:
    """What a function of this file answers in a process of its own."""
    asked = f"{function.__name__}({', '.join(map(repr, given))})"
    found: float = json.loads(run_python(SETUP.format(folder=str(Path(__file__).parent), call=asked)))
    return found


def check_equal(model: str, data: str, steps: str, folder: Path) -> str:
    """Compares the run's rows with `engine.explain`; how far they are apart, in words."""
    call(explain_run, model, data, 40, steps, str(folder / "checked"))
    run = camrt.open_run(folder / "checked")
    expected = load(model, steps).explain(images_of(data, 40), "pixab")
    maps = np.stack([tensor.to_numpy() for tensor in run.table["map"]])
    error = float(np.abs(maps - expected.maps).max())
    assert run.table["class"].to_pylist() == expected.targets.tolist()
    assert error <= MAP_TOLERANCE, error
    return f"maps of 40 images off by at most {error:.1e}, the same classes"


def resume_seconds(model: str, steps: str, folder: Path) -> Comparison:
    """A finished run of 10,000 rows taken up again, against the same command on one image."""
    photos = folder / "small"
    photos.mkdir()
    rng = np.random.default_rng(0)
    for number in range(RESUMED_ROWS):
        Image.fromarray(rng.integers(0, 255, (8, 8, 3), np.uint8)).save(photos / f"{number:05d}.png")
    (folder / "steps.json").write_text(Decoding.of(load(model, steps).preprocessing).preprocessing.to_json())
    line = ["explain", model, "--preprocessing", str(folder / "steps.json"), "-m", "gradcam"]
    line += ["--write", "maps", "--map-size", "map", "--quiet"]
    whole = [*line, str(photos), "-o", str(folder / "whole")]
    command(whole)
    samples: tuple[list[float], list[float]] = ([], [])
    for number in range(5):
        samples[0].append(command([*whole, "--resume"]))
        samples[1].append(command([*line, str(photos / "00000.png"), "-o", str(folder / f"one-{number}")]))
    beyond = [a - b for a, b in zip(*samples, strict=True)]
    return summarise(
        f"a finished run of {RESUMED_ROWS} rows taken up again: seconds beyond a run of one image",
        ("seconds beyond", "a second"),
        (beyond, [1.0] * len(beyond)),
        at_most=RESUME_GOAL,
    )


def memory_growth(model: str, steps: str, folder: Path) -> Comparison:
    """Peak memory of a run over 20,000 images, over that of one over 2,000."""
    peaks = []
    for count in (MANY_IMAGES, MANY_IMAGES // 10):
        code = (
            f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import runs; "
            f"runs.explain_run({model!r}, {str(folder / 'small')!r}, {count}, {steps!r}, "
            f"{str(folder / f'memory-{count}')!r})"
        )
        peaks.append(peak_memory(code))
    ratio = peaks[0] / peaks[1]
    return Comparison(
        f"peak memory of a run over {MANY_IMAGES} images, over {MANY_IMAGES // 10}",
        ("bytes", "bytes"),
        f"≤ {MEMORY_GOAL:g}×",
        ratio <= MEMORY_GOAL,
        (ratio,) * 3,
        (0.0, 0.0),
        ([], []),
        None,
        [f"{peaks[0] >> 20} MiB against {peaks[1] >> 20} MiB, whole processes"],
    )


def command(words: list[str]) -> float:
    """Seconds of a command."""
    import time

    started = time.perf_counter()
    subprocess.run([sys.executable, "-m", "camrt", *words], check=True, capture_output=True)
    return time.perf_counter() - started


def main(
    model: Annotated[str, typer.Argument(help="An ONNX classifier.")],
    data: Annotated[str, typer.Argument(help="A folder of images.")],
    preprocessing: Annotated[str, typer.Option(help="Its name, or JSON.")] = "imagenet",
    count: Annotated[int, typer.Option(help="Images a run.")] = 1000,
    rounds: Annotated[int, typer.Option(help="Counted rounds.")] = 5,
    out: Annotated[Path, typer.Option(help="Where the JSON goes; a table goes beside it.")] = Path(
        "benchmarks/results/runs.json"
    ),
) -> None:
    """Runs the comparisons and writes them down."""
    model = str(Path(model).resolve())
    with tempfile.TemporaryDirectory(prefix="camrt-benchmark-") as held:
        folder = Path(held)
        note = check_equal(model, data, preprocessing, folder)
        sides = (explain_run, predict_ahead, one_after_the_other, peer)
        samples: dict[str, list[float]] = {side.__name__: [] for side in sides}
        for number in range(rounds):
            for side in sides if number % 2 == 0 else sides[::-1]:
                place = str(folder / f"{side.__name__}")
                samples[side.__name__].append(call(side, model, data, count, preprocessing, place))
        ours = samples["explain_run"]
        results = [
            summarise(
                f"images a second of camrt explain -m pixab --write maps on {Path(model).stem}",
                ("camrt explain", what),
                (samples[other], ours),  # the more seconds the others take, the more images a second here
                at_least=goal,
                notes=[note],
            )
            for other, what, goal in (
                ("predict_ahead", "plain onnxruntime prediction, the same loader", PREDICTION_GOAL),
                ("one_after_the_other", "reading, explaining, writing in turn", SEQUENCE_GOAL),
                ("peer", "DataLoader and pytorch-grad-cam's Grad-CAM, MobileNetV2 in torch", None),
            )
        ]
        results.append(resume_seconds(model, preprocessing, folder))
        results.append(memory_growth(model, preprocessing, folder))
    write(out, results, f"python benchmarks/runs.py {' '.join(sys.argv[1:])}")
    print(table(results))


if __name__ == "__main__":
    typer.run(main)
