"""Batches that memory does not hold are halved, and nothing that was run is lost."""

import warnings

import numpy as np
import pytest

import camrt
from camrt.engine.runtime.batch_splitting import OomSplitter, allocate_buffer
from camrt.errors import BackendError, SmallerBatchWarning
from helpers.tolerances import assert_close

torch = pytest.importorskip("torch")

from camrt.engine.heads import factored  # noqa: E402
from helpers.torch_nets import Modular, build_net, random_images  # noqa: E402


class Full(Exception):  # noqa: N818 (stands for another library's)
    """Memory is short."""


def holding(most):
    """Rows run, at most so many at once, and where each piece began and ended."""
    made = []

    def run(start, end):
        if end - start > most:
            raise Full(f"{end - start} rows")
        made.append((start, end))
        return list(range(start, end))

    return run, made


def test_what_fits_is_run_as_it_is():
    run, made = holding(9)
    assert OomSplitter("model", (Full,)).run_in_pieces(9, run) == [list(range(9))]
    assert made == [(0, 9)]


def test_pieces_are_halved_until_they_fit_and_every_row_is_run_once():
    run, made = holding(3)
    freed = []
    halving = OomSplitter("model", (Full,), lambda: freed.append(1))
    with pytest.warns(SmallerBatchWarning, match="does not hold") as said:
        found = halving.run_in_pieces(10, run)
    assert [row for piece in found for row in piece] == list(range(10))
    assert made == [(0, 3), (3, 6), (6, 9), (9, 10)]
    assert [str(one.message).split(":")[0] for one in said] == [
        "the device's memory does not hold 10 rows of the model",
        "the device's memory does not hold 5 rows of the model",
    ]
    assert len(freed) == 2
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # the size is known now
        assert [row for piece in halving.run_in_pieces(7, run) for row in piece] == list(range(7))


def test_a_bound_from_outside_is_kept():
    run, made = holding(9)
    OomSplitter("model", (Full,)).run_in_pieces(9, run, most=4)
    assert made == [(0, 4), (4, 8), (8, 9)]


def test_a_single_row_that_does_not_fit_is_an_error():
    run, _ = holding(0)
    with (
        pytest.warns(SmallerBatchWarning),
        pytest.raises(BackendError, match="does not hold a single row of the mod"),
    ):
        OomSplitter("model", (Full,)).run_in_pieces(2, run)


def test_other_errors_pass():
    def run(start, end):
        raise KeyError("other")

    with pytest.raises(KeyError):
        OomSplitter("model", (Full,)).run_in_pieces(2, run)


class Narrow(torch.nn.Module):
    """A classifier on a device that holds three images."""

    def __init__(self, most):
        super().__init__()
        torch.manual_seed(0)
        self.convolution = torch.nn.Conv2d(3, 4, 3)
        self.dense = torch.nn.Linear(4, 5)
        self.most = most

    def forward(self, x):
        if len(x) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return self.dense(self.convolution(x).relu().mean((2, 3)))


@pytest.mark.parametrize("method", ["pixab", "ablation", "gradcam", "score", "gradient"])
def test_a_module_is_explained_in_smaller_batches(method):
    batch = np.random.default_rng(0).standard_normal((8, 3, 9, 9), np.float32)
    expected = camrt.load(Narrow(99), size=(9, 9), batch_size=8).explain(batch, method)
    narrow = camrt.load(Narrow(3), size=(9, 9), batch_size=8)
    with pytest.warns(SmallerBatchWarning):
        found = narrow.explain(batch, method)
    assert_close(found.maps, expected.maps, factor=20)  # other batches round otherwise
    assert_close(found.logits, expected.logits, factor=4)


def test_a_module_that_holds_nothing_says_so():
    module = Narrow(3)
    engine = camrt.load(module, size=(9, 9))
    module.most = 0
    with pytest.raises(BackendError, match="does not hold a single row of the Narrow"):
        engine.predict(np.zeros((1, 3, 9, 9), np.float32))


@pytest.fixture
def short(monkeypatch):
    """A kernel on tensors that finds too little memory for more than two images' boxes."""
    plain = factored.box_probabilities_pair

    def full(cells, *rest, **options):
        if len(cells) > 2:
            raise torch.OutOfMemoryError(f"{len(cells)} images")
        return plain(cells, *rest, **options)

    monkeypatch.setattr(factored, "box_probabilities_pair", full)


def test_memory_that_a_head_lacks_halves_the_batch(short):
    net = build_net(Modular)
    engine = camrt.load(net, target="relu", size=(12, 16))
    batch = random_images(7)
    with pytest.warns(SmallerBatchWarning) as said:
        found = engine.explain(batch, "pixab", targets=np.arange(7) % 5)
    assert ["7 rows of the batch: 4 are" in str(said[0].message), len(said)] == [True, 2]
    assert found.passes.trunk == 7
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = engine.explain(batch, "pixab", targets=np.arange(7) % 5)
        pairs = [
            engine.explain(batch[i : i + 2], "pixab", targets=np.arange(7)[i : i + 2] % 5)
            for i in (0, 2, 4, 6)
        ]
    np.testing.assert_array_equal(found.maps, again.maps)
    np.testing.assert_array_equal(found.maps, np.concatenate([pair.maps for pair in pairs]))


def test_per_image_that_does_not_fit_is_an_error(monkeypatch):
    def full(*_, **__):
        raise torch.OutOfMemoryError("no memory")

    monkeypatch.setattr(factored, "box_probabilities_pair", full)
    engine = camrt.load(build_net(Modular), target="relu", size=(12, 16))
    with pytest.warns(SmallerBatchWarning), pytest.raises(BackendError, match="a single row of the batch"):
        engine.explain(random_images(2), "pixab")


def test_room_for_altered_inputs_is_halved():
    sizes = []

    def rows(shape):
        sizes.append(shape)
        if shape[0] > 3:
            raise torch.OutOfMemoryError("no memory")
        return np.zeros(shape)

    with pytest.warns(SmallerBatchWarning) as said:
        assert allocate_buffer(rows, 10, (4, 2), torch.zeros(1)).shape == (3, 4, 2)
    assert "does not hold 10 rows of the altered model's input: 5 are" in str(said[0].message)
    assert sizes == [(10, 4, 2), (5, 4, 2), (3, 4, 2)]
    with (
        pytest.warns(SmallerBatchWarning),
        pytest.raises(BackendError, match="does not hold a single altered row"),
    ):
        allocate_buffer(lambda shape: rows((9, *shape)), 2, (1,), torch.zeros(1))
