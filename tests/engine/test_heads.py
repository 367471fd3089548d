"""Every head's shortcut against the definition in float64, and against running the head's graph itself."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper

from camrt.engine.contrast import Rivals
from camrt.engine.cuts import find_adjoint_start
from camrt.engine.device import NUMPY_DEVICE
from camrt.engine.head_making import CutTensors, ModelToCut, make_head, vector_batch_size
from camrt.engine.heads import FactoredHead, GenericHead, Head, QueryContext
from camrt.engine.heads.adjoint import HeadAdjoint
from camrt.engine.heads.last_linear import ScoreRunner
from camrt.engine.passes import PassCounts
from camrt.engine.runtime.ort_cpu import OnnxRuntime
from camrt.engine.scores import ScoreReader, probabilities
from camrt.export.adjoint import build_adjoint_model
from camrt.export.graph.index import Graph, set_shape
from camrt.export.heads.cut import ACTIVATION, FIRST_LAYER, PHI, build_head_model, build_tapped_model
from camrt.export.heads.factoring import MAP, Factors, Unfactored, factor_head
from camrt.export.heads.last_linear import find_last_linear
from camrt.export.rewrites.input_form import IMAGES
from camrt.export.rewrites.interface import LOGITS, Interface
from camrt.export.rewrites.opset_upgrade import upgrade_opset
from helpers.oracles.gradients import hessian_product, numeric_gradient
from helpers.tolerances import assert_close
from helpers.zoo import HEADS, HeadCase, HeadGraph

Array = np.ndarray[Any, Any]

RUNTIME = OnnxRuntime(threads=1)
# Sums of some hundred rounded terms, a linear layer on them, and differences of two such numbers: 16 times
# the rounding of one operation on the largest magnitude that takes part.
SEVERAL_LAYERS = 16.0

CASES = pytest.mark.parametrize("case", [pytest.param(case, id=name) for name, case in HEADS.items()])
LINEAR = [name for name, case in HEADS.items() if case.kind.endswith("linear")]
POOLED_LINEAR = [name for name, case in HEADS.items() if case.kind == "pooled-linear"]
repeatable = settings(deadline=None, derandomize=True, database=None)


class Spy:
    """A runner that remembers how many rows each batch had, and how wide its answers were."""

    def __init__(self, runner: Any) -> None:
        self.runner = runner
        self.sizes: list[int] = []
        self.widths: set[int] = set()

    @property
    def outputs(self) -> tuple[str, ...]:
        return self.runner.outputs

    def allocate_rows(self, shape: tuple[int, ...]) -> Array:
        return self.runner.allocate_rows(shape)

    def __call__(self, batch: Array, fetch: Any = None, extra_inputs: Any = None) -> list[Array]:
        self.sizes.append(len(batch))
        answers = self.runner(batch, fetch, extra_inputs)
        self.widths.update(answer.shape[1] for answer in answers)
        return answers


@dataclass
class SpyRuntime:
    """The runtime, each runner of which is a spy."""

    spies: list[Spy]
    name: str = "spy"
    supports_scatter_add: bool = True
    splits_last_layer: bool = True
    device: Any = NUMPY_DEVICE

    def make_runner(self, model: onnx.ModelProto, *, label: str, batch: int | None = None) -> Spy:
        self.spies.append(Spy(RUNTIME.make_runner(model, label=label, batch=batch)))
        return self.spies[-1]


@dataclass
class Cut:
    """A head of the zoo, cut and factored as `camrt.load` does it, beside the generic answer."""

    part: HeadGraph
    factors: Factors | Unfactored
    head: Head
    generic: GenericHead
    whole: Any
    spies: list[Spy]
    batch_size: int

    def asked(
        self,
        activations: Array,
        targets: Array,
        kind: str = "logit",
        activation: str = "softmax",
        logits: Array | None = None,
    ) -> QueryContext:
        wanted = [LOGITS, ACTIVATION, *({PHI, FIRST_LAYER} & set(self.whole.outputs))]
        outputs = dict(zip(wanted, self.whole(activations, wanted), strict=True))
        found = outputs.pop(LOGITS) if logits is None else logits
        return QueryContext(
            outputs.pop(ACTIVATION), found, ScoreReader(targets, kind, activation), PassCounts(), outputs
        )


def whole_model(part: HeadGraph, *, open_size: bool = False) -> onnx.ModelProto:
    """A standardised model whose images are the activation itself."""
    graph = helper.make_graph(
        [
            helper.make_node("Identity", [IMAGES], ["A"]),
            *part.nodes,
            helper.make_node("Identity", ["logits"], [LOGITS]),
        ],
        "whole",
        [helper.make_tensor_value_info(IMAGES, TensorProto.FLOAT, None)],
        [helper.make_tensor_value_info(LOGITS, TensorProto.FLOAT, ["N", part.classes])],
        part.initializers,
    )
    set_shape(graph.input[0], ["N", part.shape[0], *(("h", "w") if open_size else part.shape[1:])])
    imports = [helper.make_opsetid("", part.opset)]
    model = helper.make_model(graph, opset_imports=imports, ir_version=8)
    assert upgrade_opset(model)
    return model


def cut(part: HeadGraph, batch_size: int = 4, *, open_size: bool = False) -> Cut:
    model = whole_model(part, open_size=open_size)
    channels, height, width = part.shape
    graph = Graph(model, (5, channels, height, width))
    factors = factor_head(graph, "A", None)
    interface = Interface(
        channels=channels,
        height=height,
        width=width,
        batch=None,
        num_classes=part.classes,
        activation="softmax",
        recognised=None,
        layout="NCHW",
    )
    runtime = SpyRuntime([])
    start = find_adjoint_start("A", factors)
    last = None if start is None else find_last_linear(graph, start)
    tensors = CutTensors(target="A", around=(), factors=factors, start=start, vectors=(), last=last)
    whole = ModelToCut(model=model, graph=graph, interface=interface, batch_size=batch_size, threads=1)
    head = make_head(whole, tensors, runtime)
    taps = {ACTIVATION: "A"} | ({FIRST_LAYER: start} if start not in (None, "A") else {})
    if isinstance(factors, Factors) and factors.phi_tensor is not None:
        taps[PHI] = factors.phi_tensor
    runner = RUNTIME.make_runner(
        build_head_model(model, graph, "A", LOGITS, input_name=MAP, batch=None), label="head"
    )
    back = build_adjoint_model(model, graph, "A", input_name=MAP, batch=None)
    adjoint = HeadAdjoint(RUNTIME.make_runner(back, label="head's adjoint"))
    return Cut(
        part,
        factors,
        head,
        GenericHead(ScoreRunner(runner), adjoint, batch_size, "asked for"),
        RUNTIME.make_runner(build_tapped_model(model, graph, taps), label="model"),
        runtime.spies,
        batch_size,
    )


def make_part(
    case: HeadCase, seed: int, shape: tuple[int, int, int] = (6, 4, 3), classes: int = 4
) -> HeadGraph:
    return case.make(np.random.default_rng(seed), *shape, classes)


def some_activations(
    rng: np.random.Generator, count: int, shape: tuple[int, int, int], *, holes: bool
) -> Array:
    """Like a ReLU's output; with holes: a channel that is zero everywhere, a cell, and an image."""
    values = np.maximum(rng.standard_normal((count, *shape)) + 0.5, 0).astype(np.float32)
    if holes:
        values[:, rng.integers(shape[0])] = 0
        values[:, :, rng.integers(shape[1]), rng.integers(shape[2])] = 0
        values[rng.integers(count)] *= rng.integers(2)
    return values


