"""The archive of an explanation: one NumPy file with a manifest, written whole and read within bounds.

An archive is a zip file of arrays. What is read may be a stranger's: each array's header is held against the
bytes that the archive says it has before anything is allocated, their sum against the memory that may be
taken, and nothing in it is ever unpickled or opened as a file.
"""

from __future__ import annotations

import io
import json
import math
import os
import zipfile
import zlib
from collections.abc import Sequence
from dataclasses import astuple
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from camrt.engine.explanation_record import ARRAY_FIELDS
from camrt.engine.images.framing import Framing
from camrt.engine.passes import PassCounts
from camrt.errors import InputError, MemoryLimitError
from camrt.export.budget import Budget, default_max_memory, reserve, within_budget
from camrt.export.geometry.region import Region
from camrt.export.io.atomic_files import open_atomic

if TYPE_CHECKING:
    from camrt.engine.explanation import Explanation

__all__ = ["read_archive", "write_archive"]

KIND, VERSION = "camrt explanation", 1
NAME = "explanation.npz"
MOST_MEMBERS = 64  # of an archive
LONGEST_HEADER = 4096  # bytes of an array's header
DTYPE_KINDS = {"targets": "i", "flags": "u"}  # of all others "f"

Arrays = dict[str, NDArray[Any]]


def write_archive(
    path: Path, explanation: Explanation[Any], stems: Sequence[str], *, views: bool = True
) -> None:
    """Writes an explanation's arrays and manifest.

    Args:
        path: Of the archive.
        explanation: What is kept.
        stems: How each image's files begin.
        views: Whether what the model saw of the images is kept too.

    Raises:
        StorageError: It cannot be written.
    """
    seen = explanation.map_framing
    manifest = {
        "kind": KIND,
        "version": VERSION,
        "method": explanation.method,
        "images": None
        if explanation.sources is None
        else [os.fspath(one) if isinstance(one, (str, os.PathLike)) else None for one in explanation.sources],
        "maps show": None if seen is None else _framing_row(seen),
    }
    arrays: dict[str, Any] = {
        "manifest": np.array(json.dumps(manifest)),
        "method": np.array(explanation.method),
        **explanation.arrays(),
        "passes": np.array(astuple(explanation.passes), np.int64),
        "seconds": np.array(explanation.seconds, np.float64),
        "stems": np.array(stems, np.str_),
    }
    if explanation.framings is not None:
        arrays["framings"] = np.array([_framing_row(framing) for framing in explanation.framings], np.float64)
    if explanation.labels is not None:
        arrays["labels"] = np.array(explanation.labels, np.str_)
    if views and explanation.views:
        arrays["views"] = np.stack([np.asarray(view) for view in explanation.views])
    with open_atomic(path) as file:
        np.savez(file, **arrays)


