"""What `camrt explain` does with its images: batch by batch, into a folder that it can go on in."""

from __future__ import annotations

import sys
import warnings
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from rich.text import Text

from camrt.cli.output import make_console, print_left_out, progress_bar, strip_control
from camrt.cli.result_lines import print_results
from camrt.engine.digests import file_digest
from camrt.engine.explanation import Explanation
from camrt.engine.file_names import FileNames
from camrt.engine.identity import model_identity, package_versions
from camrt.engine.images.read import find_images, read_image
from camrt.engine.passes import PassCounts
from camrt.engine.run_folder import RunFolder, lock_folder
from camrt.errors import DegenerateMapWarning, ImageError, InputError, StorageError
from camrt.export.io.atomic_files import open_atomic

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL import Image
    from rich.console import Console

    from camrt.engine.engine import Engine
    from camrt.engine.fusion import Fusion
    from camrt.engine.images.framing import Framing
    from camrt.engine.images.preprocess import Preprocessing

__all__ = ["ExplainJob", "explain_images"]


@dataclass(frozen=True)
class ExplainJob:
    """What to do with every batch.

    Attributes:
        engine: The model.
        preprocessing: Of its images.
        method: The method's name.
        options: Its options.
        classes: To explain; none for the most probable ones.
        top_k: How many of those.
        batch_size: Images at a time.
        fuse: How the maps of several layers become one.
        out: Folder for the results.
        original: Whether to draw on whole images.
        load_settings: Further settings that results depend on.
    """

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
    load_settings: Mapping[str, Any] = field(default_factory=dict)

    def explain(self, views: Sequence[Image.Image], framings: Sequence[Framing]) -> Explanation:
        """The explanation of some views."""
        batch = np.stack([self.preprocessing.array(view) for view in views])
        targets: NDArray[np.int64] | int | None = None
        if len(self.classes) == 1:
            targets = self.classes[0]
        elif self.classes:
            targets = np.tile(np.array(self.classes, np.int64), (len(views), 1))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DegenerateMapWarning)  # told beside the image instead
            explanation = self.engine.explain(
                batch,
                self.method,
                targets=targets,
                top_k=self.top_k if self.top_k > 1 else None,
                fuse=cast("Fusion", self.fuse),
                **self.options,
            )
        return replace(explanation, views=tuple(views), framings=tuple(framings))

    def identity(self) -> dict[str, Any]:
        """Everything that the results depend on, but for the images."""
        labels = self.engine.labels
        return {
            "versions": package_versions(),
            "model": model_identity(self.engine, self.preprocessing),
            "labels": None if labels is None else list(labels),
            "method": {"name": self.method, "options": dict(self.options), "fuse": self.fuse},
            "targets": {"classes": list(self.classes), "top_k": self.top_k},
            "settings": {
                "batch_size": self.batch_size,
                "original": self.original,
                **{name: value for name, value in self.load_settings.items() if value is not None},
            },
        }


@dataclass
class FileBatch:
    """Images that are explained together.

    Attributes:
        files: Those that could be read.
        views: Of each what the model sees, which is small.
        framings: And where that lies.
        visited: All that were come to on the way, those that cannot be read too, and hashes of their
            contents.
        skipped: What was wrong with those.
    """

    files: list[Path] = field(default_factory=list)
    views: list[Image.Image] = field(default_factory=list)
    framings: list[Framing] = field(default_factory=list)
    visited: list[list[str | None]] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class FinishedBatch:
    """A batch that was explained before, as it was noted."""

    stems: list[str]
    files: list[str]
    texts: list[str]
    visited: list[list[str | None]]
    skipped: list[str]

    @classmethod
    def from_note(cls, note: Mapping[str, Any]) -> FinishedBatch:
        """From a note.

        Raises:
            InputError: It is damaged.
        """
        try:
            parts = {name: list(note[name]) for name in ("stems", "files", "texts", "skipped")}
            seen = [list(pair) for pair in note["seen"]]
        except (KeyError, TypeError, ValueError) as error:
            raise InputError(f"a note of a finished batch is damaged: {error!r}") from error
        if not all(isinstance(text, str) for part in parts.values() for text in part):
            raise InputError("a note of a finished batch is damaged: it names something that is no text")
        return cls(**parts, visited=seen)


