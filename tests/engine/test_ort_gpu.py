"""ONNX Runtime on tensors that stay where they are: the CPU provider stands in for those of a GPU."""

import gc
import os
import threading
import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from helpers import hostile_models
from helpers.tolerances import assert_close
from helpers.zoo import HEADS, classifier, save

pytest.importorskip("torch", reason="torch is missing: pip install 'camrt[torch]'")

import onnxruntime as ort
import torch

from camrt.engine.build import build_engine
from camrt.engine.device import TorchDevice
from camrt.engine.plan_recorder import GraphRecorder, run_every_graph
from camrt.engine.runtime import ort_gpu as module
from camrt.engine.runtime.ort_cpu import OnnxRuntime
from camrt.engine.runtime.ort_gpu import OUT_OF_MEMORY, OnnxRuntimeGpu, OnnxRuntimeGpuRunner
from camrt.engine.runtime.ort_sessions import CUDA, RECORD_ASSIGNMENT, TENSORRT, StreamSessions
from camrt.engine.runtime.shape_nodes import CPU, find_shape_nodes
from camrt.engine.tensorrt_plans import cuda_devices as cards_module
from camrt.engine.tensorrt_plans.build import cast_to_precision
from camrt.errors import BackendError, DeadlineError, InputError, SmallerBatchWarning
from camrt.export.adjoint import GRADIENT
from camrt.export.budget import Budget, within_budget
from camrt.export.io.model_file import read_model
from helpers.gpu_sync_guard import forbid_gpu_sync

HOST = torch.device("cpu")
CARD = torch.device("cuda", 0)
FLOAT = TensorProto.FLOAT


def sessions(model, *, label="graph", providers=lambda stream: [(CPU, {})]):
    return StreamSessions(model, label, providers)


def on_tensors(model, batch=None):
    return OnnxRuntimeGpuRunner(sessions(model), "graph", batch, HOST)


def graph_of(nodes, inputs, outputs, constants=()):
    """A model of inputs and outputs (name, type, shape), and constants (name, values)."""
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info(*value) for value in inputs],
        [helper.make_tensor_value_info(*value) for value in outputs],
        [numpy_helper.from_array(np.asarray(values), name) for name, values in constants],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def several_outputs(batch="N"):
    """A classifier that gives its activations too."""
    part = HEADS["gemm-relu-gemm"].make(np.random.default_rng(0), 6, 5, 4, 3)
    model = classifier(part, np.random.default_rng(1), batch=batch).model
    model.graph.output.append(helper.make_tensor_value_info("A", FLOAT, None))
    return model


def images(count, seed=0):
    return np.random.default_rng(seed).standard_normal((count, 3, 10, 8), np.float32)


def on_host(model, batch=None):
    return OnnxRuntime(threads=1).make_runner(model, label="graph", batch=batch)


# ---------------------------------------------------------------- runs


class Scattering(GraphRecorder):
    """It makes graphs as ONNX Runtime takes them."""

    supports_scatter_add = True


def graphs(name, folder):
    """Every graph that a model of the zoo is run by."""
    whole = classifier(HEADS[name].make(np.random.default_rng(0), 6, 5, 4, 3), np.random.default_rng(1))
    recorder = Scattering()
    engine = build_engine(read_model(save(whole.model, folder / "model.onnx")), recorder, OnnxRuntime())
    run_every_graph(engine, whole.size[1:], gradients=True)
    return list(recorder.graphs)


@pytest.mark.parametrize("name", ["gap-flatten-gemm", "gemm-relu-gemm", "sum-over-rows-of-means"])
def test_every_graph_of_a_model_gives_what_it_gives_on_the_host(name, tmp_path):
    rng = np.random.default_rng(2)
    ran = graphs(name, tmp_path)
    assert any(len(one.shapes) > 1 for one in ran)
    for one in ran:
        feeds = {key: rng.standard_normal((3, *shape), np.float32) for key, shape in one.shapes.items()}
        first, *others = feeds
        expected = OnnxRuntime(threads=1).make_runner(one.model, label=one.label, batch=one.batch)
        ours = on_tensors(one.model, one.batch)
        assert ours.outputs == expected.outputs
        found = ours(
            torch.from_numpy(feeds[first]), None, {key: torch.from_numpy(feeds[key]) for key in others}
        )
        for here, there in zip(
            found, expected(feeds[first], None, {key: feeds[key] for key in others}), strict=True
        ):
            assert here.dtype == torch.from_numpy(there).dtype
            assert_close(here.numpy(), there)


