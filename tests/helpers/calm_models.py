"""A small CALM classifier as an ONNX file, written by hand, and its numbers in float64."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
from onnx import TensorProto, helper, numpy_helper

from helpers.oracles import calm as oracle

__all__ = ["CalmModel", "calm_model"]

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class CalmModel:
    """Weights: one strided convolution and a ReLU, then both 1×1 convolutions of the head."""

    trunk: Array
    classes: Array
    class_bias: Array
    attention: Array
    attention_bias: Array

    def activation(self, images: Array) -> Array:
        """ReLU of a 2×2 convolution that moves by two, in float64."""
        n, _, height, width = images.shape
        wide = images.astype(np.float64)
        cells = wide.reshape(n, 3, height // 2, 2, width // 2, 2).transpose(0, 2, 4, 1, 3, 5)
        flat = cells.reshape(n, height // 2, width // 2, 12)
        return np.maximum(flat @ self.trunk.reshape(len(self.trunk), 12).T.astype(np.float64), 0).transpose(
            0, 3, 1, 2
        )

    def joint_of(self, activation: Array) -> Array:
        """p(y,z|x), (N, C, h, w), of an activation (N, K, h, w)."""
        f = np.einsum("ck,nkhw->nchw", self.classes, activation) + self.class_bias[:, None, None]
        u = np.einsum("ck,nkhw->nchw", self.attention, activation) + self.attention_bias[:, None, None]
        return oracle.joint(f, u)

    def joint(self, images: Array) -> Array:
        """p(y,z|x), (N, C, h, w), of images (N, 3, H, W)."""
        return self.joint_of(self.activation(images))

    def save(
        self,
        path: Path,
        *,
        metadata: dict[str, str] | None = None,
        scale: float = 1.0,
        side: int | None = None,
    ) -> Path:
        """Writes the file, for images of any size or of one `side`; a `scale` makes its p(y|x) wrong."""
        weights = {
            "trunk": self.trunk,
            "classes": self.classes[:, :, None, None],
            "class_bias": self.class_bias,
            "attention": self.attention[:, :, None, None],
            "attention_bias": self.attention_bias,
        }
        constants = [
            numpy_helper.from_array(value.astype(np.float32), name) for name, value in weights.items()
        ]
        constants.append(numpy_helper.from_array(np.array([2, 3], np.int64), "places"))
        constants.append(numpy_helper.from_array(np.array(np.log(scale), np.float32), "shift"))
        nodes = [
            helper.make_node("Conv", ["input", "trunk"], ["convolved"], strides=[2, 2]),
            helper.make_node("Relu", ["convolved"], ["A"]),
            helper.make_node("Conv", ["A", "classes", "class_bias"], ["f"]),
            helper.make_node("LogSoftmax", ["f"], ["log_g"], axis=1),
            helper.make_node("Conv", ["A", "attention", "attention_bias"], ["u"]),
            helper.make_node("Softplus", ["u"], ["a"]),
            helper.make_node("Log", ["a"], ["log_a"]),
            helper.make_node("ReduceLogSumExp", ["log_a", "places"], ["log_sum"], keepdims=1),
            helper.make_node("Sub", ["log_a", "log_sum"], ["log_h"]),
            helper.make_node("Add", ["log_g", "log_h"], ["unshifted"]),
            helper.make_node("Add", ["unshifted", "shift"], ["log_joint"]),
            helper.make_node("Exp", ["log_h"], ["place_probabilities"]),
            helper.make_node("ReduceLogSumExp", ["log_joint", "places"], ["log_p"], keepdims=0),
            helper.make_node("Exp", ["log_p"], ["probabilities"]),
        ]
        names = ("probabilities", "log_joint", "place_probabilities")
        graph = helper.make_graph(
            nodes,
            "calm",
            [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["N", 3, side or "H", side or "W"])],
            [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in names],
            constants,
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
        said = {"camrt.head": json.dumps({"kind": "calm", **{name: name for name in names}})}
        helper.set_model_props(model, said if metadata is None else metadata)
        onnx.save(model, path)
        return path


def calm_model(classes: int = 4, channels: int = 5, seed: int = 0) -> CalmModel:
    """Random weights."""
    rng = np.random.default_rng(seed)

    def drawn(*shape: int, scale: float = 1.0) -> Array:
        return (scale * rng.standard_normal(shape)).astype(np.float32)

    return CalmModel(
        drawn(channels, 3, 2, 2, scale=0.5),
        drawn(classes, channels),
        drawn(classes),
        drawn(1, channels),
        drawn(1),
    )
