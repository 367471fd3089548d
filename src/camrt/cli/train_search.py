"""What `camrt train --search` adds to `camrt train`. What is heavy is imported inside."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from camrt.cli.output import add_row, make_console, strip_control
from camrt.errors import InputError

if TYPE_CHECKING:
    from camrt.training.recipe import Recipe
    from camrt.training.splits import Split

__all__ = ["LR_RANGE", "UNANNOTATED_MEASURES", "check_search_options", "run_search"]

LR_RANGE: Final = "5e-5,5e-1"
"""The paper's range, see `camrt.training.lr_search`."""
UNANNOTATED_MEASURES: Final = ("val_top1", "val_loss")
"""What draws are chosen by without boxes or masks."""


def check_search_options(
    search: int | None, search_options: Mapping[str, bool], single_run_options: Mapping[str, bool]
) -> None:
    """Refuses options that do not go together.

    Args:
        search: How many draws; None for a single run.
        search_options: Whether each option was given that needs `--search`.
        single_run_options: Whether each was given that a search has no place for.

    Raises:
        InputError: One was that does not fit.
    """
    strange = [
        name for name, given in (search_options if search is None else single_run_options).items() if given
    ]
    if strange and search is None:
        raise InputError(f"{', '.join(strange)} mean{'s' * (len(strange) == 1)} nothing without --search")
    if strange:
        raise InputError(
            f"leave out {', '.join(strange)}: --search draws its learning rates itself (--lr-range), and "
            "trains on one device"
        )


def run_search(
    asked: tuple[int, str, str | None],
    settings: Recipe,
    data: tuple[Split, Split],
    out: Path,
    root: Path,
    annotations: Path | None,
    shared: Mapping[str, Any],
) -> None:
    """Searches for a learning rate, and prints every draw.

    Args:
        asked: How many draws, their range as LOW,HIGH, and what they are chosen by.
        settings: All other settings.
        data: Images to train on and to validate on.
        out: The search's folder.
        root: What names in the annotations are relative to.
        annotations: Boxes or masks; None for those in the root.
        shared: Options of `camrt.training.search` that a single run has too.
    """
    from rich.table import Table

    from camrt.training import runs
    from camrt.training.localisation import select_annotated
    from camrt.training.lr_search import (
        TABLE,
        Draw,
        Search,
        available_measures,
        build_table,
        format_figure,
        search,
    )

    count, bounds, by = asked
    lowest, highest = parse_range(bounds)
    chosen: Any = by or Search.by  # Search refuses what it does not know
    wanted = Search(draws=count, lowest=lowest, highest=highest, by=chosen)
    objects = (
        None
        if by in UNANNOTATED_MEASURES and annotations is None
        else select_annotated(root, data[1], annotations)
    )
    if by is None:
        wanted = replace(wanted, by=available_measures(objects)[0])
    screen = make_console(stderr=True)
    screen.print(
        f"{wanted.draws} learning rates between {wanted.lowest:g} and {wanted.highest:g}; the best by "
        f"{wanted.by} is kept",
        soft_wrap=True,
    )

    def tell(draw: Draw) -> None:
        figures = ", ".join(f"{name} {format_figure(name, value)}" for name, value in draw.figures.items())
        screen.print(
            f"draw {draw.number} of {wanted.draws}, lr {draw.lr:g}: {figures or draw.why}", soft_wrap=True
        )

    found, draws = search(settings, wanted, *data, out, objects=objects, on_draw=tell, **shared)
    best = draws[found.provenance["search"]["draw"] - 1]
    header, rows = build_table(draws, best)
    listing = Table(*header)
    for row in rows:
        add_row(listing, *row, bold=row[0] == str(best.number))
    make_console().print(listing)
    make_console().print(
        strip_control(
            f"lr {best.lr:g} was the best: weights in {out / runs.WEIGHTS}, all draws in {out / TABLE}"
        ),
        soft_wrap=True,
        markup=False,
    )


def parse_range(text: str) -> tuple[float, float]:
    """The bounds of a search, from LOW,HIGH.

    Raises:
        InputError: They are no two numbers.
    """
    try:
        lowest, highest = (float(part) for part in text.split(","))
    except ValueError:
        raise InputError(f"--lr-range {text!r} must be two numbers, as in {LR_RANGE}") from None
    return lowest, highest
