"""What explanations cost beside plain ONNX Runtime on the same file, for every method that needs no passes.

    python benchmarks/explain.py --out benchmarks/results/explain.json

Either side is a process of its own, so that neither takes the other's processors, and the two are asked in
turn. Both run with the same number of threads, pinned to as many processors. Before anything is timed the
logits of both sides are compared.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import onnxruntime as ort
import typer
from measure import Comparison, summarise, table, time_once, write
from networks import export_network, quantise_network

import camrt
from camrt.errors import CamrtError

METHODS = (
    *("cam", "eigen", "gradcam", "gradcam++", "xgradcam", "hirescam", "layercam", "ablation"),
    *("pixab", "pixab:score=logit"),
)
NETWORKS = (
    *("mobilenet_v2", "mobilenet_v3_small", "squeezenet1_1", "resnet18", "vgg16"),
    *("convnext_tiny", "vit_b_16", "efficientnet_lite0", "mobilenet_v2-int8"),
)
CALLING_SECONDS = 1.0
SPINNING_SECONDS = 0.05  # until the other side's threads have stopped waiting in circles
LOGIT_TOLERANCE = 1e-4  # of the largest: rounding in another order


def make_images(count: int, size: Sequence[int]) -> np.ndarray:
    """Smooth random images (count, 3, H, W) float32."""
    coarse = np.random.default_rng(2).standard_normal((count, size[0], 14, 14), np.float32)
    rows = np.linspace(0, 13, size[1]).round().astype(int)
    columns = np.linspace(0, 13, size[2]).round().astype(int)
    return np.ascontiguousarray(coarse[:, :, rows][:, :, :, columns])


def find_image_shape(path: Path) -> tuple[int, int, int]:
    """(C, H, W) of a file's input."""
    session = ort.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    shape = session.get_inputs()[0].shape[1:]
    return shape[0], shape[1], shape[2]


class Side:
    """A process that runs one side's work when it is told to.

    Args:
        kind: "onnxruntime" or "camrt".
        path: The file.
        batch: Images a call.
        threads: Threads and processors.
    """

    def __init__(self, kind: str, path: Path, batch: int, threads: int) -> None:
        command = [sys.executable, __file__, "--serve", kind, "--model", str(path)]
        command += ["--batch", str(batch), "--threads", str(threads)]
        processors = sorted(os.sched_getaffinity(0))[:threads]
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            preexec_fn=partial(os.sched_setaffinity, 0, processors),  # before any library counts them
        )

    def ask(self, work: str) -> str:
        """What the process answers."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(work, file=self._process.stdin, flush=True)
        answer = self._process.stdout.readline().strip()
        if not answer:
            raise SystemExit(f"a side ended while it was asked for {work}")
        return answer

    def close(self) -> None:
        """Ends the process."""
        self._process.communicate()


def serve(kind: str, path: Path, batch: int, threads: int) -> None:
    """Runs what the other process asks for, line by line: seconds of `predict` or of a method, or logits."""
    images = make_images(batch, find_image_shape(path))
    if kind == "camrt":
        engine = camrt.load(path, threads=threads, batch_size=batch)
        predict: Any = engine.predict
    else:
        options = ort.SessionOptions()
        options.intra_op_num_threads = threads
        session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        name = session.get_inputs()[0].name

        def predict(rows: Any) -> Any:
            return session.run(None, {name: rows})[0]

    for line in sys.stdin:
        work = line.strip()
        if work == "logits":
            print(" ".join(str(value) for value in predict(images).ravel()), flush=True)
        elif work.startswith("callers "):
            _, callers, method = work.split(" ", 2)
            run = predict if method == "predict" else partial(explain, engine, method=method)
            print(time_an_image(partial(run, images), int(callers)) / batch, flush=True)
        elif work.startswith("has "):
            print(can_answer(engine, images, work.removeprefix("has ")), flush=True)
        else:
            run = predict if work == "predict" else partial(explain, engine, method=work)
            print(*time_once(partial(run, images)), flush=True)


def time_an_image(run: Any, callers: int) -> float:
    """Seconds a call that so many threads take together, each calling again and again."""
    counts, until = [0] * callers, time.perf_counter() + CALLING_SECONDS

    def call(caller: int) -> None:
        while time.perf_counter() < until:
            run()
            counts[caller] += 1

    started = time.perf_counter()
    with ThreadPoolExecutor(callers) as pool:
        list(pool.map(call, range(callers)))
    return (time.perf_counter() - started) / sum(counts)


def explain(engine: Any, images: np.ndarray, method: str) -> Any:
    """Explains images by a method written "name" or "name:option=value"."""
    name, _, option = method.partition(":")
    return engine.explain(images, name, **dict([option.split("=")] if option else []))


def can_answer(engine: Any, images: np.ndarray, method: str) -> str:
    """The kind of the engine's head where it has a method; else "no" and why."""
    if method == "predict":
        return "-"
    try:
        found = explain(engine, images[:1], method)
    except CamrtError as error:
        return f"no: {' '.join(str(error).split())}"
    if engine.head.kind == "generic" and found.passes.head:
        return f"no: it runs the head {found.passes.head} times"
    return str(engine.head.kind)


