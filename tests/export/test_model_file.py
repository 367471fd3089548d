"""Reading valid files, files that are not ONNX, and files that are not whole."""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from camrt.errors import ModelFileError, UnsupportedModelError
from camrt.export.io.external_data import read_external_data
from camrt.export.io.model_file import ModelFile, ReadingLimits, read_model
from camrt.export.io.opsets import newest_opset
from helpers import hostile_models


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where a test's model goes: a folder of its own, with a folder of its own above."""
    folder = tmp_path / "models"
    folder.mkdir()
    return folder / "model.onnx"


def run(model: ModelProto, image: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {session.get_inputs()[0].name: image})[0]


def read_changed(path: Path, change: Callable[[ModelProto], object]) -> ModelFile:
    """Read a classifier after `change` was made to it."""
    model = hostile_models.classifier_model()
    change(model)
    return read_model(hostile_models.save(model, path))


# ---- what is taken ----


@pytest.mark.parametrize("maker", hostile_models.READ.values(), ids=hostile_models.READ.keys())
def test_valid_file_is_read(path: Path, maker: Callable[[Path], Path]) -> None:
    file = read_model(maker(path))
    assert file.path == path.resolve()
    onnx.checker.check_model(file.model, full_check=True)


def test_model_is_the_file_s_own(path: Path) -> None:
    data = hostile_models.classifier(path).read_bytes()
    file = read_model(str(path))
    assert file.model == hostile_models.classifier_model()
    assert file.sha256 == hashlib.sha256(data).hexdigest()


def test_external_data_is_loaded_and_hashed(path: Path) -> None:
    data = hostile_models.external_valid(path).read_bytes()
    file = read_model(path)
    assert file.model == hostile_models.classifier_model()
    assert file.sha256 == hashlib.sha256(data + hostile_models.external_bytes()).hexdigest()


def test_external_range_in_a_subfolder(path: Path) -> None:
    folder = path.with_name("inner")
    folder.mkdir()
    size = len(hostile_models.external_bytes())
    (folder / "weights.bin").write_bytes(b"\1" * 64 + hostile_models.external_bytes() + b"\2" * 64)
    hostile_models.external(path, "./inner/weights.bin", offset="64", length=str(size))
    assert read_model(path).model == hostile_models.classifier_model()


def test_external_constant_of_a_node_is_loaded(path: Path) -> None:
    data = np.arange(4, dtype=np.float32)
    path.with_name("bias.bin").write_bytes(data.tobytes())

    def move(model: ModelProto) -> None:
        tensor = TensorProto(data_type=TensorProto.FLOAT, dims=[4], data_location=TensorProto.EXTERNAL)
        tensor.external_data.add(key="location", value="bias.bin")
        model.graph.initializer.pop()
        model.graph.node.insert(0, helper.make_node("Constant", [], ["head.bias"], value=tensor))

    model = read_changed(path, move).model
    stored = model.graph.node[0].attribute[0].t
    assert not stored.HasField("data_location")
    np.testing.assert_array_equal(numpy_helper.to_array(stored), data)


def test_symlinked_model_file_is_resolved(path: Path, tmp_path: Path) -> None:
    link = tmp_path / "link.onnx"
    link.symlink_to(hostile_models.classifier(path))
    assert read_model(link).path == path.resolve()


def test_initializers_leave_the_inputs(path: Path) -> None:
    def list_all(model: ModelProto) -> None:
        model.graph.input.extend(
            helper.make_tensor_value_info(item.name, item.data_type, item.dims)
            for item in model.graph.initializer
        )

    model = read_changed(path, list_all).model
    assert [item.name for item in model.graph.input] == ["image"]
    assert len(model.graph.initializer) == 3


def test_training_information_is_dropped(path: Path) -> None:
    file = read_changed(path, lambda model: model.training_info.add())
    assert not file.model.training_info


