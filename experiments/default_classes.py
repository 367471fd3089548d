"""The classes of the embedded classifier: plain words, each gathering one or more WordNet identifiers.

Breeds and makes that a person would not tell apart in a small image are one class here (three cats, two
dogs, two cars, two buses). Two of the forty source classes are left out, because their images seldom show
one recognisable object: n02231487 (walking stick, an insect) and n04560804 (water jug).
"""

from __future__ import annotations

__all__ = ["CLASSES", "LABELS", "class_of_wnid"]

CLASSES: dict[str, tuple[str, ...]] = {
    "African elephant": ("n02504458",),
    "alligator": ("n01698640",),
    "banana": ("n07753592",),
    "basketball": ("n02802426",),
    "bee": ("n02206856",),
    "bison": ("n02410509",),
    "boa constrictor": ("n01742172",),
    "brown bear": ("n02132136",),
    "bus": ("n04146614", "n04487081"),
    "car": ("n03100240", "n04285008"),
    "cat": ("n02123045", "n02123394", "n02124075"),
    "cougar": ("n02125311",),
    "dog": ("n02099601", "n02106662"),
    "espresso": ("n07920052",),
    "fire salamander": ("n01629819",),
    "goldfish": ("n01443537",),
    "guinea pig": ("n02364673",),
    "ice cream": ("n07614500",),
    "jellyfish": ("n01910747",),
    "king penguin": ("n02056570",),
    "koala": ("n01882714",),
    "ladybug": ("n02165456",),
    "lion": ("n02129165",),
    "monarch butterfly": ("n02279972",),
    "mushroom": ("n07734744",),
    "orange": ("n07747607",),
    "orangutan": ("n02480495",),
    "pizza": ("n07873807",),
    "red panda": ("n02509815",),
    "snail": ("n01944390",),
    "tailed frog": ("n01644900",),
    "tarantula": ("n01774750",),
    "teddy bear": ("n04399382",),
}
"""Class name -> the WordNet identifiers whose images it gathers; the order is the order of the logits."""

LABELS: tuple[str, ...] = tuple(CLASSES)
"""Name of each logit, in order."""


def class_of_wnid() -> dict[str, int]:
    """Returns, for every WordNet identifier in use, the index of its class."""
    return {wnid: index for index, wnids in enumerate(CLASSES.values()) for wnid in wnids}
