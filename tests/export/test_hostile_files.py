"""Files made to harm: each is refused with its reason, quickly, whatever its bytes."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from onnx import AttributeProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from camrt.errors import CamrtError, ModelFileError, UnsafeModelError, UnsupportedModelError
from camrt.export.io.model_file import ReadingLimits, read_model
from helpers import hostile_models

SECONDS_PER_FILE = 10.0  # measured: below 0.02 s, and 2 s for many_empty_nodes; the rest is for slow machines


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where a test's model goes: a folder of its own, with a folder of its own above."""
    folder = tmp_path / "models"
    folder.mkdir()
    return folder / "model.onnx"


REASONS: dict[str, tuple[type[CamrtError], str]] = {
    "custom_operator": (UnsupportedModelError, r"node 'swish' .* custom operator 'Swish9' of 'example.ops'"),
    "external_absolute": (UnsafeModelError, "'conv.weight' is at '/.*', an absolute path"),
    "external_fifo": (UnsafeModelError, "'weights.bin' .* is not a regular file"),
    "external_hardlink": (UnsafeModelError, r"'weights.bin' .* is a hard link \(it has 2 names\)"),
    "external_missing": (ModelFileError, "'weights.bin', which holds initializer 'conv.weight', is missing"),
    "external_parent": (UnsafeModelError, r"is at '\.\./.*', which leaves the model's folder"),
    "external_symlink": (UnsafeModelError, "'weights.bin' .* symbolic link"),
    "external_symlinked_folder": (UnsafeModelError, "'inner' .* symbolic link"),
    "many_dimensions": (UnsafeModelError, r"node 'link5' \(Gather\) has 65 dimensions"),
    "many_empty_nodes": (UnsafeModelError, "more than 2000000 protobuf fields"),
    "nested_functions": (UnsafeModelError, "expands to 1111111111115 nodes"),
    "nested_subgraphs": (ModelFileError, "nests messages more than 100 deep"),
    "not_onnx_png": (ModelFileError, "looks like a PNG image"),
    "recursive_function": (UnsafeModelError, "has a function that calls itself, 'ping'"),
    "terabyte_constant": (UnsafeModelError, r"node 'terabytes' \(ConstantOfShape\) claims 931.3 GiB"),
    "terabyte_initializer": (UnsafeModelError, "initializer 'head.weight' claims 3.6 TiB"),
    "truncated": (ModelFileError, "is cut short: it ends after 506 bytes"),
}


def test_every_hostile_file_has_its_reason() -> None:
    assert REASONS.keys() == hostile_models.REFUSED.keys()


@pytest.mark.parametrize("name", hostile_models.REFUSED)
def test_refused_quickly_with_its_reason(path: Path, name: str) -> None:
    kind, message = REASONS[name]
    hostile_models.REFUSED[name](path)
    before = sorted(path.parent.iterdir())
    started = time.monotonic()
    with pytest.raises(kind, match=message) as caught:
        read_model(path)
    assert time.monotonic() - started < SECONDS_PER_FILE
    assert type(caught.value) is kind
    assert str(caught.value).startswith(f"{path}: ")
    assert sorted(path.parent.iterdir()) == before


# ---- external data ----


@pytest.mark.parametrize(
    ("location", "kind", "message"),
    [
        ("", ModelFileError, "does not say where"),
        (".", ModelFileError, "names no file"),
        ("a\0b", UnsafeModelError, "NUL"),
        ("/etc/hostname", UnsafeModelError, "absolute"),
        ("//server/share", UnsafeModelError, "absolute"),
        ("C:\\weights.bin", UnsafeModelError, "absolute"),
        ("C:weights.bin", UnsafeModelError, "absolute"),
        ("\\\\server\\share\\w.bin", UnsafeModelError, "absolute"),
        ("\\w.bin", UnsafeModelError, "absolute"),
        ("inner/../../w.bin", UnsafeModelError, "leaves the model's folder"),
        ("inner/..", UnsafeModelError, "leaves the model's folder"),
        ("..\\w.bin", UnsafeModelError, "leaves the model's folder"),
        ("inner\\w.bin", ModelFileError, "forward slashes"),
        ("weights.bin/deeper", ModelFileError, "is missing"),
        ("folder", UnsafeModelError, "is not a regular file"),
        ("n" * 300, ModelFileError, "cannot be read: File name too long"),
    ],
)
def test_location(path: Path, location: str, kind: type[CamrtError], message: str) -> None:
    path.with_name("weights.bin").write_bytes(hostile_models.external_bytes())
    path.with_name("folder").mkdir()
    with pytest.raises(kind, match=message) as caught:
        read_model(hostile_models.external(path, location))
    assert type(caught.value) is kind


