"""The search for a learning rate, as CALM's localisation runs have it (specification A6).

"Keep CALM and Improve Visual Feature Attribution" (ICCV 2021) tunes of these runs the learning rate alone:
thirty draws of a log-uniform distribution, of which the one whose maps find the objects of the validation
images best is taken, with the weights of its last epoch. The printed range, "[5^-5, 5^-1]", is read as 5e-5
to 5e-1. Every other setting, the seed included, is the same for all draws.

A search's folder holds, each file being whole:

    recipe.yaml         every setting; lr is not one of them here
    model.safetensors   the weights of the best draw so far
    model.json          what they are
    search.json         every draw with its figures, when all are done
    table.md            the same as a table
    draws/001/ ...      the runs of the draws; what is finished keeps its logs and settings alone
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np

import camrt
from camrt.engine.digests import combined_digest
from camrt.engine.run_folder import RUN_FILE as RUN
from camrt.engine.run_folder import RunFolder, lock_folder
from camrt.errors import DivergenceError, InputError, TrainingError
from camrt.evaluation.datasets import Dataset
from camrt.evaluation.escaping import to_json_bytes
from camrt.evaluation.suite.block_run import hash_files
from camrt.evaluation.suite.runner import hash_annotations
from camrt.export.io.atomic_files import storage_errors, write_atomic
from camrt.training import runs
from camrt.training.localisation import measure_localisation
from camrt.training.recipe import Recipe
from camrt.training.runs import RunDescription
from camrt.training.splits import Split, summarise_splits
from camrt.training.tensor_files import read_tensors
from camrt.training.trainer import fit

__all__ = ["MEASURES", "Draw", "Search", "search"]

SelectionMeasure = Literal["maxboxaccv2", "pxap", "val_top1", "val_loss"]

MEASURES: Final[Mapping[str, tuple[str, int]]] = {
    "maxboxaccv2": ("MaxBoxAccV2, %", 1),
    "pxap": ("PxAP, %", 1),
    "val_top1": ("top-1", 1),
    "val_loss": ("validation loss", -1),
}
"""What draws may be chosen by: as tables name it, and 1 where more is better, −1 where less is."""

RESULTS: Final = "search.json"
TABLE: Final = "table.md"
DRAWS: Final = "draws"
FILES: Final = (runs.WEIGHTS, runs.DESCRIPTION, runs.RECIPE, RESULTS, TABLE)
TEMPORARY_FILES: Final = (runs.STATE, runs.DESCRIPTION, runs.WEIGHTS)
"""Files of a draw's run that are removed once the draw is evaluated, in that order."""
IGNORED_SETTINGS: Final = ("lr", "keep", "workers", "checkpoint_steps")
"""Settings that a search either makes itself or does not depend on."""


@dataclass(frozen=True, kw_only=True)
class Search:
    """A search.

    Attributes:
        draws: How many learning rates are tried.
        lowest: The smallest that may be drawn.
        highest: The largest.
        by: What draws are chosen by, a name of `MEASURES`.

    Raises:
        InputError: A value out of range.
    """

    draws: int = 30
    lowest: float = 5e-5
    highest: float = 5e-1
    by: SelectionMeasure = "maxboxaccv2"

    def __post_init__(self) -> None:
        if isinstance(self.draws, bool) or not isinstance(self.draws, int) or self.draws < 1:
            raise InputError(f"draws={self.draws!r} must be a whole number >= 1")
        if not 0 < self.lowest < self.highest < math.inf:
            raise InputError(
                "learning rates are drawn between two positive numbers, the smaller first: not "
                f"{self.lowest} and {self.highest}"
            )
        if self.by not in MEASURES:
            raise InputError(f"by={self.by!r} must be one of {', '.join(MEASURES)}")

    def draw_lr(self, seed: int, number: int) -> float:
        """The learning rate of a draw, counted from 1: log-uniform, to four digits.

        It depends on the seed and the number alone, so that a longer search begins with the draws of a
        shorter one.
        """
        share = np.random.default_rng((seed, number)).random()
        logarithm = (1 - share) * math.log(self.lowest) + share * math.log(self.highest)
        return float(f"{math.exp(logarithm):.4g}")


@dataclass(frozen=True)
class Draw:
    """One learning rate that was tried.

    Attributes:
        number: Counted from 1.
        lr: The learning rate.
        figures: What was measured after the last epoch, by the names of `MEASURES`.
        why: Why nothing was; empty where something was.
    """

    number: int
    lr: float
    figures: Mapping[str, float]
    why: str = ""

    def rank(self, by: str) -> tuple[float, int]:
        """Sort key: the larger the better; of equal figures the earlier draw wins.

        Raises:
            KeyError: It has no such figure.
        """
        return MEASURES[by][1] * self.figures[by], -self.number


