"""Which reports of a sanitizer count; sanitizers themselves run once a release, by scripts/sanitizers.sh."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[1] / "scripts" / "sanitizers"
pytestmark = pytest.mark.skipif(not SCRIPTS.is_dir(), reason="the tests are not beside the scripts")
RUNTIME = "onnxruntime_pybind11_state.cpython-311-x86_64-linux-gnu.so"
KERNELS = "_native.cpython-311-x86_64-linux-gnu.so"
LOADER = "ld-linux-x86-64.so.2"
PYTHON = "libpython3.11.so.1.0"


def race(*accesses: list[str]) -> str:
    """A report of two accesses, each by libraries from the innermost one out."""
    heads = (
        "  Write of size 8 at 0x7b08 by thread T12:",
        "  Previous read of size 8 at 0x7b08 by thread T2:",
    )
    stacks = "\n\n".join(
        "\n".join([head, *(f"    #{i} f(int) a.cpp:1 ({name}+0x1f)" for i, name in enumerate(frames))])
        for head, frames in zip(heads, accesses, strict=True)
    )
    created = (
        f"  Thread T12 (tid=1, running) created by main thread at:\n    #0 <null> <null> ({RUNTIME}+0x2)"
    )
    body = f"{stacks}\n\n{created}\n\nSUMMARY: ThreadSanitizer: data race"
    return f"==================\nWARNING: ThreadSanitizer: data race (pid=1)\n{body}\n==================\n"


@pytest.fixture(scope="module")
def counted():
    """What counts in an output, and what is left out, with the list that the script goes by."""
    spec = importlib.util.spec_from_file_location("reports", SCRIPTS / "reports.py")
    reports = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(reports)
    others = reports.libraries((SCRIPTS / "not_ours.txt").read_text("utf-8"))
    return lambda text, *, strictly=False: reports.count(text, [] if strictly else others)


def test_races_of_a_library_with_itself_are_left_out_beside_engines_alone(counted):
    text = race(["libtsan.so", RUNTIME, PYTHON], ["libtsan.so", "libstdc++.so.6", RUNTIME])
    text += "40 explanations\n" + race(["libtsan.so", LOADER], ["libtsan.so", LOADER])
    assert counted(text) == (0, {"onnxruntime_pybind11_state": 1, "ld-linux-x86-64": 1})
    assert counted(text, strictly=True) == (2, {})


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ([KERNELS, PYTHON], [KERNELS, PYTHON]),
        (["libtsan.so", RUNTIME], [KERNELS]),
        (["libtsan.so", KERNELS], ["libtsan.so", RUNTIME]),
        ([KERNELS, RUNTIME], [RUNTIME]),
        (["libtsan.so", RUNTIME], ["libtsan.so", PYTHON]),
        (["libtsan.so", RUNTIME], ["libtsan.so", LOADER]),
        (["libtsan.so", RUNTIME], []),  # a stack that the sanitizer has forgotten
        (["libtsan.so"], ["libtsan.so"]),
    ],
)
def test_any_other_race_counts(counted, one, other):
    assert counted(race(one, other)) == (1, {})


@pytest.mark.parametrize(
    "line",
    [
        "==7==ERROR: AddressSanitizer: heap-buffer-overflow on address 0x60",
        "kernels/blur/cpu.cpp:31:42: runtime error: signed integer overflow: 1 + 2",
        f"WARNING: ThreadSanitizer: unlock of an unlocked mutex (pid=1)\n    #0 f a.cpp:1 ({RUNTIME}+0x1)",
        "FATAL: ThreadSanitizer: unexpected memory mapping 0x55",
        "==7==ERROR: ThreadSanitizer: SEGV on unknown address",
    ],
)
def test_everything_else_counts(counted, line):
    assert counted(f"before\n{line}\nafter\n") == (1, {})


@pytest.mark.parametrize("state", ["finished", "running"])
@pytest.mark.parametrize("function", ["__GI__dl_deallocate_tls", "_dl_open"])
def test_what_the_loader_frees_of_a_thread_that_has_ended_is_left_out(counted, function, state):
    freed = f"    #2 {function} ../elf/dl-tls.c:682 ({LOADER}+0x1)"
    text = race(["libtsan.so", LOADER], [KERNELS, PYTHON]).replace("\n\n", f"\n{freed}\n\n", 1)
    ended = f"  Thread T35 (tid=19, {state}) created by main thread at:\n    #0 f a.cpp:1 (libtsan.so+0x1)"
    text = text.replace("SUMMARY", f"{ended}\n\nSUMMARY")
    counts = state == "finished" and "tls" in function
    assert counted(text)[0] == (0 if counts else 1)
    assert counted(text, strictly=True)[0] == 1


@pytest.mark.parametrize(("owner", "left_out"), [(RUNTIME, 1), (KERNELS, 0), (PYTHON, 0)])
def test_a_forgotten_access_is_of_who_allocated_the_memory(counted, owner, left_out):
    block = "  Location is heap block of size 28 at 0x7b08 allocated by main thread:\n"
    block += f"    #0 f a.cpp:1 ({owner}+0x1)"
    text = race(["libtsan.so", RUNTIME], []).replace("\n\n  Thread", f"\n\n{block}\n\n  Thread")
    assert counted(text) == (1 - left_out, {"onnxruntime_pybind11_state": 1} if left_out else {})


def test_nothing_is_left_out_of_silence(counted):
    assert counted("3960 calls of 15 kernels, 4 callers at once, the same bits as alone\n") == (0, {})


def test_the_list_names_nothing_of_ours(counted):
    names = ["_native", "_planted", "libpython", "python", "numpy", "_multiarray_umath", "libtsan", "PIL"]
    for name in names:
        assert counted(race([name + ".so"], [name + ".so"])) == (1, {})
