"""Actors on a Ray cluster that hold an engine each and do a task with items, through Ray Data."""

from __future__ import annotations

import logging
import os
import pickle
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from camrt import errors
from camrt.engine.extras import import_extra
from camrt.engine.options import THREADS_VARIABLE
from camrt.errors import BackendError, CamrtError, InputError

__all__ = ["WINDOW", "ActorPool", "Cluster", "connect"]

RAY_SHARE = 0.5  # processors of a cluster that are left for what Ray does beside the actors
CONNECT_SECONDS = 10.0
ROUNDING = 1e-9  # of a quotient that is a whole number

WINDOW = 4096
"""Items that a run gives to its actors at once: Ray Data knows all of its rows' places before it begins."""


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """Which machines, and what each actor takes of them.

    Attributes:
        address: "local" starts Ray on this machine, "auto" finds the one that is there, or an address.
        actors: How many; None for as many as fit.
        cpus: Processors that are reserved for an actor, and threads of its engine; None for one, or less
            where so many actors leave less, and as many threads as there are processors for each actor.
        gpus: Of an actor.
        quiet: Whether Ray Data shows no progress.
    """

    address: str
    actors: int | None = None
    cpus: float | None = None
    gpus: float = 0.0
    quiet: bool = False


class Worker:
    """An actor: holds a task, and does it with each item.

    Args:
        task: Pickled; see `ActorPool.run`.
        threads: Of its engine.
    """

    def __init__(self, task: bytes, threads: int) -> None:
        os.environ[THREADS_VARIABLE] = str(threads)
        self._task: Callable[[Any], Any] = pickle.loads(task)  # from the process that began the run

    def __call__(self, rows: dict[str, Any]) -> dict[str, Any]:
        """Does the task with the items of some rows."""
        found = [pickle.dumps(self._run(held)) for held in rows["item"]]
        return {"number": rows["number"], "found": np.array(found, object)}

    def _run(self, held: bytes) -> Any:
        try:
            return self._task(pickle.loads(held))  # from the process that began the run
        except CamrtError as error:
            return Failure(type(error).__name__, str(error))


@dataclass(frozen=True)
class Failure:
    """An error that an actor met, by name, since not every error can be pickled."""

    kind: str
    text: str


class ActorPool:
    """Actors on a cluster that hold an engine each."""

    def __init__(self, ray: Any, data: Any, share: Share) -> None:
        self._ray, self._data = ray, data
        self.share = share

    def run(self, task: Callable[[Any], Any], items: Mapping[int, Any]) -> Iterator[tuple[int, Any]]:
        """Has actors do a task with items; gives number and result of each once, as they come.

        Args:
            task: Can be pickled; each actor makes it once. An item that is tried again, because an actor was
                lost, must not do harm.
            items: By number; all of their places are known to Ray Data before it begins.

        Raises:
            BackendError: Ray fails.
            CamrtError: The task met it.
        """
        rows = [{"number": number, "item": pickle.dumps(item)} for number, item in items.items()]
        share = self.share
        dataset = self._data.from_items(rows, override_num_blocks=len(rows)).map_batches(
            Worker,
            fn_constructor_args=(pickle.dumps(task), share.threads),
            batch_size=1,
            batch_format="numpy",
            compute=self._data.ActorPoolStrategy(min_size=1, max_size=min(share.actors, len(rows))),
            num_cpus=share.cpus,
            num_gpus=share.gpus or None,
        )
        waiting = set(items)
        try:
            for row in dataset.iter_rows():
                number, found = int(row["number"]), pickle.loads(row["found"])  # from an actor of the run
                if isinstance(found, Failure):
                    kind = getattr(errors, found.kind, CamrtError)
                    raise kind(found.text)
                if number in waiting:
                    waiting.remove(number)
                    yield number, found
        except self._ray.exceptions.RayError as error:
            raise BackendError(f"Ray failed: {describe(error)}") from error
        if waiting:
            raise BackendError(
                f"Ray gave nothing for {len(waiting)} blocks: run the command again with --resume"
            )