def search(
    recipe: Recipe,
    search_settings: Search,
    train: Split,
    validation: Split,
    folder: Path,
    *,
    objects: Dataset | None = None,
    resume: bool = False,
    overwrite: bool = False,
    accelerator: str = "auto",
    progress: bool = True,
    tensorboard: bool = False,
    data_name: str = "",
    on_draw: Callable[[Draw], None] = lambda draw: None,
) -> tuple[RunDescription, tuple[Draw, ...]]:
    """Trains one classifier a learning rate, and leaves the best of them in a folder.

    A draw whose loss is not finite is one that failed, and the search goes on.

    Args:
        recipe: How, but for the learning rate; the weights of each draw's last epoch count.
        search_settings: What is searched.
        train: Images to train on.
        validation: Images to validate on, of the same classes.
        folder: The search's folder.
        objects: Validation images with boxes or masks, see `camrt.training.localisation.select_annotated`.
        resume: Go on with the search that is in the folder; it may be given more draws.
        overwrite: Replace the search that is in the folder, if one is.
        accelerator: Lightning's: "cpu", "gpu", "auto".
        progress: Whether to show progress bars.
        tensorboard: Also log for TensorBoard, which must be installed.
        data_name: What the images are, for the provenance.
        on_draw: Called with every draw when it is judged.

    Returns:
        What the weights in the folder are, and the draws in their order.

    Raises:
        TrainingError: The folder holds no search to go on with, or one of more draws; every draw failed; or
            as `camrt.training.trainer` says.
        InputError: Draws cannot be chosen so, or the folder holds something else, or another search.
        ImageError: An image cannot be read.
        StorageError: The folder cannot be written; what was saved before is kept.
    """
    if search_settings.by not in available_measures(objects):
        raise InputError(
            f"draws cannot be chosen by {MEASURES[search_settings.by][0].removesuffix(', %')}: the "
            "validation images "
            f"have no {'boxes' if search_settings.by == 'maxboxaccv2' else 'masks'}"
        )
    if resume and not overwrite and not (folder / RUN).exists():
        raise TrainingError(f"{folder} holds no search to go on with")
    settings = dataclasses.replace(recipe, keep="last")
    with lock_folder(folder), storage_errors(folder):
        facts = summarise_splits((train, validation))
        identity = {
            **{
                name: value
                for name, value in dataclasses.asdict(settings).items()
                if name not in IGNORED_SETTINGS
            },
            "lowest lr": search_settings.lowest,
            "highest lr": search_settings.highest,
            "chosen by": search_settings.by,
            **facts,
            "annotations": None if objects is None else digest_annotations(objects),
        }
        noted = RunFolder(folder, "search", identity, resume=resume, overwrite=overwrite)
        noted.check(FILES)
        if overwrite:
            remove_draws(folder)
        noted.claim(FILES)
        settings.write(folder / runs.RECIPE)
        draws = [read_draw(note, folder) for note in noted.finished]
        if len(draws) > search_settings.draws:
            raise TrainingError(
                f"{folder} has {len(draws)} draws already, and {search_settings.draws} were asked for"
            )
        for draw in draws:
            keep_best(folder, draw, draws, search_settings.by)
        for number in range(len(draws) + 1, search_settings.draws + 1):
            own = dataclasses.replace(settings, lr=search_settings.draw_lr(settings.seed, number))
            place = draw_folder(folder, number)
            given: dict[str, Any] = {
                "accelerator": accelerator,
                "progress": progress,
                "tensorboard": tensorboard,
                "data_name": data_name,
            }
            try:
                begun = (place / runs.RECIPE).exists()
                found = fit(own, train, validation, place, resume=begun, devices=1, facts=facts, **given)
            except DivergenceError:
                draw = Draw(number, own.lr, {}, "its loss was not finite")
            else:
                draw = evaluate_draw(number, own, found, place, objects, accelerator)
            noted.finish(dataclasses.asdict(draw))
            draws.append(draw)
            keep_best(folder, draw, draws, search_settings.by)
            on_draw(draw)
        best = find_best(draws, search_settings.by)
        if best is None:
            raise TrainingError(
                f"none of {len(draws)} draws can be chosen by {MEASURES[search_settings.by][0]}: "
                f"{'; '.join(sorted({draw.why for draw in draws if draw.why}))}"
            )
        write_results(folder, settings, search_settings, facts, draws, best)
    return runs.read_description(folder), tuple(draws)


def read_draw(note: Mapping[str, Any], folder: Path) -> Draw:
    """A draw as it was noted.

    Raises:
        TrainingError: The note is damaged.
    """
    try:
        figures = {name: float(note["figures"][name]) for name in MEASURES if name in note["figures"]}
        return Draw(int(note["number"]), float(note["lr"]), figures, str(note["why"]))
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise TrainingError(f"{folder} has a draw that was noted as {note!r:.80}: {error!r}") from error


def available_measures(objects: Dataset | None) -> tuple[SelectionMeasure, ...]:
    """What draws can be chosen by, the paper's measure first."""
    samples = () if objects is None else objects.samples
    there: dict[SelectionMeasure, bool] = {
        "maxboxaccv2": any(sample.boxes for sample in samples),
        "pxap": any(sample.masks for sample in samples),
        "val_top1": True,
        "val_loss": True,
    }
    return tuple(name for name, possible in there.items() if possible)


