"""Sets of classes that belong together, for attributions to a set: ImageNet's supersets, and all classes.

"Keep CALM and Improve Visual Feature Attribution" lists 118 different nodes of WordNet by hand, among which
ImageNet's classes fall (specification C5). The members in `imagenet.json` are those of the hypernym graph
published beside the paper's code, 702 classes; the other 298 are sets of their own. For 107 of the nodes
their number is the one the paper prints, which the file holds as `printed`. WordNet itself is not needed.
"""

from __future__ import annotations

import json
from functools import cache
from importlib.resources import files
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from camrt.errors import TargetError

__all__ = ["SUPERSETS", "Rule", "class_sets", "imagenet_nodes", "imagenet_supersets"]

Rule = Literal["deepest", "outermost"]
SUPERSETS = ("all", "imagenet", "imagenet-outermost")
"""The names that `class_sets` knows."""


def class_sets(name: str, num_classes: int) -> npt.NDArray[np.int64]:
    """The set that each class belongs to, (C,): classes of one set have the same number.

    Args:
        name: "all", one set of all classes, as for CUB; "imagenet" and "imagenet-outermost", the supersets of
            the 1000 ImageNet classes in the order of their WordNet identifiers, by the two rules of
            `imagenet_supersets`.
        num_classes: C.

    Raises:
        TargetError: An unknown name, or ImageNet's sets for a model of other than 1000 classes.
    """
    if name == "all":
        return np.zeros(num_classes, np.int64)
    if name not in SUPERSETS:
        raise TargetError(f"there is no set of classes {name!r}; there are {', '.join(map(repr, SUPERSETS))}")
    supersets = imagenet_supersets("deepest" if name == "imagenet" else "outermost")
    total = len(load_table()["wnids"].split())
    if num_classes != total:
        raise TargetError(
            f"the sets {name!r} are for ImageNet's {total} classes; this model has {num_classes}"
        )
    numbers = np.arange(total) + len(supersets)
    for number, members in enumerate(supersets.values()):
        numbers[list(members)] = number
    return np.unique(numbers, return_inverse=True)[1].astype(np.int64)


@cache
def imagenet_nodes() -> dict[str, tuple[int, int]]:
    """Name of each node of the paper's list -> how many classes it prints, and how many lie under it here.

    Classes that lie under two nodes count for both, as they do in the paper.
    """
    return {row["name"]: (int(row["printed"]), len(row["classes"])) for row in load_table()["supersets"]}


@cache
def imagenet_supersets(rule: Rule = "deepest") -> dict[str, tuple[int, ...]]:
    """Name of each superset -> its ImageNet classes; no class is in two.

    Args:
        rule: What becomes of the seventeen classes that lie under two nodes. "deepest" gives them to the
            deeper one (bison to bovid, not to ungulate), "outermost" to the other, which leaves the deeper
            one out (bison to ungulate). The minivan, a car and a truck, is a car.
    """
    rows = load_table()["supersets"]
    members = {row["name"]: set(row["classes"]) for row in rows}
    members["truck"] -= members["car"]
    for inner, outer in NESTED_SUPERSETS:
        if rule == "deepest":
            members[outer] -= members[inner]
        else:
            del members[inner]
    return {name: tuple(sorted(classes)) for name, classes in members.items()}


NESTED_SUPERSETS = (
    ("bovid", "ungulate"),
    ("swine", "ungulate"),
    ("piano", "stringed instrument"),
    ("warship", "ship"),
)
"""The nodes that lie under another one of the table."""


@cache
def load_table() -> dict[str, Any]:
    """What `imagenet.json` holds."""
    content: dict[str, Any] = json.loads(
        files(__package__).joinpath("imagenet.json").read_text(encoding="utf-8")
    )
    return content
