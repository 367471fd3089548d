"""Explains, loads and decodes from several threads at once, with sanitized kernels.

    CAMRT_WATCHED=FOLDER python scripts/sanitizers/engine_calls.py --calls 40

Calls are put to one engine of the embedded classifier, to another of it, and to small classifiers, by mixed
methods. While they run, one thread decodes images and another one loads a classifier and asks it. What each
of them is answered may not differ by a bit from what the same call answers alone. The sanitizer that watches
says what it has seen, and makes the process end with its exit code.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event
from typing import Any

from sanitized_kernels import NATIVE

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from workload import Answer, draw_call, make_images, run_call, write_zoo_models

import camrt
from camrt import kernels
from camrt.engine.images.read import read_image

CALLERS = 4
SMALL = ("average-pool-of-the-whole-map", "convolution-relu-flatten-gemm", "relu-before-flatten")


class Workload:
    """Engines, images and calls, and what each call answers alone.

    Args:
        folder: For models and images.
        count: Of the calls.
        seed: What everything is drawn from.
    """

    def __init__(self, folder: Path, count: int, seed: int) -> None:
        self.shown = make_images(folder)
        self.decoded = [read_image(image).tobytes() for image in self.shown]
        models = {path.stem.split("-", 1)[1]: path for path in write_zoo_models(folder, seed)}
        self.passing = models[SMALL[0]]
        engines = [
            camrt.load("default", threads=3),
            camrt.load("default"),
            *(camrt.load(models[name], threads=2) for name in SMALL),
        ]
        # Every second call is put to the first engine; classifiers of the zoo are quick.
        self.calls = [
            (engine, draw_call(engine, [seed, number], self.shown))
            for number in range(count)
            for engine in [engines[0] if number % 2 else engines[number // 2 % len(engines)]]
        ]
        self.alone = [run_call(engine, call) for engine, call in self.calls]
        self.loaded = self.load_and_ask()

    def explain(self, numbers: Sequence[int]) -> int:
        """Makes some of the calls, and says how many.

        Raises:
            SystemExit: One is answered otherwise than alone.
        """
        for number in numbers:
            engine, call = self.calls[number]
            if run_call(engine, call) != self.alone[number]:
                raise SystemExit(f"{call.method} of {engine.path} answers otherwise than alone")
        return len(numbers)

    def load_and_ask(self) -> Answer:
        """What a classifier that has just been loaded answers."""
        engine = camrt.load(self.passing)
        return run_call(engine, draw_call(engine, [0], self.shown))

    def load(self) -> int:
        """Loads a classifier once."""
        if self.load_and_ask() != self.loaded:
            raise SystemExit("a classifier that was loaded beside others answers otherwise")
        return 1

    def decode(self) -> int:
        """Decodes every image once."""
        for image, alone in zip(self.shown, self.decoded, strict=True):
            if read_image(image).tobytes() != alone:
                raise SystemExit(f"a {type(image).__name__} is decoded otherwise than alone")
        return len(self.shown)

    def run_together(self) -> dict[str, int]:
        """Does everything at once; says how often."""
        over = Event()

        def beside(work: Callable[[], int]) -> int:
            done = work()
            while not over.is_set():
                done += work()
            return done

        total = len(self.calls)
        with ThreadPoolExecutor(CALLERS + 2) as pool:
            others = {name: pool.submit(beside, work) for name, work in
                      (("decoded images", self.decode), ("loaded engines", self.load))}  # fmt: skip
            try:
                # Each makes all the calls, and each begins elsewhere.
                starts = [place * total // CALLERS for place in range(CALLERS)]
                turns = [[*range(start, total), *range(start)] for start in starts]
                explained = sum(pool.map(self.explain, turns))
            finally:
                over.set()
            return {"explanations": explained} | {name: other.result() for name, other in others.items()}


def main() -> None:
    """Runs everything once.

    Raises:
        SystemExit: Answers differ.
    """
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--calls", type=int, default=40)
    options.add_argument("--seed", type=int, default=0)
    chosen = options.parse_args()
    assert kernels.IMPLEMENTATION == "native"
    assert sys.modules["camrt.kernels._native"] is NATIVE
    warnings.simplefilter("ignore", camrt.errors.CamrtWarning)  # classifiers of noise answer oddly
    with tempfile.TemporaryDirectory() as folder:
        work = Workload(Path(folder), chosen.calls, chosen.seed)
        methods = {
            call.method for (_, call), alone in zip(work.calls, work.alone, strict=True) if not alone.refused
        }
        done: dict[str, Any] = work.run_together()
    print(f"{', '.join(f'{count} {name}' for name, count in done.items())} in {CALLERS + 2} threads, "
          f"{len(methods)} methods, the same bits as alone")  # fmt: skip


if __name__ == "__main__":
    main()