def evaluate_draw(
    number: int,
    recipe: Recipe,
    found: RunDescription,
    run_folder: Path,
    objects: Dataset | None,
    accelerator: str,
) -> Draw:
    """What a finished run of a draw is worth."""
    figures = {name: float(found.provenance[name]) for name in ("val_loss", "val_top1")}
    metrics = [name for name in ("maxboxaccv2", "pxap") if name in available_measures(objects)]
    if objects is not None and metrics:
        figures |= measure_localisation(run_folder, objects, metrics, recipe.batch_size, accelerator)
    return Draw(number, recipe.lr, {name: figures[name] for name in MEASURES if name in figures})


def find_best(draws: Sequence[Draw], by: str) -> Draw | None:
    """The best of the draws that have such a figure; None where none has."""
    return max((draw for draw in draws if by in draw.figures), key=lambda draw: draw.rank(by), default=None)


def keep_best(folder: Path, draw: Draw, draws: Sequence[Draw], by: str) -> None:
    """Puts a judged draw's weights in the search's folder if it is the best so far, and removes its own."""
    place = draw_folder(folder, draw.number)
    left = [name for name in TEMPORARY_FILES if (place / name).exists()]
    if not left:
        return
    if draw == find_best(draws, by) and {runs.WEIGHTS, runs.DESCRIPTION} <= set(left):
        described = runs.read_description(place)
        searched = {"draw": draw.number, "by": by, "value": draw.figures[by]}
        provenance = {**described.provenance, "search": searched}
        tensors, _ = read_tensors(place / runs.WEIGHTS)
        runs.save_run(folder, tensors, dataclasses.replace(described, provenance=provenance))
    with lock_folder(place):
        RunFolder(place, "training", {}, resume=True, overwrite=False).remove(left)


def draw_folder(folder: Path, number: int) -> Path:
    """Where the run of a draw lies."""
    return folder / DRAWS / f"{number:03d}"


def remove_draws(folder: Path) -> None:
    """Removes the runs of the draws of a search that is replaced: the files that they noted."""
    for place in sorted((folder / DRAWS).glob("*")):
        if (place / RUN).exists():
            with lock_folder(place):
                RunFolder(place, "training", {}, resume=False, overwrite=True).clear()
            with suppress(OSError):  # something else is in it
                place.rmdir()
    with suppress(OSError):
        (folder / DRAWS).rmdir()


def digest_annotations(objects: Dataset) -> str:
    """A hash of annotations, their masks' contents included."""
    files = hash_files(objects.samples, objects.root)
    return combined_digest(
        [hash_annotations(objects.samples, objects.root), *(part for own in files for part in own)]
    )


def write_results(
    folder: Path,
    recipe: Recipe,
    asked: Search,
    facts: Mapping[str, Any],
    draws: Sequence[Draw],
    best: Draw,
) -> None:
    """Writes search.json and table.md."""
    content = {
        "camrt": camrt.__version__,
        "settings": {k: v for k, v in dataclasses.asdict(recipe).items() if k not in IGNORED_SETTINGS},
        "search": dataclasses.asdict(asked),
        "images": facts["images"],
        "best": best.number,
        "draws": [dataclasses.asdict(draw) for draw in draws],
    }
    write_atomic(folder / RESULTS, to_json_bytes(content))
    title = (
        f"# {len(draws)} learning rates between {asked.lowest:g} and {asked.highest:g}: {recipe.head} on "
        f"{recipe.backbone}, {recipe.epochs} epochs"
    )
    chosen = f"Chosen by {MEASURES[asked.by][0].removesuffix(', %')}: draw {best.number}, lr {best.lr:g}."
    header, rows = build_table(draws, best)
    grid = [header, ["---", *["---:"] * (len(header) - 2), "---"], *rows]
    lines = [title, "", *(f"| {' | '.join(cells)} |" for cells in grid), "", chosen]
    write_atomic(folder / TABLE, ("\n".join(lines) + "\n").encode())


def build_table(draws: Sequence[Draw], best: Draw) -> tuple[list[str], list[list[str]]]:
    """The header and the rows of a table of all draws, from the smallest learning rate on."""
    shown = [name for name in MEASURES if any(name in draw.figures for draw in draws)]
    rows = []
    for draw in sorted(draws, key=lambda draw: (draw.lr, draw.number)):
        cells = [format_figure(name, draw.figures[name]) if draw.figures else "" for name in shown]
        rows.append([str(draw.number), f"{draw.lr:g}", *cells, "the best" if draw == best else draw.why])
    return ["draw", "lr", *(MEASURES[name][0] for name in shown), ""], rows


def format_figure(name: str, value: float) -> str:
    """A figure as tables show it."""
    if name == "val_loss":
        return f"{value:.4f}"
    return f"{100 * value:.1f} %" if name == "val_top1" else f"{value:.1f}"