def some_boxes(rng: np.random.Generator, cells: tuple[int, int], count: int = 6) -> Array:
    corners = [[0, 0, *cells]]
    for _ in range(count - 1):
        (r0, r1), (c0, c1) = (np.sort(rng.choice(size + 1, 2, replace=False)) for size in cells)
        corners.append([r0, c0, r1, c1])
    return np.array(corners, np.int64)


def scores64(part: HeadGraph, activations: Array, asked: QueryContext) -> Array:
    """Scores (N, ..., T) of altered activations (N, ..., K, h, w)."""
    rows = activations.reshape(-1, *activations.shape[-3:]).astype(np.float64)
    logits = part.logits64(rows).reshape(*activations.shape[:-3], -1)
    reader = asked.reader
    if reader.kind == "probability" and reader.activation == "softmax":
        raised = np.exp(logits - logits.max(axis=-1, keepdims=True))
        logits = raised / raised.sum(axis=-1, keepdims=True)
    elif reader.kind == "probability":
        logits = 1 / (1 + np.exp(-logits))
    steps = activations.ndim - 4
    targets = reader.targets.reshape(len(activations), *[1] * steps, -1)
    return np.take_along_axis(logits, targets, axis=-1)


def without_channels64(activations: Array) -> Array:
    """(N, K, K, h, w): entry [n, k] has channel k zero."""
    channels = activations.shape[1]
    altered = np.repeat(activations[:, None], channels, axis=1)
    altered[:, np.arange(channels), np.arange(channels)] = 0
    return altered


