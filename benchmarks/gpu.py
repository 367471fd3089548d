"""Kernels on a card, held against what its memory and its arithmetic allow.

    python benchmarks/gpu.py --out benchmarks/results/gpu.json

First the card is measured: how fast it copies, and how fast it multiplies matrices of bfloat16. Then every
kernel is compared with its NumPy reference in float64, on some of its rows, and timed on arrays of a gigabyte
and more, with the second-level cache emptied between runs. Its floor is the longer of two times: its bytes at
the card's own bandwidth, and its multiply-adds at the card's own rate. `--check` only compares, on small
arrays, and needs no card: TRITON_INTERPRET=1 python benchmarks/gpu.py --check.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import torch
import triton
import typer
from gpu_cases import Case, Maker, cases
from measure import environment

GOAL = 0.85
"""Of the copy bandwidth, for kernels that memory binds."""


@dataclass(frozen=True)
class Card:
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
class Timed:
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


def measured_card(device: torch.device) -> Card:
    """The card's own rates."""
    source = torch.empty(1 << 30, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    copied = triton.testing.do_bench(lambda: target.copy_(source), return_mode="median")
    side = 8192
    a = torch.randn(side, side, device=device).bfloat16()
    multiplied = triton.testing.do_bench(lambda: a @ a, return_mode="median")
    return Card(torch.cuda.get_device_name(device), 2e3 * source.numel() / copied, 2e3 * side**3 / multiplied)


def timed(one: Case, difference: float, card: Card) -> Timed:
    """A case's times, and what they are of what the card allows."""
    low, middle, high = triton.testing.do_bench(one.work, quantiles=[0.25, 0.5, 0.75])
    floor = 1e3 * max(one.bytes / card.copy, one.operations / card.matrices)
    share = floor / middle
    return Timed(
        one.name, difference, (low, middle, high), floor, share, 1e3 * one.bytes / middle, share >= GOAL
    )


def table(card: Card, results: list[Timed]) -> str:
    """The results as Markdown."""
    lines = [
        f"{card.name}: copies {card.copy / 1e12:.2f} TB/s, multiplies bfloat16 at "
        f"{card.matrices / 1e12:.0f} TFLOP/s",
        "",
        "| kernel | median (quartiles), ms | floor, ms | share of the floor | TB/s | ≥ 85 % | difference |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for one in results:
        low, middle, high = one.milliseconds
        lines.append(
            f"| {one.name} | {middle:.3f} ({low:.3f}–{high:.3f}) | {one.floor:.3f} | "
            f"**{100 * one.share:.0f} %** | {one.bandwidth / 1e12:.2f} | {'yes' if one.met else 'no'} | "
            f"{one.difference:.1e} |"
        )
    return "\n".join(lines)


def main(
    out: Annotated[Path, typer.Option()] = Path("benchmarks/results/gpu.json"),
    check: Annotated[bool, typer.Option(help="Only compare with the references, on small arrays.")] = False,
    only: Annotated[str, typer.Option(help="Part of the names of the kernels that are meant.")] = "",
) -> None:
    """Compares every kernel with its reference, times it, and writes the figures and a table."""
    if not check and not torch.cuda.is_available():
        raise typer.BadParameter("there is no GPU to time: pass --check to compare results alone")
    device = torch.device("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
    card = None if check else measured_card(device)
    results = []
    for one in cases(Maker(device, check)):
        if only not in one.name:
            continue
        difference = one.difference()
        if not difference <= one.bound:
            raise SystemExit(f"{one.name} differs from its reference by {difference:.2e}")
        if card is None:
            print(f"{one.name}: differs from its reference by {difference:.1e}")
            continue
        results.append(timed(one, difference, card))
        print(results[-1], file=sys.stderr, flush=True)
    if card is not None:
        versions = environment() | {"triton": triton.__version__, "cuda": str(torch.version.cuda)}
        out.parent.mkdir(parents=True, exist_ok=True)
        command = f"python {' '.join(sys.argv)}"
        document = {
            "command": command,
            "environment": versions,
            "card": asdict(card),
            "results": [asdict(one) for one in results],
        }
        out.write_text(json.dumps(document, indent=1) + "\n")
        machine = ", ".join(f"{name} {value}" for name, value in versions.items())
        out.with_suffix(".md").write_text(f"`{command}`\n\n{machine}\n\n{table(card, results)}\n")
        print(table(card, results))


if __name__ == "__main__":
    typer.run(main)
