"""Modules on a card: maps as on the CPU, nothing copied on the way, and memory that does not grow."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

import camrt
from camrt.engine.torch_models.load import load_module
from camrt.errors import SmallerBatchWarning
from camrt.kernels.saliency import MapFlag
from helpers.tolerances import assert_close
from helpers.torch_nets import CLASSES, Functional, Modular, Residual, build_net, nn, random_images, torch

pytestmark = pytest.mark.gpu

METHODS = [
    ("pixab", {}),
    ("pixab", {"score": "logit"}),
    ("ablation", {}),
    ("ablation", {"score": "probability"}),
    ("cam", {}),
    ("gradcam", {}),
    ("gradcam++", {"score": "probability"}),
    ("hirescam", {}),
    ("layercam", {}),
    ("xgradcam", {}),
    ("score", {}),
    ("gradient", {}),
    ("guided", {}),
    ("guided-pixab", {}),
    ("smoothgrad", {"draws": 3}),
    ("opticam", {"steps": 2}),
]
NETS = [(Modular, "relu"), (Modular, "stem"), (Functional, "second"), (Residual, "body")]
# Differences of scores, by other algorithms of the same layers on the card.
FACTOR = 2048


@pytest.fixture(autouse=True)
def exact():
    """float32 without TensorFloat-32, and a card."""
    if not torch.cuda.is_available():
        pytest.skip("there is no GPU")
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = False
    yield
    torch.backends.cudnn.allow_tf32 = before


def on_card(kind, path, **options):
    return load_module(build_net(kind).cuda(), target=path, size=(12, 16), device="cuda", **options)


@pytest.mark.parametrize(("kind", "path"), NETS, ids=lambda value: getattr(value, "__name__", value))
def test_the_same_maps_as_on_the_cpu(kind, path):
    card, cpu = on_card(kind, path), load_module(build_net(kind), target=path, size=(12, 16))
    batch, targets = random_images(), np.array([[0, 3], [4, 1], [2, 2]])
    for method, options in METHODS:
        if method == "cam" and not cpu.head.has_class_maps:
            continue
        expected = cpu.explain(batch, method, targets=targets, **options)
        found = card.explain(batch, method, targets=targets, **options)
        assert isinstance(found.maps, np.ndarray)
        assert_close(found.raw, expected.raw, np.float32, factor=FACTOR)
        assert_close(found.maps, expected.maps, np.float32, factor=FACTOR)
        tensors = card.explain(torch.from_numpy(batch).cuda(), method, targets=targets, **options)
        assert tensors.maps.is_cuda
        assert_close(tensors.raw.cpu(), expected.raw, np.float32, factor=FACTOR)
        there = card.explain(torch.from_numpy(batch), method, targets=targets, **options)
        assert there.maps.device.type == "cpu"


@pytest.mark.parametrize(("kind", "path"), NETS, ids=lambda value: getattr(value, "__name__", value))
def test_nothing_is_copied_between_the_batch_and_the_map(kind, path):
    """By the profiler's list of transfers, and by torch's own refusal to wait."""
    engine = on_card(kind, path)
    batch = torch.from_numpy(random_images()).cuda()
    for method, options in METHODS:
        if method in ("smoothgrad",) or (method == "cam" and not engine.head.has_class_maps):
            continue  # noise is drawn on the host
        for _ in range(2):  # constants are copied, kernels compiled
            engine.explain(batch, method, **options)
        torch.cuda.synchronize()
        activities = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
        torch.cuda.set_sync_debug_mode("error")
        try:
            with torch.profiler.profile(activities=activities) as profile:
                engine.explain(batch, method, **options)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        torch.cuda.synchronize()
        names = [event.name for event in profile.events()]
        assert any(
            "Memcpy" not in name and event.device_type.name == "CUDA"
            for name, event in zip(names, profile.events(), strict=True)
        ), "the profiler saw no kernel"
        assert [name for name in names if name.startswith(("Memcpy HtoD", "Memcpy DtoH"))] == [], method


def test_what_is_not_finite_is_flagged_without_being_looked_at():
    engine = on_card(Modular, "relu")
    batch = torch.from_numpy(random_images()).cuda()
    batch[1, 0, 0, 0] = torch.nan
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = engine.explain(batch, "pixab")
    assert found.flags.tolist() == [MapFlag.OK, MapFlag.NOT_FINITE, MapFlag.OK]
    assert not found.maps[1].any()


@pytest.mark.parametrize("kind", [torch.float16, torch.bfloat16])
def test_half_precision(kind):
    """Against the same module of float32 on the CPU: what rounding to half types does, in every method."""
    net = build_net(Modular)
    with torch.no_grad():
        net.last.weight.mul_(10.0)
    batch = random_images()
    expected = load_module(net, target="relu", size=(12, 16)).explain(
        batch, "pixab", targets=2, score="logit"
    )
    narrow = load_module(net.to(kind).cuda(), target="relu", size=(12, 16), device="cuda")
    found = narrow.explain(batch, "pixab", targets=2, score="logit")
    name = "bfloat16" if kind == torch.bfloat16 else np.float16
    assert_close(found.raw, expected.raw, name, factor=8)


def test_the_memory_of_score_cam_does_not_grow_with_its_masks():
    def peak(channels):
        layers = [nn.Conv2d(3, channels, 3, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
        net = nn.Sequential(*layers, nn.Linear(channels, CLASSES)).eval().cuda()
        engine = load_module(net, target="1", size=(64, 64), device="cuda", batch_size=8)
        batch = torch.rand(1, 3, 64, 64, device="cuda")
        engine.explain(batch, "score")
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        engine.explain(batch, "score", targets=1)
        return torch.cuda.max_memory_allocated() - before

    activations = 4 * 8 * 32 * 32  # bytes a channel of eight images' activations
    assert peak(256) - peak(64) <= 8 * 192 * activations  # the model's own, and nothing for 192 more masks


def test_a_batch_that_memory_does_not_hold_is_halved():
    engine = on_card(Modular, "relu", batch_size=4096)
    batch = random_images(4096)
    expected = engine.explain(batch, "gradcam", targets=1).maps
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + (20 << 20)) / total)
    try:
        with pytest.warns(SmallerBatchWarning):
            found = on_card(Modular, "relu", batch_size=4096).explain(batch, "gradcam", targets=1).maps
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert_close(found, expected, np.float32, factor=FACTOR)


def test_cupy_and_jax_get_back_what_they_gave():
    engine = on_card(Modular, "relu")
    batch = random_images()
    expected = engine.explain(batch, "pixab", targets=1).maps
    cupy = pytest.importorskip("cupy", reason="CuPy is not installed")
    found = engine.explain(cupy.asarray(batch), "pixab", targets=1).maps
    assert isinstance(found, cupy.ndarray)
    np.testing.assert_array_equal(cupy.asnumpy(found), expected)


def test_a_file_of_torch_export_is_brought_to_the_card(tmp_path):
    net = build_net(Modular)
    path = tmp_path / "net.pt2"
    program = torch.export.export(
        net, (torch.zeros(2, 3, 12, 16),), dynamic_shapes=({0: torch.export.Dim("batch")},)
    )
    torch.export.save(program, path)
    engine = camrt.load(path, device="cuda", precision="fp16", trusted=True)
    found = engine.explain(torch.from_numpy(random_images()).cuda(), "gradcam", targets=1)
    assert found.maps.is_cuda
    assert found.logits.dtype == torch.float32
