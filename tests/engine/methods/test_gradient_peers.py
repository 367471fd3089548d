"""The gradient methods against other libraries, on the same weights and images."""

from __future__ import annotations

import warnings
from types import SimpleNamespace

import numpy as np
import pytest

import camrt
from helpers.oracles import postprocess
from helpers.peer_libraries import import_peer
from helpers.tolerances import assert_close
from helpers.torch_exporters import export

torch = pytest.importorskip("torch")
nn = torch.nn
pytestmark = pytest.mark.peers

CLASSES = 5
# Both sides round: two runtimes' convolutions there and back, and an upsampling each.
FACTOR = 8
METHODS = {
    "gradcam": ("GradCAM", {}),
    "gradcam++": ("GradCAMPlusPlus", {"definition": "grad-cam"}),
    "xgradcam": ("XGradCAM", {}),
    "hirescam": ("HiResCAM", {}),
    "layercam": ("LayerCAM", {}),
    "gradcam-elementwise": ("GradCAMElementWise", {}),
    "segeigen": ("SegEigenCAM", {}),
    "fem": ("FEM", {"definition": "grad-cam"}),
    "kpca": ("KPCA_CAM", {}),
}


class Network(nn.Module):
    """Three convolutions with ReLUs, an odd 4×5 map of 8 channels, and a head."""

    def __init__(self, head):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 6, 3, stride=2, padding=1), nn.ReLU(),
            nn.MaxPool2d(3, 1, 1), nn.Conv2d(6, 8, 3, stride=2, padding=1),
        )  # fmt: skip
        self.rectify = nn.ReLU()
        self.head = {
            "pooled-linear": nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, CLASSES)),
            "flattened-network": nn.Sequential(
                nn.Flatten(), nn.Linear(160, 10), nn.ReLU(), nn.Linear(10, CLASSES)
            ),
            "generic": nn.Sequential(
                nn.Conv2d(8, 8, 3, padding=1),
                nn.ReLU(),
                nn.AdaptiveAvgPool2d(1),
                nn.Flatten(),
                nn.Linear(8, CLASSES),
            ),
        }[head]

    def forward(self, images):
        return self.head(self.rectify(self.features(images)))


@pytest.fixture(scope="module", params=["pooled-linear", "flattened-network", "generic"])
def twins(request, tmp_path_factory):
    pytest.importorskip("onnxscript")
    torch.manual_seed(3)
    module = Network(request.param).eval()
    with torch.no_grad():
        module.features[3].weight *= 3
        module.head[-1].weight *= 3
    images = np.random.default_rng(1).normal(size=(4, 3, 15, 19)).astype(np.float32)
    path = tmp_path_factory.mktemp("peers") / "network.onnx"
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r".*treespec.*", category=FutureWarning)
        torch.onnx.export(
            module, (torch.from_numpy(images),), path, dynamo=True, verbose=False,
            dynamic_shapes={"images": {0: torch.export.Dim("N")}},
        )  # fmt: skip
    target = next(
        found.name
        for found in camrt.load(path).targets()
        if found.shape == (8, 4, 5) and found.operator == "Relu"
    )
    engine = camrt.load(path, threads=1, target=target)
    assert engine.head.kind == request.param
    return SimpleNamespace(
        module=module,
        engine=engine,
        path=path,
        images=images,
        tensor=torch.from_numpy(images),
        targets=[0, 3, 1, 4],
    )


@pytest.mark.parametrize("name", METHODS)
def test_pytorch_grad_cam(twins, name):
    peer, (made, options) = import_peer("pytorch_grad_cam"), METHODS[name]
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    cam = getattr(peer, made)(model=twins.module, target_layers=[twins.module.rectify])
    expected = cam(twins.tensor, [ClassifierOutputTarget(target) for target in twins.targets])
    cam.activations_and_grads.release()
    found = twins.engine.explain(twins.images, name, targets=twins.targets, postprocess="library", **options)
    assert (found.flags == 0).any()
    assert_close(found.maps, expected, np.float32, factor=FACTOR)