def test_outputs_are_those_asked_for_in_that_order():
    model = several_outputs()
    batch = images(3)
    logits, activations = on_host(model)(batch)
    runner = on_tensors(model)
    for fetch, expected in [
        (["A"], [activations]),
        (["A", "logits"], [activations, logits]),
        (["logits", "A", "logits"], [logits, activations, logits]),
    ]:
        for here, there in zip(runner(torch.from_numpy(batch), fetch), expected, strict=True):
            assert_close(here.numpy(), there)


@pytest.mark.parametrize("count", [1, 4, 9])
def test_a_fixed_batch_is_run_in_pieces(count):
    model = several_outputs(batch=4)
    batch = images(count)
    runner = on_tensors(model, 4)
    for here, there in zip(runner(torch.from_numpy(batch)), on_host(model, 4)(batch), strict=True):
        assert_close(here.numpy(), there)


def test_no_rows_give_no_rows():
    found = on_tensors(several_outputs())(torch.from_numpy(images(0)))
    assert [tuple(output.shape) for output in found] == [(0, 3), (0, 6, 5, 4)]


def layouts():
    values = torch.from_numpy(images(4))
    framed = torch.zeros(5, 3, 10, 8)
    framed[1:] = values
    odd = torch.zeros(values.numel() + 1)
    odd[1:] = values.flatten()
    yield "channels last", values.to(memory_format=torch.channels_last)
    yield "every other row", torch.stack([values, -values], dim=1).flatten(0, 1)[::2]
    yield "a slice", framed[1:]
    yield "an odd address", odd[1:].reshape(values.shape)
    yield "float64", values.double()
    yield "with a gradient", values.clone().requires_grad_()


@pytest.mark.parametrize(("values", "name"), [pytest.param(v, n, id=n) for n, v in layouts()])
def test_tensors_may_lie_as_they_like(values, name):
    model = several_outputs()
    given = values.detach().clone()
    found = on_tensors(model)(values)
    for here, there in zip(found, on_host(model)(images(4)), strict=True):
        assert not here.requires_grad
        assert_close(here.numpy(), there)
    assert torch.equal(values.detach(), given)


def test_addresses_are_as_tensorrt_wants_them(monkeypatch):
    runner = on_tensors(several_outputs())
    odd = torch.zeros(2 * 3 * 10 * 8 + 1)[1:].reshape(2, 3, 10, 8)
    assert odd.data_ptr() % 16
    copied = []
    monkeypatch.setattr(torch.Tensor, "clone", lambda values: copied.append(values) or values + 0)
    runner(odd)
    assert len(copied) == 1


def test_half_precision():
    model = cast_to_precision(several_outputs(), "fp16")
    batch = images(4)
    runner = on_tensors(model)
    rows = runner.allocate_rows(batch.shape)
    assert (rows.dtype, rows.device, tuple(rows.shape)) == (torch.float16, HOST, batch.shape)
    rows.copy_(torch.from_numpy(batch))
    expected = [found.astype(np.float32) for found in on_host(model)(batch.astype(np.float16))]
    for given in (rows, torch.from_numpy(batch)):  # cast by the caller, and by the runner
        for here, there in zip(runner(given), expected, strict=True):
            assert here.dtype == torch.float32
            assert_close(here.numpy(), there, "float16")