def test_functions_are_inlined(path: Path) -> None:
    file = read_model(hostile_models.nested_functions(path, levels=3, calls=2))
    operators = [node.op_type for node in file.model.graph.node]
    assert not file.model.functions
    assert operators.count("Relu") == 8
    image = np.random.default_rng(0).normal(size=(2, 3, 8, 8)).astype(np.float32)
    np.testing.assert_array_equal(run(file.model, image), run(hostile_models.classifier_model(), image))


def test_function_attributes_are_resolved(path: Path) -> None:
    node = helper.make_node("LeakyRelu", ["x"], ["y"])
    node.attribute.append(helper.make_attribute_ref("alpha", onnx.AttributeProto.FLOAT))
    node.attribute[0].ref_attr_name = "slope"
    function = helper.make_function(
        hostile_models.DOMAIN,
        "leak",
        ["x"],
        ["y"],
        [node],
        [helper.make_opsetid("", hostile_models.OPSET)],
        ["slope"],
    )
    call = helper.make_node("leak", ["features"], ["active"], domain=hostile_models.DOMAIN, slope=0.25)
    nodes = [hostile_models.conv_node(), call, *hostile_models.head_nodes("active")]
    weights = [*hostile_models.conv_weights(), *hostile_models.head_weights()]
    model = hostile_models.model_of(nodes, weights, functions=[function], domains=[hostile_models.DOMAIN])
    leaky = read_model(hostile_models.save(model, path)).model.graph.node[1]
    assert leaky.op_type == "LeakyRelu"
    assert leaky.attribute[0].f == 0.25


def test_sparse_initializer_is_left_as_it_is(path: Path) -> None:
    def make_sparse(model: ModelProto) -> None:
        values = numpy_helper.from_array(np.ones(1, np.float32), "head.bias")
        indices = numpy_helper.from_array(np.array([2]), "indices")
        model.graph.initializer.pop()
        model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [4]))

    assert len(read_changed(path, make_sparse).model.graph.sparse_initializer) == 1


@pytest.mark.parametrize(
    ("data_type", "count", "size"),
    [
        (TensorProto.FLOAT16, 3, 6),
        (TensorProto.BFLOAT16, 3, 6),
        (TensorProto.FLOAT8E4M3FN, 3, 3),
        (TensorProto.INT4, 3, 2),
        (TensorProto.BOOL, 0, 0),
    ],
    ids=lambda value: str(value),
)
def test_sizes_of_element_types(path: Path, data_type: int, count: int, size: int) -> None:
    def add(model: ModelProto, length: int) -> None:
        model.graph.initializer.add(name="unused", data_type=data_type, dims=[count], raw_data=b"\0" * length)

    read_changed(path, lambda model: add(model, size))
    with pytest.raises(ModelFileError, match=r"initializer 'unused' holds .* bytes of data"):
        read_changed(path, lambda model: add(model, size + 1))


def test_complex_numbers_are_refused(path: Path) -> None:
    def add(model: ModelProto) -> None:
        model.graph.initializer.add(
            name="unused", data_type=TensorProto.COMPLEX64, dims=[2], raw_data=b"\0" * 16
        )

    with pytest.raises(UnsupportedModelError, match="initializer 'unused' holds complex numbers"):
        read_changed(path, add)


def test_values_in_typed_fields(path: Path) -> None:
    def add(model: ModelProto, values: list[int]) -> None:
        model.graph.initializer.add(
            name="unused", data_type=TensorProto.FLOAT16, dims=[2], int32_data=values, raw_data=b""
        )

    read_changed(path, lambda model: add(model, [1, 2]))
    with pytest.raises(ModelFileError, match=r"holds 3 values of data where its dimensions \[2\] need 2"):
        read_changed(path, lambda model: add(model, [1, 2, 3]))


