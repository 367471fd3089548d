"""Every kernel compiles for sm_80 and sm_90, without spilling, with wide loads, within its registers."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from kernels.gpu.variants import every_variant

pytestmark = pytest.mark.aot


@pytest.fixture(scope="module")
def compiled():
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-m", "kernels.gpu.compiling", "80", "90"],
        env=environment,
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


@pytest.mark.parametrize("capability", ["80", "90"], ids=lambda c: f"sm_{c}")
@pytest.mark.parametrize("variant", every_variant(), ids=str)
def test_resources(compiled, variant, capability):
    found = compiled[str(variant)][capability]
    assert found["spilled"] == 0
    assert found["registers"] <= variant.registers
    assert found["shared"] <= variant.shared
    for way in variant.wide:
        assert found["wide"][way] > 0, f"no {way} of 128 bits"
