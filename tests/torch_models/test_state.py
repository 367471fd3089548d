"""A module that was explained is as it was before."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from camrt.engine.torch_models.load import load_module
from camrt.errors import BackendError, UnsupportedModelError
from helpers.torch_nets import CLASSES, Functional, Modular, Residual, build_net, nn, random_images, torch

METHODS = ("gradcam", "pixab", "ablation", "score", "gradient", "guided")


def state(net):
    """Everything a run could change."""
    return {
        "training": [part.training for part in net.modules()],
        "requires": [parameter.requires_grad for parameter in net.parameters()],
        "grad": [None if p.grad is None else p.grad.tolist() for p in net.parameters()],
        "values": [tensor.tolist() for tensor in net.state_dict().values()],
        "hooks": [
            (list(part._forward_hooks.values()), list(part._forward_pre_hooks.values()))
            for part in net.modules()
        ],
        "backward": [list(part._backward_hooks.values()) for part in net.modules()],
        "attributes": [sorted(vars(part)) for part in net.modules()],
        "random": torch.get_rng_state().tolist(),
        "grad mode": (torch.is_grad_enabled(), torch.is_inference_mode_enabled()),
    }


def half_trained(kind):
    """Some parts in training mode, one frozen, one parameter with a gradient, and hooks of the user's."""
    net = build_net(kind)
    net.train()
    first = next(part for part in net.modules() if isinstance(part, nn.Conv2d))
    first.eval()
    first.weight.requires_grad_(False)
    net.head.weight.grad = torch.ones_like(net.head.weight)
    seen = []
    net.head.register_forward_hook(lambda *_: seen.append(1))
    return net, seen


CASES = [(Modular, None), (Modular, "stem"), (Functional, None), (Functional, "first"), (Residual, "body")]


@pytest.mark.parametrize(("kind", "target"), CASES)
def test_nothing_has_changed(kind, target):
    net, seen = half_trained(kind)
    before = state(net)
    engine = load_module(net, target=target, size=(12, 16), batch_size=2)
    assert state(net) == before
    for method in METHODS:
        engine.explain(random_images(), method)
        assert state(net) == before
    engine.predict(random_images())
    assert state(net) == before
    assert seen, "the user's hook was called"


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_whatever_the_callers_mode(mode):
    net = build_net(Modular)
    expected = load_module(net, size=(12, 16)).explain(random_images(), "gradcam")
    with mode():
        found = load_module(net, size=(12, 16)).explain(random_images(), "gradcam")
        assert torch.is_inference_mode_enabled() == (mode is torch.inference_mode)
    np.testing.assert_array_equal(found.raw, expected.raw)


class Failing(Modular):
    """Fails where it is told to."""

    def __init__(self):
        super().__init__()
        self.where = None

    def forward(self, batch):
        if self.where == "start":
            raise ValueError("no forward today")
        x = self.relu(self.body(self.stem(batch)))
        if self.where == "middle":
            raise ValueError("no forward today")
        x = self.last(x)
        if self.where == "end":
            raise ValueError("no forward today")
        return self.head(self.pool(x).flatten(1))


@pytest.mark.parametrize("where", ["start", "middle", "end"])
@pytest.mark.parametrize("method", METHODS)
def test_nothing_has_changed_after_an_exception(where, method):
    net = build_net(Failing).train()
    engine = load_module(net, target="body", size=(12, 16))
    before = state(net)
    net.where = where
    with pytest.raises(BackendError, match=r"Failing failed on images of shape .*: no forward today"):
        engine.explain(random_images(), method)
    net.where = None
    assert state(net) == before
    engine.explain(random_images(), method)


def test_nothing_has_changed_after_loading_failed():
    net = build_net(Failing).train()
    net.where = "end"
    before = state(net)
    with pytest.raises(BackendError, match=r"no forward today.*size=\(H, W\)"):
        load_module(net, size=(12, 16))
    assert state(net) == before


def test_an_exception_behind_the_cut_restores_the_calls_left_out():
    net = build_net(Modular)
    engine = load_module(net, target="last", size=(12, 16))
    before = state(net)
    broken = net.head.register_forward_hook(fail)
    with pytest.raises(BackendError, match="the head is gone"):
        engine.explain(random_images(), "ablation", targets=0)
    broken.remove()
    assert state(net) == before


def fail(*_):
    raise RuntimeError("the head is gone")


def test_the_random_state_is_left_alone_by_dropout_that_never_stops():
    class Dropping(Modular):
        def forward(self, batch):
            return super().forward(nn.functional.dropout(batch, 0.1))

    net = build_net(Dropping)
    torch.manual_seed(3)
    before = torch.get_rng_state()
    load_module(net, size=(12, 16), verify=False).explain(random_images(), "gradcam")
    with pytest.raises(UnsupportedModelError, match="draws random numbers"):
        load_module(net, size=(12, 16))
    assert torch.equal(torch.get_rng_state(), before)


def test_hooks_of_the_users_take_part():
    """One that changes an output changes the map; what is captured is what it gave."""
    net = build_net(Modular)
    doubled = net.last.register_forward_hook(lambda _, __, output: output * 2)
    engine = load_module(net, target="last", size=(12, 16))
    with_hook = engine.explain(random_images(), "activation")
    altered = engine.explain(random_images(), "ablation", targets=1)
    doubled.remove()
    plain = load_module(net, target="last", size=(12, 16)).explain(random_images(), "activation")
    np.testing.assert_allclose(with_hook.raw, 2 * plain.raw, rtol=1e-6)
    with torch.no_grad():
        net.last.weight *= 2
        net.last.bias *= 2
    expected = load_module(net, target="last", size=(12, 16)).explain(random_images(), "ablation", targets=1)
    np.testing.assert_allclose(altered.raw, expected.raw, rtol=1e-4, atol=1e-6)


def test_what_is_explained_are_the_weights_of_the_moment():
    net = build_net(Modular)
    engine = load_module(net, size=(12, 16))
    engine.explain(random_images(), "pixab")
    with torch.no_grad():
        net.head.weight.normal_()
        net.head.bias.normal_()
    fresh = load_module(net, size=(12, 16))
    for method in ("pixab", "gradcam", "ablation"):
        found, expected = (one.explain(random_images(), method, targets=2) for one in (engine, fresh))
        np.testing.assert_array_equal(found.raw, expected.raw)


def test_several_threads_and_engines_on_one_module():
    net = build_net(Modular)
    batches = [random_images(seed=seed) for seed in range(6)]
    engines = [load_module(net, target=target, size=(12, 16)) for target in (None, "stem")]
    jobs = [
        (number % 2, batch, method)
        for number, batch in enumerate(batches)
        for method in ("gradcam", "pixab", "guided")
    ]

    def job(item):
        which, batch, method = item
        return engines[which].explain(batch, method, targets=np.arange(3) % CLASSES).raw

    expected = [job(item) for item in jobs]
    before = state(net)
    with ThreadPoolExecutor(6) as pool:
        found = list(pool.map(job, jobs))
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one, other)
    assert state(net) == before


def test_images_stay_as_they_are_when_the_module_writes_into_them():
    class Writing(Modular):
        def forward(self, batch):
            batch -= 0.5
            return super().forward(batch)

    engine = load_module(build_net(Writing), size=(12, 16))
    given = random_images()
    for method in METHODS:
        engine.explain(given, method)
    np.testing.assert_array_equal(given, random_images())