@pytest.mark.parametrize(
    ("offset", "length", "message"),
    [
        ("-1", None, "the offset .* is '-1', not a whole number"),
        ("0x10", None, "the offset .* is '0x10'"),
        ("9" * 30, None, "the offset"),
        ("", None, "the offset"),
        ("١", None, "the offset"),
        ("0", "-540", "the length .* is '-540'"),
        ("0", "539", "has 539 bytes of external data .* need 540"),
        ("1", "540", "has 540 bytes; .* needs bytes 1 to 541"),
        ("9" * 18, None, "needs bytes 999999999999999999"),
    ],
)
def test_range(path: Path, offset: str, length: str | None, message: str) -> None:
    path.with_name("weights.bin").write_bytes(hostile_models.external_bytes())
    with pytest.raises(ModelFileError, match=message):
        read_model(hostile_models.external(path, "weights.bin", offset=offset, length=length))


def test_location_given_twice(path: Path) -> None:
    model = hostile_models.load(hostile_models.external_valid(path))
    model.graph.initializer[0].external_data.add(key="location", value="../other.bin")
    with pytest.raises(ModelFileError, match=r"gives the 'location' .* twice"):
        read_model(hostile_models.save(model, path))


def external_tensor(location: str) -> TensorProto:
    tensor = TensorProto(name="t", data_type=TensorProto.FLOAT, dims=[1], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value=location)
    return tensor


def _in_attribute(model: ModelProto, tensor: TensorProto) -> None:
    model.graph.node.insert(0, helper.make_node("Constant", [], ["c"], value=tensor))


def _in_sparse_values(model: ModelProto, tensor: TensorProto) -> None:
    sparse = model.graph.sparse_initializer.add(dims=[4])
    sparse.values.CopyFrom(tensor)


def _in_sparse_indices(model: ModelProto, tensor: TensorProto) -> None:
    sparse = model.graph.sparse_initializer.add(dims=[4])
    sparse.values.CopyFrom(numpy_helper.from_array(np.ones(1, np.float32), "s"))
    sparse.indices.CopyFrom(tensor)


def _in_subgraph(model: ModelProto, tensor: TensorProto) -> None:
    output = helper.make_tensor_value_info("t", TensorProto.FLOAT, [1])
    branch = helper.make_graph([], "branch", [], [output], [tensor])
    condition = numpy_helper.from_array(np.array(True), "condition")
    model.graph.initializer.append(condition)
    model.graph.node.append(
        helper.make_node("If", ["condition"], ["c"], then_branch=branch, else_branch=branch)
    )


def _in_uncalled_function(model: ModelProto, tensor: TensorProto) -> None:
    body = [helper.make_node("Constant", [], ["y"], value=tensor)]
    opset = [helper.make_opsetid("", hostile_models.OPSET)]
    model.functions.append(helper.make_function(hostile_models.DOMAIN, "f", [], ["y"], body, opset))


def _in_function_default(model: ModelProto, tensor: TensorProto) -> None:
    _in_uncalled_function(model, numpy_helper.from_array(np.ones(1)))
    model.functions[0].attribute_proto.append(helper.make_attribute("value", tensor))


@pytest.mark.parametrize(
    "put",
    [
        _in_attribute,
        _in_sparse_values,
        _in_sparse_indices,
        _in_subgraph,
        _in_uncalled_function,
        _in_function_default,
    ],
    ids=lambda put: put.__name__,
)
def test_external_data_anywhere_is_checked(
    path: Path, put: Callable[[ModelProto, TensorProto], None]
) -> None:
    model = hostile_models.classifier_model()
    put(model, external_tensor("../secret.bin"))
    with pytest.raises(UnsafeModelError, match="leaves the model's folder"):
        read_model(hostile_models.save(model, path))


# ---- results far larger than the file ----


def constant(name: str, *values: float) -> NodeProto:
    kind = np.float32 if any(isinstance(value, float) for value in values) else np.int64
    return helper.make_node("Constant", [], [name], value=numpy_helper.from_array(np.array(values, kind)))


def scalar(name: str, value: int) -> NodeProto:
    return helper.make_node("Constant", [], [name], value_int=value)


node = helper.make_node

