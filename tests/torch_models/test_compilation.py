"""A compiled module gives the maps it gives without, and none of its Python runs."""

from __future__ import annotations

import ctypes
import shutil
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import pairwise

import numpy as np
import pytest
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import camrt
from camrt.engine.torch_models import compilation
from camrt.engine.torch_models import load as loading
from camrt.engine.torch_models.compilation import Compiler, CudaGraphRunner, choose_compiler
from camrt.engine.torch_models.model import TorchModel
from camrt.engine.torch_models.runners import ModuleForward
from camrt.errors import AdjointError, BackendError, InputError, SmallerBatchWarning
from helpers.gpu_sync_guard import forbid_gpu_sync
from helpers.tolerances import assert_close
from helpers.torch_nets import (
    CLASSES,
    Functional,
    Modular,
    Residual,
    Transformer,
    build_net,
    nn,
    random_images,
    torch,
)

METHODS = ("pixab", "ablation", "gradcam", "score", "gradient", "guided", "cam")
# What a compiled graph is run by: nothing, torch.compile alone, and its graph of gradients too.
CASES = {
    "modular": (Modular, "body", "eager"),
    "linear": (Modular, None, None),
    "functional": (Functional, "second", None),
    "residual": (Residual, "body", "aot_eager"),
    "transformer": (Transformer, None, None),
}
OLD_TORCHSCRIPT = pytest.mark.filterwarnings("ignore:.torch.jit.script:DeprecationWarning")  # torch's own
LACKING = {("transformer", "guided"), ("transformer", "cam"), ("modular", "cam"), ("residual", "cam")}


@pytest.fixture
def load(monkeypatch):
    """Loads a module with what is done to its graphs; verifying would trace more of them."""

    def loaded(net, compiler=None, *, size=(12, 16), verify=False, **options):
        monkeypatch.setattr(loading, "choose_compiler", lambda *_: compiler)
        return loading.load_module(net, size=size, verify=verify, **options)

    return loaded


def counted(kind):
    """A network of a class whose `forward` counts its calls, and so does a hook on each of its parts."""
    calls = []

    class Counted(kind):
        def forward(self, batch):
            calls.append("forward")
            return super().forward(batch)

    net = build_net(Counted)
    for part in net.modules():
        part.register_forward_hook(lambda *_: calls.append("hook"))
    return net, calls


def raw(engine, method, batch=None, classes=2):
    return engine.explain(random_images() if batch is None else batch, method, targets=classes).raw


@pytest.mark.parametrize("case", CASES)
def test_the_same_maps_without_any_python_of_the_module(case, load):
    kind, target, backend = CASES[case]
    batch, options = random_images(2), {"target": target, "batch_size": 200}  # few shapes
    net, calls = counted(kind)
    plain, engine = load(net, **options), load(net, Compiler(True, backend), **options)
    for method in (method for method in METHODS if (case, method) not in LACKING):
        expected = raw(plain, method, batch)
        first = raw(engine, method, batch)
        before = len(calls)
        again = raw(engine, method, batch)
        assert len(calls) == before > 0, method
        for found in (first, again):
            assert_close(found, expected)


def test_logits_and_a_softmax_at_the_end(load):
    class Ending(Modular):
        def forward(self, batch):
            return torch.softmax(super().forward(batch), dim=1)

    net = build_net(Ending)
    plain, compiled = load(net), load(net, Compiler(True, None), verify=True)
    assert compiled.verification
    for _ in range(2):
        assert_close(compiled.predict(random_images()), plain.predict(random_images()))


@OLD_TORCHSCRIPT
def test_it_compiles_with_inductor(tmp_path, monkeypatch):
    if shutil.which("g++") is None and shutil.which("clang++") is None:
        pytest.skip("torch.compile needs a C++ compiler here: apt-get install g++")
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    net = build_net(Functional)
    plain, compiled = (camrt.load(net, compile=how, size=(12, 16), verify=False) for how in (None, True))
    batch, weighting = random_images(2), np.eye(2, CLASSES, dtype=np.float32)
    expected = plain.input_gradients(batch, weighting)  # there and back, in one graph
    for _ in range(2):
        for found, wanted in zip(compiled.input_gradients(batch, weighting), expected, strict=True):
            assert_close(found, wanted, factor=8)


