"""Folders of TensorRT plans: built of every graph that loading needs, refused where they do not belong."""

import json
import os
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
from typer.testing import CliRunner

import camrt
from camrt.cli.main import app
from camrt.engine.build import build_engine
from camrt.engine.plan_export import export_plans
from camrt.engine.runtime.ort_cpu import OnnxRuntime
from camrt.engine.tensorrt_plans import bindings as bindings_module
from camrt.engine.tensorrt_plans import cuda_devices as cards_module
from camrt.engine.tensorrt_plans.bindings import import_bindings
from camrt.engine.tensorrt_plans.build import BuildOptions
from camrt.engine.tensorrt_plans.cuda_devices import CudaDevice, list_cuda_devices
from camrt.engine.tensorrt_plans.store import PlanStore
from camrt.errors import BackendError, InputError
from camrt.export.io.model_file import read_model
from helpers.tolerances import assert_close
from helpers.zoo import HEADS, classifier, save

pytest.importorskip("tensorrt_rtx_bindings", reason="TensorRT for RTX is missing: pip install 'camrt[dev]'")

FLAVOUR = os.environ.get("CAMRT_TENSORRT", "tensorrt-rtx")
METHODS = ("pixab", "ablation", "gradcam", "gradient", "score", "cam")
NAMES = [
    "gap-flatten-gemm",
    "gemm-relu-gemm",
    "convolution-3x3-behind-the-cut",
    "squeeze-and-excite-behind-the-cut",
]


def model(folder, name="gap-flatten-gemm", seed=0):
    part = HEADS[name].make(np.random.default_rng(seed), 6, 5, 4, 3)
    return save(classifier(part, np.random.default_rng(1)).model, folder / f"{name}-{seed}.onnx")


class Checking(OnnxRuntime):
    """ONNX Runtime, for graphs that a folder has a plan of."""

    supports_scatter_add = False
    splits_last_layer = False

    def __init__(self, folder):
        super().__init__()
        self.folder = folder

    def make_runner(self, model, *, label, batch=None):
        assert self.folder.read_plan(model, label)
        return super().make_runner(model, label=label, batch=batch)


@pytest.mark.parametrize("name", NAMES)
def test_every_graph_that_is_run_has_a_plan(name, tmp_path):
    path = model(tmp_path, name)
    export_plans(path, tmp_path / "plans", to="tensorrt-rtx")
    file = read_model(path)
    trt = import_bindings("tensorrt-rtx", running=False)
    folder = PlanStore.open(tmp_path / "plans", file.sha256, trt, "fp32")
    engine = build_engine(file, Checking(folder), OnnxRuntime())
    expected = camrt.load(path)
    batch = np.random.default_rng(0).standard_normal((3, 3, 10, 8), np.float32)
    for method in METHODS:
        if method == "cam" and not engine.head.has_class_maps:
            continue
        ours, theirs = (one.explain(batch, method) for one in (engine, expected))
        assert_close(ours.maps, theirs.maps, factor=50)  # other graphs, in another order


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    folder = tmp_path_factory.mktemp("exported")
    path = model(folder)
    found = export_plans(path, folder / "plans", to="tensorrt-rtx", batches=(2, 4, 16), gradients=False)
    return SimpleNamespace(path=path, folder=found.folder, plans=found.plans)


@pytest.fixture
def trt():
    return import_bindings("tensorrt-rtx", running=False)


def copied(exported, tmp_path):
    for file in exported.folder.path.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    return tmp_path


def test_what_is_written_says_what_it_is(exported, trt):
    opened = PlanStore.open(exported.folder.path, exported.folder.model, trt)
    assert opened == exported.folder
    assert opened.model == camrt.load(exported.path).sha256
    assert opened.built_with == {
        "flavour": "tensorrt-rtx", "version": trt.version, "card": None, "camrt": camrt.__version__,
        "precision": "fp32", "batches": [2, 4, 16], "size": [10, 8],
    }  # fmt: skip
    assert [label for label, _ in exported.plans] == [entry["label"] for entry in opened.plans.values()]
    assert not any("adjoint" in label for label, _ in exported.plans)


