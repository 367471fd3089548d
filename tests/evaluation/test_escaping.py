"""Names from outside are shown as they are by every format, and are nothing else there."""

from __future__ import annotations

import json
import os
import sys
from html.parser import HTMLParser
from pathlib import Path

import hypothesis.strategies as st
import pytest
from hypothesis import given
from markdown_it import MarkdownIt

import camrt
from camrt.evaluation.escaping import escape_markdown, to_json_bytes
from camrt.evaluation.suite import Settings, evaluate
from camrt.evaluation.suite.report.page import make_environment
from helpers.annotated_images import COLOURS, PREPROCESSING, boxed_squares, colour_model

NASTY = "a|b\n`c`_d_<img src=x onerror=e()>&lt;[e](http://f)*g*~~h~~\x1b[2J\u202e$i$\udcff"
TEXTS = st.text() | st.sampled_from([NASTY, "=1+1", "|", "\\", "\\|", "`", "#x", "- x"])


@given(TEXTS)
def test_a_cell_of_markdown_shows_the_text(text: str) -> None:
    tokens = MarkdownIt("gfm-like", {"linkify": False}).parse(
        f"| t |\n| --- |\n| x{escape_markdown(text)}x |\n"
    )
    (cell,) = [token for token in tokens if token.type == "inline"][1:]
    assert cell.children is not None
    assert {child.type for child in cell.children} <= {"text", "text_special"}
    shown = "".join(child.content for child in cell.children)
    kept = "".join(c if c.isprintable() else " " if c.isspace() else "\ufffd" for c in text)
    assert shown == f"x{kept}x"


TEMPLATE = make_environment().from_string('<b title="{{ text }}">{{ text }}</b>')


class Texts(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, list[tuple[str, str | None]]]] = []
        self.shown = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, attrs))

    def handle_data(self, data: str) -> None:
        self.shown += data


@given(TEXTS)
def test_a_page_shows_the_text(text: str) -> None:
    page = Texts()
    page.feed(TEMPLATE.render(text=text))
    page.close()
    kept = "".join(c if c.isprintable() else " " if c.isspace() else "\ufffd" for c in text)
    assert page.tags == [("b", [("title", kept)])]
    assert page.shown == kept


def test_json_holds_bytes_that_are_no_text() -> None:
    assert json.loads(to_json_bytes({"name": "\udcffé"})) == {"name": "\udcffé"}


def odd_names(folder: Path) -> None:
    """Renames images to what file systems allow."""
    (folder / "000.png").rename(folder / "_a|b`$c$`.png")
    if sys.platform == "linux":
        (folder / "001.png").rename(folder / os.fsdecode(b"\xff<b>\n.png"))


def test_a_report_of_odd_names(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    pytest.importorskip("matplotlib")
    folder = boxed_squares(tmp_path / "a|b_c_", 3)
    (folder / "boxes.csv").unlink()
    odd_names(folder)
    (folder / "broken|.png").write_text("no image")
    engine = camrt.load(colour_model(tmp_path / "m|_<b>_.onnx"), preprocessing=PREPROCESSING, labels=COLOURS)
    methods = {"$a|_<script>": "gradcam", "_b\n": "eigen"}
    settings = Settings(step=400)
    for name in ("one", "two"):
        evaluate(engine, folder, methods, ["drop", "deletion"], settings=settings, out=tmp_path / name)
    for path in (tmp_path / "one").rglob("*.*"):
        other = tmp_path / "two" / path.relative_to(tmp_path / "one")
        assert path.read_bytes() == other.read_bytes(), path.name
    table = (tmp_path / "one" / "table.md").read_text(encoding="utf-8")
    rows = [line for line in table.splitlines() if line.startswith("|")]
    assert len(rows) == 2 + len(methods) + 1
    page = (tmp_path / "one" / "report.html").read_text(encoding="utf-8")
    assert page.count("<script") == 1  # our own
    table = (tmp_path / "one" / "table.tex").read_text(encoding="utf-8")
    assert r"\$a|\_<script> & " in table
    assert (tmp_path / "one" / "table.csv").read_text(encoding="utf-8").splitlines()[2].startswith("_b ,")
    assert "$a|_&lt;script&gt;" in page
    results = json.loads((tmp_path / "one" / "results.json").read_bytes())
    assert results["images"]["measured"] == 3
    evaluate(
        engine, folder, methods, ["drop", "deletion"], settings=settings, out=tmp_path / "one", resume=True
    )
