"""The lines that `camrt explain` prints of its images where there is no terminal."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.text import Text

from camrt.cli.output import strip_control
from camrt.engine.explanation import FLAG_NAMES, Explanation

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["SATURATED_NOTE", "is_saturated", "name_score", "print_results"]

SATURATED_NOTE = (
    "the probability is 1 whatever is altered: -O score=logit explains the number itself; "
    "if it is no logit, --activation none"
)


def _describe_answer(
    explanation: Explanation, i: int, target: int, told: bool
) -> Iterator[str | tuple[str, str]]:
    """What the model says of a class: a probability where it has one, and its number where it gives that."""
    value = f"{explanation.logits[i, target]:.4g}"
    chance = float(explanation.probabilities[i, target])
    if chance != chance:
        yield from ("value ", (value, "green"))
        return
    yield from ("probability ", (f"{chance:.3f}", "green"))
    if not told:
        yield f" of logit {value}"


def name_score(explanation: Explanation, i: int, target: int, score: float) -> str:
    """What a score is that the model's answer has too."""
    for name, answers in (("probability", explanation.probabilities), ("logit", explanation.logits)):
        if math.isclose(score, answers[i, target], rel_tol=1e-5):
            return f" (the {name} is explained)"
    return ""


def is_saturated(explanation: Explanation, i: int, target: int, score: float, told: bool) -> bool:
    """Whether a probability is explained that is 1, of a model that does not say that it is one."""
    return not told and score == float(explanation.probabilities[i, target]) == 1.0


def print_results(
    console: Console,
    files: Sequence[str],
    explanation: Explanation,
    written: Sequence[Path | None],
    told: bool,
) -> None:
    """Prints a line an image and target.

    Args:
        console: Where.
        files: The images' addresses.
        explanation: Of them.
        written: Their overlays, one a target, None where one was not drawn; empty where there are none.
        told: Whether the file says how its numbers become probabilities.
    """
    each = explanation.targets_per_image
    for i, file in enumerate(files):
        for t in range(each):
            at = (i, t) if explanation.targets.ndim == 2 else (i,)
            target = int(explanation.targets[at])
            label = explanation.label(i, t) if explanation.labels else ""
            line = Text.assemble(
                (strip_control(file), "bold"),
                f": class {target}{f' ({strip_control(label)})' if label else ''}, ",
                *_describe_answer(explanation, i, target, told),
                f", score {explanation.scores[at]:.4g}",
                name_score(explanation, i, target, float(explanation.scores[at])),
            )
            flag = int(explanation.flags[at])
            if flag:
                line.append(f", no map: {FLAG_NAMES[flag]}", "yellow")
            if is_saturated(explanation, i, target, float(explanation.scores[at]), told):
                line.append(f", {SATURATED_NOTE}", "yellow")
            overlay = written[i * each + t] if written else None
            if overlay is not None:
                line.append(f", {strip_control(str(overlay))}")
            console.print(line, soft_wrap=True)