def test_an_export_takes_the_place_of_an_earlier_one(exported, tmp_path):
    copied(exported, tmp_path)
    other = model(tmp_path, seed=5)
    found = export_plans(other, tmp_path, to="tensorrt-rtx", gradients=False)
    kept = {entry["file"] for entry in found.folder.plans.values()}
    assert {file.name for file in tmp_path.glob("*.plan")} == kept


def test_an_unfinished_export_is_none(exported, tmp_path, monkeypatch, trt):
    copied(exported, tmp_path)

    def fail(self, *args, **kwargs):
        raise BackendError("out of memory")

    monkeypatch.setattr("camrt.engine.plan_export.PlanBuilder.build", fail)
    with pytest.raises(BackendError, match="out of memory"):
        export_plans(exported.path, tmp_path, to="tensorrt-rtx")
    with pytest.raises(BackendError, match="is no folder of plans"):
        PlanStore.open(tmp_path, exported.folder.model, trt)


def test_a_graph_without_a_plan_is_named(exported):
    with pytest.raises(BackendError, match=r"has no plan of this model's adjoint, only of: .*model"):
        build_engine(read_model(exported.path), Checking(exported.folder), OnnxRuntime()).explain(
            np.zeros((1, 3, 10, 8), np.float32) + 0.5, "gradient"
        )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"flavour": "tensorrt"},
            r"built for another TensorRT \(tensorrt-rtx, here tensorrt\): build the plans",
        ),
        ({"version": "9.9"}, r"built for another version of TensorRT \(.*, here 9\.9\)"),
        (
            {"cuda_device": CudaDevice("Some GPU", (8, 0))},
            r"built for another card \(None, here Some GPU \(sm_80\)\)",
        ),
    ],
    ids=["flavour", "version", "card"],
)
def test_foreign_plans_are_refused(change, message, exported, trt):
    with pytest.raises(BackendError, match=message):
        PlanStore.open(exported.folder.path, exported.folder.model, replace(trt, **change))


def test_stale_plans_are_refused(exported, trt, monkeypatch):
    path = exported.folder.path
    with pytest.raises(BackendError, match=r"are of another model \(SHA-256 .*, not 000000000000"):
        PlanStore.open(path, "0" * 64, trt)
    with pytest.raises(BackendError, match="compute in fp32, not in bf16"):
        PlanStore.open(path, exported.folder.model, trt, "bf16")
    monkeypatch.setattr(camrt, "__version__", "99.0")
    with pytest.raises(BackendError, match=r"another version of camrt \(.*, here 99\.0\)"):
        PlanStore.open(path, exported.folder.model, trt)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda text: text[:-20], "is damaged"),
        (
            lambda text: text.replace("camrt.plans/1", "camrt.plans/9"),
            "no list of plans that this camrt reads",
        ),
        (lambda text: "[]", "no list of plans that this camrt reads"),
        (lambda text: json.dumps({"format": "camrt.plans/1"}), "is damaged: KeyError"),
        (lambda text: text.replace('"card"', '"cord"'), "is damaged: KeyError"),
    ],
    ids=["cut off", "of another format", "something else", "empty", "a word missing"],
)
def test_a_damaged_list_is_refused(spoil, message, exported, tmp_path, trt):
    file = copied(exported, tmp_path) / "plans.json"
    file.write_text(spoil(file.read_text()))
    with pytest.raises(BackendError, match=message):
        PlanStore.open(tmp_path, exported.folder.model, trt)