def with_boxes64(activations: Array, boxes: Array) -> tuple[Array, Array]:
    """(N, P, K, h, w) twice: boxes deleted, and only the box kept."""
    deleted = np.repeat(activations[:, None], len(boxes), axis=1)
    kept = np.zeros_like(deleted)
    for index, (r0, c0, r1, c1) in enumerate(boxes):
        deleted[:, index, :, r0:r1, c0:c1] = 0
        kept[:, index, :, r0:r1, c0:c1] = activations[:, :, r0:r1, c0:c1]
    return deleted, kept


def agree(actual: Array, expected: Array, beside: Array) -> None:
    """Asserts closeness relative to the largest number that takes part.

    That is one of the scores, of those `beside` (the unaltered ones), or a weight: these are of order one.
    """
    spread = np.array([max(1.0, np.abs(beside[np.isfinite(beside)]).max(initial=0))])
    assert actual.shape == expected.shape
    assert_close(
        np.concatenate([actual.ravel(), spread]),
        np.concatenate([expected.ravel(), spread]),
        np.float32,
        factor=SEVERAL_LAYERS,
    )


sizes = st.tuples(st.integers(1, 9), st.integers(1, 7), st.integers(1, 7)).filter(lambda s: s[1] * s[2] > 1)


@CASES
@given(
    shape=sizes,
    classes=st.integers(1, 6),
    count=st.integers(1, 3),
    targets=st.integers(1, 3),
    batch_size=st.integers(1, 7),
    kind=st.sampled_from(["logit", "probability"]),
    activation=st.sampled_from(["softmax", "sigmoid"]),
    holes=st.booleans(),
    seed=st.integers(0, 2**16),
)
@settings(repeatable, max_examples=8)
def test_every_answer_is_that_of_the_definition_and_of_the_graph(
    case, shape, classes, count, targets, batch_size, kind, activation, holes, seed
):
    rng = np.random.default_rng(seed)
    part = case.make(rng, *shape, classes)
    both = cut(part, batch_size)
    if min(shape) > 1:  # one row of cells, or one channel, may be simpler than the rule
        assert both.head.kind == case.kind
    activations = some_activations(rng, count, shape, holes=holes)
    wanted = rng.integers(part.classes, size=(count, targets))
    asked = both.asked(activations, wanted, kind, activation)
    unaltered = scores64(part, activations, asked)
    agree(asked.scores, unaltered, unaltered)

    expected = scores64(part, without_channels64(activations), asked)
    agree(both.head.scores_without_channels(asked), expected, unaltered)
    agree(both.generic.scores_without_channels(asked), expected, unaltered)

    boxes = some_boxes(rng, shape[1:])
    deleted, kept = (scores64(part, altered, asked) for altered in with_boxes64(activations, boxes))
    for head in (both.head, both.generic):
        answers = head.scores_with_boxes(asked, boxes, delete=True, keep=True)
        agree(answers[0], deleted, unaltered)
        agree(answers[1], kept, unaltered)

    nothing = scores64(part, np.zeros_like(activations), asked)
    agree(both.head.scores_of_zero_activation(asked), nothing, nothing)
    agree(both.generic.scores_of_zero_activation(asked), nothing, nothing)


@CASES
def test_it_is_found_to_be_what_it_is(case):
    both = cut(make_part(case, 1))
    assert both.head.kind == case.kind
    if case.phi is None:
        assert isinstance(both.factors, Unfactored)
        assert both.factors.reason
    else:
        assert isinstance(both.factors, Factors)
        assert both.factors.phi == case.phi
        assert (both.factors.reduction == "sum") is case.sums
        assert (both.factors.reduction == "flatten") is (case.kind.startswith("flattened"))
    assert both.head.describe().startswith(case.kind)


