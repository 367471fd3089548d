"""The scheduler of a service, in its own process: its throughput beside a bare loop, and how fair it is.

    python benchmarks/serving_scheduler.py mobilenet_v2.onnx --out benchmarks/results/serving_scheduler.json

Callers are threads that ask for one image at a time and wait for the answer. Answers are compared with those
of `engine.explain` first.
"""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Annotated

import numpy as np
import typer
from measure import Comparison, compare, run_together, summarise, table, write

import camrt
from camrt.engine.batch import PreparedBatch
from camrt.engine.methods import Method, make_method
from camrt.engine.serving.requests import ExplainRequest
from camrt.engine.serving.scheduler import Scheduler

THROUGHPUT_GOAL = 0.85  # of a bare loop's
FAIRNESS_GOAL = 3.0  # times the 99th percentile without a long question beside
CALLERS = 16
IMAGES = 8
MAP_TOLERANCE = 1e-3  # batches of other sizes round differently


def ask(scheduler: Scheduler, image: PreparedBatch, method: Method | None) -> float:
    """Seconds until a caller has its answer."""
    started = time.perf_counter()
    scheduler.submit(ExplainRequest(batch=image, method=method)).result()
    return time.perf_counter() - started


def ask_from(callers: int, times: int, question: Callable[[int], float]) -> list[float]:
    """Seconds of so many questions in all, asked by callers of which each waits for its answer."""
    found: list[float] = []

    def work(caller: int) -> None:
        found.extend(question(number) for number in range(caller, times, callers))

    run_together(work, callers)
    return found


@contextmanager
def long_questions(scheduler: Scheduler, image: PreparedBatch) -> Iterator[list[float]]:
    """A client beside that asks for one Score-CAM after the other; the seconds of those answered."""
    ended, answered, method = threading.Event(), [], make_method("score", {})

    def work() -> None:
        while not ended.is_set():
            started = time.perf_counter()
            future = scheduler.submit(ExplainRequest(batch=image, method=method))
            while not future.done() and not ended.wait(0.005):
                pass
            if future.cancel():
                return
            answered.append(time.perf_counter() - started)

    thread = threading.Thread(target=work)
    thread.start()
    try:
        time.sleep(0.5)  # its masked images are being run
        yield answered
    finally:
        ended.set()
        thread.join()


def check_answers(engine: camrt.Engine, scheduler: Scheduler, images: list[PreparedBatch]) -> str:
    """A note that answers are those of calls.

    Raises:
        SystemExit: They are not; nothing is timed.
    """
    method = make_method("pixab", {})
    futures = [scheduler.submit(ExplainRequest(batch=image, method=method)) for image in images]
    worst = max(
        float(np.abs(future.result().maps - engine.explain(image, method).maps).max())
        for future, image in zip(futures, images, strict=True)
    )
    if not worst <= MAP_TOLERANCE:
        raise SystemExit(f"maps differ by {worst:.2g} (limit {MAP_TOLERANCE:g}); nothing was timed")
    return f"largest difference of a map {worst:.1e}"


def throughput(
    engine: camrt.Engine, scheduler: Scheduler, images: list[PreparedBatch], rounds: int, pairs: int
) -> list[Comparison]:
    """Questions a second of 16 callers, over those of a loop that asks the engine itself."""
    note = check_answers(engine, scheduler, images)
    methods: dict[str, list[Method | None]] = {
        "predict": [None],
        "pixab": [make_method("pixab", {})],
        "mix": [None, *(make_method(name, {}) for name in ("pixab", "gradcam", "ablation"))],
    }
    results = []
    for name, chosen in methods.items():

        def asked(number: int, chosen: list[Method | None] = chosen) -> float:
            return ask(scheduler, images[number % IMAGES], chosen[number % len(chosen)])

        def loop(chosen: list[Method | None] = chosen) -> None:
            for number in range(CALLERS * rounds):
                image, method = images[number % IMAGES], chosen[number % len(chosen)]
                engine.predict(image) if method is None else engine.explain(image, method)

        results.append(
            compare(
                f"{name}, {CALLERS} callers",
                ("bare loop", loop),
                ("scheduler", partial(ask_from, CALLERS, CALLERS * rounds, asked)),
                at_least=THROUGHPUT_GOAL,
                pairs=pairs,
                warm=3,  # the first batches of a size make memory ready
                notes=[note, "the ratio of times, a loop's over the scheduler's, is that of throughputs"],
            )
        )
    return results


def fairness(
    scheduler: Scheduler, images: list[PreparedBatch], callers: int, times: int, pairs: int
) -> Comparison:
    """The 99th percentile of Pixab-CAM's seconds with one Score-CAM client beside, over that without."""
    pixab = make_method("pixab", {})

    def percentile() -> float:
        found = ask_from(callers, times, lambda number: ask(scheduler, images[number % IMAGES], pixab))
        return float(np.percentile(found, 99))

    beside: list[float] = []
    alone: list[float] = []
    answered = 0
    percentile()
    for _ in range(pairs):
        alone.append(percentile())
        with long_questions(scheduler, images[0]) as seconds:
            beside.append(percentile())
        answered += len(seconds)
    return summarise(
        f"p99 of pixab, {callers} callers",
        ("with a Score-CAM client", "without"),
        (beside, alone),
        at_most=FAIRNESS_GOAL,
        notes=[f"{answered} Score-CAMs were answered meanwhile"],
    )


def main(
    model: Annotated[Path, typer.Argument(help="An ONNX classifier.")],
    rounds: Annotated[int, typer.Option(help="Questions a caller in a sample of throughput.")] = 8,
    times: Annotated[int, typer.Option(help="Questions in a sample of fairness.")] = 200,
    pairs: Annotated[int, typer.Option(help="Pairs of samples.")] = 5,
    max_batch: Annotated[int, typer.Option(help="The scheduler's largest run.")] = 16,
    out: Annotated[Path | None, typer.Option(help="Where results are written.")] = None,
) -> None:
    """Measures a scheduler."""
    engine = camrt.load(model)
    interface = engine.interface
    size = (interface.height or 224, interface.width or 224)
    pixels = np.random.default_rng(0).standard_normal((IMAGES, interface.channels, *size)).astype(np.float32)
    images = [engine.prepare(pixels[number : number + 1]) for number in range(IMAGES)]
    with Scheduler(engine, max_batch=max_batch) as scheduler:
        results = throughput(engine, scheduler, images, rounds, pairs)
        results += [fairness(scheduler, images, callers, times, pairs) for callers in (1, CALLERS)]
    print(table(results))
    if out is not None:
        write(out, results, " ".join(sys.argv))


if __name__ == "__main__":
    typer.run(main)
