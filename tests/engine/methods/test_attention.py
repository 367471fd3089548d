"""Attention rollout and LeGrad on exported vision transformers, by both exporters."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

import camrt
from camrt.errors import MethodError
from helpers.few_passes import OF_TRANSFORMERS
from helpers.oracles.classifiers import classifier
from helpers.peer_libraries import import_peer
from helpers.tolerances import assert_close

torch = pytest.importorskip("torch")
pytest.importorskip("onnxscript")

from helpers.oracles.attention import kept_scores, legrad_tokens, rollout_tokens, weights_of_torchvision  # noqa: E402
from helpers.torch_exporters import export, silence_exporters  # noqa: E402
from helpers.torch_nets import Transformer, build_net, random_images  # noqa: E402

# A dozen layers there and back.
FACTOR = 32


@pytest.fixture(scope="module", autouse=True)
def plain_attention():
    """Not the one fused operator that ONNX does not have."""
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    yield
    torch.backends.mha.set_fastpath_enabled(before)


def redrawn(net, scale=0.3):
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(torch.randn_like(parameter) * scale)
    return net.eval()


def torchvision_net():
    models = import_peer("torchvision").models
    return redrawn(models.VisionTransformer(32, 8, 3, 2, 16, 24, num_classes=5))


def timm_net(**options):
    timm = import_peer("timm")
    made = timm.models.VisionTransformer(
        img_size=32, patch_size=8, embed_dim=16, depth=3, num_heads=2, num_classes=5, **options
    )
    return redrawn(made)


def load(net, size, folder, *, dynamo=True, **options):
    path = export(net, size, folder / "net.onnx", dynamo=dynamo, opened=True)
    return camrt.load(path, threads=1, **options)


@pytest.mark.parametrize("dynamo", [False, True], ids=["script", "dynamo"])
@pytest.mark.parametrize("prefix", [1, 2])
def test_legrad_against_the_slow_one(dynamo, prefix, tmp_path):
    net, images = redrawn(build_net(lambda: Transformer(prefix))), random_images()
    engine = load(net, (12, 16), tmp_path, dynamo=dynamo)
    found = engine.explain(images, "legrad", targets=[[0, 3]] * 3)
    wanted = [legrad_tokens(net, images, c)[:, prefix:].reshape(3, 3, 4) for c in (0, 3)]
    assert_close(found.raw, np.stack(wanted, axis=1), factor=FACTOR)
    assert found.passes.full_adjoint == 6
    assert found.raw.min() >= 0


@pytest.fixture(scope="module", params=[False, True], ids=["script", "dynamo"])
def vit(request, tmp_path_factory):
    """torchvision's transformer and its file."""
    net = torchvision_net()
    return net, load(net, (32, 32), tmp_path_factory.mktemp("vit"), dynamo=request.param)


@pytest.mark.parametrize("heads", ["mean", "max", "min"])
@pytest.mark.parametrize("discard", [0.0, 0.4])
def test_rollout_against_the_slow_one(vit, heads, discard):
    (net, engine), images = vit, random_images(2, 32, 32)
    layers = weights_of_torchvision(net, images)
    assert len(layers) == 3
    for read in (None, "mean"):
        found = engine.explain(
            images, "rollout", heads=heads, discard=discard, read=read, targets=[[0, 1]] * 2
        )
        for i in range(2):
            flow = rollout_tokens([weights[i] for weights in layers], heads, discard)
            row = flow.mean(axis=0) if read else flow[0]
            assert_close(found.raw[i, 0], row[1:].reshape(4, 4), np.float32, factor=FACTOR)
        assert np.array_equal(found.raw[:, 0], found.raw[:, 1])
    assert found.passes.full == 2


def test_torchcam_s_legrad(vit):
    methods = import_peer("torchcam").methods
    (net, engine), images = vit, random_images(3, 32, 32)
    with methods.LeGrad(net, list(net.encoder.layers)) as extractor:
        scores = net(torch.from_numpy(images))
        theirs = extractor([2, 0, 4], scores, normalized=False)[0].detach().numpy()
    found = engine.explain(images, "legrad", targets=[2, 0, 4])
    assert_close(found.raw, theirs, np.float32, factor=FACTOR)


