"""Training imports Lightning, which imports torchvision where that is installed."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec

import pytest

from helpers.peer_libraries import mend_torchvision

if find_spec("torch") is not None:
    mend_torchvision()


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    """The networks are small: threads that wait for each other take longer, on a busy machine many times."""
    if find_spec("torch") is None:
        yield
        return
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
