"""Maps with derivatives at the edges: one pixel, no images, autocast, many derivatives at once, what does not fit."""

import numpy as np
import pytest
import torch

import fusedcam
from fusedcam.torch import GradCAM

pytestmark = pytest.mark.usefixtures("doubles")


@pytest.mark.parametrize("method", list(fusedcam.METHODS))
def test_layers_of_one_pixel(method):
    """Every moment's derivative is written."""
    a = (torch.rand(2, 7, 1, 1) + 0.1).requires_grad_()
    g = torch.rand(2, 7, 1, 1) + 0.5
    g = (torch.stack([g, g**2, g**3]) if method == "smoothgradcam++" else g).requires_grad_()
    poison = torch.full((3, *g.shape), 7e5)
    del poison
    native = torch.autograd.grad(fusedcam.cam(a, g, method=method, normalize=None).sum(), (a, g))
    exact = torch.autograd.grad(fusedcam.cam(a, g, method=method, normalize=None).sum(), (a, g), create_graph=True)
    for got, wanted in zip(native, exact, strict=True):
        np.testing.assert_allclose(got, wanted.detach(), rtol=1e-9)


def test_no_images():
    a = torch.rand(0, 3, 4, 4, requires_grad=True)
    fusedcam.cam(a, a, size=9).sum().backward()
    assert a.grad.shape == a.shape
    fusedcam.resize(a, 9, normalize="minmax").sum().backward()


def test_no_classes():
    """Nothing counts, which is written too."""
    a = torch.rand(2, 3, 4, 4, requires_grad=True)
    poison = torch.full((2, 3, 4, 4), 7e5)
    del poison
    for method in ("gradcam", "layercam"):
        (slope,) = torch.autograd.grad(fusedcam.cam(a, torch.rand(2, 0, 3, 4, 4), method=method).sum(), a)
        assert not slope.any()


def test_autocast_changes_nothing():
    a, g = torch.rand(2, 40, 5, 5), torch.randn(2, 40, 5, 5)
    leaf = a.clone().requires_grad_()

    def derivatives():
        (first,) = torch.autograd.grad(fusedcam.cam(leaf, g).square().sum(), leaf, create_graph=True)
        return (
            first,
            torch.autograd.grad(first.square().sum(), leaf)[0],
            torch.func.jacrev(lambda a: fusedcam.cam(a, g))(a),
        )

    wanted = derivatives()
    with torch.autocast("cpu", torch.bfloat16):
        for got, exact in zip(derivatives(), wanted, strict=True):
            assert torch.equal(got, exact)


def test_many_derivatives_at_once():
    a, g = torch.rand(1, 3, 4, 4, requires_grad=True), torch.randn(1, 3, 4, 4)
    heat = fusedcam.cam(a, g, size=(2, 3))
    seeds = torch.eye(6).reshape(6, 1, 2, 3)
    (batched,) = torch.autograd.grad(heat, a, seeds, is_grads_batched=True, retain_graph=True)
    each = torch.stack([torch.autograd.grad(heat, a, seed, retain_graph=True)[0] for seed in seeds])
    np.testing.assert_allclose(batched.detach(), each, rtol=1e-9, atol=1e-12)