@OLD_TORCHSCRIPT
def test_a_missing_compiler_is_named(load, tmp_path, monkeypatch):
    from torch._inductor import config

    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    engine = load(build_net(Functional), Compiler("default"))
    with (
        config.patch({"cpp.cxx": ("no-compiler-of-this-name",)}),
        pytest.raises(BackendError, match=r"Functional was traced, but not compiled.*apt-get install g\+\+"),
    ):
        engine.predict(random_images())


# ---------------------------------------------------------------- the module itself


def state(net):
    return {
        "training": [part.training for part in net.modules()],
        "requires": [parameter.requires_grad for parameter in net.parameters()],
        "grad": [parameter.grad for parameter in net.parameters()],
        "values": [tensor.tolist() for tensor in net.state_dict().values()],
        "hooks": [(len(part._forward_hooks), len(part._forward_pre_hooks)) for part in net.modules()],
        "attributes": [sorted(vars(part)) for part in net.modules()],
        "random": torch.get_rng_state().tolist(),
        "modes": (
            torch.is_grad_enabled(),
            torch.is_inference_mode_enabled(),
            torch.is_autocast_enabled("cpu"),
        ),
        "class": (nn.Module.__call__, nn.Module.__getattr__),
    }


@pytest.mark.parametrize("backend", [None, "aot_eager"])
def test_nothing_has_changed(backend, load):
    net = build_net(Residual).train()
    net.stem.eval()
    net.body.weight.requires_grad_(False)
    before = state(net)
    engine = load(net, Compiler(True, backend), target="body")
    for method in ("ablation", "gradcam", "guided"):
        engine.explain(random_images(), method)
        assert state(net) == before


def test_what_is_explained_are_the_weights_of_the_moment(load):
    net, calls = counted(Modular)
    engine = load(net, Compiler(True, "aot_eager"), target="body")
    asked = ("ablation", "gradient")
    old = [raw(engine, method) for method in asked]
    optimizer = torch.optim.SGD(net.parameters(), lr=0.5)
    net(torch.from_numpy(random_images())).square().sum().backward()
    optimizer.step()
    calls.clear()
    new = [raw(engine, method) for method in asked]
    assert not calls, "an optimizer writes into the parameters: nothing is traced again"
    with torch.no_grad():
        net.stem[1].running_mean += 0.5
    newer = [raw(engine, method) for method in asked]
    values = {name: value * 0.9 for name, value in net.state_dict().items()}
    net.load_state_dict(values)
    newest = [raw(engine, method) for method in asked]
    assert not calls
    fresh = load(net, target="body")
    for method, *found in zip(asked, old, new, newer, newest, strict=True):
        assert_close(found[-1], raw(fresh, method))
        for one, other in pairwise(found):
            assert np.abs(one - other).max() > 1e-3 * np.abs(one).max()


def assign(net):
    values = {name: value * 0.9 for name, value in net.state_dict().items()}
    net.load_state_dict(values, assign=True)


def move(net):
    net.head.weight.data = net.head.weight.data * 2


def hook(net):
    net.body.register_forward_hook(lambda _, __, output: output * 2)


def swap(net):
    net.relu = nn.GELU()


def answer(net):
    net.relu.forward = torch.tanh


def narrow(net):
    net.to(torch.bfloat16)


@pytest.mark.parametrize("change", [assign, move, hook, swap, answer, narrow])
def test_what_has_been_replaced_is_traced_again(change, load):
    net, calls = counted(Modular)
    engine = load(net, Compiler(True, None), target="last")
    old = engine.predict(random_images())
    change(net)
    calls.clear()
    found = engine.predict(random_images())
    assert "forward" in calls
    expected = load(net, target="last").predict(random_images())
    assert_close(found, expected)
    assert np.abs(old - expected).max() > 1e-3 * np.abs(old).max()
    net.body._forward_hooks.clear()
    assert_close(engine.predict(random_images()), load(net, target="last").predict(random_images()))


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("method", ["ablation", "gradient"])
def test_half_types(kind, method, load):
    net = build_net(Modular).to(kind)
    plain, compiled = (load(net, how, target="body") for how in (None, Compiler(True, "aot_eager")))
    for _ in range(2):
        found = raw(compiled, method)
        assert found.dtype == np.float32
        assert_close(found, raw(plain, method), str(kind).removeprefix("torch."))


