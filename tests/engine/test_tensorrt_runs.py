"""Plans are given what they take and give what they should: by a TensorRT that ONNX Runtime stands in for.

Tensors are torch's on the CPU, and plans are graphs, which ONNX Runtime runs at the addresses it is given.
Streams do what was queued on them as late as they may: when another one waits for them.
"""

import contextlib
from enum import Enum
from types import SimpleNamespace

import numpy as np
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, load_from_string

import camrt
from camrt.engine.build import build_engine
from camrt.engine.runtime.ort_cpu import OnnxRuntime
from camrt.errors import BackendError, SmallerBatchWarning
from camrt.export.io.model_file import read_model
from helpers.tolerances import assert_close
from helpers.zoo import HEADS, classifier, save

pytest.importorskip("torch")

import torch

from camrt.engine.device import TorchDevice
from camrt.engine.runtime.trt import ALIGNMENT, TensorRT, numbered_cuda_device
from camrt.engine.tensorrt_plans.bindings import Bindings
from helpers.gpu_sync_guard import forbid_gpu_sync

DataType = Enum("DataType", "FLOAT HALF BF16 INT32")
TensorIOMode = Enum("TensorIOMode", "NONE INPUT OUTPUT")
ELEMENTS = {
    TensorProto.FLOAT: (DataType.FLOAT, torch.float32),
    TensorProto.FLOAT16: (DataType.HALF, torch.float16),
    TensorProto.BFLOAT16: (DataType.BF16, torch.bfloat16),
}


class Stream:
    """A stream that is never ahead of who waits for it."""

    def __init__(self, device=None):
        self.cuda_stream = id(self)
        self.queued = []

    def wait_stream(self, other):
        queued, other.queued = other.queued, []
        for work in queued:
            work()


class Engine:
    """A plan whose tensors are listed last first."""

    def __init__(self, plan, card):
        self.card = card
        self.session = ort.InferenceSession(plan, providers=["CPUExecutionProvider"])
        graph = load_from_string(plan).graph
        self.kinds = {one.name: one.type.tensor_type for one in (*graph.input, *graph.output)}
        self.given = [one.name for one in graph.input]
        self.names = list(reversed(self.kinds))
        self.num_io_tensors = len(self.names)
        self.get_tensor_name = self.names.__getitem__
        self.found = {}

    def get_tensor_dtype(self, name):
        return ELEMENTS[self.kinds[name].elem_type][0]

    def get_tensor_mode(self, name):
        return TensorIOMode.INPUT if name in self.given else TensorIOMode.OUTPUT

    def get_tensor_shape(self, name):
        return tuple(
            size.dim_value if size.HasField("dim_value") else -1 for size in self.kinds[name].shape.dim
        )

    def get_tensor_profile_shape(self, name, profile):
        assert profile == 0
        shape = self.get_tensor_shape(name)
        assert shape[0] == -1, "TensorRT does not say what this is for a static shape"
        return [(rows, *shape[1:]) for rows in self.card.batches]

    def create_execution_context(self):
        self.card.contexts.append(Context(self))
        return self.card.contexts[-1]

    def run(self, shapes, addresses):
        """Runs it, from and to where it is told; gives the shapes of the outputs."""
        binding = self.session.io_binding()
        outputs = [name for name in self.names if name not in self.given]
        for name in self.given:
            self.bind(binding.bind_input, name, shapes, addresses)
        for name in outputs:
            if name in addresses:
                self.bind(binding.bind_output, name, shapes, addresses)
            else:
                binding.bind_output(name, "cpu")
        self.session.run_with_iobinding(binding)
        return {name: tuple(one.shape()) for name, one in zip(outputs, binding.get_outputs(), strict=True)}

    def bind(self, bind, name, shapes, addresses):
        kind = self.kinds[name].elem_type
        bind(name, "cpu", 0, element_type=kind, shape=shapes[name], buffer_ptr=addresses[name])

    def outputs(self, shapes):
        """Shapes of the outputs, for those of the inputs."""
        key = tuple(shapes.items())
        if key not in self.found:
            held = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
            self.found[key] = self.run(shapes, {name: values.ctypes.data for name, values in held.items()})
        return self.found[key]


