"""Behind a mean over all of space and one linear layer four methods are one; and what else the papers say is equal."""

import numpy as np
import pytest

import fusedcam
import reference
from conftest import assert_close

RAW = {"relu": False, "normalize": None}


@pytest.fixture
def head(rng, dtype):
    """Activations [3, C, H, W] of at least 0 with dead channels, and rows of a classifier [5, C]."""
    activations = np.maximum(rng.normal(size=(3, 33, 7, 5)), 0).astype(dtype)
    activations[:, ::6] = 0
    return activations, rng.normal(size=(5, 33)).astype(dtype)


def gradients_of(activations, rows):
    """Of the scores with respect to the activations: rows / (H W) at every pixel, [N, K, C, H, W]."""
    (n, c, h, w), k = activations.shape, len(rows)
    wide = rows.astype(np.float64) / (h * w)
    return np.broadcast_to(wide[None, :, :, None, None], (n, k, c, h, w)).astype(activations.dtype)


def test_cam_gradcam_xgradcam_and_hirescam_are_one(head):
    """CAM / (H W). A dead channel counts 0 in each, whatever its weight."""
    activations, rows = head
    pixels = activations[0, 0].size
    gradients = gradients_of(activations, rows)
    # By the gradients as they are rounded, so that the four have the same exact value.
    raw, magnitude = reference.hirescam(reference.wide(activations), reference.wide(gradients))
    by_weights = fusedcam.cam(activations, weights=gradients[:, :, :, 0, 0], **RAW)
    assert_close(by_weights, raw, magnitude)
    for method in ("gradcam", "xgradcam", "hirescam"):
        assert_close(fusedcam.cam(activations, gradients, method=method, **RAW), raw, 2 * magnitude)
    if activations.dtype in (np.float32, np.float64):
        cam = fusedcam.cam(activations, weights=rows[None], **RAW)
        np.testing.assert_allclose(by_weights * pixels, cam, rtol=1e-4, atol=1e-4 * abs(cam).max())


@pytest.mark.parametrize("method", fusedcam.METHODS)
def test_a_dead_channel_counts_0(rng, method):
    """Whatever its gradients are."""
    activations = abs(rng.normal(size=(2, 9, 4, 6))).astype(np.float32)
    gradients = rng.normal(size=(2, 9, 4, 6)).astype(np.float32)
    activations[:, 4] = 0
    kept = [0, 1, 2, 3, 5, 6, 7, 8]
    given = np.stack([gradients, gradients**2, gradients**3]) if method == "smoothgradcam++" else gradients
    whole = fusedcam.cam(activations, given, method=method, **RAW)
    without = fusedcam.cam(activations[:, kept], given[..., kept, :, :], method=method, **RAW)
    np.testing.assert_allclose(whole, without, rtol=1e-5, atol=1e-5 * abs(without).max())
    assert np.isfinite(whole).all()


@pytest.mark.parametrize("shape", [(2, 2), (7, 7), (37, 29)], ids=str)
@pytest.mark.parametrize("method", ["gradcam++", "smoothgradcam++"])
@pytest.mark.parametrize("weight_eps", [0.0, 0.5])
def test_a_pixel_whose_denominator_is_0_counts_0(rng, shape, dtype, method, weight_eps):
    """As a channel of XGrad-CAM does: one such pixel does not make a map of infinities. All sums are exact here."""
    activations = np.zeros((1, 5, *shape))
    activations[..., -1, :2] = rng.integers(0, 9, size=(1, 5, 2))
    activations[..., 0, 0] -= activations.sum((-2, -1)) + 2 + weight_eps
    gradients = rng.choice([0.25, 0.5, 2, 4], size=activations.shape)
    zero = rng.random(activations.shape) < 0.3
    gradients[zero] = 1  # 2 g^2 + S g^3 + eps = 2 - (2 + eps) + eps
    moments = np.stack([gradients, gradients**2, gradients**3])
    given = moments if method == "smoothgradcam++" else gradients
    denominators = 2 * moments[1] - (2 + weight_eps) * moments[2] + weight_eps
    assert ((denominators == 0) == zero).all()
    weights = np.where(zero, 0, moments[2] / np.where(zero, 1, denominators)).sum((-2, -1), keepdims=True)
    expected, largest = (weights * activations).sum(1), abs(weights * activations).sum(1).max()
    options = {"method": method, "weight_eps": weight_eps, **RAW}
    activations, given = activations.astype(dtype), given.astype(dtype)
    last = np.moveaxis(activations, 1, -1), np.moveaxis(given, -3, -1)
    for got in (
        fusedcam.cam(activations, given, **options),
        fusedcam.cam(activations[..., ::-1], given[..., ::-1], **options)[..., ::-1],
        fusedcam.cam(*last, layout="last", **options),
    ):
        assert abs(got - expected).max() <= 1e-5 * largest


def test_one_noisy_input_makes_smooth_gradcam_plusplus_gradcam_plusplus(rng):
    activations = abs(rng.normal(size=(2, 9, 4, 6))).astype(np.float32)
    gradients = rng.normal(size=(2, 9, 4, 6)).astype(np.float32)
    smooth = fusedcam.cam(
        activations, np.stack([gradients, gradients**2, gradients**3]), method="smoothgradcam++", **RAW
    )
    plain = fusedcam.cam(activations, gradients, method="gradcam++", **RAW)
    np.testing.assert_allclose(smooth, plain, rtol=2e-5, atol=1e-6 * abs(plain).max())


def test_positive_gradients_alone_leave_gradcam_as_it_is(rng):
    activations, gradients = rng.normal(size=(2, 2, 9, 4, 6)).astype(np.float32)
    positive = np.maximum(gradients, 0)
    plus = fusedcam.cam(activations, gradients, method="gradcam+", **RAW)
    assert np.array_equal(plus, fusedcam.cam(activations, positive, **RAW))
    layer = fusedcam.cam(activations, gradients, method="layercam", **RAW)
    assert np.array_equal(layer, fusedcam.cam(activations, positive, method="hirescam", **RAW))
