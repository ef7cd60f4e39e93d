"""torch.compile, torch.export, fake tensors, make_fx and torch.func: the same numbers as eager calls."""

import subprocess
import sys
from typing import ClassVar

import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

import fusedcam
import torch_matrix
from cases import MOMENTS

METHODS = list(fusedcam.METHODS)
QUICK = [way for way in torch_matrix.WAYS if "inductor" not in way]


@pytest.fixture(autouse=True)
def seeded():
    print("seed:", torch.seed())
    yield
    torch._dynamo.reset()


def pair(shape=(2, 5, 4, 3), method="gradcam"):
    a, g = torch.rand(shape) + 0.1, torch.randn(shape)
    return a, torch.stack([g.abs(), g**2, g.abs() ** 3]) if method in MOMENTS else g


@pytest.mark.parametrize("requires_grad", [False, True], ids=["fresh", "requires-grad"])
@pytest.mark.parametrize("way", QUICK)
@pytest.mark.parametrize("op", torch_matrix.OPS)
def test_matrix(op, way, requires_grad):
    assert torch_matrix.difference(way, op, requires_grad) < 2e-5


@pytest.mark.slow
@pytest.mark.parametrize("requires_grad", [False, True], ids=["fresh", "requires-grad"])
@pytest.mark.parametrize("op", torch_matrix.OPS)
def test_inductor(op, requires_grad):
    assert torch_matrix.difference("compile inductor fullgraph", op, requires_grad) < 2e-5


