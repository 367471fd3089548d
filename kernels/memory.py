"""How much memory this process holds, and how much it may take: less than there is where a container says so.

Sources: https://docs.kernel.org/admin-guide/cgroup-v2.html (memory.max, memory.current, "max" for no limit;
inactive_file in memory.stat, which is given back when asked for), and of version 1
https://docs.kernel.org/admin-guide/cgroup-v1/memory.html (memory.limit_in_bytes, beyond any machine's memory
where there is none; memory.usage_in_bytes; total_inactive_file).
"""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

from camrt.kernels.processors import CGROUPS, OWN_GROUP, control_groups, read_text

__all__ = ["cgroup_free_memory", "free_memory", "resident_memory", "trim_memory"]

MEMINFO, OWN_SIZE = Path("/proc/meminfo"), "/proc/self/statm"
_TRIM = getattr(ctypes.CDLL(None), "malloc_trim", None) if os.name == "posix" else None  # glibc's alone
PAGE = os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 4096


def resident_memory() -> int:
    """Bytes of memory that the process holds; 0 where the system does not say so in /proc."""
    try:
        # Many times quicker than a file object: it is read at each run.
        found = os.open(OWN_SIZE, os.O_RDONLY)
    except OSError:
        return 0
    try:
        return int(os.read(found, 128).split()[1]) * PAGE
    finally:
        os.close(found)


def trim_memory() -> None:
    """Has the C library give back what was freed: it keeps that for each thread that has allocated it."""
    if _TRIM is not None:
        _TRIM(0)


def free_memory() -> int | None:
    """Bytes that the process could still take: of the machine's, and of what its control group grants it.

    Returns:
        None where the system says neither.
    """
    found = [cgroup_free_memory(CGROUPS, OWN_GROUP), machine_free_memory(MEMINFO)]
    return min((one for one in found if one is not None), default=None)


def cgroup_free_memory(cgroups: Path, own_group: Path) -> int | None:
    """Bytes that control groups still grant, the least of a group's and its parents'.

    Args:
        cgroups: Where the file system of control groups is mounted: /sys/fs/cgroup.
        own_group: The file that names the process's groups: /proc/self/cgroup.

    Returns:
        None where nothing limits it, or there are no control groups.
    """
    found = []
    for group in control_groups("memory", cgroups, own_group):
        for most, held, cached in (
            ("memory.max", "memory.current", "inactive_file"),
            ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
        ):
            limit, taken = read_text(group / most).strip(), read_text(group / held).strip()
            if limit.isdecimal() and taken.isdecimal():
                lines = map(str.split, read_text(group / "memory.stat").splitlines())
                spare = sum(int(line[1]) for line in lines if line[:1] == [cached])
                found.append(max(int(limit) - max(int(taken) - spare, 0), 0))
    return min(found, default=None)


def machine_free_memory(meminfo: Path) -> int | None:
    """Bytes that the machine has left, by its /proc/meminfo; None where there is none."""
    for line in read_text(meminfo).splitlines():
        name, _, rest = line.partition(":")
        number = rest.split()[:1]
        if name == "MemAvailable" and number and number[0].isdecimal():
            return int(number[0]) * 1024
    return None