def compare_file(
    name: str, path: Path, batch: int, threads: int, methods: Sequence[str], pairs: int
) -> list[Comparison]:
    """The ratios of a file at one batch size and number of threads."""
    ours, plain = Side("camrt", path, batch, threads), Side("onnxruntime", path, batch, threads)
    try:
        mine, theirs = (np.array(side.ask("logits").split(), float) for side in (ours, plain))
        difference = float(np.abs(mine - theirs).max() / max(np.abs(theirs).max(), np.finfo(float).tiny))
        if not difference <= LOGIT_TOLERANCE:
            raise SystemExit(f"{name}: logits differ by {difference:.2g}; nothing was timed")
        results = []
        for method in ("predict", *methods):
            kind = "-" if method == "predict" else ours.ask(f"has {method}")
            if kind.startswith("no: "):
                print(f"{name}, {method}: {kind}", file=sys.stderr)
                continue
            samples: tuple[list[float], list[float]] = ([], [])
            spent: tuple[list[float], list[float]] = ([], [])
            for index in range(pairs + 2):
                order = ((ours, method, 0), (plain, "predict", 1))
                for side, work, place in order if index % 2 else order[::-1]:
                    if threads > 1:
                        time.sleep(SPINNING_SECONDS)
                    seconds, processor = map(float, side.ask(work).split())
                    if index >= 2:
                        samples[place].append(seconds)
                        spent[place].append(processor)
            results.append(
                summarise(
                    f"{name}, batch {batch}, {threads} thread{'s' * (threads > 1)}, {method}",
                    ("camrt", "onnxruntime"),
                    samples,
                    at_most=1.02 if method == "predict" else None,
                    processor=statistics.median(a / b for a, b in zip(*spent, strict=True)),
                    notes=[f"head {kind}, logits differ by {difference:.1e} of the largest"],
                )
            )
        return results
    finally:
        ours.close()
        plain.close()


def compare_callers(
    name: str, path: Path, threads: int, callers: int, methods: Sequence[str], pairs: int
) -> list[Comparison]:
    """The ratios of seconds an image when several threads call one engine, or session, at batch 1."""
    ours, plain = Side("camrt", path, 1, threads), Side("onnxruntime", path, 1, threads)
    results = []
    try:
        for method in methods:
            if ours.ask(f"has {method}").startswith("no: "):
                continue
            samples: tuple[list[float], list[float]] = ([], [])
            for _ in range(pairs):
                for side, work, place in ((ours, method, 0), (plain, "predict", 1)):
                    samples[place].append(float(side.ask(f"callers {callers} {work}")))
            results.append(
                summarise(
                    f"{name}, {callers} calling, {threads} threads, {method}",
                    ("camrt, an image", "onnxruntime, an image"),
                    samples,
                    at_most=1 / 0.95,
                )
            )
        return results
    finally:
        ours.close()
        plain.close()


def main(
    out: Annotated[Path, typer.Option(help="Where the JSON goes; a table goes beside it.")] = Path(
        "benchmarks/results/explain.json"
    ),
    pairs: Annotated[int, typer.Option(help="Counted pairs a comparison.")] = 15,
    model: Annotated[list[Path] | None, typer.Option(help="ONNX files, not networks.")] = None,
    network: Annotated[list[str] | None, typer.Option(help=f"Of {', '.join(NETWORKS)}.")] = None,
    method: Annotated[list[str] | None, typer.Option(help="Methods; all by default.")] = None,
    batch: Annotated[list[int] | None, typer.Option(help="Images a call.")] = None,
    threads: Annotated[list[int] | None, typer.Option(help="Threads, and processors they are on.")] = None,
    callers: Annotated[
        list[int] | None,
        typer.Option(help="Threads that call at once, instead of one."),
    ] = None,
    folder: Annotated[Path, typer.Option(help="Where built networks are kept.")] = Path("build/networks"),
    serve_side: Annotated[str, typer.Option("--serve", hidden=True)] = "",
) -> None:
    """Runs the comparisons and writes them down."""
    if serve_side:
        assert model is not None
        assert batch is not None
        assert threads is not None
        return serve(serve_side, model[0], batch[0], threads[0])
    files = {path.stem: path for path in model or []}
    for name in network or (() if model else NETWORKS):
        plain = name.removesuffix("-int8")
        built = export_network(plain, folder)
        files[name] = built if plain == name else quantise_network(built)
    results: list[Comparison] = []
    for name, path in files.items():
        for count in callers or ():
            asked = ("predict", *(method or METHODS))
            results += compare_callers(name, path, (threads or [2])[0], count, asked, max(3, pairs // 3))
            write(out, results, f"python benchmarks/explain.py {' '.join(sys.argv[1:])}".strip())
        for count in () if callers else threads or (1, 2):
            for size in batch or (1, 32):
                rounds = pairs if size == 1 else max(5, pairs // 3)
                results += compare_file(name, path, size, count, method or METHODS, rounds)
                write(out, results, f"python benchmarks/explain.py {' '.join(sys.argv[1:])}".strip())
    print(table(results))
    return None


if __name__ == "__main__":
    typer.run(main)