class ImageWalk:
    """The images under some paths, batch by batch."""

    def __init__(
        self, job: ExplainJob, paths: Sequence[Path], skip: Callable[[str], None], errors: Console
    ) -> None:
        self._job = job
        self._skip = skip
        self._found = find_images(
            paths, on_error=lambda error: skip(str(error)), on_results=partial(print_left_out, on=errors)
        )
        self._waiting: deque[tuple[Path, str | None]] = deque()

    def next_batch(self) -> FileBatch | None:
        """The next readable images; None when there are none left."""
        batch = FileBatch()
        while len(batch.files) < self._job.batch_size and (found := self._take()) is not None:
            path, digest = found
            batch.visited.append([str(path), digest])
            try:
                image = read_image(path)
                view = self._job.preprocessing.view(image)
            except ImageError as error:
                batch.skipped.append(str(error))
                self._skip(str(error))
                continue
            batch.files.append(path)
            batch.views.append(view)
            batch.framings.append(self._job.preprocessing.framing((image.height, image.width)))
        return batch if batch.files else None

    def skip_finished(self, kept: FinishedBatch) -> bool:
        """Skips the next images if they are those of a finished batch; whether they were."""
        taken: list[tuple[Path, str | None]] = []
        for wanted in kept.visited:
            found = self._take()
            if found is not None:
                taken.append(found)
            if found is None or [str(found[0]), found[1]] != wanted:
                self._waiting.extendleft(reversed(taken))
                return False
        return True

    def _take(self) -> tuple[Path, str | None] | None:
        if self._waiting:
            return self._waiting.popleft()
        path = next(self._found, None)
        return None if path is None else (path, file_digest(path))


def explain_images(job: ExplainJob, paths: Sequence[Path], *, resume: bool, overwrite: bool) -> int:
    """Explains, saves and prints everything.

    Args:
        job: What to do.
        paths: Images and folders of images.
        resume: Go on with the run in the folder.
        overwrite: Replace it.

    Returns:
        How many images were skipped.

    Raises:
        InputError: The folder holds another run, or one and nothing was said of it, or is being written.
        CamrtError: What explaining and writing raise.
    """
    with lock_folder(job.out):
        folder = RunFolder(job.out, "explanation", job.identity(), resume=resume, overwrite=overwrite)
        return _ExplainRun(job, folder).run(paths)


def _count_images(paths: Sequence[Path]) -> int:
    """How many images will be come to, errors on the way to them included."""
    errors: list[ImageError] = []
    return sum(1 for _ in find_images(paths, on_error=errors.append)) + len(errors)


