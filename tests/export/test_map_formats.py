"""Vision transformers: tokens and channels-last activations as maps, against torch with hooks in float64."""

from __future__ import annotations

import copy
import warnings

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

import camrt
from camrt.errors import CutError
from camrt.export.geometry.map_formats import find_token_grid
from helpers.peer_libraries import import_peer
from helpers.tolerances import assert_close

torch = pytest.importorskip("torch")
pytest.importorskip("onnxscript")

# Two or three transformer blocks there and back in float32.
DEEP = 32.0
CLASSES = 5


def torchvision_vit():
    models = import_peer("torchvision").models
    net = models.VisionTransformer(32, 8, 3, 2, 16, 24, num_classes=CLASSES)
    torch.nn.init.normal_(net.heads.head.weight)
    return net, "encoder.layers.encoder_layer_1", (32, 32)


def timm_vit(size=(32, 32), **options):
    import_peer("torchvision")
    vit = import_peer("timm").models.vision_transformer.VisionTransformer
    options = {"patch_size": 8, "num_classes": CLASSES, "embed_dim": 16, "num_heads": 2, **options}
    net = vit(img_size=size, depth=3, **options)
    torch.nn.init.normal_(net.head.weight)
    last = "blocks.2" if options.get("global_pool") == "avg" else "blocks.1"
    return net, last, size


def timm_swin():
    import_peer("torchvision")
    swin = import_peer("timm").models.swin_transformer.SwinTransformer
    net = swin(
        img_size=64,
        patch_size=4,
        window_size=4,
        num_classes=CLASSES,
        embed_dim=16,
        depths=(2, 2),
        num_heads=(2, 2),
    )
    torch.nn.init.normal_(net.head.fc.weight)
    torch.nn.init.normal_(net.norm.weight)  # else its channels sum to nothing
    return net, "norm", (64, 64)


NETS = {
    "class-token": (torchvision_vit, 1, (4, 4)),
    "register-tokens": (lambda: timm_vit(reg_tokens=4), 5, (4, 4)),
    "averaged": (
        lambda: timm_vit((32, 48), class_token=False, global_pool="avg", fc_norm=True), 0, (4, 6)
    ),
    "swin": (timm_swin, 0, (8, 8)),
}  # fmt: skip


@pytest.fixture(scope="module", params=NETS)
def twins(request, tmp_path_factory):
    make, prefix, grid = NETS[request.param]
    torch.manual_seed(0)
    net, layer, size = make()
    net.eval()
    path = tmp_path_factory.mktemp("tokens") / "model.onnx"
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # one fused operator that ONNX does not have
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what the exporter says about itself
        torch.onnx.export(
            net, (torch.randn(2, 3, *size),), path, dynamo=False,
            dynamic_axes={"input": {0: "n"}}, input_names=["input"], output_names=["logits"],
        )  # fmt: skip
    torch.backends.mha.set_fastpath_enabled(before)
    images = np.random.default_rng(1).standard_normal((2, 3, *size), np.float32)
    return (
        copy.deepcopy(net).double(),
        layer,
        images,
        camrt.load(path, threads=1, batch_size=16),
        prefix,
        grid,
        path,
    )


def altered(net, layer, images, change):
    """Logits with a module's output changed, and the output."""
    kept = []

    def hook(_, __, output):
        kept.append(change(output))
        return kept[0]

    handle = net.get_submodule(layer).register_forward_hook(hook)
    logits = net(torch.from_numpy(images).double())
    handle.remove()
    return logits, kept[0]


def as_map(output, prefix, grid):
    if output.ndim == 4:
        return output.permute(0, 3, 1, 2)
    return output[:, prefix:].transpose(1, 2).reshape(len(output), -1, *grid)


def test_the_default_target_and_its_gradient(twins):
    net, layer, images, engine, prefix, grid, _ = twins
    assert engine.target.shape[1:] == grid
    assert engine.target.prefix == prefix
    assert engine.target.clean
    logits, output = altered(net, layer, images, lambda output: output.detach().clone().requires_grad_())
    logits[:, 2].sum().backward()
    activation = as_map(output.detach(), prefix, grid).numpy()
    gradient = as_map(output.grad, prefix, grid).numpy()
    assert np.abs(gradient).max() > 0
    found = engine.explain(images, "activation", targets=2, size="map")
    assert_close(found.raw, activation.sum(axis=1), np.float32, factor=DEEP)
    assert_close(found.logits, logits.detach().numpy(), np.float32, factor=DEEP)
    # not HiResCAM: a LayerNorm that reads the tokens does not know their scale, so its sum there is nothing
    found = engine.explain(images, "layercam", targets=2, size="map")
    positive = np.maximum(gradient, 0)
    assert_close(found.raw, (positive * activation).sum(axis=1), np.float32, factor=DEEP)
    found = engine.explain(images, "gradcam", targets=2, size="map")
    weights = gradient.mean(axis=(2, 3))
    assert_close(found.raw, np.einsum("nk,nkij->nij", weights, activation), np.float32, factor=DEEP)


