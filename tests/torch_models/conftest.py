"""What holds for all tests of torch modules: torch computes with one thread."""

from __future__ import annotations

from helpers.one_torch_thread import one_torch_thread as one_torch_thread
