"""What holds for all tests of torch modules."""

from __future__ import annotations

import pytest


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """For nets this small more threads only wait for each other."""
    torch = pytest.importorskip("torch", reason="torch is not installed: pip install 'camrt[torch]'")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
