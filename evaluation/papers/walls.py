"""The table of "CAM-Based Methods Can See through Walls" (ECML-PKDD 2024)."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

from camrt.engine.methods import Method, make_method
from camrt.errors import DataError, InputError
from camrt.evaluation.datasets import Dataset, read_dataset
from camrt.evaluation.dead_zone.detection import find_dead_zone
from camrt.evaluation.dead_zone.stack_mix import MANIFEST, is_built_from, write_stack_mix
from camrt.evaluation.papers.published_table import PublishedTable
from camrt.evaluation.papers.reproduced_table import MeasuredFigure, ReproducedTable
from camrt.evaluation.papers.row_selection import select_rows, to_figure
from camrt.evaluation.papers.run_state import NO_DATA, ReproductionRun, as_squashed
from camrt.export.io.atomic_files import storage_errors

__all__ = ["measure_dead_zone"]


def measure_dead_zone(run: ReproductionRun, table: PublishedTable) -> ReproducedTable:
    """μ of the model's own dead zone (specification D15).

    Of a folder of classes STACK-MIX is built first: the paper's images, with another object of the class
    in the dead rows. Other images are taken as they are.
    """
    methods: dict[str, Method] = {
        row.key: make_method(row.key, {"postprocess": "library"}) for row in table.rows if row.key != "score"
    }
    methods["score"] = make_method("score", {"postprocess": "library", "definition": "grad-cam"})
    wanted = select_rows(run, table, methods, postprocess="library")
    facts = run.collect_facts()
    if run.data is None:
        return ReproducedTable(table, wanted.build_rows({}, NO_DATA), {}, table.remarks, facts)
    size = run.preprocessing.size
    run.progress("looking for pixels that cannot influence the model", 0, 0)
    zone = find_dead_zone(run.engine, size=size, seed=run.options.seed)
    facts["dead zone"] = {"share": zone.share, "lowest rows": zone.lowest_rows, "found by": zone.method}
    if not zone.pixels.any() or not wanted.methods:
        why = "" if zone.pixels.any() else "every pixel can influence the model"
        return ReproducedTable(table, wanted.build_rows({}, why), {}, table.remarks, facts)
    uniform = f"a map that is the same everywhere scores {math.sqrt(zone.share):.3f}"
    data, engine, remarks = run.dataset, run.engine, (*table.remarks, uniform)
    stacks = prepare_stack_mix(run, data, zone.lowest_rows)
    if isinstance(stacks, str):
        remarks += (f"the images are taken as they are, not stacked: {stacks}",)
    else:
        data, engine = stacks, run.engine.with_preprocessing(as_squashed(run.preprocessing))
        remarks += (
            f"on STACK-MIX of {len(stacks)} classes: the lowest {zone.lowest_rows} rows are another "
            "image's of the class; nobody has looked through them",
        )
    evaluation = run.evaluate_methods(
        table.name, wanted.methods, ["mu"], data=data, dead=zone.pixels, engine=engine
    )
    found = {}
    for key in wanted.methods:
        figure = to_figure(evaluation.figures[key].get("mu"))
        spread = (evaluation.figures[key].get("mu") or {}).get("deviation")
        found[key] = {"mu": figure, "spread": MeasuredFigure(spread, None, figure.counted, figure.undefined)}
    facts["images"] = evaluation.results["images"]
    return ReproducedTable(table, wanted.build_rows(found), {}, remarks, facts)


def prepare_stack_mix(run: ReproductionRun, data: Dataset, rows: int) -> Dataset | str:
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
    done = is_finished(place, run, rows)
    if place.exists() and not done:
        raise InputError(
            f"{place} holds a set of other images, or something else: replace the run (--overwrite), or "
            "choose another folder"
        )
    try:
        if not done:
            built = place.with_name(f".{place.name}.part")
            shutil.rmtree(built, ignore_errors=True)  # of a run that was killed: the folder is held
            write_stack_mix(data.root, built, dead_rows=rows, size=size[0], seed=run.options.seed)
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


def is_finished(folder: Path, run: ReproductionRun, rows: int) -> bool:
    """Whether the set was built before, of the same images."""
    if not (folder / MANIFEST).is_file():
        return False
    try:
        noted = dict(json.loads((folder / MANIFEST).read_bytes()))
    except (OSError, ValueError, TypeError):
        return False
    wanted = {
        "source": run.dataset.root.resolve().name,
        "seed": run.options.seed,
        "size": run.preprocessing.size[0],
        "dead_rows": rows,
    }
    same = all(noted.get(name) == value for name, value in wanted.items())
    return same and is_built_from(noted, run.dataset.root)
