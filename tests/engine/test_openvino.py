"""OpenVINO answers what ONNX Runtime answers, or refuses, or says that it does not."""

from __future__ import annotations

import os
import pickle
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

import camrt
from camrt.engine.build import build_engine
from camrt.engine.plan_recorder import GraphRecorder, run_every_graph
from camrt.engine.runtime import make_onnx_runtime, openvino
from camrt.engine.runtime.openvino import OpenVino
from camrt.engine.runtime.ort_cpu import OnnxRuntime
from camrt.errors import BackendError, DeadlineError, InputError, MemoryLimitError, SmallerBatchWarning
from camrt.export.adjoint import is_gradient
from camrt.export.budget import Budget, within_budget
from camrt.export.io.model_file import read_model
from helpers import hostile_models
from helpers.concurrent_calls import ask_from_threads
from helpers.tolerances import assert_close
from helpers.zoo import HEADS, Net, classifier, model_of, save

pytestmark = pytest.mark.skipif(
    find_spec("openvino") is None, reason="OpenVINO is missing: pip install 'camrt[openvino]'"
)
METHODS = ("pixab", "ablation", "gradcam", "score", "opticam", "gradient")
OPTIONS: dict[str, dict[str, Any]] = {"opticam": {"steps": 2}}
# One in four, and those in which a square weight is read in two ways or an input is an output.
GRAPHS = sorted(
    {
        *list(HEADS)[::4],
        "gemm-hard-swish-gemm",
        "convolution-3x3-behind-the-cut",
        "one-channel-spread-over-three",
    }
)
FIXED = ["gap-flatten-gemm", "gemm-relu-gemm"]


def has_bf16() -> bool:
    try:
        OpenVino(precision="bf16")
    except BackendError:
        return False
    return True


def precisions() -> list[Any]:
    missing = pytest.mark.skipif(
        find_spec("openvino") is None or not has_bf16(), reason="this processor has no bfloat16"
    )
    return ["fp32", pytest.param("bf16", marks=missing)]


class Recorder(GraphRecorder):
    """It makes graphs as OpenVINO takes them."""

    supports_scatter_add = OpenVino.supports_scatter_add


def whole_of(name: str, batch: int | str = "N") -> Any:
    part = HEADS[name].make(np.random.default_rng(0), 6, 5, 4, 3)
    return classifier(part, np.random.default_rng(1), batch=batch)


def saved(name: str, folder: Path, batch: int | str = "N") -> Path:
    return save(whole_of(name, batch).model, folder / "model.onnx")


def images(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, 3, 10, 8), np.float32)


def graph_of(*nodes: onnx.NodeProto, initializers: Any = (), shape: Any = ("N", 4, 4)) -> onnx.ModelProto:
    constants = [numpy_helper.from_array(values, name) for name, values in initializers]
    return model_of(nodes, constants, shape, None, source="x", end="y")


# ---------------------------------------------------------------- answers


@pytest.mark.parametrize("precision", precisions())
@pytest.mark.parametrize("name", GRAPHS)
def test_every_graph_of_a_model_answers_as_onnxruntime_for_any_number_of_rows(name, precision, tmp_path):
    rng = np.random.default_rng(2)
    recorder = Recorder()
    engine = build_engine(read_model(saved(name, tmp_path)), recorder, OnnxRuntime(few_runs=True))
    run_every_graph(engine, (10, 8), gradients=True)
    runtime = OpenVino(precision=precision)
    for one in recorder.graphs:
        expected = make_onnx_runtime(threads=1).make_runner(one.model, label=one.label, batch=one.batch)
        ours = runtime.make_runner(one.model, label=one.label, batch=one.batch)
        assert ours.outputs == expected.outputs
        kind = "openvino-gradient" if is_gradient(one.model) else f"openvino-{precision}"
        for rows in (1, 3, 1):  # a request that ran fewer rows before is not to be run again
            feeds = {
                key: rng.standard_normal((rows, *shape), np.float32) for key, shape in one.shapes.items()
            }
            first, *others = feeds
            given = feeds[first], None, {key: feeds[key] for key in others}
            for here, there in zip(ours(*given), expected(*given), strict=True):
                assert here.dtype == there.dtype
                assert_close(here, there, kind)