def test_types_of_outputs():
    kinds = {
        "half": TensorProto.FLOAT16, "brain": TensorProto.BFLOAT16, "double": TensorProto.DOUBLE,
        "long": TensorProto.INT64, "truth": TensorProto.BOOL,
    }  # fmt: skip
    model = graph_of(
        [helper.make_node("Cast", ["x"], [name], to=kind) for name, kind in kinds.items()],
        [("x", TensorProto.BFLOAT16, ["N"])],
        [(name, kind, ["N"]) for name, kind in kinds.items()],
    )
    runner = on_tensors(model)
    assert runner.allocate_rows((2,)).dtype == torch.bfloat16
    found = dict(zip(kinds, runner(torch.tensor([0.0, 3.0])), strict=True))
    assert {name: values.dtype for name, values in found.items()} == {
        "half": torch.float32, "brain": torch.float32, "double": torch.float64, "long": torch.int64,
        "truth": torch.bool,
    }  # fmt: skip
    assert {name: values.tolist() for name, values in found.items()} == {
        "half": [0, 3], "brain": [0, 3], "double": [0, 3], "long": [0, 3], "truth": [False, True]
    }  # fmt: skip


def test_nan_passes_through():
    batch = images(3)
    batch[1, 0, 2, 2] = np.nan
    model = several_outputs()
    found = on_tensors(model)(torch.from_numpy(batch))
    assert found[0][1].isnan().all()
    for here, there in zip(found, on_host(model)(batch), strict=True):
        assert_close(here.numpy(), there)


def test_outputs_are_not_copied_and_outlive_their_session(monkeypatch):
    addresses = []
    taken = module.from_dlpack
    monkeypatch.setattr(
        module, "from_dlpack", lambda value: addresses.append(value.data_ptr()) or taken(value)
    )
    model, batch = several_outputs(), images(64)
    runner = on_tensors(model)
    found = runner(torch.from_numpy(batch))
    assert [output.data_ptr() for output in found] == addresses
    held = set(addresses)
    expected = [output.clone() for output in found]
    again = runner(torch.from_numpy(-batch))
    assert not {output.data_ptr() for output in again} & held
    del runner, again
    gc.collect()
    noise = [torch.full_like(output, 7.0) for output in found for _ in range(8)]
    assert all(torch.equal(here, there) for here, there in zip(found, expected, strict=True))
    assert len(noise) == 16


def test_nothing_is_looked_at():
    runner = on_tensors(several_outputs())
    batch = torch.from_numpy(images(3)).double()
    with forbid_gpu_sync():
        runner(batch)


def test_two_threads_share_a_runner():
    model = several_outputs()
    runner = on_tensors(model)
    batches = [images(5, seed) for seed in range(2)]
    expected = [on_host(model)(batch) for batch in batches]
    wrong = []

    def work(number):
        for _ in range(50):
            for here, there in zip(runner(torch.from_numpy(batches[number])), expected[number], strict=True):
                try:
                    assert_close(here.numpy(), there)
                except AssertionError as error:
                    wrong.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


# ---------------------------------------------------------------- what goes wrong in a run


def test_a_tensor_that_lies_elsewhere_is_refused():
    with pytest.raises(BackendError, match="'images' of the graph lies on meta, and it runs on cpu"):
        on_tensors(several_outputs())(torch.empty((1, 3, 10, 8), device="meta"))


def test_an_input_of_no_number_is_refused():
    model = graph_of(
        [helper.make_node("Identity", ["x"], ["y"])],
        [("x", TensorProto.STRING, ["N"])],
        [("y", TensorProto.STRING, ["N"])],
    )
    with pytest.raises(BackendError, match=r"'x' of the graph is a tensor\(string\)"):
        on_tensors(model)


