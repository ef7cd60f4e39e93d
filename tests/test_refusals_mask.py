"""Refusals of mask: shapes, types, devices and calls that do not fit, and the whole message of each."""

import re

import numpy as np
import torch

import fusedcam
from refusals import FLOATS, KINDS, MAPS, Case, Row, check, table

f32 = np.float32
SINGLE = "for a single image accepted are [H, W] and [M, H, W]"
BATCH = "for a batch of images accepted are [N, H, W] and [N, M, H, W]"
PIXELS = "have no pixels; height and width must be at least 1"
ALIAS = "out shares memory with an input; pass an array of its own"


class Masking(Case):
    """Two images of three channels, four maps of each, and a poisoned `out` that fits."""

    def __init__(self):
        super().__init__()
        rng = np.random.default_rng()
        self.x = rng.standard_normal((2, 3, 8, 10), f32)
        self.m = rng.standard_normal((2, 4, 5, 6), f32)
        self.n = rng.standard_normal((2, 4, 8, 10), f32)
        self.z = np.full((2, 4, 3, 8, 10), 7e7, f32)

    def mask(self, *arguments, **options):
        return fusedcam.mask(*arguments, **{"out": self.z} | options)


class Tensors(Masking):
    """The same arrays as tensors."""

    def __init__(self):
        super().__init__()
        for name, value in list(vars(self).items()):
            setattr(self, name, torch.from_numpy(value))

    def bytes(self, name):
        return getattr(self, name).numpy().tobytes()


def value(call, message):
    return Row(call, ValueError, message)


def kind(call, message):
    return Row(call, TypeError, message)


SHAPES = {
    "image of rank 2": value(
        lambda x: x.mask(x.h, x.h), "mask: image has shape (4, 5); accepted is [C, H, W] or [N, C, H, W]"
    ),
    "image of rank 5": value(
        lambda x: x.mask(x.x[None], x.m),
        "mask: image has shape (1, 2, 3, 8, 10); accepted is [C, H, W] or [N, C, H, W]",
    ),
    "image without pixels": value(lambda x: x.mask(x.x[..., :0], x.m), f"mask: image of shape (2, 3, 8, 0) {PIXELS}"),
    "heatmap without pixels": value(
        lambda x: x.mask(x.x, x.m[:, :, :0]), f"mask: heatmap of shape (2, 4, 0, 6) {PIXELS}"
    ),
    "heatmap of rank 1": value(
        lambda x: x.mask(x.x, x.h[0]),
        "mask: heatmap has shape (5,); accepted is [..., H, W], at least two dimensions",
    ),
    "heatmap of rank 2 for a batch": value(
        lambda x: x.mask(x.x, x.h), f"mask: image has shape (2, 3, 8, 10) and heatmap (4, 5); {BATCH}"
    ),
    "heatmap of rank 4 for one image": value(
        lambda x: x.mask(x.x[0], x.m), f"mask: image has shape (3, 8, 10) and heatmap (2, 4, 5, 6); {SINGLE}"
    ),
    "batches differ": value(
        lambda x: x.mask(x.x, x.m[:1]), f"mask: image has shape (2, 3, 8, 10) and heatmap (1, 4, 5, 6); {BATCH}"
    ),
    "maps before images": value(
        lambda x: x.mask(x.x, x.m.swapaxes(0, 1)),
        f"mask: image has shape (2, 3, 8, 10) and heatmap (4, 2, 5, 6); {BATCH}",
    ),
    "noise at the heatmap's size": value(
        lambda x: x.mask(x.x, x.m, noise=x.m),
        "mask: noise has shape (2, 4, 5, 6); the masks have shape (2, 4, 8, 10)",
    ),
    "noise of one map": value(
        lambda x: x.mask(x.x, x.m, noise=x.n[:, 0]),
        "mask: noise has shape (2, 8, 10); the masks have shape (2, 4, 8, 10)",
    ),
    "out of one map": value(
        lambda x: x.mask(x.x, x.m, out=x.z[:, 0]),
        "mask: out has shape (2, 3, 8, 10); the result has shape (2, 4, 3, 8, 10)",
    ),
    "out flattened": value(
        lambda x: x.mask(x.x, x.m, out=x.z.reshape(8, 3, 8, 10)),
        "mask: out has shape (8, 3, 8, 10); the result has shape (2, 4, 3, 8, 10)",
    ),
    "memory": value(
        lambda x: x.mask(np.broadcast_to(f32(1), (3, 10**6, 10**6)), x.h[None].repeat(100, 0), out=None),
        re.compile(r"mask: a result of shape \(100, 3, 1000000, 1000000\) takes [\d.e+]+ GB, working memory .*"),
    ),
    "beyond addresses": value(
        lambda x: x.mask(x.x[0], np.broadcast_to(f32(1), (2**30, 2**30))),
        "mask: heatmap of shape (1073741824, 1073741824) takes more than 2**56 bytes",
    ),
    "too wide": value(
        lambda x: x.mask(np.broadcast_to(f32(1), (1, 1, 2**31)), x.h),
        "mask: image of shape (1, 1, 2147483648) are too large; height and width must be below 2**31",
    ),
}

