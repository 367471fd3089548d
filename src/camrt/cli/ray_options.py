"""Options of commands that run on a Ray cluster."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from camrt.errors import InputError

if TYPE_CHECKING:
    from camrt.engine.runs.actors import Cluster

__all__ = ["Actors", "CpusPerActor", "GpusPerActor", "RayAddress", "make_cluster"]

RayAddress = Annotated[
    str | None,
    typer.Option(
        help="Run on a Ray cluster: local (this machine), auto (the one that is there) or its address; all "
        "machines have the model, the images and, of camrt explain (with --write maps), the results' folder."
    ),
]
Actors = Annotated[int | None, typer.Option(min=1, help="With --ray: engines; as many as fit.")]
CpusPerActor = Annotated[float | None, typer.Option(min=0.01, help="With --ray: processors each.")]
GpusPerActor = Annotated[float, typer.Option(min=0, help="With --ray: GPUs each.")]


def make_cluster(
    ray: str | None, actors: int | None, cpus: float | None, gpus: float, *, quiet: bool
) -> Cluster | None:
    """The cluster that a command is to run on; None for this process.

    Raises:
        InputError: Something is said of actors without a cluster.
    """
    from camrt.engine.runs.actors import Cluster

    if ray is None:
        if actors is not None or cpus is not None or gpus:
            raise InputError(
                "--actors, --cpus-per-actor and --gpus-per-actor are of a cluster: give --ray too"
            )
        return None
    return Cluster(address=ray, actors=actors, cpus=cpus, gpus=gpus, quiet=quiet)
