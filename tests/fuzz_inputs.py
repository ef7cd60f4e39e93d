"""What the fuzz calls with: arrays in buffers of canaries, junk, and objects that break their protocols."""

import array
import ctypes
import random
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided

import fusedcam

try:
    import ml_dtypes

    FLOATS = ["f4", "f4", "f4", "f8", "f2", ml_dtypes.bfloat16]
except ModuleNotFoundError:
    FLOATS = ["f4", "f4", "f4", "f8", "f2"]

CANARY = 0xA5


class Boom(Exception):
    """What the objects below raise; it may come out."""


class Random(random.Random):
    """Draws sizes, arrays and junk."""

    def extents(self, rank: int, most: int = 6) -> tuple[int, ...]:
        return tuple(self.randint(1, most) for _ in range(rank))

    def lay_out(self, shape: tuple[int, ...], dtype: Any, writable: bool = False) -> np.ndarray:
        """An array of that shape in a buffer of canaries, with gaps, reversed axes and axes in another order."""
        dtype = np.dtype(dtype)
        order = list(range(len(shape)))
        self.shuffle(order) if self.random() < 0.5 else None
        strides, step = [0] * len(shape), dtype.itemsize * self.choice((1, 1, 2))
        for axis in reversed(order):
            strides[axis] = step
            step *= shape[axis] + self.choice((0, 0, 1))
        # With margins the caller sees what is written there; without them a sanitizer also sees what is read there.
        margin = self.choice((0, 64 * dtype.itemsize))
        reach = sum((extent - 1) * stride for extent, stride in zip(shape, strides, strict=True))
        size = reach + dtype.itemsize if 0 not in shape else dtype.itemsize
        buffer = np.full(size + 2 * margin, CANARY, np.uint8)
        view = as_strided(buffer[margin:][: dtype.itemsize].view(dtype), shape, strides)
        return view[tuple(slice(None, None, self.choice((1, 1, -1))) for _ in shape)]

    def array(self, shape: tuple[int, ...], dtype: Any = None) -> np.ndarray:
        dtype = np.dtype(dtype or self.choice(FLOATS))
        values = np.random.default_rng(self.getrandbits(32)).standard_normal(shape, np.float32)
        view = self.lay_out(shape, dtype)
        if self.random() < 0.05:
            values[self.sample_mask(shape)] = self.choice((np.nan, np.inf, -np.inf))
        with np.errstate(invalid="ignore"):
            view[...] = values.astype(dtype) if dtype != np.uint8 else (abs(values) * 60).astype(dtype)
        if self.random() < 0.1:
            view.flags.writeable = False
        return view

    def sample_mask(self, shape: tuple[int, ...]) -> np.ndarray:
        return np.random.default_rng(self.getrandbits(32)).random(shape) < 0.2

    def dtype(self) -> Any:
        return self.choice([*FLOATS, "u1", "i4", "i8", "c8", "?", "O", "S3", ">f4", ">f8", "g", "M8[s]", "f4,f4"])

    def junk_array(self) -> Any:
        """An array of any rank and type, or something that claims to be one."""
        shape = tuple(self.randint(0, 5) for _ in range(self.randint(0, 5)))
        plain = np.ones(self.extents(self.randint(2, 5), 4), "f4")
        makers: list[Callable[[], Any]] = [
            lambda: np.zeros(shape, self.dtype()),
            lambda: np.zeros((1,) * self.randint(6, 20), "f4"),
            lambda: np.broadcast_to(np.float32(1), (self.choice((1, 2)), 1, 2**29, 2**29)),
            lambda: np.broadcast_to(np.float32(1), (2**29, 2**29)),
            lambda: np.empty(plain.nbytes + 1, "u1")[1:].view("f4").reshape(plain.shape),
            lambda: np.ma.masked_array(plain),
            lambda: np.float32(1),
            lambda: array.array(self.choice("fdbBiq"), [1, 2, 3]),
            lambda: memoryview(plain)[:: self.choice((1, -1))],
            lambda: memoryview(plain.astype(self.choice((">f4", "i8", "?", "f8")))),
            lambda: self.choice((b"bytes", bytearray(9), b"")),
            lambda: (ctypes.c_float * 5 * 4 * 3)(),
            lambda: (ctypes.c_int * 5)(),
            lambda: ctypes.c_float(1),
            lambda: Exporter(plain, self),
            lambda: Exporter(plain, self),
            lambda: Exporter(plain, self),
            lambda: Interface(self),
            lambda: plain.tolist(),
            lambda: plain.astype("f4").view(type("Sub", (np.ndarray,), {})),
        ]
        return self.choice(makers)()

    def near(self, value: Any) -> Any:
        """The same array in another wrapping, or one that almost fits."""
        if not isinstance(value, np.ndarray) or value.ndim == 0 or value.size > 10**6:
            return self.junk()
        axis = self.randrange(value.ndim)
        plain = value.dtype in ("f4", "f8", "u1")
        makers: list[Callable[[], Any]] = [
            lambda: Exporter(value, self),
            lambda: memoryview(value) if plain else Exporter(value, self),
            lambda: np.ctypeslib.as_ctypes(np.ascontiguousarray(value)) if plain and value.size else [],
            lambda: value[(slice(None),) * axis + (slice(1, None),)],
            lambda: value[(slice(None),) * axis + (slice(0, 0),)],
            lambda: value[(slice(None),) * axis + (None,)],
            lambda: value.take(0, axis),
            lambda: np.repeat(value, self.choice((2, 3)), axis),
            lambda: np.moveaxis(value, axis, self.randrange(value.ndim)),
            lambda: np.broadcast_to(value[:1], (self.randint(1, 3), *value.shape[1:])),
            lambda: np.broadcast_to(value.dtype.type(1), value.shape),
            lambda: np.flip(value, axis),
            lambda: np.zeros(value.shape, self.dtype()),
        ]
        try:
            return self.choice(makers)()
        except (ValueError, TypeError, IndexError, BufferError):  # NumPy cannot make that of this array
            return value[None]

    def junk(self) -> Any:
        """Anything at all."""
        numbers = [0, 1, -1, 2, 7, 2**31, 2**63, -(2**63), 10**40, 0.5, -0.0, 1e308, float("nan")]
        words = ["minmax", "max", "zero", "raise", "last", "gradcam", "grey"]
        things = [None, True, False, "", "é" * 60, "\ud800", "a\0b", b"x", 1j, (), [], {}, object(), print, *words]
        makers: list[Callable[[], Any]] = [
            self.junk_array,
            self.junk_array,
            lambda: self.choice(numbers),
            lambda: self.choice(things),
            lambda: tuple(self.choice(numbers) for _ in range(self.randint(0, 3))),
            lambda: [self.choice(numbers + things) for _ in range(self.randint(0, 3))],
            lambda: Number(self),
            lambda: (Number(self), Number(self)),
            self.vanishing,
            lambda: np.zeros(self.randint(0, 3), int),
            lambda: type(self.choice(things)),
        ]
        return self.choice(makers)()

    def alter(self, value: Any) -> Any:
        """Another value for the same argument."""
        return self.junk_array() if self.random() < 0.3 else self.junk()

    def vanishing(self) -> list[Any]:
        """A size that empties itself while it is read."""
        size: list[Any] = [Number(self), Number(self)]
        size[0].then = size.clear
        return size


