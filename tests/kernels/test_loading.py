import os
import subprocess
import sys

import pytest

HIDE = "import sys; sys.modules['camrt.kernels._native'] = None; "


def python(code, kernels=None):
    environment = {name: value for name, value in os.environ.items() if name != "CAMRT_KERNELS"}
    if kernels is not None:
        environment["CAMRT_KERNELS"] = kernels
    return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)


def test_reference_can_be_forced():
    result = python("import camrt.kernels as k; print(k.IMPLEMENTATION)", "reference")
    assert result.stdout.strip() == "reference"
    assert not result.stderr


def test_native_is_the_default(native):
    result = python("import camrt.kernels as k; print(k.IMPLEMENTATION)")
    assert result.stdout.strip() == "native"
    assert not result.stderr


def test_missing_native_warns_once_and_says_how_to_rebuild():
    code = HIDE + "import camrt.kernels as k, camrt.kernels.box_sums; print(k.IMPLEMENTATION)"
    result = python(code)
    assert result.stdout.strip() == "reference"
    assert result.stderr.count("ReferenceKernelWarning") == 1
    assert "the slower NumPy reference is in use" in result.stderr
    assert "reinstall camrt" in result.stderr


@pytest.mark.parametrize(
    ("kernels", "message"),
    [
        ("native", "CAMRT_KERNELS asks for the native kernels, but"),
        ("fast", "must be 'native' or 'reference'"),
    ],
)
def test_a_choice_that_cannot_be_met_is_an_error(kernels, message):
    result = python(HIDE + "import camrt.kernels", kernels)
    assert result.returncode != 0
    assert "ImportError" in result.stderr
    assert message in result.stderr


def test_native_refuses_sizes_that_would_write_out_of_bounds(native):
    import numpy as np

    from camrt.kernels import _native

    with pytest.raises(ValueError, match="out has the wrong shape"):
        _native.partial_products(np.zeros((4, 3, 2)), np.zeros((1, 3, 2)), True, np.zeros((1, 3, 3)), 1)
    with pytest.raises(ValueError, match="boxes out of range"):
        _native.box_sums(np.zeros((1, 2, 2, 1)), np.array([[0, 0, 3, 1]]), np.zeros((1, 1, 1)), 1)
    with pytest.raises(TypeError):
        _native.box_sums(np.zeros((1, 2, 2, 2))[..., ::2], np.array([[0, 0, 1, 1]]), np.zeros((1, 1, 1)), 1)
