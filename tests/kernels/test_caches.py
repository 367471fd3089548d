"""Caches that are bounded by bytes (`camrt.kernels.caches`)."""

import os
import threading
from dataclasses import dataclass

import numpy as np
import pytest

from camrt.kernels.caches import ByteCache, bytes_of, cache_by_bytes


def zeros(count):
    return lambda: np.zeros(count, np.uint8)


def test_what_was_asked_for_longest_ago_goes_first():
    cache = ByteCache(10_000)
    first = cache.get("first", zeros(4000))
    cache.get("second", zeros(4000))
    assert cache.get("first", zeros(1)) is first
    cache.get("third", zeros(4000))
    assert len(cache) == 2
    assert cache.used_bytes <= 10_000
    assert cache.get("first", zeros(1)) is first
    assert len(cache.get("second", zeros(1))) == 1


def test_what_is_larger_than_the_cache_is_made_and_not_kept():
    cache = ByteCache(10_000)
    kept = cache.get("kept", zeros(100))
    assert len(cache.get("large", zeros(20_000))) == 20_000
    assert len(cache) == 1
    assert cache.get("kept", zeros(1)) is kept


def test_any_number_of_entries_stays_within_the_bytes():
    cache = ByteCache(100_000)
    for number in range(10_000):
        cache.get(number, zeros(number % 3000))
        assert cache.used_bytes <= 100_000
    for number in range(10_000):
        cache.get(("nothing", number), lambda: None)
    assert len(cache) < 1000
    cache.clear()
    assert (len(cache), cache.used_bytes) == (0, 0)


def test_bytes_of_keys_count():
    cache = ByteCache(10_000)
    for number in range(10):
        cache.get(bytes([number]) * 5000, lambda: None)
    assert len(cache) == 1


def test_one_answer_is_kept_whoever_was_first():
    cache, begun = ByteCache(), threading.Barrier(4)
    found = []

    def make():
        begun.wait(30)  # all of them are making it
        return np.zeros(3)

    threads = [threading.Thread(target=lambda: found.append(cache.get("it", make))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({id(one) for one in found}) == 1


def test_an_answer_is_remembered_by_what_was_given():
    calls = []

    @cache_by_bytes(10_000)
    def doubled(number, *, times=2):
        """Doubles."""
        calls.append(number)
        return np.full(100, number * times)

    assert doubled(2) is doubled(2)
    assert doubled(2, times=3)[0] == 6
    assert calls == [2, 2]
    assert doubled.__doc__ == "Doubles."
    for number in range(1000):
        doubled(number)
    assert doubled.cache.used_bytes <= 10_000


@dataclass
class Pair:
    left: np.ndarray
    right: tuple


def test_bytes_of_what_holds_arrays():
    array = np.zeros(1000, np.float32)
    assert bytes_of(array) == 4000
    assert 8000 <= bytes_of(Pair(array, (array, None))) < 8500
    assert 4000 <= bytes_of({"name": [array]}) < 4500


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there are no forks")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*:DeprecationWarning")
def test_a_child_does_not_wait_for_the_lock_of_a_thread_that_it_does_not_have():
    cache, held, leave = ByteCache(), threading.Event(), threading.Event()

    def hold():
        with cache._lock:
            held.set()
            leave.wait(30)

    thread = threading.Thread(target=hold)
    thread.start()
    assert held.wait(30)
    child = os.fork()
    if child == 0:
        os._exit(0 if cache.get("it", lambda: 7) == 7 else 1)
    leave.set()
    thread.join()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
