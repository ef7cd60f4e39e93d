"""Several layers in one call: each layer's map by the oracle, normalised, resampled, fused and normalised again."""

import numpy as np
import pytest
import torch

import fusedcam
import reference
from cases import EPS, MOMENTS, moments_of
from conftest import SAME, sliced

FUSE = {"mean": lambda maps: sum(maps) / len(maps), "max": np.maximum.reduce, "product": np.multiply.reduce}
LAYERS = {
    1: [(5, (31,)), (3, (8,)), (9, (60,))],
    2: [(7, (4, 6)), (12, (9, 5)), (3, (2, 2)), (1, (1, 1))],
    3: [(4, (2, 5, 3)), (6, (3, 4, 4))],
}


def arrays(rng, dtype, spatial, K, method="gradcam", layers=None):
    """Activations and gradients of every layer, each in a layout of its own."""
    A, G = [], []
    for C, grid in layers or LAYERS[spatial]:
        a, g = rng.normal(size=(2, C, *grid)), rng.normal(size=(2, K, C, *grid))
        a, g = (abs(a) if method in EPS else a), (moments_of(rng, g) if method in MOMENTS else g)
        lay = [SAME[name] for name in rng.choice([*SAME], 2)]
        A.append(lay[0](a.astype(dtype)))
        G.append(lay[1](g.astype(dtype)))
    return A, G


def expected(A, G, method, fuse, size, normalize, relu=True):
    """[N, K, ...]; raw scores by one layer at a time, which other tests compare with the oracle."""
    spatial = A[0].ndim - 2
    maps = []
    for a, g in zip(A, G, strict=True):
        one = fusedcam.cam(a, g, method=method, spatial=spatial, normalize=normalize, relu=relu)
        maps.append(reference.bilinear(one.astype(np.float64), size))
    return finished(FUSE[fuse](maps), normalize, spatial)


def finished(fused, normalize, spatial):
    flat = fused.reshape(*fused.shape[: fused.ndim - spatial], 1, -1)
    return reference.normalize(flat, normalize).reshape(fused.shape)


@pytest.mark.parametrize("normalize", ["minmax", "max", None])
@pytest.mark.parametrize("fuse", FUSE)
@pytest.mark.parametrize("spatial", LAYERS)
def test_layers_of_every_rank(rng, dtype, spatial, fuse, normalize):
    for K, size in ((1, 11), (3, None), (2, tuple(range(3, 3 + spatial)))):
        A, G = arrays(rng, dtype, spatial, K)
        largest = tuple(max(extents) for extents in zip(*(a.shape[2:] for a in A), strict=True))
        grid = largest if size is None else (size,) * spatial if isinstance(size, int) else size
        wanted = expected(A, G, "gradcam", fuse, grid, normalize)
        out = sliced(np.full(wanted.shape, 7, np.float64 if dtype == np.float64 else np.float32))
        options = {"spatial": spatial, "size": size, "fuse": fuse, "normalize": normalize}
        got = fusedcam.cam(A, G, out=out, **options)
        assert got is out
        scale = abs(wanted).max() + 1e-9
        np.testing.assert_allclose(got / scale, wanted / scale, rtol=0, atol=1e-12 if dtype == np.float64 else 2e-5)
        if normalize == "minmax":
            for one in got.reshape(-1, *grid):
                assert one.min() == 0
                assert one.max() == (1 if one.any() else 0)
        assert np.array_equal(fusedcam.cam(tuple(A), tuple(G), **options), got)
        assert np.array_equal(fusedcam.cam([a[1] for a in A], [g[1, 0] for g in G], **options), got[1, 0])


@pytest.mark.parametrize("method", fusedcam.METHODS)
def test_layers_by_every_method(rng, method):
    A, G = arrays(rng, np.float32, 2, 2, method)
    got = fusedcam.cam(A, G, method=method, size=(9, 14))
    np.testing.assert_allclose(got, expected(A, G, method, "mean", (9, 14), "minmax"), rtol=0, atol=2e-5)


def test_as_pytorch_grad_cam_defines_it(rng):
    """Minimum and maximum with 1e-7 added to the range, at the layer's resolution and at the end."""
    A, G = arrays(rng, np.float32, 2, 1)
    maps = []
    for a, g in zip(A, G, strict=True):
        raw = np.maximum(reference.cam(reference.wide(a), reference.wide(g))[0], 0)
        raw = raw - raw.min((-2, -1), keepdims=True)
        maps.append(reference.bilinear(raw / (1e-7 + raw.max((-2, -1), keepdims=True)), (20, 30)))
    mean = sum(maps) / len(maps)
    mean -= mean.min((-2, -1), keepdims=True)
    wanted = mean / (1e-7 + mean.max((-2, -1), keepdims=True))
    np.testing.assert_allclose(fusedcam.cam(A, G, size=(20, 30), eps=1e-7), wanted, rtol=0, atol=2e-6)


