"""Torch's generators of random numbers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

__all__ = ["preserve_random_state"]


@contextmanager
def preserve_random_state(device: torch.device) -> Iterator[None]:
    """Leaves torch's random generators, of a device too, as they were before the block."""
    on_cpu = device.type == "cpu"
    devices = [] if on_cpu else [device.index or 0]
    with torch.random.fork_rng(devices, device_type="cuda" if on_cpu else device.type):
        yield