@pytest.mark.parametrize(
    "options",
    [{}, {"class_token": False, "global_pool": "avg"}, {"reg_tokens": 2}],
    ids=["class token", "pooled", "registers"],
)
def test_timm_s_transformers(options, tmp_path):
    """Rows of the rollout sum to one; both maps are the batch's own whatever stands beside an image."""
    net, images = timm_net(**options), random_images(5, 32, 32)
    engine = load(net, (32, 32), tmp_path, batch_size=2)
    for method in ("rollout", "legrad", "vit-recipro"):
        found = engine.explain(images, method, targets=1)
        alone = engine.explain(images[3:4], method, targets=1)
        assert found.raw.shape == (5, 4, 4)
        assert_close(found.raw[3], alone.raw[0], factor=4)
        assert not found.flags.any()
    whole = engine.explain(images, "rollout").raw.sum(axis=(1, 2))
    assert (whole < 1 + 1e-6).all()
    if not options.get("class_token", True):
        assert_close(whole, np.ones(5), factor=4)


@pytest.mark.parametrize("dynamo", [False, True], ids=["script", "dynamo"])
@pytest.mark.parametrize("score", ["logit", "probability"])
def test_vit_recipro_against_the_slow_one(dynamo, score, tmp_path):
    net, images = redrawn(build_net(Transformer)), random_images()
    engine = load(net, (12, 16), tmp_path, dynamo=dynamo, batch_size=5)
    for options in ({"gaussian": True}, {"gaussian": False, "front": False}):
        found = engine.explain(images, "vit-recipro", targets=[[0, 3]] * 3, score=score, **options)
        wanted = kept_scores(net, images, score, **options)[:, :, [0, 3]]
        assert_close(found.raw, wanted.transpose(0, 2, 1).reshape(3, 2, 3, 4), factor=FACTOR)
        assert found.passes.head == 3 * 12


def test_attention_that_is_one_operator(tmp_path):
    """Operator set 23 has one that keeps its weights to itself; it is written as plain ones."""
    net, images, found = timm_net(), random_images(2, 32, 32), []
    for opset in (18, 23):
        path = tmp_path / f"{opset}.onnx"
        with silence_exporters():
            torch.onnx.export(
                net, (torch.zeros(2, 3, 32, 32),), path, dynamo=True, opset_version=opset,
                dynamic_shapes=({0: torch.export.Dim("n", min=1, max=64)},), external_data=False,
                verbose=False,
            )  # fmt: skip
        operators = {node.op_type for node in onnx.load(path).graph.node}
        assert ("Attention" in operators) == (opset == 23)
        engine = camrt.load(path, threads=1)
        found.append([engine.explain(images, name, targets=1).raw for name in OF_TRANSFORMERS])
    for one, other in zip(*found, strict=True):
        assert_close(one, other, factor=FACTOR)


def test_what_has_no_attention_is_refused(tmp_path):
    engine = camrt.load(classifier("pooled-linear", trunk="convolve").save(tmp_path), threads=1)
    module = camrt.load(build_net(Transformer), size=(12, 16))
    for method in ("rollout", "legrad", "vit-recipro"):
        with pytest.raises(MethodError, match="attention weights of a vision transformer"):
            engine.explain(np.zeros((1, 3, 5, 7), np.float32), method)
        with pytest.raises(MethodError, match=r"camrt\.to_onnx"):
            module.explain(torch.from_numpy(random_images()), method)
        assert any(line.split()[:2] == [method, "-"] for line in engine.describe().splitlines())
    with pytest.raises(MethodError, match="discard=1 must be a number"):
        engine.explain(np.zeros((1, 3, 5, 7), np.float32), "rollout", discard=1)


def test_an_image_whose_logits_are_not_finite_has_no_map(tmp_path):
    engine = load(redrawn(build_net(Transformer)), (12, 16), tmp_path)
    images = random_images(2)
    images[1] = np.sign(images[1]) * np.float32(3e38)
    for method in ("rollout", "legrad", "vit-recipro"):
        with pytest.warns(camrt.errors.DegenerateMapWarning):
            found = engine.explain(images, method, targets=1)
        assert not found.maps[1].any()
        assert found.flags[0] == 0