class Context:
    """What runs it: `shapes` and `addresses` are those of the next run, `ran` those of all runs."""

    def __init__(self, engine):
        self.engine = engine
        self.card = engine.card
        self.shapes, self.addresses, self.ran = {}, {}, []

    def set_input_shape(self, name, shape):
        wanted = self.engine.get_tensor_shape(name)
        least, _, most = self.card.batches
        fits = all(size in (own, -1) for own, size in zip(shape, wanted, strict=True))
        self.shapes[name] = shape
        return fits and (wanted[0] != -1 or least <= shape[0] <= most)

    def get_tensor_shape(self, name):
        if max(shape[0] for shape in self.shapes.values()) > self.card.holds:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return self.engine.outputs(self.shapes)[name]

    def set_tensor_address(self, name, address):
        self.addresses[name] = address
        return address > 0

    def execute_async_v3(self, handle):
        assert self.addresses.keys() == self.engine.kinds.keys()
        stream = next(one for one in self.card.streams if one.cuda_stream == handle)
        shapes = self.shapes | self.engine.outputs(self.shapes)
        addresses, self.addresses = self.addresses, {}  # memory of one run is not there in the next
        self.ran.append((stream, shapes, addresses))
        stream.queued.append(lambda: self.engine.run(shapes, addresses))
        return self.card.works


@pytest.fixture
def card(monkeypatch):
    """A card that is none, in a process where memory that was not written to is NaN."""
    made = SimpleNamespace(batches=(2, 4, 8), holds=99, works=True, contexts=[], streams=[])

    def stream(device=None):
        made.streams.append(Stream())
        return made.streams[-1]

    made.current = stream()
    module = SimpleNamespace(
        DataType=DataType,
        TensorIOMode=TensorIOMode,
        Logger=type("Logger", (), {"__init__": lambda self, severity: None, "ERROR": 1}),
        Runtime=lambda logger: SimpleNamespace(deserialize_cuda_engine=lambda plan: Engine(plan, made)),
    )
    folder = SimpleNamespace(read_plan=lambda model, label: model.SerializeToString())
    monkeypatch.setattr("camrt.engine.runtime.trt.numbered_cuda_device", lambda device: torch.device("cpu"))
    monkeypatch.setattr(torch.cuda, "Stream", stream)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device=None: made.current)
    monkeypatch.setattr(torch.cuda, "device", lambda device: contextlib.nullcontext())
    made.backend = TensorRT(folder, Bindings("tensorrt", module, "0", None), "cuda")
    made.make_runner = lambda *options: made.backend.make_runner(graph(*options), label="graph")
    torch.use_deterministic_algorithms(True)
    yield made
    torch.use_deterministic_algorithms(False)