def test_a_damaged_plan_is_refused(exported, tmp_path, trt):
    copied(exported, tmp_path)
    folder = PlanStore.open(tmp_path, exported.folder.model, trt)
    first = next(iter(folder.plans.values()))
    file = tmp_path / first["file"]
    file.write_bytes(file.read_bytes()[:-1])
    for message in ("is damaged: it is not what camrt export wrote", "the plan of the model cannot be read"):
        with pytest.raises(BackendError, match=message):
            build_engine(read_model(exported.path), Checking(folder), OnnxRuntime())
        file.unlink(missing_ok=True)


@pytest.mark.parametrize("batches", [(0, 1, 2), (4, 2, 8), (1, 2), (1, 2, 3.0), (1, True, 2)], ids=str)
def test_batches_make_sense(batches):
    with pytest.raises(InputError, match="three whole numbers above zero that do not fall"):
        BuildOptions("fp32", batches)


def test_a_precision_is_one_of_three():
    with pytest.raises(InputError, match="precision='int8' must be one of 'fp32', 'fp16', 'bf16'"):
        BuildOptions("int8")


def test_a_size_is_needed_where_any_will_do(tmp_path):
    part = HEADS["gap-flatten-gemm"].make(np.random.default_rng(0), 6, 5, 4, 3)
    path = save(classifier(part, np.random.default_rng(1), size=("H", "W")).model, tmp_path / "open.onnx")
    with pytest.raises(InputError, match=r"pass size=\(height, width\)"):
        export_plans(path, tmp_path / "plans", to="tensorrt-rtx")
    found = export_plans(path, tmp_path / "plans", to="tensorrt-rtx", size=(12, 16))
    assert found.folder.built_with["size"] == [12, 16]


# ---------------------------------------------------------------- cards and bindings


class Driver:
    """A CUDA driver as ctypes would load it, with cards made up."""

    def __init__(self, found=(("Some GPU", 9, 0),), fails=None):
        self.found, self.fails = found, fails

    def __getattr__(self, name):
        def call(*args):
            if name == self.fails:
                return 100
            own = vars(Driver).get(f"_{name}")
            return 0 if own is None else own(self, *args)

        return call

    def _cuDeviceGetCount(self, count):  # noqa: N802 (the driver's name)
        count._obj.value = len(self.found)
        return 0

    def _cuDeviceGet(self, handle, number):  # noqa: N802
        handle._obj.value = number
        return 0

    def _cuDeviceGetName(self, name, length, handle):  # noqa: N802
        name.value = self.found[handle.value][0].encode()
        return 0

    def _cuDeviceGetAttribute(self, value, attribute, handle):  # noqa: N802
        value._obj.value = self.found[handle.value][{75: 1, 76: 2}[attribute]]
        return 0

    def _cuGetErrorString(self, code, text):  # noqa: N802
        text._obj.value = b"no CUDA-capable device is detected"
        return 0


def driver(monkeypatch, made):
    monkeypatch.setattr(cards_module.ctypes, "CDLL", lambda name: made)


def test_cards_are_listed(monkeypatch):
    driver(monkeypatch, Driver((("Some GPU", 9, 0), ("Another", 8, 6))))
    assert list_cuda_devices() == (CudaDevice("Some GPU", (9, 0)), CudaDevice("Another", (8, 6)))
    assert str(list_cuda_devices()[1]) == "Another (sm_86)"


@pytest.mark.parametrize(
    ("made", "message"),
    [
        (Driver(fails="cuInit"), "the driver cannot be started .no CUDA-capable device is detected"),
        (Driver(fails="cuDeviceGetCount"), "the GPUs cannot be counted"),
        (Driver(fails="cuDeviceGetName"), "GPU 0 cannot be asked what it is"),
        (Driver(()), "the driver knows of none"),
    ],
    ids=["start", "count", "name", "none"],
)
def test_a_driver_that_fails_is_said(made, message, monkeypatch):
    driver(monkeypatch, made)
    with pytest.raises(BackendError, match=message):
        list_cuda_devices()


def missing(name):
    raise OSError(f"{name}: cannot open shared object file")


