"""ImageNet's supersets: the counts that the specification gives, and both rules."""

from __future__ import annotations

import numpy as np
import pytest

from camrt.engine.class_sets import NESTED_SUPERSETS, class_sets, imagenet_supersets, load_table
from camrt.errors import TargetError


def test_the_table() -> None:
    """Specification C5: 118 nodes, 682 classes printed, 702 under the nodes, 17 under two of them."""
    rows = load_table()["supersets"]
    assert len(rows) == 118
    assert len({row["wnid"] for row in rows}) == 118
    assert sum(row["printed"] for row in rows) == 682
    assert sum(len(row["classes"]) == row["printed"] for row in rows) == 107
    everything = [index for row in rows for index in row["classes"]]
    assert len(set(everything)) == 702
    assert len(everything) - 702 == 17
    wnids = load_table()["wnids"].split()
    assert len(wnids) == 1000
    assert wnids == sorted(wnids)


@pytest.mark.parametrize("rule", ["deepest", "outermost"])
def test_supersets_partition_the_classes(rule: str) -> None:
    sets = imagenet_supersets(rule)  # type: ignore[arg-type]
    members = [index for classes in sets.values() for index in classes]
    assert len(members) == len(set(members)) == 702
    assert len(sets) == (118 if rule == "deepest" else 118 - len(NESTED_SUPERSETS))


def test_classes_under_two_nodes() -> None:
    wnids = load_table()["wnids"].split()
    bison, minivan, submarine = (wnids.index(wnid) for wnid in ("n02410509", "n03770679", "n04347754"))
    deepest, outermost = imagenet_supersets("deepest"), imagenet_supersets("outermost")
    assert bison in deepest["bovid"]
    assert bison not in deepest["ungulate"]
    assert bison in outermost["ungulate"]
    assert "bovid" not in outermost
    assert submarine in deepest["warship"]
    assert submarine in outermost["ship"]
    for sets in (deepest, outermost):
        assert minivan in sets["car"]
        assert minivan not in sets["truck"]


def test_numbers_of_sets() -> None:
    numbers = class_sets("imagenet", 1000)
    assert numbers.max() + 1 == 118 + 298
    dogs = imagenet_supersets()["canine"]
    assert len(dogs) == 130
    assert len(set(numbers[list(dogs)])) == 1
    assert np.count_nonzero(numbers == numbers[dogs[0]]) == 130
    with pytest.raises(TargetError, match="'all', 'imagenet', 'imagenet-outermost'"):
        class_sets("birds", 1000)
