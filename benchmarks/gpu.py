"""Kernels on a card, held against what the card allows, and explaining beside predicting.

    python benchmarks/gpu.py --out benchmarks/results/gpu.json

(a) The card is measured: how fast it copies, and how fast it multiplies matrices of bfloat16.

(b) Every kernel is compared with its NumPy reference in float64, on some of its rows, and timed on arrays of
a gigabyte and more, with the second-level cache emptied between runs. Its floor is the longer of two times:
its bytes at the card's own bandwidth, and its multiply-adds at the card's own rate.

(c) CAM, Eigen-CAM, Grad-CAM, Pixab-CAM and Ablation-CAM are timed beside predictions, (d) Score-CAM beside as
many forward passes, (e) other packages beside camrt, and (f) the peak of memory is measured: see
`gpu_explain.py`.

Whatever does not agree with its reference is not timed, and the exit status is 1. `--check` only compares, on
small arrays and networks, and needs no card, where Triton's interpreter runs the kernels:

    PYTHONPATH=tests python -m helpers.triton_interpreter benchmarks/gpu.py --check

`on_a_card.sh` runs all of it, and the tests, on a machine with a card and no network.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
import triton
import typer
from gpu_explain import ExplainReport, Options, run_parts
from gpu_kernel_cases import ArrayFactory, KernelCase, cases
from measure import environment

from camrt.export.io.atomic_files import write_atomic

GOAL = 0.85
"""Of the copy bandwidth, for kernels that memory binds."""


@dataclass(frozen=True)
class GpuRates:
    """What the card can do.

    Attributes:
        name: As CUDA calls it.
        copy: Bytes a second, read and written, of a copy of two gigabytes.
        matrices: Multiply-adds a second of a product of bfloat16 matrices, counted as two operations each.
    """

    name: str
    copy: float
    matrices: float


@dataclass(frozen=True)
class TimedCase:
    """A case's times.

    Attributes:
        name: What was run.
        difference: From the reference.
        milliseconds: Quartiles.
        floor: Milliseconds that the card's own rates allow.
        share: The floor over the median time.
        bandwidth: Bytes a second that went through memory.
        met: Whether the share reaches the goal.
    """

    name: str
    difference: float
    milliseconds: tuple[float, float, float]
    floor: float
    share: float
    bandwidth: float
    met: bool


def measure_rates(device: torch.device) -> GpuRates:
    """The card's own rates."""
    source = torch.empty(1 << 30, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    copied = triton.testing.do_bench(lambda: target.copy_(source), return_mode="median")
    side = 8192
    a = torch.randn(side, side, device=device).bfloat16()
    multiplied = triton.testing.do_bench(lambda: a @ a, return_mode="median")
    return GpuRates(
        torch.cuda.get_device_name(device), 2e3 * source.numel() / copied, 2e3 * side**3 / multiplied
    )


def time_case(one: KernelCase, difference: float, card: GpuRates) -> TimedCase:
    """A case's times, and what they are of what the card allows."""
    low, middle, high = triton.testing.do_bench(one.work, quantiles=[0.25, 0.5, 0.75])
    floor = 1e3 * max(one.bytes / card.copy, one.operations / card.matrices)
    share = floor / middle
    return TimedCase(
        one.name, difference, (low, middle, high), floor, share, 1e3 * one.bytes / middle, share >= GOAL
    )


def format_table(card: GpuRates, results: list[TimedCase]) -> str:
    """The results as Markdown."""
    lines = [
        f"(a) {card.name}: copies {card.copy / 1e12:.2f} TB/s, multiplies bfloat16 at "
        f"{card.matrices / 1e12:.0f} TFLOP/s",
        "",
    ]
    if results:
        lines += [
            "(b) kernels",
            "",
            "| kernel | median (quartiles), ms | floor, ms | share of the floor | TB/s | ≥ 85 % "
            "| difference |",
            "| --- | --- | --- | --- | --- | --- | --- |",
        ]
    for one in results:
        low, middle, high = one.milliseconds
        lines.append(
            f"| {one.name} | {middle:.3f} ({low:.3f}–{high:.3f}) | {one.floor:.3f} | "
            f"**{100 * one.share:.0f} %** | {one.bandwidth / 1e12:.2f} | {'yes' if one.met else 'no'} | "
            f"{one.difference:.1e} |"
        )
    return "\n".join([*lines, ""])


def kernels(device: torch.device, card: GpuRates | None, only: str, wrong: list[str]) -> Iterator[TimedCase]:
    """(b): every kernel compared, and timed where there is a card.

    Args:
        device: Where.
        card: Its rates; None to compare alone.
        only: Part of the names of the kernels that are meant.
        wrong: Takes a sentence for each that differs from its reference; those are not timed.
    """
    for one in cases(ArrayFactory(device, card is None)):
        if only not in one.name:
            continue
        difference = one.difference()
        if not difference <= one.bound:
            wrong.append(f"{one.name} differs from its reference by {difference:.2e}")
            print(wrong[-1], file=sys.stderr, flush=True)
        elif card is None:
            print(f"{one.name}: differs from its reference by {difference:.1e}")
        else:
            timed = time_case(one, difference, card)
            print(timed, file=sys.stderr, flush=True)
            yield timed


def settings() -> dict[str, str]:
    """Versions, the machine, and what torch does with float32."""
    return environment() | {
        "triton": triton.__version__,
        "cuda": str(torch.version.cuda),
        "cudnn": str(torch.backends.cudnn.version()),
        "card": torch.cuda.get_device_name(0) if torch.cuda.is_available() else "none",
        "TF32 in convolutions": "yes" if torch.backends.cudnn.allow_tf32 else "no",
        "float32 products of matrices": torch.get_float32_matmul_precision(),
    }


def write(out: Path, tables: str, results: dict[str, Any]) -> None:
    """The figures as JSON, and the tables beside them as Markdown."""
    command, versions = f"python {' '.join(sys.argv)}", settings()
    out.parent.mkdir(parents=True, exist_ok=True)
    document = json.dumps({"command": command, "environment": versions, **results}, indent=1)
    machine = ", ".join(f"{name} {value}" for name, value in versions.items())
    write_atomic(out, f"{document}\n".encode())
    write_atomic(out.with_suffix(".md"), f"`{command}`\n\n{machine}\n\n{tables}\n".encode())


def main(
    out: Annotated[Path | None, typer.Option(help="JSON; nothing is written if not given.")] = None,
    check: Annotated[bool, typer.Option(help="Only compare with the references, on small arrays.")] = False,
    parts: Annotated[str, typer.Option(help="Letters of the parts that are meant.")] = "abcdef",
    only: Annotated[str, typer.Option(help="Part of the names of the kernels that are meant.")] = "",
    minutes: Annotated[
        float, typer.Option(help="How long all may take: fewer rounds, not fewer cases.")
    ] = 9.5,
    large: Annotated[bool, typer.Option(help="With --check: the networks that are timed.")] = False,
    compile_mode: Annotated[str | None, typer.Option("--compile", help="camrt.load's compile=.")] = None,
    channels_last: Annotated[bool, typer.Option(help="Weights of the networks are laid out so.")] = False,
) -> None:
    """Compares results with their references, times what makes them, and writes the figures and tables."""
    started = time.perf_counter()
    if not parts or set(parts) - set("abcdef"):
        raise typer.BadParameter(f"--parts {parts!r} must be letters from a to f")
    if not check and not torch.cuda.is_available():
        raise typer.BadParameter("there is no GPU to time: pass --check to compare results alone")
    device = torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
    card = None if check or not set(parts) & set("ab") else measure_rates(device)
    wrong: list[str] = []
    timings: list[TimedCase] = []
    report = ExplainReport()

    def tables() -> str:
        lines = [f"- **{sentence}**" for sentence in wrong]
        return "\n".join([*([format_table(card, timings)] if card else []), report.table(), *lines])

    def save() -> None:
        if out is None:
            return
        rates = None if card is None else asdict(card)
        kernel_results = [asdict(one) for one in timings]
        results = {"card": rates, "results": kernel_results, "differing": wrong, **report.document()}
        write(out, tables(), results)

    save()
    for one in kernels(device, card, only, wrong) if "b" in parts else ():
        timings.append(one)
        save()  # what was measured is kept, whatever happens to the rest
    save()  # what differed
    if set(parts) & set("cdef"):
        until = started + 60 * minutes
        chosen = Options(parts, device, check, large or not check, compile_mode, channels_last, until)
        for _ in run_parts(report, chosen):
            save()
    print(tables())
    print(f"{time.perf_counter() - started:.0f} seconds", file=sys.stderr)
    if wrong or not report.sound:
        raise SystemExit(1)


if __name__ == "__main__":
    typer.run(main)