class _ExplainRun:
    """A run: what was counted so far, and where lines are printed."""

    def __init__(self, job: ExplainJob, folder: RunFolder) -> None:
        self.job = job
        self.folder = folder
        self.naming = FileNames()
        self.kept = {note["batch"]: note for note in folder.finished if isinstance(note.get("batch"), int)}
        self.written: set[str] = set()
        self.same_names = True
        self.skipped = self.count = self.before = 0
        self.seconds, self.spent = 0.0, PassCounts()
        self.errors = make_console(stderr=True)
        both = sys.stdout.isatty() and sys.stderr.isatty()
        # One console, or the progress bar would be written over.
        self.results = self.errors if both else make_console()

    def skip(self, text: str) -> None:
        """Tells of an image that cannot be read."""
        self.skipped += 1
        self.errors.print(Text(f"skipped: {strip_control(text)}", "yellow"), soft_wrap=True)

    def run(self, paths: Sequence[Path]) -> int:
        """All batches; the number of images skipped."""
        walk = ImageWalk(self.job, paths, self.skip, self.errors)
        number = 1
        total = (
            _count_images(paths) if sys.stderr.isatty() else None
        )  # for the bar, which is shown there alone
        with progress_bar("explaining", total=total, on=self.errors) as show:
            while self._is_done(walk, number) or self._one(walk, number):
                number += 1
                show(self.count + self.before + self.skipped)
        for late in [found for found in self.kept if found >= number]:  # of images that are gone
            self._drop(late)
        self._summary()
        return self.skipped

    def _is_done(self, walk: ImageWalk, number: int) -> bool:
        """Whether the next batch was explained before, of the same images under the same names."""
        note = self.kept.get(number)
        if note is None or not self.same_names or note.get("dropped"):
            return False
        kept = FinishedBatch.from_note(note)
        if not all((self.job.out / name).is_file() for name in kept.files) or not walk.skip_finished(kept):
            return False
        if [self.naming.unique_stem(text) for text in kept.texts] != kept.stems:
            raise InputError(
                f"{self.job.out}: the notes of what was written are damaged: replace it (--overwrite)"
            )
        for text in kept.skipped:
            self.skip(text)
        self.written.update(kept.files)
        self.before += len(kept.stems)
        return True

    def _one(self, walk: ImageWalk, number: int) -> bool:
        """Explains the next batch; False when there is none."""
        batch = walk.next_batch()
        if batch is None:
            return False
        job = self.job
        explanation = job.explain(batch.views, batch.framings)
        texts = [file.stem for file in batch.files]
        stems = [self.naming.unique_stem(text) for text in texts]
        archive = "explanation" if number == 1 else f"explanation-{number:04d}"
        sheets = [f"{stem}_sheet.png" for stem in stems] if explanation.targets_per_image > 1 else []
        names = [*explanation.file_names(stems, archive), *sheets]
        self._claim(names)
        former = self.kept.get(number)
        if former is not None and not former.get("dropped"):
            self.same_names = self.same_names and FinishedBatch.from_note(former).stems == stems
            self._drop(number)
        drawn = batch.files if job.original else None
        written = explanation.save(job.out, stems, name=archive, images=drawn)
        for i, name in enumerate(sheets):
            with open_atomic(job.out / name) as file:
                explanation.sheet(i, image=None if drawn is None else drawn[i]).save(file, format="PNG")
        self.folder.finish(
            {
                "batch": number,
                "texts": texts,
                "stems": stems,
                "files": names,
                "seen": batch.visited,
                "skipped": batch.skipped,
            }
        )
        print_results(
            self.results, batch.files, explanation, written, job.engine.interface.recognised is not None
        )
        self.count += len(batch.files)
        self.seconds, self.spent = self.seconds + explanation.seconds, self.spent + explanation.passes
        return True

    def _claim(self, names: Sequence[str]) -> None:
        """Notes files that will be written; none of them may be one that this run has written."""
        if twice := next((name for name in names if name in self.written), None):
            raise StorageError(f"{self.job.out / twice} was written before in this run, and is not replaced")
        self.folder.claim(names)
        self.written.update(names)

    def _drop(self, number: int) -> None:
        """Removes what an earlier run wrote of a batch that is another one now."""
        kept = FinishedBatch.from_note(self.kept[number])
        self.folder.finish({"batch": number, "dropped": True})
        self.folder.remove([name for name in kept.files if name not in self.written])

    def _summary(self) -> None:
        job, count = self.job, self.count
        options = ", ".join(f"{name}={value!r}" for name, value in job.options.items())
        shown = f"{job.method}({options})" if options else job.method
        others = "".join(
            f", {number} {what}"
            for number, what in ((self.before, "explained before"), (self.skipped, "skipped"))
            if number
        )
        if count or self.before:
            each = f", {1000 * self.seconds / count:.1f} ms an image" if count else ""
            self.results.print(
                f"{shown}: {count} image{'s' * (count != 1)}{others}{each}, passes: {self.spent}",
                markup=False,
                soft_wrap=True,
            )
            self.results.print(f"files in {strip_control(str(job.out))}", markup=False, soft_wrap=True)
