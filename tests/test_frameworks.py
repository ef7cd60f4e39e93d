"""Arrays of any framework go in without a copy, the same framework comes out, and the bits are NumPy's."""

import array
import ctypes

import numpy as np
import pytest
import torch
from PIL import Image

import fusedcam
from conftest import DTYPES, LAYOUTS, POSITIVE, to_numpy, to_torch
from frameworks import EACH, EACH_DTYPE, Versioned, opened
from fusedcam import _cpu, _frameworks


class Arrays:
    """The same numbers for every framework."""

    def __init__(self, rng, dtype="float32"):
        kind = DTYPES[dtype]
        self.a = rng.normal(size=(2, 5, 4, 6)).astype(kind)
        self.g = rng.normal(size=(2, 3, 5, 4, 6)).astype(kind)
        self.w = rng.normal(size=(2, 5)).astype(kind)
        self.h = rng.normal(size=(2, 4, 6)).astype(kind)
        self.image = rng.integers(256, size=(2, 9, 8, 3), dtype=np.uint8)
        self.floats = rng.random(size=(2, 3, 9, 8)).astype(kind)

    def made(self, make):
        other = object.__new__(Arrays)
        vars(other).update({name: make(value) for name, value in vars(self).items()})
        return other


OPS = {
    "cam": lambda x, **o: fusedcam.cam(x.a, x.g, size=(9, 8), **o),
    "cam by weights": lambda x, **o: fusedcam.cam(x.a, weights=x.w, normalize=None, **o),
    "resize": lambda x, **o: fusedcam.resize(x.h, (7, 5), **o),
    "colorize": lambda x, **o: fusedcam.colorize(x.h, size=11, normalize="minmax", **o),
    "overlay": lambda x, **o: fusedcam.overlay(x.image, x.h, normalize="minmax", **o),
    "mask": lambda x, **o: fusedcam.mask(x.floats, x.a, **o),
    "overlay of floats": lambda x, **o: fusedcam.overlay(x.floats, x.h, colormap="turbo", normalize="max", **o),
}


@pytest.fixture(params=EACH)
def kit(request):
    with opened(request.param) as kit:
        yield kit


@pytest.fixture(params=EACH_DTYPE)
def kit_dtype(request):
    name, dtype = request.param
    with opened(name) as kit:
        yield kit, dtype


@pytest.fixture(params=OPS.values(), ids=OPS.keys())
def op(request):
    return request.param


def same_bits(got, expected):
    return got.dtype == expected.dtype and got.shape == expected.shape and got.tobytes() == expected.tobytes()


def test_same_framework_and_bits(kit_dtype, op, rng):
    kit, dtype = kit_dtype
    arrays = Arrays(rng, dtype)
    inputs = arrays.made(kit.make)
    if dtype == "bfloat16" and op is OPS["mask"] and not kit.takes_bfloat16:
        with pytest.raises(TypeError, match=r"there is no way to make a bfloat16 \w+ of ours; pass one as out"):
            op(inputs)
        return
    result = op(inputs)
    assert type(result) is kit.result
    assert same_bits(kit.back(result), op(arrays))


def test_read_in_place(kit_dtype, rng):
    """The kernels read the memory that the framework itself points at."""
    kit, dtype = kit_dtype
    for value in vars(Arrays(rng, dtype).made(kit.make)).values():
        assert _cpu.address(value) == kit.address(value) != 0


def test_out(kit, op, rng):
    arrays = Arrays(rng)
    inputs, expected = arrays.made(kit.make), op(arrays)
    poison = np.full_like(expected, 77)
    out = kit.make(poison.copy())
    if kit.mutable:
        assert op(inputs, out=out) is out
        assert same_bits(kit.back(out), expected)
    else:
        with pytest.raises(ValueError, match=r"^\w+: out is read-only; pass a writable array or none$"):
            op(inputs, out=out)
        assert same_bits(kit.back(out), poison)


@pytest.fixture
def handed_over(monkeypatch):
    """Addresses of the results that were handed to frameworks without an exchange API."""
    addresses = []

    def spy(result, like):
        addresses.append(result.ctypes.data)
        return from_numpy(result, like)

    from_numpy = _frameworks.from_numpy
    monkeypatch.setattr(_frameworks, "from_numpy", spy)
    return addresses


def test_result_in_place(kit, op, rng, handed_over):
    """The framework's array lies where the kernels wrote it."""
    inputs = Arrays(rng).made(kit.make)
    result = op(inputs)
    if isinstance(result, torch.Tensor):
        assert not result.untyped_storage().resizable()  # the memory is not torch's
        assert handed_over == []
    elif handed_over:
        assert handed_over == [kit.address(result)]
    else:
        assert result.flags.owndata  # NumPy's, written to in place
        assert result.base is None
    if type(result) is not np.ndarray:
        assert kit.address(result) % 64 == 0


