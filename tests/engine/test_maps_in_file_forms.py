"""Maps in files of every form: other layouts, types and sizes, CALM, pixels; in OpenVINO and for TensorRT."""

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

import camrt
from camrt.engine.methods.calm import CALM
from camrt.engine.methods.gradients import GradCAM
from camrt.engine.methods.guided import GuidedBackpropagation
from camrt.engine.methods.pixab import PixabCAM
from camrt.engine.methods.pixels import Gradient
from camrt.engine.methods.score import ScoreCAM
from camrt.engine.tensorrt_plans.bindings import import_bindings
from camrt.engine.tensorrt_plans.build import BuildOptions, PlanBuilder
from camrt.errors import MethodError
from camrt.export import with_maps
from camrt.export.graph.upkeep import rename_tensors
from camrt.export.rewrites.float_types import cast_floats
from helpers.calm_models import calm_model
from helpers.preprocessing_models import imagenet_front, pixel_model, random_pixels
from helpers.tolerances import TOLERANCES
from helpers.zoo import HEADS, classifier, save

METHODS = ["activation", "gradcam", "layercam", "ablation", "pixab"]
EPSILON = TOLERANCES["float32"][0]


def run(path, feeds, *outputs):
    options = ort.SessionOptions()
    options.log_severity_level = 4
    return ort.InferenceSession(str(path), options).run(list(outputs) or None, feeds)


def images_of(count, size, seed=3):
    return np.random.default_rng(seed).standard_normal((count, *size)).astype(np.float32)


def zoo_classifier(name, **options):
    part = HEADS[name].make(np.random.default_rng(0), 6, 5, 4, 3)
    return classifier(part, np.random.default_rng(1), **options)


def assert_same(path, made, fed, images, methods, factor=1.0, **options):
    """The file's own outputs bit for bit, and the engine's maps."""
    engine = camrt.load(path, verify=False, **options)
    target = np.arange(len(images)) % engine.num_classes
    (name,) = (value.name for value in onnx.load(path).graph.input)
    own = [value.name for value in onnx.load(path).graph.output]
    ends = [""] if len(methods) == 1 else [f"_{getattr(one, 'name', one)}" for one in methods]
    outputs = [f"{kind}{end}" for end in ends for kind in ("saliency", "raw")]
    found = run(made, {name: fed, "target": target}, *own, *outputs)
    for before, after in zip(run(path, {name: fed}, *own), found, strict=False):
        np.testing.assert_array_equal(before, after)
        assert before.dtype == after.dtype
    for number, method in enumerate(methods):
        maps, raw = found[len(own) + 2 * number :][:2]
        expected = engine.explain(images, method, targets=target)
        scale = np.maximum(np.abs(expected.raw).max(axis=(-2, -1), keepdims=True), 1e-6)
        lost = factor * (1.0 + 4.0 / scale)  # digits that two scores of about one have in common
        assert (np.abs(raw - expected.raw) <= EPSILON * scale * lost).all(), method
        assert (np.abs(maps - expected.maps) <= EPSILON * lost).all(), method
        assert maps.any(), method


@pytest.mark.parametrize("name", ["gap-flatten-gemm", "gemm-relu-gemm"])
def test_channels_last(name, tmp_path):
    whole = zoo_classifier(name)
    model, (channels, height, width) = whole.model, whole.size
    rename_tensors(model.graph, lambda tensor: "nchw" if tensor == "images" else tensor)
    model.graph.input[0].CopyFrom(
        helper.make_tensor_value_info("images", TensorProto.FLOAT, ["N", height, width, channels])
    )
    model.graph.node.insert(0, helper.make_node("Transpose", ["images"], ["nchw"], perm=[0, 3, 1, 2]))
    path = save(model, tmp_path / "model.onnx")
    made = with_maps(path, [*METHODS, "gradient"], tmp_path / "maps.onnx", raw=True)
    images = images_of(3, whole.size)
    assert_same(path, made, images.transpose(0, 2, 3, 1), images, [*METHODS, "gradient"])


def cropped_front(net, name):
    """The imagenet front, less two rows above, one below, and three columns at the right."""
    starts, ends, axes = (net.constant(values, np.int64) for values in ([2, 0], [-1, -3], [2, 3]))
    return net.add("Slice", imagenet_front(net, name), starts, ends, axes)


@pytest.mark.parametrize("front", [imagenet_front, cropped_front])
def test_bytes_as_pixels(front, tmp_path):
    path = pixel_model(tmp_path, front)
    methods = [*METHODS, GradCAM(postprocess="library")]
    pixels = random_pixels(3)
    for some in (methods[:-1], methods[-1:]):
        made = with_maps(path, some, tmp_path / "maps.onnx", raw=True)
        assert_same(path, made, pixels, pixels.transpose(0, 3, 1, 2).astype(np.float32), some)


