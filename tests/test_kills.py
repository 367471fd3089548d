"""Commands that are killed or interrupted, or whose disk fills, end as they would have ended undisturbed.

`python tests/helpers/fault_injection.py` does it a hundred times each.
"""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parent / "helpers" / "fault_injection.py"


@pytest.mark.timeout(900)
@pytest.mark.skipif(sys.platform == "win32", reason="processes are forked off")
@pytest.mark.parametrize(
    ("commands", "needs"),
    [
        (("explain", "evaluate", "walls", "theory", "reproduce"), ()),
        (("sanity",), ("skimage",)),
        (("train", "search", "masked-vgg"), ("lightning",)),
    ],
    ids=["explaining", "sanity", "training"],
)
def test_commands_that_are_killed_interrupted_or_find_a_full_disk_go_on(
    commands: tuple[str, ...], needs: tuple[str, ...]
) -> None:
    """Commands that import the same share a process, which forks each of them off."""
    for needed in needs:
        if find_spec(needed) is None:
            pytest.skip(f"{needed} is not installed")
    line = [sys.executable, SCRIPT, "--only", ",".join(commands)]
    line += ["--kills", "2", "--interrupts", "1", "--full", "2"]
    done = subprocess.run(line, capture_output=True, text=True, check=False, timeout=850)
    assert done.returncode == 0, done.stdout + done.stderr
    table = [row for row in done.stdout.splitlines() if row.startswith("| ")][2:]
    assert [row.split()[1] for row in table] == list(commands)
    assert all(row.endswith(" 0 |") for row in table)