def test_by_weights_tensors_and_tokens(rng):
    a, b = rng.normal(size=(2, 10, 8)).astype(np.float32), rng.normal(size=(2, 5, 6)).astype(np.float32)
    rows = [rng.normal(size=(1, c)).astype(np.float32) for c in (8, 6)]
    got = fusedcam.cam([a, b], weights=rows, tokens=(2, 2), size=7, fuse="max")
    maps = [np.moveaxis(x[:, -4:].reshape(2, 2, 2, -1), -1, 1) for x in (a, b)]
    same = fusedcam.cam([np.ascontiguousarray(m) for m in maps], weights=rows, size=7, fuse="max")
    assert np.array_equal(got, same)
    tensors = fusedcam.cam(
        [torch.from_numpy(a), torch.from_numpy(b)], weights=list(map(torch.from_numpy, rows)), tokens=(2, 2), size=7,
        fuse="max",
    )  # fmt: skip
    assert np.array_equal(tensors.numpy(), got)


@pytest.mark.usefixtures("keep_threads")
@pytest.mark.parametrize("N", [1, 4])
def test_any_number_of_threads(rng, N):
    layers = [(64, (28, 28)), (128, (14, 14))]
    A = [rng.normal(size=(N, c, *grid)).astype(np.float32) for c, grid in layers]
    G = [rng.normal(size=a.shape).astype(np.float32) for a in A]
    results = []
    for threads in (1, 2, 5):
        torch.set_num_threads(threads)
        results.append(fusedcam.cam(A, G, size=(400, 500), fuse="product"))
    assert all(np.array_equal(result, results[0]) for result in results)
    wanted = expected(A, [g[:, None] for g in G], "gradcam", "product", (400, 500), "minmax")[:, 0]
    np.testing.assert_allclose(results[0], wanted, rtol=0, atol=5e-5)


@pytest.mark.parametrize("fuse", FUSE)
def test_one_bad_image_stays_bad_alone(rng, fuse):
    A, G = arrays(rng, np.float32, 2, 2)
    clean = fusedcam.cam(A, G, size=9, fuse=fuse)
    A[1][1, 0, 3, 2] = np.nan
    got = fusedcam.cam(A, G, size=9, fuse=fuse)
    assert np.array_equal(got[0], clean[0])
    assert np.isnan(got[1]).all()
    assert np.isfinite(fusedcam.cam(A, G, size=9, fuse=fuse, nan="zero")).all()
    out = np.full(clean.shape, 7, np.float32)
    with pytest.raises(ValueError, match=r"cam: layer 1: nan='raise' and the class activation maps"):
        fusedcam.cam(A, G, size=9, fuse=fuse, nan="raise", out=out)
    assert (out == 7).all()


a, b = np.ones((2, 3, 4, 5), np.float32), np.ones((2, 6, 2, 2), np.float32)
REFUSED = {
    "no layers": (lambda: fusedcam.cam([], []), ValueError, "are a list of 0 and gradients one of 0"),
    "counts": (
        lambda: fusedcam.cam([a, b], [a]),
        ValueError,
        "a list of 2 and gradients one of 1; accepted",
    ),
    "one array": (
        lambda: fusedcam.cam([a, b], a),
        TypeError,
        "but gradients are of type numpy.ndarray; accepted",
    ),
    "17 layers": (lambda: fusedcam.cam([a] * 17, [a] * 17), ValueError, "from 1 to 16"),
    "images": (
        lambda: fusedcam.cam([a, b[:1]], [a, b[:1]]),
        ValueError,
        r"layer 1: maps of shape \(1, 2, 2\) where layer 0 has \(2, 4, 5\)",
    ),
    "shapes": (lambda: fusedcam.cam([a, b], [a, b[:, 1:]]), ValueError, "layer 1: gradients have shape"),
    "dtypes": (
        lambda: fusedcam.cam([a, b.astype(np.float64)], [a, b.astype(np.float64)]),
        TypeError,
        r"layer 1: dtype of activations\[0\] is float32 but that of activations\[1\] is float64",
    ),
    "no array": (lambda: fusedcam.cam([a, 3], [a, b]), TypeError, r"activations\[1\]"),
    "fuse": (lambda: fusedcam.cam([a], [a], fuse="sum"), ValueError, "fuse is 'sum'.*accepted is 'mean', 'max', 'prod"),
    "fuse of one": (lambda: fusedcam.cam(a, a, fuse="mean"), ValueError, "fuse is given for one layer"),
    "size": (lambda: fusedcam.cam([a, b], [a, b], size=(0, 4)), ValueError, r"size is \(0, 4\)"),
    "out": (
        lambda: fusedcam.cam([a, b], [a, b], size=(4, 5), out=a[:, 0]),
        ValueError,
        "out shares memory with an input",
    ),
    "out's shape": (lambda: fusedcam.cam([a], [a], out=np.ones((2, 4), np.float32)), ValueError, "out has shape"),
}


@pytest.mark.parametrize(("call", "kind", "message"), REFUSED.values(), ids=REFUSED)
def test_refused(call, kind, message):
    with pytest.raises(kind, match=message):
        call()


def test_an_empty_batch():
    assert fusedcam.cam([a[:0], b[:0]], [a[:0], b[:0]], size=9).shape == (0, 9, 9)


def test_a_list_that_changes_while_it_is_read():
    """What the size is read by empties it: nothing crashes, and the call says what it found."""
    layers = [a, b]

    class Index:
        def __index__(self):
            layers.clear()
            return 6

    with pytest.raises(ValueError, match="are a list of 0"):
        fusedcam.cam(layers, [a, b], size=(Index(), 5))
