"""The rules by which a model is cut when nobody says, on flows written by hand."""

from __future__ import annotations

from camrt.export.geometry.map_formats import MapFormat
from camrt.export.heads.flow import Flow, Operation
from camrt.export.heads.target_rules import choose_tensors

MAP = MapFormat("map", (4, 3, 2))
TOKENS = MapFormat("tokens", (4, 3, 2))
BEHIND_ONE = MapFormat("tokens", (4, 3, 2), 1)


def flow_of(*steps):
    """Steps by (what is read, what is made, options); what begins with x or t is no vector."""
    made = []
    for reads, makes, options in steps:
        reads = tuple(reads.split())
        spread = tuple(read for read in reads if not read.startswith("v"))
        made.append(Operation(reads, (makes,), spread=spread, **options))
    return Flow(made, "x0", "logits")


LAYER = {"learned": True}
LINEAR = {"kind": "linear", "learned": True}
POOL = {"together": "always"}
ATTEND = {"together": "pairs", "learned": True}
PLAIN = {}


def test_the_last_map_that_everything_runs_through():
    flow = flow_of(
        ("x0", "x1", LAYER),
        ("x1", "x2", LAYER),
        ("x1 x2", "x3", PLAIN),
        ("x3", "v", POOL),
        ("v", "logits", LINEAR),
    )
    assert choose_tensors(flow, dict.fromkeys(("x1", "x2", "x3"), MAP)) == ["x3"]
    assert choose_tensors(flow, dict.fromkeys(("x1", "x2"), MAP)) == ["x1"]


def test_tokens_that_only_the_class_token_is_read_of_are_passed_over():
    """The last block attends to what it reads, and adds to it."""
    flow = flow_of(
        ("x0", "x1", LAYER), ("x1", "t1", PLAIN), ("t1 t1", "a1", ATTEND), ("t1 a1", "t2", PLAIN),
        ("t2 t2", "a2", ATTEND), ("t2 a2", "t3", PLAIN), ("t3", "v", PLAIN), ("v", "logits", LINEAR),
    )  # fmt: skip
    places = {"x1": MAP} | dict.fromkeys(("t1", "a1", "t2", "a2", "t3"), BEHIND_ONE)
    assert choose_tensors(flow, places) == ["t2"]


def test_a_mean_that_was_put_in_front_of_the_cells_is_left_to_the_head():
    """CLIP's pooling by attention: the mean and the cells, a constant added, attended to."""
    flow = flow_of(
        ("x0", "x1", LAYER), ("x1", "t1", {"kind": "reshapes"}), ("t1", "m", POOL), ("m t1", "t2", PLAIN),
        ("t2", "t3", {"kind": "shifts"}), ("t3 t3", "v", ATTEND), ("v", "logits", LINEAR),
    )  # fmt: skip
    assert choose_tensors(flow, {"x1": MAP, "t1": TOKENS, "t2": BEHIND_ONE, "t3": BEHIND_ONE}) == ["t1"]
    assert choose_tensors(flow, {"x1": MAP, "t2": BEHIND_ONE, "t3": BEHIND_ONE}) == ["x1"]


def test_keys_and_values_are_no_activation_of_their_own():
    flow = flow_of(
        ("x0", "t1", LAYER), ("t1", "t2", LINEAR), ("t2", "t3", {"kind": "shifts"}), ("t3 t3", "v", ATTEND),
        ("v", "logits", LINEAR),
    )  # fmt: skip
    assert choose_tensors(flow, dict.fromkeys(("t1", "t2", "t3"), TOKENS)) == ["t1"]


BRANCHES = (
    ("x0", "x1", LAYER), ("x0", "x2", LAYER), ("x1", "t1", LAYER), ("x2", "t2", LAYER),
    ("t1", "v1", POOL), ("t2", "v2", POOL), ("v1 v2", "logits", LINEAR),
)  # fmt: skip


def test_two_branches_are_two_targets():
    places = dict.fromkeys(("x1", "x2", "t1", "t2"), TOKENS)
    assert choose_tensors(flow_of(*BRANCHES), places) == ["t1", "t2"]
    assert choose_tensors(flow_of(*BRANCHES), places | {"x0": MAP}) == [
        "t1",
        "t2",
    ]  # rather than the images


def test_a_branch_of_no_cells_leaves_no_pair():
    assert choose_tensors(flow_of(*BRANCHES), dict.fromkeys(("x1", "t1"), TOKENS)) == []


def test_one_tensor_that_all_runs_through_is_taken_before_two():
    stem = [("x0", "s", LAYER), *((reads.replace("x0", "s"), *rest) for reads, *rest in BRANCHES)]
    assert choose_tensors(flow_of(*stem), dict.fromkeys(("s", "t1", "t2"), MAP)) == ["s"]


def test_images_in_another_form_are_the_last_resort():
    """What nothing learned made is cut at only when there is nothing else."""
    rest = (("x2", "v", POOL), ("v", "logits", LINEAR))
    places = {"x1": MAP, "x2": MAP}
    assert choose_tensors(flow_of(("x0", "x1", PLAIN), ("x1", "x2", LAYER), *rest), places) == ["x2"]
    assert choose_tensors(flow_of(("x0", "x1", PLAIN), ("x1", "x2", PLAIN), *rest), places) == ["x2"]
    # of no use to explain what a layer made by the images it was made of
    assert choose_tensors(
        flow_of(("x0", "x1", PLAIN), ("x1", "x2", LINEAR), *rest), dict.fromkeys(places, TOKENS)
    ) == ["x2"]


def test_class_maps_are_stepped_over_by_one_pointwise_convolution():
    flow = flow_of(
        ("x0", "x1", LAYER), ("x1", "x2", {"kind": "pointwise", "learned": True}),
        ("x2", "x3", {"kind": "by-channel"}), ("x3", "logits", POOL),
    )  # fmt: skip
    assert choose_tensors(flow, dict.fromkeys(("x1", "x2", "x3"), MAP)) == ["x1"]


def test_what_counts_only_above_weights():
    """Before both branches of a CALM head."""
    flow = flow_of(
        ("x0", "x1", LAYER),
        ("x1", "a", LAYER),
        ("x1", "b", LAYER),
        ("a b", "x2", PLAIN),
        ("x2", "logits", POOL),
    )
    places = dict.fromkeys(("x1", "x2"), MAP)
    assert choose_tensors(flow, places) == ["x2"]
    assert choose_tensors(flow, places, above_weights=True) == ["x1"]
