"""Refusals of torch tensors and JAX arrays: memory that is not there or means something else, frameworks mixed."""

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch._subclasses import FakeTensorMode

import fusedcam
from refusals import FLOATS, Case, Row, check, table


class Tensors(Case):
    """The same arrays as tensors."""

    def __init__(self):
        super().__init__()
        for name, value in list(vars(self).items()):
            setattr(self, name, torch.from_numpy(value))

    def bytes(self, name):
        return getattr(self, name).numpy().tobytes()


class Dispatching(torch.Tensor):
    @classmethod
    def __torch_dispatch__(cls, function, types, arguments=(), options=None):
        return function(*arguments, **(options or {}))


def fake(x):
    with FakeTensorMode():
        return torch.ones(2, 3, 4, 5)


def complexes(x):
    return torch.ones(2, 3, 4, 5, dtype=torch.complex64)


def memory(make, reason, name="activations"):
    message = f"cam: cannot read the memory of {name}, a Tensor ({reason}); "
    message += "pass a dense array that holds its values"
    if name == "gradients":
        return Row(lambda x: x.cam(x.a, make(x)), TypeError, message)
    return Row(lambda x: x.cam(make(x), x.g), TypeError, message)


STORAGE = "Cannot access data pointer of Tensor that doesn't have storage"
EMPTY = "it has a shape but no memory"
DISPATCH = "is a tensor subclass with a dispatch of its own; pass the plain tensor it stands for"
MEMORY = {
    "meta": memory(lambda x: x.a.to("meta"), "Cannot pack tensors on meta"),
    "gradients on meta": memory(lambda x: x.g.to("meta"), "Cannot pack tensors on meta", name="gradients"),
    "sparse": memory(lambda x: x.a.to_sparse(), STORAGE),
    "mkldnn": memory(lambda x: x.a.to_mkldnn(), STORAGE),
    "quantized": memory(
        lambda x: torch.quantize_per_tensor(x.a, 0.1, 0, torch.qint8),
        "QUInt/QInt types are not supported by dlpack",
    ),
    "zero tensor": memory(lambda x: torch._efficientzerotensor((2, 3, 4, 5)), EMPTY),
    "functional wrapper": memory(lambda x: torch._to_functional_tensor(x.a), EMPTY),
    "fake": Row(lambda x: x.cam(fake(x), x.g), TypeError, f"cam: activations {DISPATCH}"),
    "subclass with a dispatch": Row(
        lambda x: x.cam(x.a, x.g.as_subclass(Dispatching)), TypeError, f"cam: gradients {DISPATCH}"
    ),
    "inside vmap": Row(
        lambda x: torch.func.vmap(lambda a: x.cam(a, x.g))(x.a[None]),
        TypeError,
        memory(None, STORAGE).message,
    ),
    "inside func.grad": Row(
        lambda x: torch.func.grad(lambda a: x.cam(a, x.g).sum())(x.a),
        TypeError,
        memory(None, STORAGE).message,
    ),
    "conjugate": Row(
        lambda x: x.cam(complexes(x).conj(), x.g),
        TypeError,
        f"cam: dtype of activations is complex64; {FLOATS}",
    ),
    "negative bit": Row(
        lambda x: x.cam(x.a, complexes(x).conj().imag),
        ValueError,
        "cam: gradients has its negative bit set, so its memory holds the values' opposites; "
        "pass gradients.resolve_neg()",
    ),
    "negative bit of out": Row(
        lambda x: x.cam(x.a, x.g, out=complexes(x).conj().imag[:, 0]),
        ValueError,
        "cam: out has its negative bit set, so its memory holds the values' opposites; pass out.resolve_neg()",
    ),
    "rank 9": Row(
        lambda x: x.cam(x.a[(None,) * 5], x.g),
        ValueError,
        "cam: activations has 9 dimensions; accepted are at most 8",
    ),
    "out expanded": Row(
        lambda x: x.cam(x.a, x.g, out=x.heat[:1].expand(2, 4, 5)),
        ValueError,
        "cam: out has elements that share memory with one another (an expanded array?)",
    ),
    "out is the activations": Row(
        lambda x: x.cam(x.a, x.g, out=x.a[:, 1]),
        ValueError,
        "cam: out shares memory with an input; pass an array of its own",
    ),
}


def grad(call, op, name):
    message = "requires grad and maps are not differentiable; pass"
    return Row(call, ValueError, f"{op}: {name} {message} {name}.detach(), or call under torch.no_grad()")


def wants(tensor):
    return tensor.clone().requires_grad_()