ARGUMENTS = {
    "image of bytes": kind(lambda x: x.mask(x.image, x.h), f"mask: dtype of image is uint8; {FLOATS}"),
    "image of integers": kind(lambda x: x.mask(x.x.astype("i4"), x.m), f"mask: dtype of image is int32; {FLOATS}"),
    "heatmap of bytes": kind(lambda x: x.mask(x.x, x.m.astype("u1")), f"mask: dtype of heatmap is uint8; {FLOATS}"),
    "noise of bytes": kind(
        lambda x: x.mask(x.x, x.m, noise=x.n.astype("u1")), f"mask: dtype of noise is uint8; {FLOATS}"
    ),
    "noise of float64": kind(
        lambda x: x.mask(x.x, x.m, noise=x.n.astype("f8")),
        "mask: dtype of noise is float64; that of the masks is float32",
    ),
    "noise of float16 for float16": kind(
        lambda x: x.mask(x.x, x.m.astype("f2"), noise=x.n.astype("f2")),
        "mask: dtype of noise is float16; that of the masks is float32",
    ),
    "out of float64": kind(
        lambda x: x.mask(x.x, x.m, out=x.z.astype("f8")),
        "mask: dtype of out is float64; the result has dtype float32",
    ),
    "out of float32 for a half image": kind(
        lambda x: x.mask(x.x.astype("f2"), x.m), "mask: dtype of out is float32; the result has dtype float16"
    ),
    "out of integers": kind(lambda x: x.mask(x.x, x.m, out=x.z.astype("i4")), f"mask: dtype of out is int32; {MAPS}"),
    "image a list": kind(lambda x: x.mask([[[1.0]]], x.h), f"mask: image {KINDS}, not list"),
    "heatmap None": kind(lambda x: x.mask(x.x, None), f"mask: heatmap {KINDS}, not NoneType"),
    "noise a number": kind(lambda x: x.mask(x.x, x.m, noise=0.5), f"mask: noise {KINDS}, not float"),
    "heatmap missing": kind(lambda x: x.mask(x.x), "mask() misses the argument heatmap"),
    "image missing": kind(lambda x: x.mask(heatmap=x.m), "mask() misses the argument image"),
    "three by position": kind(
        lambda x: x.mask(x.x, x.m, "max"),
        "mask() takes at most 2 positional arguments, 3 were given; pass the others by name",
    ),
    "unknown keyword": kind(
        lambda x: x.mask(x.x, x.m, size=9), "mask() got an unexpected keyword argument 'size' (str)"
    ),
    "normalize": value(
        lambda x: x.mask(x.x, x.m, normalize="x"),
        "mask: normalize is 'x' (str); accepted is 'minmax', 'max' or None",
    ),
    "eps below 0": value(
        lambda x: x.mask(x.x, x.m, eps=-1), "mask: eps is -1; accepted is a finite number of at least 0"
    ),
    "eps a string": kind(lambda x: x.mask(x.x, x.m, eps="1"), "mask: eps is '1' (str); accepted is a number"),
}