def test_autocast_is_what_it_was_when_it_runs(load):
    class Partly(Modular):
        def forward(self, batch):
            x = self.pool(self.relu(self.last(self.relu(self.body(self.stem(batch))))))
            with torch.autocast("cpu", enabled=False):
                return self.head(x.float().flatten(1))

    net = build_net(Partly)
    plain, compiled = load(net, target="body"), load(net, Compiler(True, None), target="body")
    wide = raw(plain, "gradient")
    for narrowed in (False, True, False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=narrowed):
            found, expected = raw(compiled, "gradient"), raw(plain, "gradient")
        assert_close(found, expected)
        assert np.array_equal(wide, expected) != narrowed


def test_a_graph_holds_no_casts_of_weights(load):
    net = build_net(Modular)
    plain, compiled = load(net), load(net, Compiler(True, None))
    for _ in range(2):
        with torch.autocast("cpu", torch.bfloat16):
            plain.explain(random_images(), "gradient")  # casts are kept as long as the block runs
            found = compiled.explain(random_images(), "gradient")
        with torch.autocast("cpu", torch.bfloat16):
            assert_close(found.raw, plain.explain(random_images(), "gradient").raw)
        with torch.no_grad():
            for parameter in net.parameters():
                parameter *= 1.5


def test_whatever_the_callers_mode(load):
    net = build_net(Modular)
    expected = raw(load(net, target="body"), "gradient")
    compiled = load(net, Compiler(True, "aot_eager"), target="body")
    raw(compiled, "gradient")
    for mode in (torch.no_grad, torch.inference_mode, torch.enable_grad):
        runner = ModuleForward(compiled.head._cut.model, [])  # which traces in that mode
        with mode():
            assert_close(raw(compiled, "gradient"), expected)
            (logits,) = runner(torch.from_numpy(random_images()))
            assert torch.is_inference_mode_enabled() == (mode is torch.inference_mode)
        assert not logits.is_inference()
        assert not logits.requires_grad


# ---------------------------------------------------------------- what is refused


class Reading(Modular):
    """Its code depends on numbers in tensors, in the way it is told to."""

    def __init__(self, how):
        super().__init__()
        self.how = how
        self.scale = nn.Parameter(torch.tensor(2.0))

    def forward(self, batch):
        x = super().forward(batch)
        if self.how == "branch":
            return x if x.sum() > 0 else x + 1
        if self.how == "weight":
            return x * self.scale.item()
        if self.how == "array":
            return x * float(np.abs(x.detach().numpy()).mean())
        return x * len(x.detach()[x.detach() > 0].tolist())


@pytest.mark.parametrize("how", ["branch", "weight", "array", "list"])
def test_code_that_looks_at_numbers_is_refused(how, load):
    net = build_net(lambda: Reading(how))
    assert load(net).predict(random_images()).shape == (3, CLASSES)
    engine = load(net, Compiler("default", None))
    before = state(net)
    for _ in range(2):
        with pytest.raises(
            BackendError,
            match=r"^Reading cannot be traced \(compile='default'\): .*numbers in a tensor.*compile=None",
        ):
            engine.predict(random_images())
    assert state(net) == before


class Unsteady(Modular):
    """A pass depends on chance or on the passes before it."""

    def __init__(self, how):
        super().__init__()
        self.how = how
        self.passes = 0
        self.register_buffer("count", torch.zeros(()))

    def forward(self, batch):
        self.passes += 1
        if self.how == "dropout":
            batch = nn.functional.dropout(batch, 0.1)
        x = super().forward(batch)
        if self.how == "a little noise":
            x = x + 1e-9 * torch.randn_like(x)
        if self.how == "attribute":
            x = x + self.passes
        if self.how == "buffer":
            self.count += 1
            x = x + self.count
        return x


@pytest.mark.parametrize("how", ["dropout", "a little noise", "attribute", "buffer"])
def test_chance_and_state_are_refused(how, load):
    net = build_net(lambda: Unsteady(how))
    engine = load(net, Compiler(True, None))
    random = torch.get_rng_state()
    with pytest.raises(
        BackendError, match=r"gives something else \(compile=True\) when traced: a pass must.*compile=None"
    ):
        engine.predict(random_images())
    assert torch.equal(torch.get_rng_state(), random)


def test_numbers_fixed_by_tracing_show(load):
    """Read past torch, they are those of the noise that was traced."""

    class Hidden(Modular):
        def forward(self, batch):
            return super().forward(batch) + ctypes.c_float.from_address(batch.data_ptr()).value

    engine = load(build_net(Hidden), Compiler(True, None))
    with pytest.raises(BackendError, match=r"when traced: .*must not depend on numbers in tensors"):
        engine.predict(random_images(seed=5))


