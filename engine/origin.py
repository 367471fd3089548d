"""What an engine was loaded of, and how: so it goes to other processes, which load it again.

Sessions and a card's memory do not go from process to process, files and options do. What is pickled is the
path, the hash of the file and the options; nothing of the model. Where it is unpickled the file is read as
`camrt.load` reads it, as a stranger's, and one with other contents is refused. In a process that has the
engine already, such as the one that pickled it or a child of that, nothing is loaded: what it has is shared.

Engines of torch modules and of .pt2 files are not pickled: the first have no file, and opening the second
runs code in it, for which whoever unpickles has not vouched.
"""

from __future__ import annotations

import copy
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from uuid import uuid4
from weakref import WeakValueDictionary

from camrt.default import resolve_model_path
from camrt.errors import ModelFileError
from camrt.export.budget import Budget, default_max_memory, within_budget
from camrt.export.internal_errors import report_internal_errors

if TYPE_CHECKING:
    from camrt.engine.engine import Engine
    from camrt.engine.loaded_model import LoadedModel

__all__ = ["Origin", "record_origin", "reload_engine"]

MUTABLE_ATTRIBUTES = ("batch_size", "call_deadline", "labels", "preprocessing")
"""Attributes of an engine that may have changed since it was loaded."""

_LIVE_ENGINES: WeakValueDictionary[str, Engine] = WeakValueDictionary()
"""The engines of this process that were loaded from files, by their origins' names."""


@dataclass(frozen=True)
class Origin:
    """How an engine was loaded.

    Attributes:
        load: `camrt.load`.
        path: The file, as an absolute path; or "default".
        sha256: Its hash.
        options: What else was given, paths absolute.
        name: Of this loading: no other has it.
    """

    load: Callable[..., Engine]
    path: str
    sha256: str
    options: Mapping[str, Any]
    name: str


def record_origin(
    engine: Engine, load: Callable[..., Engine], path: str | os.PathLike[str], options: Mapping[str, Any]
) -> None:
    """Notes of an engine how it was loaded.

    Args:
        engine: It, just made of a file.
        load: `camrt.load`.
        path: What that was given.
        options: And what else.
    """
    source = "default" if path == "default" else os.path.abspath(path)  # noqa: PTH100  # resolves no links
    plans, target = options["plans"], options["target"]
    given = {
        **options,
        "plans": None if plans is None else os.path.abspath(plans),  # noqa: PTH100
        "labels": engine.labels,  # which may have been in a file
        "target": tuple(target) if isinstance(target, list) else target,
    }
    engine.origin = Origin(load, source, engine.sha256, given, uuid4().hex)
    _LIVE_ENGINES[engine.origin.name] = engine


def mutable_state(engine: LoadedModel) -> dict[str, Any]:
    """What may have been set since an engine was loaded."""
    return {name: getattr(engine, name) for name in MUTABLE_ATTRIBUTES}


def reload_engine(origin: Origin, state: Mapping[str, Any]) -> Engine:
    """An engine of an origin: what this process has already, or loaded anew.

    Args:
        origin: How it was loaded.
        state: What was set since.

    Raises:
        ModelFileError: The file is missing here, or has other contents than it had.
        CamrtError: Whatever `camrt.load` raises.
    """
    living = _LIVE_ENGINES.get(origin.name)
    if living is not None:
        engine = copy.copy(living)
    else:
        check_file_hash(origin)
        engine = origin.load(origin.path, **origin.options)
        if engine.sha256 != origin.sha256:
            raise changed_file_error(origin)
        engine.origin = origin
        _LIVE_ENGINES[origin.name] = engine
    for name in MUTABLE_ATTRIBUTES:
        setattr(engine, name, state[name])
    return engine


def check_file_hash(origin: Origin) -> None:
    """Refuses a file with other contents, before anything is made of it."""
    from camrt.export.io.model_file import read_model  # slow to import, and seldom needed

    given = origin.options["max_memory"]
    memory = default_max_memory() if given is None else given
    with (
        within_budget(Budget(memory, origin.options["load_deadline"], "loading", "load_deadline")),
        report_internal_errors(f"{origin.path}: the file"),
    ):
        found = read_model(resolve_model_path(origin.path)).sha256
    if found != origin.sha256:
        raise changed_file_error(origin)


def changed_file_error(origin: Origin) -> ModelFileError:
    """The file is another one now."""
    return ModelFileError(
        f"{origin.path!r} has other contents than when the engine was loaded that is unpickled here (SHA-256 "
        f"{origin.sha256[:12]}... then): call camrt.load in this process for the file as it is now"
    )