def hungry(threshold, batch="N"):
    """x (N, 1) -> x, by way of more memory than there is when N is above a threshold."""
    nodes = [
        helper.make_node("Shape", ["x"], ["sizes"]),
        helper.make_node("Gather", ["sizes", "first"], ["rows"], axis=0),
        helper.make_node("Greater", ["rows", "threshold"], ["many"]),
        helper.make_node("Where", ["many", "huge", "one"], ["columns"]),
        helper.make_node("Concat", ["rows", "columns"], ["wide"], axis=0),
        helper.make_node("Expand", ["x", "wide"], ["expanded"]),
        helper.make_node("ReduceMax", ["expanded"], ["y"], axes=[1]),
    ]
    constants = [
        ("first", np.zeros(1, np.int64)),
        ("threshold", np.full(1, threshold)),
        ("huge", np.full(1, 2**46)),
        ("one", np.ones(1, np.int64)),
    ]
    return graph_of(nodes, [("x", FLOAT, [batch, 1])], [("y", FLOAT, None)], constants)


def test_what_memory_does_not_hold_is_run_in_halves():
    runner = on_tensors(hungry(2))
    batch = torch.arange(5.0)[:, None]
    with pytest.warns(SmallerBatchWarning) as warned:
        (found,) = runner(batch)
    tried = ("not hold 5 rows of the graph: 3 are run", "not hold 3 rows of the graph: 2 are run")
    assert all(text in str(warning.message) for text, warning in zip(tried, warned, strict=True))
    assert torch.equal(found, batch)
    assert torch.equal(runner(batch)[0], batch)  # without another try


def test_what_memory_does_not_hold_at_all():
    batch = torch.arange(2.0)[:, None]
    with (
        pytest.warns(SmallerBatchWarning),
        pytest.raises(BackendError, match=r"does not hold a single row of the graph: .*Failed to allocate"),
    ):
        on_tensors(hungry(0))(batch)
    with pytest.raises(BackendError, match="does not hold the 3 rows that the graph takes at once: "):
        on_tensors(hungry(2, 3), 3)(batch)


@pytest.mark.parametrize(
    ("text", "short"),
    [
        (
            "bfc_arena.cc:360 AllocateRawInternal Failed to allocate memory for requested buffer of size 9",
            True,
        ),
        ("Available memory of 1024 is smaller than requested bytes of 4096", True),
        ("CUDA failure 2: out of memory ; GPU=0 ; expr=cudaMalloc((void**)&p, size);", True),
        ("CUBLAS failure 3: CUBLAS_STATUS_ALLOC_FAILED ; GPU=0", True),
        ("CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED ; GPU=0", True),
        ("CUDA failure 700: an illegal memory access was encountered ; GPU=0", False),
        ("Non-zero status code returned while running Reshape node.", False),
    ],
)
def test_what_says_that_memory_is_short(text, short):
    assert bool(OUT_OF_MEMORY.search(text)) == short


def test_an_endless_run_is_stopped_at_its_deadline(tmp_path):
    runner = on_tensors(onnx.load(hostile_models.endless_loop(tmp_path / "model.onnx")))
    with pytest.raises(DeadlineError, match=r"its deadline of 0\.2 s"), within_budget(Budget(seconds=0.2)):
        runner(torch.zeros(1, 3, 8, 8))


def test_loading_is_stopped_at_its_deadline():
    with pytest.raises(DeadlineError, match="its deadline of 1e-09 s"), within_budget(Budget(seconds=1e-9)):
        sessions(several_outputs()).session_for(0)


def test_a_graph_that_is_none_is_refused():
    model = graph_of([helper.make_node("Flub", ["x"], ["y"])], [("x", FLOAT, ["N"])], [("y", FLOAT, ["N"])])
    with pytest.raises(BackendError, match=r"onnxruntime refuses the graph: .*Flub"):
        sessions(model).session_for(0)


# ---------------------------------------------------------------- streams


def test_each_stream_has_a_session():
    asked = []
    own = sessions(several_outputs(), providers=lambda stream: asked.append(stream) or [(CPU, {})])
    assert own.session_for(1) is own.session_for(1)
    assert own.session_for(1).session is not own.session_for(7).session
    assert asked == [1, 7]


@pytest.mark.parametrize(("handle", "given"), [(0, 1), (94_000, 94_000)])
def test_the_default_stream_is_one_by_name(handle, given, monkeypatch):
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: SimpleNamespace(cuda_stream=handle))
    assert module.current_stream(CARD) == given
    assert module.current_stream(HOST) == 0


