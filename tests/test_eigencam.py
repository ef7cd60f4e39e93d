"""eigencam: values against numpy.linalg.svd, the sign, centring, classes, what is not finite, frameworks, refusals."""

import re

import ml_dtypes
import numpy as np
import pytest
import torch

import fusedcam
from conftest import SAME, to_numpy, to_torch
from frameworks import EACH_DTYPE, Versioned, opened
from fusedcam import _projection
from projections import assert_principal, principal, signed, with_spectrum
from reference import bilinear, normalize

RAW = {"relu": False, "normalize": None}
CENTER = pytest.mark.parametrize("center", [False, True], ids=["as-it-is", "centred"])
# C, H, W: more channels than pixels, fewer, as many, and one of either.
SHAPES = [(64, 7, 7), (5, 9, 8), (12, 4, 3), (40, 6, 2), (3, 17, 1), (1, 5, 4), (6, 1, 1), (2, 1, 2)]


def on_device(array: np.ndarray, layout: str) -> torch.Tensor:
    """In place of what makes NumPy arrays of a CPU's tensors: they go the way of a device's."""
    tensor = to_torch(np.ascontiguousarray(array)) if isinstance(array, np.ndarray) else array
    return tensor.movedim(-1, -3) if layout == "last" else tensor


@pytest.fixture(params=["NumPy", "PyTorch"])
def way(request, monkeypatch):
    """Both ways of computing it; that of tensors on a device is taken on the CPU."""
    if request.param == "PyTorch":
        monkeypatch.setattr(_projection, "_channels_first", on_device)
    return request.param


def test_by_hand():
    # One direction, (3, 4) / 5, times 5 (1, 2, 0, -1): all pixels lie on a line.
    pixels = np.array([1, 2, 0, -1.0])
    image = np.stack([3 * pixels, 4 * pixels]).reshape(2, 2, 2)
    raw = fusedcam.eigencam(image, **RAW)
    np.testing.assert_allclose(raw, [[5, 10], [0, -5]], atol=1e-12)
    np.testing.assert_allclose(fusedcam.eigencam(-image, **RAW), raw, atol=1e-12)  # the sign is not the data's
    np.testing.assert_allclose(fusedcam.eigencam(image), [[0.5, 1], [0, 0]], atol=1e-12)
    np.testing.assert_allclose(fusedcam.eigencam(image, center=True, **RAW), [[2.5, 7.5], [-2.5, -7.5]], atol=1e-12)
    # Two channels that share no pixel: the longer one is the first component.
    apart = np.array([[[3, 0], [4, 0]], [[0, 1], [0, 2]]], np.float32)
    np.testing.assert_allclose(fusedcam.eigencam(apart, **RAW), [[3, 0], [4, 0]], atol=1e-6)
    gradients = np.array([[[1, 9], [1, 9]], [[9, 5], [9, -10]]], np.float32)
    np.testing.assert_allclose(fusedcam.eigencam(apart, gradients, **RAW), [[0, -5], [0, 20]], atol=1e-5)


@CENTER
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_against_svd(rng, way, shape, center, dtype):
    images = (3 * rng.normal(0.5, 1, (3, *shape))).astype(dtype)
    raw = fusedcam.eigencam(images, center=center, **RAW)
    raw = to_numpy(raw)
    assert raw.dtype == (np.float64 if dtype is np.float64 else np.float32)
    assert raw.shape == (3, *shape[1:])
    for got, image in zip(raw, images, strict=True):
        if center and shape[1:] == (1, 1):
            assert not got.any()  # a pixel is its own mean
        else:
            assert_principal(got, image, center)
            assert got.max() >= -got.min() * (1 - 1e-6)


@pytest.mark.parametrize("ratio", [0, 0.5, 0.9, 0.99, 0.99999, 1 - 1e-12, 1])
@pytest.mark.parametrize("shape", [(40, 5, 4), (6, 12, 11), (50, 7, 7)], ids=str)
def test_every_gap_between_singular_values(rng, way, shape, ratio):
    """The power iteration's way, and LAPACK's where no bound tells the first value from the others."""
    for others in ([], [0.8 * ratio, 0.3 * ratio], [ratio] * 3):
        image = with_spectrum(rng, *shape, [7, 7 * ratio, *(7 * value for value in others)])
        assert_principal(to_numpy(fusedcam.eigencam(image, **RAW)), image)


