"""What an engine answers on a file, compared with what plain onnxruntime answers on it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import helper

from camrt.engine.engine import Engine
from camrt.errors import CamrtError

__all__ = ["Wrong", "apart", "compare", "same"]

Array = np.ndarray[Any, Any]
CLOSE = 2e-3
"""Of the largest number of an answer: orders of sums in float32, and files of doubles and of float16."""


class Wrong(Exception):  # noqa: N818  # no error of a program
    """An answer that is not the right one."""


def same(found: Array, expected: Array) -> bool:
    """Whether two answers agree; what is not finite must be the same."""
    if found.shape != expected.shape:
        return False
    known = np.isfinite(expected)
    if not np.array_equal(known, np.isfinite(found)):
        return False
    if not known.any():
        return True
    close = CLOSE * max(float(np.abs(expected[known]).max()), 1e-3)
    return bool((np.abs(found[known] - expected[known]) <= close).all())


def proportional(probabilities: Array, output: Array) -> bool:
    """Whether an output is so many times a probability, as percents are."""
    known = np.isfinite(probabilities) & np.isfinite(output)
    total = probabilities[known].sum()
    if not total > 0:
        return same(probabilities, output)
    factor = output[known].sum() / total
    return bool(factor > 0 and same(factor * probabilities, output))


def apart(found: Array, expected: Array) -> str:
    """How far two answers are from each other, in words."""
    if found.shape != expected.shape:
        return f"shape: {found.shape} and {expected.shape}"
    return f"{np.abs(found - expected).max():g}, of numbers up to {np.abs(expected).max():g}"


def compare(path: Path, engine: Engine, images: Array, logits: Array) -> None:
    """Raises `Wrong` where no output of the file, as plain onnxruntime runs it, is what the engine answered.

    That is logits, probabilities, their logarithms, or as many times a probability. Files that onnxruntime
    does not load or run, outputs that are no score of each class (TopK's) or a tensor of the file itself, and
    images whose probabilities are undefined, behind infinite logits, are left alone.
    """
    known = np.isfinite(logits).all(axis=1)
    if not known.any():
        return
    form = engine.interface
    batch = images if form.layout == "NCHW" else images.transpose(0, 2, 3, 1)
    batch = batch.astype(helper.tensor_dtype_to_np_dtype(form.element))
    with np.errstate(all="ignore"):
        full = readings(engine, logits)
        told = [reading[known] for reading in full]
        if b"TopK" in path.read_bytes():  # the file may give every class in order
            told += [-np.sort(-answer) for answer in told]
        nearest = ""
        for single in (False, True):
            for optimised in (True, False):
                outputs = plain_answers(path, batch, form.batch, optimised=optimised, single=single)
                for output in outputs or ():
                    if output.dtype.kind not in "fiu" or output.size != logits.size:
                        continue
                    shaped = output.astype(np.float64).reshape(logits.shape)
                    if form.recognised is not None:  # an ending written out may leave its type's range
                        shaped = np.where(np.isfinite(shaped), shaped, full[1])
                    shaped = shaped[known]
                    if any(same(answer, shaped) for answer in told) or proportional(told[1], shaped):
                        return
                    nearest = nearest or apart(told[0], shaped)
        if nearest:
            raise Wrong(f"the file's own answers differ: {nearest}")


def readings(engine: Engine, logits: Array) -> list[Array]:
    """Logits, the probabilities that they are, and their logarithms, in float64."""
    wide = logits.astype(np.float64)
    if engine.interface.activation == "none":
        return [wide, wide]
    try:
        found = np.asarray(engine.probabilities(logits), np.float64)
    except CamrtError as error:
        raise Wrong(f"probabilities are refused behind an answer: {error}") from None
    return [wide, found, np.log(found)]


def plain_answers(
    path: Path, batch: Array, fixed: int | None, *, optimised: bool, single: bool
) -> list[Array] | None:
    """What plain onnxruntime answers, one image at a time where `single`; None where it fails."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1
    if not optimised:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        name = session.get_inputs()[0].name
        computed = computed_outputs(path)
        if single and fixed is None:
            parts = [session.run(computed, {name: batch[i : i + 1]}) for i in range(len(batch))]
            return [np.concatenate(outputs) for outputs in zip(*parts, strict=True)]
        return list(session.run(computed, {name: filled(batch, fixed)}))
    except Exception:  # whatever it is, it is not camrt's
        return None


def computed_outputs(path: Path) -> list[str]:
    """Names of a file's outputs that a node computes."""
    graph = onnx.load(path, load_external_data=False).graph
    computed = {name for node in graph.node for name in node.output}
    return [output.name for output in graph.output if output.name in computed]


def filled(batch: Array, fixed: int | None) -> Array:
    """A batch of as many images as a file wants."""
    return batch if fixed is None else np.resize(batch, (fixed, *batch.shape[1:]))