@pytest.mark.parametrize("perspective", ["delete", "keep"])
@pytest.mark.parametrize("name", ["gap-flatten-gemm", "gemm-relu-gemm", "global-max-pool"])
def test_one_perspective_alone_is_the_same_as_beside_the_other(name, perspective):
    both = cut(make_part(HEADS[name], 2))
    rng = np.random.default_rng(3)
    boxes = some_boxes(rng, (4, 3))
    activations = some_activations(rng, 3, (6, 4, 3), holes=True)
    for kind in ("logit", "probability"):
        asked = both.asked(activations, rng.integers(4, size=(3, 2)), kind)
        pair = both.head.scores_with_boxes(asked, boxes, delete=True, keep=True)
        alone = both.head.scores_with_boxes(
            asked, boxes, delete=perspective == "delete", keep=perspective == "keep"
        )
        position = ("delete", "keep").index(perspective)
        np.testing.assert_array_equal(alone[position], pair[position])
        assert alone[1 - position] is None


@pytest.mark.parametrize("cells", [(1, 6), (7, 5)], ids=lambda cells: "x".join(map(str, cells)))
@pytest.mark.parametrize("name", [name for name, case in HEADS.items() if case.any_size and case.phi])
def test_a_head_analysed_at_one_size_of_map_answers_at_another(name, cells):
    case = HEADS[name]
    both = cut(make_part(case, 4), open_size=True)
    rng = np.random.default_rng(5)
    activations = some_activations(rng, 2, (6, *cells), holes=False)
    asked = both.asked(activations, rng.integers(both.part.classes, size=(2, 2)))
    unaltered = scores64(both.part, activations, asked)
    agree(
        both.head.scores_without_channels(asked),
        scores64(both.part, without_channels64(activations), asked),
        unaltered,
    )
    boxes = some_boxes(rng, cells)
    expected = [scores64(both.part, altered, asked) for altered in with_boxes64(activations, boxes)]
    answers = both.head.scores_with_boxes(asked, boxes, delete=True, keep=True)
    agree(answers[0], expected[0], unaltered)
    agree(answers[1], expected[1], unaltered)
    nothing = scores64(both.part, np.zeros_like(activations), asked)
    agree(both.head.scores_of_zero_activation(asked), nothing, unaltered)
    if case.kind == "pooled-linear":
        agree(both.head.class_maps(asked), class_maps64(case, both.part, asked), unaltered)


def class_maps64(case: HeadCase, part: HeadGraph, asked: QueryContext) -> Array:
    """f = W·φ(A_ij) + b in each cell (b / cells for a sum), found by asking for maps of one vector.

    A map that is A_ij everywhere has logit(A_ij) = (hw · W·φ(A_ij) + border · W·φ(0)) / D + b, where cells
    are hw + border, and D is cells for a mean and 1 for a sum.
    """
    activations = asked.activations.astype(np.float64)
    count, _, height, width = activations.shape
    cells = (height + 2 * case.border) * (width + 2 * case.border)
    cell_vectors = activations.transpose(0, 2, 3, 1)[..., None, None]
    everywhere = np.broadcast_to(cell_vectors, (*cell_vectors.shape[:4], height, width))
    logits = scores64(part, everywhere, asked)
    nothing = scores64(part, np.zeros_like(activations), asked)[:, None, None]
    means = nothing + (logits - nothing) * (cells / (height * width))
    return (means / cells if case.sums else means).transpose(0, 3, 1, 2).reshape(count, -1, height, width)


@pytest.mark.parametrize("name", POOLED_LINEAR)
@pytest.mark.parametrize("shape", [(1, 1, 2), (6, 4, 3), (9, 1, 7)], ids=lambda s: "x".join(map(str, s)))
def test_class_maps_are_the_linear_layer_in_each_cell(name, shape):
    case = HEADS[name]
    both = cut(make_part(case, 6, shape, 3))
    rng = np.random.default_rng(7)
    activations = some_activations(rng, 2, shape, holes=True)
    asked = both.asked(activations, rng.integers(both.part.classes, size=(2, 3)))
    assert both.head.has_class_maps
    maps = both.head.class_maps(asked)
    agree(maps, class_maps64(case, both.part, asked), asked.scores)
    if not case.border:
        total = maps.sum(axis=(2, 3)) if case.sums else maps.mean(axis=(2, 3))
        agree(total, asked.scores, asked.scores)


@pytest.mark.parametrize("name", [name for name in HEADS if name not in POOLED_LINEAR])
def test_other_heads_have_no_class_maps(name):
    both = cut(make_part(HEADS[name], 8))
    asked = both.asked(np.ones((1, 6, 4, 3), np.float32), np.zeros((1, 1), np.int64))
    assert not both.head.has_class_maps
    assert both.head.class_maps(asked) is None


