"""Traced extents stay symbols, and torch.func differentiates within what is compiled or traced."""

import numpy as np
import pytest
import torch
from torch.export import Dim
from torch.fx.experimental.proxy_tensor import make_fx

import fusedcam
from test_tracing import pair


@pytest.fixture(autouse=True)
def seeded():
    print("seed:", torch.seed())
    yield
    torch._dynamo.reset()


# Of activations, gradients and an image; the result's extents follow from all of their shapes.
SIZED = {
    "cam": lambda a, g, image: fusedcam.cam(a, g, size=image.shape[-2:]),
    "twice the size": lambda a, g, image: fusedcam.cam(a, g, size=(2 * a.shape[2], image.shape[3] + 1)),
    "square": lambda a, g, image: fusedcam.cam(a, g, size=image.shape[-1]),
    "layers": lambda a, g, image: fusedcam.cam([a, image], [g, image], size=image.shape[-2:]),
    "resize": lambda a, g, image: fusedcam.resize(a, list(image.shape[-2:]), normalize="max"),
    "colorize": lambda a, g, image: fusedcam.colorize(a[:, 0], size=image.shape[-2:]),
    "overlay": lambda a, g, image: fusedcam.overlay(image, fusedcam.cam(a, g)),
}


def inputs(n=2, own=(4, 6), image=(20, 18)):
    return *pair((n, 5, *own)), torch.rand(n, 3, *image)


@pytest.mark.parametrize("call", SIZED.values(), ids=SIZED.keys())
def test_what_is_traced_serves_other_shapes(call):
    auto = dict.fromkeys((0, 2, 3), Dim.AUTO)
    ways = [
        make_fx(call, tracing_mode="symbolic")(*inputs()),
        torch.export.export(Three(call), inputs(), dynamic_shapes=(auto,) * 3, strict=False).module(),
        torch.compile(call, backend="aot_eager", fullgraph=True, dynamic=True),
    ]
    for given in (inputs(), inputs(3, (7, 5), (33, 27)), inputs(4, (9, 8), (11, 40))):
        wanted = call(*given)
        for traced in ways:
            got = traced(*given)
            assert got.shape == wanted.shape
            np.testing.assert_allclose(got, wanted, atol=1e-6)


class Three(torch.nn.Module):
    def __init__(self, call):
        super().__init__()
        self.call = call

    def forward(self, a, g, image):
        return self.call(a, g, image)


def test_symbols_with_plain_tensors():
    """An extent of what is traced, and arrays that are constants there."""
    a, g = pair()
    graph = make_fx(
        lambda x: x + fusedcam.cam(a, g, size=x.shape).sum(), tracing_mode="symbolic", _allow_non_fake_inputs=True
    )
    for x in (torch.rand(6, 5), torch.rand(6, 5)):
        np.testing.assert_allclose(graph(x)(x), x + fusedcam.cam(a, g, size=x.shape).sum(), rtol=1e-5)


PLAIN = {
    "cam": lambda a, g, size: fusedcam.cam(a, g, size=size),
    "weights": lambda a, g, size: fusedcam.cam(a, weights=g[:, :, 0, 0], size=size, normalize="max"),
    "layers": lambda a, g, size: fusedcam.cam([a, a], [g, g], size=size, fuse="max"),
    "tokens": lambda a, g, size: fusedcam.cam(a[:, :, 0], g[:, :, 0], tokens=(size[0] - 5, 1), size=size),
    "resize": lambda a, g, size: fusedcam.resize(a, list(size), normalize="minmax"),
    "colorize": lambda a, g, size: fusedcam.colorize(a[:, 0], size=size),
}


@pytest.mark.parametrize("call", PLAIN.values(), ids=PLAIN.keys())
def test_traced_extents_of_numpy_arrays(call):
    """Which are constants of the trace: a symbol is its number in this run."""
    a, g = (one.numpy() for one in pair())
    wanted, found = call(a, g, (7, 6)), []

    def traced(x):
        found.append(call(a, g, x.shape))
        return x.sum()

    make_fx(traced, tracing_mode="symbolic")(torch.rand(7, 6))
    assert isinstance(found[0], np.ndarray)
    np.testing.assert_array_equal(found[0], wanted)


g = torch.randn(2, 5, 4, 3)
DERIVED = {
    "grad": torch.func.grad(lambda a: fusedcam.cam(a, g, size=6).square().sum()),
    "jacrev": torch.func.jacrev(lambda a: fusedcam.cam(a, g, size=3)),
    "of each": lambda a: torch.func.vmap(
        torch.func.grad(lambda one, slopes: fusedcam.cam(one, slopes, size=6).square().sum())
    )(a, g),
    "resize": torch.func.grad(lambda a: fusedcam.resize(a, 6, normalize="minmax").square().sum()),
    "mapped": torch.func.vmap(lambda a: fusedcam.cam(a, g[0], size=6)),
}


@pytest.mark.parametrize("call", DERIVED.values(), ids=DERIVED.keys())
def test_torch_func_in_what_is_compiled_or_traced(call):
    a, _ = pair()
    wanted = call(a)
    for got in (
        torch.compile(call, backend="aot_eager", fullgraph=True)(a),
        make_fx(call)(a)(a),
    ):
        np.testing.assert_allclose(got.detach(), wanted, rtol=1e-4, atol=1e-5)
