"""What maps in a model's file cost: the file with maps against the plain one, both in ONNX Runtime.

    python benchmarks/maps_in_file.py --out benchmarks/results/maps_in_file.json

For each network and method: a run of the file with maps / a run of the plain file, in turn; and a new process
to the first map / one to the plain file's first answer. Before anything is timed, the model's own outputs
must be the same bit for bit, and the maps those of the engine. Networks are ResNet-18 and VGG-16 with
seeded weights, and ONNX files given by --model.
"""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import onnxruntime as ort
import typer
from measure import Comparison, compare, summarise, table, write
from networks import build_network
from startup import run_process

import camrt
from camrt.export import with_maps

MAP_TOLERANCE = 2e-3  # of maps in [0, 1], on noise
FLATTENED, FIRST_MAP = 1.5, 1.2  # goals of Grad-CAM, and of a new process
GOALS = {"resnet18": 1.05, "mobilenet_v2": 1.2}
FIRST = """
import os
os.sched_setaffinity(0, {cores})
import onnxruntime, numpy
session = onnxruntime.InferenceSession({path!r}, providers=["CPUExecutionProvider"])
feeds = {{"{name}": numpy.zeros({shape}, numpy.float32)}}
if {target}:
    feeds["target"] = numpy.array([-1])
session.run(None, feeds)
os._exit(0)
"""


@dataclass(frozen=True)
class Pair:
    """A plain file, and one with maps.

    Attributes:
        plain: The one.
        held: The other.
        method: Of its maps.
        input_name: Of both.
        shape: Of an image.
        is_flattened: Whether the head flattens its map.
    """

    plain: Path
    held: Path
    method: str
    input_name: str
    shape: tuple[int, ...]
    is_flattened: bool

    @property
    def goal(self) -> float | None:
        """The most that a run with maps may cost; None where nothing is asked."""
        if self.is_flattened:
            return FLATTENED if self.method == "gradcam" else None
        return GOALS.get(self.plain.stem)


def make_pair(path: Path, method: str, folder: Path) -> Pair:
    """The file with maps, compared with the plain one and with the engine.

    Raises:
        SystemExit: They disagree.
    """
    engine = camrt.load(path)
    held = with_maps(path, method, folder / f"{path.stem}-{method}.onnx")
    shape = engine.interface.probe_shape(1)[1:]
    name = open_session(path, 1).get_inputs()[0].name
    images = np.random.default_rng(0).standard_normal((2, *shape), np.float32)
    targets = np.array([1, 7])
    own = open_session(path, 1).run(None, {name: images})
    *again, maps = open_session(held, 1).run(None, {name: images, "target": targets})
    expected = engine.explain(images, method, targets=targets).maps
    if not all(map(np.array_equal, own, again)) or np.abs(maps - expected).max() > MAP_TOLERANCE:
        raise SystemExit(f"{path.stem}, {method}: the file with maps gives something else")
    return Pair(path, held, method, name, shape, engine.head.kind.startswith("flattened"))


def open_session(path: Path, threads: int) -> ort.InferenceSession:
    """A session with so many threads."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    return ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def compare_runs(pair: Pair, batch: int, threads: int, pairs: int) -> Comparison:
    """A run of the file with maps against one of the plain file."""
    images = np.random.default_rng(1).standard_normal((batch, *pair.shape), np.float32)
    feeds: dict[str, Any] = {pair.input_name: images}
    targets = {"target": np.full(batch, -1)}

    def make_work(path: Path, given: dict[str, Any]) -> Callable[[], Any]:
        session = open_session(path, threads)
        return lambda: session.run(None, given)

    return compare(
        f"{pair.plain.stem}, {pair.method}, batch {batch}, {threads} thread{'s' * (threads > 1)}",
        ("file with maps", make_work(pair.held, feeds | targets)),
        ("plain file", make_work(pair.plain, feeds)),
        at_most=pair.goal,
        pairs=pairs,
        warm=2,
    )


def compare_first(pair: Pair, runs: int) -> Comparison:
    """A new process to the first map, against one to the plain file's first answer."""
    cores = set(sorted(os.sched_getaffinity(0))[:2])
    shape = (1, *pair.shape)
    ours, plain = (
        FIRST.format(cores=cores, path=str(path), name=pair.input_name, shape=shape, target=target)
        for path, target in ((pair.held, True), (pair.plain, False))
    )
    samples: tuple[list[float], list[float]] = ([], [])
    for number in range(runs + 1):
        seconds = [run_process(code, dict(os.environ))[0] for code in (ours, plain)]
        if number:  # the first one fills the system's caches
            for kept, one in zip(samples, seconds, strict=True):
                kept.append(one)
    return summarise(
        f"{pair.plain.stem}, {pair.method}, a new process",
        ("to the first map", "plain file to the first answer"),
        samples,
        at_most=FIRST_MAP,
    )


def main(
    out: Annotated[Path, typer.Option(help="Where the JSON goes; a table goes beside it.")] = Path(
        "benchmarks/results/maps_in_file.json"
    ),
    model: Annotated[list[Path] | None, typer.Option(help="A further ONNX file; repeatable.")] = None,
    network: Annotated[list[str] | None, typer.Option(help="resnet18, vgg16; both if not said.")] = None,
    method: Annotated[list[str] | None, typer.Option(help="Methods; pixab and gradcam if not said.")] = None,
    threads: Annotated[int, typer.Option(help="Threads of ONNX Runtime.")] = 1,
    pairs: Annotated[int, typer.Option(help="Counted pairs of runs a comparison.")] = 21,
    processes: Annotated[int, typer.Option(help="Counted pairs of processes a comparison.")] = 7,
) -> None:
    """Runs the comparisons and writes them down."""
    results: list[Comparison] = []
    with tempfile.TemporaryDirectory(prefix="camrt-benchmark-") as folder:
        built = [build_network(name, Path(folder)).path for name in network or ("resnet18", "vgg16")]
        for path in (*built, *(model or [])):
            for name in method or ("pixab", "gradcam"):
                pair = make_pair(path.resolve(), name, Path(folder))
                results += [compare_runs(pair, batch, threads, pairs) for batch in (1, 8)]
                results.append(compare_first(pair, processes))
                pair.held.unlink()
    write(out, results, f"python benchmarks/maps_in_file.py {' '.join(sys.argv[1:])}".strip())
    print(table(results))
    print(f"{sum(not result.met for result in results)} goals missed", file=sys.stderr)


if __name__ == "__main__":
    typer.run(main)
