"""The command line: `camrt explain`, `camrt inspect`, `camrt methods`.

Nothing heavy is imported here but inside the commands, so that `camrt --help` is quick.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

import camrt
from camrt.default import model_file
from camrt.engine.arguments import (
    class_index,
    model_and_pictures,
    parse_options,
    parse_size,
    preprocessing_of,
    read_labels,
    read_preprocessing,
)
from camrt.engine.consoles import add_row, clear_errors, plain, progress_bar
from camrt.engine.consoles import console as make_console
from camrt.engine.reading_options import Reading, reads_models
from camrt.errors import DegenerateMapWarning, InputError, PictureError, TargetError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from PIL import Image
    from rich.console import Console

    from camrt.engine.explanation import Explanation, Passes
    from camrt.engine.framing import Framing
    from camrt.engine.fusing import Fusion
    from camrt.engine.preprocessing import Preprocessing
    from camrt.engine.session import Engine

__all__ = ["app"]

app = typer.Typer(
    name="camrt",
    help="Where did the classifier look? Class activation maps of exported image classifiers.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"camrt {camrt.__version__}")
        raise typer.Exit


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and leave.")
    ] = False,
) -> None:
    """Options before any command."""


@app.command()
@reads_models
def explain(
    model: Annotated[
        str | None, typer.Argument(help="An ONNX classifier, or the word default: the bundled one.")
    ] = None,
    images: Annotated[list[Path] | None, typer.Argument(help="Pictures and folders of pictures.")] = None,
    method: Annotated[str, typer.Option("--method", "-m", help="See camrt methods.")] = "pixab",
    target: Annotated[
        list[str] | None,
        typer.Option("--target", "-t", help="Class to explain: index or name; repeatable."),
    ] = None,
    top_k: Annotated[
        int | None, typer.Option("--top-k", "-k", min=1, help="Explain the most probable classes instead.")
    ] = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the results.")] = Path("camrt-out"),
    original: Annotated[
        bool,
        typer.Option("--original", help="Draw on whole pictures, not on what the model saw of them."),
    ] = False,
    layer: Annotated[
        list[str] | None,
        typer.Option(help="Target tensor, see camrt inspect; repeatable: the maps are then fused."),
    ] = None,
    fuse: Annotated[
        str, typer.Option(help="How the maps of several layers become one: mean or max.")
    ] = "mean",
    preprocessing: Annotated[
        str | None, typer.Option(help="imagenet, imagenet-squash, tf, unit, raw, or a JSON file.")
    ] = None,
    labels: Annotated[
        Path | None, typer.Option(help="Class names: a text file with one a line, or a JSON array.")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Pictures read and explained at a time.")] = 32,
    size: Annotated[
        str | None, typer.Option(help="HxW to bring pictures to, where the model leaves it open.")
    ] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads.")] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda or cuda:N.")] = "cpu",
    backend: Annotated[
        str | None,
        typer.Option(help="onnxruntime, onnxruntime-tensorrt, tensorrt, tensorrt-rtx; for .pt2 files torch."),
    ] = None,
    plans: Annotated[Path | None, typer.Option(help="Folder of TensorRT plans, see camrt export.")] = None,
    precision: Annotated[str | None, typer.Option(help="fp32, fp16 or bf16, on a GPU.")] = None,
    option: Annotated[
        list[str] | None, typer.Option("--option", "-O", help="The method's KEY=VALUE; repeatable.")
    ] = None,
    *,
    reading: Reading,
) -> None:
    """Explain pictures, and write an overlay for each and the maps as NumPy arrays.

    Without arguments, the bundled classifier explains its bundled scene.
    Exit code: 0, or 1 when pictures had to be skipped, or 2 when the model or a request is wrong.
    """
    with clear_errors():
        model_file, paths = model_and_pictures(model, images)
        if target and top_k is not None:
            raise InputError("give --target or --top-k, not both")
        hw = parse_size(size)
        options = parse_options(option or [])
        engine = _load(
            model_file,
            target=layer or None,
            batch_size=batch_size,
            threads=threads,
            device=device,
            backend=backend,
            plans=plans,
            precision=precision,
            labels=read_labels(labels),
            preprocessing=read_preprocessing(preprocessing, hw),
            **reading,
        )
        job = _Job(
            engine=engine,
            preprocessing=preprocessing_of(engine, hw),
            method=method,
            options=options,
            classes=[class_index(text, engine) for text in target or []],
            top_k=top_k or 1,
            batch_size=batch_size,
            fuse=fuse,
            out=out,
            original=original,
        )
        if job.top_k > engine.num_classes:
            raise TargetError(f"--top-k {job.top_k}: the model has {engine.num_classes} classes")
        skipped = _run(job, paths)
    if skipped:
        raise typer.Exit(1)


@app.command()
@reads_models
def inspect(
    model: Annotated[str, typer.Argument(help="An ONNX classifier, or the word default.")],
    layer: Annotated[str | None, typer.Option(help="Target tensor.")] = None,
    verify: Annotated[
        bool,
        typer.Option(help="Compare every kind of answer with the model's own on noise, and list the errors."),
    ] = False,
    *,
    reading: Reading,
) -> None:
    """Show how a model is cut, and the tensors it could be cut at."""
    from rich.table import Table

    with clear_errors():
        engine = _load(model_file(model), target=layer, verify="thorough" if verify else True, **reading)
        console = make_console()
        console.print(plain(engine.describe()), markup=False)
        table = Table("target", "node", "operator", "K x h x w", "clean", "chosen", title="Targets")
        for found in engine.targets():
            shape = " x ".join("?" if side is None else str(side) for side in found.shape)
            yes_no = ["yes" if flag else "no" for flag in (found.clean, found.chosen)]
            add_row(table, found.name, found.node, found.operator, shape, *yes_no, bold=found.chosen)
        console.print(table)
        if verify:
            compared = Table(
                "question", "times", "largest error", "allowed", "agrees", title="Compared on noise"
            )
            for question in dict.fromkeys(one.question for one in engine.verification):
                same = [one for one in engine.verification if one.question == question]
                largest = max(one.error for one in same)
                result = "yes" if all(one.agrees for one in same) else "no"
                error = f"{largest:.1e}"
                if all(one.refused is not None for one in same):
                    error, result = "none", f"refused: {same[0].refused}"
                add_row(compared, question, str(len(same)), error, f"{same[0].allowed:g}", result)
            console.print(compared)


@app.command()
def methods() -> None:
    """List the methods and their options."""
    from rich.table import Table

    from camrt.engine.methods import methods as registry

    with clear_errors():
        table = Table("method", "summary", "options (-O KEY=VALUE)")
        for name, kind in registry().items():
            summary = (kind.__doc__ or "").strip().partition("\n")[0]
            add_row(table, name, summary, ", ".join(_option_names(kind)))
        make_console().print(table)


@dataclass(frozen=True)
class _Job:
    """What to do with every batch."""

    engine: Engine
    preprocessing: Preprocessing
    method: str
    options: Mapping[str, Any]
    classes: Sequence[int]
    top_k: int
    batch_size: int
    fuse: str
    out: Path
    original: bool

    def explain(
        self, views: Sequence[Image.Image], framings: Sequence[Framing]
    ) -> tuple[Explanation, Passes]:
        """The explanation of some views, and all passes spent on it."""
        import numpy as np

        from camrt.engine.explanation import Passes

        batch = np.stack([self.preprocessing.array(view) for view in views])
        spent = Passes()
        targets: NDArray[np.int64] | int | None = None
        if len(self.classes) == 1:
            targets = self.classes[0]
        elif self.classes:
            targets = np.tile(np.array(self.classes, np.int64), (len(views), 1))
        elif self.top_k > 1:
            order = np.argsort(-self.engine.predict(batch), axis=1, kind="stable")
            targets = order[:, : self.top_k].astype(np.int64)
            spent = Passes(full=len(views))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DegenerateMapWarning)  # told beside the picture instead
            explanation = self.engine.explain(
                batch, self.method, targets=targets, fuse=cast("Fusion", self.fuse), **self.options
            )
        return replace(explanation, views=tuple(views), framings=tuple(framings)), spent + explanation.passes


def _run(job: _Job, paths: Sequence[Path]) -> int:
    """Explain, save and print everything; the number of pictures skipped."""
    from rich.text import Text

    from camrt.engine.explanation import Passes, unique_stem

    errors = make_console(stderr=True)
    both = sys.stdout.isatty() and sys.stderr.isatty()
    results = errors if both else make_console()  # one console, or the progress bar would be written over
    skipped, count, seconds, spent = 0, 0, 0.0, Passes()
    options = ", ".join(f"{name}={value!r}" for name, value in job.options.items())
    shown = f"{job.method}({options})" if options else job.method
    stems: dict[str, int] = {}

    def skip(error: PictureError) -> None:
        nonlocal skipped
        skipped += 1
        errors.print(Text(f"skipped: {plain(str(error))}", "yellow"), soft_wrap=True)

    known = None if any(path.is_dir() for path in paths) else len(paths)
    with progress_bar("explaining", total=known, on=errors) as show:
        for number, (files, views, framings) in enumerate(_batches(job, paths, skip), start=1):
            explanation, passes = job.explain(views, framings)
            names = [unique_stem(file.stem, stems) for file in files]
            archive = "explanation" if number == 1 else f"explanation-{number:04d}"
            drawn = files if job.original else None
            written = explanation.save(job.out, names, name=archive, pictures=drawn)
            if explanation.targets_each > 1:
                for i, name in enumerate(names):
                    explanation.sheet(i).save(job.out / f"{name}_sheet.png")
            _print_results(results, files, explanation, written, job.engine.interface.recognised is not None)
            count, seconds, spent = count + len(files), seconds + explanation.seconds, spent + passes
            show(count + skipped)
    if count:
        results.print(
            f"{shown}: {count} picture{'s' * (count != 1)}"
            f"{f', {skipped} skipped' if skipped else ''}, {1000 * seconds / count:.1f} ms a picture, "
            f"passes: {spent}",
            markup=False,
            soft_wrap=True,
        )
        results.print(f"files in {plain(str(job.out))}", markup=False, soft_wrap=True)
    return skipped


def _batches(
    job: _Job, paths: Sequence[Path], skip: Callable[[PictureError], None]
) -> Iterator[tuple[list[Path], list[Image.Image], list[Framing]]]:
    """The readable pictures, some at a time; of each only its view is kept, which is small, and its place."""
    from camrt.engine.pictures import find_pictures, read_picture

    files: list[Path] = []
    views: list[Image.Image] = []
    framings: list[Framing] = []
    for path in find_pictures(paths, on_error=skip):
        try:
            picture = read_picture(path)
            view = job.preprocessing.view(picture)
        except PictureError as error:
            skip(error)
            continue
        files.append(path)
        views.append(view)
        framings.append(job.preprocessing.framing((picture.height, picture.width)))
        if len(files) == job.batch_size:
            yield files, views, framings
            files, views, framings = [], [], []
    if files:
        yield files, views, framings


SATURATED = (
    "the probability is 1 whatever is altered: -O score=logit explains the number itself; "
    "if it is no logit, --activation none"
)


def _answer(explanation: Explanation, i: int, target: int, told: bool) -> Iterator[str | tuple[str, str]]:
    """What the model says of a class: a probability where it has one, and its number where it gives that."""
    value = f"{explanation.logits[i, target]:.4g}"
    chance = float(explanation.probabilities[i, target])
    if chance != chance:
        yield from ("value ", (value, "green"))
        return
    yield from ("probability ", (f"{chance:.3f}", "green"))
    if not told:
        yield f" of logit {value}"


def _print_results(
    console: Console,
    files: Sequence[Path],
    explanation: Explanation,
    written: Sequence[Path],
    told: bool,
) -> None:
    """A line a picture and target; `told`: the file itself says how its numbers become probabilities."""
    from rich.text import Text

    from camrt.engine.explanation import FLAG_NAMES

    each = explanation.targets_each
    for i, file in enumerate(files):
        for t in range(each):
            at = (i, t) if explanation.targets.ndim == 2 else (i,)
            target = int(explanation.targets[at])
            label = explanation.label(i, t) if explanation.labels else ""
            line = Text.assemble(
                (plain(str(file)), "bold"),
                f": class {target}{f' ({plain(label)})' if label else ''}, ",
                *_answer(explanation, i, target, told),
                f", score {explanation.scores[at]:.4g}",
            )
            flag = int(explanation.flags[at])
            if flag:
                line.append(f", no map: {FLAG_NAMES[flag]}", "yellow")
            if not told and explanation.scores[at] == explanation.probabilities[i, target] == 1.0:
                line.append(f", {SATURATED}", "yellow")
            line.append(f", {plain(str(written[i * each + t]))}")
            console.print(line, soft_wrap=True)


def _load(model: Path, **settings: Any) -> Engine:
    from camrt.engine.loading import load

    return load(model, **settings)


def _option_names(method: Any) -> list[str]:
    """The options of a method's class, each with its default."""
    names = []
    for field in fields(method):
        default = field.default
        if default is MISSING and field.default_factory is not MISSING:
            default = field.default_factory()
        names.append(field.name if default is MISSING else f"{field.name}={default!r}")
    return names
