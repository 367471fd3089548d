"""What `camrt explain` does with its pictures: batch by batch, into a folder that it can go on in."""

from __future__ import annotations

import sys
import warnings
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from rich.text import Text

from camrt.engine.consoles import console as make_console
from camrt.engine.consoles import plain, progress_bar
from camrt.engine.digests import content_digest
from camrt.engine.explanation import FLAG_NAMES, Explanation, Passes
from camrt.engine.identity import model_identity, versions
from camrt.engine.naming import Naming
from camrt.engine.pictures import find_pictures, read_picture
from camrt.engine.run_folders import RunFolder, held
from camrt.errors import DegenerateMapWarning, InputError, PictureError, StorageError
from camrt.export.files import whole_file

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from PIL import Image
    from rich.console import Console

    from camrt.engine.framing import Framing
    from camrt.engine.fusing import Fusion
    from camrt.engine.preprocessing import Preprocessing
    from camrt.engine.session import Engine

__all__ = ["Job", "explain_pictures"]


@dataclass(frozen=True)
class Job:
    """What to do with every batch.

    Attributes:
        engine: The model.
        preprocessing: Of its pictures.
        method: The method's name.
        options: Its options.
        classes: To explain; none for the most probable ones.
        top_k: How many of those.
        batch_size: Pictures at a time.
        fuse: How the maps of several layers become one.
        out: Folder for the results.
        original: Whether to draw on whole pictures.
        asked: Further settings that results depend on.
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
    asked: Mapping[str, Any] = field(default_factory=dict)

    def explain(
        self, views: Sequence[Image.Image], framings: Sequence[Framing]
    ) -> tuple[Explanation, Passes]:
        """The explanation of some views, and all passes spent on it."""
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

    def identity(self) -> dict[str, Any]:
        """Everything that the results depend on, but for the pictures."""
        labels = self.engine.labels
        return {
            "versions": versions(),
            "model": model_identity(self.engine, self.preprocessing),
            "labels": None if labels is None else list(labels),
            "method": {"name": self.method, "options": dict(self.options), "fuse": self.fuse},
            "targets": {"classes": list(self.classes), "top_k": self.top_k},
            "settings": {
                "batch_size": self.batch_size,
                "original": self.original,
                **{name: value for name, value in self.asked.items() if value is not None},
            },
        }


@dataclass
class Batch:
    """Pictures that are explained together.

    Attributes:
        files: Those that could be read.
        views: Of each what the model sees, which is small.
        framings: And where that lies.
        seen: All that were come to on the way, those that cannot be read too, and hashes of their contents.
        skipped: What was wrong with those.
    """

    files: list[Path] = field(default_factory=list)
    views: list[Image.Image] = field(default_factory=list)
    framings: list[Framing] = field(default_factory=list)
    seen: list[list[str | None]] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Kept:
    """A batch that was explained before, as it was noted."""

    stems: list[str]
    files: list[str]
    texts: list[str]
    seen: list[list[str | None]]
    skipped: list[str]

    @classmethod
    def read(cls, note: Mapping[str, Any]) -> Kept:
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
        return cls(**parts, seen=seen)


class Walk:
    """The pictures under some paths, batch by batch."""

    def __init__(self, job: Job, paths: Sequence[Path], skip: Any) -> None:
        self._job = job
        self._skip = skip
        self._found = find_pictures(paths, on_error=lambda error: skip(str(error)))
        self._waiting: deque[tuple[Path, str | None]] = deque()

    def next(self) -> Batch | None:
        """The next readable pictures; None when there are none left."""
        batch = Batch()
        while len(batch.files) < self._job.batch_size and (found := self._take()) is not None:
            path, digest = found
            batch.seen.append([str(path), digest])
            try:
                picture = read_picture(path)
                view = self._job.preprocessing.view(picture)
            except PictureError as error:
                batch.skipped.append(str(error))
                self._skip(str(error))
                continue
            batch.files.append(path)
            batch.views.append(view)
            batch.framings.append(self._job.preprocessing.framing((picture.height, picture.width)))
        return batch if batch.files else None

    def passes(self, kept: Kept) -> bool:
        """Whether the next pictures are those of a batch that was kept, which are passed over then."""
        taken: list[tuple[Path, str | None]] = []
        for wanted in kept.seen:
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
        return None if path is None else (path, content_digest(path))


def explain_pictures(job: Job, paths: Sequence[Path], *, resume: bool, overwrite: bool) -> int:
    """Explains, saves and prints everything.

    Args:
        job: What to do.
        paths: Pictures and folders of pictures.
        resume: Go on with the run in the folder.
        overwrite: Replace it.

    Returns:
        How many pictures were skipped.

    Raises:
        InputError: The folder holds another run, or one and nothing was said of it, or is being written.
        CamrtError: What explaining and writing raise.
    """
    with held(job.out):
        folder = RunFolder(job.out, "explanation", job.identity(), resume=resume, overwrite=overwrite)
        return _Explaining(job, folder).run(paths)


class _Explaining:
    """A run: what was counted so far, and where lines are printed."""

    def __init__(self, job: Job, folder: RunFolder) -> None:
        self.job = job
        self.folder = folder
        self.naming = Naming()
        self.kept = {note["batch"]: note for note in folder.finished if isinstance(note.get("batch"), int)}
        self.written: set[str] = set()
        self.same_names = True
        self.skipped = self.count = self.before = 0
        self.seconds, self.spent = 0.0, Passes()
        self.errors = make_console(stderr=True)
        both = sys.stdout.isatty() and sys.stderr.isatty()
        # One console, or the progress bar would be written over.
        self.results = self.errors if both else make_console()

    def skip(self, text: str) -> None:
        """Tells of a picture that cannot be read."""
        self.skipped += 1
        self.errors.print(Text(f"skipped: {plain(text)}", "yellow"), soft_wrap=True)

    def run(self, paths: Sequence[Path]) -> int:
        """All batches; the number of pictures skipped."""
        walk = Walk(self.job, paths, self.skip)
        known = None if any(path.is_dir() for path in paths) else len(paths)
        number = 1
        with progress_bar("explaining", total=known, on=self.errors) as show:
            while self._is_done(walk, number) or self._one(walk, number):
                number += 1
                show(self.count + self.before + self.skipped)
        for late in [found for found in self.kept if found >= number]:  # of pictures that are gone
            self._drop(late)
        self._summary()
        return self.skipped

    def _is_done(self, walk: Walk, number: int) -> bool:
        """Whether the next batch was explained before, of the same pictures under the same names."""
        note = self.kept.get(number)
        if note is None or not self.same_names or note.get("dropped"):
            return False
        kept = Kept.read(note)
        if not all((self.job.out / name).is_file() for name in kept.files) or not walk.passes(kept):
            return False
        if [self.naming.stem(text) for text in kept.texts] != kept.stems:
            raise InputError(
                f"{self.job.out}: the notes of what was written are damaged: replace it (--overwrite)"
            )
        for text in kept.skipped:
            self.skip(text)
        self.written.update(kept.files)
        self.before += len(kept.stems)
        return True

    def _one(self, walk: Walk, number: int) -> bool:
        """Explains the next batch; False when there is none."""
        batch = walk.next()
        if batch is None:
            return False
        job = self.job
        explanation, passes = job.explain(batch.views, batch.framings)
        texts = [file.stem for file in batch.files]
        stems = [self.naming.stem(text) for text in texts]
        archive = "explanation" if number == 1 else f"explanation-{number:04d}"
        sheets = [f"{stem}_sheet.png" for stem in stems] if explanation.targets_each > 1 else []
        names = [*explanation.file_names(stems, archive), *sheets]
        self._claim(names)
        former = self.kept.get(number)
        if former is not None and not former.get("dropped"):
            self.same_names = self.same_names and Kept.read(former).stems == stems
            self._drop(number)
        drawn = batch.files if job.original else None
        written = explanation.save(job.out, stems, name=archive, pictures=drawn)
        for i, name in enumerate(sheets):
            with whole_file(job.out / name) as file:
                explanation.sheet(i).save(file, format="PNG")
        self.folder.finish(
            {
                "batch": number,
                "texts": texts,
                "stems": stems,
                "files": names,
                "seen": batch.seen,
                "skipped": batch.skipped,
            }
        )
        _print_results(
            self.results, batch.files, explanation, written, job.engine.interface.recognised is not None
        )
        self.count += len(batch.files)
        self.seconds, self.spent = self.seconds + explanation.seconds, self.spent + passes
        return True

    def _claim(self, names: Sequence[str]) -> None:
        """Notes files that will be written; none of them may be one that this run has written."""
        if twice := next((name for name in names if name in self.written), None):
            raise StorageError(f"{self.job.out / twice} was written before in this run, and is not replaced")
        self.folder.claim(names)
        self.written.update(names)

    def _drop(self, number: int) -> None:
        """Removes what an earlier run wrote of a batch that is another one now."""
        kept = Kept.read(self.kept[number])
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
            each = f", {1000 * self.seconds / count:.1f} ms a picture" if count else ""
            self.results.print(
                f"{shown}: {count} picture{'s' * (count != 1)}{others}{each}, passes: {self.spent}",
                markup=False,
                soft_wrap=True,
            )
            self.results.print(f"files in {plain(str(job.out))}", markup=False, soft_wrap=True)


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