@pytest.mark.parametrize("name", METHODS)
def test_pytorch_grad_cam_smoothed_by_copies(twins, name):
    peer, (made, options) = import_peer("pytorch_grad_cam"), METHODS[name]
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    cam = getattr(peer, made)(model=twins.module, target_layers=[twins.module.rectify])
    chosen = [ClassifierOutputTarget(target) for target in twins.targets]
    expected = cam(twins.tensor, chosen, aug_smooth=True)
    cam.activations_and_grads.release()
    options = {**options, "postprocess": "library", "smooth": "augment"}
    found = twins.engine.explain(twins.images, name, targets=twins.targets, **options)
    assert (found.flags == 0).any()
    assert_close(found.maps, expected, np.float32, factor=FACTOR)


@pytest.mark.parametrize("name", sorted(set(METHODS) & {"gradcam", "gradcam++", "hirescam", "layercam"}))
def test_pytorch_grad_cam_smoothed_by_a_component(twins, name):
    """But for the sign, which NumPy's decomposition leaves to chance there."""
    peer, (made, options) = import_peer("pytorch_grad_cam"), METHODS[name]
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    cam = getattr(peer, made)(model=twins.module, target_layers=[twins.module.rectify])
    chosen = [ClassifierOutputTarget(target) for target in twins.targets]
    expected = cam(twins.tensor, chosen, eigen_smooth=True)
    cam.activations_and_grads.release()
    found = twins.engine.explain(twins.images, name, targets=twins.targets, smooth="eigen", **options)
    size = expected.shape[1:]
    for raw, theirs in zip(found.raw, expected, strict=True):
        ours = [postprocess.library(sign * raw, size) for sign in (1, -1)]
        nearest = min(ours, key=lambda one: np.abs(one - theirs).max())
        # the component of an activation whose weights are small is found from squares of them
        assert_close(nearest, theirs, np.float32, factor=100 * FACTOR)


@pytest.mark.parametrize("base", ["GradCAM", "HiResCAM"])
@pytest.mark.parametrize(
    ("theirs", "ours"),
    [
        ({"num_scales": 3}, {"scales": 3}),
        ({"num_scales": 2, "pool": "max", "step_size": 8}, {"scales": 2, "pool": "max", "stride": 8 / 15}),
        (
            {"num_scales": 3, "theta": 0.1, "pre_filter_ratio": 0.3},
            {"scales": 3, "theta": 0.1, "discard": 0.3},
        ),
    ],
    ids=str,
)
def test_pytorch_grad_cam_sess(twins, base, theirs, ours):
    peer = import_peer("pytorch_grad_cam")
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    if twins.engine.head.kind == "flattened-network":
        pytest.skip("it takes no square images, and the package's windows are squares")
    images = np.ascontiguousarray(twins.images[..., 2:17])
    engine = camrt.load(twins.module, target="rectify", size=images.shape[2:])
    sess = peer.SESS(twins.module, [twins.module.rectify], base_method=getattr(peer, base), **theirs)
    expected = sess(torch.from_numpy(images), [ClassifierOutputTarget(target) for target in twins.targets])
    found = engine.explain(
        images, f"sess-{base}", targets=twins.targets, postprocess="library", normalisation="minmax", **ours
    )
    # A pixel that is nothing in a window but for rounding counts there or does not.
    assert np.median(np.abs(found.maps - expected)) < 1e-5
    assert (np.abs(found.maps - expected) > 1e-3).mean() < 0.25  # the blur spreads it over 11×11


def two_layers(twins):
    first = next(found.name for found in twins.engine.targets() if found.operator == "MaxPool")
    return camrt.load(twins.path, threads=1, target=[first, twins.engine.target.name])


@pytest.mark.parametrize("base", ["GradCAM", "LayerCAM"])
def test_pytorch_grad_cam_refine(twins, base):
    peer = import_peer("pytorch_grad_cam")
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    engine, cut = two_layers(twins), [twins.module.features[2], twins.module.rectify]
    cam = peer.RefineCAM(twins.module, cut, base_method=getattr(peer, base))
    expected = cam(twins.tensor, [ClassifierOutputTarget(target) for target in twins.targets])
    found = engine.explain(twins.images, f"refine-{base}", targets=twins.targets, postprocess="library")
    assert (found.flags == 0).any()
    assert_close(found.maps, expected, np.float32, factor=FACTOR)


