"""A run on the machines of a Ray cluster: blocks go to actors that hold an engine each, through Ray Data.

An actor explains a block as a run on one machine does (`camrt.engine.runs.run.explain_block`), and its file
of rows appears whole or not at all; so a block that is tried again, because an actor was lost, is there once.
The folder of results must be the same for all machines.
"""

from __future__ import annotations

import json
import logging
import os
import pickle
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np

from camrt import errors
from camrt.engine.extras import import_extra
from camrt.engine.options import THREADS_VARIABLE
from camrt.engine.runs.block_writer import rows_name
from camrt.engine.runs.blocks import Block, FinishedBlock, KeptBlock, plan_blocks
from camrt.engine.runs.items import ImageItem
from camrt.engine.runs.job import ExplainJob
from camrt.engine.runs.run import RunListener, RunSummary, explain_block, open_notes
from camrt.engine.runs.run_notes import RunNotes
from camrt.errors import BackendError, CamrtError, InputError

__all__ = ["Cluster", "explain_on_ray"]

RAY_SHARE = 0.5  # processors of a cluster that are left for what Ray does beside the actors
CONNECT_SECONDS = 10.0
ROUNDING = 1e-9  # of a quotient that is a whole number
WINDOW = 4096  # blocks that are planned at once: Ray Data knows all of its rows' places before it begins


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """Which machines, and what each actor takes of them.

    Attributes:
        address: "local" starts Ray on this machine, "auto" finds the one that is there, or an address.
        actors: How many; None for as many as fit.
        cpus: Processors that are reserved for an actor, and threads of its engine; None for one, and as many
            threads as there are processors for each actor.
        gpus: Of an actor.
        quiet: Whether Ray Data shows no progress.
    """

    address: str
    actors: int | None = None
    cpus: float | None = None
    gpus: float = 0.0
    quiet: bool = False


class BlockExplainer:
    """An actor: explains blocks with an engine of its own.

    Args:
        job: An `ExplainJob`, pickled.
        threads: Of the engine.
    """

    def __init__(self, job: bytes, threads: int) -> None:
        os.environ[THREADS_VARIABLE] = str(threads)
        self._job: ExplainJob = pickle.loads(job)  # from the process that began the run

    def __call__(self, rows: dict[str, Any]) -> dict[str, Any]:
        """Explains the blocks in some rows; each row that comes back is a note of one."""
        return {"note": np.array([self._explain(held) for held in rows["block"]], object)}

    def _explain(self, held: bytes) -> str:
        block: Block = pickle.loads(held)  # from the process that began the run
        try:
            return json.dumps({"block": block.number, **vars(explain_block(self._job, block))})
        except CamrtError as error:
            return json.dumps({"block": block.number, "failure": [type(error).__name__, str(error)]})


def explain_on_ray(
    job: ExplainJob,
    cluster: Cluster,
    items: Iterator[ImageItem],
    listener: RunListener,
    *,
    resume: bool,
    overwrite: bool,
) -> RunSummary:
    """Explains images on a Ray cluster; the rows are those of `camrt.engine.runs.run.explain_run`.

    Args:
        job: What to do; rows are all that is written.
        cluster: Where.
        items: The images.
        listener: Is told of images that failed.
        resume: Go on with the run in the folder.
        overwrite: Replace it.

    Raises:
        InputError: Something else than rows is to be written; or see `explain_run`.
        BackendError: Ray fails, or there is no such cluster.
        MissingExtraError: Ray is not installed.
        CamrtError: What explaining and writing raise, in the actor that met it.
    """
    if job.results != {"maps"}:
        raise InputError(
            "on Ray, rows with maps are all that is written (--write maps): overlays are drawn from them "
            "afterwards, camrt.open_run(folder)[0].overlay(0)"
        )
    with open_notes(job, resume=resume, overwrite=overwrite) as notes, connected(cluster) as (ray, data):
        return _RayRun(job, cluster, notes, listener, ray, data).run(items)


class _RayRun:
    def __init__(
        self,
        job: ExplainJob,
        cluster: Cluster,
        notes: RunNotes,
        listener: RunListener,
        ray: Any,
        data: Any,
    ) -> None:
        self.job = job
        self.notes = notes
        self.listener = listener
        self.summary = RunSummary()
        self.ray, self.data = ray, data
        self.pickled = pickle.dumps(job)
        self.share = find_share(cluster, ray.cluster_resources())

    def run(self, items: Iterator[ImageItem]) -> RunSummary:
        job, former = self.job, self.notes.former
        plan = plan_blocks(items, job.block_size, former, job.out)
        last = 0
        while window := list(islice(plan, WINDOW)):
            last = window[-1].number
            waiting: dict[int, Block] = {}
            for element in window:
                if isinstance(element, KeptBlock):
                    self.notes.keep(element.number)
                    self.summary.keep(element.finished, self.listener)
                    continue
                if element.number in former:
                    self.notes.drop(element.number)
                self.notes.claim([rows_name(element.number)])
                waiting[element.number] = element
            if waiting:
                self.explain(waiting)
        for number in [found for found in former if found > last]:
            self.notes.drop(number)
        return self.summary

    def explain(self, blocks: dict[int, Block]) -> None:
        """Has blocks explained by actors, and notes each as it is finished."""
        rows = [{"block": pickle.dumps(block)} for block in blocks.values()]
        share = self.share
        dataset = self.data.from_items(rows, override_num_blocks=len(rows)).map_batches(
            BlockExplainer,
            fn_constructor_args=(self.pickled, share.threads),
            batch_size=1,
            batch_format="numpy",
            compute=self.data.ActorPoolStrategy(min_size=1, max_size=min(share.actors, len(rows))),
            num_cpus=share.cpus,
            num_gpus=share.gpus or None,
        )
        try:
            for row in dataset.iter_rows():
                self.take(json.loads(row["note"]), blocks)
        except self.ray.exceptions.RayError as error:
            raise BackendError(f"Ray failed: {describe(error)}") from error
        if blocks:
            raise BackendError(
                f"Ray gave nothing for {len(blocks)} blocks: run the command again with --resume"
            )

    def take(self, note: dict[str, Any], blocks: dict[int, Block]) -> None:
        """Notes a block that an actor has finished, once.

        Raises:
            CamrtError: The actor met it.
        """
        number = note["block"]
        if "failure" in note:
            kind, text = note["failure"]
            found = getattr(errors, kind, CamrtError)
            raise found(text)
        if blocks.pop(number, None) is None:
            return
        done = FinishedBlock.from_note(note)
        self.notes.finish(number, done)
        for error in done.errors:
            self.listener.failed(error)
        self.summary.failed += len(done.errors)
        self.summary.explained += done.images - len(done.errors)


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
    cpus = cluster.cpus if cluster.cpus is not None else min(1.0, max(usable, 0.0))
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