def test_no_driver_is_said(monkeypatch, tmp_path):
    monkeypatch.setattr(cards_module.ctypes, "CDLL", missing)
    with pytest.raises(BackendError, match="needs an NVIDIA GPU, and its driver is not installed"):
        list_cuda_devices()
    path = model(tmp_path)
    with pytest.raises(BackendError, match="its driver is not installed"):
        camrt.load(path, backend="tensorrt", device="cuda", plans=tmp_path)
    with pytest.raises(BackendError, match="its driver is not installed"):
        export_plans(path, tmp_path / "plans", to="tensorrt")


def test_the_card_is_asked_before_tensorrt_is_imported(monkeypatch):
    imported = []
    monkeypatch.setattr(cards_module.ctypes, "CDLL", missing)
    monkeypatch.setattr(bindings_module, "import_module", imported.append)
    for flavour in ("tensorrt", "tensorrt-rtx"):
        with pytest.raises(BackendError, match="driver"):
            import_bindings(flavour, running=True)
    assert not imported


def test_a_missing_tensorrt_is_named(monkeypatch):
    def fail(name):
        raise ImportError(f"No module named {name!r}")

    driver(monkeypatch, Driver())
    monkeypatch.setattr(bindings_module, "import_module", fail)
    with pytest.raises(BackendError, match=r"tensorrt is missing .*pip install 'camrt\[tensorrt\]'"):
        import_bindings("tensorrt", running=True)


def test_plans_of_tensorrt_are_for_a_card_and_those_for_rtx_for_any(monkeypatch):
    driver(monkeypatch, Driver())
    monkeypatch.setattr(bindings_module, "import_module", lambda name: SimpleNamespace(__version__="11.0"))
    assert import_bindings("tensorrt", running=False).cuda_device == CudaDevice("Some GPU", (9, 0))
    assert import_bindings("tensorrt-rtx", running=True).cuda_device is None


def test_there_are_two_kinds_of_tensorrt():
    with pytest.raises(
        InputError, match="'tensorrt-lean' is no TensorRT; choose from 'tensorrt', 'tensorrt-rtx'"
    ):
        import_bindings("tensorrt-lean", running=False)


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        (
            {"backend": "tensorrt"},
            BackendError,
            "runs plans that were built before: build them with camrt export",
        ),
        ({"backend": "tensorrt", "plans": "x"}, BackendError, "pass device='cuda' or 'cuda:N', not 'cpu'"),
        ({"plans": "x"}, InputError, "plans= is TensorRT's, and means nothing to backend='onnxruntime'"),
        (
            {"precision": "fp16"},
            InputError,
            "precision='fp16' is for a GPU, or for backend='openvino': ONNX Runtime on the CPU runs a file",
        ),
    ],
    ids=["no plans", "no GPU", "plans for nothing", "precision for nothing"],
)
def test_options_that_do_not_go_together(options, kind, message, exported):
    with pytest.raises(kind, match=message):
        camrt.load(exported.path, **options)


# ---------------------------------------------------------------- the command


def says(*words, code=0):
    result = CliRunner().invoke(app, [str(word) for word in words])
    assert result.exit_code == code, result.output
    return " ".join(result.output.split())


