"""Names of result files: safe everywhere, and one for each image however images are batched."""

from __future__ import annotations

import unicodedata

import hypothesis.strategies as st
import pytest
from hypothesis import given

from camrt.engine.file_names import FileNames, overlay_name, to_safe_stem

ODD = [
    "a",
    "A",
    "a-2",
    "a-3",
    "a-2-2",
    "ß",
    "ss",
    "ı",
    "I",
    "ﬁ",
    "fi",
    ".",
    "a/",
    "a.",
    "con",
    "COM¹.x",
    "_con",
]
COMPOSED = ["é", "e\u0301", "Å", "A\u030a", "\u212b", "\u1e9b\u0323", "\u0149"]
LONG = [
    "x" * 119,
    "x" * 120,
    "x" * 121,
    "x" * 300,
    "猫" * 40,
    "猫" * 50,
    "x" * 118 + "-2",
    "x" * 116 + "...y",
]
TEXTS = st.lists(st.sampled_from(ODD + COMPOSED + LONG) | st.text(max_size=130), max_size=14)


def on_some_disk(name: str) -> set[str]:
    """How file systems that fold names see one: by case, and composed or not."""
    return {
        unicodedata.normalize(form, changed)
        for form in ("NFC", "NFD", "NFKD")
        for changed in (name.casefold(), name.upper(), name.lower(), name.upper().lower())
    }


@given(TEXTS)
def test_no_two_stems_are_one_on_any_disk(texts: list[str]) -> None:
    naming = FileNames()
    stems = [naming.unique_stem(text) for text in texts]
    seen: set[str] = set()
    for stem in stems:
        assert not on_some_disk(stem) & seen
        seen |= on_some_disk(stem)
        assert not set(stem) & set('/\\:*?"<>|\0\n ')
        assert stem[0] != "."
        assert stem[-1] != "."
        assert len(stem.encode()) <= 120


@given(TEXTS)
def test_stems_stay_as_they_are_when_they_are_named_again(texts: list[str]) -> None:
    """In any batches: this is what went wrong with names of more than 120 bytes."""
    naming = FileNames()
    stems = [naming.unique_stem(text) for text in texts]
    for start in range(len(stems)):
        again = FileNames()
        assert [again.unique_stem(stem) for stem in stems[start:]] == stems[start:]


@given(TEXTS, st.lists(st.tuples(st.integers(1, 3), st.integers(0, 99), st.text(max_size=50)), max_size=3))
def test_no_two_overlays_share_a_name(texts: list[str], targets: list[tuple[int, int, str]]) -> None:
    naming = FileNames()
    stems = [naming.unique_stem(text) for text in texts]
    ranked = {rank: (target, label) for rank, target, label in targets}
    names = [
        overlay_name(stem, rank, target, label) for stem in stems for rank, (target, label) in ranked.items()
    ]
    names += [f"{stem}_sheet.png" for stem in stems]
    assert len({name.casefold() for name in names}) == len(names)
    assert all(len(name.encode()) <= 255 for name in names)


@pytest.mark.parametrize(
    ("text", "stem"),
    [
        ("my cat (1).final", "my_cat__1_.final"),
        ("\udcff", "_"),  # a byte of a file name that is not UTF-8
        ("猫" * 100, "猫" * 40),
        ("nul.tar", "_nul.tar"),
        ("LPT9", "_LPT9"),
        ("console", "console"),
        ("end...", "end"),
        ("x" * 119 + ".y", "x" * 119),
        ("...", "image"),
    ],
)
def test_stems_of_odd_names(text: str, stem: str) -> None:
    assert to_safe_stem(text) == stem


def test_equal_names_are_numbered_in_their_order() -> None:
    naming = FileNames()
    assert [naming.unique_stem(text) for text in ("Cat", "cat", "cat-2", "CAT")] == [
        "Cat",
        "cat-2",
        "cat-2-2",
        "CAT-3",
    ]


def test_many_equal_names_are_quick() -> None:
    naming = FileNames()
    assert len({naming.unique_stem("image") for _ in range(20_000)}) == 20_000
