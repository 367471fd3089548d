"""Files with a runtime's own operators, each changed somewhere: read, or refused by camrt's own errors."""

from __future__ import annotations

import random
from contextlib import suppress
from pathlib import Path

import onnx
import pytest
from onnx import helper
from onnxruntime.quantization import QuantType, quantize_dynamic

from camrt.errors import CamrtError
from camrt.export.io.model_file import read_model
from helpers.nchwc_nets import build_network_pair
from helpers.third_party_models import residual_model, save_optimised
from helpers.zoo import save

NUMBERS = (0, -1, 1, 2, 3, 64, 10**9, 2**31, 2**63 - 1, -(2**63))
VALUES = (1, 1.5, "text", [1, 2], [1.5], ["text"])


def fused(folder: Path) -> Path:
    return save_optimised(save(residual_model(), folder / "floats.onnx"), "EXTENDED", folder / "source.onnx")


def blocked(folder: Path) -> Path:
    path = folder / "source.onnx"
    path.write_bytes(build_network_pair(8, 12).models()[1].SerializeToString())
    return path


def dynamic(folder: Path) -> Path:
    quantize_dynamic(
        save(residual_model(), folder / "floats.onnx"), folder / "dynamic.onnx", weight_type=QuantType.QUInt8
    )
    return save_optimised(folder / "dynamic.onnx", "EXTENDED", folder / "source.onnx")


def whole_numbers(folder: Path) -> Path:
    """Every node of a file of floats called as the layer of whole numbers that it could be."""
    model = residual_model()
    names = {"Conv": "QLinearConv", "Add": "QLinearAdd", "Concat": "QLinearConcat", "Gemm": "QGemm"}
    domains = {"QLinearConv": ""}
    for node in model.graph.node:
        if node.op_type in names:
            node.op_type = names[node.op_type]
            node.domain = domains.get(node.op_type, "com.microsoft")
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    path = folder / "source.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def mutate(model: onnx.ModelProto, draw: random.Random) -> None:
    graph = model.graph
    node, tensor = draw.choice(graph.node), draw.choice(graph.initializer)
    kind = draw.randrange(8)
    if kind == 0 and node.attribute:
        item = draw.choice(node.attribute)
        item.i = draw.choice(NUMBERS)
        item.ints[:] = [draw.choice(NUMBERS) for _ in range(draw.randrange(5))]
    elif kind == 1 and node.attribute:
        del node.attribute[draw.randrange(len(node.attribute))]
    elif kind == 2 and node.input:
        names = [*node.input, "", graph.input[0].name, tensor.name]
        node.input[draw.randrange(len(node.input))] = draw.choice(names)
    elif kind == 3 and node.input:
        del node.input[draw.randrange(len(node.input))]
    elif kind == 4:
        tensor.dims[:] = draw.choice([[], [1], [*tensor.dims][::-1], [*tensor.dims, 1], [1, *tensor.dims]])
    elif kind == 5:
        node.op_type = draw.choice(graph.node).op_type
    elif kind == 6:
        node.domain = draw.choice(graph.node).domain
    elif kind == 7 and node.attribute:
        item = draw.choice(node.attribute)
        item.CopyFrom(helper.make_attribute(item.name, draw.choice(VALUES)))


@pytest.mark.parametrize("make", [fused, blocked, dynamic, whole_numbers], ids=lambda make: make.__name__)
def test_a_changed_file_is_read_or_refused(make, tmp_path: Path) -> None:
    source = onnx.load(make(tmp_path))
    draw = random.Random(1)
    path = tmp_path / "changed.onnx"
    for _ in range(60):
        model = onnx.ModelProto()
        model.CopyFrom(source)
        for _ in range(draw.choice((1, 1, 2, 3))):
            mutate(model, draw)
        path.write_bytes(model.SerializeToString())
        with suppress(CamrtError):
            read_model(path)