BOMBS: dict[str, list[NodeProto]] = {
    "ConstantOfShape": [constant("n", 10**7, 10**7), node("ConstantOfShape", ["n"], ["out"])],
    "ConstantOfShape_overflowing": [constant("n", *[2**62] * 3), node("ConstantOfShape", ["n"], ["out"])],
    "Expand": [constant("n", 10**6, 10**6, 1, 1), node("Expand", ["image", "n"], ["out"])],
    "Expand_of_unknown": [
        node("NonZero", ["image"], ["some"]),
        node("Cast", ["some"], ["cast"], to=TensorProto.STRING),
        constant("n", 10**6, 10**6, 1, 1),
        node("Expand", ["cast", "n"], ["out"]),
    ],
    "Tile": [constant("n", 1, 1, 10**6, 10**6), node("Tile", ["image", "n"], ["out"])],
    "Range": [scalar("a", 0), scalar("b", 10**13), scalar("c", 1), node("Range", ["a", "b", "c"], ["out"])],
    "Pad": [constant("n", 0, 0, 10**6, 10**6, 0, 0, 0, 0), node("Pad", ["image", "n"], ["out"])],
    "Resize": [constant("n", 1, 3, 10**6, 10**6), node("Resize", ["image", "", "", "n"], ["out"])],
    "Resize_scales": [constant("n", 1.0, 1.0, 1e5, 1e5), node("Resize", ["image", "", "n"], ["out"])],
    "OneHot": [
        constant("n", *range(100)),
        scalar("depth", 10**12),
        constant("v", 0, 1),
        node("OneHot", ["n", "depth", "v"], ["out"]),
    ],
    "outer_product": [
        constant("n", 10**6),
        node("ConstantOfShape", ["n"], ["e"]),
        node("Unsqueeze", ["e", "axis"], ["row"]),
        node("Unsqueeze", ["e", "last"], ["column"]),
        node("MatMul", ["column", "row"], ["out"]),
    ],
    "RandomNormal": [node("RandomNormal", [], ["out"], shape=[10**6, 10**6])],
    "RandomUniform": [node("RandomUniform", [], ["out"], shape=[10**6, 10**6])],
    "Conv_pads": [node("Conv", ["image", "conv.weight"], ["out"], pads=[10**6] * 4)],
    "outer_sum": [
        constant("n", 10**6, 1),
        node("ConstantOfShape", ["n"], ["column"]),
        node("Transpose", ["column"], ["row"]),
        node("Add", ["column", "row"], ["out"]),
    ],
    "computed_shape": [
        node("Shape", ["image"], ["shape"]),
        scalar("two", 2),
        node("Gather", ["shape", "two"], ["rows"]),
        scalar("many", 10**9),
        node("Mul", ["rows", "many"], ["product"]),
        constant("axis0", 0),
        node("Unsqueeze", ["product", "axis0"], ["vector"]),
        node("Concat", ["vector", "vector"], ["n"], axis=0),
        node("ConstantOfShape", ["n"], ["out"]),
    ],
    "many_dimensions_of_a_shape": [constant("n", *[1] * 100), node("Expand", ["image", "n"], ["out"])],
}


@pytest.mark.parametrize("name", BOMBS)
def test_result_too_large(path: Path, name: str) -> None:
    model = hostile_models.classifier_model()
    model.graph.initializer.extend(
        [numpy_helper.from_array(np.array([0]), "axis"), numpy_helper.from_array(np.array([1]), "last")]
    )
    model.graph.node.extend(BOMBS[name])
    started = time.monotonic()
    with pytest.raises(UnsafeModelError, match=r"result .* (claims|would have|has) .* are allowed"):
        read_model(hostile_models.save(model, path))
    assert time.monotonic() - started < SECONDS_PER_FILE


def test_result_too_large_in_a_subgraph(path: Path) -> None:
    output = helper.make_tensor_value_info("out", TensorProto.FLOAT, None)
    branch = helper.make_graph(BOMBS["ConstantOfShape"], "branch", [], [output])
    model = hostile_models.classifier_model()
    model.graph.initializer.append(numpy_helper.from_array(np.array(True), "condition"))
    model.graph.node.append(node("If", ["condition"], ["c"], then_branch=branch, else_branch=branch))
    with pytest.raises(UnsafeModelError, match=r"ConstantOfShape\) claims"):
        read_model(hostile_models.save(model, path))


def test_sparse_initializer_that_claims_terabytes(path: Path) -> None:
    values = numpy_helper.from_array(np.ones(1, np.float32), "s")
    indices = numpy_helper.from_array(np.array([2]), "i")
    model = hostile_models.classifier_model()
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [10**7, 10**6]))
    with pytest.raises(UnsafeModelError, match="sparse initializer 's' claims"):
        read_model(hostile_models.save(model, path))