def wrong(graph, _):
    return lambda *values: tuple(value * 1.01 for value in graph(*values))


def failing(*_):
    raise ValueError("no compiling today")


def test_a_compiler_that_errs_is_refused(load):
    engine = load(build_net(Modular), Compiler(True, wrong))
    with pytest.raises(BackendError, match=r"when compiled, and not when traced.*compile=None"):
        engine.predict(random_images())


def test_a_compiler_that_fails_is_refused(load):
    engine = load(build_net(Modular), Compiler(True, failing))
    with pytest.raises(BackendError, match=r"Modular was traced, but not compiled.*no compiling today"):
        engine.predict(random_images())


def test_fewer_rows_where_memory_is_short(load):
    def small(graph, inputs):
        if any(tuple(one.shape) == (4, 3, 12, 16) for one in inputs):
            raise torch.OutOfMemoryError("not today")
        return graph

    net = build_net(Functional)
    engine = load(net, Compiler(True, small), batch_size=4)
    with pytest.warns(SmallerBatchWarning, match="4 rows"):
        found = engine.predict(random_images(4))
    assert_close(found, load(net).predict(random_images(4)))


def test_errors_of_the_module_are_what_they_were(load):
    class Cut(Modular):
        def forward(self, batch):
            return super().forward(batch).detach()

    engine = load(build_net(Cut), Compiler(True, None))
    with pytest.raises(AdjointError, match="no gradient of the logits reaches the images"):
        engine.explain(random_images(), "gradient")
    with pytest.raises(AdjointError, match="this model has none"):
        load(build_net(Transformer), Compiler(True, None)).explain(random_images(), "guided")


# ---------------------------------------------------------------- shapes, threads, options


def test_few_shapes_are_kept(load, monkeypatch):
    monkeypatch.setattr(compilation, "MAX_GRAPHS", 2)
    net, calls = counted(Modular)
    plain, engine = load(net), load(net, Compiler(True, None), batch_size=4)

    def traced(count):
        expected = plain.predict(random_images(count))
        calls.clear()
        assert_close(engine.predict(random_images(count)), expected)
        return calls.count("forward") > 0

    assert traced(4)
    assert traced(7)  # four rows again, and three
    assert not traced(4)
    assert traced(2)  # in the place of three
    assert not traced(4)
    assert traced(3)


def test_a_fixed_batch_size_is_one_shape():
    net, calls = counted(Modular)
    plain, compiled = (
        ModuleForward(TorchModel(net, "net", "cpu", 2, compiler), [])
        for compiler in (None, Compiler(True, None))
    )
    batch = torch.from_numpy(random_images(5))
    expected = plain(batch)[0]
    calls.clear()
    (found,) = compiled(batch)
    assert calls.count("forward") == 2  # without tracing, and tracing
    assert_close(found, expected)


def test_rows_lie_in_memory_in_any_order():
    net, calls = counted(Modular)
    plain, compiled = (
        ModuleForward(TorchModel(net, "net", "cpu", None, compiler), [])
        for compiler in (None, Compiler(True, "eager"))
    )
    batch = torch.from_numpy(random_images(4))
    for given, traced in (
        (batch[:2], True),
        (batch[::2], False),
        (batch[:1].expand(2, -1, -1, -1), False),
        (batch[:2].to(memory_format=torch.channels_last), True),
    ):
        expected = plain(given)[0]
        calls.clear()
        assert_close(compiled(given)[0], expected)
        assert bool(calls) == traced


def test_a_graph_waits_for_nothing():
    runner = ModuleForward(TorchModel(build_net(Modular), "net", "cpu", None, Compiler(True, None)), [])
    batch = torch.from_numpy(random_images())
    runner(batch)
    with forbid_gpu_sync():
        runner(batch)


@pytest.mark.parametrize("backend", [None, "eager"])
def test_several_threads(backend, load):
    net = build_net(Modular)
    plain = load(net, target="body")
    jobs = [
        (random_images(seed=seed), method)
        for seed in range(3)
        for method in ("gradcam", "gradient", "guided")
    ]
    expected = [raw(plain, method, batch) for batch, method in jobs]
    engines = [load(net, Compiler(True, backend), target="body") for _ in range(2)]
    with ThreadPoolExecutor(4) as pool:
        found = list(
            pool.map(lambda item: raw(engines[item[0] % 2], item[1][1], item[1][0]), enumerate(jobs))
        )
    for one, other in zip(found, expected, strict=True):
        assert_close(one, other)


