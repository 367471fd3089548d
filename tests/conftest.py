"""What holds for all tests: how many run at once, and with how many threads each."""

from __future__ import annotations

import os

import pytest

os.environ.setdefault(
    "CAMRT_INTERNAL_ERRORS", "raise"
)  # ours are to be seen, see camrt.export.internal_errors

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
