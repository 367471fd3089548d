"""The files of a block: overlays as they come, and one file of rows and one of arrays at its end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path, PurePath
from typing import Any

from camrt.engine.comparison import draw_comparison
from camrt.engine.drawing_files import write_drawing
from camrt.engine.explanation import Explanation, join_explanations
from camrt.engine.extras import import_extra
from camrt.engine.images.read import read_image
from camrt.engine.runs.blocks import Block, FinishedBlock
from camrt.engine.runs.items import ImageItem
from camrt.engine.runs.job import ExplainJob
from camrt.engine.runs.result_table import make_lines
from camrt.engine.runs.rows import make_rows, schema
from camrt.engine.runs.stream import ExplainedBatch, MapShapes
from camrt.errors import ImageError, InputError
from camrt.export.io.atomic_files import open_draft, storage_errors

__all__ = ["ROWS_FOLDER", "BlockWriter", "rows_name"]

ROWS_FOLDER = "maps"


def rows_name(number: int) -> str:
    """The name of the file with a block's rows."""
    return f"{ROWS_FOLDER}/{number:06d}.parquet"


class BlockWriter:
    """Writes what a block's images give; its rows are there whole when it ends, or not at all.

    Args:
        job: What is written, and where.
        block: Of which images.
        claim: Is told the names of files before they are written.
    """

    def __init__(self, job: ExplainJob, block: Block, claim: Callable[[list[str]], None]) -> None:
        self._job = job
        self._block = block
        self._note_names = claim
        self._stack = ExitStack()
        self._parquet: Any = None
        self._shapes: MapShapes | None = None
        self._waiting: list[ExplainedBatch] = []  # of images that failed, before the maps' sizes are known
        self._explained: list[tuple[Explanation[Any], list[str]]] = []
        self._done = 0  # images
        self.files: list[str] = []
        self.errors: list[str] = []
        self._lines: list[str] = []  # of the table
        self.undrawn: list[str] = []  # why images that were explained have no overlay

    def write(self, batch: ExplainedBatch) -> list[str | None]:
        """Writes some images, and answers with the names of their overlays; None where one was not drawn."""
        first, self._done = self._done, self._done + len(batch.images)
        stems = [
            stem
            for stem, image in zip(self._block.stems[first : self._done], batch.images, strict=True)
            if image.error is None
        ]
        self.errors += [image.error for image in batch.images if image.error is not None]
        overlays: list[str | None] = []
        if "overlays" in self._job.results and batch.explanation is not None:
            draw = self._compare if batch.others else self._draw
            overlays = draw(batch, batch.explanation, stems)
        if "table" in self._job.results:
            self._lines.append(make_lines(batch, self._job.question, overlays))
        if "arrays" in self._job.results and batch.explanation is not None:
            self._explained.append((batch.explanation, stems))
        if "maps" in self._job.results:
            self._write_rows(batch)
        return overlays

    def finish(self) -> FinishedBlock:
        """Finishes the block's files: they are whole."""
        if self._waiting:
            self._begin_rows(self._job.question.find_shapes(self._job.decoding.preprocessing))
        with storage_errors(self._rows_path):
            self._stack.close()
        number = self._block.number
        if self._explained:
            name = "explanation.npz" if number == 1 else f"explanation-{number:04d}.npz"
            self._claim([name])
            joined = join_explanations([explanation for explanation, _ in self._explained])
            joined.write_arrays(
                self._job.out / name, [stem for _, stems in self._explained for stem in stems]
            )
        shapes = None if self._shapes is None else vars(self._shapes)
        errors = [*self.errors, *self.undrawn]
        return FinishedBlock(
            self._block.digest, self.files, len(self._block.items), errors, shapes, "".join(self._lines)
        )

    def abandon(self, error: BaseException) -> None:
        """Leaves nothing half written of rows that will not be finished."""
        self._stack.__exit__(type(error), error, error.__traceback__)

    @contextmanager
    def abandoned_on_error(self) -> Iterator[None]:
        """Abandons the block where something is raised."""
        try:
            yield
        except BaseException as error:
            with suppress(Exception):  # a full disk is met by what is closed, too
                self.abandon(error)
            raise

    def _claim(self, names: list[str]) -> None:
        self._note_names(names)
        self.files += names

    def _compare(
        self, batch: ExplainedBatch, explanation: Explanation[Any], stems: list[str]
    ) -> list[str | None]:
        """A sheet for each image, with a row for each method; its name, once for each target."""
        model = self._job.question.engine.path.name
        names = [f"{stem}_comparison.{self._job.picture}" for stem in stems]
        self._claim(names)
        readable = [image.item for image in batch.images if image.error is None]
        done: list[str | None] = []
        for i, (item, name) in enumerate(zip(readable, names, strict=True)):
            try:
                whole = read_image(item.read()) if self._job.original else None
                sheet = draw_comparison(
                    batch.explanations,
                    i,
                    title=f"{PurePath(item.address).name}: where {model} looked",
                    image=whole,
                    on="view",
                    **self._job.style,
                )
            except (ImageError, InputError) as error:
                self._leave_undrawn(item, [name], error)
            else:
                self._save(name, sheet)
            done += [name if name in self.files else None] * explanation.targets_per_image
        return done

    def _leave_undrawn(self, item: ImageItem, names: list[str], error: Exception) -> None:
        """Notes that an image has gone, or is another one now."""
        self.undrawn.append(f"{item.address}: explained, and not drawn on: {error}")
        self.files = [name for name in self.files if name not in names]

    def _draw(
        self, batch: ExplainedBatch, explanation: Explanation[Any], stems: list[str]
    ) -> list[str | None]:
        """An overlay for each image and target, and a sheet of those of one image; the overlays' names."""
        each, style = explanation.targets_per_image, self._job.style
        names = explanation.file_names(stems, "", suffix=self._job.picture)[:-1]
        sheets = [f"{stem}_sheet.{self._job.picture}" for stem in stems] if each > 1 else []
        self._claim([*names, *sheets])
        readable = [image.item for image in batch.images if image.error is None]
        done: list[str | None] = []
        for i, item in enumerate(readable):
            own = names[i * each : (i + 1) * each]
            try:
                whole = read_image(item.read()) if self._job.original else None
                drawings = [explanation.overlay(i, t, image=whole, on="view", **style) for t in range(each)]
                sheet = explanation.sheet(i, image=whole, on="view", **style) if sheets else None
            except (ImageError, InputError) as error:
                self._leave_undrawn(item, [*own, *sheets[i : i + 1]], error)
                done += [None] * each
                continue
            for name, drawing in zip(own, drawings, strict=True):
                self._save(name, drawing)
            if sheet is not None:
                self._save(sheets[i], sheet)
            done += own
        return done

    def _save(self, name: str, drawing: Any) -> None:
        write_drawing(self._job.out / name, drawing, self._job.picture)

    def _write_rows(self, batch: ExplainedBatch) -> None:
        shapes = self._shapes
        if shapes is None:
            if batch.explanation is None:
                self._waiting.append(batch)
                return
            shapes = MapShapes.of(batch.explanation)
            self._begin_rows(shapes)
        with storage_errors(self._rows_path):
            self._parquet.write_batch(make_rows(batch, shapes))

    @property
    def _rows_path(self) -> Path:
        return self._job.out / rows_name(self._block.number)

    def _begin_rows(self, shapes: MapShapes) -> None:
        self._shapes = shapes
        parquet = import_extra("pyarrow.parquet", "runs")
        self._claim([rows_name(self._block.number)])
        draft = self._stack.enter_context(open_draft(self._rows_path))
        writer = parquet.ParquetWriter(draft.file, schema(shapes), compression="zstd")
        self._parquet = self._stack.enter_context(writer)
        for batch in self._waiting:
            self._parquet.write_batch(make_rows(batch, shapes))
        self._waiting = []
