"""Calls with arrays on a CUDA device, which the emulator pretends to have: what goes in and out, what is refused.

Run by test_emulator.py with the package that holds the emulated module.
"""

import ctypes

import numpy as np
import pytest

import fusedcam
from exporter import LEGACY, VERSIONED, Exporter, Managed, ManagedVersioned, is_valid
from fusedcam import _native

CUDA = 2
get_pointer = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)(
    ("PyCapsule_GetPointer", ctypes.pythonapi)
)


class Array(Exporter):
    """An array of a framework that takes CUDA memory over by DLPack, and says on which stream it is asked for."""

    def __init__(self, source, device=0):
        super().__init__(source, VERSIONED, device_type=CUDA, device_index=device)
        self.device, self.streams = device, []

    def __dlpack_device__(self):
        return (CUDA, self.device)

    def __dlpack__(self, stream=None, max_version=None):
        self.streams.append(stream)
        return super().__dlpack__(max_version)

    @classmethod
    def from_dlpack(cls, memory):
        assert memory.__dlpack_device__() == (CUDA, 0)
        capsule = memory.__dlpack__(max_version=(1, 0))
        assert is_valid(id(capsule), VERSIONED)
        managed = ManagedVersioned.from_address(get_pointer(capsule, VERSIONED))
        tensor = managed.tensor
        shape = tensor.shape[: tensor.rank]
        steps = [tensor.strides[axis] * tensor.bits // 8 for axis in range(tensor.rank)]
        assert (tensor.device_type, tensor.device_index, tensor.byte_offset) == (CUDA, 0, 0)
        kind = {(2, 16): "f2", (2, 32): "f4", (2, 64): "f8", (1, 8): "u1"}[tensor.code, tensor.bits]
        count = int(np.prod(shape))
        raw = (ctypes.c_uint8 * (count * tensor.bits // 8)).from_address(tensor.data or ctypes.addressof(managed))
        values = np.ndarray(shape, kind, raw, strides=steps)
        found = cls(values.copy())
        found.kept = capsule
        return found


class Interface:
    """An array of a framework that has __cuda_array_interface__ alone."""

    def __init__(self, source, **fields):
        self.source = source
        self.interface = {
            "shape": source.shape,
            "typestr": source.dtype.str,
            "data": (source.ctypes.data, False),
            "strides": source.strides,
            "version": 3,
        } | fields

    @property
    def __cuda_array_interface__(self):
        return self.interface


def close(first, second):
    np.testing.assert_allclose(first, second, rtol=0, atol=3e-6)


def refused(call, *words):
    with pytest.raises((ValueError, TypeError)) as error:
        call()
    assert all(word in str(error.value) for word in words), error.value


def same_derivatives(call, given, results, options):
    """Into poisoned arrays like the first `results` of those given, by both modules."""
    found = []
    for of in (np.asarray, Array):
        places = [np.full(array.shape, np.nan, array.dtype) for array in given[:results]]
        assert call(*map(of, given), *map(of, places), *options) is None
        found.append(places)
    for wanted, got in zip(*found, strict=True):
        step = {"f2": 2e-3, "f4": 1e-5, "f8": 1e-13}[got.dtype.str[1:]]
        np.testing.assert_allclose(got, wanted, rtol=step, atol=step * abs(wanted.astype("f8")).max())


def derivatives(a, g):
    """Of cam and resize, whose kernels write into what they are given."""
    rng = np.random.default_rng()
    activations, moments = abs(a), abs(np.stack([g, g**2, g**3])) + 0.25
    for dtype, wide in (("f4", "f4"), ("f8", "f8"), ("f2", "f4")):
        scores = rng.normal(size=(len(a), *a.shape[2:])).astype(wide)
        first = activations.astype(dtype)
        for method in fusedcam.METHODS:
            second = (moments if method == "smoothgradcam++" else g).astype(dtype)
            options = (False, method, 2, "first", 0.0, None)
            same_derivatives(_native.cam_backward, (first, second, scores), 2, options)
        weights = g[:, :, 0, 0].astype(dtype)
        options = (True, "gradcam", 2, "first", 0.0, None)
        same_derivatives(_native.cam_backward, (first, weights, scores), 2, options)
        for normalize in (None, "max", "minmax"):
            for size in ((33, 21), (4, 5), (50, 3, 9), (11,)):
                kept = (len(a), *a.shape[1 : a.ndim - len(size)])
                slopes = rng.normal(size=(*kept, *size)).astype(wide)
                same_derivatives(_native.resize_backward, (a.astype(dtype), slopes), 1, (size, normalize, 0.25))

    place, scores = np.full(a.shape, np.nan, "f4"), rng.normal(size=(len(a), *a.shape[2:])).astype("f4")
    rest = (Array(g), Array(scores), Array(place), Array(place), False, "gradcam", 2, "first", 0.0, None)
    refused(
        lambda: _native.cam_backward(Array(a), *rest[:2], Array(place, device=1), *rest[3:]), "of_activations is on"
    )
    refused(lambda: _native.cam_backward(Array(a), rest[0], scores, *rest[2:]), "scores is on the CPU")
    heat = Array(a), Array(a), place, a.shape[2:], None, 0.0
    refused(lambda: _native.resize_backward(*heat), "heatmap is on cuda:0 but of_heatmap is on the CPU")
    assert np.isnan(place).all()


def main():
    rng = np.random.default_rng()
    a, g = rng.normal(size=(2, 2, 3, 40, 7, 6)).astype(np.float32)[:, 0]
    for dtype in ("f4", "f8", "f2"):
        x, y = a.astype(dtype), g.astype(dtype)[:, ::-1]
        on_device = [Array(x), Array(y)]
        heat = fusedcam.cam(*on_device, size=(20, 31))
        assert type(heat) is Array
        close(heat.source, fusedcam.cam(x, y, size=(20, 31)))
        assert [array.streams for array in on_device] == [[1], [1]], "the legacy stream, by its number"
        assert all(array.made == array.freed == 1 for array in on_device)
    close(
        fusedcam.cam(Array(a), weights=Array(g[..., 0, 0]), nan="raise").source, fusedcam.cam(a, weights=g[..., 0, 0])
    )
    assert fusedcam.cam(Array(a[:0]), Array(g[:0])).source.shape == (0, 7, 6)

    scores = rng.normal(size=(3, 7, 6)).astype(np.float32)
    images = rng.integers(0, 256, (3, 50, 40, 3), np.uint8)
    resized = fusedcam.resize(Array(scores), (33, 21), normalize="max")
    assert resized.source.tobytes() == fusedcam.resize(scores, (33, 21), normalize="max").tobytes()
    picture = fusedcam.overlay(Array(images), Array(scores), normalize="minmax", colormap="turbo")
    assert picture.source.tobytes() == fusedcam.overlay(images, scores, normalize="minmax", colormap="turbo").tobytes()
    colours = fusedcam.colorize(Array(scores), size=13)
    assert colours.source.tobytes() == fusedcam.colorize(scores, size=13).tobytes()

    for op, inputs, shape in (
        (fusedcam.overlay, (Array(images), Array(scores)), images.shape),
        (fusedcam.colorize, (Array(scores),), (*scores.shape, 3)),
    ):
        place = Array(np.full(shape, 77, np.uint8))
        assert op(*inputs, normalize="minmax", out=place) is place
        assert place.source.tobytes() == op(*(x.source for x in inputs), normalize="minmax").tobytes()
    refused(lambda: fusedcam.colorize(Array(scores), out=np.zeros((*scores.shape, 3), np.uint8)), "out is a numpy")

    for kind in ("f4", "f8", "f2"):
        floats = rng.normal(size=(3, 3, 20, 24)).astype(kind)
        masked = fusedcam.mask(Array(floats), Array(a[:, 5:9]))
        assert masked.source.tobytes() == fusedcam.mask(floats, a[:, 5:9]).tobytes()
    added = rng.normal(size=(3, 3, 20)).astype(np.float32)
    place = Array(np.full((3, 1, 3, 20), np.nan, "f2"))
    assert fusedcam.mask(Array(floats[:, :1, :3, :20]), Array(scores), noise=Array(added), out=place) is place
    assert place.source.tobytes() == fusedcam.mask(floats[:, :1, :3, :20], scores, noise=added).tobytes()
    refused(lambda: fusedcam.mask(Array(floats), Array(a, device=1)), "image is on cuda:0", "heatmap is on cuda:1")
    refused(lambda: fusedcam.mask(Array(floats), a), "image is a Array but heatmap is a numpy.ndarray")

    derivatives(a, g)

    out = np.full((3, 7, 6), np.nan, np.float32)
    place = Array(out)
    assert fusedcam.cam(Array(a), Array(g), out=place) is place
    close(out, fusedcam.cam(a, g))

    for version, name, struct in (((1, 0), VERSIONED, ManagedVersioned), (None, LEGACY, Managed)):
        found = fusedcam.cam(Interface(a.transpose(0, 1, 3, 2), stream=2), Interface(g.transpose(0, 1, 3, 2)))
        assert found.__dlpack_device__() == (CUDA, 0)
        for wrong in ({"copy": True}, {"dl_device": (1, 0)}):
            with pytest.raises(BufferError, match="without a copy"):
                found.__dlpack__(**wrong)
        capsule = found.__dlpack__(stream=1, max_version=version)
        tensor = struct.from_address(get_pointer(capsule, name)).tensor
        values = np.ctypeslib.as_array(ctypes.cast(tensor.data, ctypes.POINTER(ctypes.c_float)), (3, 6, 7))
        close(values, fusedcam.cam(a, g).transpose(0, 2, 1))
        with pytest.raises(BufferError, match="handed over already"):
            found.__dlpack__()
    dense = fusedcam.resize(Interface(scores, strides=None), (7, 6), out=Interface(out))
    assert dense.source.tobytes() == scores.tobytes()

    refused(lambda: fusedcam.cam(Array(a), Array(g, device=1)), "activations are on cuda:0", "gradients are on cuda:1")
    refused(lambda: fusedcam.cam(Array(a), g), "activations is a Array but gradients is a numpy.ndarray")
    refused(lambda: fusedcam.cam(a, Array(g)), "activations is a numpy.ndarray but gradients is a Array")
    refused(lambda: fusedcam.cam(Array(a), Array(g[:, :3])), "gradients have shape (3, 3, 7, 6)")
    refused(lambda: fusedcam.cam(Array(a), Array(g), out=out), "out is a numpy.ndarray")
    refused(lambda: fusedcam.cam(Array(a), Array(g), out=Array(a[:, 0])), "out shares memory with an input")
    refused(lambda: fusedcam.resize(Array(np.zeros((4, 4), np.uint32)), 3), "dtype of heatmap is uint32")
    refused(lambda: fusedcam.resize(Interface(np.zeros((4, 4), np.int32)), 3), "dtype of heatmap is <i4")
    refused(lambda: fusedcam.resize(Interface(scores, data=3), 3), "cannot read the memory of heatmap")
    refused(lambda: fusedcam.resize(Interface(scores, mask=scores), 3), "heatmap is a masked array")
    refused(lambda: fusedcam.resize(Interface(scores, data=(0, False)), 3), "it has a shape but no memory")
    refused(lambda: fusedcam.resize(Interface(scores, shape=(3, -7, 6)), 3), "has a negative extent")
    for stream in (0, "first"):
        refused(lambda at=stream: fusedcam.resize(Interface(scores, stream=at), 3), "names no usable stream")
    bad = a.copy()
    bad[1, 3, 2, 2] = np.inf
    refused(lambda: fusedcam.cam(Array(bad), Array(g), nan="raise"), "hold NaN or infinity")
    probe = ctypes.CDLL(fusedcam._cuda.__file__)
    waited, followed = probe.emulated_synchronizations(), probe.emulated_followed()
    fusedcam.resize(Array(scores), 3, out=Array(np.empty((3, 3, 3), np.float32)))
    assert probe.emulated_synchronizations() == waited + 1, "its stream is not known: the result is waited for"
    assert probe.emulated_followed() == followed
    fusedcam.resize(Interface(scores, stream=2), 3, out=Interface(np.empty((3, 3, 3), np.float32)))
    assert probe.emulated_followed() == followed + 1, "the stream that the array names is waited for"
    fusedcam.resize(Interface(scores, stream=1), 3, out=Interface(np.empty((3, 3, 3), np.float32)))
    assert probe.emulated_followed() == followed + 1, "it is the one that is read on"
    held, waited = probe.emulated_unfreed(), probe.emulated_synchronizations()
    memory = fusedcam.resize(Interface(scores), 3)
    assert probe.emulated_unfreed() == held + 1
    del memory
    assert probe.emulated_unfreed() == held
    assert probe.emulated_synchronizations() == waited + 2, "before memory is given back it is waited for"
    facts = fusedcam.info()
    assert facts["cuda"] is None
    assert facts["backends"] == ["cpu", "cuda"]
    print("emulated calls are right")


if __name__ == "__main__":
    main()