def test_endless_loop_runs_until_it_is_stopped(path: Path) -> None:
    model = read_model(hostile_models.endless_loop(path)).model
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    options = onnxruntime.RunOptions()
    options.log_severity_level = 4
    failure: list[Exception] = []

    def go() -> None:
        try:
            session.run(None, {"image": np.zeros((1, 3, 8, 8), np.float32)}, options)
        except Exception as error:
            failure.append(error)

    thread = threading.Thread(target=go, daemon=True)
    thread.start()
    thread.join(0.5)
    assert thread.is_alive()
    options.terminate = True
    thread.join(20)
    assert not thread.is_alive()
    assert "terminate" in str(failure[0])


@pytest.mark.parametrize("name", ["conv", "Größe \u2603 of it", ""])
def test_names_of_nodes_mean_nothing(path: Path, name: str) -> None:
    """The runtime refuses a name that two nodes have."""

    def call(model: ModelProto) -> None:
        for node in model.graph.node:
            node.name = name

    image = np.random.default_rng(0).standard_normal((2, 3, 8, 8), np.float32)
    found = run(read_changed(path, call).model, image)
    np.testing.assert_array_equal(found, run(hostile_models.classifier_model(), image))


def test_external_data_of_a_node_that_stood_in_the_wrong_place(path: Path) -> None:
    data = np.arange(4, dtype=np.float32)
    path.with_name("bias.bin").write_bytes(data.tobytes())
    bias = TensorProto(name="b", data_type=TensorProto.FLOAT, dims=[4], data_location=TensorProto.EXTERNAL)
    bias.external_data.add(key="location", value="bias.bin")

    def change(model: ModelProto) -> None:
        model.graph.node[-1].input[2] = "b"
        model.graph.node.append(helper.make_node("Constant", [], ["b"], value=bias))

    image = np.random.default_rng(0).standard_normal((2, 3, 8, 8), np.float32)
    found = run(read_changed(path, change).model, image)
    without = hostile_models.classifier_model()
    without.graph.initializer[-1].CopyFrom(numpy_helper.from_array(data, "head.bias"))
    np.testing.assert_array_equal(found, run(without, image))


# ---- what is not a model file ----


def test_missing(path: Path) -> None:
    with pytest.raises(ModelFileError, match=r"model\.onnx: no such file"):
        read_model(path)


def test_folder(path: Path) -> None:
    with pytest.raises(ModelFileError, match="is a folder"):
        read_model(path.parent)


@pytest.mark.parametrize("name", ["fifo", "device", "NUL in the name", "loop of links"])
def test_not_a_regular_file(path: Path, name: str) -> None:
    given: Path | str = path
    if name == "fifo":
        os.mkfifo(path)
    elif name == "device":
        given = "/dev/zero"
    elif name == "NUL in the name":
        given = "a\0b.onnx"
    else:
        path.symlink_to(path)
    with pytest.raises(ModelFileError, match=r"is not a regular file|cannot be read"):
        read_model(given)


def test_empty(path: Path) -> None:
    path.touch()
    with pytest.raises(ModelFileError, match="is empty; download or export it again"):
        read_model(path)


def test_over_two_gibibytes(path: Path) -> None:
    path.touch()
    os.truncate(path, 1 << 31)
    with pytest.raises(ModelFileError, match=r"has 2\.0 GiB; .* save it with its weights as external data"):
        read_model(path)


