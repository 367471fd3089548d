"""Where there is no GPU, GPU kernels run in Triton's interpreter, on the CPU.

Import this before anything that defines a kernel: Triton reads then whether it interprets. As a program it
runs a script so: PYTHONPATH=tests python -m helpers.triton_interpreter SCRIPT ARGUMENTS.

Most of an interpreted kernel's time goes into looking up names, making types and checking shapes, not into
its numbers. Functions here take the place of those that cost most: they do the same, and do once what does
not change. Other versions of Triton than they were written for, 3.6 and 3.9, are left alone.
"""

from __future__ import annotations

import os
import runpy
import sys
from collections.abc import Callable
from functools import cache
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")
INTERPRETED = not torch.cuda.is_available()
if INTERPRETED:
    os.environ["TRITON_INTERPRET"] = "1"
triton = pytest.importorskip("triton")

from triton import language  # noqa: E402
from triton._utils import validate_block_shape  # noqa: E402
from triton.language.semantic import TritonSemantic  # noqa: E402
from triton.runtime import interpreter  # noqa: E402

EXACT = {"add": np.add, "sub": np.subtract, "mul": np.multiply}


def call_device_function(self: Any, *args: Any, **kwargs: Any) -> Any:
    """Call a function that a kernel calls, and replace Triton's language only where that is not done yet.

    The interpreter replaces the functions of `triton.language` by such as compute, at each launch. At each
    call of a device function it looks for them again, among hundreds of names.
    """
    modules = [module for module in (language, language.core) if module in self.fn.__globals__.values()]
    if any(language.core.is_builtin(module.load) for module in modules):
        interpreter._patch_lang(self.fn)
    try:
        return self.rewrite()(*args, **kwargs)
    except Exception as error:
        raise interpreter.InterpreterError(repr(error)) from error


def numpy_type(kind: Any) -> np.dtype[Any]:
    """The type of the array that holds numbers of a type; the interpreter makes a table of all each time."""
    scalar = kind.scalar
    return np.dtype(np.uint64) if scalar.is_ptr() else numpy_type_of_scalar(scalar)


def check_overflow(self: Any, lhs: Any, rhs: Any, operation: Callable[..., Any]) -> None:
    """Fail where integers overflow, as Triton's own check does by some twenty steps of its language."""
    kind = lhs.type.scalar
    if kind.int_bitwidth < 64:
        assert rhs.type.scalar == kind, f"{kind} and {rhs.type.scalar}"
        exact = EXACT[operation.__name__](lhs.handle.data, rhs.handle.data, dtype=np.int64)
        fits = kind.get_int_min_value() <= exact.min() and exact.max() <= kind.get_int_max_value()
        assert fits, f"{kind} overflows: {operation.__name__}"


@cache
def block_shape(*sides: int) -> tuple[Any, int, str]:
    """The sides of a block, the number of its elements, and how its type is named."""
    shape = language.tuple(sides)
    return shape, validate_block_shape(sides), str(shape)


def make_block_type(self: Any, element_ty: Any, shape: Any) -> None:
    """Make a type of blocks, and look at each shape but once."""
    sides = [side.value if isinstance(side, language.constexpr) else side for side in shape]
    if not sides:
        raise TypeError("0d block_type is forbidden")
    self.shape, self.numel, name = block_shape(*sides)
    self.element_ty, self.name = element_ty, f"<{name}, {element_ty}>"


@cache
def tensor_shape(*sides: int) -> tuple[Any, Any]:
    """The sides of a tensor and the number of its elements, as kernels see them."""
    return language.tuple([language.constexpr(side) for side in sides]), language.constexpr(prod(sides))


def make_tensor(self: Any, handle: Any, kind: Any) -> None:
    """Make a tensor, of a shape that is made but once."""
    self.handle, self.type, self.dtype = handle, kind, kind.scalar
    self.shape, self.numel = tensor_shape(*(kind.shape.values if kind.is_block() else ()))


def patch_tensor(tensor: Any, scope: Any) -> None:
    """Give tensors the interpreter's methods, and have loops count by its numbers as Triton 3.9 does.

    The interpreter holds a kernel's numbers in arrays of one element. Triton 3.6 makes an index of one by
    `int`, which NumPy refuses from 2.4 on.
    """
    patch_tensor_as_before(tensor, scope)
    scope.set_attr(tensor, "__index__", lambda self: int(self.handle.data.squeeze()))


if INTERPRETED and triton.__version__.startswith(("3.6.", "3.9.")):
    language.block_type.__init__ = make_block_type
    language.tensor.__init__ = make_tensor
    interpreter.InterpretedFunction.__call__ = call_device_function
    numpy_type_of_scalar = cache(interpreter._get_np_dtype)
    interpreter._get_np_dtype = numpy_type
    TritonSemantic.binary_op_sanitize_overflow_impl = check_overflow
    patch_tensor_as_before = interpreter._patch_lang_tensor
    interpreter._patch_lang_tensor = patch_tensor

if __name__ == "__main__":
    del sys.argv[0]
    sys.path.insert(0, str(Path(sys.argv[0]).parent))
    runpy.run_path(sys.argv[0], run_name="__main__")