def test_what_may_be_asked_for(monkeypatch):
    with pytest.raises(InputError, match="compile='fast' must be None, True, or one of 'default'"):
        camrt.load(build_net(Modular), size=(12, 16), compile="fast")
    assert choose_compiler(None, "cpu") is None
    assert choose_compiler(False, "cpu") is None
    for asked in (True, "default", "reduce-overhead", "max-autotune"):
        found = choose_compiler(asked, "cpu")
        assert (found.requested, found.backend, found.uses_cuda_graphs) == (asked, "inductor", False)
    with pytest.raises(BackendError, match=r"compile='cudagraphs' needs a GPU, and device='cpu'"):
        choose_compiler("cudagraphs", "cpu")
    for asked in ("fast", 1, 0, ["default"]):
        with pytest.raises(InputError, match="must be None, True, or one of 'default'"):
            choose_compiler(asked, "cpu")
    monkeypatch.setattr(compilation, "parse_device", torch.device)
    monkeypatch.setattr(compilation, "find_spec", lambda _: None)
    assert choose_compiler("cudagraphs", "cuda") == Compiler("cudagraphs", None, uses_cuda_graphs=True)
    with pytest.raises(BackendError, match=r"needs Triton on a GPU.*pip install 'camrt\[gpu\]'"):
        choose_compiler(True, "cuda")
    monkeypatch.setattr(compilation, "find_spec", lambda _: object())
    assert not choose_compiler(True, "cuda:1").uses_cuda_graphs
    assert choose_compiler("reduce-overhead", "cuda").uses_cuda_graphs
    assert choose_compiler("max-autotune", "cuda") == Compiler(
        "max-autotune", mode="max-autotune-no-cudagraphs", uses_cuda_graphs=True
    )


# ---------------------------------------------------------------- CUDA graphs


class Recorder(TorchDispatchMode):
    """What runs within it is done again on the same memory by `replay`: a CUDA graph, for want of a GPU."""

    def __init__(self):
        super().__init__()
        self.done = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        self.done.append((func, args, kwargs or {}, result))
        return result

    def replay(self):
        for func, args, kwargs, result in self.done:
            found = func(*args, **kwargs)
            for held, new in zip(tree_leaves(result), tree_leaves(found), strict=True):
                if held is not None:
                    held.copy_(new)


class Stream:
    """Notes what it is told."""

    def __init__(self, told):
        self.told = told

    def wait_stream(self, _):
        self.told.append("wait for stream")

    def wait_event(self, _):
        self.told.append("wait for event")

    def record(self, _):
        self.told.append("record event")


@pytest.fixture
def recorded(monkeypatch):
    """torch.cuda, as far as `CudaGraphRunner` uses it, on the CPU; what streams and events were told."""
    told = []

    @contextmanager
    def nothing(*_):
        yield

    @contextmanager
    def graph(recorder, *, stream, capture_error_mode):
        assert isinstance(stream, Stream)
        assert capture_error_mode == "thread_local"
        told.append("capture")
        with recorder:
            yield

    fakes = {
        "CUDAGraph": Recorder,
        "Event": lambda: Stream(told),
        "Stream": lambda: Stream(told),
        "current_stream": lambda: Stream(told),
        "device": nothing,
        "stream": nothing,
        "graph": graph,
    }
    for name, fake in fakes.items():
        monkeypatch.setattr(torch.cuda, name, fake)
    monkeypatch.setattr(torch.Tensor, "record_stream", lambda *_: None)
    return told


def test_a_captured_function_gives_copies(recorded):
    weight = torch.tensor([2.0, 3.0])
    calls = []

    def function(one, other):
        calls.append(1)
        return [one * weight + other, other, (one + 1).relu_()]

    captured = CudaGraphRunner(function, [torch.zeros(2), torch.ones(2)])
    assert recorded == ["wait for stream", "wait for stream", "capture"]
    before = len(calls)
    first = captured(torch.tensor([1.0, -2.0]), torch.tensor([10.0, 20.0]))
    weight *= 10
    second = captured(torch.tensor([5.0, 5.0]), torch.tensor([0.0, 1.0]))
    assert [one.tolist() for one in first] == [[12.0, 14.0], [10.0, 20.0], [2.0, 0.0]]
    assert [one.tolist() for one in second] == [[100.0, 151.0], [0.0, 1.0], [6.0, 6.0]]
    assert len(calls) == before
    assert recorded[3:] == ["wait for event", "record event"] * 2


