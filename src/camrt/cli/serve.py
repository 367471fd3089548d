"""The command `camrt serve`. What is heavy is imported inside it."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer

from camrt.cli.arguments import (
    engine_preprocessing,
    parse_bytes,
    parse_seconds,
    parse_size,
    read_labels,
    read_preprocessing,
)
from camrt.cli.model_options import ModelOptions, with_model_options
from camrt.cli.output import make_console, report_errors, strip_control
from camrt.cli.shared_options import (
    BackendName,
    Device,
    Labels,
    Plans,
    Precision,
    PreprocessingOption,
    Size,
    Threads,
)
from camrt.default import resolve_model_path
from camrt.errors import CamrtError, InputError

if TYPE_CHECKING:
    from rich.console import Console

    from camrt.engine.engine import Engine
    from camrt.engine.serving.served_model import ServedModel

__all__ = ["add_command"]

DEFAULT = "default"


@with_model_options
def serve(
    models: Annotated[list[str], typer.Argument(help="ONNX classifiers, or the word default.")],
    name: Annotated[
        list[str] | None,
        typer.Option("--name", help="A model's name in addresses, in their order; the file's, if not said."),
    ] = None,
    host: Annotated[
        str, typer.Option(help="Address to listen on; this machine alone, if not said. 0.0.0.0 is all.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="For HTTP; 0 takes a free one.")] = 8080,
    grpc_port: Annotated[
        int, typer.Option(min=-1, max=65535, help="For gRPC; 0 takes a free one, -1 leaves gRPC out.")
    ] = 8081,
    max_batch: Annotated[int, typer.Option(min=1, help="Images run at once: the bound on memory.")] = 32,
    max_delay: Annotated[
        float, typer.Option(min=0, help="Milliseconds that a request may wait for others to be run with.")
    ] = 2.0,
    queue: Annotated[
        int, typer.Option(min=1, help="Requests in the service at once; one more is told to come again.")
    ] = 256,
    client_limit: Annotated[
        int | None, typer.Option(min=1, help="The same of one client's address; no bound if not said.")
    ] = None,
    deadline: Annotated[
        str, typer.Option(help="Seconds that a request may take; it may ask for fewer.")
    ] = "30",
    grace: Annotated[str, typer.Option(help="Seconds that requests have to end in after SIGTERM.")] = "30",
    workers: Annotated[int, typer.Option(min=1, help="Threads that run a model.")] = 1,
    max_payload: Annotated[str, typer.Option(help="Bytes of a request, such as 32MiB.")] = "32MiB",
    max_answer: Annotated[str, typer.Option(help="Bytes of the maps of an answer.")] = "128MiB",
    max_images: Annotated[int, typer.Option(min=1, help="Images a request.")] = 64,
    max_pixels: Annotated[int, typer.Option(min=1, help="Pixels of a picture.")] = 25_000_000,
    model_control: Annotated[
        str,
        typer.Option(
            help="poll: files that change are loaded again; explicit: clients may load and unload; or none."
        ),
    ] = "none",
    request_log: Annotated[
        bool, typer.Option("--request-log/--no-request-log", help="A line of JSON on stderr a request.")
    ] = True,
    layer: Annotated[
        list[str] | None, typer.Option(help="Target tensor, as in camrt explain; repeatable.")
    ] = None,
    preprocessing: PreprocessingOption = None,
    labels: Labels = None,
    size: Size = None,
    threads: Threads = None,
    device: Device = "cpu",
    backend: BackendName = None,
    plans: Plans = None,
    precision: Precision = None,
    *,
    model_options: ModelOptions,
) -> None:
    """Serve predictions and explanations over HTTP and gRPC, by the Open Inference Protocol.

    Until SIGTERM or ctrl-C; what was begun is then ended. docs/serving.md has requests to copy, the
    metrics and the limits. A model that cannot be loaded leaves the others served. Needs the extra serve.
    Exit code: 0, or 1 when requests had to be cut off, or 2 when nothing can be served.
    """
    with report_errors():
        from camrt.engine.serving.heaps import bound_heaps
        from camrt.engine.serving.kserve_import import import_kserve

        bound_heaps()
        import_kserve()
        from camrt.engine.serving.limits import ServingLimits
        from camrt.engine.serving.request_log import configure_logging
        from camrt.engine.serving.service import ModelControl, Place, run_service

        if model_control not in get_args(ModelControl):
            raise InputError(
                f"--model-control {model_control!r} must be one of {', '.join(get_args(ModelControl))}"
            )
        limits = ServingLimits(
            payload=parse_bytes("--max-payload", max_payload),
            answer=parse_bytes("--max-answer", max_answer),
            images=max_images,
            pixels=max_pixels,
            requests=queue,
            client_requests=client_limit,
            deadline=parse_seconds("--deadline", deadline),
        )
        patience = parse_seconds("--grace", grace)
        load = partial(
            load_model,
            size=parse_size(size),
            preprocessing=preprocessing,
            target=layer or None,
            batch_size=max_batch,
            labels=read_labels(labels),
            threads=threads,
            device=device,
            backend=backend,
            plans=plans,
            precision=precision,
            **model_options,
        )
        schedule = partial(
            make_scheduler, max_batch=max_batch, max_delay=max_delay, queue=queue, workers=workers
        )
        console = make_console()
        served = load_models(console, models, name, load, schedule, patience)
        configure_logging(requests=request_log)
        cut_off = run_service(
            served,
            Place(host, port, None if grpc_port < 0 else grpc_port),
            limits,
            control=model_control,  # type: ignore[arg-type]  # it was compared above
            grace=patience,
            begun=partial(print_begun, console, host),
            stopping=partial(print_stopping, console),
        )
        print_line(console, f"stopped; requests cut off: {cut_off}" if cut_off else "stopped")
    if cut_off:
        raise typer.Exit(1)


def load_model(
    path: Path, *, size: tuple[int, int] | None, preprocessing: str | None, **settings: Any
) -> Engine:
    """The engine of a file."""
    from camrt.engine.load import load

    engine = load(path, preprocessing=read_preprocessing(preprocessing, size), **settings)
    return engine if size is None else engine.with_preprocessing(engine_preprocessing(engine, size))


def make_scheduler(name: str, engine: Engine, **settings: Any) -> Any:
    """What batches the requests of a model."""
    from camrt.engine.serving.metrics import ModelMetrics
    from camrt.engine.serving.scheduler import Scheduler

    delay = settings.pop("max_delay") / 1000
    return Scheduler(engine, max_delay=delay, observer=ModelMetrics(name), **settings)


def load_models(
    console: Console, models: list[str], names: list[str] | None, load: Any, schedule: Any, grace: float
) -> list[ServedModel]:
    """The models, loaded; those that cannot be are told of.

    Raises:
        InputError: None can be loaded, or names that do not fit.
    """
    from camrt.engine.serving.served_model import ServedModel

    made = []
    for text, title in zip(models, model_names(models, names), strict=True):
        one = ServedModel(title, resolve_model_path(text), load, schedule, grace)
        made.append(one)
        try:
            one.load()
            print_line(
                console, f"{title}: {one.path.name}, {one.require().engine.num_classes} classes, is loaded"
            )
        except (CamrtError, OSError) as error:
            print_line(make_console(stderr=True), f"{title}: cannot be loaded: {error}")
    if all(one.at_work is None for one in made):
        raise InputError("none of the models could be loaded")
    return made


def model_names(models: list[str], names: list[str] | None) -> list[str]:
    """The models' names in addresses.

    Raises:
        InputError: More or fewer than models, twice the same, or none that an address can hold.
    """
    chosen = names or [
        re.sub(r"[^\w.-]", "-", text if text == DEFAULT else Path(text).stem) for text in models
    ]
    if len(chosen) != len(models):
        raise InputError(f"--name: {len(chosen)} of them, of {len(models)} models; give one a model, or none")
    for one in chosen:
        if not re.fullmatch(r"[A-Za-z0-9_][\w.-]{0,99}", one, re.ASCII):
            raise InputError(f"--name {one!r} must be of letters, digits, _, . and -, at most 100")
    if len(set(chosen)) < len(chosen):
        raise InputError("two models have one name: give each its own, --name")
    return chosen


def print_begun(console: Console, host: str, port: int, grpc_port: int | None) -> None:
    """Tells where requests are taken."""
    shown = f"[{host}]" if ":" in host else host
    grpc = "" if grpc_port is None else f" and gRPC on {shown}:{grpc_port}"
    print_line(console, f"listening: http://{shown}:{port}{grpc}; metrics at http://{shown}:{port}/metrics")


def print_stopping(console: Console, count: int) -> None:
    """Tells that no further requests are taken."""
    if count:
        print_line(console, f"stopping; requests under way: {count}; a second signal cuts them off")


def print_line(console: Console, text: str) -> None:
    """A line of plain text, at once."""
    console.print(strip_control(text), markup=False, soft_wrap=True)
    console.file.flush()


def add_command(app: typer.Typer) -> None:
    """Adds `serve` to the command line."""
    app.command()(serve)
