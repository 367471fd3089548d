"""Files of torch.export.save: intact ones, and malicious ones that would create a folder when loaded."""

from __future__ import annotations

import functools
import io
import json
import pickle
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from helpers.hostile_models import FolderMakingPickle

__all__ = ["ATTACKS", "rewrite_members", "write_exported", "write_malicious"]

GRAPH, SAMPLE = "models/model.json", "data/sample_inputs/model.pt"
WEIGHTS, CONSTANTS = "data/weights/model_weights_config.json", "data/constants/model_constants_config.json"

Members = dict[str, bytes]


@functools.cache
def exported_bytes() -> bytes:
    """A sound file of a small classifier of images (N, 3, 16, 16)."""
    torch.manual_seed(0)
    layers = [
        nn.Conv2d(3, 4, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(4, 3),
    ]
    net = nn.Sequential(*layers).eval()
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's, of torch's own
        shapes = ({0: torch.export.Dim("n")},)
        torch.export.save(
            torch.export.export(net, (torch.zeros(2, 3, 16, 16),), dynamic_shapes=shapes), buffer
        )
    return buffer.getvalue()


def write_exported(path: Path) -> Path:
    """The file, written."""
    path.write_bytes(exported_bytes())
    return path


def rewrite_members(
    path: Path, change: Callable[[Members], Any], compression: int = zipfile.ZIP_STORED
) -> Path:
    """A file with its members, by their names below its root, changed."""
    with zipfile.ZipFile(path) as archive:
        root = archive.namelist()[0].partition("/")[0]
        members = {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}
    change(members)
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(f"{root}/{name}", content)
    return path


def torch_pickle(marker: Path) -> bytes:
    buffer = io.BytesIO()
    torch.save((FolderMakingPickle(marker),), buffer)
    return buffer.getvalue()


def in_sample_inputs(members: Members, marker: Path) -> None:
    members[SAMPLE] = torch_pickle(marker)


def in_weights(members: Members, marker: Path) -> None:
    config = json.loads(members[WEIGHTS])
    config["config"]["0.bias"]["use_pickle"] = True
    members[WEIGHTS] = json.dumps(config).encode()
    members[f"data/weights/{config['config']['0.bias']['path_name']}"] = torch_pickle(marker)


def in_old_weights(members: Members, marker: Path) -> None:
    members["data/weights/model.pt"] = torch_pickle(marker)


def in_an_object(members: Members, marker: Path) -> None:
    entry = {"path_name": "opaque_obj_0", "is_param": False, "use_pickle": True, "tensor_meta": None}
    members[CONSTANTS] = json.dumps({"config": {"own": entry}}).encode()
    members["data/constants/opaque_obj_0"] = pickle.dumps(FolderMakingPickle(marker))


def in_an_expression(members: Members, marker: Path) -> None:
    graph = members[GRAPH].decode()
    begin = graph.index('"expr_str": "') + len('"expr_str": "')
    end = graph.index('"', begin)
    code = f"__import__('os').makedirs('{marker}')"
    members[GRAPH] = (graph[:begin] + code + graph[end:]).encode()


ATTACKS: dict[str, tuple[Callable[[Members, Path], None], str]] = {
    "sample inputs": (in_sample_inputs, "pickles"),
    "pickled weights": (in_weights, "pickles"),
    "weights of older files": (in_old_weights, "pickles"),
    "an object of one's own": (in_an_object, "pickles"),
    "an expression": (in_an_expression, "expressions"),
}
"""Ways to run code, and what the refusal calls them."""


def write_malicious(path: Path, way: str, marker: Path) -> Path:
    """A file that makes a folder when torch opens it."""
    return rewrite_members(write_exported(path), lambda members: ATTACKS[way][0](members, marker))
