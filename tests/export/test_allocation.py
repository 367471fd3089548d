"""Arrays whose size a file decides are asked for (`camrt.export.allocation`), wherever graphs are read."""

import ast
from pathlib import Path

import numpy as np
import pytest

import camrt.export
from camrt.errors import MemoryLimitError
from camrt.export.allocation import arange, broadcast_to, diagonal, eye, matmul, ones, zeros
from camrt.export.budget import Budget, within_budget

MAKERS = {
    "zeros", "ones", "empty", "full", "eye", "identity", "diag", "arange", "tile", "repeat", "kron", "pad",
    "linspace", "indices", "standard_normal",
}  # fmt: skip
FINE = {
    "allocation.py": MAKERS,
    "affine.py": {"arange"},  # rows of a weight, asked for
    "axis_roles.py": {"arange"},  # as long as a constant
    "batch_axis.py": {"empty"},  # as long as a shape
    "builtin_preprocessing.py": {"diag"},  # of a weight
    "factoring.py": {"arange"},  # as long as an array there is
    "image_gathers.py": {"arange"},  # as long as a constant
    "resizing.py": {"arange", "ones"},  # as long as a matrix that was asked for, or as a shape
    "data_movement.py": {"arange", "zeros"},  # likewise
    "padding.py": {"zeros"},  # as long as a shape
    "quantised.py": {"ones"},  # as long as a constant
    "value_propagation.py": {"arange", "full", "ones", "empty"},  # of `MAX_VALUES` at most, by inference
}


def makers_in(path):
    """The functions that make arrays there, but those whose size is written there."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            continue
        of = node.func.value
        if node.func.attr not in MAKERS or not isinstance(of, ast.Name) or of.id not in ("np", "numpy"):
            continue
        try:
            ast.literal_eval(node.args[0])
        except ValueError:
            yield node.func.attr, node.lineno


def test_what_reads_graphs_makes_no_array_without_asking():
    folder = Path(camrt.export.__file__).parent
    found = {
        f"{path.relative_to(folder)}:{line} np.{name}"
        for path in folder.rglob("*.py")
        for name, line in makers_in(path)
        if name not in FINE.get(path.name, set())
    }
    assert not found, f"make these by camrt.export.allocation, or say here why not: {sorted(found)}"


HUGE = 1 << 40


@pytest.mark.parametrize(
    "make",
    [
        lambda: zeros((HUGE, 2), "it"),
        lambda: ones(HUGE, "it", np.float32),
        lambda: arange(HUGE, "it"),
        lambda: eye(1 << 20, "it"),
        lambda: diagonal(np.zeros(1 << 16), "it"),
        lambda: broadcast_to(np.zeros(1), (HUGE,), "it"),
        lambda: matmul(np.zeros((1 << 16, 1)), np.zeros((1, 1 << 16)), "it"),
        lambda: zeros((1 << 62, 1 << 62), "it"),
    ],
)
def test_more_than_may_be_taken_is_refused(make):
    with (
        within_budget(Budget(1 << 30, call="loading")),
        pytest.raises(MemoryLimitError, match=r"loading needs .* it "),
    ):
        make()


def test_what_may_be_taken_is_what_numpy_makes():
    left, right = np.arange(6.0).reshape(2, 3), np.arange(3.0)
    for made, expected in (
        (zeros((2, 3), "it"), np.zeros((2, 3))),
        (ones(3, "it", np.float32), np.ones(3, np.float32)),
        (arange(4, "it"), np.arange(4)),
        (arange(4, "it", np.float32), np.arange(4, dtype=np.float32)),
        (eye(3, "it"), np.eye(3)),
        (diagonal(right, "it"), np.diag(right)),
        (broadcast_to(right, (2, 3), "it"), np.broadcast_to(right, (2, 3))),
        (matmul(left, right, "it"), left @ right),
        (matmul(left, left.T, "it"), left @ left.T),
    ):
        assert made.dtype == expected.dtype
        assert made.flags.writeable
        np.testing.assert_array_equal(made, expected)