def test_float16(tmp_path):
    whole = zoo_classifier("gemm-relu-gemm")
    cast_floats(whole.model, TensorProto.FLOAT16)
    path = save(whole.model, tmp_path / "model.onnx")
    made = with_maps(path, METHODS, tmp_path / "maps.onnx", raw=True)
    weights = {tensor.name: tensor.data_type for tensor in onnx.load(made).graph.initializer}
    assert weights["trunk_weight"] == TensorProto.FLOAT16
    images = images_of(3, whole.size).astype(np.float16)
    # scores come of a last layer in half precision here, and in single there
    assert_same(path, made, images, images.astype(np.float32), ["gradcam", "activation"], 2000)


def test_quantised_layers_stay(tmp_path):
    whole = zoo_classifier("gap-flatten-gemm")
    graph = whole.model.graph
    stored = next(tensor for tensor in graph.initializer if tensor.name == "trunk_weight")
    values = numpy_helper.to_array(stored)
    scale = np.float32(np.abs(values).max() / 127)
    stored.CopyFrom(numpy_helper.from_array(np.round(values / scale).astype(np.int8), "stored"))
    graph.initializer.append(numpy_helper.from_array(scale, "scale"))
    graph.initializer.append(numpy_helper.from_array(np.float32(0.05), "step"))
    graph.initializer.append(numpy_helper.from_array(np.uint8(0), "zero"))
    rename_tensors(graph, lambda tensor: "wide" if tensor == "A" else tensor)
    graph.node.insert(0, helper.make_node("DequantizeLinear", ["stored", "scale"], ["trunk_weight"]))
    for place, (operator, read, wrote) in enumerate(
        [("QuantizeLinear", "wide", "coarse"), ("DequantizeLinear", "coarse", "A")]
    ):
        graph.node.insert(3 + place, helper.make_node(operator, [read, "step", "zero"], [wrote]))
    for node in graph.node:
        if node.op_type == "GlobalAveragePool":
            node.input[0] = "A"
    path = save(whole.model, tmp_path / "model.onnx")
    made = with_maps(path, METHODS, tmp_path / "maps.onnx", raw=True)
    kinds = [node.op_type for node in onnx.load(made).graph.node]
    assert kinds.count("DequantizeLinear") == 2
    images = images_of(3, whole.size)
    assert_same(path, made, images, images, METHODS)


@pytest.mark.parametrize(
    "name", ["gap-flatten-gemm", "squeezenet", "reduce-sum", "gemm-batch-norm-relu-gemm"]
)
def test_sizes_that_are_open(name, tmp_path):
    whole = zoo_classifier(name, size=("H", "W"))
    path = save(whole.model, tmp_path / "model.onnx")
    made = with_maps(path, METHODS, tmp_path / "maps.onnx", raw=True, most_passes=10**6)
    for size in ((10, 8), (16, 14), (33, 21)):
        images = images_of(2, (whole.size[0], *size))
        assert_same(path, made, images, images, METHODS)


def test_boxes_of_a_generic_head_need_a_size(tmp_path):
    path = save(zoo_classifier("global-max-pool", size=("H", "W")).model, tmp_path / "model.onnx")
    with pytest.raises(MethodError, match="fixed size"):
        with_maps(path, "pixab", tmp_path / "maps.onnx", target="A", most_passes=10**6)
    with pytest.raises(MethodError, match="blur=1"):
        with_maps(path, "gradient", tmp_path / "maps.onnx")
    made = with_maps(path, Gradient(blur=1), tmp_path / "maps.onnx", raw=True)
    images = images_of(2, (3, 14, 12))
    assert_same(path, made, images, images, [Gradient(blur=1)], 50)


@pytest.mark.parametrize("batch", [1, 4])
def test_batches_that_are_fixed(batch, tmp_path):
    whole = zoo_classifier("gemm-relu-gemm", batch=batch)
    path = save(whole.model, tmp_path / "model.onnx")
    made = with_maps(path, METHODS, tmp_path / "maps.onnx", raw=True)
    images = images_of(batch, whole.size)
    assert_same(path, made, images, images, METHODS)


def test_several_layers_are_fused(tmp_path):
    whole = zoo_classifier("convolution-3x3-behind-the-cut")
    path = save(whole.model, tmp_path / "model.onnx")
    layers = [one.name for one in camrt.load(path).targets()][-2:]
    made = with_maps(path, ["gradcam", "layercam"], tmp_path / "maps.onnx", raw=True, target=layers)
    images = images_of(3, whole.size)
    assert_same(path, made, images, images, ["gradcam", "layercam"], target=layers)