STRIDED = [("torch", to_torch, name) for name in POSITIVE]
STRIDED += [
    (kind, make, name) for name in LAYOUTS for kind, make in (("memoryview", memoryview), ("dlpack", Versioned))
]


@pytest.mark.parametrize(
    ("make", "name"), [pytest.param(make, name, id=f"{kind}-{name}") for kind, make, name in STRIDED]
)
def test_strides_across_frameworks(make, name, op, rng):
    arrays = Arrays(rng).made(LAYOUTS[name])
    inputs = arrays.made(make)
    assert to_numpy(op(inputs)).tobytes() == op(arrays).tobytes()
    for key, value in vars(inputs).items():
        assert _cpu.address(value) == getattr(arrays, key).ctypes.data


@pytest.mark.parametrize("memory_format", [torch.channels_last, torch.contiguous_format], ids=str)
def test_memory_formats(memory_format, rng):
    a, g = (to_torch(rng.normal(size=(2, 5, 4, 6)).astype(np.float32)) for _ in range(2))
    moved = a.to(memory_format=memory_format)
    assert torch.equal(fusedcam.cam(moved, g), fusedcam.cam(a, g))
    assert _cpu.address(moved[:, 2:, 1:]) == moved.data_ptr() + 4 * (2 * moved.stride(1) + moved.stride(2))


def test_asked_once_and_for_no_copy(op, rng):
    inputs = Arrays(rng).made(Versioned)
    op(inputs)
    used = [value.asked for value in vars(inputs).values() if value.asked]
    assert used
    assert all(asked == ["device", {"max_version": (1, 3)}] for asked in used)


def test_one_dimensional_buffers(rng):
    """array.array has one axis: the weights of one image, or memory that a memoryview gives axes to."""
    a, w = rng.normal(size=(5, 4, 6)).astype(np.float32), rng.normal(size=5).astype(np.float32)
    expected = fusedcam.cam(a, weights=w)
    assert same_bits(fusedcam.cam(a, weights=array.array("f", w)), expected)
    assert same_bits(fusedcam.cam(a, weights=(ctypes.c_float * 5)(*w)), expected)
    flat = array.array("f", a.ravel())
    assert _cpu.address(flat) == flat.buffer_info()[0]
    shaped = memoryview(flat).cast("B").cast("f", a.shape)
    assert same_bits(fusedcam.cam(shaped, weights=memoryview(bytes(w)).cast("f")), expected)
    out = memoryview(bytearray(4 * 24)).cast("f", (4, 6))
    assert fusedcam.cam(shaped, weights=w, out=out) is out
    assert out.tobytes() == expected.tobytes()


def test_arrays_on_disk(rng, tmp_path):
    a = rng.normal(size=(5, 4, 6)).astype(np.float32)
    a.tofile(tmp_path / "activations")
    mapped = np.memmap(tmp_path / "activations", np.float32, mode="r", shape=a.shape)
    result = fusedcam.cam(mapped, mapped)
    assert type(result) is np.ndarray
    assert same_bits(result, fusedcam.cam(a, a))
    assert _cpu.address(mapped) == mapped.ctypes.data


def test_photographs_become_the_heatmaps_kind(kit, rng):
    """A PIL image has no memory to borrow; its copy is made an array of the heatmap's framework."""
    arrays = Arrays(rng)
    expected = fusedcam.overlay(arrays.image[0], arrays.h[0])
    heatmap = kit.make(arrays.h[0].copy())
    photograph = Image.fromarray(arrays.image[0])
    if kit.result is np.ndarray and isinstance(heatmap, Versioned):  # nothing makes an array of its kind
        with pytest.raises(TypeError, match=r"image is a numpy\.ndarray but heatmap is a \w+; pass both from one"):
            fusedcam.overlay(photograph, heatmap)
        return
    result = fusedcam.overlay(photograph, heatmap)
    assert type(result) is kit.result
    assert same_bits(kit.back(result), expected)


@pytest.mark.parametrize("shape", [(0, 3, 4, 5), (2, 3, 4, 5)], ids=["none", "two"])
def test_zero_images(kit, shape, rng):
    arrays = np.ones(shape, np.float32), rng.normal(size=shape).astype(np.float32)
    result = fusedcam.cam(*map(kit.make, arrays), size=(3, 7))
    assert type(result) is kit.result
    assert same_bits(kit.back(result), fusedcam.cam(*arrays, size=(3, 7)))
