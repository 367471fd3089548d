"""Commands that are killed or interrupted, or whose disk fills, end as they would have ended undisturbed.

`python tests/killing.py` does it a hundred times each.
"""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("killing.py")


@pytest.mark.skipif(sys.platform == "win32", reason="processes are forked off")
@pytest.mark.parametrize(
    "command",
    ["explain", "evaluate", "walls", "theory", "sanity", "reproduce", "train", "search", "masked-vgg"],
)
def test_a_command_that_is_killed_interrupted_or_finds_a_full_disk_goes_on(command: str) -> None:
    if command in ("train", "search", "masked-vgg") and find_spec("lightning") is None:
        pytest.skip("lightning is not installed")
    if command == "sanity" and find_spec("skimage") is None:
        pytest.skip("scikit-image is not installed")
    line = [sys.executable, SCRIPT, "--only", command, "--kills", "2", "--interrupts", "1", "--full", "2"]
    done = subprocess.run(line, capture_output=True, text=True, check=False, timeout=250)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1].endswith(" 0 |")