def graph(element=TensorProto.FLOAT, rows="N"):
    """y = x·x + w, of which z is the sum of each row, in float32 between tensors of a type."""
    nodes = [
        helper.make_node("Cast", ["x"], ["x32"], to=TensorProto.FLOAT),
        helper.make_node("Cast", ["w"], ["w32"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["x32", "x32"], ["xx"]),
        helper.make_node("Add", ["xx", "w32"], ["y32"]),
        helper.make_node("ReduceSum", ["y32", "axes"], ["z32"], keepdims=0),
        helper.make_node("Cast", ["y32"], ["y"], to=element),
        helper.make_node("Cast", ["z32"], ["z"], to=element),
    ]
    values = {
        name: helper.make_tensor_value_info(name, element, [rows, *([] if name == "z" else [3])])
        for name in "xwyz"
    }
    made = helper.make_graph(
        nodes, "graph", [values["x"], values["w"]], [values["y"], values["z"]],
        [helper.make_tensor("axes", TensorProto.INT64, [1], [1])],
    )  # fmt: skip
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def rows_of(count, seed=0):
    return torch.from_numpy(np.random.default_rng(seed).standard_normal((count, 3), np.float32))


def aligned(values):
    """The same, where TensorRT takes it as it lies."""
    room = torch.empty(values.numel() + ALIGNMENT // 4)
    start = -room.data_ptr() % ALIGNMENT // 4
    made = room[start : start + values.numel()].view(values.shape)
    return made.copy_(values)


def check(found, x, w, dtype="float32"):
    y = x.double().numpy() ** 2 + w.double().numpy()
    assert [one.dtype for one in found] == [torch.float32, torch.float32]
    assert_close(found[0].numpy(), y, dtype)
    assert_close(found[1].numpy(), y.sum(1), dtype)


@pytest.mark.parametrize("count", [1, 2, 5, 8, 9, 19])
def test_any_number_of_rows(count, card):
    """Fewer than the plan takes, as many, more, and more with too few left over."""
    x, w = rows_of(count), rows_of(count, 1)
    runner = card.make_runner()
    with forbid_gpu_sync():
        found = runner(x, extra_inputs={"w": w})
    check(found, x, w)
    assert sum(shapes["x"][0] for _, shapes, _ in card.contexts[0].ran) == max(count, 2) + (count == 9)


@pytest.mark.parametrize("count", [1, 4, 9])
def test_a_plan_of_a_fixed_batch(count, card):
    x, w = rows_of(count), rows_of(count, 1)
    check(card.make_runner(TensorProto.FLOAT, 4)(x, extra_inputs={"w": w}), x, w)
    assert all(shapes["x"] == (4, 3) for _, shapes, _ in card.contexts[0].ran)


def test_no_rows_give_none(card):
    y, z = card.make_runner()(rows_of(0), extra_inputs={"w": rows_of(0)})
    assert (tuple(y.shape), tuple(z.shape)) == ((0, 3), (0,))


@pytest.mark.parametrize("given", [torch.float32, torch.float16, torch.bfloat16, torch.float64], ids=str)
@pytest.mark.parametrize("element", ELEMENTS, ids=TensorProto.DataType.Name)
def test_types(element, given, card):
    runner = card.make_runner(element)
    kind = ELEMENTS[element][1]
    x, w = rows_of(5).to(kind).to(given), rows_of(5, 1).to(kind).to(given)
    with forbid_gpu_sync():
        found = runner(x, extra_inputs={"w": w})
    check(found, x.to(kind), w.to(kind), str(kind).removeprefix("torch."))
    made = runner.allocate_rows((4, 3))
    assert (made.dtype, made.device, tuple(made.shape)) == (kind, torch.device("cpu"), (4, 3))


def test_only_what_is_asked_for_is_returned_in_that_order(card):
    x, w = rows_of(3), rows_of(3, 1)
    runner = card.make_runner()
    assert runner.outputs == ("y", "z")  # as in the graph, whatever the plan's order
    z, y = runner(x, ["z", "y"], {"w": w})
    check([y, z], x, w)
    (z,) = runner(x, ["z"], {"w": w})
    assert tuple(z.shape) == (3,)


def test_any_strides_and_offsets(card):
    x, w = rows_of(6).T.contiguous().T, torch.cat([rows_of(1), rows_of(6, 1)])[1:]
    assert not x.is_contiguous()
    assert w.data_ptr() % ALIGNMENT
    check(card.make_runner()(x, extra_inputs={"w": w}), x, w)
    (_, _, addresses) = card.contexts[0].ran[0]
    assert addresses["w"] != w.data_ptr()


def test_what_can_be_taken_as_it_lies_is_not_copied(card):
    x, w = aligned(rows_of(6)), aligned(rows_of(6, 1))
    check(card.make_runner()(x, extra_inputs={"w": w}), x, w)
    (_, _, addresses) = card.contexts[0].ran[0]
    assert (addresses["x"], addresses["w"]) == (x.data_ptr(), w.data_ptr())


def test_runs_come_after_what_the_callers_stream_holds_and_one_after_another(card):
    runner = card.make_runner()
    w = aligned(rows_of(6, 1))
    for seed in range(3):
        card.current = torch.cuda.Stream()
        x = aligned(torch.full((6, 3), torch.nan))
        card.current.queued.append(lambda x=x, seed=seed: x.copy_(rows_of(6, seed)))
        check(runner(x, extra_inputs={"w": w}), rows_of(6, seed), w)
    streams = {stream for stream, _, _ in card.contexts[0].ran}
    assert len(streams) == 1
    assert card.current not in streams


def test_a_batch_that_memory_does_not_hold_is_halved(card):
    card.holds = 3
    x, w = rows_of(8), rows_of(8, 1)
    with pytest.warns(SmallerBatchWarning, match="does not hold"):
        found = card.make_runner()(x, extra_inputs={"w": w})
    check(found, x, w)
    assert [shapes["x"][0] for _, shapes, _ in card.contexts[0].ran] == [2, 2, 2, 2]


def test_a_failure_is_said(card):
    runner = card.make_runner()
    with pytest.raises(BackendError, match="TensorRT failed while running the graph"):
        runner(torch.zeros(4, 5), extra_inputs={"w": rows_of(4)})
    card.works = False
    with pytest.raises(BackendError, match="TensorRT failed while running the graph"):
        runner(rows_of(4), extra_inputs={"w": rows_of(4)})
    assert not any(stream.queued for stream in card.streams)  # nothing runs on memory that is given back


def test_a_tensor_that_lies_elsewhere_is_refused(card):
    with pytest.raises(BackendError, match="'w' of the graph lies on meta, and its plan runs on cpu: put it"):
        card.make_runner()(rows_of(3), extra_inputs={"w": rows_of(3).to("meta")})


METHODS = ("pixab", "ablation", "gradcam", "gradient", "score", "eigen")


@pytest.mark.parametrize("name", ["gap-flatten-gemm", "gemm-relu-gemm", "squeeze-and-excite-behind-the-cut"])
def test_a_model_is_explained_as_by_onnx_runtime(name, card, tmp_path):
    part = HEADS[name].make(np.random.default_rng(0), 6, 5, 4, 3)
    path = save(classifier(part, np.random.default_rng(1)).model, tmp_path / "model.onnx")
    ours, theirs = build_engine(read_model(path), card.backend, OnnxRuntime()), camrt.load(path)
    batch = np.random.default_rng(0).standard_normal((9, 3, 10, 8), np.float32)  # the last row by itself
    for method in METHODS:
        found, expected = (one.explain(batch, method) for one in (ours, theirs))
        assert_close(found.maps, expected.maps, factor=50)  # other graphs, in another order
        assert_close(found.logits, expected.logits, factor=10)
    assert sum(len(context.ran) for context in card.contexts) > len(METHODS)


def test_the_place(card):
    assert isinstance(card.backend.device, TorchDevice)
    assert card.backend.device.device == torch.device("cpu")


def test_cards_are_numbered(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(BackendError, match="this torch sees no GPU: install one that is built for CUDA"):
        numbered_cuda_device("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    assert numbered_cuda_device("cuda") == torch.device("cuda", 1)
    assert numbered_cuda_device("cuda:0") == torch.device("cuda", 0)
    with pytest.raises(BackendError, match="there is no 'cuda:2': this torch sees 2 GPUs, numbered from 0"):
        numbered_cuda_device("cuda:2")
    with pytest.raises(BackendError, match="torch knows no device 'cuda:first': pass 'cuda' or 'cuda:N'"):
        numbered_cuda_device("cuda:first")
