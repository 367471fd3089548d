"""Runs on the CPU take no more memory than they may (`camrt.engine.runtime.arenas`)."""

import threading
import time
import warnings

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

import camrt
from camrt.engine.runtime import make_onnx_runtime
from camrt.engine.runtime.arenas import register_arena
from camrt.errors import DeadlineError, MemoryLimitError, SmallerBatchWarning
from camrt.export.budget import Budget, within_budget
from camrt.kernels.memory import resident_memory
from helpers.hostile_models import make_tensor, model_of

MIB = 1 << 20
FLOATS = TensorProto.FLOAT


def constant(name, value):
    return numpy_helper.from_array(np.array(value), name)


def total(*nodes, initializers=()):
    """A graph whose answer is its image plus the sum of the tensor "large"."""
    return model_of(
        [
            *nodes,
            helper.make_node("ReduceMean", ["large"], ["sum"], keepdims=0),
            helper.make_node("Add", ["image", "sum"], ["out"]),
        ],
        list(initializers),
        inputs=[("image", ("N", 1))],
        output=("out", ("N", 1)),
    )


NUMBER = [
    helper.make_node("ReduceMax", ["image"], ["largest"], keepdims=0),
    helper.make_node("Cast", ["largest"], ["number"], to=TensorProto.INT64),
]


def filled():
    """As many ones as the image's largest number."""
    return total(
        *NUMBER,
        helper.make_node("Reshape", ["number", "one"], ["shape"]),
        helper.make_node(
            "ConstantOfShape", ["shape"], ["large"], value=numpy_helper.from_array(np.float32([1]))
        ),
        initializers=[constant("one", [1])],
    )


def looped(body, outputs, state=()):
    """A Loop that runs as often as the image's largest number says."""
    graph = helper.make_graph(
        [helper.make_node("Identity", ["going"], ["go_on"]), body],
        "body",
        [
            helper.make_tensor_value_info("trip", TensorProto.INT64, []),
            helper.make_tensor_value_info("going", TensorProto.BOOL, []),
            *(helper.make_tensor_value_info(name, FLOATS, None) for name in state),
        ],
        [
            helper.make_tensor_value_info("go_on", TensorProto.BOOL, []),
            *(helper.make_tensor_value_info(name, FLOATS, None) for name in outputs),
        ],
    )
    begin = ["wide"] if state else []
    return total(
        *NUMBER,
        helper.make_node("Loop", ["number", "", *begin], ["large"], body=graph),
        initializers=[constant("wide", np.ones(1 << 18, np.float32))],
    )


def doubled():
    """A loop that doubles its state each time."""
    return looped(helper.make_node("Concat", ["state", "state"], ["next"], axis=0), ["next"], ["state"])


def gathered():
    """A loop that keeps a MiB each time."""
    return looped(helper.make_node("Relu", ["wide"], ["kept"]), ["kept"])


@pytest.mark.parametrize(
    ("model", "few", "many"),
    [(filled, 1000, 1e11), (filled, 1000, 1e8), (doubled, 3, 40), (gathered, 3, 1e6)],
)
def test_what_only_numbers_make_large_is_stopped_before_it_is_allocated(model, few, many):
    with within_budget(Budget(128 * MIB, seconds=60, call="explaining")):
        runner = make_onnx_runtime(threads=1).make_runner(model(), label="model")
        before = resident_memory()
        for _ in range(2):
            with pytest.raises(
                MemoryLimitError, match=r"explaining needs more .* run of the model; max_memory="
            ):
                runner(np.float32([[many]]))
            assert np.isfinite(runner(np.float32([[few]]))[0]).all()
        assert resident_memory() - before < 160 * MIB


def test_memory_that_a_large_run_took_is_given_back():
    with within_budget(Budget(256 * MIB)):
        runner = make_onnx_runtime(threads=1).make_runner(filled(), label="model")
        before = resident_memory()
        runner(np.float32([[5e7]]))
        assert resident_memory() - before < 40 * MIB


