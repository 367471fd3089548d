"""The axioms of several methods in one run, which a folder of results may hold."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

import camrt
from camrt.default import resolve_model_path
from camrt.engine.identity import model_identity, package_versions
from camrt.engine.methods import Method, make_method
from camrt.engine.run_folder import RunFolder, lock_folder
from camrt.errors import InputError
from camrt.evaluation.escaping import escape_markdown, to_json_bytes
from camrt.evaluation.metrics.axioms import CONSTANTS, TOLERANCE, AxiomsResult, measure_axioms
from camrt.evaluation.metrics.randomisation import images_digest
from camrt.export.io.atomic_files import write_atomic

__all__ = ["COLUMNS", "axiom_cells", "axioms_of_methods"]

RESULTS, TABLE = "results.json", "table.md"
COLUMNS = (
    "changes under f + C",
    "silent cells that matter",
    "|sum - p(y|x)|",
    "invariant",
    "sensitive",
    "complete",
)
"""What `axiom_cells` are of."""


def axioms_of_methods(
    model: str | os.PathLike[str],
    images: NDArray[Any],
    methods: Sequence[str | Method],
    *,
    preprocessing: Any = None,
    load_options: Mapping[str, Any] | None = None,
    out: str | os.PathLike[str] | None = None,
    resume: bool = False,
    overwrite: bool = False,
) -> list[AxiomsResult]:
    """Measures the axioms of methods one after another; see `measure_axioms`.

    Args:
        model: The file, or the word "default".
        images: (N, C, H, W), as the model takes them.
        methods: Their names, or methods.
        preprocessing: See `camrt.load`.
        load_options: Further arguments of `camrt.load`.
        out: Folder for results.json and table.md; None keeps all in memory.
        resume: Go on with a run in that folder, if there is one: its methods are not measured again.
        overwrite: Replace a run in that folder.

    Raises:
        InputError: No methods, or a folder that holds another run or is being written by one.
        StorageError: Results cannot be written; what was measured before is kept.
        CamrtError: What measuring raises.
    """
    chosen = [make_method(method, {}) for method in methods]
    if not chosen:
        raise InputError("methods= must be a list of one or more methods: it is empty")

    def measured(folder: RunFolder | None) -> list[AxiomsResult]:
        noted = {} if folder is None else {note["method"]: AxiomsResult(**note) for note in folder.finished}
        found = []
        for method in chosen:
            name = repr(method)
            if name not in noted:
                result = measure_axioms(
                    model, images, method, preprocessing=preprocessing, load_options=load_options
                )
                noted[name] = replace(result, method=name)
                if folder is not None:
                    folder.claim([])
                    folder.finish(asdict(noted[name]))
            found.append(noted[name])
        return found

    if out is None:
        return measured(None)
    file, place = resolve_model_path(model), Path(out)
    engine = camrt.load(file, preprocessing=preprocessing, **(load_options or {}))
    identity = {
        "versions": package_versions(("numpy", "onnxruntime")),
        "model": model_identity(engine, engine.preprocessing),
        "images": images_digest(images),
        "methods": [repr(method) for method in chosen],
        "settings": {"constants": list(CONSTANTS)},
    }
    with lock_folder(place):
        folder = RunFolder(place, "axioms", identity, resume=resume, overwrite=overwrite)
        folder.check([RESULTS, TABLE])
        found = measured(folder)
        folder.claim([RESULTS, TABLE])
        write_atomic(place / TABLE, to_markdown(found).encode())
        write_atomic(
            place / RESULTS, to_json_bytes({"tolerance": TOLERANCE, "methods": list(map(as_json, found))})
        )
    return found


def axiom_cells(found: AxiomsResult) -> list[str]:
    """What a table shows of a method, in the order of `COLUMNS`."""
    held = ["yes" if flag else "no" for flag in (found.invariant, found.sensitive, found.complete)]
    return [
        f"{found.invariance:.3g}", f"{100 * found.insensitivity:.3g} %", f"{found.incompleteness:.3g}", *held
    ]  # fmt: skip


def as_json(found: AxiomsResult) -> dict[str, Any]:
    held = {name: getattr(found, name) for name in ("invariant", "sensitive", "complete")}
    return asdict(found) | held


def to_markdown(results: Sequence[AxiomsResult]) -> str:
    """The table as Markdown."""
    heads = ["method", *(escape_markdown(column) for column in COLUMNS)]
    lines = [
        f"# Axioms on {results[0].images} images",
        "",
        f"| {' | '.join(heads)} |",
        "| --- " * len(heads) + "|",
    ]
    for found in results:
        lines.append(f"| {' | '.join([escape_markdown(found.method), *axiom_cells(found)])} |")
    return "\n".join(lines) + "\n"
