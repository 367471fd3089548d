"""What holds for all tests: how many run at once, and with how many threads each."""

from __future__ import annotations

import os
import re
import tomllib
from collections import Counter
from pathlib import Path

import pytest

os.environ.setdefault(
    "CAMRT_INTERNAL_ERRORS", "raise"
)  # ours are to be seen, see camrt.export.internal_errors

os.environ.setdefault("CAMRT_CACHE", "off")  # tests analyse what they load, and leave the user's home alone

MOST_WORKERS = 4
"""Each may hold torch and a network or two, about 2 GB."""

if "PYTEST_XDIST_WORKER" in os.environ:
    # Before NumPy or torch is imported: one thread a worker, or they take the cores from each other.
    for library in ("MKL", "OMP", "OPENBLAS"):
        os.environ.setdefault(f"{library}_NUM_THREADS", "1")


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """The workers of `pytest -n auto`: one a processor that this process may use, and not too many."""
    from camrt.kernels.processors import usable_processors

    return min(MOST_WORKERS, usable_processors())


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds `--every N`."""
    parser.addoption(
        "--every", type=int, default=1, metavar="N", help="run one in N of the tests, evenly taken"
    )


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leaves one in `--every` of the tests that are otherwise chosen."""
    step = config.getoption("every")
    if step > 1:
        config.hook.pytest_deselected(items=[item for i, item in enumerate(items) if i % step])
        items[:] = items[::step]


EXPECTED_SKIPS = Path(__file__).parent / "expected_skips.toml"


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fails a run with `CAMRT_CHECK_SKIPS=1` that skips more than `expected_skips.toml` explains."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if os.environ.get("CAMRT_CHECK_SKIPS") != "1" or hasattr(session.config, "workerinput") or not reporter:
        return
    rules = tomllib.loads(EXPECTED_SKIPS.read_text())["skip"]
    counts: Counter[str] = Counter()
    for report in reporter.stats.get("skipped", []):
        reason = report.longrepr[2].removeprefix("Skipped: ")
        matching = next((rule["reason"] for rule in rules if re.search(rule["reason"], reason)), reason)
        counts[matching] += 1
    allowed = {rule["reason"]: rule["at_most"] for rule in rules}
    grown = {reason: count for reason, count in counts.items() if count > allowed.get(reason, 0)}
    if grown:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
        reporter.ensure_newline()
        for reason, count in grown.items():
            reporter.write_line(
                f"{count} tests were skipped, {allowed.get(reason, 0)} are expected: {reason!r}; say why in "
                f"{EXPECTED_SKIPS.name}, or have them run",
                red=True,
            )