@pytest.mark.parametrize("name", FIXED)
def test_an_engine_explains_as_one_on_onnxruntime_does(name, tmp_path):
    path = saved(name, tmp_path)
    ours, theirs = camrt.load(path, backend="openvino"), camrt.load(path)
    batch = images(5)
    assert_close(ours.predict(batch), theirs.predict(batch), "openvino-fp32")
    for method in METHODS:
        options = OPTIONS.get(method, {})
        here, there = (engine.explain(batch, method, targets=1, **options) for engine in (ours, theirs))
        assert_close(here.raw, there.raw, "openvino-gradient")
    assert {one.question for one in ours.verification} == {one.question for one in theirs.verification}


@pytest.mark.realdata
@pytest.mark.skipif("CAMRT_DATA" not in os.environ, reason="CAMRT_DATA does not name a folder of real models")
@pytest.mark.parametrize("precision", precisions())
@pytest.mark.parametrize("name", ["brain_mri_cnn", "mobilenet_v2", "mobilenet_v3_small", "squeezenet1_0"])
def test_a_real_model_answers_as_on_onnxruntime(name, precision):
    path = Path(os.environ["CAMRT_DATA"]) / "models" / f"{name}.onnx"
    ours, theirs = camrt.load(path, backend="openvino", precision=precision), camrt.load(path)
    shape = theirs.interface.probe_shape(2, None)
    batch = np.random.default_rng(0).standard_normal(shape, np.float32)
    expected = theirs.predict(batch)
    assert_close(ours.predict(batch), expected, f"openvino-{precision}")
    for method in ("pixab", "ablation", "gradcam"):
        here, there = (engine.explain(batch, method, targets=0).raw for engine in (ours, theirs))
        for mine, other in zip(here, there, strict=True):
            agreement = np.corrcoef(mine.ravel(), other.ravel())[0, 1]
            assert agreement > (0.98 if precision == "bf16" else 0.99999)


def test_no_rows_give_no_rows():
    runner = OpenVino(threads=1).make_runner(whole_of("gemm-relu-gemm").model, label="model")
    assert [output.shape for output in runner(images(0))] == [(0, 3)]


@pytest.mark.parametrize("count", [1, 4, 9])
def test_a_fixed_batch_is_run_in_pieces(count, tmp_path):
    path = saved("gemm-relu-gemm", tmp_path, batch=4)
    ours, theirs = camrt.load(path, backend="openvino"), camrt.load(path)
    for method in ("pixab", "gradcam"):
        here, there = (engine.explain(images(count), method).raw for engine in (ours, theirs))
        assert_close(here, there, "openvino-gradient")


def test_threads_get_what_they_asked_for(tmp_path):
    engine = camrt.load(saved("gemm-relu-gemm", tmp_path), backend="openvino")
    batches = [images(rows, rows) for rows in range(1, 7)]
    expected = [engine.explain(batch, "gradcam", targets=1).raw for batch in batches]
    found = ask_from_threads(lambda batch: engine.explain(batch, "gradcam", targets=1).raw, batches, 5)
    for answers, wanted in zip(found, expected, strict=True):
        assert len(answers) == 5
        for answer in answers:
            assert_close(answer, wanted)


# ---------------------------------------------------------------- what it computes in, and where


@pytest.mark.parametrize("precision", precisions())
def test_float32_is_what_it_computes_in_unless_told_otherwise(precision):
    model = whole_of("gemm-relu-gemm").model
    given = {} if precision == "fp32" else {"precision": precision}
    compiled = OpenVino(threads=1, **given).make_runner(model, label="model")._ready()._compiled
    kind = compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
    assert kind == {"fp32": "f32", "bf16": "bf16"}[precision]
    assert compiled.get_property("EXECUTION_MODE_HINT").name == "ACCURACY"
    assert compiled.get_property("INFERENCE_NUM_THREADS") == 1


@pytest.mark.parametrize("precision", precisions())
def test_an_engine_says_what_it_computes_in(precision):
    engine = camrt.load("default", backend="openvino", precision=precision)
    assert re.fullmatch(rf"openvino \d+\.\d+\.\d+, {precision} on CPU", engine.runtime)
    assert f"runtime {engine.runtime}, on NumPy's arrays" in engine.describe()


