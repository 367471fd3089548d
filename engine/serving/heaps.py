"""How much memory glibc keeps that was given back: a heap for each of many threads, unless it is told."""

from __future__ import annotations

import ctypes
import os

__all__ = ["bound_heaps"]

ARENA_MAX = -8  # M_ARENA_MAX of glibc's malloc.h
HEAPS = 1


def bound_heaps() -> None:
    """Has glibc make one heap, where the environment says nothing else; before there are threads.

    A service answers in many threads. What one of them gave back to a heap of its own no other can use, and
    the process grows with every thread that meets a large request.
    """
    is_glibc = "CS_GNU_LIBC_VERSION" in getattr(os, "confstr_names", ())
    if is_glibc and "MALLOC_ARENA_MAX" not in os.environ:
        ctypes.CDLL(None).mallopt(ARENA_MAX, HEAPS)
