"""Compiles kernels for cards that are not here, and reads what the compiler says of them.

Run as a script, since Triton's interpreter, once chosen in a process, replaces the kernels there. It reads
lines of a card's capability and a variant, such as "80 ablate._ablate-channels-fp32-NCHW", and answers each
with a line of JSON, so that nothing is compiled that nobody asks for:

    cd tests && python -m helpers.kernel_variants.compilation
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
import traceback
from importlib import import_module
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from helpers.kernel_variants import Variant, all_variants

WIDE = {
    "ld": r"ld\.global\S*\.v4\.b32|cp\.async\.cg\.shared\.global[^;]*\b(?:0x10|16)\b",
    "st": r"st\.global\S*\.v4\.b32",
}
"""Instructions of 128 bits, copies to shared memory among the loads."""
TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"


def compile_variant(variant: Variant, capability: int) -> dict[str, Any]:
    """Registers, bytes of stack and of shared memory, and instructions by width."""
    kernel = getattr(import_module(f"camrt.kernels.{variant.operation}.gpu"), variant.kernel)
    names = kernel.arg_names
    constant = {name for name in names if name.isupper() or name in variant.constants}
    if missing := constant - set(variant.constants):
        raise ValueError(f"{variant}: no value for {sorted(missing)}")
    if unknown := (set(variant.types) | set(variant.constants) | set(variant.multiples)) - set(names):
        raise ValueError(f"{variant}: no such argument: {sorted(unknown)}")
    default = {name: "*fp32" if name.startswith("p_") else "i32" for name in names}
    signature = {
        name: "constexpr" if name in constant else variant.types.get(name, default[name]) for name in names
    }
    aligned = [name for name in names if signature[name].startswith("*") or name in variant.multiples]
    source = ASTSource(
        fn=kernel,
        signature=signature,
        constexprs={(names.index(name),): value for name, value in variant.constants.items()},
        attrs={(names.index(name),): [["tt.divisibility", 16]] for name in aligned},
    )
    options = {"num_warps": 4, "enable_fp_fusion": True} | dict(variant.options)
    made = triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(made.asm["cubin"])
        file.flush()
        said = subprocess.run(
            [TOOLS / "cuobjdump", "-res-usage", file.name], capture_output=True, text=True, check=True
        ).stdout
    used = {key: int(value) for key, value in re.findall(r"(REG|STACK|LOCAL|SHARED):(\d+)", said)}
    return {
        "registers": used["REG"],
        "spilled": used["STACK"] + used["LOCAL"],
        "shared": max(used["SHARED"], made.metadata.shared),
        "wide": {way: len(re.findall(pattern, made.asm["ptx"])) for way, pattern in WIDE.items()},
    }


def main_answer(line: str) -> dict[str, Any]:
    """What was asked for, or why there is no answer."""
    capability, _, name = line.strip().partition(" ")
    try:
        return compile_variant(next(each for each in all_variants() if str(each) == name), int(capability))
    except Exception:
        return {"error": traceback.format_exc()}  # for the test that asked; the next case may compile


if __name__ == "__main__":
    for request in sys.stdin:
        print(json.dumps({"case": request.strip()} | main_answer(request)), flush=True)