def test_captured_modules(recorded, load):
    net, calls = counted(Modular)
    plain = load(net, target="body")
    engine = load(net, Compiler("cudagraphs", None, uses_cuda_graphs=True), target="body")
    for method in ("ablation", "gradient", "guided"):
        expected = raw(plain, method)
        kept = raw(engine, method)
        calls.clear()
        raw(engine, method, random_images(seed=1))
        assert not calls
        assert_close(kept, expected)
        assert_close(raw(engine, method, random_images(seed=2)), raw(plain, method, random_images(seed=2)))
    assert "capture" in recorded


class Waiting(Modular):
    """Does what has the host wait for a GPU."""

    def __init__(self, how):
        super().__init__()
        self.how = how

    def forward(self, batch):
        x = super().forward(batch)
        if self.how == "copy":
            torch.empty(CLASSES, device="meta").copy_(x[0])
        if self.how == "mask":
            x[x > 100] = 0
        if self.how == "shape":
            x = x + 0 * torch.nonzero(batch).sum()
        return x


@pytest.mark.parametrize(("how", "named"), [("copy", "copy_"), ("mask", "index_put_"), ("shape", "nonzero")])
def test_what_waits_is_not_captured(how, named, recorded, load):
    net = build_net(lambda: Waiting(how))
    engine = load(net, Compiler("cudagraphs", None, uses_cuda_graphs=True))
    with pytest.raises(BackendError, match=rf"aten\.{named}\..* waits for the device.*compile=None"):
        engine.predict(random_images())
    assert "capture" not in recorded
    assert_close(load(net, Compiler(True, None)).predict(random_images()), load(net).predict(random_images()))


needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
WAYS = ("cudagraphs", True, "reduce-overhead")


def ready(how):
    """What is asked for, on a GPU."""
    if how != "cudagraphs":
        pytest.importorskip("triton")
    return choose_compiler(how, "cuda")


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("how", WAYS)
@pytest.mark.parametrize(("kind", "target"), [(Modular, "body"), (Residual, "body"), (Transformer, None)])
def test_the_same_maps_on_a_gpu(kind, target, how, load):
    net, calls = counted(kind)
    net.to("cuda")
    plain, compiled = (
        load(net, compiler, target=target, device="cuda", batch_size=4) for compiler in (None, ready(how))
    )
    for method in ("ablation", "gradcam", "gradient"):
        raw(compiled, method)
        for seed in (0, 1):
            expected = raw(plain, method, random_images(seed=seed))
            calls.clear()
            # TensorFloat-32 is on in convolutions, and other kernels add up in another order
            assert_close(raw(compiled, method, random_images(seed=seed)), expected, np.float16, factor=5)
            assert not calls


@pytest.mark.gpu
@needs_gpu
@pytest.mark.parametrize("how", WAYS)
def test_a_gpu_is_not_waited_for_and_results_stay(how):
    net = build_net(Modular).to("cuda")
    plain, compiled = (
        ModuleForward(TorchModel(net, "net", "cuda", None, compiler), []) for compiler in (None, ready(how))
    )
    batches = [torch.from_numpy(random_images(seed=seed)).to("cuda") for seed in range(4)]
    expected = [plain(batch)[0].cpu().numpy() for batch in batches]
    compiled(batches[0])
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        found = [compiled(batch)[0] for batch in batches]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    streams = [torch.cuda.Stream() for _ in batches]
    for stream in streams:
        stream.wait_stream(torch.cuda.current_stream())
    for stream, batch in zip(streams, batches, strict=True):
        with torch.cuda.stream(stream):
            found.append(compiled(batch)[0])
    torch.cuda.synchronize()
    for one, other in zip(found, expected * 2, strict=True):
        assert_close(one.cpu().numpy(), other, np.float16, factor=5)
    with torch.no_grad():
        net.head.bias += 1
    assert_close(compiled(batches[0])[0].cpu().numpy(), expected[0] + 1, np.float16, factor=5)


@pytest.mark.gpu
@needs_gpu
def test_what_no_cuda_graph_holds_is_refused():
    class Moving(Modular):
        def forward(self, batch):
            return super().forward(batch) + torch.ones(CLASSES).to(batch.device)

    runner = ModuleForward(
        TorchModel(build_net(Moving).to("cuda"), "net", "cuda", None, ready("cudagraphs")), []
    )
    with pytest.raises(BackendError, match=r"copies from another one.*compile=None"):
        runner(torch.from_numpy(random_images()).to("cuda"))
