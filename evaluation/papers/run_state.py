"""What all tables share: the model, its images, runs of the suite, and adversarial images."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

import camrt
from camrt.engine.images.preprocess import Preprocessing
from camrt.engine.methods import Method
from camrt.engine.run_folder import RunFolder
from camrt.errors import AdjointError, DataError, DegenerateMapWarning, ImageError, InputError, MethodError
from camrt.evaluation.datasets import Dataset, read_dataset
from camrt.evaluation.papers.options import Options
from camrt.evaluation.suite import Evaluation, Settings, evaluate
from camrt.evaluation.suite.prepared_sample import prepare_sample
from camrt.evaluation.suite.runner import draw_samples
from camrt.export.io.atomic_files import remove_drafts

if TYPE_CHECKING:
    from camrt.engine.engine import Engine
    from camrt.evaluation.adversarial_patches.examples import AdversarialExamples

__all__ = ["NO_DATA", "ReproductionRun", "as_squashed"]

NO_DATA = "it needs images: give a folder (--data)"


@dataclass
class ReproductionRun:
    """A model, images, and what was made of them so far; tables of one run share it.

    Attributes:
        engine: The model, with its preprocessing.
        data: Folder of images; None where there is none.
        options: How.
        out: Folder for results, a folder in it for each table; None keeps all in memory.
        progress: Called with what is being done, how much of it is, and how much there is (0 if unknown).
        examples: Adversarial images made so far, by kind.
        findings: What was measured on them, by task and method.
        unreadable: Images that were drawn for them and cannot be read.
        folder: That of the table that is being measured, with notes of what is written there; None without
            `out`.
    """

    engine: Engine
    data: Path | None
    options: Options
    out: Path | None
    progress: Callable[[str, float, int], None] = lambda what, done, total: None
    examples: dict[str, AdversarialExamples] = field(default_factory=dict)
    findings: dict[tuple[str, str], Any] = field(default_factory=dict)
    unreadable: list[str] = field(default_factory=list)
    folder: RunFolder | None = None

    @property
    def preprocessing(self) -> Preprocessing:
        """The model's.

        Raises:
            InputError: It is not known.
        """
        if self.engine.preprocessing is None:
            raise InputError(
                "the model's preprocessing is not known: load it with camrt.load(preprocessing=...)"
            )
        return self.engine.preprocessing

    @cached_property
    def dataset(self) -> Dataset:
        """The images with their annotations.

        Raises:
            DataError: No folder was given, or no image can be read.
        """
        if self.data is None:
            raise DataError(NO_DATA)
        found = read_dataset(
            self.data,
            annotations=self.options.annotations,
            labels=self.engine.labels,
            num_classes=self.engine.num_classes,
        )
        if not found.samples:
            raise DataError(f"{self.data}: no image to measure on")
        return found

    def collect_facts(self) -> dict[str, Any]:
        """Everything that figures depend on."""
        options = {
            name: value for name, value in asdict(self.options).items() if name not in ("resume", "overwrite")
        }
        annotations = self.options.annotations
        return {
            "camrt": camrt.__version__,
            "model": {
                "file": self.engine.path.name,
                "sha256": self.engine.sha256,
                "target": [cut.target.name for cut in self.engine.cuts],
                "classes": self.engine.num_classes,
                "preprocessing": json.loads(self.preprocessing.to_json()),
            },
            "data": None if self.data is None else self.data.resolve().name,
            "options": options | {"annotations": None if annotations is None else annotations.name},
        }

    def check_methods(self, methods: Mapping[str, Method]) -> tuple[dict[str, Method], dict[str, str]]:
        """The methods that this model admits, and why it does not admit the others."""
        steps = self.preprocessing
        shape = (
            1,
            steps.channels,
            self.engine.interface.height or steps.size[0],
            self.engine.interface.width or steps.size[1],
        )
        image = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
        good, refused = {}, {}
        for name, method in methods.items():
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", DegenerateMapWarning)
                    self.engine.explain(image, method)
            except (MethodError, AdjointError) as error:
                refused[name] = str(error)
            else:
                good[name] = method
        return good, refused

    def evaluate_methods(
        self,
        table: str,
        methods: Mapping[str, Method],
        metrics: Sequence[str],
        *,
        data: Dataset | None = None,
        dead: NDArray[np.bool_] | None = None,
        engine: Engine | None = None,
    ) -> Evaluation:
        """The suite's evaluation, kept in `measured` in the table's folder."""
        settings = Settings(
            step=self.options.step, seed=self.options.seed, limit=self.options.limit, examples=0
        )
        return evaluate(
            engine or self.engine,
            data or self.dataset,
            methods,
            metrics,
            settings=settings,
            dead=dead,
            out=None if self.out is None else self.out / table / "measured",
            resume=self.options.resume,
            overwrite=self.options.overwrite,
            progress=lambda done, total: self.progress("measuring images", done, total),
        )

    def read_images(self) -> tuple[NDArray[np.float32], NDArray[np.int64] | None]:
        """At most `count` images as the model takes them, drawn with the seed, and their classes.

        Returns:
            (M, C, H, W), and (M,) if all their classes are known.

        Raises:
            DataError: No folder was given, or no image can be read.
        """
        most = min(self.options.count, self.options.limit or self.options.count)
        samples = draw_samples(self.dataset.samples, Settings(seed=self.options.seed, limit=most))
        ready = []
        for sample in samples:
            try:
                ready.append(prepare_sample(sample, self.preprocessing, masks=False))
            except ImageError:
                self.unreadable.append(sample.name)
        if not ready:
            raise DataError(f"{self.data}: none of {len(samples)} images can be read")
        labels = [item.label for item in ready]
        known = [label for label in labels if label is not None]
        return (
            np.stack([item.pixels for item in ready]),
            np.array(known, np.int64) if len(known) == len(labels) else None,
        )

    def load_or_build_examples(self, kind: str) -> AdversarialExamples:
        """Adversarial images: "ae1" on images, "ae2" on zeros, "ae2-four" on zeros with four patches.

        They are saved in the folder `adversarial`, and taken from there when the model, the images
        and the options are the same.

        Raises:
            CamrtError: They cannot be made.
        """
        from camrt.evaluation.adversarial_patches.builders import AttackOptions, build_ae1, build_ae2
        from camrt.evaluation.adversarial_patches.examples import AdversarialExamples

        if kind in self.examples:
            return self.examples[kind]
        attack = AttackOptions(batch_size=max(1, self.engine.batch_size))
        scenes, labels = self.read_images() if kind == "ae1" else (None, None)
        count, seed = self.options.count, self.options.seed
        identity = hashlib.sha256(
            repr((kind, count, seed, attack, self.engine.sha256, self.preprocessing.to_json())).encode()
        )
        if scenes is not None:
            identity.update(scenes.tobytes() + repr(None if labels is None else labels.tolist()).encode())
        name = f"{kind}-{count}-{identity.hexdigest()[:16]}.npz"
        path = None if self.out is None else self.out / "adversarial" / name
        if path is not None and path.parent.is_dir():
            remove_drafts(path.parent)
        if path is not None and path.exists():
            found = AdversarialExamples.load(path)
        else:
            self.progress(f"attacking {count} images ({kind})", 0, 0)
            if scenes is not None:
                found = build_ae1(self.engine, scenes, count, labels=labels, seed=seed, options=attack)
            else:
                patches = 4 if kind == "ae2-four" else None
                found = build_ae2(self.engine, count, patches=patches, seed=seed, options=attack)
            if path is not None:
                found.save(path)
        if self.options.each_patch:
            found = found.repeat_per_patch(self.engine.probabilities(self.engine.predict(found.images)))
        self.examples[kind] = found
        return found


def as_squashed(preprocessing: Preprocessing) -> Preprocessing:
    """The same numbers on the whole image, proportions ignored."""
    return replace(preprocessing, resize="squash")