def test_a_run_takes_the_session_of_its_stream(monkeypatch):
    own = sessions(several_outputs())
    runner = OnnxRuntimeGpuRunner(own, "graph", None, HOST)
    seen = []
    session_for = own.session_for
    monkeypatch.setattr(own, "session_for", lambda stream: seen.append(stream) or session_for(stream))
    monkeypatch.setattr(module, "current_stream", lambda device: 5)
    runner(torch.from_numpy(images(1)))
    assert seen == [5]


# ---------------------------------------------------------------- what a provider leaves to the CPU


def test_nodes_that_count(tmp_path):
    adjoint = next(
        one.model for one in graphs("sum-over-rows-of-means", tmp_path) if one.label == "model's adjoint"
    )
    kinds = {adjoint.graph.node[number].op_type for number in find_shape_nodes(adjoint.graph)}
    assert {"Shape", "Gather", "ReduceProd", "Cast", "Slice", "Add"} <= kinds
    assert not kinds & {"Conv", "ConvTranspose", "Gemm", "Expand", "Pad", "Where", "Div", "ReduceMean"}


def test_nodes_that_look_like_counting():
    nodes = [
        helper.make_node("Shape", ["x"], ["sizes"]),
        helper.make_node("Constant", [], ["one"], value=numpy_helper.from_array(np.int64(1))),
        helper.make_node("Add", ["sizes", "one"], ["more"]),
        helper.make_node("Add", ["one", "one"], ["two"]),  # of no size
        helper.make_node("Add", ["sizes", "table"], ["big"]),  # of a large constant
        helper.make_node("Add", ["sizes", "indices"], ["mixed"]),  # of an input
        helper.make_node("Add", ["sizes", "one"], ["foreign"], domain="own"),
        helper.make_node("ConstantOfShape", ["more"], ["zeros"]),  # as large as it likes
    ]
    model = graph_of(
        nodes,
        [("x", FLOAT, ["N", 1]), ("indices", TensorProto.INT64, [2])],
        [("zeros", FLOAT, None)],
        [("table", np.zeros((200, 2), np.int64))],
    )
    assert find_shape_nodes(model.graph) == (0, 2)


class Claiming(ort.InferenceSession):
    """A session on the CPU that says it has other providers."""

    claimed: tuple[str, ...] = (CUDA, CPU)

    def __init__(self, model, options, providers, **more):
        super().__init__(model, options, providers=[CPU], **more)

    def get_providers(self):
        return list(self.claimed)


def provided(name, cache=None):
    return lambda stream: (
        module.cuda_provider("0", stream) if name == CUDA else module.tensorrt_provider("0", stream, cache)
    )


@pytest.mark.parametrize(
    ("asked", "claimed", "message"),
    [
        (CUDA, (CPU,), r"could not start its CUDA provider.*pip install 'onnxruntime-gpu\[cuda,cudnn\]'"),
        (
            TENSORRT,
            (CUDA, CPU),
            "could not start its TensorRT provider.*libnvinfer.so.10.*'tensorrt-cu13<11'",
        ),
        (TENSORRT, (TENSORRT, CPU), "could not start its CUDA provider"),
    ],
)
def test_a_provider_that_is_not_started_is_named(asked, claimed, message, monkeypatch):
    monkeypatch.setattr(ort, "InferenceSession", Claiming)
    monkeypatch.setattr(Claiming, "claimed", claimed)
    with pytest.raises(BackendError, match=message):
        sessions(several_outputs(), providers=provided(asked)).session_for(1)


