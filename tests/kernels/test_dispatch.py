"""Kernels take tensors as they take arrays: the same numbers, in the memory they lie in."""

import sys
from types import ModuleType

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from camrt.kernels import dispatch  # noqa: E402
from camrt.kernels.ablate import ablate_boxes, ablate_channels  # noqa: E402
from camrt.kernels.blur import blur  # noqa: E402
from camrt.kernels.box_probabilities import box_probabilities, box_probabilities_pair  # noqa: E402
from camrt.kernels.box_scores import box_scores  # noqa: E402
from camrt.kernels.box_sums import box_sums  # noqa: E402
from camrt.kernels.first_layer_difference import first_layer_boxes, first_layer_channels  # noqa: E402
from camrt.kernels.masked_batch import masked_batch  # noqa: E402
from camrt.kernels.partial_products import partial_products  # noqa: E402
from camrt.kernels.perturb import perturb  # noqa: E402
from camrt.kernels.rank_one import rank_one  # noqa: E402
from camrt.kernels.saliency import saliency  # noqa: E402

ROWS = np.array([1, 0, 1])
CHANNEL = np.array([2, 0, 3])
BOXES = np.array([(0, 0, 1, 2), (1, 1, 3, 3), (0, 0, 3, 3)])
TARGETS = np.array([[4, 0], [1, 1]])


def normal(*shape):
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


MAPS = normal(2, 4, 3, 3)
LOGITS = normal(2, 5)
RANKS = np.arange(9)[None].repeat(2, 0)
# The shape that each writes, None where it returns what it makes; the function, and its other arguments.
CALLS = {
    "ablate_channels": ((3, 4, 3, 3), ablate_channels, (MAPS, ROWS, CHANNEL), {"threads": 1}),
    "ablate_boxes": ((3, 4, 3, 3), ablate_boxes, (MAPS, ROWS, BOXES), {"keep": True}),
    "blur": (None, blur, (MAPS, [0.25, 0.5, 0.25], "mirror"), {"threads": 2}),
    "box_probabilities": (
        None, box_probabilities, (normal(2, 3, 3, 5), LOGITS, BOXES, TARGETS), {"sign": -1, "threads": 1},
    ),
    "box_probabilities_pair": (
        None, box_probabilities_pair, (normal(2, 3, 3, 5), LOGITS, LOGITS[::-1].copy(), BOXES, TARGETS), {},
    ),
    "box_scores": (
        None, box_scores, (MAPS, normal(5, 4), LOGITS, LOGITS[::-1].copy(), BOXES, TARGETS), {"scale": 0.1},
    ),
    "box_sums": (None, box_sums, (normal(2, 3, 3, 2), BOXES), {"threads": 1}),
    "first_layer_boxes": (
        (3, 5), first_layer_boxes, (LOGITS, normal(2, 3, 3, 5), ROWS, BOXES), {"keep": False},
    ),
    "first_layer_channels": ((3, 5), first_layer_channels, (LOGITS, normal(2, 4, 5), ROWS, CHANNEL), {}),
    "masked_batch": ((3, 3, 7, 5), masked_batch, (MAPS, normal(2, 3, 7, 5), ROWS, CHANNEL), {}),
    "partial_products": (None, partial_products, (normal(6, 4, 9), normal(2, 4, 9)), {"by": "cell"}),
    "perturb": ((3, 4, 3, 3), perturb, (MAPS, RANKS, ROWS, [3, 0, 9], ROWS, ROWS[::-1].copy()), {}),
    "rank_one": ((3, 5, 9), rank_one, (normal(2, 5, 9), normal(4, 5), normal(2, 4, 9), ROWS, CHANNEL), {}),
    "saliency": (None, saliency, (normal(4, 3, 3), (7, 5)), {"normalisation": "minmax"}),
}  # fmt: skip


def as_tensors(values):
    return [torch.from_numpy(value) if isinstance(value, np.ndarray) else value for value in values]


def results(function, arguments, out, options):
    """What is written, and what is returned."""
    found = function(*arguments, *([] if out is None else [out]), **options)
    return [each for each in (out, *(found if isinstance(found, tuple) else (found,))) if each is not None]