GRAD = {
    "requires grad: activations": grad(lambda x: x.cam(wants(x.a), x.g), "cam", "activations"),
    "requires grad: gradients": grad(lambda x: x.cam(x.a, wants(x.g)), "cam", "gradients"),
    "requires grad: weights": grad(lambda x: x.cam(x.a, weights=wants(x.h[:2, :3])), "cam", "weights"),
    "requires grad: not a leaf": grad(lambda x: x.cam(wants(x.a) * 2, x.g), "cam", "activations"),
    "requires grad: parameter": grad(lambda x: x.cam(x.a, weights=torch.nn.Parameter(x.h[:2, :3])), "cam", "weights"),
    "requires grad: out": grad(lambda x: x.cam(x.a, x.g, out=wants(x.heat)), "cam", "out"),
    "requires grad: heatmap of resize": grad(lambda x: x.resize(wants(x.h), (6, 7)), "resize", "heatmap"),
    "requires grad: heatmap of colorize": grad(lambda x: x.colorize(wants(x.h)), "colorize", "heatmap"),
    "requires grad: image": grad(lambda x: x.overlay(wants(x.image.float()), x.h), "overlay", "image"),
    "requires grad: heatmap of overlay": grad(lambda x: x.overlay(x.image, wants(x.h)), "overlay", "heatmap"),
}
TYPES = ["int8", "int16", "int32", "int64", "uint8", "bool", "complex64", "complex128"]
DTYPES = {
    name: Row(
        lambda x, name=name: x.cam(torch.zeros(2, 3, 4, 5, dtype=getattr(torch, name)), x.g),
        TypeError,
        f"cam: dtype of activations is {name}; {FLOATS}",
    )
    for name in TYPES
}


def mixed(call, first, other):
    return Row(call, TypeError, f"{first} but {other}; pass both from one framework")


ARRAY, TENSOR, JAX = "a numpy.ndarray", "a Tensor", "a jaxlib._jax.ArrayImpl"
MIXED = {
    "tensor and array": mixed(
        lambda x: x.cam(x.a, x.g.numpy()), f"cam: activations is {TENSOR}", f"gradients is {ARRAY}"
    ),
    "array and tensor weights": mixed(
        lambda x: x.cam(x.a.numpy(), weights=x.h), f"cam: activations is {ARRAY}", f"weights is {TENSOR}"
    ),
    "JAX and array": mixed(
        lambda x: x.cam(jnp.asarray(x.a.numpy()), x.g.numpy()),
        f"cam: activations is {JAX}",
        f"gradients is {ARRAY}",
    ),
    "array for a tensor's result": mixed(
        lambda x: x.cam(x.a, x.g, out=x.heat.numpy()), f"cam: the input is {TENSOR}", f"out is {ARRAY}"
    ),
    "tensor for an array's result": mixed(
        lambda x: x.resize(x.h.numpy(), (6, 7)), f"resize: the input is {ARRAY}", f"out is {TENSOR}"
    ),
    "image and heatmap": mixed(
        lambda x: x.overlay(x.image.numpy(), x.h), f"overlay: image is {ARRAY}", f"heatmap is {TENSOR}"
    ),
    "JAX out": Row(
        lambda x: x.cam(jnp.ones((2, 3, 4, 5)), jnp.ones((2, 3, 4, 5)), out=jnp.ones((2, 4, 5))),
        ValueError,
        "cam: out is read-only; pass a writable array or none",
    ),
    "JAX integers": Row(
        lambda x: x.cam(jnp.ones((2, 3, 4, 5), jnp.int32), x.g),
        TypeError,
        f"cam: dtype of activations is int32; {FLOATS}",
    ),
    "JAX bools": Row(
        lambda x: x.cam(jnp.ones((2, 3, 4, 5), bool), x.g),
        TypeError,
        f"cam: dtype of activations is bool; {FLOATS}",
    ),
}


@table(MEMORY | GRAD | DTYPES | MIXED)
def test_refused(row):
    check(row, Tensors())


@pytest.mark.parametrize("layout", [torch.strided, torch.jagged], ids=str)
def test_nested_tensors(layout):
    with pytest.warns(UserWarning, match="prototype") if layout == torch.strided else np.errstate():
        nested = torch.nested.nested_tensor([torch.ones(4, 5), torch.ones(3, 5)], layout=layout)
    with pytest.raises(TypeError, match=r"cam: (cannot read the memory of )?activations"):
        fusedcam.cam(nested, nested)


def test_compressed_sparse_rows():
    with pytest.warns(UserWarning, match="beta state"):
        rows = torch.ones(3, 4).to_sparse_csr()
    with pytest.raises(TypeError, match="cannot read the memory of activations, a Tensor"):
        fusedcam.cam(rows, rows)


def test_quiet_without_grad_mode():
    """What is refused in grad mode is taken under no_grad and inference_mode, and after detach()."""
    x = Tensors()
    expected = fusedcam.cam(x.a, x.g)
    for mode in (torch.no_grad(), torch.inference_mode()):
        with mode:
            assert torch.equal(fusedcam.cam(wants(x.a), wants(x.g)), expected)
    assert torch.equal(fusedcam.cam(wants(x.a).detach(), x.g), expected)
