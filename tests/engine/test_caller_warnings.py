from __future__ import annotations

import threading

import pytest

from camrt.engine.caller_warnings import silence_warnings, warn_caller
from camrt.errors import DegenerateMapWarning, InputRangeWarning


def test_warnings_are_silenced_by_category_and_thread() -> None:
    with silence_warnings(DegenerateMapWarning):
        warn_caller("degenerate", DegenerateMapWarning)
        with pytest.warns(InputRangeWarning):
            warn_caller("range", InputRangeWarning)
        found: list[type[BaseException]] = []

        def warn() -> None:
            try:
                warn_caller("degenerate", DegenerateMapWarning)
            except DegenerateMapWarning as warning:
                found.append(type(warning))

        thread = threading.Thread(target=warn)
        thread.start()
        thread.join()
    assert found == [DegenerateMapWarning]
    with pytest.warns(DegenerateMapWarning):
        warn_caller("degenerate", DegenerateMapWarning)