WRONG = {
    "classes of one layer": (
        lambda a, g: fusedcam.cam([a, a], [g, torch.stack([g, g], 1)]),
        ValueError,
        "layer 1: maps of",
    ),
    "images of one layer": (lambda a, g: fusedcam.cam([a, a[:1]], [g, g[:1]]), ValueError, "layer 1: maps of"),
    "types of layers": (
        lambda a, g: fusedcam.cam([a, a.float()], [g, g.float()]),
        TypeError,
        r"dtype of activations\[0\]",
    ),
    "an array": (lambda a, g: fusedcam.cam(a, g.detach().numpy()), TypeError, "pass both from one framework"),
    "size": (lambda a, g: fusedcam.cam(a, g, size=0), ValueError, r"cam: size is \(0, 0\)"),
    "images": (lambda a, g: fusedcam.cam(a, g[:1]), ValueError, "cam: gradients have shape"),
    "pixels": (lambda a, g: fusedcam.cam(a, g[..., :3]), ValueError, "cam: gradients have shape"),
    "dtype": (lambda a, g: fusedcam.cam(a, g.float()), TypeError, "cam: dtype of activations"),
    "method": (lambda a, g: fusedcam.cam(a, g, method="zz"), ValueError, "cam: method is"),
    "eps": (lambda a, g: fusedcam.cam(a, g, eps=-1), ValueError, "cam: eps is"),
    "weight_eps": (lambda a, g: fusedcam.cam(a, g, weight_eps=1), ValueError, "cam: weight_eps is"),
    "weights": (lambda a, g: fusedcam.cam(a, weights=g[:, :2, 0, 0]), ValueError, "cam: weights have shape"),
}


@pytest.mark.parametrize(("call", "kind", "words"), WRONG.values(), ids=WRONG.keys())
def test_refused_on_every_way(call, kind, words):
    """Differentiated, transformed and without memory alike."""
    a, g = torch.rand(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
    with pytest.raises(kind, match=words):
        call(a.clone().requires_grad_(), g)
    if words.startswith("cam: "):  # one layer's arrays: what a graph or a transform sees
        with pytest.raises(kind, match=words):
            torch.func.grad(lambda a: call(a, g).sum())(a)
        with pytest.raises(kind, match=words):
            call(a.to("meta"), g.to("meta"))


def head_of(move):
    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU())
            self.linear = torch.nn.Linear(8, 4)

        def forward(self, x):
            return move(self, self.layer(x))

    return Net().eval()


def scrambled(net, y):
    """One image's scores are its own; of two they are mixed."""
    scores = net.linear(y.mean((2, 3)))
    return scores.t().clone(memory_format=torch.contiguous_format).view(len(y), 4)


HEADS = {
    "scrambled": scrambled,
    "halves": lambda net, y: net.linear(
        torch.nn.functional.adaptive_avg_pool2d(y.reshape(len(y) * 2, 4, *y.shape[2:]), 1).reshape(len(y), 8).relu()
    ),
    "over images": lambda net, y: net.linear(y.mean((0, 2, 3))[None].expand(len(y), 8)),
    "strided": lambda net, y: net.linear(
        y.mean((2, 3)).as_strided((len(y), 8), (8, 1) if len(y) == 1 else (1, len(y)))
    ),
}


@pytest.mark.parametrize("head", HEADS.values(), ids=HEADS.keys())
def test_shortcuts_of_one_batch_are_not_those_of_another(head):
    net = head_of(head)
    x = torch.randn(2, 3, 9, 9)
    short, plain = GradCAM(net, "layer"), GradCAM(net, "layer", shortcut=False)
    for images in (x[:1], x, x[:1]):
        given = {"targets": "all", "normalize": None, "relu": False, "size": None}
        np.testing.assert_allclose(short(images, **given), plain(images, **given), rtol=1e-9, atol=1e-12)


def test_a_score_that_is_nothing_of_the_models():
    net = head_of(lambda net, y: net.linear(y.mean((2, 3))))
    with pytest.raises(ValueError, match="does not depend on layer"):
        GradCAM(net, "layer")(torch.randn(2, 3, 9, 9), targets=lambda output: torch.zeros(2, requires_grad=True))


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # Dynamo's own, of any graph
@pytest.mark.parametrize("create_graph", [False, True])
def test_an_explainer_within_a_compiled_function(create_graph):
    net = head_of(lambda net, y: net.linear(y.mean((2, 3))))
    x = torch.randn(2, 3, 9, 9)
    explain = GradCAM(net, "layer", create_graph=create_graph)
    wanted = explain(x, targets=1).detach() * 2
    got = torch.compile(lambda x: explain(x, targets=1) * 2, backend="eager")(x)
    assert torch.equal(got.detach(), wanted)