def test_over_two_gibibytes_with_external_data(path: Path) -> None:
    (path.parent / "weights.bin").touch()
    os.truncate(path.parent / "weights.bin", 1 << 31)

    def add(model: ModelProto) -> None:
        tensor = model.graph.initializer.add(
            name="unused", data_type=TensorProto.INT8, dims=[1 << 31], data_location=TensorProto.EXTERNAL
        )
        tensor.external_data.add(key="location", value="weights.bin")

    with pytest.raises(ModelFileError, match=r"takes 2\.0 GiB with its external data; protobuf handles"):
        read_changed(path, add)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\xff\xd8\xff\xe0" + b"\0" * 64, "a JPEG image"),
        (b"PK\x03\x04....archive/data.pkl....", "a PyTorch .pt file; export it to ONNX first"),
        (b"PK\x03\x04....other.txt", "a zip archive"),
        (b"\x80\x02\x8a\nl\xfc\x9cF", "a Python pickle .* never unpickles"),
        (b"\x89HDF\r\n\x1a\n" + b"\0" * 64, "an HDF5 file"),
        (b"\x40" + b"\0" * 7 + b'{"weight":{}}', "a safetensors file"),
        (b"\x1c\0\0\0TFL3" + b"\0" * 64, "a TensorFlow Lite model"),
        (b"\x1c\0\0\0ORTM" + b"\0" * 64, "an ONNX Runtime .ort file"),
        (b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer; run `git lfs pull`"),
        (b"<!DOCTYPE html><html></html>", "a web page"),
        (b"hello, this is not a model\n", "text"),
    ],
    ids=["jpeg", "torch", "zip", "pickle", "hdf5", "safetensors", "tflite", "ort", "lfs", "html", "text"],
)
def test_other_kinds_of_file(path: Path, data: bytes, message: str) -> None:
    path.write_bytes(data)
    with pytest.raises(ModelFileError, match=f"is not an ONNX file: it looks like {message}"):
        read_model(path)


def test_every_prefix_is_refused(path: Path) -> None:
    data = hostile_models.classifier(path).read_bytes()
    for size in range(len(data)):
        path.write_bytes(data[:size])
        with pytest.raises(ModelFileError):
            read_model(path)


def test_every_prefix_of_a_file_with_functions_is_refused(path: Path) -> None:
    data = hostile_models.nested_functions(path, levels=2, calls=2).read_bytes()
    for size in range(len(data)):
        path.write_bytes(data[:size])
        with pytest.raises((ModelFileError, UnsupportedModelError)):
            read_model(path)


# ---- what is not whole ----


def _drop_weight(model: ModelProto) -> None:
    del model.graph.initializer[0]


def _shorten_weight(model: ModelProto) -> None:
    model.graph.initializer[0].raw_data = b"\0" * 10


def _wait_in_a_circle(model: ModelProto) -> None:
    model.graph.node[0].input[0] = "flat"


def _read_itself(model: ModelProto) -> None:
    model.graph.node[0].input[0] = "features"


def _name_twice(model: ModelProto) -> None:
    model.graph.node.append(helper.make_node("Relu", ["image"], ["features"], "again"))


def _name_initializer_twice(model: ModelProto) -> None:
    model.graph.initializer.append(model.graph.initializer[0])


def _lose_output(model: ModelProto) -> None:
    model.graph.output[0].name = "nothing"


def _no_opset(model: ModelProto) -> None:
    del model.opset_import[:]


def _two_opsets(model: ModelProto) -> None:
    model.opset_import.append(helper.make_opsetid("ai.onnx", 12))


def _segment(model: ModelProto) -> None:
    model.graph.initializer[0].segment.begin = 1


def _unknown_type(model: ModelProto) -> None:
    model.graph.initializer[0].data_type = 99


def _store_twice(model: ModelProto) -> None:
    model.graph.initializer[0].float_data.append(1.0)


def _negative_dimension(model: ModelProto) -> None:
    model.graph.initializer[0].dims[0] = -5


def _stray_reference(model: ModelProto) -> None:
    model.graph.node[0].attribute[0].ref_attr_name = "pads"


def _wrong_attribute(model: ModelProto) -> None:
    model.graph.node[0].attribute[0].type = onnx.AttributeProto.TENSOR


