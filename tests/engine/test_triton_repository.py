"""A model repository of NVIDIA Triton Inference Server, read by the server's own definitions."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from typer.testing import CliRunner

import camrt
from camrt.cli.main import app
from camrt.default import model_path
from camrt.errors import InputError, ModelFileError, UnsupportedModelError
from camrt.export import add_to_triton_repository
from helpers.annotated_images import COLOURS, colour_model

READER = """
import json, sys
from google.protobuf import json_format, text_format
from tritonclient.grpc import model_config_pb2
config = text_format.Parse(open(sys.argv[1], encoding="utf-8").read(), model_config_pb2.ModelConfig())
print(json.dumps(json_format.MessageToDict(config, preserving_proto_field_name=True)))
"""
ELEMENTS = {"TYPE_FP32": "tensor(float)", "TYPE_FP16": "tensor(float16)", "TYPE_INT64": "tensor(int64)"}


def read_config(version: Path) -> dict:
    """The configuration beside a version, read by NVIDIA's definition.

    In another process: kserve's messages have the same names, and one process takes one of the two.
    """
    pytest.importorskip("tritonclient", reason="tritonclient is missing: pip install 'camrt[dev]'")
    command = [sys.executable, "-c", READER, str(version.parent / "config.pbtxt")]
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def save_classifier(path: Path, *, batch: str | int = "N", scores: tuple = ("N", 4), kind=TensorProto.FLOAT):
    """A classifier whose input, and whose target, an int64 for each image, a server has to be told of."""
    rng = np.random.default_rng(0)
    element = helper.tensor_dtype_to_np_dtype(kind)
    weights = [numpy_helper.from_array(rng.standard_normal((3, 4)).astype(element), "weight")]
    nodes = [
        helper.make_node("GlobalAveragePool", ["image"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["vector"]),
        helper.make_node("MatMul", ["vector", "weight"], ["all"]),
    ]
    nodes.append(
        helper.make_node("ReduceMax", ["all"], ["logits"], axes=[1], keepdims=0)
        if len(scores) == 1
        else helper.make_node("Identity", ["all"], ["logits"])
    )
    nodes.append(helper.make_node("Identity", ["target"], ["answered"]))
    model = helper.make_model(
        helper.make_graph(
            nodes,
            "classifier",
            [
                helper.make_tensor_value_info("image", kind, [batch, 3, "H", 8]),
                helper.make_tensor_value_info("target", TensorProto.INT64, [batch]),
            ],
            [
                helper.make_tensor_value_info("logits", kind, [batch, *scores[1:]]),
                helper.make_tensor_value_info("answered", TensorProto.INT64, [batch]),
            ],
            weights,
        ),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=9,
    )
    onnx.save(model, path)
    return path


def assert_config_fits(config: dict, version: Path) -> None:
    """What the server's ONNX Runtime backend compares when it loads a model."""
    session = onnxruntime.InferenceSession(version / config["default_model_filename"])
    batched = config.get("max_batch_size", 0) > 0
    for kind, values in (("input", session.get_inputs()), ("output", session.get_outputs())):
        assert [part["name"] for part in config[kind]] == [value.name for value in values]
        for part, value in zip(config[kind], values, strict=True):
            assert ELEMENTS[part["data_type"]] == value.type
            shape = part["reshape"].get("shape", []) if "reshape" in part else part["dims"]
            expected = [side if isinstance(side, int) else -1 for side in value.shape]
            assert [-1] * batched + [int(side) for side in shape] == expected


def test_the_embedded_classifier(tmp_path):
    result = CliRunner().invoke(
        app, ["export", "default", "--triton-repository", str(tmp_path / "models"), "--triton-name", "scenes"]
    )
    assert result.exit_code == 0, result.output
    assert "scenes: version 1" in result.output.replace("\n", "")
    version = tmp_path / "models" / "scenes" / "1"
    assert (version / "model.onnx").read_bytes() == model_path().read_bytes()
    assert sorted(entry.name for entry in version.parent.iterdir()) == ["1", "config.pbtxt", "labels.txt"]
    config = read_config(version)
    assert_config_fits(config, version)
    assert config["name"] == "scenes"
    assert config["backend"] == "onnxruntime"
    assert config["max_batch_size"] == 32
    assert "dynamic_batching" in config
    engine = camrt.load(model_path())
    assert [part.get("label_filename") for part in config["output"]] == ["labels.txt", None, None]
    assert tuple((version.parent / "labels.txt").read_text("utf-8").splitlines()) == engine.labels
    written = config["parameters"]["camrt.preprocessing"]["string_value"]
    assert camrt.Preprocessing.from_json(written) == engine.preprocessing


