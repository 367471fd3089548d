"""What a run over many images is asked to do, and what its results depend on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from camrt.engine.identity import model_identity, package_versions
from camrt.engine.images.style import DrawingStyle, StyleOptions
from camrt.engine.runs.decoding import Decoding
from camrt.engine.runs.stream import Question
from camrt.errors import InputError

__all__ = ["PICTURE_FORMATS", "RESULT_KINDS", "ExplainJob", "PictureFormat", "ResultKind", "parse_results"]

ResultKind = Literal["overlays", "arrays", "maps", "table"]
RESULT_KINDS: tuple[ResultKind, ...] = get_args(ResultKind)
"""What is written: overlays, all arrays as NumPy archives, rows with maps as Parquet, and results.csv."""

PictureFormat = Literal["png", "jpeg", "webp"]
PICTURE_FORMATS: tuple[PictureFormat, ...] = get_args(PictureFormat)
"""What overlays are written as."""

# What decides how fast a run is, and no number in its results but by rounding.
INDIFFERENT = ("batch_size", "runtime", "place")


@dataclass(frozen=True, kw_only=True)
class ExplainJob:
    """What to do with every image.

    Attributes:
        question: What is asked.
        decoding: How images are read.
        batch_size: Images explained at once.
        block_size: Images whose results are finished together: what is lost of a run that is killed is less
            than so many, and a file of maps or arrays has no more.
        out: Folder for the results.
        results: What is written.
        original: Whether overlays are drawn on whole images.
        picture: What overlays are written as.
        style: How overlays are drawn, see `camrt.engine.images.style.DrawingStyle`.
        settings: Further settings that results depend on.
    """

    question: Question
    decoding: Decoding
    batch_size: int
    block_size: int
    out: Path
    results: frozenset[ResultKind]
    original: bool = False
    picture: PictureFormat = "png"
    style: StyleOptions = field(default_factory=StyleOptions)
    settings: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        DrawingStyle(**self.style)  # refused before anything is explained
        if self.question.others and self.results & {"arrays", "maps"}:
            raise InputError(
                "several methods give a sheet for each image and a table (--write overlays,table): "
                "arrays and maps are written of one method"
            )
        if self.picture not in PICTURE_FORMATS:
            raise InputError(f"pictures are written as {', '.join(PICTURE_FORMATS)}, not {self.picture!r}")

    def identity(self) -> dict[str, Any]:
        """Everything that the results depend on, but for the images."""
        asked, engine = self.question, self.question.engine
        labels = engine.labels
        model = model_identity(engine, self.decoding.preprocessing)
        classes = asked.targets if isinstance(asked.targets, (list, tuple)) else [asked.targets]
        return {
            "versions": package_versions(),
            "model": {name: value for name, value in model.items() if name not in INDIFFERENT},
            "labels": None if labels is None else list(labels),
            "method": {"name": str(asked.method), "options": dict(asked.options), "fuse": asked.fuse}
            | ({"others": [repr(method) for method in asked.others]} if asked.others else {}),
            "targets": {
                "classes": [] if asked.targets is None else list(classes),
                "top_k": asked.top_k or 1,
            },
            "settings": {
                "block_size": self.block_size,
                "results": sorted(self.results),
                "original": self.original,
                "picture": self.picture,
                **({"style": dict(self.style)} if self.style else {}),
                "jpeg_scaling": self.decoding.jpeg_scaling,
                "map_size": asked.size if isinstance(asked.size, str) else list(asked.size),
                **{name: value for name, value in self.settings.items() if value is not None},
            },
        }


def parse_results(text: str) -> frozenset[ResultKind]:
    """What a list such as "overlays,maps" asks for.

    Raises:
        InputError: Nothing, or something that is not known.
    """
    wanted = {name.strip() for name in text.split(",") if name.strip()}
    unknown = sorted(wanted - set(RESULT_KINDS))
    if unknown or not wanted:
        raise InputError(
            f"nothing to write by the name of {', '.join(unknown) or repr(text)}: choose from "
            f"{', '.join(RESULT_KINDS)}"
        )
    return frozenset(kind for kind in RESULT_KINDS if kind in wanted)