CALLS = {
    "int size": lambda a, g: fusedcam.cam(a, g, size=9),
    "raw": lambda a, g: fusedcam.cam(a, g, normalize=None),
    "max": lambda a, g: fusedcam.cam(a, g, normalize="max", method="layercam", eps=0.1),
    "weights": lambda a, g: fusedcam.cam(a, weights=g.mean((2, 3)), size=(5, 6)),
    "classes": lambda a, g: fusedcam.cam(a, torch.stack([g, -g], 1)),
    "unbatched": lambda a, g: fusedcam.cam(a[0], g[0]),
    "last": lambda a, g: fusedcam.cam(a.movedim(1, -1), g.movedim(1, -1), layout="last"),
    "tokens": lambda a, g: fusedcam.cam(a.flatten(2).mT, g.flatten(2).mT, tokens=(4, 3), size=8),
    "signal": lambda a, g: fusedcam.cam(a.flatten(2), g.flatten(2), spatial=1, size=20),
    "volume": lambda a, g: fusedcam.cam(a[:, :, None], g[:, :, None], spatial=3, size=(2, 5, 5)),
    "layers": lambda a, g: fusedcam.cam([a, a[:, :2, :2]], [g, g[:, :2, :2]], fuse="max", size=7),
    "resize": lambda a, g: fusedcam.resize(a, (3, 8), normalize="minmax"),
    "colorize": lambda a, g: fusedcam.colorize(a[:, 0], colormap="viridis", size=6),
    "out": lambda a, g: fusedcam.cam(a, g, out=torch.full((2, 4, 3), torch.nan)),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
def test_compiled_and_fake_calls(call):
    a, g = pair()
    wanted = call(a, g)
    got = torch.compile(call, backend="aot_eager", fullgraph=True)(a, g)
    assert got.dtype == wanted.dtype
    assert got.shape == wanted.shape
    np.testing.assert_allclose(got, wanted, atol=1e-6)  # several layers are fused by other operations
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        fake = call(mode.from_tensor(a), mode.from_tensor(g))
        assert (fake.shape, fake.dtype, fake.stride()) == (wanted.shape, wanted.dtype, wanted.stride())


@pytest.mark.parametrize("method", METHODS)
def test_operators_hold_what_they_promise(method):
    """torch.library.opcheck: schema, fake kernels, autograd and AOT dispatch, with dynamic shapes."""
    a, g = pair(method=method)
    given = (False, method, [6, 5], True, "minmax", "propagate", 2, "first", 0.0, 0.0, None)
    torch.library.opcheck(torch.ops.fusedcam.cam.default, (a.requires_grad_(), g.requires_grad_(), *given))


def test_other_operators_hold_what_they_promise():
    heat = torch.rand(2, 4, 3).requires_grad_()
    ops = torch.ops.fusedcam
    torch.library.opcheck(ops.resize.default, (heat, [7, 5], "minmax", 0.0))
    torch.library.opcheck(ops.colorize.default, (heat.detach(), "jet", [5, 5], None))
    torch.library.opcheck(ops.overlay.default, (torch.rand(2, 3, 8, 8), heat.detach(), "turbo", 0.4, "minmax"))
    a, _ = pair()
    given = (True, "gradcam", None, True, "minmax", "propagate", 2, "first", 0.0, 0.0, None)
    torch.library.opcheck(ops.cam.default, (a.requires_grad_(), torch.rand(1, 5).requires_grad_(), *given))


def test_shapes_stay_dynamic():
    """One graph serves every batch and size."""
    graphs = []

    def backend(graph, inputs):
        graphs.append(graph)
        return graph

    function = torch.compile(lambda a, g: fusedcam.cam(a, g, size=(a.shape[2] * 4, 9)), backend=backend, dynamic=True)
    for shape in ((2, 5, 4, 3), (3, 7, 6, 5), (5, 8, 9, 4)):
        a, g = pair(shape)
        assert torch.equal(function(a, g), fusedcam.cam(a, g, size=(shape[2] * 4, 9)))
    assert len(graphs) == 1
    batch = torch.export.Dim("batch")
    program = torch.export.export(
        torch_matrix.Module(torch_matrix.cam), pair(), dynamic_shapes=({0: batch}, {0: batch}), strict=True
    )
    a, g = pair((7, 5, 4, 3))
    assert torch.equal(program.module()(a, g), torch_matrix.cam(a, g))


@pytest.mark.parametrize("mode", ["fake", "symbolic"])
def test_make_fx(mode):
    a, g = pair()
    graph = make_fx(CALLS["int size"], tracing_mode=mode)(a, g)
    assert "fusedcam.cam" in graph.code
    b, h = pair()
    assert torch.equal(graph(b, h), CALLS["int size"](b, h))


def test_meta_tensors_have_shapes():
    a, g = (one.to("meta") for one in pair())
    assert fusedcam.cam(a, g, size=9).shape == (2, 9, 9)
    assert fusedcam.overlay(torch.empty(2, 3, 8, 6, device="meta"), a[:, 0]).shape == (2, 8, 6, 3)


@pytest.mark.parametrize("in_dims", [(0, 0), (0, None), (None, 0), (2, 1), (1, 3)])
@pytest.mark.parametrize("method", ["gradcam", "smoothgradcam++"])
def test_vmap_maps_any_dimension(in_dims, method):
    pairs = [pair(method=method) for _ in range(4)]
    first, second = (torch.stack(list(some)) for some in zip(*pairs, strict=True))
    first = first[0] if in_dims[0] is None else first.movedim(0, in_dims[0])
    second = second[0] if in_dims[1] is None else second.movedim(0, in_dims[1])
    wanted = torch.stack(
        [
            fusedcam.cam(
                pairs[0 if in_dims[0] is None else i][0], pairs[0 if in_dims[1] is None else i][1], method=method
            )
            for i in range(4)
        ]
    )
    got = torch.func.vmap(lambda a, g: fusedcam.cam(a, g, method=method), in_dims=in_dims)(first, second)
    assert torch.equal(got, wanted)


@pytest.mark.usefixtures("doubles")
def test_vmap_of_weights_pictures_and_nested_maps():
    a, w = torch.rand(4, 3, 5, 4, 3), torch.randn(4, 1, 5)
    wanted = torch.stack([fusedcam.cam(one, weights=row) for one, row in zip(a, w, strict=True)])
    assert torch.equal(torch.func.vmap(lambda a, w: fusedcam.cam(a, weights=w))(a, w), wanted)
    shared = torch.stack([fusedcam.cam(one, weights=w[0]) for one in a])
    assert torch.equal(torch.func.vmap(lambda a: fusedcam.cam(a, weights=w[0]))(a), shared)
    g = torch.randn(a.shape)
    nested = torch.func.vmap(torch.func.vmap(lambda a, g: fusedcam.cam(a, g)))(a, g)
    assert torch.equal(nested, fusedcam.cam(a.flatten(0, 1), g.flatten(0, 1)).unflatten(0, (4, 3)))
    image = torch.rand(3, 8, 8)
    pictures = torch.func.vmap(lambda heat: fusedcam.overlay(image, heat))(nested[:, 0])
    assert torch.equal(pictures, torch.stack([fusedcam.overlay(image, heat) for heat in nested[:, 0]]))


@pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")  # PyTorch's own, of its jacfwd
@pytest.mark.usefixtures("doubles")
@pytest.mark.parametrize("method", METHODS)
def test_torch_func_differentiates(method):
    a, g = pair((3, 5, 4, 3), method)
    weights = torch.randn(3, 7, 6)

    def loss(a, g, weights=weights):
        return (fusedcam.cam(a, g, method=method, size=(7, 6)) * weights).sum()

    leaf = a.clone().requires_grad_()
    (wanted,) = torch.autograd.grad(loss(leaf, g), leaf)
    np.testing.assert_allclose(torch.func.grad(loss)(a, g), wanted, rtol=1e-9, atol=1e-12)
    if method not in MOMENTS:
        single = torch.func.vmap(torch.func.grad(lambda a, g, w: loss(a[None], g[None], w)))(a, g, weights)
        np.testing.assert_allclose(single, wanted, rtol=1e-9, atol=1e-12)
    raw = torch.func.jacrev(lambda a: fusedcam.cam(a, g, method=method))(a)
    forward = torch.func.jacfwd(lambda a: fusedcam.cam(a, g, method=method))(a)
    np.testing.assert_allclose(raw, forward, rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(
        raw[0, 1, 1],
        torch.autograd.functional.jacobian(lambda a: fusedcam.cam(a, g, method=method)[0, 1, 1], a),
        rtol=1e-8,
        atol=1e-10,
    )


class Wrapping(torch.Tensor):
    """A subclass with a dispatch of its own, which hands on what it wraps."""

    seen: ClassVar[list[str]] = []

    @staticmethod
    def __new__(cls, inner):
        return torch.Tensor._make_wrapper_subclass(cls, inner.shape, dtype=inner.dtype)

    def __init__(self, inner):
        self.inner = inner

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        cls.seen.append(str(function))
        plain = [one.inner if isinstance(one, cls) else one for one in args]
        return function(*plain, **(kwargs or {}))


def test_subclasses_dispatch():
    a, g = pair()
    assert torch.equal(fusedcam.cam(Wrapping(a), Wrapping(g)), fusedcam.cam(a, g))
    assert any("fusedcam" in name for name in Wrapping.seen)


class Stubborn(Wrapping):
    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        with torch._C._DisableTorchDispatch():
            return function(*args, **(kwargs or {}))


def test_a_subclass_that_stays_one_is_refused():
    a, g = pair()
    with pytest.raises(TypeError, match="a tensor subclass with a dispatch of its own"):
        fusedcam.cam(Stubborn(a), Stubborn(g))


@pytest.mark.parametrize("first", ["fusedcam", "torch._dynamo"])
def test_order_of_imports(first):
    """Whichever comes first, and before any function was used."""
    second = "torch._dynamo" if first == "fusedcam" else "fusedcam"
    code = f"""
import warnings; warnings.simplefilter("error", UserWarning)
import torch, {first}
import {second}
a, g = torch.rand(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
got = torch.compile(lambda a, g: fusedcam.cam(a, g, size=8), backend="eager", fullgraph=True)(a, g)
assert torch.equal(got, fusedcam.cam(a, g, size=8))
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)


def test_refusals_while_tracing():
    a, g = pair()
    with pytest.raises(Exception, match="gradients have shape"):
        torch.compile(lambda a, g: fusedcam.cam(a, g), backend="eager", fullgraph=True)(a, g[0, 0])
    with pytest.raises(Exception, match="accepted in a compiled function is a name"):
        torch.compile(
            lambda a: fusedcam.colorize(a[:, 0], colormap=[[0, 0, 0]] * 256), backend="eager", fullgraph=True
        )(a)
    with pytest.raises(ValueError, match=r"nan is 'raise' under torch\.func"):
        torch.func.grad(lambda a: fusedcam.cam(a, g, nan="raise").sum())(a)
    with FakeTensorMode() as mode, pytest.raises(TypeError, match="a dispatch of its own"):
        fusedcam.mask(mode.from_tensor(torch.rand(2, 3, 8, 8)), mode.from_tensor(torch.rand(2, 4, 4)))