class Number:
    """An int, a float and a repr that answer, fail or lie."""

    def __init__(self, rng: Random) -> None:
        self.answer = rng.choice((3, 5, -1, 2**70, 2.5, "no", Boom("number")))
        self.words = rng.choice(("Number()", "é" * 90, 7, Boom("repr")))
        self.then = lambda: None

    def give(self, value: Any) -> Any:
        self.then()
        if isinstance(value, Exception):
            raise value
        return value

    def __index__(self) -> Any:
        return self.give(self.answer)

    def __float__(self) -> Any:
        return self.give(self.answer)

    def __repr__(self) -> Any:
        return self.give(self.words)


class Exporter:
    """DLPack's protocol, kept or broken in many ways."""

    def __init__(self, source: np.ndarray, rng: Random) -> None:
        self.source = source
        self.device = rng.choice([(1, 0)] * 5 + [(2, 0), (3, 0), (99, 1), (1,), None, ("a", "b"), Boom("device")])
        self.way = rng.choice(("versioned", "legacy", "legacy", "used", "name", "none", "boom", "type", "again"))
        self.used = source.__dlpack__() if self.way == "used" else None

    def __dlpack_device__(self) -> Any:
        if isinstance(self.device, Exception):
            raise self.device
        return self.device

    def __dlpack__(self, **options: Any) -> Any:
        if self.way == "versioned":
            return self.source.__dlpack__(**options)
        if self.way == "legacy":
            if options:
                raise TypeError("unexpected keyword argument 'max_version'")
            return self.source.__dlpack__()
        if self.way == "used":
            return self.used
        if self.way == "boom":
            raise Boom("export")
        if self.way == "type":
            raise TypeError("never")
        if self.way == "again":
            fusedcam.cam(np.ones((1, 2, 3), "f4"), np.ones((1, 2, 3), "f4"))
            return self.source.__dlpack__(**options)
        return None if self.way == "none" else fusedcam._native  # no capsule either


class Interface:
    """NumPy's older protocol, broken."""

    def __init__(self, rng: Random) -> None:
        self.answer = rng.choice((None, {}, {"shape": (2, 2), "typestr": "<f4", "version": 3}, Boom("interface")))

    @property
    def __array_interface__(self) -> Any:
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer
