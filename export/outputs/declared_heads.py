"""What a CAM or CALM file says of its own outputs, in its metadata."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Final, Literal

import onnx

from camrt.errors import ModelFileError

__all__ = ["HEAD_KEY", "PROVENANCE_KEY", "DeclaredHead", "read_declared_head"]

HEAD_KEY: Final = "camrt.head"
"""The metadata key, whose value is a JSON object: the kind of head, and which output is what."""
PROVENANCE_KEY: Final = "camrt.provenance"
"""The metadata key for where the weights come from, as JSON."""

NAMED: Final = {
    "cam": ("logits", "class_maps"),
    "calm": ("probabilities", "log_joint", "place_probabilities"),
}


@dataclass(frozen=True)
class DeclaredHead:
    """A head that explains itself.

    Attributes:
        kind: "cam" or "calm".
        outputs: Which output of the file is what: of CAM "logits" and "class_maps"; of CALM "probabilities",
            p(y|x); "log_joint", log p(y,z|x); and "place_probabilities", p(z|x).
    """

    kind: Literal["cam", "calm"]
    outputs: dict[str, str]


def read_declared_head(model: onnx.ModelProto) -> DeclaredHead | None:
    """What a file says of its head; None when it says nothing.

    Raises:
        ModelFileError: What it says cannot be read, or names outputs that are not there.
    """
    text = next((entry.value for entry in model.metadata_props if entry.key == HEAD_KEY), None)
    if text is None:
        return None
    try:
        content = json.loads(text)
        kind = content["kind"]
        outputs = {role: str(content[role]) for role in NAMED[kind]}
    except (ValueError, RecursionError, KeyError, TypeError) as error:
        raise ModelFileError(f"the file's metadata entry {HEAD_KEY} cannot be read: {error!r}") from error
    there = [value.name for value in model.graph.output]
    for role, name in outputs.items():
        if name not in there:
            raise ModelFileError(
                f"the file's metadata entry {HEAD_KEY} names {name!r} for its {role}; its outputs are "
                f"{', '.join(map(repr, there))}"
            )
    return DeclaredHead(kind, outputs)