@dataclass(frozen=True)
class Share:
    """What each actor takes of a cluster, and how many of them fit.

    Attributes:
        actors: How many.
        cpus: Processors that Ray reserves for an actor.
        gpus: GPUs that it reserves.
        threads: Threads of an actor's engine.
    """

    actors: int
    cpus: float
    gpus: float
    threads: int


def find_share(cluster: Cluster, resources: dict[str, float]) -> Share:
    """What actors take, so that something is left for Ray Data itself, which would wait for ever otherwise.

    Raises:
        InputError: The cluster does not have that.
    """
    there, cards = resources.get("CPU", 0.0), resources.get("GPU", 0.0)
    usable = there - RAY_SHARE
    cpus = min(1.0, max(usable, 0.0) / (cluster.actors or 1)) if cluster.cpus is None else cluster.cpus
    if cluster.gpus > cards:
        raise InputError(f"--gpus-per-actor {cluster.gpus:g}: the cluster has {cards:g} GPUs")
    fitting = int((usable + ROUNDING) / cpus) if cpus else int(there)
    if cluster.gpus:
        fitting = min(fitting, int((cards + ROUNDING) / cluster.gpus))
    if fitting < (cluster.actors or 1):
        raise InputError(
            f"{cluster.actors or 1} actors of {cpus:g} processors do not fit the cluster's {there:g}, of "
            f"which {RAY_SHARE:g} is left for Ray's own work: fewer --actors, or less --cpus-per-actor"
        )
    actors = cluster.actors or fitting
    threads = int(cpus) if cluster.cpus is not None else int(there / actors)
    return Share(actors, cpus, cluster.gpus, max(threads, 1))


@contextmanager
def connect(cluster: Cluster) -> Iterator[ActorPool]:
    """Actors on a cluster, or on the one that the process uses already.

    Raises:
        BackendError: There is no such cluster.
        InputError: It is too small for what actors are to take.
        MissingExtraError: Ray is not installed.
    """
    with connected(cluster) as (ray, data):
        yield ActorPool(ray, data, find_share(cluster, ray.cluster_resources()))


@contextmanager
def connected(cluster: Cluster) -> Iterator[tuple[Any, Any]]:
    """Ray and Ray Data, connected to a cluster, or to the one that the process uses already.

    Raises:
        BackendError: There is no such cluster.
        MissingExtraError: Ray is not installed.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # or it tells its makers of every run
    check_reachable(cluster.address)
    ray, data = import_extra("ray", "ray"), import_extra("ray.data", "ray")
    begun = not ray.is_initialized()
    if begun:
        try:
            ray.init(
                address=cluster.address,
                include_dashboard=False,
                logging_level="error" if cluster.quiet else "warning",
                log_to_driver=not cluster.quiet,
            )
        except (OSError, ValueError, RuntimeError) as error:
            raise BackendError(f"no Ray cluster at {cluster.address!r}: {describe(error)}") from error
    if cluster.quiet:
        data.DataContext.get_current().enable_progress_bars = False
        logging.getLogger("ray.data").setLevel(logging.WARNING)
    try:
        yield ray, data
    finally:
        if begun:
            ray.shutdown()


def check_reachable(address: str) -> None:
    """Refuses an address where nothing answers, which Ray itself would try for ever.

    Raises:
        BackendError: Nothing does.
    """
    host, separator, port = address.removeprefix("ray://").rpartition(":")
    if not separator or not port.isdigit():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=CONNECT_SECONDS).close()
    except (OSError, OverflowError) as error:
        raise BackendError(f"no Ray cluster at {address!r}: {error}") from error


def describe(error: BaseException) -> str:
    """The end of a Ray error's text, which begins with traces of other processes."""
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[-1].strip()[:500] if lines else type(error).__name__
