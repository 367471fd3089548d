"""OpenVINO in float32 and bfloat16 against ONNX Runtime: seconds, and how well answers and maps agree.

    PYTHONPATH=tests python benchmarks/runtimes.py --data DATA --out benchmarks/results/runtimes.json

DATA is the folder of real models and images that CAMRT_DATA names for the tests; without it the nets of the
tests' zoo are measured alone. Each runtime is timed in a process of its own, since the threads of two keep
each other from the processors; processes follow each other in turn.
"""

from __future__ import annotations

import io
import json
import os
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import onnxruntime
import typer
from measure import Comparison, run_python, summarise, table, write
from PIL import Image

import camrt
from camrt.errors import BackendError
from helpers.zoo import HEADS, classifier, save

RUNTIMES: dict[str, dict[str, str]] = {
    "onnxruntime": {},
    "openvino fp32": {"backend": "openvino"},
    "openvino bf16": {"backend": "openvino", "precision": "bf16"},
}
QUESTIONS = ("predict", "gradcam", "pixab", "ablation")
BATCHES = (1, 8)
PREPROCESSING = {"squeezenet1_0": "imagenet", "mobilenet_v2": "tf", "mobilenet_v3_small": "tf"}
"""Of the real models of colour images; others are asked about noise."""
ZOO = ("gap-flatten-gemm", "gemm-relu-gemm", "convolution-3x3-behind-the-cut", "two-means-relu-added")
AGREEMENT_IMAGES = 24
FORWARD_BATCH = 32
RUNS = 5  # in a process, of which the median counts
SCORE_GOAL = 1.8  # plain float32 forwards, over Score-CAM in bfloat16 with as many of them
SCORE_ROUNDS = 3
CALL = """
import sys; sys.path.insert(0, {folder!r})
import runtimes; runtimes.{call}
"""


@dataclass(frozen=True)
class Subject:
    """A model, and what it is asked about.

    Attributes:
        name: Its name.
        path: Its file.
        batch: What agreement is measured on.
        shown: What those images are, in words.
    """

    name: str
    path: Path
    batch: np.ndarray
    shown: str


def measure(path: str, options: dict[str, str]) -> None:
    """Prints the median seconds of each question and batch size, as JSON; run in a process of its own."""
    engine = camrt.load(path, verify=False, cache=False, **options)  # type: ignore[arg-type]  # options by name
    found = {}
    for count in BATCHES:
        batch = noise(engine, count)
        targets = engine.predict(batch).argmax(axis=1)
        for question in QUESTIONS:
            samples = []
            for number in range(RUNS + 1):
                started = time.perf_counter()
                ask(engine, question, batch, targets)
                if number:  # the first run makes graphs ready
                    samples.append(time.perf_counter() - started)
            found[f"{question}, batch {count}"] = float(np.median(samples))
    print(json.dumps(found))


def measure_score(path: str) -> None:
    """Prints the seconds of an image's Score-CAM map in bfloat16, and the images that were run for it."""
    engine = camrt.load(path, backend="openvino", precision="bf16", verify=False, cache=False)
    batch = noise(engine, 1)
    engine.explain(batch, "activation")
    started = time.perf_counter()
    passes = engine.explain(batch, "score").passes
    print(json.dumps([time.perf_counter() - started, passes.trunk + passes.full]))


