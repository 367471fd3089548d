"""The ends of files: some operators behind a head of the zoo, each with its own definition in float64 NumPy.

ending = PLAIN["percents"]
model, whole = built(ending)                        # the file, and the classifier without the ending
ending.probabilities64(whole.logits64(pictures))    # what probabilities should be
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnxruntime as ort
from onnx import helper, numpy_helper
from zoo import HEADS, classifier, sigmoid, softmax, with_ending

SHAPE = (6, 4, 3)
# A convolution, a pool, a linear layer and an ending of a few operators.
WHOLE_MODEL = 16.0

Numbers = Callable[[Any], Any]
Step = tuple[str, str, str, dict[str, Any]]


@dataclass(frozen=True)
class Ending:
    """The end of a file, from "logits" to "scores", and what it computes.

    Attributes:
        steps: Its nodes: operator, what it reads, what it makes, attributes.
        probabilities64: From the head's numbers z (N, F) to probabilities (N, C).
        logits64: Likewise to the logits that camrt should find.
        constants: What else the nodes read.
        features: F.
        shape: Declared shape of the answer.
        opset: Operator set.
        factor: How many times a probability the file's answer is.
    """

    steps: Sequence[Step]
    probabilities64: Numbers
    logits64: Numbers
    constants: dict[str, Any] = field(default_factory=dict)
    features: int = 4
    shape: Sequence[int | str] = ("N", 4)
    opset: int = 17
    factor: float = 1.0
    activation: str = "softmax"


def step(operator: str, source: str, made: str = "scores", **attributes: Any) -> Step:
    return operator, source, made, attributes


def same(z: Any) -> Any:
    return z


def odds(p: Any) -> Any:
    return np.log(p) - np.log1p(-p)


def mean_of_two(z: Any) -> Any:
    return (softmax(z) + softmax(-2 * z)) / 2


def pairs(z: Any) -> Any:
    return softmax(z.reshape(-1, 4, 2))[:, :, 1]


def hard(z: Any) -> Any:
    return np.clip(0.1 * z + 0.5, 0, 1)


def one_and_the_rest(z: Any) -> Any:
    return np.concatenate([1 - sigmoid(z), sigmoid(z)], axis=1)


def squares(z: Any) -> Any:
    return z**2 / (z**2).sum(axis=1, keepdims=True)


CUBE = {"cube": np.array([0, 1, 1, 4])}
OPEN_CUBE = {"cube": np.array([-1, 1, 1, 4]), "inner": np.array([1, 2])}

PLAIN = {
    "clipped-softmax": Ending(
        [step("Softmax", "logits", "p"), step("Clip", "p low high")],
        softmax,
        same,
        {"low": np.float32(1e-7), "high": np.float32(1 - 1e-7)},
    ),
    "floored-softmax": Ending(
        [step("Softmax", "logits", "p"), step("Max", "p low")], softmax, same, {"low": np.float32(1e-7)}
    ),
    "exp-of-log-softmax": Ending([step("LogSoftmax", "logits", "l"), step("Exp", "l")], softmax, same),
    "exponentials-over-their-sum": Ending(
        [
            step("Exp", "logits", "e"),
            step("ReduceSum", "e axes", "s", keepdims=1),
            step("Div", "e s"),
        ],
        softmax,
        same,
        {"axes": np.array([1])},
    ),
    "exponentials-over-their-sum-opset-11": Ending(
        [
            step("ReduceMax", "logits", "m", axes=[-1]),
            step("Sub", "logits m", "d"),
            step("Exp", "d", "e"),
            step("ReduceSum", "e", "s", axes=[1]),
            step("Div", "e s"),
        ],
        softmax,
        same,
        opset=11,
    ),
    "one-cell-channels-last": Ending(
        [
            step("Reshape", "logits cube", "r"),
            step("Softmax", "r", "p", axis=3),
            step("Squeeze", "p inner"),
        ],
        softmax,
        same,
        OPEN_CUBE,
    ),
    "one-cell-channels-last-stays": Ending(
        [step("Reshape", "logits cube", "r"), step("Softmax", "r", axis=-1)],
        softmax,
        same,
        CUBE,
        shape=("N", 1, 1, 4),
    ),
    "one-in-front": Ending(
        [step("Softmax", "logits", "p"), step("Unsqueeze", "p front")],
        softmax,
        same,
        {"front": np.array([0])},
        shape=(1, "N", 4),
    ),
    "percents": Ending(
        [step("Softmax", "logits", "p"), step("Mul", "p many")],
        softmax,
        same,
        {"many": np.float32(100)},
        factor=100.0,
    ),
    "percents-of-sigmoids": Ending(
        [step("Sigmoid", "logits", "p"), step("Div", "p few")],
        sigmoid,
        same,
        {"few": np.array([[0.01]], np.float32)},
        factor=100.0,
        activation="sigmoid",
    ),
    "one-sigmoid-a-picture": Ending(
        [step("Sigmoid", "logits", "p"), step("Squeeze", "p last")],
        sigmoid,
        same,
        {"last": np.array([1])},
        features=1,
        shape=("N",),
        activation="sigmoid",
    ),
}

BY_NUMBERS = {
    "mean-of-two-softmaxes": Ending(
        [
            step("Softmax", "logits", "p"),
            step("Mul", "logits minus", "n"),
            step("Softmax", "n", "q"),
            step("Add", "p q", "s"),
            step("Mul", "s half"),
        ],
        mean_of_two,
        lambda z: np.log(mean_of_two(z)),
        {"minus": np.float32(-2), "half": np.float32(0.5)},
    ),
    "mean-operator": Ending(
        [
            step("Softmax", "logits", "p"),
            step("Mul", "logits minus", "n"),
            step("Softmax", "n", "q"),
            step("Mean", "p q"),
        ],
        mean_of_two,
        lambda z: np.log(mean_of_two(z)),
        {"minus": np.float32(-2)},
    ),
    "one-of-each-pair": Ending(
        [
            step("Reshape", "logits cube", "r"),
            step("Softmax", "r", "p", axis=2),
            step("Gather", "p one", axis=2),
        ],
        pairs,
        lambda z: odds(pairs(z)),
        {"cube": np.array([0, 4, 2]), "one": np.array(1)},
        features=8,
        activation="sigmoid",
    ),
    "hard-sigmoid": Ending(
        [step("HardSigmoid", "logits", alpha=0.1)],
        hard,
        lambda z: odds(hard(z)),
        activation="sigmoid",
    ),
    "sigmoid-written-out": Ending(
        [
            step("Neg", "logits", "n"),
            step("Exp", "n", "e"),
            step("Add", "e one", "d"),
            step("Reciprocal", "d"),
        ],
        sigmoid,
        same,
        {"one": np.float32(1)},
        activation="sigmoid",
    ),
    "one-and-the-rest": Ending(
        [
            step("Sigmoid", "logits", "p"),
            step("Sub", "one p", "q"),
            step("Concat", "q p", axis=1),
        ],
        one_and_the_rest,
        lambda z: np.log(one_and_the_rest(z)),
        {"one": np.float32(1)},
        features=1,
        shape=("N", 2),
    ),
    "squares-over-their-sum": Ending(
        [
            step("Mul", "logits logits", "e"),
            step("ReduceSum", "e axes", "s", keepdims=1),
            step("Div", "e s"),
        ],
        squares,
        lambda z: np.log(squares(z)),
        {"axes": np.array([1])},
    ),
    "classes-added-up": Ending(
        [step("Softmax", "logits", "p"), step("MatMul", "p groups")],
        lambda z: softmax(z) @ np.array([[1, 0], [1, 0], [0, 1], [0, 1]]),
        lambda z: np.log(softmax(z) @ np.array([[1, 0], [1, 0], [0, 1], [0, 1]])),
        {"groups": np.array([[1, 0], [1, 0], [0, 1], [0, 1]], np.float32)},
        shape=("N", 2),
    ),
    "softmax-between-bounds-that-matter": Ending(
        [step("Softmax", "logits", "p"), step("Clip", "p low high")],
        lambda z: np.clip(softmax(z), 0.2, 0.8),
        lambda z: odds(np.clip(softmax(z), 0.2, 0.8)),
        {"low": np.float32(0.2), "high": np.float32(0.8)},
        activation="sigmoid",
    ),
}


def zoo_model(features: int = 4, **options: Any) -> Any:
    rng = np.random.default_rng(3)
    return classifier(HEADS["gap-flatten-gemm"].make(rng, *SHAPE, features), rng, **options)


def built(ending: Ending, **options: Any) -> Any:
    """The file of an ending, and the classifier before it."""
    whole = zoo_model(ending.features, opset=ending.opset, **options)
    nodes = [
        helper.make_node(operator, source.split(), [made], **attributes)
        for operator, source, made, attributes in ending.steps
    ]
    model = with_ending(whole.model, nodes, list(ending.shape))
    for name, value in ending.constants.items():
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
    return model, whole


def pictures(whole: Any, count: int = 3) -> Any:
    return np.random.default_rng(4).standard_normal((count, *whole.size), np.float32)


def answers(path: Any, batch: Any, name: str = "scores", **options: Any) -> Any:
    """What plain onnxruntime gives, (N, C)."""
    settings = ort.SessionOptions()
    settings.log_severity_level = 3
    for option, value in options.items():
        setattr(settings, option, value)
    session = ort.InferenceSession(path, settings, providers=["CPUExecutionProvider"])
    return session.run([name], {session.get_inputs()[0].name: batch})[0].reshape(len(batch), -1)