def test_negative_dimension_of_a_result(path: Path) -> None:
    model = hostile_models.classifier_model()
    model.graph.node.extend([constant("n", 2, -1), node("ConstantOfShape", ["n"], ["out"])])
    with pytest.raises(ModelFileError, match=r"negative dimension: \[2, -1\]"):
        read_model(hostile_models.save(model, path))


def test_limit_is_a_parameter(path: Path) -> None:
    hostile_models.classifier(path)
    with pytest.raises(UnsafeModelError, match=r"claims 540 bytes .* at most 500 bytes are allowed"):
        read_model(path, limits=ReadingLimits(max_tensor_bytes=500))
    with pytest.raises(UnsafeModelError, match="has 5 nodes; at most 4"):
        read_model(path, limits=ReadingLimits(max_nodes_after_inlining=4))


@pytest.mark.parametrize(
    ("bad", "name"),
    [
        (node("LayerNormalization", ["image", "conv.weight"], ["a", "b", "c"], axis=2**63 - 1), "axis"),
        (node("GatherND", ["image", "n"], ["a"], batch_dims=-1), "batch_dims"),
        (node("Split", ["image"], ["a", "b"], num_outputs=1), "num_outputs"),
        (node("Split", ["image"], ["a", "b"], num_outputs=10**9), "num_outputs"),
    ],
    ids=["LayerNormalization", "GatherND", "Split_too_few", "Split_too_many"],
)
def test_number_that_crashes_shape_inference(path: Path, bad: NodeProto, name: str) -> None:
    """Each makes onnx's own shape inference use memory that is not its own, or gigabytes of it."""
    model = hostile_models.classifier_model()
    model.opset_import[0].version = 18
    model.graph.initializer.append(numpy_helper.from_array(np.zeros(0, np.int64), "n"))
    model.graph.node.append(bad)
    with pytest.raises(ModelFileError, match=f"attribute '{name}' of .* out of range"):
        read_model(hostile_models.save(model, path))


# ---- functions and nesting ----


def test_chain_of_functions_is_too_deep(path: Path) -> None:
    with pytest.raises(UnsafeModelError, match="nests calls of functions more than 64 deep"):
        read_model(hostile_models.nested_functions(path, levels=5000, calls=1))


def test_expansion_is_counted_in_bytes(path: Path) -> None:
    model = hostile_models.load(hostile_models.nested_functions(path, levels=5, calls=10))
    large = helper.make_node("Constant", [], ["unused"], value=hostile_models.make_tensor("large", 1 << 16))
    model.functions[-1].node.append(large)
    with pytest.raises(UnsafeModelError, match="of nodes once its functions are inlined"):
        read_model(hostile_models.save(model, path))


def test_call_with_too_many_arguments(path: Path) -> None:
    model = hostile_models.load(hostile_models.nested_functions(path, levels=1, calls=1))
    model.graph.node[1].input.append("image")
    with pytest.raises(ModelFileError, match="has 2 inputs; the function takes 1"):
        read_model(hostile_models.save(model, path))


def test_graph_passed_to_a_function(path: Path) -> None:
    model = hostile_models.load(hostile_models.nested_functions(path, levels=1, calls=1))
    branch = helper.make_graph([], "branch", [], [])
    model.graph.node[1].attribute.append(helper.make_attribute("body", branch))
    with pytest.raises(UnsafeModelError, match="passes a graph to a function"):
        read_model(hostile_models.save(model, path))


def test_function_defined_twice(path: Path) -> None:
    model = hostile_models.load(hostile_models.nested_functions(path, levels=1, calls=1))
    model.functions.append(model.functions[0])
    with pytest.raises(ModelFileError, match="defines the function 'f0' twice"):
        read_model(hostile_models.save(model, path))


def test_subgraphs_nest_beyond_the_limit(path: Path) -> None:
    with pytest.raises(UnsafeModelError, match="nests subgraphs more than 8 deep"):
        read_model(hostile_models.nested_subgraphs(path, depth=20), limits=ReadingLimits(max_depth=8))


def test_operator_that_opens_other_files(path: Path) -> None:
    model = hostile_models.classifier_model()
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    model.graph.node.append(node("EPContext", ["image"], ["out"], domain="com.microsoft"))
    with pytest.raises(UnsafeModelError, match="makes the runtime open another file"):
        read_model(hostile_models.save(model, path))


