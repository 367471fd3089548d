"""Many explanations in one process: is memory flat, and do concurrent calls answer as calls in turn do?

    python scripts/soak.py --calls 100000 --out docs/results/soak
    python scripts/soak.py --calls 60000 --concurrent

Some engines live as long as the run, others are loaded, called and dropped all the time; models, images,
batches, methods, targets and the number of calling threads change, all drawn from a seed. Memory, threads,
open files and Python objects go to a CSV file and a plot. The run fails when what is allocated, or resident
memory, grows over its second half by more than `--bound` allows, when threads or open files increase, or when
concurrent calls (`--concurrent`: each is made twice) differ by a bit from the same ones made in turn.

What is allocated is what glibc has handed out and not got back. Resident memory is more, and noisier: glibc
has heaps for up to eight threads a core, and keeps in each the pages that something small still lies on. With
MALLOC_ARENA_MAX=1 in the environment there is one heap.
"""

from __future__ import annotations

import csv
import ctypes
import gc
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer
from workload import Answer, draw_call, make_images, real_models, run_call, write_zoo_models

import camrt
from camrt.default import model_path

ROUND = 100  # calls between which engines are loaded and dropped
LONG_LIVED_ENGINES = 12  # engines that live as long as the run, besides the embedded classifier's


@dataclass(frozen=True)
class ProcessSample:
    """The process after some calls, when garbage has been collected and freed memory given back.

    Attributes:
        calls: How many calls.
        seconds: Since the first one.
        allocated: What the C library has handed out and not got back, in MiB.
        resident: Resident memory in MiB.
        threads: Threads of the system.
        files: Open file descriptors.
        objects: Python objects that its garbage collector knows.
        loads: How many engines were loaded.
        refused: How many calls were refused because the method does not suit the model.
    """

    calls: int
    seconds: float
    allocated: float
    resident: float
    threads: int
    files: int
    objects: int
    loads: int
    refused: int


def resident_mib() -> float:
    """Resident memory in MiB, after what can be given back has been."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    for line in Path("/proc/self/smaps_rollup").read_text().splitlines():
        if line.startswith("Rss:"):
            return int(line.split()[1]) / 1024
    raise OSError("/proc/self/smaps_rollup does not say Rss")


class Mallinfo(ctypes.Structure):
    """What glibc's `mallinfo2` tells, in bytes."""

    _fields_ = tuple(
        (name, ctypes.c_size_t)
        for name in [
            "arena",
            "ordblks",
            "smblks",
            "hblks",
            "hblkhd",
            "usmblks",
            "fsmblks",
            "uordblks",
            "fordblks",
            "keepcost",
        ]
    )


def allocated_mib() -> float:
    """MiB that glibc has handed out, of its heaps and by mapping."""
    ask = ctypes.CDLL(None).mallinfo2
    ask.restype = Mallinfo
    found = ask()
    return float(found.uordblks + found.hblkhd) / (1 << 20)


