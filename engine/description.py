"""`engine.describe()`: what was found in a file, and what each method costs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from onnx import TensorProto

from camrt.engine.methods import Cost, Method, single_methods
from camrt.engine.queries import NO_JOINT, Need
from camrt.errors import MethodError
from camrt.export.heads.cut import TargetTensor
from camrt.export.rewrites.interface import Interface

if TYPE_CHECKING:
    from camrt.engine.engine import Engine

__all__ = ["admits", "describe_engine"]


def describe_engine(engine: Engine, costs: bool = True) -> str:
    """A plain-text description of an engine, with what each method costs if that is asked for."""
    interface = engine.interface
    size = f"{interface.height or 'H'}×{interface.width or 'W'}"
    batch = "any" if interface.batch is None else f"fixed at {interface.batch}; batches are cut and padded"
    steps = engine.preprocessing
    known = "not known: preprocessing= says it"
    if steps is not None:
        known = f"known: {steps.resize} to {steps.size[0]}×{steps.size[1]}, numbers from " + " to ".join(
            f"{level:.4g}" for level in steps.levels
        )
    sides = (interface.height, interface.width) if interface.height and interface.width else None
    front = engine.front.describe(sides)
    kind = TensorProto.DataType.Name(interface.element).lower()
    held = "" if interface.element == TensorProto.FLOAT else f", of type {kind}"
    place = "file" if engine.sha256 else "module"
    classes = f"{interface.num_classes} class{'es' * (interface.num_classes != 1)}"
    lines = [
        f"{engine.path.name}",
        f"  input   (N, {interface.channels}, {size}), {interface.layout} in the {place}{held}; "
        f"batch size {batch}",
        *([f"  front   the file itself: {front}"] if front else []),
        f"  output  {classes}, {describe_output(interface)}",
        f"  runtime {engine.runtime}, on {engine.device}",
        f"  image preprocessing {known}",
        *(
            f"  {role:<7} {line}"
            for cut in engine.cuts
            for role, line in (("target", describe_target(cut.target)), ("head", cut.head.describe()))
        ),
        f"  checked {describe_verification(engine)}",
        *(f"  note    {note}" for note in engine.notes),
    ]
    return "\n".join([*lines, "", *describe_costs(engine)] if costs else lines)


def describe_costs(engine: Engine) -> list[str]:
    """The passes of every method on an engine, a line each."""
    lines = [
        "  passes an image beside one through the trunk, at most; there and back (for gradients) a target",
        f"  {'method':<20}{'head':>6}{'full':>6}{'head and back':>15}{'full and back':>15}",
    ]
    for name, method in single_methods().items():
        counts, why = cost_row(method, engine)
        widths = zip(counts, (6, 6, 15, 15), strict=True)
        lines.append(f"  {name:<20}{''.join(f'{count:>{width}}' for count, width in widths)}  {why}")
    lines.append("  guided-NAME takes the passes of guided and of NAME; finer-NAME those of NAME")
    return lines


def describe_output(interface: Interface) -> str:
    """How the answers of the model became logits, and how those become probabilities."""
    if interface.activation == "none":
        return "plain numbers, as the model gives them; no probabilities"
    if interface.joint is not None:
        ending = "CALM: p(y,z|x) of every class and cell; logits are log p(y|x), and scores p(y|x)"
    elif interface.reading != "as it is":
        logits = "log p" if interface.reading == "log" else "log(p/(1−p))"
        ending = f"ends in probabilities p ({interface.recognised}); logits are {logits}"
    elif interface.recognised is not None:
        ending = f"ends in {interface.recognised}, taken off to reach the logits"
    else:
        ending = "ends in logits"
    return f"{ending}; probabilities by {interface.activation}"


def describe_verification(engine: Engine) -> str:
    """What was compared with the model's own answers, in a line."""
    if not engine.verification:
        return "nothing: the engine's answers were not compared with the model's"
    questions = ", ".join(dict.fromkeys(one.question for one in engine.verification if one.refused is None))
    largest = max(one.error for one in engine.verification)
    return f"on noise: {questions}; largest error {largest:.1g} of the largest change"


def describe_target(target: TargetTensor) -> str:
    """A target in a line."""
    return f"{target.name!r} ({target.operator}), K×h×w = {'×'.join(map(str, target.shape))}"


def cost_row(method: type[Method], engine: Engine) -> tuple[tuple[str, ...], str]:
    """What a method costs on an engine's head, and why; dashes where the head does not admit it."""
    try:
        cost = method_cost(method, engine)
    except MethodError as error:
        return ("-",) * 4, str(error)
    return tuple(map(str, (cost.head, cost.full, cost.head_adjoint, cost.full_adjoint))), cost.why


def method_cost(method: type[Method], engine: Engine) -> Cost:
    """What a method costs on an engine's head.

    Raises:
        MethodError: The head does not admit it.
    """
    if Need.JOINT in method.needs and not engine.has_joint:
        raise MethodError(NO_JOINT)
    if Need.ATTENTION in method.needs:
        engine.check_attention()
    return method().cost_of_all(engine.head, engine.map_shape)


def admits(engine: Engine, method: type[Method]) -> bool:
    """Whether an engine's head admits a method with its usual options."""
    try:
        method_cost(method, engine)
    except MethodError:
        return False
    return True
