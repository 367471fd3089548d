from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import camrt
from helpers.oracles.classifiers import SmallClassifier


@pytest.fixture
def engine_of(tmp_path: Path) -> Callable[..., camrt.Engine]:
    """Loads a small classifier, cut at its activation."""

    def load(small: SmallClassifier, **options: Any) -> camrt.Engine:
        return camrt.load(small.save(tmp_path), target="activation", threads=1, **options)

    return load
