"""`camrt evaluate walls --theory`: the paper's statements measured, printed and written beside what they say.

The networks are drawn, and no model or images are needed. As in the paper's figures the image is grey,
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
from camrt.engine.digests import file_digest
from camrt.engine.images.read import read_image
from camrt.engine.run_folder import RunFolder, lock_folder
from camrt.errors import InputError
from camrt.evaluation.checks import check_integer
from camrt.evaluation.dead_zone.one_layer_cnn import Array
from camrt.evaluation.dead_zone.statements import ALLOWED_ERRORS, STATEMENT_CHECKS, Statement, TheoryInputs
from camrt.evaluation.escaping import escape_markdown, to_json_bytes
from camrt.export.io.atomic_files import write_atomic

__all__ = [
    "FILES",
    "HEADER",
    "TheoryResult",
    "TheorySettings",
    "format_verdict",
    "measure_theory",
    "statement_cells",
]

FILES = ("table.md", "results.json")
MAX_MAP_NUMBERS = 4_000_000
"""Numbers that the maps of one network may hold; of the paper's figures they are 200,704."""
HEADER = ("statement", "theory", "value", "error", "apart", "holds")


@dataclass(frozen=True)
class TheorySettings:
    """On what the statements are measured.

    Attributes:
        filters: V, of the one-layer network. The paper's figures have 256.
        side: H, of its image; H − 1 is a multiple of 4, so that half of the pooled rows can be masked. The
            paper's figures have 29.
        draws: Networks that expectations are taken over.
        seed: Of everything that is drawn.
        image: A file that is made grey and (H − 1)×(H − 1), such as a digit; None draws one.

    Raises:
        InputError: A value out of range.
    """

    filters: int = 64
    side: int = 9
    draws: int = 20_000
    seed: int = 0
    image: Path | None = None

    def __post_init__(self) -> None:
        for name, least in (("filters", 1), ("side", 5), ("draws", 2), ("seed", 0)):
            check_integer(name, getattr(self, name), least)
        if self.filters * self.side**2 > MAX_MAP_NUMBERS:
            raise InputError(
                f"filters={self.filters} on side={self.side} are maps of more than {MAX_MAP_NUMBERS:,} "
                "numbers: take "
                "fewer filters, or a smaller image"
            )
        if self.side % 4 != 1:
            raise InputError(
                f"side={self.side} must be one more than a multiple of 4, such as 9 or 29, so that half of "
                "the pooled rows can be masked"
            )

    def make_inputs(self) -> TheoryInputs:
        """The image with the rest.

        Raises:
            ImageError: The file cannot be read.
            InputError: Its lower half, which the networks do not see, is black.
        """
        inner = self.side - 1
        if self.image is None:
            pixels: Array = np.random.default_rng(self.seed).random((inner, inner))
            pixels[: inner // 4, -inner // 4 :] = 0  # patches of zeros, where the map must be 0
        else:
            shrunk = read_image(self.image).convert("L").resize((inner, inner), Image.Resampling.BILINEAR)
            pixels = np.asarray(shrunk, np.float64) / 255
            if not pixels[inner // 2 :].any():
                raise InputError(
                    f"{self.image}: the lower half is black: no map could mark what is not seen there"
                )
        return TheoryInputs(np.pad(pixels, ((1, 0), (0, 1))), self.filters, self.draws, self.seed)

    def identity(self) -> dict[str, Any]:
        """Everything that values depend on."""
        image = None if self.image is None else file_digest(self.image)
        return {"camrt": camrt.__version__, **asdict(self), "image": image}


@dataclass(frozen=True)
class TheoryResult:
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
    progress: Callable[[str, float, int], None] | None = None,
) -> TheoryResult:
    """Measures what the paper proves on networks that are drawn at random.

    Args:
        settings: On what.
        out: Folder for table.md and results.json, which are the same for the same settings; None keeps all in
            memory.
        resume: Go on with a run in that folder, if there is one: what it is finished with is not measured
            again.
        overwrite: Replace a run in that folder.
        progress: Called with what is being measured, how many of the parts are done, and how many there are.

    Raises:
        InputError: An image with nothing in its lower half, or a folder that holds another run or is being
            written by one.
        ImageError: The image cannot be read.
        StorageError: Results cannot be written; what was measured before is kept.
    """
    subject = settings.make_inputs()
    if out is None:
        return TheoryResult(settings, _measure_parts(subject, None, progress))
    place = Path(out)
    with lock_folder(place):
        folder = RunFolder(place, "theory", settings.identity(), resume=resume, overwrite=overwrite)
        folder.check(FILES)
        found = TheoryResult(settings, _measure_parts(subject, folder, progress))
        folder.claim(FILES)
        write_atomic(place / "results.json", to_json_bytes(as_json(found)))
        write_atomic(place / "table.md", to_markdown(found).encode())
    return found


def _measure_parts(
    subject: TheoryInputs, folder: RunFolder | None, progress: Callable[[str, float, int], None] | None
) -> dict[str, list[Statement]]:
    """Checks every group of statements; groups that a resumed run has finished are read from its notes."""
    noted = {} if folder is None else {note["part"]: note["statements"] for note in folder.finished}
    found: dict[str, list[Statement]] = {}
    for number, (name, measure) in enumerate(STATEMENT_CHECKS.items()):
        if name in noted:
            found[name] = [Statement(**statement) for statement in noted[name]]
            continue
        if progress is not None:
            progress(name, number, len(STATEMENT_CHECKS))
        found[name] = measure(subject)
        if folder is not None:
            folder.claim([])
            folder.finish({"part": name, "statements": [asdict(statement) for statement in found[name]]})
    return found


def statement_cells(statement: Statement) -> list[str]:
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


def format_verdict(found: TheoryResult) -> str:
    """Whether all statements hold, in a sentence."""
    failed = [statement.text for statement in found.statements if not statement.holds]
    if failed:
        return f"{len(failed)} of {len(found.statements)} statements do not hold: {'; '.join(failed)}"
    return (
        f"all {len(found.statements)} statements hold, those on expectations within {ALLOWED_ERRORS} "
        "standard errors"
    )


def to_markdown(found: TheoryResult) -> str:
    """The statements as Markdown."""
    chosen = found.settings
    image = "drawn numbers" if chosen.image is None else chosen.image.name
    lines = [
        "# What masked networks cannot see, and Grad-CAM marks all the same",
        "",
        "CAM-Based Methods Can See through Walls (ECML-PKDD 2024), sections 3 and 4. One-layer network: "
        f"{chosen.filters} filters of 2×2, pooling cells of 2×2, an image of {chosen.side}×{chosen.side} "
        f"({escape_markdown(image)}); {chosen.draws} draws, seed {chosen.seed}.",
    ]
    for name, part in found.parts.items():
        lines += ["", f"## {name}", "", _line(HEADER), "| --- |" + " --- |" * (len(HEADER) - 1)]
        lines += [_line(statement_cells(statement)) for statement in part]
    return "\n".join([*lines, "", escape_markdown(format_verdict(found)) + "."]) + "\n"


def _line(texts: tuple[str, ...] | list[str]) -> str:
    return f"| {' | '.join(escape_markdown(text) for text in texts)} |"


def as_json(found: TheoryResult) -> dict[str, Any]:
    """What `results.json` holds."""
    return {
        "settings": found.settings.identity(),
        "parts": {
            name: [{**asdict(statement), "holds": statement.holds} for statement in part]
            for name, part in found.parts.items()
        },
    }