def test_torchcam_refine(twins):
    methods = import_peer("torchcam").methods
    engine, cut = two_layers(twins), [twins.module.features[2], twins.module.rectify]
    with methods.RefineCAM(twins.module, cut, base_method=methods.LayerCAM) as extractor:
        expected = extractor(twins.targets, twins.module(twins.tensor), target_shape=twins.images.shape[2:])
    found = engine.explain(twins.images, "refine-layercam", targets=twins.targets, normalisation="minmax")
    alive = np.flatnonzero(found.flags == 0)
    assert len(alive)
    assert_close(
        stretched(found.raw[alive]), expected[0].detach().numpy()[alive], np.float32, factor=10 * FACTOR
    )


class Negative:
    """A class's score, negative."""

    def __init__(self, category):
        self.category = category

    def __call__(self, output):
        return -output[self.category]


@pytest.mark.parametrize("base", ["GradCAM", "HiResCAM"])
def test_pytorch_grad_cam_counterfactual(twins, base):
    peer = import_peer("pytorch_grad_cam")
    cam = getattr(peer, base)(model=twins.module, target_layers=[twins.module.rectify])
    expected = cam(twins.tensor, [Negative(target) for target in twins.targets])
    cam.activations_and_grads.release()
    found = twins.engine.explain(
        twins.images, base, targets=twins.targets, postprocess="library", counterfactual=True
    )
    assert (found.flags == 0).any()
    assert_close(found.maps, expected, np.float32, factor=FACTOR)


@pytest.mark.parametrize("base", ["GradCAM", "HiResCAM", "AblationCAM"])
@pytest.mark.parametrize("strength", [1, 0.4])
def test_pytorch_grad_cam_finer(twins, base, strength):
    peer = import_peer("pytorch_grad_cam")
    cam = peer.FinerCAM(twins.module, [twins.module.rectify], base_method=getattr(peer, base))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = cam(twins.tensor, None, alpha=strength)
    options = {"contrast": "similar-weighted", "strength": strength, "postprocess": "library"}
    found = twins.engine.explain(twins.images, f"finer-{base}", **options)
    assert (found.flags == 0).any()
    # its weights are divided by their sum plus 1e-9, and the score is a difference of logits
    assert_close(found.maps, expected, np.float32, factor=10 * FACTOR)


@pytest.mark.parametrize("base", ["GradCAM", "LayerCAM"])
def test_torchcam_finer(twins, base):
    methods = import_peer("torchcam").methods
    made = methods.FinerCAM(twins.module, twins.module.rectify, base_method=getattr(methods, base))
    with made as extractor:
        expected = extractor(twins.targets, twins.module(twins.tensor))[0].detach().numpy()
    raw = twins.engine.explain(twins.images, f"finer-{base}", targets=twins.targets).raw
    alive = np.flatnonzero(np.maximum(raw, 0).max((1, 2)) > 0)
    assert len(alive)
    assert_close(stretched(raw[alive]), expected[alive], np.float32, factor=FACTOR)


def test_eigen_grad_cam_but_for_its_sign(twins):
    """pytorch-grad-cam leaves it to LAPACK."""
    peer = import_peer("pytorch_grad_cam")
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

    cam = peer.EigenGradCAM(model=twins.module, target_layers=[twins.module.rectify])
    expected = cam(twins.tensor, [ClassifierOutputTarget(target) for target in twins.targets])
    cam.activations_and_grads.release()
    found = twins.engine.explain(
        twins.images, "EigenGradCAM", targets=twins.targets, postprocess="library", size="map"
    )
    for raw, map_ in zip(found.raw, expected, strict=True):
        turned = [postprocess.library(sign * raw, map_.shape) for sign in (1, -1)]
        nearer = min(turned, key=lambda one: np.abs(one - map_).max())
        assert_close(nearer, map_, np.float32, factor=FACTOR)