def test_gradients_stay_in_float32(monkeypatch):
    monkeypatch.setitem(openvino.CAPABILITIES, "bf16", "FP32")  # whatever this processor can
    asked = []
    load = openvino.import_openvino

    class Core:
        def __init__(self) -> None:
            self._core = load().Core()

        def __getattr__(self, name: str) -> Any:
            return getattr(self._core, name)

        def compile_model(self, graph: Any, device: str, options: dict[str, str]) -> Any:
            asked.append(options["INFERENCE_PRECISION_HINT"])
            return self._core.compile_model(graph, device, {**options, "INFERENCE_PRECISION_HINT": "f32"})

    class Package:
        def __getattr__(self, name: str) -> Any:
            return Core if name == "Core" else getattr(load(), name)

    monkeypatch.setattr(openvino, "import_openvino", Package)
    engine = camrt.load("default", backend="openvino", precision="bf16", verify=False)
    batch = np.zeros(engine.interface.probe_shape(1, None), np.float32)
    engine.explain(batch, "pixab")
    assert set(asked) == {"bf16"}
    engine.explain(batch, "gradient")
    assert asked[-1] == "f32"


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"device": "cuda"}, BackendError, "OpenVINO has no device 'cuda' here; it has .*CPU"),
        ({"device": "NPU.7"}, BackendError, r"OpenVINO has no device 'NPU\.7' here"),
        ({"device": "AUTO"}, BackendError, "OpenVINO has no device 'AUTO' here"),
        ({"precision": "int8"}, InputError, "precision='int8' must be one of"),
        ({"plans": "plans"}, InputError, "plans= is TensorRT's, and means nothing to backend='openvino'"),
    ],
    ids=str,
)
def test_what_it_does_not_have_is_refused_by_name(options, error, message):
    with pytest.raises(error, match=message):
        camrt.load("default", backend="openvino", **options)


def test_a_precision_that_the_processor_has_not_is_refused(monkeypatch):
    monkeypatch.setitem(openvino.CAPABILITIES, "bf16", "NO_SUCH_CAPABILITY")
    with pytest.raises(BackendError, match=r"this CPU \(.*\) does not compute in bf16, says OpenVINO"):
        camrt.load("default", backend="openvino", precision="bf16")


# ---------------------------------------------------------------- what it cannot run, or not within bounds


def test_operators_that_it_lacks_are_named():
    model = graph_of(
        helper.make_node("Det", ["x"], ["d"]),
        helper.make_node("Unsqueeze", ["d", "one"], ["y"]),
        initializers=[("one", np.array([1]))],
    )
    with pytest.raises(
        BackendError, match=r"refuses the head: it has no operator Det-17; backend='onnxruntime' may"
    ):
        OpenVino().make_runner(model, label="head")


def test_sizes_that_numbers_decide_are_refused():
    nodes = [helper.make_node("NonZero", ["x"], ["z"]), helper.make_node("Cast", ["z"], ["y"], to=1)]
    with pytest.raises(
        BackendError, match="how large 'z' of the model becomes is decided by numbers of the image"
    ):
        OpenVino().make_runner(graph_of(*nodes), label="model")


def test_loops_are_refused(tmp_path):
    model = hostile_models.load(hostile_models.endless_loop(tmp_path / "model.onnx", above=1e6))
    loop = next(node for node in model.graph.node if node.op_type == "Loop")
    within = helper.make_graph([loop], "branch", [], [])
    nested = graph_of(helper.make_node("If", ["x"], ["y"], then_branch=within, else_branch=within))
    for looping in (model, nested):
        with pytest.raises(BackendError, match=r"the model has a Loop .*which OpenVINO does not stop"):
            OpenVino().make_runner(looping, label="model")


def wide_layers(count: int = 6) -> onnx.ModelProto:
    net = Net(np.random.default_rng(0))
    last, channels = "images", 3
    for _ in range(count):
        weight, _ = net.weight(64, channels, 3, 3, fan=9 * channels)
        last, channels = net.add("Relu", net.add("Conv", last, weight, pads=[1] * 4)), 64
    logits, _ = net.gemm(net.pooled(last), 64, 3)
    net.add("Identity", logits, name="logits")
    return model_of(net.nodes, net.initializers, ("N", 3, 64, 64), ("N", 3))


def test_memory_is_asked_for_before_a_run_takes_it():
    model = wide_layers()
    batch = np.random.default_rng(0).standard_normal((32, 3, 64, 64), np.float32)
    expected = make_onnx_runtime(threads=1).make_runner(model, label="model")(batch)[0]
    with within_budget(Budget(40 << 20)):
        runner = OpenVino(threads=1).make_runner(model, label="model")
        with pytest.warns(
            SmallerBatchWarning, match="max_memory= does not allow 32 rows of the model: 16 are"
        ):
            found = runner(batch)[0]
    assert_close(found, expected, "openvino-fp32")
    with (
        within_budget(Budget(1 << 20)),
        pytest.raises(MemoryLimitError, match="at once for a run of the model"),
    ):
        OpenVino(threads=1).make_runner(model, label="model")


