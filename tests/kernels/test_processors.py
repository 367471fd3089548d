"""How many threads kernels start where nobody says: not more than the process has processors."""

from __future__ import annotations

import os

import pytest

from camrt.kernels import processors
from camrt.kernels.checks import thread_count

V1 = "4:cpu,cpuacct:/docker/abc\n3:memory:/docker/abc\n"


@pytest.fixture
def groups(tmp_path):
    """Makes a file system of control groups, and what names the process's own."""

    def make(own, files):
        for name, text in files.items():
            (tmp_path / "fs" / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "fs" / name).write_text(text)
        (tmp_path / "own").write_text(own)
        return tmp_path / "fs", tmp_path / "own"

    return make


@pytest.mark.parametrize(
    ("own", "files", "wanted"),
    [
        pytest.param("0::/\n", {"cpu.max": "200000 100000\n"}, 2.0, id="two processors"),
        pytest.param("0::/\n", {"cpu.max": "50000 100000\n"}, 0.5, id="half of one"),
        pytest.param("0::/\n", {"cpu.max": "max 100000\n"}, None, id="no limit"),
        pytest.param(
            "0::/a/b\n", {"a/b/cpu.max": "max 100000", "a/cpu.max": "300000 100000"}, 3.0, id="parent"
        ),
        pytest.param("0::/a\n", {"a/cpu.max": "4 1", "cpu.max": "2 1"}, 2.0, id="the least of both"),
        pytest.param(
            V1,
            {"cpu/docker/abc/cpu.cfs_quota_us": "150000\n", "cpu/docker/abc/cpu.cfs_period_us": "100000\n"},
            1.5,
            id="version 1",
        ),
        pytest.param(
            V1,
            {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"},
            None,
            id="version 1, no limit",
        ),
        pytest.param(
            V1, {"cpu/cpu.cfs_quota_us": "100000", "cpu/cpu.cfs_period_us": "0"}, None, id="no period"
        ),
        pytest.param("0::/\n", {}, None, id="no such file"),
        pytest.param("", {"cpu.max": "200000 100000"}, None, id="no groups"),
    ],
)
def test_the_time_that_control_groups_grant(groups, own, files, wanted):
    assert processors.cpu_quota(*groups(own, files)) == wanted


@pytest.mark.parametrize(
    ("quota", "wanted"), [(None, 3), (0.2, 1), (1.5, 2), (2.0, 2), (64.0, 3)], ids=lambda value: str(value)
)
def test_threads_of_a_container(monkeypatch, quota, wanted):
    """Three of a machine's 64 processors, and so much time a second."""
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 5, 63}, raising=False)
    monkeypatch.setattr(processors, "_own_quota", lambda: quota)
    assert thread_count(None) == wanted
    assert thread_count(7) == 7


def test_without_affinity_it_is_the_machines(monkeypatch):
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(processors, "_own_quota", lambda: None)
    assert processors.usable_processors() == 8
