"""Keeps what `camrt reproduce` or `camrt evaluate walls --theory` has measured as a record of the repository.

    python -m camrt.cli.record_results FOLDER --model NAME --images TEXT --command LINE
        --into evaluation/papers/measured

FOLDER holds `results.json`. A record of the same table and model is replaced. Of the tables of boxes the rows
of the default reading are kept: N2, coverage.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from camrt.cli.output import report_errors
from camrt.errors import DataError
from camrt.export.io.atomic_files import write_atomic

__all__ = ["add_record", "build_record", "main"]

DEFAULT_READING = {"N2", "coverage"}
READINGS = {"N1", "N2", "N3", "coverage", "same", "anchor"}


def build_record(results: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
    """The table, and the figures of `results.json`.

    Raises:
        DataError: It is something else, or nothing was measured.
    """
    try:
        if "parts" in results:
            return "walls-theory", _statements(results["parts"])
        figures: dict[str, Any] = {}
        for row in results["rows"]:
            reading = {part.strip() for part in row["title"].split(",")[1:]} & READINGS
            if not row["measured"] or not reading <= DEFAULT_READING:
                continue
            figures[row["key"]] = {
                name: [_round_digits(figure["value"]), _round_digits(figure["error"])]
                for name, figure in row["measured"].items()
            }
        name = str(results["table"])
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(f"these are no results of camrt reproduce: {error!r}") from error
    if not figures:
        raise DataError(f"nothing of {name} was measured: there is nothing to record")
    return name, {"figures": figures}


def _statements(parts: Mapping[str, Any]) -> dict[str, Any]:
    every = [(f"{part}: {one['text']}", one) for part, statements in parts.items() for one in statements]
    return {
        "figures": {
            text: {"value": [_round_digits(one["value"]), one["error"] or None]} for text, one in every
        },
        "stated": {
            text: f"{'' if one['relation'] == '=' else one['relation'] + ' '}{one['theory']:.6g}"
            for text, one in every
        },
    }


def _round_digits(value: float | None) -> float | None:
    """Six digits, of which none depends on the processor."""
    return None if value is None else float(f"{value:.6g}")


def add_record(before: list[dict[str, Any]], record: dict[str, Any]) -> list[dict[str, Any]]:
    """The records of a table with one more, or in place of the same model's."""
    models = [entry["model"] for entry in before]
    if record["model"] not in models:
        return [*before, record]
    place = models.index(record["model"])
    return [*before[:place], record, *before[place + 1 :]]


def format_records(found: list[dict[str, Any]]) -> bytes:
    """The records of a table as their file has them, a line for each row."""

    def mapping(name: str, rows: Mapping[str, Any]) -> str:
        lines = [f"   {json.dumps(key, ensure_ascii=False)}: {json.dumps(row)}" for key, row in rows.items()]
        return f'  "{name}": {{\n' + ",\n".join(lines) + "\n  }"

    texts = []
    for entry in found:
        parts = [
            mapping(name, value)
            if isinstance(value, Mapping)
            else f'  "{name}": {json.dumps(value, ensure_ascii=False)}'
            for name, value in entry.items()
        ]
        texts.append(" {\n" + ",\n".join(parts) + "\n }")
    return ("[\n" + ",\n".join(texts) + "\n]\n").encode()


def main(
    folder: Annotated[Path, typer.Argument(help="Folder of a run, with results.json.")],
    model: Annotated[str, typer.Option(help="The model, in a few words.")],
    images: Annotated[str, typer.Option(help="What it was measured on, and what ± is.")],
    command: Annotated[str, typer.Option(help="How, as a line of the shell.")],
    into: Annotated[Path, typer.Option(help="The folder of records.")],
    document: Annotated[str, typer.Option(help="Document in docs/results that says more.")] = "",
    seconds: Annotated[float | None, typer.Option(help="How long it took.")] = None,
    machine: Annotated[str, typer.Option(help="On which machine.")] = "",
) -> None:
    """Adds a record, or replaces it."""
    with report_errors():
        try:
            results = json.loads((folder / "results.json").read_bytes())
        except (OSError, ValueError) as error:
            raise DataError(f"{folder / 'results.json'} cannot be read: {error}") from error
        name, found = build_record(results)
        said = {"model": model, "images": images, "command": command, "document": document}
        record = {**said, "seconds": seconds, "machine": machine, **found}
        place = into / f"{name}.json"
        before = json.loads(place.read_bytes()) if place.is_file() else []
        write_atomic(place, format_records(add_record(before, record)))
        typer.echo(f"{place}: {len(found['figures'])} rows of {model}")


if __name__ == "__main__":
    typer.run(main)
