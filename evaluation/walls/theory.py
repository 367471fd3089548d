"""`camrt evaluate walls --theory`: the paper's statements measured, printed and written beside what they say.

The networks are drawn, and no model or pictures are needed. As in the paper's figures the picture is grey,
with a row of zeros on top and a column on the right: 28×28 pixels become 29×29 there.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

import camrt
from camrt.engine.digests import content_digest
from camrt.engine.pictures import read_picture
from camrt.engine.run_folders import RunFolder, held
from camrt.errors import InputError
from camrt.evaluation.checks import check_whole
from camrt.evaluation.report.texts import json_text, markdown_text
from camrt.evaluation.walls.one_layer import Array
from camrt.evaluation.walls.statements import ERRORS, PARTS, Statement, Subject
from camrt.export.files import write_whole

__all__ = ["FILES", "HEADER", "Theory", "TheorySettings", "cells", "measure_theory", "verdict"]

FILES = ("table.md", "results.json")
MOST = 4_000_000
"""Numbers that the maps of one network may hold; of the paper's figures they are 200,704."""
HEADER = ("statement", "theory", "value", "error", "apart", "holds")


@dataclass(frozen=True)
class TheorySettings:
    """On what the statements are measured.

    Attributes:
        filters: V, of the one-layer network. The paper's figures have 256.
        side: H, of its picture; H − 1 is a multiple of 4, so that half of the pooled rows can be masked. The
            paper's figures have 29.
        draws: Networks that expectations are taken over.
        seed: Of everything that is drawn.
        picture: A file that is made grey and (H − 1)×(H − 1), such as a digit; None draws one.

    Raises:
        InputError: A value out of range.
    """

    filters: int = 64
    side: int = 9
    draws: int = 20_000
    seed: int = 0
    picture: Path | None = None

    def __post_init__(self) -> None:
        for name, least in (("filters", 1), ("side", 5), ("draws", 2), ("seed", 0)):
            check_whole(name, getattr(self, name), least)
        if self.filters * self.side**2 > MOST:
            raise InputError(
                f"filters={self.filters} on side={self.side} are maps of more than {MOST:,} numbers: take "
                "fewer filters, or a smaller picture"
            )
        if self.side % 4 != 1:
            raise InputError(
                f"side={self.side} must be one more than a multiple of 4, such as 9 or 29, so that half of "
                "the pooled rows can be masked"
            )

    def subject(self) -> Subject:
        """The picture with the rest.

        Raises:
            PictureError: The file cannot be read.
            InputError: Its lower half, which the networks do not see, is black.
        """
        inner = self.side - 1
        if self.picture is None:
            pixels: Array = np.random.default_rng(self.seed).random((inner, inner))
            pixels[: inner // 4, -inner // 4 :] = 0  # patches of zeros, where the map must be 0
        else:
            shrunk = read_picture(self.picture).convert("L").resize((inner, inner), Image.Resampling.BILINEAR)
            pixels = np.asarray(shrunk, np.float64) / 255
            if not pixels[inner // 2 :].any():
                raise InputError(
                    f"{self.picture}: the lower half is black: no map could mark what is not seen there"
                )
        return Subject(np.pad(pixels, ((1, 0), (0, 1))), self.filters, self.draws, self.seed)

    def identity(self) -> dict[str, Any]:
        """Everything that values depend on."""
        picture = None if self.picture is None else content_digest(self.picture)
        return {"camrt": camrt.__version__, **asdict(self), "picture": picture}


@dataclass(frozen=True)
class Theory:
    """What was measured.

    Attributes:
        settings: On what.
        parts: The statements, by what they are about.
    """

    settings: TheorySettings
    parts: dict[str, list[Statement]]

    @property
    def statements(self) -> list[Statement]:
        """All of them."""
        return [statement for part in self.parts.values() for statement in part]


def measure_theory(
    settings: TheorySettings,
    *,
    out: str | Path | None = None,
    resume: bool = False,
    overwrite: bool = False,
    tell: Callable[[str, float, int], None] | None = None,
) -> Theory:
    """Measures what the paper proves on networks that are drawn at random.

    Args:
        settings: On what.
        out: Folder for table.md and results.json, which are the same for the same settings; None keeps all in
            memory.
        resume: Go on with a run in that folder, if there is one: what it is finished with is not measured
            again.
        overwrite: Replace a run in that folder.
        tell: Called with what is being measured, how many of the parts are done, and how many there are.

    Raises:
        InputError: A picture with nothing in its lower half, or a folder that holds another run or is being
            written by one.
        PictureError: The picture cannot be read.
        StorageError: Results cannot be written; what was measured before is kept.
    """
    subject = settings.subject()
    if out is None:
        return Theory(settings, _measured(subject, None, tell))
    place = Path(out)
    with held(place):
        folder = RunFolder(place, "theory", settings.identity(), resume=resume, overwrite=overwrite)
        folder.check(FILES)
        found = Theory(settings, _measured(subject, folder, tell))
        folder.claim(FILES)
        write_whole(place / "results.json", json_text(as_json(found)))
        write_whole(place / "table.md", markdown(found).encode())
    return found


def _measured(
    subject: Subject, folder: RunFolder | None, tell: Callable[[str, float, int], None] | None
) -> dict[str, list[Statement]]:
    """Every part, those that were finished before by their notes."""
    noted = {} if folder is None else {note["part"]: note["statements"] for note in folder.finished}
    found: dict[str, list[Statement]] = {}
    for number, (name, measure) in enumerate(PARTS.items()):
        if name in noted:
            found[name] = [Statement(**statement) for statement in noted[name]]
            continue
        if tell is not None:
            tell(name, number, len(PARTS))
        found[name] = measure(subject)
        if folder is not None:
            folder.claim([])
            folder.finish({"part": name, "statements": [asdict(statement) for statement in found[name]]})
    return found


def cells(statement: Statement) -> list[str]:
    """A statement's texts, one for each of `HEADER`."""
    theory = f"{statement.theory:.6g}"
    gap = abs(statement.value - statement.theory)
    return [
        statement.text,
        theory if statement.relation == "=" else f"{statement.relation} {theory}",
        f"{statement.value:.6g}",
        f"± {statement.error:.2g}" if statement.error else "exact" if statement.relation == "=" else "",
        f"{gap / statement.error:.2f} errors" if statement.error else "",
        "yes" if statement.holds else "no",
    ]


def verdict(found: Theory) -> str:
    """Whether all statements hold, in a sentence."""
    failed = [statement.text for statement in found.statements if not statement.holds]
    if failed:
        return f"{len(failed)} of {len(found.statements)} statements do not hold: {'; '.join(failed)}"
    return (
        f"all {len(found.statements)} statements hold, those on expectations within {ERRORS} standard errors"
    )


def markdown(found: Theory) -> str:
    """The statements as Markdown."""
    chosen = found.settings
    picture = "drawn numbers" if chosen.picture is None else chosen.picture.name
    lines = [
        "# What masked networks cannot see, and Grad-CAM marks all the same",
        "",
        "CAM-Based Methods Can See through Walls (ECML-PKDD 2024), sections 3 and 4. One-layer network: "
        f"{chosen.filters} filters of 2×2, pooling cells of 2×2, a picture of {chosen.side}×{chosen.side} "
        f"({markdown_text(picture)}); {chosen.draws} draws, seed {chosen.seed}.",
    ]
    for name, part in found.parts.items():
        lines += ["", f"## {name}", "", _line(HEADER), "| --- |" + " --- |" * (len(HEADER) - 1)]
        lines += [_line(cells(statement)) for statement in part]
    return "\n".join([*lines, "", markdown_text(verdict(found)) + "."]) + "\n"


def _line(texts: tuple[str, ...] | list[str]) -> str:
    return f"| {' | '.join(markdown_text(text) for text in texts)} |"


def as_json(found: Theory) -> dict[str, Any]:
    """What `results.json` holds."""
    return {
        "settings": found.settings.identity(),
        "parts": {
            name: [{**asdict(statement), "holds": statement.holds} for statement in part]
            for name, part in found.parts.items()
        },
    }