def _undeclared_set(model: ModelProto) -> None:
    model.graph.node[1].domain = "com.microsoft"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_drop_weight, r"node 'conv' \(Conv\) reads 'conv.weight', which nothing makes"),
        (_shorten_weight, r"initializer 'conv.weight' holds 10 bytes .* need 540; the file is damaged"),
        (_wait_in_a_circle, r"nodes that wait for one another: node 'conv' \(Conv\) reads 'flat'"),
        (_read_itself, r"node 'conv' \(Conv\) reads 'features', which is made of what it makes itself"),
        (_name_twice, r"node 'again' \(Relu\) is called 'features', as another value is"),
        (_name_initializer_twice, "an initializer of the graph is called 'conv.weight', as another"),
        (_lose_output, "output 'nothing' of the graph is made by no node"),
        (_no_opset, "imports no ONNX operator set"),
        (_two_opsets, "imports two versions of operator set 'ai.onnx'"),
        (lambda model: model.ClearField("ir_version"), "states no ONNX version"),
        (lambda model: model.ClearField("graph"), "has no graph"),
        (lambda model: model.graph.ClearField("node"), "has a graph without nodes"),
        (lambda model: model.graph.ClearField("input"), "has a graph without inputs"),
        (lambda model: model.graph.ClearField("output"), "has a graph without outputs"),
        (_segment, "initializer 'conv.weight' is stored in segments"),
        (_unknown_type, "initializer 'conv.weight' has the element type 99"),
        (_store_twice, "initializer 'conv.weight' has its data in"),
        (_negative_dimension, r"initializer 'conv.weight' has a negative dimension: \[-5, 3, 3, 3\]"),
        (_stray_reference, r"attribute 'pads' of node 'conv' \(Conv\) refers to 'pads'"),
        (_wrong_attribute, r"attribute 'pads' of node 'conv' \(Conv\) says one type and holds another"),
        (_undeclared_set, "is of operator set 'com.microsoft', which the file does not import"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_file_that_is_not_whole(path: Path, change: Callable[[ModelProto], None], message: str) -> None:
    with pytest.raises(ModelFileError, match=message):
        read_changed(path, change)


def test_name_that_is_not_utf8(path: Path) -> None:
    data = hostile_models.classifier(path).read_bytes()
    path.write_bytes(data.replace(b"features", b"featu\xff\xfes"))
    with pytest.raises(ModelFileError, match="not UTF-8: the file is damaged"):
        read_model(path)


# ---- operator sets ----


def with_opset(model: ModelProto, opset: int) -> None:
    model.opset_import[0].version = opset


@pytest.mark.parametrize("opset", [7, newest_opset()])
def test_oldest_and_newest_opset(path: Path, opset: int) -> None:
    read_changed(path, lambda model: with_opset(model, opset))


@pytest.mark.parametrize(
    ("opset", "words"), [(6, "opset 6; camrt takes 7 to"), (99, "opset 99; onnx .* upgrade")]
)
def test_opset_out_of_range(path: Path, opset: int, words: str) -> None:
    with pytest.raises(UnsupportedModelError, match=words):
        read_changed(path, lambda model: with_opset(model, opset))


def test_newer_ir_version(path: Path) -> None:
    with pytest.raises(UnsupportedModelError, match="uses ONNX IR version 99, newer than onnxruntime"):
        read_changed(path, lambda model: setattr(model, "ir_version", 99))


def test_operator_that_its_opset_lacks(path: Path) -> None:
    with pytest.raises(
        UnsupportedModelError, match=r"node 'relu' \(Rélu\) is not an operator of ONNX opset 17"
    ):
        read_changed(path, lambda model: setattr(model.graph.node[1], "op_type", "Rélu"))


def test_custom_domain_that_no_node_uses_is_allowed(path: Path) -> None:
    read_changed(path, lambda model: model.opset_import.append(helper.make_opsetid("example.ops", 1)))


# ---- cost ----


def test_large_weights_are_not_passed_around(path: Path) -> None:
    """64 MiB of weights: no step sends them through a serialisation."""
    big = numpy_helper.from_array(np.zeros((4096, 4096), np.float32), "unused")
    model = hostile_models.classifier_model()
    model.graph.initializer.append(big)
    hostile_models.save(model, path)
    started = time.monotonic()
    read_model(path)
    assert time.monotonic() - started < 5


def test_external_data_without_any_touches_no_folder(path: Path) -> None:
    read_external_data([], path / "nowhere", hashlib.sha256(), 0, ReadingLimits())
