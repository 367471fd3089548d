"""The list of the papers' tables: one source for the command, its --list and the pages in docs/results."""

from __future__ import annotations

import json
import math
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from camrt.cli import record_results
from camrt.cli.main import app
from camrt.cli.paper_pages import NOT_MEASURED, PAGES, facts_of, render_page, side_by_side
from camrt.engine.class_sets import imagenet_nodes
from camrt.engine.methods import methods
from camrt.errors import DataError, InputError
from camrt.evaluation.papers import PUBLISHED, TABLE_TASKS, measured
from camrt.evaluation.papers.catalogue import CATALOGUE, GROUPS, find_entries, find_tasks, task_of
from camrt.evaluation.papers.measured import Record, read_records
from camrt.evaluation.papers.published import read_published
from camrt.evaluation.papers.reproduction import find_task

ROOT = Path(__file__).parents[2]
DOCUMENTS = ROOT / "docs" / "results"
ALL = [(name, record) for name, entry in CATALOGUE.items() for record in entry.records]
beside = pytest.mark.skipif(not DOCUMENTS.is_dir(), reason="the tests are not beside docs/results")


def command(*words: object) -> Any:
    return CliRunner().invoke(app, ["reproduce", *map(str, words)])


def spoken(text: str) -> str:
    return " ".join(text.split())


# ---------------------------------------------------------------- one list


def test_every_table_and_figure_of_the_papers_is_listed() -> None:
    calm = [*(f"calm-{number}" for number in range(1, 6)), "calm-figure-5"]
    pixab = [f"pixab-{number}" for number in range(1, 11)]
    figures = [f"pixab-figure-{number}" for number in (9, 11, 12)]
    assert list(CATALOGUE) == [*calm, "walls", "walls-theory", *pixab, *figures]
    assert [name for name, entry in CATALOGUE.items() if entry.task is not None] == list(TABLE_TASKS)
    assert list(PUBLISHED) == list(TABLE_TASKS)
    for name, entry in CATALOGUE.items():
        assert entry.name == name
        assert entry.paper in PAGES.values()
        if entry.task is not None:
            assert (entry.printed, entry.needs) == (PUBLISHED[name], entry.task.needs)


@pytest.mark.parametrize("name", CATALOGUE)
def test_the_command_knows_what_is_listed(name: str) -> None:
    """`camrt reproduce NAME` measures it, or says what does."""
    entry = CATALOGUE[name]
    answer = command(name.upper())
    assert answer.exit_code == 2
    if entry.task is not None:
        assert "say which model to measure on" in answer.stderr
        assert find_task(name) is entry.task
        assert entry.command.startswith(f"camrt reproduce {name} --model ")
    else:
        assert f"{name} is not measured by camrt reproduce, but by: {entry.command}" in spoken(answer.stderr)
        with pytest.raises(InputError, match="is not measured by camrt reproduce"):
            find_task(name)


def test_the_list_is_the_catalogue() -> None:
    answer = command("--list")
    assert answer.exit_code == 0, answer.output
    shown = re.findall(r"^(\S+): (?:Table|Figure|Sections) ", answer.stdout, re.MULTILINE)
    assert shown == list(CATALOGUE)
    for word in ("needs: ", "command: ", "time here: ", "ours: "):
        assert answer.stdout.count(f"  {word}") >= len(CATALOGUE)
    overview = command()
    for name in CATALOGUE:
        assert f" {name} " in overview.stdout
    one = command("--list", "pixab-5")
    assert "46.39" in one.stdout
    assert "calm-1" not in one.stdout
    unknown = command("--list", "tcav")
    assert (unknown.exit_code, "there is no table 'tcav'" in unknown.stderr) == (2, True)


def test_a_papers_name_means_all_of_it() -> None:
    assert [entry.name for entry in find_entries("pixab")] == [n for n in CATALOGUE if n.startswith("pixab")]
    assert set(GROUPS) == {"calm", "pixab"}
    assert "say which model" in command("pixab").stderr  # its figures are passed over, not refused
    asked = find_tasks(["pixab-3", "Pixab", "pixab-3", "walls"])
    assert [task.published.name for task in asked] == [
        "pixab-3",
        "pixab-1",
        "pixab-2",
        *list(TABLE_TASKS)[10:],
        "walls",
    ]
    with pytest.raises(InputError, match="pixab-figure-9 is not measured by camrt reproduce"):
        find_tasks(["pixab", "pixab-figure-9"])
    with pytest.raises(InputError, match="calm are several tables: calm-1, calm-2"):
        find_task("calm")
    with pytest.raises(InputError, match="not measured by camrt reproduce"):
        task_of(CATALOGUE["pixab-figure-9"])


def understood(line: str) -> None:
    """Raises where a command line of camrt has unknown options or values."""
    whole, rest = typer.main.get_command(app), shlex.split(line)[1:]
    context = whole.make_context("camrt", list(rest))
    while hasattr(whole, "commands"):
        name, whole, rest = whole.resolve_command(context, [*context._protected_args, *context.args])
        context = whole.make_context(name, list(rest), parent=context)