def test_altered_maps_keep_the_other_tokens_of_their_image(twins):
    net, layer, images, engine, prefix, grid, _ = twins

    def without(channel):
        def change(output):
            output = output.detach().clone()
            if output.ndim == 4:
                output[..., channel] = 0
            else:
                output[:, prefix:, channel] = 0
            return output

        return altered(net, layer, images, change)[0].detach().numpy()

    whole, output = altered(net, layer, images, lambda output: output.detach())
    activation = as_map(output, prefix, grid).numpy()
    y = whole.detach().numpy()[:, 1]
    weights = (
        np.stack([y - without(k)[:, 1] for k in range(activation.shape[1])], axis=1) / np.abs(y)[:, None]
    )
    found = engine.explain(images, "ablation", targets=1, size="map")
    expected = np.einsum("nk,nkij->nij", weights, activation)
    assert_close(found.raw, expected, np.float32, factor=8 * DEEP)  # differences of logits that nearly agree
    for method in ("pixab", "score", "eigen", "layercam"):
        assert engine.explain(images, method, targets=1).maps.shape == (2, *images.shape[2:])


def test_every_listed_target_can_be_cut_at(twins):
    *_, images, engine, _, _, path = twins
    listed = engine.targets()
    assert sum(target.chosen for target in listed) == 1
    for target in [target for target in listed if target.layout != "map"][::7]:
        one = camrt.load(path, threads=1, target=target.name)
        assert one.target.shape == target.shape
        assert one.explain(images[:1], "activation", size="map").raw.shape == (1, *target.shape[1:])


def test_two_layers_of_a_transformer_in_one_call(twins):
    _, _, images, engine, *_, path = twins
    earlier = next(target for target in engine.targets() if target.layout != "map" and target.clean)
    both = camrt.load(path, threads=1, target=[earlier.name, engine.target.name])
    alone = [camrt.load(path, threads=1, target=cut.target.name) for cut in both.cuts]
    maps = [one.explain(images, "layercam", targets=1).maps for one in alone]
    for fuse, join in (("mean", np.mean), ("max", np.max)):
        fused = both.explain(images, "layercam", targets=1, fuse=fuse)
        expected = join(maps, axis=0)
        assert_close(fused.raw, expected, np.float32, factor=DEEP)
        assert_close(fused.maps, expected / expected.max((1, 2), keepdims=True), np.float32, factor=DEEP)


def test_a_grid_that_does_not_fit_is_refused(twins):
    _, _, _, engine, _, (height, width), path = twins
    name = next(target.name for target in reversed(engine.targets()) if target.layout == "tokens")
    with pytest.raises(CutError, match=r"tokens, which do not fit a grid of 3×50: h·w has to be"):
        camrt.load(path, target=name, grid=(3, 50))
    given = camrt.load(path, target=name, grid=(height // 2, 2 * width))
    assert given.target.shape[1:] == (height // 2, 2 * width)


@pytest.mark.parametrize(
    ("tokens", "patches", "grid", "expected"),
    [
        (17, [(4, 4)], None, (1, (4, 4))),
        (24, [(4, 6)], None, (0, (4, 6))),
        (25, [(4, 6)], None, (1, (4, 6))),
        (28, [(2, 2), (4, 6)], None, (4, (4, 6))),
        (197, [], None, (1, (14, 14))),
        (196, [], None, (0, (14, 14))),
        (198, [], None, (2, (14, 14))),
        (24, [(4, 6)], (2, 12), (0, (2, 12))),
        (24, [(4, 6)], (5, 5), None),
        (40, [(4, 5)], (4, 5), None),
    ],
)
def test_grids(tokens, patches, grid, expected):
    assert find_token_grid(tokens, patches, grid) == expected


def token_file(path, size, *, reshaped=True):
    """A patch embedding, tokens, a mean; images of that size, or of open size."""
    rng = np.random.default_rng(0)
    weights = {
        "w": rng.standard_normal((6, 3, 4, 4)).astype(np.float32),
        "v": rng.standard_normal((6, CLASSES)).astype(np.float32),
        "shape": np.array([0, 6, -1], np.int64),
        "rows": np.array([0, -1, 6], np.int64),
    }
    patches = [
        helper.make_node("Conv", ["input", "w"], ["patches"], strides=[4, 4]),
        helper.make_node("Reshape", ["patches", "shape"], ["flat"]),
        helper.make_node("Transpose", ["flat"], ["tokens"], perm=[0, 2, 1]),
    ]
    mixed = [helper.make_node("Reshape", ["input", "rows"], ["tokens"])]
    nodes = [
        *(patches if reshaped else mixed),
        helper.make_node("Tanh", ["tokens"], ["mixed"]),
        helper.make_node("ReduceMean", ["mixed"], ["vector"], axes=[1], keepdims=0),
        helper.make_node("MatMul", ["vector", "v"], ["logits"]),
    ]
    graph = helper.make_graph(
        nodes,
        "tokens",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["n", 3, *size])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["n", CLASSES])],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path.write_bytes(model.SerializeToString())
    return path


def test_tokens_of_images_of_open_size_lie_as_what_they_come_from(tmp_path):
    engine = camrt.load(token_file(tmp_path / "open.onnx", ("h", "w")), target="tokens")
    for height, width in ((16, 24), (20, 12)):
        fixed = camrt.load(token_file(tmp_path / "fixed.onnx", (height, width)), target="tokens")
        some = np.random.default_rng(1).standard_normal((2, 3, height, width), np.float32)
        for method in ("pixab", "ablation", "gradcam"):
            ours, theirs = (one.explain(some, method, targets=1) for one in (engine, fixed))
            assert ours.raw.shape == (2, height // 4, width // 4)
            assert_close(ours.raw, theirs.raw, factor=DEEP)


def test_tokens_of_images_of_open_size_that_come_from_no_rows_are_refused(tmp_path):
    path = token_file(tmp_path / "open.onnx", ("h", "w"), reshaped=False)
    with pytest.raises(CutError, match="nothing before them has 112 rows"):
        camrt.load(path, target="tokens", grid=(112, 224))