def test_the_command(tmp_path):
    path = model(tmp_path)
    said = says("export", path, "--to", "tensorrt-rtx", "-o", tmp_path / "plans", "--precision", "bf16",
                "--batches", "1,4,8", "--no-gradients")  # fmt: skip
    assert "plans, " in said
    assert "in bf16, by tensorrt-rtx" in said
    assert "for any card" in said
    built = json.loads((tmp_path / "plans" / "plans.json").read_text())["built"]
    assert (built["precision"], built["batches"]) == ("bf16", [1, 4, 8])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--to", "tensorrt-rtx", "--opset", "17"], "--opset means nothing with --to tensorrt-rtx"),
        (["--precision", "fp16", "--size", "8x8"], "--size, --precision mean nothing with --to onnx"),
        (["--to", "tensorrt-rtx", "--batches", "1,2"], "--batches must be three whole numbers"),
        (["--to", "tensorrt-rtx", "--precision", "int8"], "--precision int8 must be one of"),
        (["--to", "coreml"], "--to 'coreml' must be one of onnx, tensorrt, tensorrt-rtx"),
        (["--no-gradients"], "--gradients means nothing with --to onnx"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_command_says_what_is_wrong(words, message, tmp_path):
    assert message in says("export", model(tmp_path), "-o", tmp_path / "out", *words, code=2)


# ---------------------------------------------------------------- with a card


def torch_on_a_card():
    try:
        list_cuda_devices()
    except BackendError as error:
        pytest.skip(str(error))
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("this torch sees no GPU")
    return torch


@pytest.mark.gpu
@pytest.mark.tensorrt
@pytest.mark.parametrize("name", NAMES)
def test_plans_give_what_the_file_gives(name, tmp_path):
    torch_on_a_card()
    path = model(tmp_path, name)
    export_plans(path, tmp_path / "plans", to=FLAVOUR, batches=(2, 4, 8))
    engine = camrt.load(path, backend=FLAVOUR, device="cuda", plans=tmp_path / "plans")
    expected = camrt.load(path)
    batch = np.random.default_rng(0).standard_normal((9, 3, 10, 8), np.float32)  # the last row by itself
    assert_close(
        engine.predict(batch), expected.predict(batch), factor=500
    )  # TensorFloat-32 is on by default
    for method in ("pixab", "ablation", "gradcam"):
        ours, theirs = (one.explain(batch, method, targets=0) for one in (engine, expected))
        assert np.abs(ours.maps - theirs.maps).max() < 0.02


@pytest.mark.gpu
@pytest.mark.tensorrt
@pytest.mark.parametrize("count", [1, 4, 9])
@pytest.mark.parametrize(
    ("precision", "allowed"),
    [
        ("fp32", ("float32", 500)),  # TensorFloat-32 is on by default
        ("fp16", ("float16", 5)),  # every layer rounds
        ("bf16", ("bfloat16", 5)),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_plans_are_queued_behind_the_callers_stream(precision, allowed, count, tmp_path):
    torch = torch_on_a_card()
    from camrt.engine.runtime.trt import TensorRT

    path = model(tmp_path)
    export_plans(
        path, tmp_path / "plans", to=FLAVOUR, precision=precision, batches=(2, 4, 8), gradients=False
    )
    file, trt = read_model(path), import_bindings(FLAVOUR, running=True)
    made = {}

    class Keeping(TensorRT):
        def make_runner(self, model, *, label, batch=None):
            made[label] = super().make_runner(model, label=label, batch=batch), model
            return made[label][0]

    backend = Keeping(PlanStore.open(tmp_path / "plans", file.sha256, trt), trt, "cuda")
    build_engine(file, backend, OnnxRuntime())
    runner, graph = made["model"]
    batch = np.random.default_rng(0).standard_normal((count, 3, 10, 8), np.float32)
    expected = OnnxRuntime().make_runner(graph, label="model")(batch)
    given = backend.device.put(batch)
    torch.cuda.synchronize()
    for stream in (torch.cuda.current_stream(), torch.cuda.Stream()):
        with torch.cuda.stream(stream):
            late = torch.full_like(given, torch.nan)
            runner(late)  # what is made and loaded at the first run is there now
            stream.synchronize()
            torch.cuda._sleep(10**9)  # a good part of a second, after which the batch is there
            late.copy_(given)
            found = runner(late)
            assert not stream.query(), "the runner waited for the card"
            del late
            torch.full_like(
                given, torch.nan
            )  # takes the memory of `deadline_error`, if the run did not keep it
        torch.cuda.synchronize()
        for ours, theirs in zip(found, expected, strict=True):
            assert ours.device == given.device
            assert_close(ours.cpu().numpy(), theirs, *allowed)