def measure_forwards(path: str, images: int) -> None:
    """Prints the seconds that ONNX Runtime takes for so many images of the file as it is, 32 at once."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    batch = noise(camrt.load(path, verify=False, cache=False), FORWARD_BATCH)
    session.run(None, {name: batch})
    started = time.perf_counter()
    for start in range(0, images, FORWARD_BATCH):
        session.run(None, {name: batch[: images - start]})
    print(json.dumps(time.perf_counter() - started))


def compare_score(subject: Subject) -> Comparison:
    """Plain float32 forwards of as many images as Score-CAM runs, over Score-CAM in bfloat16."""
    path = str(subject.path)
    samples: tuple[list[float], list[float]] = ([], [])
    count = 0
    for _ in range(SCORE_ROUNDS):
        seconds, count = call_in_process(f"measure_score({path!r})")
        samples[1].append(seconds)
        samples[0].append(call_in_process(f"measure_forwards({path!r}, {count})"))
    return summarise(
        f"Score-CAM, {count} passes, on {subject.name}",
        ("onnxruntime, as many float32 forwards", "openvino bf16"),
        samples,
        at_least=SCORE_GOAL,
    )


def call_in_process(call: str) -> Any:
    """What a function of this file prints in a process of its own."""
    return json.loads(run_python(CALL.format(folder=str(Path(__file__).parent), call=call)))


def noise(engine: camrt.Engine, count: int) -> np.ndarray:
    shape = engine.interface.probe_shape(count, None)
    return np.random.default_rng(0).standard_normal(shape, np.float32)


def ask(engine: camrt.Engine, question: str, batch: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """The logits, or the raw maps."""
    if question == "predict":
        return engine.predict(batch)
    return engine.explain(batch, question, targets=targets).raw


def agreement(subject: Subject, options: dict[str, str]) -> dict[str, str]:
    """By question, how a runtime's answers agree with ONNX Runtime's, in a sentence."""
    theirs, ours = camrt.load(subject.path), camrt.load(subject.path, **options)  # type: ignore[arg-type]
    expected = theirs.predict(subject.batch)
    logits, targets = ours.predict(subject.batch), expected.argmax(axis=1)
    changed = int((logits.argmax(axis=1) != targets).sum())
    error = np.abs(logits - expected).max() / np.abs(expected).max()
    count = len(subject.batch)
    found = {
        "predict": f"{subject.shown}: logits off by {error:.1e} of the largest one, "
        f"class changed {changed} of {count} times"
    }
    for question in QUESTIONS[1:]:
        pairs = list(
            zip(*(ask(engine, question, subject.batch, targets) for engine in (ours, theirs)), strict=True)
        )
        told = [(a.ravel(), b.ravel()) for a, b in pairs if a.std() and b.std()]
        matching = sorted(float(np.corrcoef(a, b)[0, 1]) for a, b in told)
        same = sum(int(a.argmax() == b.argmax()) for a, b in told)
        found[question] = (
            f"{subject.shown}: correlation of maps {matching[len(matching) // 2]:.5f}, at least "
            f"{matching[0]:.5f}; same top cell {same} of {len(told)} times"
            if told
            else f"{subject.shown}: all maps are constant"
        )
    return found


def real_subjects(data: Path) -> Iterator[Subject]:
    """The real models of a folder, with real images where it is known how they are prepared."""
    for path in sorted((data / "models").glob("*.onnx")):
        engine = camrt.load(path, preprocessing=PREPROCESSING.get(path.stem), verify=False)
        if path.stem in PREPROCESSING:
            steps = engine.preprocessing
            assert steps is not None
            images = read_images(data / "pictures" / "imagenet_val400.zip")
            batch = np.stack([steps.array(steps.view(image)) for image in images])
            yield Subject(path.stem, path, batch, f"{len(batch)} validation images")
        else:
            yield Subject(path.stem, path, noise(engine, AGREEMENT_IMAGES), f"{AGREEMENT_IMAGES} of noise")


def read_images(archive: Path) -> Iterator[Image.Image]:
    """The first images of a zip file."""
    with zipfile.ZipFile(archive) as files:
        names = [name for name in files.namelist() if name.lower().endswith((".jpg", ".jpeg", ".png"))]
        for name in names[:AGREEMENT_IMAGES]:
            with Image.open(io.BytesIO(files.read(name))) as image:
                yield image.convert("RGB")


def zoo_subjects(folder: Path) -> Iterator[Subject]:
    """Nets of the zoo: 64 channels on 14×14 cells, 100 classes."""
    for name in ZOO:
        part = HEADS[name].make(np.random.default_rng(0), 64, 14, 14, 100)
        whole = classifier(part, np.random.default_rng(1))
        path = save(whole.model, folder / f"{name}.onnx")
        batch = np.random.default_rng(2).standard_normal((AGREEMENT_IMAGES, *whole.size), np.float32)
        yield Subject(f"zoo, {name}", path, batch, f"{AGREEMENT_IMAGES} of noise")


def compare_runtimes(subject: Subject, rounds: int) -> list[Comparison]:
    """Each question on a model, ONNX Runtime's seconds over OpenVINO's."""
    notes = {}
    for name, options in list(RUNTIMES.items())[1:]:
        try:
            notes[name] = agreement(subject, options)
        except BackendError as error:  # a processor without bfloat16
            print(f"{name} is left out on {subject.name}: {error}", file=sys.stderr)
    seconds: dict[str, list[dict[str, float]]] = {name: [] for name in ("onnxruntime", *notes)}
    for _ in range(rounds):
        for name, samples in seconds.items():
            samples.append(call_in_process(f"measure({str(subject.path)!r}, {RUNTIMES[name]!r})"))
    return [
        summarise(
            f"{question}, batch {count} on {subject.name}",
            ("onnxruntime", name),
            (
                [one[f"{question}, batch {count}"] for one in seconds["onnxruntime"]],
                [one[f"{question}, batch {count}"] for one in seconds[name]],
            ),
            notes=[notes[name][question]] if count == BATCHES[0] else [],
        )
        for name in notes
        for question in QUESTIONS
        for count in BATCHES
    ]


def main(
    out: Annotated[Path, typer.Option(help="Where the JSON goes; a table goes beside it.")] = Path(
        "benchmarks/results/runtimes.json"
    ),
    data: Annotated[Path | None, typer.Option(help="Folder of real models and images.")] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Processes a runtime and model.")] = 7,
    only: Annotated[list[str] | None, typer.Option(help="Models to measure, by name.")] = None,
) -> None:
    """Runs the comparisons and writes them down."""
    given = data or (Path(os.environ["CAMRT_DATA"]) if "CAMRT_DATA" in os.environ else None)
    results: list[Comparison] = []
    with tempfile.TemporaryDirectory() as folder:
        for subject in chain(real_subjects(given) if given else (), zoo_subjects(Path(folder))):
            if not only or subject.name in only:
                compared = compare_runtimes(subject, rounds)
                results += compared
                if subject.path.stem in PREPROCESSING and any(
                    one.sides[1] == "openvino bf16" for one in compared
                ):
                    results.append(compare_score(subject))
    write(out, results, f"python benchmarks/runtimes.py {' '.join(sys.argv[1:])}".strip())
    print(table(results))


if __name__ == "__main__":
    typer.run(main)