def test_constants_are_not_made_beforehand_in_any_amount():
    nodes = [
        helper.make_node("Expand", ["one", "sizes"], ["large"]),
        helper.make_node("ReduceSum", ["large"], ["sum"], keepdims=0),
        helper.make_node("Add", ["x", "sum"], ["y"]),
    ]
    constants = [("one", np.ones(1, np.float32)), ("sizes", np.array([1 << 12, 1 << 12]))]
    with within_budget(Budget(32 << 20)), pytest.raises(MemoryLimitError, match="constants of the model"):
        OpenVino().make_runner(graph_of(*nodes, initializers=constants), label="model")


def test_a_run_is_stopped_at_its_deadline_and_the_next_one_is_right():
    """A graph that was cancelled would go on to answer for the rows of then."""
    model = wide_layers()
    runner = OpenVino(threads=1).make_runner(model, label="model")
    many = np.random.default_rng(0).standard_normal((256, 3, 64, 64), np.float32)
    expected = [runner(many[:rows])[0] for rows in (1, 2)]

    def run_without_end() -> None:
        while True:
            runner(many)

    for seconds in (0.01, 0.05, 0.1, 0.2):
        with within_budget(Budget(seconds=seconds, call="explaining")), pytest.raises(DeadlineError):
            run_without_end()
        for rows, wanted in zip((1, 2), expected, strict=True):
            assert_close(runner(many[:rows])[0], wanted)


# ---------------------------------------------------------------- weights that are read in two ways


def test_a_square_matrix_that_is_read_in_two_ways():
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((6, 6)).astype(np.float32)
    nodes = [
        helper.make_node("Gemm", ["x", "w"], ["there"], transB=1),
        helper.make_node("Relu", ["there"], ["active"]),
        helper.make_node("Gemm", ["active", "w"], ["y"]),
    ]
    model = graph_of(*nodes, initializers=[("w", weight)], shape=("N", 6))
    x = rng.standard_normal((3, 6)).astype(np.float32)
    expected = np.maximum(x.astype(np.float64) @ weight.T, 0) @ weight
    assert_close(OpenVino().make_runner(model, label="model")(x)[0], expected, "openvino-fp32")
    names = [tensor.name for tensor in openvino.separate_uses(model).graph.initializer]
    assert names == ["w", "w_camrt_use_1"]
    assert [tensor.name for tensor in model.graph.initializer] == ["w"]  # which is not changed


# ---------------------------------------------------------------- other processes

FORKED = """
import gc, os, sys, warnings
import numpy as np
import camrt

warnings.simplefilter("ignore")
engines = [camrt.load("default", threads=threads, backend="openvino") for threads in (1, None)]
batch = np.random.default_rng(0).uniform(size=engines[0].interface.probe_shape(2, None)).astype(np.float32)

def answers(engine):
    return [engine.predict(batch), engine.explain(batch, "pixab").maps, engine.explain(batch, "gradcam").maps]

expected = [answers(engine) for engine in engines]
codes = []
for number in range(2):
    child = os.fork()
    if child == 0:
        for engine, wanted in zip(engines, expected):
            for found, known in zip(answers(engine), wanted):
                np.testing.assert_allclose(found, known, rtol=1e-4, atol=1e-5)
        if number:
            del engines, engine
            gc.collect()
        sys.exit(7)
    codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
print(codes)
"""
SILENT = """
import os, sys, camrt
engine = camrt.load("default", backend="openvino", cache=False)
print("openvino_telemetry" in sys.modules, os.listdir(os.environ["HOME"]))
"""


def last_line(code: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
        env={**os.environ, **environment},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.strip().splitlines()[-1]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
def test_children_answer_as_their_parent_and_end():
    assert last_line(FORKED) == "[7, 7]"


def test_nobody_is_told_that_it_is_imported(tmp_path):
    unsaid = {name: "" for name in ("CI", "TF_BUILD", "JENKINS_URL") if name in os.environ}
    assert last_line(SILENT, HOME=str(tmp_path), **unsaid) == "False []"


def test_an_engine_is_pickled_as_how_to_load_it(tmp_path):
    engine = camrt.load(saved("gap-flatten-gemm", tmp_path), backend="openvino", threads=1)
    data = pickle.dumps(engine)
    expected, runtime = engine.predict(images(2)), engine.runtime
    del engine
    again = pickle.loads(data)
    assert again.runtime == runtime
    assert_close(again.predict(images(2)), expected)