# ---------------------------------------------------------------- passes


def passes_of(head: Head, asked: QueryContext, boxes: Array) -> tuple[int, int]:
    head.scores_without_channels(asked)
    channels = asked.passes.head
    head.scores_with_boxes(asked, boxes, delete=True, keep=True)
    return channels, asked.passes.head - channels


@CASES
@pytest.mark.parametrize("kind", ["logit", "probability"])
def test_passes_counted_are_rows_run_and_no_more_than_announced(case, kind):
    both = cut(make_part(case, 9))
    rng = np.random.default_rng(10)
    boxes = some_boxes(rng, (4, 3))
    one = both.asked(some_activations(rng, 1, (6, 4, 3), holes=False), np.zeros((1, 1), np.int64), kind)
    channels, boxed = passes_of(both.head, one, boxes)
    both.head.scores_of_zero_activation(one)
    assert channels <= both.head.channel_passes(6)[0]
    assert one.passes.head - channels <= both.head.box_passes(len(boxes))[0]
    if case.kind.endswith("linear"):
        assert boxed == 0
        if case.phi != "dense":
            assert channels == 0
    assert (one.passes.trunk, one.passes.full) == (0, 0)


@CASES
def test_any_number_of_targets_costs_the_passes_of_one(case):
    both = cut(make_part(case, 11))
    rng = np.random.default_rng(12)
    boxes = some_boxes(rng, (4, 3))
    activations = some_activations(rng, 3, (6, 4, 3), holes=True)
    found = set()
    for targets in (1, 5):
        asked = both.asked(activations, rng.integers(both.part.classes, size=(3, targets)), "probability")
        both.head.scores_of_zero_activation(asked)  # a head may remember this one
        asked.passes.head = 0
        found.add(passes_of(both.head, asked, boxes))
    assert len(found) == 1


@CASES
def test_zero_channels_and_zero_boxes_cost_no_pass(case):
    both = cut(make_part(case, 13))
    rng = np.random.default_rng(14)
    activations = some_activations(rng, 2, (6, 4, 3), holes=False)
    activations[:, 1:] = 0
    activations[:, :, 1:] = 0
    asked = both.asked(activations, np.zeros((2, 1), np.int64))
    both.head.scores_without_channels(asked)
    assert asked.passes.head <= 2  # channel 0 of each image
    both.head.scores_of_zero_activation(asked)
    asked.passes.head = 0
    both.head.scores_with_boxes(asked, np.array([[1, 0, 4, 3], [2, 1, 3, 2]]), delete=True, keep=True)
    assert asked.passes.head <= 1


@pytest.mark.parametrize("batch_size", [1, 4, 7])
@pytest.mark.parametrize("name", [name for name, case in HEADS.items() if not case.kind.endswith("linear")])
def test_batches_are_filled_across_images(name, batch_size):
    both = cut(make_part(HEADS[name], 15), batch_size)
    limit = batch_size
    if isinstance(both.factors, Factors):
        limit = vector_batch_size(batch_size, 6 * 4 * 3, len(both.factors.bias))
    rng = np.random.default_rng(16)
    count = min(3, batch_size)
    activations = some_activations(rng, count, (6, 4, 3), holes=False)
    activations[:, 2] = 0
    asked = both.asked(activations, np.zeros((count, 1), np.int64), "probability")
    boxes = some_boxes(rng, (4, 3), 5)
    both.head.scores_of_zero_activation(asked)
    for ask in (
        lambda: both.head.scores_without_channels(asked),
        lambda: both.head.scores_with_boxes(asked, boxes, delete=True, keep=False),
        lambda: both.head.scores_with_boxes(asked, boxes, delete=False, keep=True),
    ):
        for spy in both.spies:
            spy.sizes.clear()
        ask()
        batches = max((spy.sizes for spy in both.spies), key=sum)
        # A φ that mixes channels runs maps, not vectors, when a channel is taken out.
        full = limit if limit in batches[:-1] else batch_size
        assert all(rows == full for rows in batches[:-1]), batches
        assert 0 < batches[-1] <= (full if len(batches) > 1 else limit)


