"""Every kernel compiles for sm_80 and sm_90 without spilling, with accesses of 128 bits.

How many registers a kernel takes is its compiler's affair: Triton 3.6 takes up to three times as many as 3.9.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from helpers.kernel_variants import all_variants

pytestmark = pytest.mark.aot


@pytest.fixture(scope="session")
def compiled():
    """Asks a process that compiles one case at a time, each when its test wants it."""
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    with subprocess.Popen(
        [sys.executable, "-m", "helpers.kernel_variants.compilation"],
        env=environment,
        cwd=Path(__file__).parents[2],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as compiler:

        def ask(variant, capability):
            case = f"{capability} {variant}"
            compiler.stdin.write(f"{case}\n")
            compiler.stdin.flush()
            for line in compiler.stdout:
                found = json.loads(line)
                if found["case"] == case:  # not the answer to a test that was stopped while it waited
                    return found
            pytest.fail(f"the compiler ended with {compiler.wait()}")

        yield ask


@pytest.mark.parametrize("capability", ["80", "90"], ids=lambda c: f"sm_{c}")
@pytest.mark.parametrize("variant", all_variants(), ids=str)
def test_resources(compiled, variant, capability):
    found = compiled(variant, capability)
    assert "error" not in found, found["error"]
    assert found["spilled"] == 0, f"{found['spilled']} bytes beside {found['registers']} registers"
    assert found["shared"] <= variant.shared
    for way in variant.wide:
        assert found["wide"][way] > 0, f"no {way} of 128 bits"