@pytest.mark.parametrize(
    "line", sorted({entry.command for entry in CATALOGUE.values()} | {record.command for _, record in ALL})
)
def test_commands_are_understood(line: str) -> None:
    if line.startswith("camrt "):
        understood(line)
    else:
        module = re.match(r"python -m ([\w.]+) ", line)
        assert module is not None
        assert (ROOT / Path(*module[1].split(".")).with_suffix(".py")).is_file() or not DOCUMENTS.is_dir()


PRINTED = """
papers.p = "A paper"
shared_remarks.s = "said of several"
titles.cam = "CAM"
[[tables]]
name = "one"
title = "One"
paper = "p"
setting = "everywhere"
columns = [{ name = "a", title = "A", of = ["x", "y"] }, { name = "b", title = "B", better = "lower" }]
remarks = ["first"]
shared_remarks = ["s"]
rows = { cam = [1.5, nan, 2], other = [] }
"""


def test_published_tables_are_read() -> None:
    table = read_published(PRINTED)["one"]
    assert (table.paper, table.number, table.remarks) == ("A paper", None, ("first", "said of several"))
    assert [(column.of, column.digits, column.better) for column in table.columns] == [
        (("x", "y"), 1, "higher"),
        (("",), 1, "lower"),
    ]
    assert [(row.key, row.title, dict(row.figures)) for row in table.rows] == [
        ("cam", "CAM", {"a": (1.5, None), "b": (2,)}),
        ("other", "other", {}),
    ]


