"""The threads that kernels keep: calls at once, children, the end of the process, processors and signals."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from camrt.kernels.blur import blur

LIMIT = 200  # seconds, of a busy machine
TASKS = Path("/proc/self/task")

pytestmark = pytest.mark.usefixtures("native")
listing = pytest.mark.skipif(not TASKS.is_dir(), reason="this system does not list a process's threads")
forking = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")

PRELUDE = """
import os, signal, sys, threading, time
import numpy as np
from camrt.kernels.blur import blur

images = np.random.default_rng(0).standard_normal((64, 3, 64, 64)).astype(np.float32)
taps = np.full(9, 1 / 9)

def answer(threads):
    return blur(images, taps, "mirror", threads=threads).tobytes()

def tasks():
    return set(os.listdir("/proc/self/task"))

def stopped(condition):
    "Whether it holds in the end."
    until = time.monotonic() + LIMIT / 2
    while not condition() and time.monotonic() < until:
        answer(3)
    return condition()

alone = answer(1)
"""


def run(code: str) -> str:
    """What a program of its own prints; it must end by itself, without a complaint.

    No sanitizer watches it, as they watch these tests: they do not know threads that are started in children.
    """
    kept = {name: value for name, value in os.environ.items() if name not in ("LD_PRELOAD", "PYTHONMALLOC")}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", f"LIMIT = {LIMIT}\n{PRELUDE}{code}"],
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
        env={**kept, "OPENBLAS_NUM_THREADS": "1"},
    )
    assert (done.returncode, done.stderr) == (0, ""), done
    return done.stdout.strip()


@listing
def test_threads_are_kept_and_no_more_than_were_asked_for():
    code = """
before = tasks()
answer(1)
print(len(tasks() - before))
answer(4)
kept = tasks() - before
print(len(kept))
for _ in range(50):
    assert answer(4) == alone
    assert answer(2) == alone
print(tasks() - before == kept)
answer(100_000)
print(len(tasks() - before) < max(os.cpu_count(), 16))
"""
    assert run(code).split() == ["0", "3", "True", "True"]


def test_callers_at_once_and_alone_are_answered_alike(rng):
    shapes = [(int(n), 3, int(h), 40) for n, h in rng.integers(1, 64, size=(12, 2))]
    given = [rng.standard_normal(shape).astype(np.float32) for shape in shapes]
    taps = np.full(5, 0.2)
    alone = [blur(images, taps, "zero", threads=1).tobytes() for images in given]

    def ask(place: int) -> bool:
        turned = [*range(place, len(given)), *range(place)] * 10
        return all(blur(given[i], taps, "zero", threads=1 + i % 5).tobytes() == alone[i] for i in turned)

    with ThreadPoolExecutor(8) as callers:
        assert all(callers.map(ask, range(8)))


@forking
def test_children_have_threads_of_their_own_whatever_their_parent_was_doing():
    code = """
ending = threading.Event()

def busy():
    while not ending.is_set():
        answer(4)

callers = [threading.Thread(target=busy) for _ in range(3)]
for caller in callers:
    caller.start()
answer(4)

def child(depth):
    number = os.fork()
    if number == 0:
        right = all(answer(4) == alone for _ in range(5))
        if depth:
            right = right and os.waitstatus_to_exitcode(os.waitpid(child(depth - 1), 0)[1]) == 7
        os._exit(7 if right else 1)
    return number

children = [child(number % 2) for number in range(16)]
ended = {os.waitstatus_to_exitcode(os.waitpid(number, 0)[1]) for number in children}
ending.set()
for caller in callers:
    caller.join()
print(ended, answer(4) == alone)
"""
    assert run(code) == "{7} True"


@pytest.mark.parametrize(
    "end",
    [
        "",
        "sys.exit(0)",
        "threading.Thread(target=answer, args=(4,)).start()",
        "os._exit(0)",
    ],
)
def test_a_process_ends_whatever_its_threads_do(end: str):
    assert run(f"answer(4)\nprint('done', flush=True)\n{end}") == "done"


@pytest.mark.skipif(sys.platform != "linux", reason="address space is limited by Linux alone")
def test_a_thread_without_memory_ends_the_call_and_not_the_pool():
    code = """
import resource
from camrt.kernels import _native
answer(4)
maps = np.zeros((8, 3000, 3000), np.uint8)
best, starts = np.zeros((8, 256)), np.zeros(9, np.int64)
used = int(open("/proc/self/statm").read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
resource.setrlimit(resource.RLIMIT_AS, (used + 30_000_000, -1))
try:
    _native.best_overlaps(maps, np.zeros((0, 4), np.int64), starts, best, 4)
except MemoryError as error:
    print(type(error).__name__)
print(answer(4) == alone)
"""
    assert run(code).split() == ["MemoryError", "True"]


@pytest.mark.skipif(
    not hasattr(os, "sched_setaffinity"), reason="this system does not bind threads to processors"
)
@listing
def test_threads_go_where_their_caller_may():
    code = """
answer(3)
allowed = sorted(os.sched_getaffinity(0))
for wanted in ({allowed[0]}, set(allowed), {allowed[-1]}):
    os.sched_setaffinity(0, wanted)
    print(stopped(lambda: all(os.sched_getaffinity(int(task)) == wanted for task in tasks())))
"""
    assert run(code).split() == ["True"] * 3


@pytest.mark.skipif(not hasattr(signal, "sigtimedwait"), reason="no sigtimedwait")
def test_a_signal_that_a_program_waits_for_is_not_taken_by_a_kept_thread():
    code = """
answer(4)
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})
for _ in range(20):
    os.kill(os.getpid(), signal.SIGUSR1)
    assert signal.sigtimedwait({signal.SIGUSR1}, LIMIT / 4) is not None
print("waited for")
"""
    assert run(code) == "waited for"
