"""Refusals of arrays: element types, memory that cannot be read, results that cannot be written to."""

import array
import re

import numpy as np

from refusals import FLOATS, KINDS, MAPS, Case, Row, check, table

f32 = np.float32
ORDER = "is not in native byte order; convert it with array.astype(array.dtype.newbyteorder('='))"
windows = np.lib.stride_tricks.as_strided


def dtype(shown, convert):
    return Row(
        lambda x: x.cam(convert(x.a), convert(x.g)),
        TypeError,
        f"cam: dtype of activations is {shown}; {FLOATS}",
    )


NAMES = ["int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"]
NAMES += ["complex64", "complex128", "bool", "object", "longdouble"]
DTYPES = {
    **{name: dtype(str(np.dtype(name)), lambda a, name=name: np.zeros(a.shape, name)) for name in NAMES},
    "bytes strings": dtype("|S3", lambda a: np.zeros(a.shape, "S3")),
    "dates": dtype("datetime64[s]", lambda a: np.zeros(a.shape, "M8[s]")),
    "records": dtype("[('f0', '<f4'), ('f1', '<f4')]", lambda a: np.zeros(a.shape, "f4,f4")),
    "float32 and float64": Row(
        lambda x: x.cam(x.a, x.g.astype("f8")),
        TypeError,
        "cam: dtype of activations is float32 but that of gradients is float64; both must be the same",
    ),
    "float16 and float32 weights": Row(
        lambda x: x.cam(x.a.astype("f2"), weights=x.h[:2, :3]),
        TypeError,
        "cam: dtype of activations is float16 but that of weights is float32; both must be the same",
    ),
    "array.array of ints": dtype("'i' (a buffer's format)", lambda a: array.array("i", [1, 2])),
    "memoryview of ints": dtype("'l' (a buffer's format)", lambda a: memoryview(a.astype("i8"))),
    "bytes": dtype("uint8", lambda a: b"abc"),
}


def foreign(value):
    kind = type(value).__name__
    return Row(lambda x: x.cam(value, x.g), TypeError, f"cam: activations {KINDS}, not {kind}")


class Capsule:
    """Hands out one capsule, again and again."""

    def __init__(self, source):
        self.capsule = source.__dlpack__()

    def __dlpack_device__(self):
        return (1, 0)

    def __dlpack__(self, **options):
        return self.capsule


class Raises(Capsule):
    def __dlpack__(self, **options):
        raise RuntimeError("out of ink\nand a second line")


class OnDevice(Capsule):
    def __init__(self, source, kind):
        self.kind = kind

    def __dlpack_device__(self):
        return (self.kind, 1)


class Nowhere(Capsule):
    def __dlpack_device__(self):
        return "here"


def unreadable(make, kind, reason):
    message = (
        f"cam: cannot read the memory of activations, a {kind} ({reason}); pass a dense array that holds its values"
    )
    return Row(lambda x: x.cam(make(x.a), x.g), TypeError, message)


def consumed(a):
    exporter = Capsule(a)
    np.from_dlpack(exporter)
    return exporter


def released(a):
    view = memoryview(a)
    view.release()
    return view


NO_CUDA = r"(this fusedcam has no CUDA kernels \(.+\): install it|CUDA is not available: cuda).+"
ALL = "fusedcam has kernels for the CPU and CUDA alone"


def elsewhere(kind, place, reason):
    message = re.compile(rf"cam: activations is on {place}; {reason}; pass a copy on the CPU")
    return Row(lambda x: x.cam(OnDevice(x.a, kind), x.g), ValueError, message)


def unaligned(a):
    shifted = np.empty(a.nbytes + 1, np.uint8)[1:].view(f32).reshape(a.shape)
    shifted[...] = a
    return shifted


