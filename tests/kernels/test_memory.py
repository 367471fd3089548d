"""How much memory there is to take (`camrt.kernels.memory`)."""

import numpy as np
import pytest

from camrt.export.budget import DEFAULT_MAX_MEMORY, MIN_DEFAULT_MEMORY, default_max_memory
from camrt.kernels import memory
from camrt.kernels.memory import cgroup_free_memory, machine_free_memory, resident_memory


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


@pytest.mark.skipif(not resident_memory(), reason="the system has no /proc/self/statm")
def test_the_process_holds_what_it_has_written_to():
    before = resident_memory()
    held = np.ones(64 << 20, np.uint8)
    assert resident_memory() - before > len(held) * 0.9


def test_a_group_grants_what_it_and_its_parents_have_left(tmp_path):
    own = tmp_path / "own"
    write(own, "0::/a/b\n")
    root = tmp_path / "cgroup"
    assert cgroup_free_memory(root, own) is None
    write(root / "a/b/memory.max", "max\n")
    write(root / "a/b/memory.current", "10\n")
    assert cgroup_free_memory(root, own) is None
    write(root / "a/memory.max", "1000\n")
    write(root / "a/memory.current", "700\n")
    assert cgroup_free_memory(root, own) == 300
    write(root / "a/memory.stat", "anon 500\ninactive_file 150\n")
    assert cgroup_free_memory(root, own) == 450
    write(root / "a/b/memory.max", "200\n")
    assert cgroup_free_memory(root, own) == 190


def test_a_group_of_the_first_version(tmp_path):
    own = tmp_path / "own"
    write(own, "4:memory:/c\n1:cpu:/\n0::/\n")
    write(tmp_path / "memory/c/memory.limit_in_bytes", "1000")
    write(tmp_path / "memory/c/memory.usage_in_bytes", "900")
    write(tmp_path / "memory/c/memory.stat", "inactive_file 1\ntotal_inactive_file 50\n")
    assert cgroup_free_memory(tmp_path, own) == 150


def test_what_a_machine_has_left(tmp_path):
    write(tmp_path / "meminfo", "MemTotal: 99 kB\nMemAvailable:   24 kB\n")
    assert machine_free_memory(tmp_path / "meminfo") == 24 * 1024
    assert machine_free_memory(tmp_path / "none") is None


@pytest.mark.parametrize(
    ("free", "expected"),
    [(None, DEFAULT_MAX_MEMORY), (1 << 40, DEFAULT_MAX_MEMORY), (4 << 30, 2 << 30), (5, MIN_DEFAULT_MEMORY)],
)
def test_a_call_may_take_half_of_what_is_free_by_default(free, expected, monkeypatch):
    monkeypatch.setattr("camrt.export.budget.free_memory", lambda: free)
    assert default_max_memory() == expected
    assert memory.free_memory() is None or memory.free_memory() > 0
