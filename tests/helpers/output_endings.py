"""Models whose logits pass through further operators (softmax, scaling, ...), each defined in float64 NumPy.

ending = PLAIN["percents"]
model, whole = built(ending)                        # the file, and the classifier without the ending
ending.probabilities64(whole.logits64(images))    # what probabilities should be
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnxruntime as ort
from onnx import helper, numpy_helper

from helpers.zoo import HEADS, classifier, sigmoid, softmax, with_ending

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


def make_step(operator: str, source: str, made: str = "scores", **attributes: Any) -> Step:
    return operator, source, made, attributes


def identity(z: Any) -> Any:
    return z


def log_odds(p: Any) -> Any:
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
        [make_step("Softmax", "logits", "p"), make_step("Clip", "p low high")],
        softmax,
        identity,
        {"low": np.float32(1e-7), "high": np.float32(1 - 1e-7)},
    ),
    "floored-softmax": Ending(
        [make_step("Softmax", "logits", "p"), make_step("Max", "p low")],
        softmax,
        identity,
        {"low": np.float32(1e-7)},
    ),
    "exp-of-log-softmax": Ending(
        [make_step("LogSoftmax", "logits", "l"), make_step("Exp", "l")], softmax, identity
    ),
    "exponentials-over-their-sum": Ending(
        [
            make_step("Exp", "logits", "e"),
            make_step("ReduceSum", "e axes", "s", keepdims=1),
            make_step("Div", "e s"),
        ],
        softmax,
        identity,
        {"axes": np.array([1])},
    ),
    "exponentials-over-their-sum-opset-11": Ending(
        [
            make_step("ReduceMax", "logits", "m", axes=[-1]),
            make_step("Sub", "logits m", "d"),
            make_step("Exp", "d", "e"),
            make_step("ReduceSum", "e", "s", axes=[1]),
            make_step("Div", "e s"),
        ],
        softmax,
        identity,
        opset=11,
    ),
    "one-cell-channels-last": Ending(
        [
            make_step("Reshape", "logits cube", "r"),
            make_step("Softmax", "r", "p", axis=3),
            make_step("Squeeze", "p inner"),
        ],
        softmax,
        identity,
        OPEN_CUBE,
    ),
    "one-cell-channels-last-stays": Ending(
        [make_step("Reshape", "logits cube", "r"), make_step("Softmax", "r", axis=-1)],
        softmax,
        identity,
        CUBE,
        shape=("N", 1, 1, 4),
    ),
    "one-in-front": Ending(
        [make_step("Softmax", "logits", "p"), make_step("Unsqueeze", "p front")],
        softmax,
        identity,
        {"front": np.array([0])},
        shape=(1, "N", 4),
    ),
    "percents": Ending(
        [make_step("Softmax", "logits", "p"), make_step("Mul", "p many")],
        softmax,
        identity,
        {"many": np.float32(100)},
        factor=100.0,
    ),
    "percents-of-sigmoids": Ending(
        [make_step("Sigmoid", "logits", "p"), make_step("Div", "p few")],
        sigmoid,
        identity,
        {"few": np.array([[0.01]], np.float32)},
        factor=100.0,
        activation="sigmoid",
    ),
    "one-sigmoid-a-image": Ending(
        [make_step("Sigmoid", "logits", "p"), make_step("Squeeze", "p last")],
        sigmoid,
        identity,
        {"last": np.array([1])},
        features=1,
        shape=("N",),
        activation="sigmoid",
    ),
}

BY_NUMBERS = {
    "mean-of-two-softmaxes": Ending(
        [
            make_step("Softmax", "logits", "p"),
            make_step("Mul", "logits minus", "n"),
            make_step("Softmax", "n", "q"),
            make_step("Add", "p q", "s"),
            make_step("Mul", "s half"),
        ],
        mean_of_two,
        lambda z: np.log(mean_of_two(z)),
        {"minus": np.float32(-2), "half": np.float32(0.5)},
    ),
    "mean-operator": Ending(
        [
            make_step("Softmax", "logits", "p"),
            make_step("Mul", "logits minus", "n"),
            make_step("Softmax", "n", "q"),
            make_step("Mean", "p q"),
        ],
        mean_of_two,
        lambda z: np.log(mean_of_two(z)),
        {"minus": np.float32(-2)},
    ),
    "one-of-each-pair": Ending(
        [
            make_step("Reshape", "logits cube", "r"),
            make_step("Softmax", "r", "p", axis=2),
            make_step("Gather", "p one", axis=2),
        ],
        pairs,
        lambda z: log_odds(pairs(z)),
        {"cube": np.array([0, 4, 2]), "one": np.array(1)},
        features=8,
        activation="sigmoid",
    ),
    "hard-sigmoid": Ending(
        [make_step("HardSigmoid", "logits", alpha=0.1)],
        hard,
        lambda z: log_odds(hard(z)),
        activation="sigmoid",
    ),
    "sigmoid-written-out": Ending(
        [
            make_step("Neg", "logits", "n"),
            make_step("Exp", "n", "e"),
            make_step("Add", "e one", "d"),
            make_step("Reciprocal", "d"),
        ],
        sigmoid,
        identity,
        {"one": np.float32(1)},
        activation="sigmoid",
    ),
    "one-and-the-rest": Ending(
        [
            make_step("Sigmoid", "logits", "p"),
            make_step("Sub", "one p", "q"),
            make_step("Concat", "q p", axis=1),
        ],
        one_and_the_rest,
        lambda z: np.log(one_and_the_rest(z)),
        {"one": np.float32(1)},
        features=1,
        shape=("N", 2),
    ),
    "squares-over-their-sum": Ending(
        [
            make_step("Mul", "logits logits", "e"),
            make_step("ReduceSum", "e axes", "s", keepdims=1),
            make_step("Div", "e s"),
        ],
        squares,
        lambda z: np.log(squares(z)),
        {"axes": np.array([1])},
    ),
    "classes-added-up": Ending(
        [make_step("Softmax", "logits", "p"), make_step("MatMul", "p groups")],
        lambda z: softmax(z) @ np.array([[1, 0], [1, 0], [0, 1], [0, 1]]),
        lambda z: np.log(softmax(z) @ np.array([[1, 0], [1, 0], [0, 1], [0, 1]])),
        {"groups": np.array([[1, 0], [1, 0], [0, 1], [0, 1]], np.float32)},
        shape=("N", 2),
    ),
    "softmax-between-bounds-that-matter": Ending(
        [make_step("Softmax", "logits", "p"), make_step("Clip", "p low high")],
        lambda z: np.clip(softmax(z), 0.2, 0.8),
        lambda z: log_odds(np.clip(softmax(z), 0.2, 0.8)),
        {"low": np.float32(0.2), "high": np.float32(0.8)},
        activation="sigmoid",
    ),
}


def zoo_model(features: int = 4, **options: Any) -> Any:
    rng = np.random.default_rng(3)
    return classifier(HEADS["gap-flatten-gemm"].make(rng, *SHAPE, features), rng, **options)


def build_model(ending: Ending, **options: Any) -> Any:
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


def random_images(whole: Any, count: int = 3) -> Any:
    return np.random.default_rng(4).standard_normal((count, *whole.size), np.float32)


def run_onnxruntime(path: Any, batch: Any, name: str = "scores", **options: Any) -> Any:
    """What plain onnxruntime gives, (N, C)."""
    settings = ort.SessionOptions()
    settings.log_severity_level = 3
    for option, value in options.items():
        setattr(settings, option, value)
    session = ort.InferenceSession(path, settings, providers=["CPUExecutionProvider"])
    return session.run([name], {session.get_inputs()[0].name: batch})[0].reshape(len(batch), -1)