@pytest.mark.parametrize(
    ("asked", "raised", "message"),
    [
        (
            TENSORRT,
            "Please install TensorRT libraries as mentioned in",
            "could not start its TensorRT provider",
        ),
        (CUDA, "CUDA_PATH is set but CUDA wasnt able to be loaded.", "could not start its CUDA provider"),
        (CUDA, "Unknown provider option", "onnxruntime refuses the graph: Unknown provider option"),
    ],
)
def test_what_is_raised_where_libraries_are_missing(asked, raised, message, monkeypatch):
    def fail(*_, **options):
        raise RuntimeError(raised)

    monkeypatch.setattr(ort, "InferenceSession", fail)
    with pytest.raises(BackendError, match=message):
        sessions(several_outputs(), providers=provided(asked)).session_for(1)


def test_operators_that_the_cpu_would_run_are_named(monkeypatch):
    monkeypatch.setattr(ort, "InferenceSession", Claiming)
    with pytest.raises(
        BackendError,
        match=r"CUDA provider does not take every operator of the graph: Conv, Flatten, Gemm, Relu would run",
    ):
        sessions(several_outputs(), providers=provided(CUDA)).session_for(1)
    counts = graph_of(
        [helper.make_node("Shape", ["x"], ["sizes"]), helper.make_node("ReduceProd", ["sizes"], ["y"])],
        [("x", FLOAT, ["N", "K"])],
        [("y", TensorProto.INT64, None)],
    )
    assert sessions(counts, providers=provided(CUDA)).session_for(1)


# ---------------------------------------------------------------- the backend


@pytest.fixture
def with_a_card(monkeypatch):
    """As if there were a card, and everything to use it."""
    monkeypatch.setattr(module, "list_cuda_devices", tuple)
    monkeypatch.setattr(ort, "get_available_providers", lambda: [TENSORRT, CUDA, CPU])
    monkeypatch.setattr(module, "numbered_cuda_device", lambda device: CARD)


def test_backends(with_a_card):
    cuda = OnnxRuntimeGpu("cuda", torch.device("cuda"))
    assert (cuda.name, cuda.supports_scatter_add, cuda.precision) == ("onnxruntime", True, None)
    assert isinstance(cuda.device, TorchDevice)
    assert cuda.device.device == CARD
    ((name, options),) = cuda._providers(1)
    assert name == CUDA
    assert {"device_id": "0", "user_compute_stream": "1", "use_tf32": "0"}.items() <= options.items()
    tensorrt = OnnxRuntimeGpu("tensorrt", CARD, cache=Path("engines"))
    assert (tensorrt.name, tensorrt.supports_scatter_add) == ("onnxruntime-tensorrt", True)
    first, behind = tensorrt._providers(7)
    assert first == (
        TENSORRT,
        {
            "device_id": "0", "user_compute_stream": "7", "trt_engine_cache_enable": "True",
            "trt_engine_cache_path": "engines",
        },
    )  # fmt: skip
    assert behind == module.cuda_provider("0", 7)[0]
    assert "trt_engine_cache_enable" not in OnnxRuntimeGpu("tensorrt", CARD)._providers(7)[0][1]


@pytest.mark.parametrize("precision", [None, "fp32", "fp16", "bf16"])
def test_the_precision_is_in_the_graph(precision, with_a_card, monkeypatch):
    made = []
    monkeypatch.setattr(module, "StreamSessions", lambda model, *_: made.append(model))
    monkeypatch.setattr(module, "OnnxRuntimeGpuRunner", lambda *_: None)
    backend = OnnxRuntimeGpu("cuda", CARD, precision=precision)
    plain = several_outputs()
    gradient = graph_of(
        [helper.make_node("Relu", ["x"], [GRADIENT])], [("x", FLOAT, ["N"])], [(GRADIENT, FLOAT, ["N"])]
    )
    for model in (plain, gradient):
        backend.make_runner(model, label="graph")
    kinds = [model.graph.input[0].type.tensor_type.elem_type for model in made]
    half = {"fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}
    assert kinds == [half.get(precision, FLOAT), FLOAT]
    assert plain.graph.input[0].type.tensor_type.elem_type == FLOAT


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"provider": "openvino"}, "no provider 'openvino'; choose from 'cuda', 'tensorrt'"),
        ({"device": HOST}, "cuda provider runs on a GPU, not on 'cpu'"),
        ({"precision": "int8"}, "precision='int8' must be one of 'fp32', 'fp16', 'bf16'"),
        ({"cache": "engines"}, "cache= keeps TensorRT's engines"),
    ],
)
def test_options_that_make_no_sense(options, message, with_a_card):
    with pytest.raises(InputError, match=message):
        OnnxRuntimeGpu(**{"provider": "cuda", "device": CARD, **options})


