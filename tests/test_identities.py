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
