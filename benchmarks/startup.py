"""From a new process to the first map, against ONNX Runtime's own way to its first answer.

    python benchmarks/startup.py resnet50.onnx --out benchmarks/results/startup.json

Each side is a process of its own, from before Python starts until the answer is there, where it ends at once:
`import camrt`, `camrt.load` and `explain` of an image, against `import onnxruntime, numpy`,
`InferenceSession` and `run`. Without files named, those are ResNet-18 and VGG-16 with seeded weights. Install
camrt as a wheel for it: an editable installation looks for its modules whenever Python starts.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated

import typer
from measure import Comparison, summarise, table, write
from networks import build_network

GOAL = 1.5
PLAIN = """
import os
os.sched_setaffinity(0, {cores})
import onnxruntime, numpy
session = onnxruntime.InferenceSession({path!r}, providers=["CPUExecutionProvider"])
taken = session.get_inputs()[0]
shape = [1, *(size if isinstance(size, int) else 3 if axis == 0 else 224
              for axis, size in enumerate(taken.shape[1:]))]
session.run(None, {{taken.name: numpy.zeros(shape, numpy.float32)}})
os._exit(0)
"""
OURS = """
import os
os.sched_setaffinity(0, {cores})
import camrt, numpy
engine = camrt.load({path!r}, cache={cache})
engine.explain(numpy.zeros(engine.interface.probe_shape(1), numpy.float32), {method!r}).maps
os._exit(0)
"""


def run_process(code: str, environment: dict[str, str]) -> tuple[float, float]:
    """Seconds, and processor seconds, of a Python process that runs some code.

    Raises:
        SystemExit: It failed.
    """
    started = time.perf_counter()
    child = os.posix_spawn(sys.executable, [sys.executable, "-W", "ignore", "-c", code], environment)
    _, status, used = os.wait4(child, 0)
    if status:
        raise SystemExit(f"a process failed:\n{code}")
    return time.perf_counter() - started, used.ru_utime + used.ru_stime


def start_up(path: Path, method: str, cores: set[int], runs: int, *, cache: bool, folder: str) -> Comparison:
    """The comparison for a file, a method and some cores."""
    environment = {**os.environ, "CAMRT_CACHE": folder}
    ours = OURS.format(path=str(path), method=method, cores=cores, cache=cache)
    plain = PLAIN.format(path=str(path), cores=cores)
    samples: tuple[list[float], list[float]] = ([], [])
    processor = []
    for number in range(runs + 1):
        (seconds, spent), (seconds_plain, spent_plain) = (
            run_process(code, environment) for code in (ours, plain)
        )
        if number:  # the first one fills the caches, the system's and camrt's
            samples[0].append(seconds)
            samples[1].append(seconds_plain)
            processor.append(spent / spent_plain)
    return summarise(
        f"{path.stem}, {method}, {len(cores)} core{'s' * (len(cores) > 1)}, "
        f"{'analysed before' if cache else 'analysed now'}",
        ("camrt to the first map", "onnxruntime to the first answer"),
        samples,
        at_most=GOAL,
        processor=statistics.median(processor),
    )


def main(
    files: Annotated[list[Path] | None, typer.Argument(help="ONNX files; none for two networks.")] = None,
    out: Annotated[Path, typer.Option(help="Where the JSON goes; a table goes beside it.")] = Path(
        "benchmarks/results/startup.json"
    ),
    runs: Annotated[int, typer.Option(help="Counted pairs of processes a comparison.")] = 5,
) -> None:
    """Runs the comparisons and writes them down."""
    paths = files or [build_network(name).path for name in ("resnet18", "vgg16")]
    usable = sorted(os.sched_getaffinity(0))
    results: list[Comparison] = []
    with tempfile.TemporaryDirectory(prefix="camrt-benchmark-") as folder:
        place = f"{folder}/cache"
        for path in paths:
            for count in (1, 2):
                for method in ("pixab", "gradcam"):
                    for cache in (False, True):
                        cores = set(usable[:count])
                        results.append(
                            start_up(path.resolve(), method, cores, runs, cache=cache, folder=place)
                        )
    write(out, results, f"python benchmarks/startup.py {' '.join(sys.argv[1:])}".strip())
    print(table(results))
    print(f"{sum(not result.met for result in results)} goals missed", file=sys.stderr)


if __name__ == "__main__":
    typer.run(main)
