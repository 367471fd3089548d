"""What is compiled ahead of time: each kernel as it is launched for ordinary models.

Each operation has a file of its name with its list `VARIANTS`; `compiling` compiles them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

__all__ = ["Variant", "all_variants"]


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
        shared: No program may use more bytes of shared memory; if not given, than one gets without asking.
        options: Of the launch.
    """

    operation: str
    kernel: str
    types: Mapping[str, str] = field(default_factory=dict)
    constants: Mapping[str, Any] = field(default_factory=dict)
    multiples: tuple[str, ...] = ()
    wide: tuple[str, ...] = ("ld", "st")
    shared: int = 48 * 1024
    options: Mapping[str, Any] = field(default_factory=dict)
    name: str = ""

    def __str__(self) -> str:
        return f"{self.operation}.{self.kernel}{'-' if self.name else ''}{self.name}"


def all_variants() -> list[Variant]:
    """Those of all operations."""
    files = sorted(Path(__file__).parent.glob("*.py"))
    operations = [file.stem for file in files if file.stem not in ("__init__", "compilation")]
    return [each for name in operations for each in import_module(f"helpers.kernel_variants.{name}").VARIANTS]