@CENTER
def test_classes_and_products(rng, way, center):
    a = rng.normal(size=(2, 9, 4, 5)).astype(np.float32)
    g = rng.normal(size=(2, 3, 9, 4, 5)).astype(np.float32)
    raw = to_numpy(fusedcam.eigencam(a, g, center=center, **RAW))
    assert raw.shape == (2, 3, 4, 5)
    for n, k in np.ndindex(2, 3):
        assert_principal(raw[n, k], a[n].astype(np.float64) * g[n, k], center)
    assert np.array_equal(to_numpy(fusedcam.eigencam(a, g[:, 1], center=center, **RAW)), raw[:, 1])
    alone = to_numpy(fusedcam.eigencam(a[1], g[1], center=center, **RAW))
    assert alone.shape == (3, 4, 5)
    np.testing.assert_allclose(alone, raw[1], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("values", [[1, -1], [-1, 1], [0, -2, 2, 1], [0, -2, 2 - 1e-12, 1]])
def test_of_equal_extremes_the_first_is_positive(way, values):
    """Which rounding must not decide; centred, two pixels are always such a pair."""
    for flip in (1, -1):
        image = flip * np.array([values]).T.reshape(1, 1, -1) * 0.1
        raw = to_numpy(fusedcam.eigencam(image, **RAW))[0]
        largest = next(value for value in raw if abs(value) > 0.09 * max(map(abs, values)))
        assert largest > 0
        np.testing.assert_allclose(abs(raw), 0.1 * np.abs(values), atol=1e-14)


@CENTER
def test_from_scores_on_it_is_cam(rng, way, center):
    images = rng.normal(size=(2, 5, 6, 7))
    raw = to_numpy(fusedcam.eigencam(images, center=center, **RAW))
    for relu in (True, False):
        for mode in ("minmax", "max", None):
            got = fusedcam.eigencam(images, center=center, size=(13, 9), relu=relu, normalize=mode)
            wanted = normalize(bilinear(np.maximum(raw, 0) if relu else raw, (13, 9)), mode)
            np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-12)


@CENTER
def test_no_range_no_map(rng, way, center, dtype):
    """Constant channels, centred, leave nothing: their rounding is no principal component."""
    constant = np.broadcast_to(rng.normal(0, 100, (2, 30, 1, 1)).astype(dtype), (2, 30, 7, 6))
    flat = to_numpy(fusedcam.eigencam(constant, constant, center=center, relu=False))
    assert not flat.any()
    zeros = np.zeros((1, 3, 4, 5), dtype)
    assert not to_numpy(fusedcam.eigencam(zeros, center=center, **RAW)).any()


@CENTER
@pytest.mark.parametrize("exponent", [-600, -30, 30, 600])
def test_scale(rng, way, center, exponent):
    """Squares of float64 would go beyond its range."""
    image = rng.normal(size=(1, 8, 3, 4))
    raw = to_numpy(fusedcam.eigencam(image, center=center, **RAW))
    scaled = to_numpy(fusedcam.eigencam(image * 2.0**exponent, center=center, **RAW))
    np.testing.assert_allclose(scaled * 2.0**-exponent, raw, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@CENTER
@pytest.mark.parametrize("shape", [(20, 3, 4), (4, 5, 6)], ids=str)
def test_what_is_not_finite(rng, way, shape, center, bad):
    clean = rng.normal(size=(3, *shape)).astype(np.float32)
    images = clean.copy()
    images[1, 2, 1, 3] = bad
    without = images.copy()
    without[1, 2, 1, 3] = 0
    options = {"center": center, "size": 8}
    for rest in ({}, RAW):
        neighbours = to_numpy(fusedcam.eigencam(clean, **options, **rest))
        got = to_numpy(fusedcam.eigencam(images, **options, **rest))
        assert np.array_equal(got[[0, 2]], neighbours[[0, 2]])
        assert np.isnan(got[1]).all()
        got = to_numpy(fusedcam.eigencam(images, nan="zero", **options, **rest))
        assert np.array_equal(got, to_numpy(fusedcam.eigencam(without, **options, **rest)))
    with pytest.raises(ValueError, match=r"^eigencam: nan='raise' and"):
        fusedcam.eigencam(images, nan="raise", **options)
    assert np.array_equal(to_numpy(fusedcam.eigencam(clean, nan="raise", **options, **RAW)), neighbours)


@pytest.mark.parametrize("shape", [(33, 4, 5), (7, 9, 9)], ids=str)
def test_an_image_does_not_depend_on_its_batch(rng, shape):
    images = rng.normal(size=(5, *shape)).astype(np.float32)
    whole = fusedcam.eigencam(images)
    for n in range(5):
        assert np.array_equal(fusedcam.eigencam(images[n : n + 1])[0], whole[n])
        assert np.array_equal(fusedcam.eigencam(images[n]), whole[n])


@pytest.mark.parametrize("memory", SAME.values(), ids=SAME.keys())
@pytest.mark.parametrize("last", [False, True], ids=["first", "last"])
def test_memory_layouts(rng, memory, last):
    a, g = rng.normal(size=(2, 2, 6, 4, 5)).astype(np.float32)
    wanted = fusedcam.eigencam(a, g)
    given = [memory(np.moveaxis(array, 1, -1) if last else array) for array in (a, g)]
    got = fusedcam.eigencam(*given, layout="last" if last else "first")
    np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-6)