def test_vectors_fill_the_memory_of_a_batch_of_images():
    assert vector_batch_size(32, 3 * 224 * 224, 4096) == 1024  # 1176 would fit
    assert vector_batch_size(4, 3 * 224 * 224, 4096) == 147
    assert vector_batch_size(32, 3 * 8 * 8, 4096) == 32  # never fewer than images


@pytest.mark.parametrize("name", ["squeezenet", "squeezenet-padded", "network-in-network"])
def test_batches_of_a_phi_that_mixes_channels_are_filled_across_images(name):
    both = cut(make_part(HEADS[name], 17), 4)
    activations = some_activations(np.random.default_rng(18), 3, (6, 4, 3), holes=False)
    asked = both.asked(activations, np.zeros((3, 1), np.int64), "probability")
    both.head.scores_without_channels(asked)
    batches = max((spy.sizes for spy in both.spies), key=sum)
    assert batches == [4, 4, 4, 4, 2]
    assert asked.passes.head == 18


@pytest.mark.parametrize(
    "name",
    [
        *("gemm-relu-gemm", "gemm-hard-swish-gemm", "squeezenet-padded"),
        *("dense-phi-and-network", "convolutions-after-the-pool"),
    ],
)
def test_a_logit_runs_its_own_row_of_the_last_layer(name):
    classes, rng = 37, np.random.default_rng(23)
    both = cut(make_part(HEADS[name], 22, classes=classes))
    activations = some_activations(rng, 3, (6, 4, 3), holes=False)
    boxes = some_boxes(rng, (4, 3))
    for kind, every in (("logit", False), ("probability", True)):
        asked = both.asked(activations, rng.integers(classes, size=(3, 2)), kind)
        both.head.scores_of_zero_activation(asked)  # once for all
        for spy in both.spies:
            spy.widths.clear()
        both.head.scores_without_channels(asked)
        if both.head.kind != "pooled-linear":  # whose cells are classes' own already
            both.head.scores_with_boxes(asked, boxes, delete=True, keep=True)
        list(both.head.gradients(asked))
        assert any(classes in spy.widths for spy in both.spies) is every


@CASES
@pytest.mark.parametrize("kind", ["logit", "probability"])
def test_the_gradient_of_a_contrast_is_that_of_its_parts(case, kind):
    """Weighted through one pass, against one pass a class that takes part."""
    both = cut(make_part(case, 25))
    rng = np.random.default_rng(26)
    activations = some_activations(rng, 3, (6, 4, 3), holes=False)
    rivals = Rivals(rng.integers(both.part.classes, size=(3, 2, 2)), 0.7, -1, weighted=False)
    chosen = np.array([[0, 1], [2, 3], [1, 1]]) % both.part.classes
    apart = both.asked(activations, rivals.beside(chosen), kind)
    targets = apart.reader.targets[:, ::3]
    asked = replace(apart, reader=replace(apart.reader, targets=targets, rivals=rivals), passes=PassCounts())
    parts = list(both.head.gradients(apart))
    expected = [-(parts[i] - 0.35 * (parts[i + 1] + parts[i + 2])) for i in (0, 3)]
    for found, whole in zip(both.head.gradients(asked), expected, strict=True):
        agree(np.asarray(found), whole, np.array(parts))
    assert asked.passes.head_adjoint <= 6


# ---------------------------------------------------------------- what is not finite


@CASES
@pytest.mark.parametrize("bad", [np.nan, np.inf], ids=["nan", "infinity"])
@pytest.mark.parametrize("kind", ["logit", "probability"])
def test_what_is_not_finite_is_never_answered_with_something_plausible(case, bad, kind):
    """Where the graph itself answers NaN so does the shortcut, and no other image is touched."""
    if bad == np.inf and case.kind.endswith("network"):
        pytest.skip("a saturating network makes finite numbers of infinity, one way or the other")
    both = cut(make_part(case, 19))
    rng = np.random.default_rng(20)
    activations = some_activations(rng, 3, (6, 4, 3), holes=False)
    spoilt = activations.copy()
    spoilt[1, 2, 1, 1] = bad
    targets = rng.integers(both.part.classes, size=(3, 2))
    boxes = some_boxes(rng, (4, 3))
    with np.errstate(all="ignore"):
        good, ill = both.asked(activations, targets, kind), both.asked(spoilt, targets, kind)
        answers = []
        for head in (both.head, both.generic):
            for asked in (good, ill):
                pair = head.scores_with_boxes(asked, boxes, delete=True, keep=True)
                answers.append([head.scores_without_channels(asked), *pair])
    for ours, ours_ill, graphs_ill in zip(answers[0], answers[1], answers[3], strict=True):
        others = [0, 2]
        # Batches are filled across images: an odd size of batch may round otherwise.
        agree(ours_ill[others], ours[others], ours)
        silent = np.isfinite(ours_ill[1]) & ~np.isfinite(graphs_ill[1])
        assert not silent.any()


