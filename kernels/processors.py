"""How many processors this process may use: fewer than there are, where affinity or a container says so."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path

__all__ = ["control_groups", "cpu_quota", "read_text", "usable_processors"]

CGROUPS, OWN_GROUP = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


def usable_processors() -> int:
    """The processors that the process may run on, and no more than its control group grants it time of."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _own_quota()
    return allowed if quota is None else max(1, min(allowed, math.ceil(quota)))


def cpu_quota(cgroups: Path, own_group: Path) -> float | None:
    """Seconds of processor time a second that control groups grant, the least of a group's and its parents'.

    Args:
        cgroups: Where the file system of control groups is mounted: /sys/fs/cgroup.
        own_group: The file that names the process's groups: /proc/self/cgroup.

    Returns:
        None where nothing limits it, or there are no control groups.

    Source: https://docs.kernel.org/admin-guide/cgroup-v2.html (cpu.max, "$MAX $PERIOD"), and of version 1
    https://docs.kernel.org/scheduler/sched-bwc.html (cpu.cfs_quota_us, -1 for no limit; cpu.cfs_period_us).
    """
    found = []
    for group in control_groups("cpu", cgroups, own_group):
        quota, period = [*read_text(group / "cpu.max").split(), "", ""][:2]
        if not quota:
            quota, period = read_text(group / "cpu.cfs_quota_us"), read_text(group / "cpu.cfs_period_us")
        if quota.strip().isdecimal() and period.strip().isdecimal() and int(period) > 0:
            found.append(int(quota) / int(period))
    return min(found, default=None)


def control_groups(controller: str, cgroups: Path, own_group: Path) -> Iterator[Path]:
    """The folders of a process's control groups, of either version, and of their parents.

    Args:
        controller: What they control: "cpu", "memory".
        cgroups: Where the file system of control groups is mounted.
        own_group: The file that names the process's groups.
    """
    for line in read_text(own_group).splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0":
            mount = cgroups
        elif controller in controllers.split(","):
            mount = cgroups / controller
        else:
            continue
        group = mount / path.lstrip("/")
        for place in (group, *group.parents):
            yield place
            if place == mount:
                break


@cache
def _own_quota() -> float | None:
    return cpu_quota(CGROUPS, OWN_GROUP)


def read_text(path: Path) -> str:
    """What a file holds; nothing where there is none, as on other systems, or no right to read it."""
    try:
        return path.read_text()
    except OSError:
        return ""
