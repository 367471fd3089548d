"""Turns unexpected exceptions of the graph analysis (bugs of camrt) into `UnsupportedModelError`.

The analysis of a graph refuses what it does not know with a reason, and looks at what it takes for granted
when the file is read (`camrt.export.io.schema_checks`, `camrt.export.io.operand_checks`). Should a file come
through all that and still make it fail, a server that catches `CamrtError` goes on; the error says that the
fault is ours, and has the exception that it came from as its cause.

    with report_internal_errors("model.onnx"):
        analyse(graph)

Where the environment variable `CAMRT_INTERNAL_ERRORS` is "raise", as in the tests and in the fuzzer, nothing
is translated.
"""

from __future__ import annotations

import os
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

from camrt.errors import CamrtError, UnsupportedModelError

__all__ = ["report_internal_errors"]

VARIABLE = "CAMRT_INTERNAL_ERRORS"

# What taking a graph for something that it is not leads to. Not OSError, RuntimeError or MemoryError, which
# the machine and the runtimes raise, and which mean something else.
INTERNAL_ERRORS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    RecursionError,
    StopIteration,
    TypeError,
    ValueError,
)


@contextmanager
def report_internal_errors(what: str) -> Iterator[None]:
    """Makes an `UnsupportedModelError` of what the analysis of a graph fails with.

    Args:
        what: What is analysed, for the message.

    Raises:
        UnsupportedModelError: The block failed with anything that camrt does not raise on purpose.
    """
    try:
        yield
    except CamrtError:
        raise
    except INTERNAL_ERRORS as error:
        if os.environ.get(VARIABLE) == "raise":
            raise
        raise UnsupportedModelError(
            f"{what} could not be understood ({type(error).__name__} in {_place(error)}), which is a fault "
            "of camrt's: please report it, with the file if you may"
        ) from error


def _place(error: BaseException) -> str:
    """The last function of ours that an exception came through."""
    names = [
        f"{frame.f_globals['__name__']}.{frame.f_code.co_name}"
        for frame, _ in traceback.walk_tb(error.__traceback__)
        if str(frame.f_globals.get("__name__", "")).startswith("camrt.")
    ]
    return (names or ["camrt"])[-1]