def test_shapley_cam_of_what_bends():
    """A head with a second derivative: a GELU, a softmax over channels, and a square of probabilities."""
    peer = import_peer("pytorch_grad_cam")
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputSoftmaxTarget, ClassifierOutputTarget

    class Bent(nn.Module):
        def __init__(self):
            super().__init__()
            self.features = nn.Sequential(nn.Conv2d(3, 6, 3, stride=2, padding=1), nn.ReLU())
            self.mix = nn.Conv2d(6, 8, 3, padding=1)
            self.linear = nn.Linear(8, CLASSES)

        def forward(self, images):
            mixed = nn.functional.gelu(self.mix(self.features(images)))
            return self.linear((mixed * mixed.softmax(1)).mean((2, 3)))

    torch.manual_seed(5)
    module = Bent().eval()
    with torch.no_grad():
        for values in module.parameters():
            values *= 3
    images = np.random.default_rng(1).normal(size=(3, 3, 9, 11)).astype(np.float32)
    engine = camrt.load(module, target="features", size=(9, 11))
    targets = [0, 3, 1]
    for kind, made in (("logit", ClassifierOutputTarget), ("probability", ClassifierOutputSoftmaxTarget)):
        cam = peer.ShapleyCAM(model=module, target_layers=[module.features])
        expected = cam(torch.from_numpy(images), [made(target) for target in targets])
        cam.activations_and_grads.release()
        options = {"targets": targets, "score": kind, "postprocess": "library"}
        found = engine.explain(images, "ShapleyCAM", **options)
        assert_close(found.maps, expected, np.float32, factor=4 * FACTOR)
        plain = engine.explain(images, "gradcam", **options)
        assert np.abs(plain.maps - found.maps).max() > 0.01


def test_smooth_grad_cam_plus_plus_of_torchcam(twins, monkeypatch):
    """With the same noise drawn."""
    methods = import_peer("torchcam").methods
    draws = [np.random.default_rng([3, i]).standard_normal((3, 15, 19), np.float32) for i in range(3)]
    with (
        methods.SmoothGradCAMpp(twins.module, twins.module.rectify, num_samples=3, std=0.3) as extractor,
        torch.no_grad(),
    ):
        waiting = iter(draws)
        monkeypatch.setattr(
            extractor._distrib,
            "sample",
            lambda shape: 0.3 * torch.from_numpy(next(waiting)).expand(shape).clone(),
        )
        twins.module(twins.tensor)
        with torch.enable_grad():
            expected = extractor(twins.targets)[0].detach().numpy()
    options = {"definition": "torchcam", "draws": 3, "noise": 0.3, "seed": 3}
    found = twins.engine.explain(twins.images, "SmoothGradCAMpp", targets=twins.targets, **options)
    alive = np.flatnonzero(np.maximum(found.raw, 0).max((1, 2)) > 0)
    assert len(alive)
    assert_close(stretched(found.raw[alive]), expected[alive], np.float32, factor=2 * FACTOR)


def test_random_cam(twins, monkeypatch):
    """With the same numbers drawn."""
    peer = import_peer("pytorch_grad_cam")
    weights = np.random.default_rng([0, 0]).uniform(-1, 1, 8)
    monkeypatch.setattr(np.random, "uniform", lambda low, high, size: np.broadcast_to(weights, size))
    cam = peer.RandomCAM(model=twins.module, target_layers=[twins.module.rectify])
    expected = cam(twins.tensor, None)
    cam.activations_and_grads.release()
    found = twins.engine.explain(twins.images, "RandomCAM", postprocess="library")
    assert_close(found.maps, expected, np.float32, factor=FACTOR)


def stretched(raw):
    """A map brought to [0, 1] as torchcam does it."""
    low = np.maximum(raw, 0)
    low = low - low.min((1, 2), keepdims=True)
    return low / (low.max((1, 2), keepdims=True) + 1e-8)


@pytest.mark.parametrize(
    ("name", "made"), [("gradcam", "GradCAM"), ("layercam", "LayerCAM"), ("xgradcam", "XGradCAM")]
)
def test_torchcam(twins, name, made):
    methods = import_peer("torchcam").methods
    raw = twins.engine.explain(twins.images, name, targets=twins.targets).raw
    alive = np.flatnonzero(np.maximum(raw, 0).max((1, 2)) > 0)
    with getattr(methods, made)(twins.module, target_layer=twins.module.rectify) as extractor:
        expected = extractor(twins.targets, twins.module(twins.tensor))[0].detach().numpy()
    assert len(alive)
    assert_close(stretched(raw[alive]), expected[alive], np.float32, factor=FACTOR)