class Soak:
    """A run in progress.

    Args:
        folder: For its models and images.
        seed: What everything is drawn from.
        data: Folder of real models, or None.
        threads: Callers at once in every other round.
        concurrent: Whether every call is also made by itself, and the answers compared.
    """

    def __init__(self, folder: Path, seed: int, data: Path | None, threads: int, concurrent: bool) -> None:
        self.seed, self.threads, self.concurrent = seed, threads, concurrent
        self.zoo = write_zoo_models(folder, seed)
        self.shown = make_images(folder)
        self.trained = [model_path(), *(real_models(data) if data is not None else [])]
        rng = np.random.default_rng(seed)
        chosen = rng.choice(len(self.zoo), LONG_LIVED_ENGINES, replace=False)
        self.held = [camrt.load("default"), *(camrt.load(self.zoo[i], threads=1) for i in chosen)]
        self.loads, self.refused, self.compared = len(self.held), 0, 0
        self.different: list[str] = []

    def round(self, number: int, count: int) -> None:
        """Loads an engine, makes some calls of it and of those that are held, and drops it."""
        rng = np.random.default_rng([self.seed, number])
        # Trained models take a hundred times as long as the zoo's, too: one in twenty rounds has one.
        files = self.trained if number % 20 == 0 else self.zoo
        passing = camrt.load(
            files[int(rng.integers(len(files)))],
            batch_size=int(rng.choice([1, 3, 32])),
            threads=int(rng.choice([1, 1, 1, 1, 1, 1, 1, 2])),  # a second one spins for as long as it may
        )
        self.loads += 1
        engines = [
            *self.held,
            *([passing] * (1 if passing.path in self.trained else LONG_LIVED_ENGINES // 3)),
        ]

        def one(index: int) -> Answer:
            # The embedded classifier, a hundred times as slow as the zoo's, is asked every hundredth time.
            first = index % 100 != 0
            place = np.random.default_rng([self.seed, index]).integers(first, len(engines) if first else 1)
            engine = engines[int(place)]
            return run_call(engine, draw_call(engine, [self.seed, index, 1], self.shown))

        indices = range(number * ROUND, number * ROUND + count)
        if self.concurrent or number % 2:
            with ThreadPoolExecutor(self.threads) as pool:
                answers = list(pool.map(one, indices))
        else:
            answers = [one(index) for index in indices]
        self.refused += sum(found.refused for found in answers)
        if self.concurrent:
            self.compared += count
            for index, found in zip(indices, answers, strict=True):
                if one(index) != found:
                    self.different.append(f"call {index} of round {number} ({passing.path.name} was loaded)")

    def sample(self, calls: int, started: float) -> ProcessSample:
        """What the process takes now."""
        kept = resident_mib()
        return ProcessSample(
            calls,
            round(time.monotonic() - started, 1),
            round(allocated_mib(), 3),
            round(kept, 3),
            len(os.listdir("/proc/self/task")),  # noqa: PTH208  # names are all that is wanted
            len(os.listdir("/proc/self/fd")),  # noqa: PTH208
            len(gc.get_objects()),
            self.loads,
            self.refused,
        )


def fit_slope(x: Sequence[float], y: Sequence[float]) -> tuple[float, float]:
    """Slope of a line by least squares, and half the width of its interval of 95 % confidence.

    Neighbouring samples are alike: as many are counted as would be independent with the same correlation of
    a residual with the next, r: n (1 − r) / (1 + r).
    """
    a, b = np.asarray(x, float), np.asarray(y, float)
    centred = a - a.mean()
    rise = float(centred @ b / (centred @ centred))
    rest = b - b.mean() - rise * centred
    energy = float(rest @ rest)
    alike = max(0.0, float(rest[1:] @ rest[:-1]) / energy) if energy > 0 else 0.0
    count = max(3.0, len(a) * (1 - alike) / (1 + alike))
    spread = energy / len(a) * count / (count - 2)  # variance of a residual
    return rise, 1.96 * float(np.sqrt(spread / (count * (centred @ centred) / len(a))))


def write_csv(samples: Sequence[ProcessSample], path: Path) -> None:
    """Writes samples as CSV."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([field.name for field in fields(ProcessSample)])
        writer.writerows(astuple(sample) for sample in samples)


def plot_samples(samples: Sequence[ProcessSample], rises: Mapping[str, float], path: Path) -> None:
    """Plots memory, threads and open files over the calls."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    calls = np.array([sample.calls for sample in samples]) / 1e4
    figure, (above, below) = pyplot.subplots(
        2, 1, sharex=True, figsize=(7, 4.5), height_ratios=(3, 1), layout="constrained"
    )
    half = calls >= calls[-1] / 2
    for name, rise in rises.items():
        memory = np.array([getattr(sample, name) for sample in samples])
        (drawn,) = above.plot(calls, memory, linewidth=1, label=name)
        line = memory[half].mean() + rise * (calls[half] - calls[half].mean())
        told = f"{rise:+.2f} MiB per 10,000 calls"
        above.plot(calls[half], line, "--", color=drawn.get_color(), label=told)
    above.set_ylim(0)
    above.set_ylabel("memory, MiB")
    above.legend(loc="lower right")
    below.plot(calls, [sample.threads for sample in samples], label="threads")
    below.plot(calls, [sample.files for sample in samples], label="open files")
    below.set_ylim(0)
    below.set_xlabel("calls, 10,000")
    below.legend(loc="lower right")
    figure.savefig(path, metadata={"Date": None})


def verdict(samples: Sequence[ProcessSample], bound: float) -> tuple[list[str], dict[str, float]]:
    """What a run shows, each sentence beginning with FAILED where it does not hold; and the slopes of memory.

    Memory grows when its slope is above the bound by more than its uncertainty.
    """
    later = samples[len(samples) // 2 :]
    earlier = samples[: len(samples) // 2]
    lines, rises = [], {}
    for name in ("allocated", "resident"):
        memory = [getattr(sample, name) for sample in later]
        rises[name], half = fit_slope([sample.calls / 1e4 for sample in later], memory)
        lines.append(
            f"{'FAILED: ' if rises[name] - half > bound else ''}{name} memory over the second half: "
            f"{rises[name]:+.3f} ± {half:.3f} MiB per 10,000 calls (95 %; {bound:g} is allowed), from "
            f"{memory[0]:.1f} to {memory[-1]:.1f} MiB"
        )
    measures: dict[str, Callable[[ProcessSample], Any]] = {
        "threads": lambda sample: sample.threads,
        "open files": lambda sample: sample.files,
    }
    for name, of in measures.items():
        before, after = max(map(of, earlier)), max(map(of, later))
        lines.append(
            f"{'FAILED: ' if after > before else ''}most {name}: {before} in the first half, {after} after"
        )
    rise_of_objects, _ = fit_slope(
        [sample.calls / 1e4 for sample in later], [sample.objects for sample in later]
    )
    lines.append(f"Python objects: {rise_of_objects:+.0f} per 10,000 calls, {later[-1].objects} at the end")
    return lines, rises


def main(
    calls: Annotated[int, typer.Option(help="Calls in all.", min=2 * ROUND)] = 100_000,
    seed: Annotated[int, typer.Option(help="What everything is drawn from.")] = 0,
    threads: Annotated[int, typer.Option(help="Callers at once, in every other round.", min=1)] = 2,
    concurrent: Annotated[
        bool, typer.Option(help="Make every call among others and by itself, and compare.")
    ] = False,
    every: Annotated[int, typer.Option(help="Rounds of 100 calls between samples.", min=1)] = 10,
    bound: Annotated[float, typer.Option(help="MiB that 10,000 calls may add.")] = 1.0,
    out: Annotated[Path | None, typer.Option(help="Write OUT.csv and OUT.svg.")] = None,
) -> None:
    """Runs the calls, says what was found, and exits with 1 if something does not hold."""
    warnings.simplefilter("ignore", camrt.errors.CamrtWarning)  # models of noise answer oddly
    data = os.environ.get("CAMRT_DATA")
    with tempfile.TemporaryDirectory() as folder:
        soak = Soak(Path(folder), seed, Path(data) if data else None, threads, concurrent)
        started, done, samples = time.monotonic(), 0, []
        for number in range(-(-calls // ROUND)):
            count = min(ROUND, calls - done)
            soak.round(number, count)
            done += count
            if (number + 1) % every == 0 or done == calls:
                samples.append(soak.sample(done, started))
                if sys.stderr.isatty() or len(samples) % 10 == 0:
                    print(samples[-1], file=sys.stderr, flush=True)
                if out is not None:
                    write_csv(samples, out.with_suffix(".csv"))
    last = samples[-1]
    print(
        f"{done} calls of {last.loads} engines in {last.seconds:.0f} s, seed {seed}, {threads} callers at "
        f"once; {last.refused} were refused because the method does not suit the model"
    )
    lines, rises = verdict(samples, bound) if len(samples) >= 8 else (["too few samples for a slope"], {})
    if concurrent:
        lines.append(
            f"{'FAILED: ' if soak.different else ''}{len(soak.different)} of {soak.compared} concurrent "
            "calls answered otherwise than when made by themselves"
        )
        lines.extend(soak.different[:20])
    print("\n".join(lines))
    if out is not None and len(samples) >= 8:
        plot_samples(samples, rises, out.with_suffix(".svg"))
    if any(line.startswith("FAILED") for line in lines):
        raise SystemExit(1)


if __name__ == "__main__":
    typer.run(main)
