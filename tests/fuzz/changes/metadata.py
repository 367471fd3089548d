"""Changes of the metadata that camrt reads."""

from __future__ import annotations

import json
import random
from typing import Any

from onnx import ModelProto

from fuzz.changes.parts import kind

__all__ = ["metadata"]


@kind
def metadata(model: ModelProto, chance: random.Random) -> str | None:
    key = chance.choice(["camrt.labels", "camrt.preprocessing", "camrt.head"])
    text = chance.choice(
        [
            "", "null", "[]", "{}", "[1, 2, 3]", '["a"]', "[" * chance.choice([10, 5000, 100000]),
            '{"a":' * 50000, "1" * 5000, "-", '"é', "[NaN]", "1e999", '["\\ud800", "b", "c"]', "\ud7ff",
            json.dumps(["x"] * chance.choice([3, 4, 5, 1000])),
            json.dumps([["x"]] * chance.choice([3, 4])),
            json.dumps(["x" * 10000] * 4),
            json.dumps([None, {}, 1.5, True][: chance.randrange(5)]),
            json.dumps(some_preprocessing(chance)),
            json.dumps(some_preprocessing(chance)),
            json.dumps(some_head(chance)),
            json.dumps(some_head(chance)),
        ]
    )  # fmt: skip
    for entry in list(model.metadata_props):
        if entry.key == key and chance.random() < 0.8:
            model.metadata_props.remove(entry)
    model.metadata_props.add(key=key, value=text)
    return f"{key} {text[:30]!r}"


def some_preprocessing(chance: random.Random) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "size": [8, 8], "mean": [0.5] * 3, "std": [0.2] * 3, "scale": 1 / 255, "colours": "RGB",
        "resize": "crop", "crop_fraction": 0.9, "interpolation": "bilinear",
    }  # fmt: skip
    name = chance.choice([*fields, "another"])
    fields[name] = chance.choice(
        [
            None, 0, -1, 1e400, float("nan"), 10**400, "x", [], {}, [8], [0, 0], [8, "8"], [10**9, 8],
            [[8, 8]], True,
        ]
    )  # fmt: skip
    return {key: value for key, value in fields.items() if chance.random() < 0.9}


def some_head(chance: random.Random) -> dict[str, Any]:
    names = [1, None, [], "logits", "A", "probabilities", "log_joint", ""]
    fields = ("probabilities", "log_joint", "place_probabilities")
    return {"kind": chance.choice(["calm", "calm", "x", 1, None, []])} | {
        field: chance.choice(names) for field in fields
    }