def test_torchcam_leaves_the_weights_out_of_grad_cam_plus_plus(twins):
    """Its α never takes effect: its weights are Σ relu(G)³. Ours are the paper's, by autograd in float64."""
    methods = import_peer("torchcam").methods
    with methods.GradCAMpp(twins.module, target_layer=twins.module.rectify) as extractor:
        theirs = extractor(twins.targets, twins.module(twins.tensor))[0].detach().numpy()
    ours = twins.engine.explain(twins.images, "gradcam++", targets=twins.targets).raw
    kept = []

    def keep(_, __, output):
        output.retain_grad()
        kept.append(output)

    handle = twins.module.rectify.register_forward_hook(keep)
    logits = twins.module(twins.tensor)
    handle.remove()
    logits[range(4), twins.targets].sum().backward()
    twins.module.zero_grad()
    a, g = (value.detach().double().numpy() for value in (kept[0], kept[0].grad))
    positive = np.maximum(g, 0)
    below = 2 * g**2 + a.sum((2, 3), keepdims=True) * g**3
    shares = np.divide(g**2, below, out=np.zeros_like(g), where=below != 0)
    paper = np.einsum("nk,nkij->nij", (shares * positive).sum((2, 3)), a)
    cubes = np.einsum("nk,nkij->nij", (positive**3).sum((2, 3)), a)
    assert_close(ours, paper, np.float32, factor=FACTOR)
    assert_close(theirs, stretched(cubes), np.float32, factor=FACTOR)
    assert np.abs(stretched(cubes) - stretched(paper)).max() > 0.01


def test_captum_at_the_layer(twins):
    attr = import_peer("captum.attr")
    target = torch.tensor(twins.targets)
    expected = attr.LayerGradCam(twins.module, twins.module.rectify).attribute(twins.tensor, target=target)
    found = twins.engine.explain(twins.images, "gradcam", targets=twins.targets)
    assert_close(found.raw, expected.detach().numpy()[:, 0], np.float32, factor=FACTOR)


def test_captum_at_the_pixels(twins):
    attr = import_peer("captum.attr")
    target = torch.tensor(twins.targets)
    explain = twins.engine.explain
    options = {"targets": twins.targets, "blur": 1}
    plain = attr.Saliency(twins.module).attribute(twins.tensor.clone().requires_grad_(), target=target)
    found = explain(twins.images, "gradient", **options)
    assert_close(found.raw, plain.detach().amax(1).numpy(), np.float32, factor=FACTOR)
    times = attr.InputXGradient(twins.module).attribute(twins.tensor.clone().requires_grad_(), target=target)
    found = explain(twins.images, "gradient-times-input", colours="sum", **options)
    assert_close(found.raw, times.detach().sum(1).numpy(), np.float32, factor=FACTOR)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it says that it sets hooks on ReLUs, and that it takes them off
        guided = attr.GuidedBackprop(twins.module).attribute(
            twins.tensor.clone().requires_grad_(), target=target
        )
    found = explain(twins.images, "guided", **options)
    assert_close(found.raw, guided.detach().abs().amax(1).numpy(), np.float32, factor=FACTOR)
    whole = attr.IntegratedGradients(twins.module).attribute(
        twins.tensor.clone().requires_grad_(), target=target, n_steps=33, method="riemann_trapezoid"
    )
    found = explain(twins.images, "integrated-textbook", steps=32, **options)
    # captum's weights of its 33 points sum to 32/33, not to one
    assert_close(found.raw, whole.detach().abs().amax(1).numpy() * 33 / 32, np.float32, factor=FACTOR)


def test_captum_s_gradient_shap_is_expected_gradients(twins, monkeypatch):
    """With the same random numbers: one reference, and the places on the way to it that camrt draws."""
    attr = import_peer("captum.attr")
    count, reference = (
        6,
        np.random.default_rng(9).normal(size=(1, *twins.images.shape[1:])).astype(np.float32),
    )
    shares = [np.random.default_rng([0, draw, 1]).random() for draw in range(count)]
    monkeypatch.setattr(np.random, "uniform", lambda low, high, size: np.resize(shares, size))
    theirs = attr.GradientShap(twins.module).attribute(
        twins.tensor.clone().requires_grad_(), torch.from_numpy(reference),
        n_samples=count, target=torch.tensor(twins.targets),
    )  # fmt: skip
    options = {"targets": twins.targets, "draws": count, "references": reference, "blur": 1, "colours": "sum"}
    found = twins.engine.explain(twins.images, "expected-gradients", **options)
    assert_close(found.raw, theirs.detach().sum(1).numpy(), np.float32, factor=FACTOR)