def test_a_missing_driver_is_told_first(monkeypatch):
    monkeypatch.setattr(cards_module, "LIBRARY", "no such library")
    with pytest.raises(BackendError, match="its driver is not installed"):
        OnnxRuntimeGpu("cuda", CARD)


@pytest.mark.parametrize(
    ("provider", "built", "message"),
    [
        (
            "cuda",
            [CPU],
            "without its CUDA provider: pip uninstall onnxruntime && pip install onnxruntime-gpu",
        ),
        ("tensorrt", [CUDA, CPU], "without its TensorRT provider: pip uninstall onnxruntime && pip install"),
    ],
)
def test_a_provider_that_was_not_built_is_named(provider, built, message, with_a_card, monkeypatch):
    monkeypatch.setattr(ort, "get_available_providers", lambda: built)
    with pytest.raises(BackendError, match=message):
        OnnxRuntimeGpu(provider, CARD)


def test_an_old_onnxruntime_is_refused(with_a_card, monkeypatch):
    monkeypatch.setattr(ort, "InferenceSession", object)
    with pytest.raises(BackendError, match=r"cannot say which operators.*'onnxruntime-gpu>=1\.24\.1'"):
        OnnxRuntimeGpu("cuda", CARD)


def test_a_torch_without_a_card_is_refused(monkeypatch):
    monkeypatch.setattr(module, "list_cuda_devices", tuple)
    monkeypatch.setattr(ort, "get_available_providers", lambda: [CUDA, CPU])
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(BackendError, match="this torch sees no GPU"):
        OnnxRuntimeGpu("cuda", CARD)


# ---------------------------------------------------------------- names that onnxruntime knows

LIBRARY = "onnxruntime/capi/libonnxruntime_providers_{}.so"


def opened(kind):
    """A provider's library: installed, or in the wheel that CAMRT_ONNXRUNTIME_GPU names."""
    name = LIBRARY.format(kind)
    installed = Path(ort.__file__).parent.parent / name
    wheel = os.environ.get("CAMRT_ONNXRUNTIME_GPU")
    if installed.exists():
        return installed.open("rb")
    if wheel is not None:
        return zipfile.ZipFile(wheel).open(name)
    return pytest.skip("onnxruntime-gpu is not installed, and CAMRT_ONNXRUNTIME_GPU does not name its wheel")


@pytest.mark.parametrize(("kind", "provider"), [("cuda", CUDA), ("tensorrt", TENSORRT)])
def test_providers_know_their_options(kind, provider):
    options = dict(provided(provider, "engines")(1))[provider]
    unseen = {*options, *(value for value in options.values() if value.startswith("k"))}
    before = b""
    with opened(kind) as file:
        while chunk := file.read(1 << 24):
            unseen -= {word for word in unseen if word.encode() in before + chunk}
            before = chunk[-64:]
    assert not unseen


def test_onnxruntime_knows_the_names_of_its_settings():
    """It takes any, and does nothing for those that it does not know."""
    folder = Path(ort.__file__).parent / "capi"
    core = b"".join(file.read_bytes() for file in sorted(folder.iterdir()) if "pybind11_state" in file.name)
    for name in (RECORD_ASSIGNMENT, module.NO_SYNCHRONIZE):
        assert name.encode() in core


# ---------------------------------------------------------------- with a card


@pytest.fixture(params=["cuda", "tensorrt"])
def backend(request):
    try:
        return OnnxRuntimeGpu(request.param, torch.device("cuda"))
    except BackendError as error:
        pytest.skip(str(error))