def test_every_size_is_run_however_many_came_before():
    with within_budget(Budget(64 * MIB)):
        runner = make_onnx_runtime(threads=1).make_runner(filled(), label="model")
        for numbers in range(1, 13):
            runner(np.float32([[numbers * 1e6]]))


def test_constants_are_not_made_beforehand_in_any_amount():
    """Each of 40 sums of constants is within the bound, and all of them are not."""
    count = 40
    parts = [f"part{i}" for i in range(count)]
    nodes = [
        helper.make_node("ConstantOfShape", ["shape"], ["zeros"]),
        *(helper.make_node("Add", ["zeros", f"number{i}"], [parts[i]]) for i in range(count)),
        *(helper.make_node("Mul", [part, "image"], [f"{part}_scaled"]) for part in parts),
        helper.make_node("Sum", [f"{part}_scaled" for part in parts], ["large"]),
    ]
    numbers = [constant(f"number{i}", np.float32([i])) for i in range(count)]
    model = total(*nodes, initializers=[constant("shape", [5_000_000]), *numbers])
    with within_budget(Budget(100 * MIB)):
        before = resident_memory()
        make_onnx_runtime(threads=1).make_runner(model, label="model")
        assert resident_memory() - before < 100 * MIB


def test_a_batch_that_does_not_fit_is_run_in_smaller_ones_and_answered_alike():
    channels = 64
    nodes = [
        helper.make_node("Conv", ["image", "weight"], ["features"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["features"], ["active"]),
        helper.make_node("GlobalAveragePool", ["active"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("MatMul", ["flat", "head"], ["logits"]),
    ]
    model = model_of(
        nodes,
        [make_tensor("weight", channels, 3, 3, 3), make_tensor("head", channels, 4)],
        inputs=[("image", ("N", 3, 64, 64))],
    )
    batch = np.random.default_rng(0).standard_normal((32, 3, 64, 64), np.float32)
    expected = make_onnx_runtime(threads=1).make_runner(model, label="model")(batch)[0]
    with within_budget(Budget(16 * MIB)):
        runner = make_onnx_runtime(threads=1).make_runner(model, label="model")
        with pytest.warns(SmallerBatchWarning, match=r"max_memory= does not allow 32 rows of the model: 16 "):
            found = runner(batch)[0]
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # what fits is known now
            runner(batch)
    with within_budget(Budget(MIB // 2)), pytest.warns(SmallerBatchWarning), pytest.raises(MemoryLimitError):
        make_onnx_runtime(threads=1).make_runner(model, label="model")(batch)


def test_sessions_of_two_bounds_are_not_made_at_the_same_time():
    within, leave = threading.Event(), threading.Event()

    def make():
        with register_arena(MIB):
            within.set()
            leave.wait(30)

    other = threading.Thread(target=make)
    other.start()
    try:
        assert within.wait(30)
        with register_arena(MIB) as shared:
            assert shared.limit == MIB
        with within_budget(Budget(seconds=0.3)), pytest.raises(DeadlineError), register_arena(2 * MIB):
            pass
    finally:
        leave.set()
        other.join()
    began = time.monotonic()
    with register_arena(2 * MIB) as own:
        assert own.limit == 2 * MIB
    assert time.monotonic() - began < 10


def test_an_engine_takes_what_it_was_loaded_with():
    assert camrt.load("default", max_memory=1 << 30, verify=False).max_memory == 1 << 30
    with pytest.raises(AttributeError):
        camrt.load("default", verify=False).max_memory = 1


@pytest.mark.filterwarnings("ignore::camrt.errors.SmallerBatchWarning")
def test_an_engine_with_little_memory_answers_alike():
    batch = np.random.default_rng(0).standard_normal((16, 3, 128, 128), np.float32)
    ample, tight = camrt.load("default", verify=False), camrt.load("default", max_memory=32 * MIB)
    for method in ("pixab", "gradcam", "gradient", "eigen"):
        np.testing.assert_allclose(
            tight.explain(batch, method).maps, ample.explain(batch, method).maps, atol=1e-5
        )