def test_a_file_with_maps(tmp_path):
    """Its preprocessing and labels, given when maps are put into it, reach the server's configuration."""
    colour_model(tmp_path / "colours.onnx")
    (tmp_path / "names.txt").write_text("".join(f"{name}\n" for name in COLOURS))
    command = [
        *("export", str(tmp_path / "colours.onnx"), "--with", "pixab", "-o", str(tmp_path / "maps.onnx")),
        *("--preprocessing", "unit", "--labels", str(tmp_path / "names.txt")),
        *("--triton-repository", str(tmp_path / "models")),
    ]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    engine = camrt.load(tmp_path / "maps.onnx")
    assert engine.labels == tuple(COLOURS)
    assert engine.preprocessing == camrt.Preprocessing.named("unit", engine.preprocessing.size)
    version = tmp_path / "models" / "maps" / "1"
    config = read_config(version)
    assert_config_fits(config, version)
    assert [part["name"] for part in config["input"]] == ["input", "target"]
    assert (config["input"][1]["dims"], config["input"][1]["reshape"]) == (["1"], {})
    assert [part["name"] for part in config["output"]] == ["scores", "saliency"]
    assert [part.get("label_filename") for part in config["output"]] == ["labels.txt", None]
    assert set(config["parameters"]) == {"camrt.preprocessing", "camrt.maps"}


@pytest.mark.parametrize("kind", [TensorProto.FLOAT, TensorProto.FLOAT16])
def test_numbers_for_each_image_and_open_sizes(tmp_path, kind):
    path = save_classifier(tmp_path / "net.onnx", kind=kind)
    version = add_to_triton_repository(
        path, tmp_path / "models", labels=["a", "b", "c\nd", 'é"\\'], max_batch=7
    )
    config = read_config(version)
    assert_config_fits(config, version)
    image, target = config["input"]
    assert image["dims"] == ["3", "-1", "8"]
    assert (target["dims"], target["reshape"]) == (["1"], {})
    assert config["max_batch_size"] == 7
    assert (version.parent / "labels.txt").read_text("utf-8") == 'a\nb\nc d\né"\\\n'


def test_a_fixed_batch_is_not_batched(tmp_path):
    version = add_to_triton_repository(save_classifier(tmp_path / "net.onnx", batch=2), tmp_path / "models")
    config = read_config(version)
    assert_config_fits(config, version)
    assert "dynamic_batching" not in config
    assert config["input"][0]["dims"] == ["2", "3", "-1", "8"]
    assert not (version.parent / "labels.txt").exists()


def test_one_logit_for_each_image(tmp_path):
    path = save_classifier(tmp_path / "net.onnx", scores=("N",))
    config = read_config(add_to_triton_repository(path, tmp_path / "models", labels=["tumour"]))
    assert config["output"][0]["label_filename"] == "labels.txt"
    assert (config["output"][0]["dims"], config["output"][0]["reshape"]) == (["1"], {})


def test_another_version_of_a_model(tmp_path):
    path = save_classifier(tmp_path / "net.onnx")
    assert add_to_triton_repository(path, tmp_path / "models").name == "1"
    (tmp_path / "models" / "net" / "7").mkdir()
    assert add_to_triton_repository(path, tmp_path / "models", max_batch=3).name == "8"
    assert read_config(tmp_path / "models" / "net" / "8")["max_batch_size"] == 3


def test_weights_beside_the_file_go_with_it(tmp_path):
    model = onnx.load(save_classifier(tmp_path / "net.onnx"))
    onnx.save(
        model, tmp_path / "net.onnx", save_as_external_data=True, location="net.weights", size_threshold=0
    )
    version = add_to_triton_repository(tmp_path / "net.onnx", tmp_path / "models")
    assert sorted(entry.name for entry in version.iterdir()) == ["model.onnx", "net.weights"]
    onnxruntime.InferenceSession(version / "model.onnx")


def test_what_is_refused(tmp_path):
    path = save_classifier(tmp_path / "net.onnx")
    models = tmp_path / "models"
    for name in ("../net", "", "net/1", ".net", "a" * 200):
        with pytest.raises(InputError, match="no name of a model"):
            add_to_triton_repository(path, models, name=name)
    with pytest.raises(InputError, match="max_batch=0"):
        add_to_triton_repository(path, models, max_batch=0)
    with pytest.raises(InputError, match="2 labels were given for a model with 4 classes"):
        add_to_triton_repository(path, models, labels=["a", "b"])
    (tmp_path / "damaged.onnx").write_bytes(path.read_bytes()[:200])
    with pytest.raises(ModelFileError):
        add_to_triton_repository(tmp_path / "damaged.onnx", models)
    model = onnx.load(path)
    onnx.save(
        model, tmp_path / "weights.onnx", save_as_external_data=True, location="model.onnx", size_threshold=0
    )
    with pytest.raises(UnsupportedModelError, match=r"weights lie in a file called model\.onnx"):
        add_to_triton_repository(tmp_path / "weights.onnx", models)
    model = onnx.load(path)  # saving moved the weights out of the other
    model.graph.output[1].type.tensor_type.ClearField("shape")
    onnx.save(model, tmp_path / "shapeless.onnx")
    with pytest.raises(UnsupportedModelError, match="which shape 'answered' has"):
        add_to_triton_repository(tmp_path / "shapeless.onnx", models)
    assert not models.exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "--out says where"),
        (("-o", "x.onnx", "--max-batch", "3"), "mean nothing without --triton-repository"),
        (("--to", "tensorrt", "-o", "x", "--triton-repository", "m"), "--triton-repository means nothing"),
    ],
)
def test_commands_that_make_no_sense(options, message):
    result = CliRunner().invoke(app, ["export", "default", *options])
    assert result.exit_code == 2
    assert message in " ".join(result.output.split())