@pytest.mark.parametrize(
    ("before", "after", "words"),
    [
        ("2]", "2, 3]", "cam: 4 numbers do not fill the columns"),
        ("2]", '"2"]', "no published tables"),
        ('"lower"', '"left"', "better side of 'b' cannot be 'left'"),
        ("setting =", "sitting =", "no published tables.*sitting"),
        ('paper = "p"', 'paper = "q"', "no published tables.*q"),
        ("titles.", "titles", "no published tables.*titles"),
        ("[[tables]]", "[[tables]", "line"),
    ],
)
def test_published_tables_that_are_none_are_refused(before: str, after: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        read_published(PRINTED.replace(before, after))


# ---------------------------------------------------------------- what was measured


@pytest.mark.parametrize("name", CATALOGUE)
def test_what_was_measured_is_shown_and_else_why_not(name: str) -> None:
    entry = CATALOGUE[name]
    assert bool(entry.records) != bool(entry.why)
    assert len({record.model for record in entry.records}) == len(entry.records)
    timed = [record for record in entry.records if record.seconds is not None]
    assert (entry.duration == "not measured") == (not timed)
    facts = dict(facts_of(entry))
    assert facts["ours"].startswith("not measured: ") == (not entry.records)
    titles, rows = side_by_side(entry)
    assert all(len(row) == len(titles) for row in rows)
    shown = {title for title, *texts in rows if any(text != NOT_MEASURED for text in texts)}
    assert len(shown) == len(rows)


@pytest.mark.parametrize(("name", "record"), ALL)
def test_records_fit_their_tables(name: str, record: Record) -> None:
    entry = CATALOGUE[name]
    table = entry.printed
    assert record.figures
    assert record.command
    assert (record.seconds is None) == (not record.machine)
    if table is None:
        assert set(record.stated) == set(record.figures)
    known = {row.key for row in table.rows} if table is not None else set(record.stated)
    columns = {column.name for column in table.columns} if table is not None else {"value"}
    for key, row in record.figures.items():
        assert key in known or key in (*methods(), "(centre)"), key
        assert row.keys() <= columns
        for value, error in row.values():
            assert value is None or math.isfinite(value)
            assert error is None or error >= 0


def test_no_file_is_of_no_table() -> None:
    place = Path(measured.__file__).parent
    assert {path.stem for path in place.glob("*.json")} == {name for name, _ in ALL}
    assert read_records("tcav") == ()


def written(value: float) -> str:
    """A number as a document may print it: with as many zeros at its end as it likes."""
    whole, _, rest = f"{value:f}".rstrip("0").partition(".")
    return rf"{whole}\.{rest}0*" if rest else rf"{whole}(\.0+)?"


@beside
@pytest.mark.parametrize(("name", "record"), [one for one in ALL if one[1].document])
def test_documents_say_the_same(name: str, record: Record) -> None:
    """Every figure of a record stands in the document that it names, with its error."""
    text = re.sub(r"[*≈]", "", (DOCUMENTS / record.document).read_text("utf-8"))
    for key, row in record.figures.items():
        for value, error in row.values():
            if value is None:
                continue
            pattern = rf"(?<![\d.]){written(value)}" + (
                f" ?%? ± {written(error)}" if error is not None else ""
            )
            assert re.search(rf"{pattern}(?![\d.]*\d)", text), (key, value, error)


def test_calms_list_of_supersets() -> None:
    """Specification C5: 118 nodes, 682 classes printed, 107 with the printed number."""
    nodes = imagenet_nodes()
    assert len(nodes) == len(PUBLISHED["calm-4"].rows) == 118
    assert sum(printed for printed, _ in nodes.values()) == 682
    assert sum(printed == own for printed, own in nodes.values()) == 107
    assert (nodes["canine"], nodes["bird"], nodes["pot"]) == ((116, 130), (52, 59), (3, 3))
    (record,) = read_records("calm-4")
    assert {key: row["classes"][0] for key, row in record.figures.items()} == {
        name: own for name, (_, own) in nodes.items()
    }


# ---------------------------------------------------------------- pages


@beside
@pytest.mark.parametrize("name", PAGES)
def test_pages_are_up_to_date(name: str) -> None:
    """python -m camrt.cli.paper_pages docs/results"""
    assert (DOCUMENTS / name).read_text("utf-8") == render_page(PAGES[name])


def test_a_page_has_published_figures_beside_ours() -> None:
    text = render_page(PAGES["pixab.md"])
    assert "object localisation, % ↑, published | object localisation, % ↑, ours (MobileNetV2)" in text
    assert "| Pixab-CAM | 53.22 | 67.0 ± 1.9 | 73.4 ± 1.8 |" in text
    assert "## pixab-figure-12" in text
    assert "weights of VGG-16 are not at hand" in text
    walls = render_page(PAGES["walls.md"])
    assert "| 54 | 54 |" in walls
    assert r"| \> 0 |" in walls


# ---------------------------------------------------------------- recording


def results(tmp_path: Path, content: Any) -> Path:
    (tmp_path / "results.json").write_text(json.dumps(content))
    return tmp_path


ROW = {"key": "gradcam", "title": "Grad-CAM", "measured": {"doa": {"value": 1 / 3, "error": 0.25}}}
BOXES = [
    {
        "key": "1x1 both",
        "title": f"1x1 both, {reading}",
        "measured": {"dap1-pg": {"value": value, "error": None}},
    }
    for reading, value in (("N1, coverage", 1.0), ("N2, coverage", 2.0), ("N2, anchor", 3.0))
]


def test_results_become_records(tmp_path: Path) -> None:
    main = typer.Typer()
    main.command()(record_results.main)
    said = ["--images", "two", "--command", "camrt reproduce", "--into", str(tmp_path / "kept")]

    def record(content: Any, model: str, *more: str) -> Any:
        given = [str(results(tmp_path, content)), "--model", model, *said, *more]
        return CliRunner().invoke(main, given)

    table = {"table": "pixab-2", "rows": [ROW, {"key": "x", "title": "X", "measured": {}}]}
    timed = ("--seconds", "90", "--machine", "mine")
    assert record(table, "one", *timed).exit_code == 0
    assert record(table, "other").exit_code == 0
    changed = {"table": "pixab-2", "rows": [{**ROW, "measured": {"doa": {"value": 0.5, "error": None}}}]}
    assert record(changed, "one", *timed).exit_code == 0
    kept = json.loads((tmp_path / "kept" / "pixab-2.json").read_bytes())
    assert [(entry["model"], entry["figures"]) for entry in kept] == [
        ("one", {"gradcam": {"doa": [0.5, None]}}),
        ("other", {"gradcam": {"doa": [0.333333, 0.25]}}),
    ]
    first = measured.parse_record(kept[0])
    assert (first.seconds, first.figures["gradcam"]["doa"]) == (90, (0.5, None))
    assert record({"table": "pixab-9", "rows": BOXES}, "one").exit_code == 0
    kept = json.loads((tmp_path / "kept" / "pixab-9.json").read_bytes())
    assert kept[0]["figures"] == {"1x1 both": {"dap1-pg": [2.0, None]}}
    for wrong, words in (({"rows": 3}, "no results of"), ({**table, "rows": []}, "nothing of pixab-2")):
        answer = record(wrong, "one")
        assert (answer.exit_code, words in spoken(answer.stderr)) == (2, True)
    (tmp_path / "results.json").unlink()
    missing = CliRunner().invoke(main, [str(tmp_path), "--model", "one", *said])
    assert "cannot be read" in spoken(missing.stderr)


def test_statements_become_records() -> None:
    statement = {"text": "rows", "theory": 5.0, "value": 5, "error": 0.0, "relation": "=", "holds": True}
    bound = {**statement, "text": "least", "theory": 1.0, "value": 2.5, "relation": "≥"}
    name, found = record_results.build_record({"parts": {"Theorem 3": [statement, bound]}})
    assert name == "walls-theory"
    assert found["stated"] == {"Theorem 3: rows": "5", "Theorem 3: least": "≥ 1"}
    assert found["figures"]["Theorem 3: least"] == {"value": [2.5, None]}
    with pytest.raises(DataError, match="no results of"):
        record_results.build_record({"parts": {"Theorem 3": [{}]}})
