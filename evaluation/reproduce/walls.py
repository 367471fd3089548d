"""The table of "CAM-Based Methods Can See through Walls" (ECML-PKDD 2024)."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

from camrt.engine.methods import Method, build
from camrt.errors import DataError, InputError
from camrt.evaluation.datasets import Dataset, read_dataset
from camrt.evaluation.reproduce.paper_tables import PublishedTable
from camrt.evaluation.reproduce.rows import Figure, Reproduced
from camrt.evaluation.reproduce.running import NO_DATA, Run, seen_through, squashed
from camrt.evaluation.reproduce.wanting import figure_of, wanted_rows
from camrt.evaluation.walls.dead_zone import find_dead_zone
from camrt.evaluation.walls.stack_mix import MANIFEST, build_stack_mix, is_made_of
from camrt.export.files import storage_errors

__all__ = ["dead_zone"]


def dead_zone(run: Run, table: PublishedTable) -> Reproduced:
    """μ of the model's own dead zone (specification D15).

    Of a folder of classes STACK-MIX is built first: the paper's pictures, with another object of the class
    in the dead rows. Other pictures are taken as they are.
    """
    methods: dict[str, Method] = {
        row.key: build(row.key, {"postprocess": "library"}) for row in table.rows if row.key != "score"
    }
    methods["score"] = build("score", {"postprocess": "library", "definition": "grad-cam"})
    wanted = wanted_rows(run, table, methods, postprocess="library")
    facts = run.facts()
    if run.data is None:
        return Reproduced(table, wanted.finished({}, NO_DATA), {}, table.remarks, facts)
    size = run.preprocessing.size
    run.tell("looking for pixels that cannot influence the model", 0, 0)
    zone = find_dead_zone(run.engine, size=size, seed=run.options.seed)
    facts["dead zone"] = {"share": zone.share, "lowest rows": zone.lowest_rows, "found by": zone.way}
    if not zone.pixels.any() or not wanted.methods:
        why = "" if zone.pixels.any() else "every pixel can influence the model"
        return Reproduced(table, wanted.finished({}, why), {}, table.remarks, facts)
    uniform = f"a map that is the same everywhere scores {math.sqrt(zone.share):.3f}"
    data, engine, remarks = run.dataset, run.engine, (*table.remarks, uniform)
    stacks = stacked(run, data, zone.lowest_rows)
    if isinstance(stacks, str):
        remarks += (f"the pictures are taken as they are, not stacked: {stacks}",)
    else:
        data, engine = stacks, seen_through(run.engine, squashed(run.preprocessing))
        remarks += (
            f"on STACK-MIX of {len(stacks)} classes: the lowest {zone.lowest_rows} rows are another "
            "picture's of the class; nobody has looked through them",
        )
    evaluation = run.evaluated(table.name, wanted.methods, ["mu"], data=data, dead=zone.pixels, engine=engine)
    found = {}
    for key in wanted.methods:
        figure = figure_of(evaluation.figures[key].get("mu"))
        spread = (evaluation.figures[key].get("mu") or {}).get("deviation")
        found[key] = {"mu": figure, "spread": Figure(spread, None, figure.counted, figure.undefined)}
    facts["pictures"] = evaluation.results["pictures"]
    return Reproduced(table, wanted.finished(found), {}, remarks, facts)


def stacked(run: Run, data: Dataset, rows: int) -> Dataset | str:
    """STACK-MIX of the data's classes; or why it cannot be built.

    Raises:
        InputError: There is something else where it would be.
    """
    size = run.preprocessing.size
    if (data.root / MANIFEST).exists():
        return f"{data.root.name} holds a {MANIFEST}, as a set that is stacked already does"
    if run.out is None:
        return "there is no folder to write them to"
    if size[0] != size[1] or not 0 < rows < size[0]:
        return f"it needs a square with whole dead rows below, and this is {size[0]}×{size[1]} with {rows}"
    if data.kind != "folder":
        return "that needs a folder for each class"
    place = run.out / "walls" / f"stack-mix-{rows}-of-{size[0]}-seed-{run.options.seed}"
    if place.exists() and run.options.overwrite and run.folder is not None:
        run.folder.claim([])  # removes what an earlier run wrote
    done = finished(place, run, rows)
    if place.exists() and not done:
        raise InputError(
            f"{place} holds a set of other pictures, or something else: replace the run (--overwrite), or "
            "choose another folder"
        )
    try:
        if not done:
            built = place.with_name(f".{place.name}.part")
            shutil.rmtree(built, ignore_errors=True)  # of a run that was killed: the folder is held
            build_stack_mix(data.root, built, dead_rows=rows, size=size[0], seed=run.options.seed)
            if run.folder is not None:
                run.folder.claim(
                    [
                        path.relative_to(built.parent).as_posix().replace(built.name, place.name, 1)
                        for path in sorted(built.rglob("*"))
                        if path.is_file()
                    ]
                )
            with storage_errors(place):
                built.replace(place)
        return read_dataset(place, labels=run.engine.labels, num_classes=run.engine.num_classes)
    except DataError as error:
        return str(error)


def finished(place: Path, run: Run, rows: int) -> bool:
    """Whether the set was built before, of the same pictures."""
    if not (place / MANIFEST).is_file():
        return False
    try:
        noted = dict(json.loads((place / MANIFEST).read_bytes()))
    except (OSError, ValueError, TypeError):
        return False
    wanted = {
        "source": run.dataset.root.resolve().name,
        "seed": run.options.seed,
        "size": run.preprocessing.size[0],
        "dead_rows": rows,
    }
    same = all(noted.get(name) == value for name, value in wanted.items())
    return same and is_made_of(noted, run.dataset.root)
