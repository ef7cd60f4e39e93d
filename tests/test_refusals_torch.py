"""Refusals of torch tensors and JAX arrays: memory that is not there or means something else, frameworks mixed."""

import jax.numpy as jnp
import numpy as np
import pytest
import torch

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


def complexes(x):
    return torch.ones(2, 3, 4, 5, dtype=torch.complex64)


def memory(make, reason, name="activations"):
    message = f"cam: cannot read the memory of {name}, a Tensor ({reason}); "
    message += "pass a dense array that holds its values"
    if name == "gradients":
        return Row(lambda x: x.cam(x.a, make(x)), TypeError, message)
    return Row(lambda x: x.cam(make(x), x.g), TypeError, message)


STORAGE = "Cannot access data pointer of Tensor that doesn't have storage"
MEMORY = {
    "activations on meta": Row(
        lambda x: x.cam(x.a.to("meta"), x.g),
        ValueError,
        "cam: activations are on meta and gradients on cpu; pass both on one device",
    ),
    "gradients on meta": Row(
        lambda x: x.cam(x.a, x.g.to("meta")),
        ValueError,
        "cam: activations are on cpu and gradients on meta; pass both on one device",
    ),
    "sparse": memory(lambda x: x.a.to_sparse(), STORAGE),
    "mkldnn": memory(lambda x: x.a.to_mkldnn(), STORAGE),
    "quantized": memory(
        lambda x: torch.quantize_per_tensor(x.a, 0.1, 0, torch.qint8),
        "QUInt/QInt types are not supported by dlpack",
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


def grad(call, name="an input"):
    message = f"cam: out is given, and {name} requires grad; accepted are tensors that do not, or no out"
    return Row(call, ValueError, message)


def wants(tensor):
    return tensor.clone().requires_grad_()


GRAD = {  # these calls pass an out
    "requires grad: activations": grad(lambda x: x.cam(wants(x.a), x.g)),
    "requires grad: gradients": grad(lambda x: x.cam(x.a, wants(x.g))),
    "requires grad: weights": grad(lambda x: x.cam(x.a, weights=wants(x.h[:2, :3]))),
    "requires grad: not a leaf": grad(lambda x: x.cam(wants(x.a) * 2, x.g)),
    "requires grad: parameter": grad(lambda x: x.cam(x.a, weights=torch.nn.Parameter(x.h[:2, :3]))),
    "requires grad: out": grad(lambda x: x.cam(x.a, x.g, out=wants(x.heat)), "out"),
    "requires grad: mask": Row(
        lambda x: fusedcam.mask(wants(x.image.float()), x.h),
        ValueError,
        "mask: image requires grad, and nothing here has a derivative; pass image.detach(), or call under "
        "torch.no_grad()",
    ),
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
    with pytest.raises(TypeError, match=r"cannot read the memory of activations|not known to the dispatch of Nested"):
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