@pytest.mark.parametrize("kind", EACH_DTYPE)
def test_frameworks(rng, kind):
    name, dtype = kind
    a = rng.normal(size=(2, 6, 4, 5)).astype(getattr(ml_dtypes, dtype, None) or dtype)
    g = rng.normal(size=(2, 3, 6, 4, 5)).astype(a.dtype)
    with opened(name) as kit:
        heat = fusedcam.eigencam(kit.make(a), kit.make(g), size=9)
        assert isinstance(heat, kit.result)
        np.testing.assert_array_equal(kit.back(heat), fusedcam.eigencam(a, g, size=9))
        last = fusedcam.eigencam(kit.make(np.ascontiguousarray(np.moveaxis(a, 1, -1))), layout="last")
        np.testing.assert_allclose(kit.back(last), fusedcam.eigencam(a), rtol=0, atol=1e-6)


def test_empty_batch(way):
    none = np.empty((0, 3, 4, 5), np.float32)
    assert fusedcam.eigencam(none, size=7).shape == (0, 7, 7)
    assert fusedcam.eigencam(none, np.empty((0, 2, 3, 4, 5), np.float32)).shape == (0, 2, 4, 5)


A = np.ones((2, 3, 4, 5), np.float32)
REFUSALS = {
    "no array": (lambda: fusedcam.eigencam([1, 2]), TypeError, "eigencam: activations must be an array, not list"),
    "integers": (lambda: fusedcam.eigencam(A.astype(int)), TypeError, "eigencam: dtype of activations is int64; .*"),
    "rank": (lambda: fusedcam.eigencam(A[0, 0]), ValueError, r"eigencam: activations have shape \(4, 5\); .*"),
    "gradients": (lambda: fusedcam.eigencam(A, A[:1]), ValueError, r"eigencam: gradients have shape \(1, 3, 4, 5\) .*"),
    "dtypes": (
        lambda: fusedcam.eigencam(A, A.astype(float)),
        TypeError,
        "eigencam: dtype of activations is float32 .*",
    ),
    "mixed": (lambda: fusedcam.eigencam(A, torch.ones(2, 3, 4, 5)), TypeError, "eigencam: .*pass both from one.*"),
    "center": (lambda: fusedcam.eigencam(A, center=1), TypeError, r"eigencam: center is 1 \(int\); .*True or False"),
    "size": (lambda: fusedcam.eigencam(A, size=0), ValueError, r"eigencam: size is \(0, 0\); .*"),
    "relu": (lambda: fusedcam.eigencam(A, relu=1), TypeError, r"eigencam: relu is 1 \(int\); .*"),
    "normalize": (lambda: fusedcam.eigencam(A, normalize="l2"), ValueError, r"eigencam: normalize is 'l2' \(str\); .*"),
    "nan": (lambda: fusedcam.eigencam(A, nan="no"), ValueError, r"eigencam: nan is 'no' \(str\); .*"),
    "layout": (lambda: fusedcam.eigencam(A, layout="no"), ValueError, r"eigencam: layout is 'no' \(str\); .*"),
    "grad": (
        lambda: fusedcam.eigencam(torch.ones(1, 2, 3, 4, requires_grad=True)),
        ValueError,
        "eigencam: activations requires grad, and .*",
    ),
    "meta": (lambda: fusedcam.eigencam(torch.ones(1, 2, 3, 4, device="meta")), TypeError, "eigencam: cannot read .*"),
}


@pytest.mark.parametrize(("call", "kind", "message"), REFUSALS.values(), ids=REFUSALS.keys())
def test_refusals(call, kind, message, monkeypatch):
    monkeypatch.setattr(_projection, "_project", None)  # before any work
    with pytest.raises(kind, match=re.compile(rf"{message}\Z", re.DOTALL)):
        call()


def test_an_array_that_nobody_can_read(monkeypatch):
    """As those that lie on a device, where PyTorch is not loaded."""
    source = Versioned(A.astype(ml_dtypes.bfloat16))
    wanted = fusedcam.eigencam(A)
    np.testing.assert_array_equal(fusedcam.eigencam(source), wanted)
    monkeypatch.delitem(_projection.sys.modules, "torch")
    with pytest.raises(TypeError, match=r"^eigencam: neither NumPy nor PyTorch can read a frameworks\.Versioned; pass"):
        fusedcam.eigencam(source)


def test_the_oracle_can_tell():
    """The second component, or the first of what was not centred, is none that passes."""
    image = np.random.default_rng(0).normal(1, 1, (4, 5, 6))
    first, _ = principal(image)
    assert_principal(first, image)
    for wrong in (first * (1 + 1e-4), first + 1e-3 * abs(first).max(), principal(image, center=True)[0]):
        with pytest.raises(AssertionError):
            assert_principal(wrong, image)
    assert signed(np.array([-3.0, 2])).tolist() == [3, -2]