class Modules(nn.Module):
    """What captum's DeepLIFT and LRP take: a module a layer, each used once, none in place."""

    def __init__(self, bias=True):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 6, 3, padding=1, bias=bias), nn.BatchNorm2d(6), nn.ReLU(), nn.AvgPool2d(2),
            nn.Conv2d(6, 8, 3, stride=2, padding=1, bias=bias), nn.Tanh(), nn.AvgPool2d(2),
            nn.AdaptiveAvgPool2d(1),
        )  # fmt: skip
        self.hidden = nn.Linear(8, 9, bias=bias)
        self.rectify = nn.ReLU()
        self.last = nn.Linear(9, CLASSES, bias=bias)

    def forward(self, images):
        return self.last(self.rectify(self.hidden(self.layers(images)[:, :, 0, 0])))


class Squeezed(nn.Module):
    """Layers whose last maps are single numbers, which are the logits."""

    def __init__(self, layers):
        super().__init__()
        self.layers = layers

    def forward(self, images):
        return self.layers(images)[:, :, 0, 0]


@pytest.fixture
def modules(tmp_path):
    torch.manual_seed(5)
    module = Modules()
    module.train()(torch.randn(16, 3, 16, 12))
    module.eval()
    images = torch.randn(1, 3, 16, 12)  # captum takes the first image's slopes for all, where nothing changes
    path = export(module, (16, 12), tmp_path / "modules.onnx", dynamo=False, opened=True)
    return module, camrt.load(path, threads=1), images


def test_captum_s_deep_lift(modules):
    attr, (module, engine, images) = import_peer("captum.attr"), modules
    references = torch.randn(2, 3, 16, 12)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it says that it sets hooks, and that it takes them off
        one = attr.DeepLift(module).attribute(images, target=2)
        several = attr.DeepLiftShap(module).attribute(images, references, target=2)
    for theirs, given in ((one, None), (several, references.numpy())):
        found = engine.explain(images.numpy(), "deeplift", targets=2, references=given, blur=1)
        # quotients of small differences of tanh
        assert_close(found.raw, theirs.detach().sum(1).numpy(), np.float32, factor=4 * FACTOR)


def test_captum_s_deep_lift_of_a_max_pooling(tmp_path):
    """Among linear layers; beside functions of each number its shares part from the rule it states."""
    attr = import_peer("captum.attr")
    torch.manual_seed(5)
    module = Squeezed(nn.Sequential(nn.Conv2d(3, 5, 3), nn.MaxPool2d(2), nn.AdaptiveAvgPool2d(1)))
    images = torch.randn(1, 3, 16, 12)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = attr.DeepLift(module).attribute(images, target=2).detach().sum(1).numpy()
    path = export(module, (16, 12), tmp_path / "pooled.onnx", dynamo=False, opened=True)
    found = camrt.load(path, threads=1).explain(images.numpy(), "deeplift", targets=2, blur=1)
    assert_close(found.raw, theirs, np.float32, factor=FACTOR)


def test_captum_s_lrp(modules):
    attr, (module, engine, images) = import_peer("captum.attr"), modules
    theirs = attr.LRP(module).attribute(images.requires_grad_(), target=2).detach().sum(1).numpy()
    found = engine.explain(images.detach().numpy(), "lrp", targets=2, blur=1)
    # answers near zero, that relevance is divided by, magnify the rounding of both
    assert_close(found.raw, theirs, np.float32, factor=40 * FACTOR)


def test_captum_s_lrp_of_positive_weights(tmp_path):
    """Its Alpha1_Beta0_Rule of layers without biases, which read no negative number."""
    attr, rules = import_peer("captum.attr"), import_peer("captum.attr._utils.lrp_rules")
    torch.manual_seed(6)
    module = nn.Sequential(
        nn.Conv2d(3, 6, 3, padding=1, bias=False), nn.ReLU(),
        nn.Conv2d(6, 4, 3, stride=2, bias=False), nn.ReLU(), nn.AdaptiveAvgPool2d(1),
    ).eval()  # fmt: skip
    module = Squeezed(module)
    images = torch.rand(3, 3, 12, 12)
    path = export(module, (12, 12), tmp_path / "positive.onnx", dynamo=False, opened=True)
    for layer in module.layers:
        if hasattr(layer, "weight"):
            layer.rule = rules.Alpha1_Beta0_Rule()
    theirs = attr.LRP(module).attribute(images.requires_grad_(), target=2).detach().sum(1).numpy()
    found = camrt.load(path, threads=1).explain(images.detach().numpy(), "lrp", rule="z+", targets=2, blur=1)
    assert_close(found.raw, theirs, np.float32, factor=FACTOR)