MEMORY = {
    "out is the image": value(lambda x: x.mask(x.x, x.m[:, 0], out=x.x), f"mask: {ALIAS}"),
    "out overlaps the image": value(lambda x: x.mask(x.z[:, 0], x.m[:, 0], out=x.z[:, 0, ::-1]), f"mask: {ALIAS}"),
    "out is the heatmap": value(lambda x: x.mask(x.x[:, :1], x.n, out=x.n[:, :, None]), f"mask: {ALIAS}"),
    "out is the noise": value(lambda x: x.mask(x.x[:, :1], x.m, noise=x.n, out=x.n[:, :, None]), f"mask: {ALIAS}"),
    "out is read-only": value(
        lambda x: x.mask(x.x, x.m, out=np.broadcast_to(x.z, x.z.shape)),
        "mask: out is read-only; pass a writable array or none",
    ),
    "out overlaps itself": value(
        lambda x: x.mask(x.x, x.m, out=np.lib.stride_tricks.as_strided(x.z, x.z.shape, (0, *x.z.strides[1:]))),
        "mask: out has elements that share memory with one another (an expanded array?)",
    ),
    "heatmap unaligned": value(
        lambda x: x.mask(x.x[0], np.zeros(121, "u1")[1:].view("f4").reshape(5, 6)),
        "mask: heatmap is not aligned to its item size; pass numpy.ascontiguousarray(array)",
    ),
    "image of the other byte order": value(
        lambda x: x.mask(x.x.astype(">f4"), x.m),
        "mask: image is not in native byte order; convert it with array.astype(array.dtype.newbyteorder('='))",
    ),
    "image a tensor": kind(
        lambda x: x.mask(torch.from_numpy(x.x), x.m),
        "mask: image is a Tensor but heatmap is a numpy.ndarray; pass both from one framework",
    ),
    "noise a tensor": kind(
        lambda x: x.mask(x.x, x.m, noise=torch.from_numpy(x.n)),
        "mask: image is a numpy.ndarray but noise is a Tensor; pass both from one framework",
    ),
    "out a tensor": kind(
        lambda x: x.mask(x.x, x.m, out=torch.from_numpy(x.z)),
        "mask: the input is a numpy.ndarray but out is a Tensor; pass both from one framework",
    ),
}


def wants(tensor):
    return tensor.clone().requires_grad_()


def grad(name, call):
    message = "requires grad, and nothing here has a derivative; pass"
    return value(call, f"mask: {name} {message} {name}.detach(), or call under torch.no_grad()")


TORCH = {
    "requires grad: image": grad("image", lambda x: x.mask(wants(x.x), x.m)),
    "requires grad: heatmap": grad("heatmap", lambda x: x.mask(x.x, wants(x.m))),
    "requires grad: noise": grad("noise", lambda x: x.mask(x.x, x.m, noise=wants(x.n))),
    "meta": kind(
        lambda x: x.mask(x.x.to("meta"), x.m),
        "mask: cannot read the memory of image, a Tensor (Cannot pack tensors on meta); "
        "pass a dense array that holds its values",
    ),
    "negative bit of the heatmap": value(
        lambda x: x.mask(x.x, torch.zeros(2, 4, 5, 6, dtype=torch.complex64).conj().imag),
        "mask: heatmap has its negative bit set, so its memory holds the values' opposites; pass heatmap.resolve_neg()",
    ),
    "image of integers": kind(lambda x: x.mask(x.x.long(), x.m), f"mask: dtype of image is int64; {FLOATS}"),
}


@table(SHAPES | ARGUMENTS | MEMORY)
def test_refused(row):
    check(row, Masking())


@table(TORCH)
def test_tensors_refused(row):
    check(row, Tensors())


def test_quiet_without_grad_mode():
    x = Tensors()
    expected = fusedcam.mask(x.x, x.m)
    with torch.no_grad():
        assert torch.equal(fusedcam.mask(wants(x.x), wants(x.m), noise=0 * x.n), expected)
