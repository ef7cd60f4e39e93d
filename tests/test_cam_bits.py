"""The bits of one image's map depend neither on its neighbours, on K, on memory layout nor on threads."""

import numpy as np
import pytest
import torch

import fusedcam
from cases import MOMENTS
from conftest import POSITIVE, SAME, to_torch

GRIDS = {"7x9": (130, 7, 9), "1x1": (2049, 1, 1), "37x29, more than one tile": (67, 37, 29)}


@pytest.fixture(params=fusedcam.METHODS)
def method(request):
    return request.param


def given(method, gradients):
    """What the method takes as gradients; its other arrays are in front of all."""
    return np.stack([gradients, abs(gradients), gradients]) if method in MOMENTS else gradients


@pytest.fixture(params=GRIDS.values(), ids=GRIDS.keys())
def arrays(request, rng, dtype):
    """Activations [N, C, H, W] and gradients [N, K, C, H, W]."""
    C, H, W = request.param
    return rng.normal(size=(5, C, H, W)).astype(dtype), rng.normal(size=(5, 3, C, H, W)).astype(dtype)


@pytest.mark.parametrize("options", [{"size": (30, 20)}, {"normalize": None}], ids=str)
def test_alone_or_in_company(arrays, options, method):
    A, G = arrays
    options = options | {"method": method}
    whole = fusedcam.cam(A, given(method, G), **options)
    order = [3, 0, 4, 1, 2]
    assert np.array_equal(fusedcam.cam(A[order], given(method, G[order]), **options), whole[order])
    for n in range(5):
        assert np.array_equal(fusedcam.cam(A[n], given(method, G[n]), **options), whole[n])
        for k in range(3):
            assert np.array_equal(fusedcam.cam(A[n], given(method, G[n, k]), **options), whole[n, k])
            one = fusedcam.cam(A[n : n + 1], given(method, G[n : n + 1, k]), **options)
            assert np.array_equal(one[0], whole[n, k])


@pytest.mark.parametrize("name", SAME)
def test_in_any_memory_layout(arrays, name, method):
    A, G = arrays
    G = given(method, G)
    expected = fusedcam.cam(A, G, method=method, normalize=None)
    for a, g in ((SAME[name](A), G), (A, SAME[name](G)), (SAME[name](A), SAME[name](G))):
        assert np.array_equal(fusedcam.cam(a, g, method=method, normalize=None), expected)
        last = np.moveaxis(a, -3, -1), np.moveaxis(g, -3, -1)
        assert np.array_equal(fusedcam.cam(*last, method=method, normalize=None, layout="last"), expected)
        if name in POSITIVE:
            tensors = to_torch(a), to_torch(g)
            assert np.array_equal(fusedcam.cam(*tensors, method=method, normalize=None).numpy(), expected)


@pytest.mark.usefixtures("keep_threads")
@pytest.mark.parametrize("N", [1, 2, 5])
def test_with_any_number_of_threads(arrays, N, method):
    A, G = (array[:N] for array in arrays)
    G = given(method, G)
    results = []
    for threads in (1, 2, 4, 7):
        torch.set_num_threads(threads)
        results.append(fusedcam.cam(A, G, method=method, size=90))
    assert all(np.array_equal(result, results[0]) for result in results)


def test_twice_the_same(arrays):
    assert np.array_equal(fusedcam.cam(*arrays, size=11), fusedcam.cam(*arrays, size=11))