def read_archive(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The fields of an explanation that was written, by their names.

    Raises:
        InputError: There is none, or it is damaged, or of another version.
        MemoryLimitError: It takes more memory than it may.
    """
    if not isinstance(path, (str, os.PathLike)) or not isinstance(os.fspath(path), str):
        raise InputError(f"an explanation is read from a path, not from {path!r:.80}")
    place = Path(path)
    if place.is_dir():
        place = place / NAME
    try:
        with within_budget(Budget(default_max_memory(), call="reading an explanation")):
            return _to_fields(_read_arrays(place))
    except FileNotFoundError as error:
        raise InputError(f"{place}: no explanation is there: explanation.save(...) writes one") from error
    except MemoryLimitError:
        raise
    except InputError as error:
        raise InputError(f"{place}: {error}") from error
    except (
        OSError,
        ValueError,
        KeyError,
        TypeError,
        RecursionError,
        EOFError,
        NotImplementedError,
        RuntimeError,
    ) as error:
        raise InputError(f"{place}: no explanation, or a damaged one: {error!r:.200}") from error
    except (zipfile.BadZipFile, zlib.error) as error:
        raise InputError(f"{place}: no archive of arrays, or a damaged one: {error}") from error


def _read_arrays(path: Path) -> Arrays:
    """All arrays of an archive."""
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        if len(members) > MOST_MEMBERS:
            raise InputError(f"{len(members)} members, more than an explanation has")
        reserve(sum(member.file_size for member in members), "the arrays of an explanation")
        arrays = {}
        for member in members:
            with archive.open(member) as file:
                arrays[member.filename.removesuffix(".npy")] = _read_array(file, member)
    return arrays


def _read_array(file: Any, member: zipfile.ZipInfo) -> NDArray[Any]:
    """One array, if the archive has exactly the bytes that its header asks for."""
    head = io.BytesIO(file.read(min(LONGEST_HEADER, member.file_size)))
    version = np.lib.format.read_magic(head)
    if version != (1, 0):
        raise InputError(
            f"{member.filename!r:.80}: version {version} of NumPy's format, which camrt does not write"
        )
    shape, by_columns, dtype = np.lib.format.read_array_header_1_0(head, LONGEST_HEADER)
    if dtype.hasobject or dtype.names is not None:
        raise InputError(f"{member.filename!r:.80} holds objects, which are not read")
    wanted = math.prod(shape) * dtype.itemsize
    if wanted != member.file_size - head.tell():
        raise InputError(f"{member.filename!r:.80} has another size than its header says")
    content = head.read() + file.read(wanted)
    if len(content) != wanted:
        raise InputError(f"{member.filename!r:.80} ends too early")
    return np.frombuffer(bytearray(content), dtype).reshape(shape, order="F" if by_columns else "C")


def _to_fields(arrays: Arrays) -> dict[str, Any]:
    """The fields of an explanation, of its arrays.

    Raises:
        InputError: The manifest is another's, or values are no explanation's.
    """
    if "manifest" not in arrays:
        raise InputError("no manifest: it was not written by explanation.save, or by an older camrt")
    manifest = json.loads(str(arrays["manifest"]))
    if not isinstance(manifest, dict) or manifest.get("kind") != KIND:
        raise InputError("its manifest is not that of an explanation")
    if manifest.get("version") != VERSION:
        raise InputError(f"version {manifest.get('version')!r:.20} of the format; this camrt reads {VERSION}")
    fields: dict[str, Any] = {name: arrays[name] for name in ARRAY_FIELDS}
    if "uncertainty" in arrays:
        fields["uncertainty"] = arrays["uncertainty"]
    for name, values in fields.items():
        if values.dtype.kind != DTYPE_KINDS.get(name, "f"):
            raise InputError(f"{name} are of {values.dtype}")
    logits, targets = fields["logits"], fields["targets"]
    if logits.ndim != 2 or logits.shape != fields["probabilities"].shape or len(logits) != len(targets):
        raise InputError("logits and probabilities of other images, or of other classes, than the targets")
    if targets.size and not (targets.min() >= 0 and targets.max() < logits.shape[1]):
        raise InputError("targets that are no classes")
    views = arrays.get("views")
    if views is not None and (
        views.dtype != np.uint8 or views.ndim != 4 or views.shape[-1] != 3 or 0 in views.shape[1:]
    ):
        raise InputError(f"views are images (N, H, W, 3) of uint8, not {views.shape} of {views.dtype}")
    framings, labels = (arrays.get(name) for name in ("framings", "labels"))
    shown = manifest["maps show"]
    return fields | {
        "method": str(arrays["method"]),
        "passes": PassCounts(*arrays["passes"].tolist()),
        "seconds": float(arrays["seconds"]),
        "labels": None if labels is None else tuple(map(str, labels.tolist())),
        "framings": None if framings is None else tuple(map(_read_framing, framings.tolist())),
        "map_framing": None if shown is None else _read_framing(shown),
        "views": None if views is None else tuple(Image.fromarray(view) for view in views),
    }


def _framing_row(framing: Framing) -> tuple[float, ...]:
    return (*framing.size, *framing.region.box)


def _read_framing(row: Sequence[float]) -> Framing:
    height, width, *box = row
    edges = tuple(map(float, box))
    if len(edges) != 4 or not all(map(math.isfinite, edges)) or min(height, width) < 1:
        raise ValueError("a framing is a size of at least a pixel and four finite edges")
    left, upper, right, lower = edges
    if left == right or upper == lower:
        raise ValueError("a framing of no width or no height")
    return Framing((int(height), int(width)), Region(*edges))