# ---------------------------------------------------------------- scores


@given(
    logits=st.lists(st.floats(-200, 200, width=32), min_size=1, max_size=6),
    activation=st.sampled_from(["softmax", "sigmoid"]),
)
@settings(repeatable, max_examples=60)
def test_probabilities_are_those_of_the_definition(logits, activation):
    wide = np.array([logits], np.float64)
    if activation == "softmax":
        expected = np.exp(wide - wide.max()) / np.exp(wide - wide.max()).sum()
    else:
        expected = 1 / (1 + np.exp(-wide))
    assert_close(probabilities(wide.astype(np.float32), activation), expected, np.float32)


def test_extreme_logits_neither_overflow_nor_warn():
    extreme = np.array([[3e38, -3e38, 0.0]], np.float32)
    np.testing.assert_array_equal(probabilities(extreme, "sigmoid"), [[1, 0, 0.5]])
    np.testing.assert_array_equal(probabilities(extreme, "softmax"), [[1, 0, 0]])


def test_a_factored_head_says_which_class_it_is():
    assert isinstance(cut(make_part(HEADS["flatten-gemm"], 21)).head, FactoredHead)
    assert isinstance(cut(make_part(HEADS["global-max-pool"], 22)).head, GenericHead)


@CASES
@pytest.mark.parametrize("kind", ["logit", "probability"])
def test_second_derivatives(case: HeadCase, kind: str) -> None:
    """H·A of every head, by differences of differences: good to 1e-6 of the gradient."""
    part = case.make(np.random.default_rng(3), 4, 3, 2, 3)
    made = cut(part)
    activations = np.random.default_rng(5).normal(size=(2, *part.shape)).astype(np.float32)
    targets = np.array([[0], [part.classes - 1]])
    assert made.head.curvature is not None
    context = made.asked(activations, targets, kind)
    ((gradient, product),) = made.head.curvature(context)
    assert context.passes == PassCounts(head_adjoint=4 if kind == "logit" else 8)
    for number, activation in enumerate(activations.astype(np.float64)):

        def score(a: Array, c: int = int(targets[number, 0])) -> float:
            logits = part.logits64(a[None])
            return float((logits if kind == "logit" else probabilities_of(logits))[0, c])

        slopes, bends = numeric_gradient(score, activation), hessian_product(score, activation, activation)
        # differences of a probability that is all but certain are good to 1e-7
        scale = max(np.abs(slopes).max(), np.abs(bends).max(), 1e-2)
        assert np.abs(gradient[number] - slopes).max() <= 1e-5 * scale
        assert np.abs(product[number] - bends).max() <= 1e-4 * scale


def probabilities_of(logits: Array) -> Array:
    raised = np.exp(logits - logits.max(axis=1, keepdims=True))
    return raised / raised.sum(axis=1, keepdims=True)


@CASES
@pytest.mark.parametrize("kind", ["logit", "probability"])
def test_masks(case: HeadCase, kind: str) -> None:
    """Cells times numbers between 0 and 1, on every head."""
    part = case.make(np.random.default_rng(3), 4, 3, 2, 3)
    made, rng = cut(part), np.random.default_rng(5)
    activations = rng.normal(size=(3, *part.shape)).astype(np.float32)
    masks = np.concatenate([rng.random((5, 3, 2)), np.zeros((1, 3, 2))]).astype(np.float32)
    targets = rng.integers(0, part.classes, (3, 2))
    context = made.asked(activations, targets, kind)
    found = made.head.scores_with_masks(context, masks)
    for number, activation in enumerate(activations.astype(np.float64)):
        logits = part.logits64(activation[None] * masks[:, None].astype(np.float64))
        expected = (logits if kind == "logit" else probabilities_of(logits))[:, targets[number]]
        assert_close(found[number], expected, factor=4 * SEVERAL_LAYERS)
    passes, _ = made.head.mask_passes(len(masks))
    assert context.passes.head == 3 * passes