@pytest.mark.parametrize("name", CALLS)
def test_tensors_on_the_host_give_the_same_bits(name):
    shape, function, arguments, options = CALLS[name]
    expected = results(function, arguments, shape and np.full(shape, np.nan, np.float32), options)
    found = results(function, as_tensors(arguments), shape and torch.full(shape, torch.nan), options)
    assert len(found) == len(expected) > 0
    for mine, theirs in zip(found, expected, strict=True):
        assert isinstance(mine, torch.Tensor)
        np.testing.assert_array_equal(mine.numpy(), theirs, strict=True)


@pytest.mark.parametrize("written", [torch.float16, torch.float32, torch.float64])
@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_out_is_written_whatever_its_type_and_layout(kind, written, layout):
    plain = torch.from_numpy(MAPS).to(kind)
    out = torch.full((3, 4, 3, 3), torch.nan, dtype=written).contiguous(memory_format=layout)
    ablate_channels(plain, torch.from_numpy(ROWS), channel=torch.from_numpy(CHANNEL), out=out)
    expected = plain[ROWS].to(written)
    expected[range(3), CHANNEL] = 0
    assert torch.equal(out, expected)


def test_float64_stays_float64():
    cells = torch.from_numpy(normal(2, 3, 3, 2)).double()
    assert box_sums(cells, BOXES).dtype == torch.float64
    out = torch.full((3, 4, 3, 3), torch.nan, dtype=torch.float64)
    ablate_boxes(torch.from_numpy(MAPS).double(), ROWS, BOXES, out, keep=False)
    assert out.isfinite().all()


def test_what_needs_a_gradient_is_only_read():
    cells = torch.from_numpy(normal(1, 3, 3, 2)).requires_grad_()
    assert not box_sums(cells, BOXES).requires_grad


def test_errors_are_those_of_arrays():
    with pytest.raises(ValueError, match="cells must be an array of float32 or float64, got int64"):
        box_sums(torch.zeros(1, 3, 3, 2, dtype=torch.int64), BOXES)
    with pytest.raises(TypeError, match="positional argument"):
        box_sums(torch.zeros(1, 3, 3, 2), BOXES, 1)
    with pytest.raises(TypeError, match="cells"):
        box_sums(boxes=BOXES)


def test_a_kernel_is_its_folder(monkeypatch):
    """A function of one module, and that of the same name in its `gpu`, are all that is asked for."""
    package, gpu = ModuleType("camrt.kernels.doubled"), ModuleType("camrt.kernels.doubled.gpu")
    monkeypatch.setitem(sys.modules, package.__name__, package)
    monkeypatch.setitem(sys.modules, gpu.__name__, gpu)

    def double(values, table, *, threads=None):
        assert isinstance(values, np.ndarray)
        assert threads in (None, 3)
        return 2 * values, None

    def on_gpu(values, table):
        assert isinstance(values, torch.Tensor)
        assert isinstance(table, torch.Tensor)
        return values + values, table

    double.__module__ = package.__name__
    gpu.double = on_gpu
    run = dispatch.dispatched(host=("table",))(double)
    table = np.arange(3)
    assert run(np.ones(2), table, threads=3)[0].tolist() == [2, 2]
    found, nothing = run(torch.ones(2), table=table, threads=3)
    assert (found.tolist(), nothing) == ([2, 2], None)
    monkeypatch.setitem(dispatch.DEVICE_BACKENDS, "cpu", "gpu")
    for found, given in (run(torch.ones(2), table, threads=3), run(values=torch.ones(2), table=table)):
        assert (found.tolist(), given.tolist()) == ([2, 2], [0, 1, 2])


def test_backends_and_what_the_host_sees():
    host, device = torch.zeros(1), torch.zeros(1, device="meta")
    assert [dispatch.backend_of(one) for one in (np.zeros(1), [1.0], host, device)] == [
        "numpy", "numpy", "cpu", "gpu",
    ]  # fmt: skip
    assert [dispatch.host_readable(one) for one in (np.zeros(1), host, device)] == [True, True, False]


def test_constants_are_copied_once():
    values = np.arange(4)
    assert dispatch.constant_like(values, np.zeros(1)) is values
    first = dispatch.constant_like(values, torch.zeros(1))
    assert first is dispatch.constant_like(values.copy(), torch.ones(2))
    values[0] = 9
    assert first.tolist() == [0, 1, 2, 3]
