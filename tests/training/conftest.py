"""Training imports Lightning, which imports torchvision where that is installed."""

from __future__ import annotations

from importlib.util import find_spec

from helpers.one_torch_thread import one_torch_thread as one_torch_thread
from helpers.peer_libraries import mend_torchvision

if find_spec("torch") is not None:
    mend_torchvision()