MEMORY = {
    **{f"{value!r}"[:12]: foreign(value) for value in ({}, "x", 1.0, 3, Ellipsis, np.ndarray)},
    "None": foreign(None),
    **{
        f"activations {value!r}": Row(
            lambda x, value=value: x.cam(value, x.g),
            TypeError,
            "cam: activations are a list, but gradients are of type numpy.ndarray; accepted is a list of as many "
            "arrays, one for each layer",
        )
        for value in ([1.0], ())
    },
    "gradients a list": Row(lambda x: x.cam(x.a, [[1.0]]), TypeError, f"cam: gradients {KINDS}, not list"),
    "weights a list": Row(lambda x: x.cam(x.a, weights=[1.0]), TypeError, f"cam: weights {KINDS}, not list"),
    "dead capsule": unreadable(consumed, "Capsule", "its __dlpack__ returned no live DLPack capsule"),
    "export fails": unreadable(Raises, "Raises", "out of ink"),
    "device unknown": unreadable(Nowhere, "Nowhere", "its __dlpack_device__ does not say where it is"),
    "released memoryview": unreadable(released, "memoryview", "operation forbidden on released memoryview object"),
    "on CUDA": elsewhere(
        2, "cuda:1", r"(this fusedcam has no CUDA kernels \(.+\): install it|CUDA is not available: cuda).+"
    ),
    "on Metal": elsewhere(8, "metal:1", "fusedcam has kernels for the CPU and CUDA alone"),
    "on an unknown device": elsewhere(
        77, "a device of DLPack type 77", "fusedcam has kernels for the CPU and CUDA alone"
    ),
    "big-endian": Row(
        lambda x: x.cam(x.a.astype(">f4"), x.g),
        ValueError,
        f"cam: activations {ORDER}",
    ),
    "big-endian memoryview": Row(
        lambda x: x.cam(memoryview(x.a.astype(">f4")), x.g),
        ValueError,
        "cam: activations is not in native byte order; convert it first",
    ),
    "unaligned": Row(
        lambda x: x.cam(x.a, unaligned(x.g)),
        ValueError,
        "cam: gradients is not aligned to its item size; pass numpy.ascontiguousarray(array)",
    ),
    "strides that are no multiple of the item": Row(
        lambda x: x.cam(x.a, np.zeros((2, 3, 4, 5), "f4,u1")["f0"]),
        ValueError,
        "cam: gradients is not aligned to its item size; pass numpy.ascontiguousarray(array)",
    ),
    "masked": Row(
        lambda x: x.cam(np.ma.masked_array(x.a, x.a > 0), x.g),
        TypeError,
        "cam: activations is a masked array, whose mask would be lost; pass array.filled(value)",
    ),
}


def out(make, kind, message):
    return Row(lambda x: x.cam(x.a, x.g, out=make(x)), kind, f"cam: {message}")


def read_only(x):
    view = x.heat[...]
    view.flags.writeable = False
    return view


ALIAS = "out shares memory with an input; pass an array of its own"
ITSELF = "out has elements that share memory with one another (an expanded array?)"
OUT = {
    "read-only": out(read_only, ValueError, "out is read-only; pass a writable array or none"),
    "a view of bytes": out(
        lambda x: np.frombuffer(bytes(160), f32).reshape(2, 4, 5),
        ValueError,
        "out is read-only; pass a writable array or none",
    ),
    "legacy capsule": out(
        lambda x: Capsule(x.heat),
        TypeError,
        "the input is a numpy.ndarray but out is a Capsule; pass both from one framework",
    ),
    "another width": out(
        lambda x: x.heat[..., :4], ValueError, "out has shape (2, 4, 4); the result has shape (2, 4, 5)"
    ),
    "another rank": out(
        lambda x: x.heat[None], ValueError, "out has shape (1, 2, 4, 5); the result has shape (2, 4, 5)"
    ),
    "float64": out(lambda x: x.heat.astype("f8"), TypeError, "dtype of out is float64; the result has dtype float32"),
    "int32": out(lambda x: x.heat.view("i4"), TypeError, f"dtype of out is int32; {MAPS}"),
    "big-endian out": out(
        lambda x: x.heat.view(">f4"),
        ValueError,
        f"out {ORDER}",
    ),
    "a list": out(lambda x: [1.0], TypeError, f"out {KINDS}, not list"),
    "activations": out(lambda x: x.a[:, 0], ValueError, ALIAS),
    "gradients": out(lambda x: x.g[:, 2], ValueError, ALIAS),
    "interleaved with activations": out(lambda x: x.a[:, 1, ::-1], ValueError, ALIAS),
    "weights": Row(lambda x: x.cam(x.a, weights=x.g[:, :, 0, 0], out=x.g[:, 0]), ValueError, f"cam: {ALIAS}"),
    "expanded": out(lambda x: windows(x.heat, (2, 4, 5), (0, 20, 4)), ValueError, ITSELF),
    "sliding windows": out(lambda x: windows(x.heat, (2, 4, 5), (80, 16, 4)), ValueError, ITSELF),
    "half float out": Row(
        lambda x: x.cam(x.a.astype("f2"), x.g.astype("f2"), out=np.ones((2, 4, 5), "f2")),
        TypeError,
        "cam: dtype of out is float16; the result has dtype float32",
    ),
    "read-only, nan='raise'": Row(
        lambda x: x.cam(x.a, x.g, nan="raise", out=read_only(x)),
        ValueError,
        "cam: out is read-only; pass a writable array or none",
    ),
}


@table(DTYPES | MEMORY | OUT)
def test_refused(row):
    check(row, Case())