def test_long_and_odd_names_are_shortened_and_escaped(path: Path) -> None:
    model = hostile_models.classifier_model()
    model.graph.node[0].input[0] = "\x1b[31m" + "n" * 10_000
    with pytest.raises(ModelFileError, match=r"'\\x1b\[31mnnn.*\.\.\.'") as caught:
        read_model(hostile_models.save(model, path))
    assert len(str(caught.value)) < 600


# ---- any bytes at all ----


def _seeds(path: Path) -> dict[str, bytes]:
    makers: dict[str, Callable[[Path], Path]] = {
        "classifier": hostile_models.classifier,
        "endless_loop": hostile_models.endless_loop,
        "external": hostile_models.external_valid,
        "functions": lambda where: hostile_models.nested_functions(where, levels=3, calls=2),
    }
    return {name: maker(path).read_bytes() for name, maker in makers.items()}


def _mutated(data: bytes, source: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(source.choice((1, 1, 1, 2, 4, 16))):
        at = source.randrange(len(changed))
        match source.randrange(5):
            case 0:
                changed[at] ^= 1 << source.randrange(8)
            case 1:
                changed[at] = source.choice((0, 1, 2, 0x7F, 0x80, 0xFF, source.randrange(256)))
            case 2:
                del changed[at : at + source.randrange(1, 9)]
            case 3:
                changed[at:at] = source.randbytes(source.randrange(1, 9))
            case 4:
                other = source.randrange(len(changed))
                size = source.randrange(1, 33)
                changed[at : at + size] = changed[other : other + size]
        if not changed:
            return b"\0"
    return bytes(changed)


@pytest.mark.parametrize("name", ["classifier", "endless_loop", "external", "functions"])
def test_mutated_bytes_are_read_or_refused(path: Path, name: str) -> None:
    data = _seeds(path)[name]
    source = random.Random(name)
    read = 0
    for case in range(400):
        path.write_bytes(_mutated(data, source))
        started = time.monotonic()
        try:
            read_model(path)
            read += 1
        except CamrtError:
            pass
        except Exception as error:
            pytest.fail(f"case {case} of seed {name!r}: {type(error).__name__}: {error}")
        assert time.monotonic() - started < SECONDS_PER_FILE, f"case {case} of seed {name!r}"
    assert 0 < read < 400


_NUMBERS = (0, -1, 1, 2, 3, 64, 10**9, 2**31, 2**63 - 1, -(2**63))


def _altered(model: ModelProto, source: random.Random) -> None:
    """Change one attribute, dimension, name or operator, so that the file stays parsable."""
    chosen = source.choice(model.graph.node)
    match source.randrange(6):
        case 0 if chosen.attribute:
            attribute = source.choice(chosen.attribute)
            attribute.i = source.choice(_NUMBERS)
            for i in range(len(attribute.ints)):
                attribute.ints[i] = source.choice(_NUMBERS)
        case 1:
            tensor = source.choice(model.graph.initializer)
            tensor.dims[:] = [source.choice(_NUMBERS) for _ in tensor.dims]
            if source.random() < 0.5:
                tensor.raw_data = b""
        case 2:
            chosen.op_type = source.choice(
                ("Conv", "MaxPool", "Gather", "Reshape", "Split", "Resize", "Concat")
            )
        case 3 if chosen.input:
            chosen.input[source.randrange(len(chosen.input))] = source.choice(("", "image", "head.bias"))
        case 4:
            del chosen.input[source.randrange(len(chosen.input) + 1) :]
        case _:
            name = source.choice(
                ("axis", "axes", "strides", "group", "kernel_shape", "to", "perm", "batch_dims")
            )
            several = name in ("axes", "strides", "kernel_shape", "perm")
            attribute = AttributeProto(name=name, type=AttributeProto.INTS if several else AttributeProto.INT)
            attribute.i = source.choice(_NUMBERS)
            attribute.ints.extend(source.choice(_NUMBERS) for _ in range(2 * several))
            chosen.attribute.append(attribute)


def test_altered_models_are_read_or_refused(path: Path) -> None:
    source = random.Random(0)
    for case in range(600):
        model = hostile_models.classifier_model()
        for _ in range(source.choice((1, 1, 2, 3))):
            _altered(model, source)
        hostile_models.save(model, path)
        started = time.monotonic()
        try:
            read_model(path)
        except CamrtError:
            pass
        except Exception as error:
            pytest.fail(f"case {case}: {type(error).__name__}: {error}")
        assert time.monotonic() - started < SECONDS_PER_FILE, f"case {case}"
