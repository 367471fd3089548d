"""Paired timing: two ways of getting the same result, run in turn, compared pair by pair.

Machines are shared and change speed while they work, so a single time says little. Every comparison runs
its sides alternately and states the median and the quartiles of the ratio within each pair.
"""

from __future__ import annotations

import json
import platform
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import camrt

__all__ = [
    "Comparison",
    "compare",
    "environment",
    "peak_memory",
    "run_python",
    "run_together",
    "summarise",
    "table",
    "time_once",
    "write",
]


@dataclass(frozen=True)
class Comparison:
    """What a comparison measured.

    Attributes:
        name: What was compared.
        sides: What the ratio divides by what.
        goal: The bound the ratio is held to, as text.
        met: Whether the median ratio keeps it.
        ratio: Quartiles of the ratio within pairs: 25 %, median, 75 %.
        seconds: Median seconds of either side.
        samples: Seconds of every run of either side.
        processor_ratio: Median within pairs of the ratio of processor seconds, all threads together: what a
            neighbour's load disturbs less.
        notes: What was checked before timing, and how large the difference was.
    """

    name: str
    sides: tuple[str, str]
    goal: str
    met: bool
    ratio: tuple[float, float, float]
    seconds: tuple[float, float]
    samples: tuple[list[float], list[float]]
    processor_ratio: float | None = None
    notes: list[str] = field(default_factory=list)


def time_once(work: Callable[[], Any]) -> tuple[float, float]:
    """Seconds, and processor seconds of all threads, that one run takes."""
    started, spent = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - started, time.process_time() - spent


def run_together(work: Callable[[int], None], count: int) -> None:
    """Calls a function with 0 to count − 1, each in a thread of its own, and waits for all."""
    threads = [threading.Thread(target=work, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def compare(
    name: str,
    first: tuple[str, Callable[[], Any]],
    second: tuple[str, Callable[[], Any]],
    *,
    at_most: float | None = None,
    at_least: float | None = None,
    pairs: int = 9,
    warm: int = 1,
    scale: float = 1.0,
    notes: Sequence[str] = (),
) -> Comparison:
    """Times `first` against `second` in turn; the ratio is first / second, times `scale`.

    Args:
        name: What is compared.
        first: Label and work of the numerator.
        second: Label and work of the denominator.
        at_most: Goal: the median ratio does not pass this.
        at_least: Goal: the median ratio reaches this.
        pairs: Counted pairs.
        warm: Uncounted pairs before.
        scale: Factor that makes amounts of work equal (images in second / images in first).
        notes: Carried into the result.
    """
    samples: tuple[list[float], list[float]] = ([], [])
    processor: list[float] = []
    for index in range(warm + pairs):
        # Which side goes first alternates, so that neither always inherits the other's warm caches.
        order = (0, 1) if index % 2 == 0 else (1, 0)
        times = [(0.0, 0.0), (0.0, 0.0)]
        for side in order:
            times[side] = time_once((first, second)[side][1])
        if index >= warm:
            samples[0].append(times[0][0])
            samples[1].append(times[1][0])
            processor.append(scale * times[0][1] / times[1][1])
    return summarise(
        name,
        (first[0], second[0]),
        samples,
        at_most=at_most,
        at_least=at_least,
        scale=scale,
        processor=statistics.median(processor),
        notes=notes,
    )


def summarise(
    name: str,
    sides: tuple[str, str],
    samples: tuple[list[float], list[float]],
    *,
    at_most: float | None = None,
    at_least: float | None = None,
    scale: float = 1.0,
    processor: float | None = None,
    notes: Sequence[str] = (),
) -> Comparison:
    """The comparison that samples taken in pairs amount to; arguments as for `compare`."""
    ratios = [scale * a / b for a, b in zip(*samples, strict=True)]
    low, middle, high = quartiles(ratios)
    met = (at_most is None or middle <= at_most) and (at_least is None or middle >= at_least)
    goal = f"≤ {at_most:g}×" if at_most is not None else f"≥ {at_least:g}×" if at_least is not None else ""
    medians = (statistics.median(samples[0]), statistics.median(samples[1]))
    result = Comparison(name, sides, goal, met, (low, middle, high), medians, samples, processor, list(notes))
    print(row(result), file=sys.stderr, flush=True)
    return result


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """25 %, median and 75 %; a single value three times."""
    if len(values) < 2:
        return (values[0],) * 3
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, middle, high


def run_python(code: str) -> str:
    """The last line that a fresh Python process prints when it runs `code`."""
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    return done.stdout.splitlines()[-1]


def peak_memory(code: str) -> int:
    """Peak resident bytes of a fresh Python process that runs `code` (Linux).

    Read from /proc: what `getrusage` says of a process counts its parent's size before it started.
    """
    ending = "print(next(line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')))"
    return int(run_python(f"{code}\n{ending}")) * 1024


def environment() -> dict[str, str]:
    """Versions and machine, for the record."""
    names = (
        *("numpy", "onnx", "onnxruntime", "torch", "torchvision", "grad-cam", "torchcam", "captum"),
        *("opencv-python-headless", "openvino", "scikit-learn", "quantus"),
    )
    versions = {"camrt": camrt.__version__}
    for name in names:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "absent"
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        models = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        cpu = f"{models[0].split(':')[1].strip()}, {len(models)} logical cores" if models else cpu
    return {"python": platform.python_version(), "cpu": cpu, **versions}


def row(result: Comparison) -> str:
    """One line of the table."""
    low, middle, high = result.ratio
    first, second = result.seconds
    cells = [
        result.name,
        f"{result.sides[0]} / {result.sides[1]}",
        f"**{middle:.3g}×** ({low:.3g}–{high:.3g})",
        "–" if result.processor_ratio is None else f"{result.processor_ratio:.3g}×",
        result.goal or "–",
        "yes" if result.met else "no",
        f"{1e3 * first:.1f} / {1e3 * second:.1f} ms" if first else "–",
    ]
    return f"| {' | '.join(cells)} |"


def table(results: Sequence[Comparison]) -> str:
    """All comparisons as a Markdown table."""
    head = [
        "| comparison | ratio of | median (quartiles) | processor time | goal | met | medians |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    return "\n".join(head + [row(result) for result in results])


def write(path: Path, results: Sequence[Comparison], command: str) -> None:
    """Writes the raw samples as JSON and the table beside them as Markdown."""
    where = environment()
    path.parent.mkdir(parents=True, exist_ok=True)
    document = {
        "command": command,
        "environment": where,
        "results": [asdict(result) for result in results],
    }
    path.write_text(json.dumps(document, indent=1) + "\n")
    machine = ", ".join(f"{name} {value}" for name, value in where.items())
    notes = dict.fromkeys(
        f"- {result.name}, {' / '.join(result.sides)}: {note}" for result in results for note in result.notes
    )
    lines = [f"`{command}`", "", machine, "", table(results), "", *notes, ""]
    path.with_suffix(".md").write_text("\n".join(lines))
