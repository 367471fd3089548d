"""How much memory this process holds, and held at most."""

from __future__ import annotations

import resource
import sys
from pathlib import Path

__all__ = ["limit_addresses", "peak_bytes", "reset_peak", "resident_bytes"]

STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def _status(field: str) -> int | None:
    try:
        lines = STATUS.read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith(field)), None)


def resident_bytes() -> int:
    """What is in memory now."""
    found = _status("VmRSS:")
    return peak_bytes() if found is None else found


def peak_bytes() -> int:
    """The most that was in memory since `reset_peak`, or began where that is all that is known."""
    found = _status("VmHWM:")
    if found is not None:
        return found
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def reset_peak() -> None:
    """Begins to count anew, where the system can."""
    try:
        RESET.write_text("5")
    except OSError:
        return


def limit_addresses(more: int) -> None:
    """Refuses this process more addresses than it has now and so many bytes: a hard stop."""
    size = _status("VmSize:")
    if size is not None:
        resource.setrlimit(resource.RLIMIT_AS, (size + more, resource.RLIM_INFINITY))