def ready(backend, model, batch=None):
    try:
        return backend.make_runner(model, label="graph", batch=batch)
    except BackendError as error:
        if "could not start" in str(error):
            pytest.skip(str(error))
        raise


def near(backend):
    """TensorRT rounds to TensorFloat-32, which has float16's precision; both add up in another order."""
    return {"dtype": "float16", "factor": 5} if backend.name == "onnxruntime-tensorrt" else {"factor": 50}


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["gap-flatten-gemm", "sum-over-rows-of-means"])
def test_a_card_gives_what_the_cpu_gives(name, backend, tmp_path):
    rng = np.random.default_rng(2)
    for one in graphs(name, tmp_path):
        feeds = {key: rng.standard_normal((3, *shape), np.float32) for key, shape in one.shapes.items()}
        first, *others = feeds
        expected = OnnxRuntime().make_runner(one.model, label=one.label, batch=one.batch)(
            feeds[first], None, {key: feeds[key] for key in others}
        )
        runner = ready(backend, one.model, one.batch)
        there = {key: backend.device.put(values) for key, values in feeds.items()}
        for stream in (torch.cuda.current_stream(), torch.cuda.Stream()):
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                found = runner(there[first], None, {key: there[key] for key in others})
                for here, values in zip(found, expected, strict=True):
                    assert here.device == backend.device.device
                    assert_close(here.cpu().numpy(), values, **near(backend))


@pytest.mark.gpu
@pytest.mark.parametrize("default", [True, False])
def test_a_card_is_not_waited_for_and_keeps_the_order(default, backend):
    if backend.name == "onnxruntime-tensorrt" and default:
        pytest.skip("TensorRT waits for the device when it runs on the default stream")
    model, values = several_outputs(), images(4)
    expected = on_host(model)(values)
    runner = ready(backend, model)
    with torch.cuda.stream(torch.cuda.current_stream() if default else torch.cuda.Stream()):
        given = backend.device.put(values)
        for _ in range(3):  # memory and algorithms are found
            runner(given)
        torch.cuda.synchronize()
        late = torch.zeros_like(given)
        torch.cuda._sleep(1_000_000_000)
        late.copy_(given)
        with forbid_gpu_sync():
            found = runner(late)
        late.zero_()
        assert not torch.cuda.current_stream().query()
        for here, there in zip(found, expected, strict=True):
            assert_close(here.cpu().numpy(), there, **near(backend))


@pytest.mark.gpu
def test_outputs_on_a_card_outlive_their_session(backend):
    model, values = several_outputs(), images(64)
    runner = ready(backend, model)
    found = runner(backend.device.put(values))
    del runner
    gc.collect()
    torch.full((1 << 20,), 7.0, device=backend.device.device)
    for here, there in zip(found, on_host(model)(values), strict=True):
        assert_close(here.cpu().numpy(), there, **near(backend))


@pytest.mark.gpu
def test_what_a_card_does_not_hold_is_run_in_halves(backend):
    if backend.name == "onnxruntime-tensorrt":
        pytest.skip("TensorRT does not take so large a graph at all")
    runner = ready(backend, hungry(2))
    batch = torch.arange(5.0, device=backend.device.device)[:, None]
    with pytest.warns(SmallerBatchWarning):
        (found,) = runner(batch)
    assert torch.equal(found, batch)


@pytest.mark.gpu
@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_half_precision_on_a_card(precision, backend):
    half = OnnxRuntimeGpu(
        "tensorrt" if backend.name == "onnxruntime-tensorrt" else "cuda",
        backend.device.device,
        precision=precision,
    )
    model, values = several_outputs(), images(4)
    try:
        runner = ready(half, model)
    except BackendError as error:
        if precision == "bf16":
            pytest.skip(str(error))
        raise
    for here, there in zip(runner(half.device.put(values)), on_host(model)(values), strict=True):
        kind = "float16" if precision == "fp16" else "bfloat16"
        assert_close(here.cpu().numpy(), there, kind, factor=5)  # every layer rounds