@pytest.mark.parametrize("open_size", [False, True])
def test_score_cam_in_a_loop(open_size, tmp_path):
    whole = zoo_classifier("global-max-pool", size=("H", "W") if open_size else None)
    path = save(whole.model, tmp_path / "model.onnx")
    images = images_of(3, whole.size)
    for method in (ScoreCAM(), ScoreCAM(definition="grad-cam"), ScoreCAM(definition="torchcam")):
        made = with_maps(path, method, tmp_path / "maps.onnx", raw=True, verify=False)
        onnx.checker.check_model(onnx.load(made), full_check=True)
        assert_same(path, made, images, images, [method], 20)
    for method, message in ((ScoreCAM(passes=3), "passes="), (ScoreCAM(), "--most-passes")):
        with pytest.raises(MethodError, match=message):
            with_maps(path, method, tmp_path / "maps.onnx", most_passes=6)


KINDS = [
    CALM(),
    CALM(kind="conditional"),
    CALM(kind="posterior"),
    CALM(kind="saliency"),
    CALM(kind="subset"),
    CALM(kind="subset", classes="all", average=True),
    CALM(kind="subset", classes=(0, 2)),
    CALM(kind="counterfactual"),
    CALM(kind="counterfactual", against=1),
]


@pytest.mark.parametrize("method", KINDS, ids=repr)
def test_calm(method, tmp_path):
    model = calm_model()
    path = model.save(tmp_path / "calm.onnx")
    made = with_maps(path, method, tmp_path / "maps.onnx", raw=True)
    images = images_of(3, (3, 12, 16))
    assert_same(path, made, images, images, [method])


def test_boxes_and_channels_of_a_calm_head(tmp_path):
    path = calm_model().save(tmp_path / "calm.onnx")
    methods = [PixabCAM(), "ablation", "gradcam", Gradient(blur=1), GuidedBackpropagation(blur=1)]
    made = with_maps(path, methods, tmp_path / "maps.onnx", raw=True)
    images = images_of(3, (3, 12, 16))
    assert_same(path, made, images, images, methods, 4)


def test_a_model_without_calm_has_none(tmp_path):
    path = save(zoo_classifier("gap-flatten-gemm").model, tmp_path / "model.onnx")
    with pytest.raises(MethodError, match="needs a CALM model"):
        with_maps(path, "calm", tmp_path / "maps.onnx")


@pytest.mark.parametrize("name", ["gap-flatten-gemm", "flatten-gemm", "global-max-pool", "squeezenet"])
def test_openvino(name, tmp_path):
    openvino = pytest.importorskip("openvino", reason="OpenVINO is missing: pip install 'camrt[openvino]'")
    whole = zoo_classifier(name)
    path = save(whole.model, tmp_path / "model.onnx")
    methods = [*METHODS, "score"]
    made = with_maps(path, methods, tmp_path / "maps.onnx", target="A")
    compiled = openvino.Core().compile_model(str(made), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    images, target = images_of(5, whole.size), np.array([0, 1, 2, -1, 3])
    images[1, 0, 2, 3] = np.nan
    found = compiled({"images": images, "target": target})
    names = ["logits", *(f"saliency_{method}" for method in methods)]
    expected = run(made, {"images": images, "target": target}, *names)
    for output, there in zip(names, expected, strict=True):
        here = found[output]
        rows = [0, 2, 3, 4] if output == "logits" else slice(None)  # its layers make numbers of NaN
        np.testing.assert_allclose(
            here[rows], there[rows], rtol=0, atol=2e-3 if output.endswith(("pixab", "score")) else 2e-5
        )
        assert output == "logits" or not here[[1, 4]].any()
    with pytest.raises(RuntimeError):
        compiled({"images": images, "target": target[:3]})


@pytest.mark.parametrize("name", ["gap-flatten-gemm", "global-max-pool"])
def test_tensorrt_takes_them(name, tmp_path):
    pytest.importorskip(
        "tensorrt_rtx_bindings", reason="TensorRT for RTX is missing: pip install 'camrt[dev]'"
    )
    whole = zoo_classifier(name)
    path = save(whole.model, tmp_path / "model.onnx")
    made = with_maps(path, [*METHODS, "gradient", "score"], tmp_path / "maps.onnx", target="A")
    builder = PlanBuilder(import_bindings("tensorrt-rtx", running=False), BuildOptions("fp32"))
    shapes = {"images": whole.size, "target": ()}
    assert builder.build(onnx.load(made), label="file with maps", shapes=shapes, batch=None)
