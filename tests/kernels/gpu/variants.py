"""What is compiled ahead of time: each kernel as it is launched for ordinary models.

Each operation has a file variants_<operation>.py with its list `VARIANTS`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from runpy import run_path
from typing import Any

__all__ = ["Variant", "every_variant"]


@dataclass(frozen=True)
class Variant:
    """One specialisation of a kernel.

    Attributes:
        operation: The folder of kernels that holds it.
        kernel: Its name in that folder's gpu.py.
        types: Types of arguments by name; a "p_..." is "*fp32" if not given, and any other "i32".
        constants: Values of compile-time arguments, strides of 1 among them.
        multiples: Arguments that are multiples of 16 besides the pointers.
        wide: Instructions of 128 bits that must occur: "ld", "st".
        registers: No thread may use more.
        shared: No program may use more bytes of shared memory.
        options: Of the launch.
    """

    operation: str
    kernel: str
    types: Mapping[str, str] = field(default_factory=dict)
    constants: Mapping[str, Any] = field(default_factory=dict)
    multiples: tuple[str, ...] = ()
    wide: tuple[str, ...] = ("ld", "st")
    registers: int = 128
    shared: int = 0
    options: Mapping[str, Any] = field(default_factory=dict)
    name: str = ""

    def __str__(self) -> str:
        return f"{self.operation}.{self.kernel}{'-' if self.name else ''}{self.name}"


def every_variant() -> list[Variant]:
    """Those of all operations."""
    files = sorted(Path(__file__).parent.glob("variants_*.py"))
    return [variant for file in files for variant in run_path(str(file))["VARIANTS"]]
