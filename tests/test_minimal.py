"""Every op and method on numbers a reader can check by hand: if only one file is run, this one."""

import numpy as np
import pytest

import fusedcam
import reference

# Two channels of 2x2. The gradients' means are the channels' weights: 1 and -2.
ACTIVATIONS = np.array([[[1, 2], [3, 4]], [[0, 1], [1, 0]]], np.float32)
GRADIENTS = np.array([[[0, 2], [2, 0]], [[-1, -3], [-4, 0]]], np.float32)

# method -> its raw scores without the ReLU, [2, 2]
SCORES = {
    "gradcam": [[1 - 0, 2 - 2], [3 - 2, 4 - 0]],
    # The activations sum to 10 and 2. Of the first channel two gradients of 2 are positive, of the second none.
    "gradcam++": [[1 * 2 * 2 / (2 + 10 * 2), 2 * 4 / 22], [3 * 4 / 22, 4 * 4 / 22]],
    "smoothgradcam++": [[1 * 2 * 2 / (2 + 10 * 2), 2 * 4 / 22], [3 * 4 / 22, 4 * 4 / 22]],
    # (2*2 + 2*3) / 10 and (-3*1 - 4*1) / 2
    "xgradcam": [[1 - 3.5 * 0, 2 - 3.5 * 1], [3 - 3.5 * 1, 4 - 3.5 * 0]],
    "hirescam": [[0 - 0, 2 * 2 - 3 * 1], [2 * 3 - 4 * 1, 0 - 0]],
    "layercam": [[0, 2 * 2], [2 * 3, 0]],
    "gradcam_elementwise": [[0, 2 * 2], [2 * 3, 0]],
}
# What the method takes as gradients: means of their powers, over one noisy input here.
MOMENTS = {"smoothgradcam++": np.stack([GRADIENTS, GRADIENTS**2, GRADIENTS**3])}


def scores_of(method):
    """By hand where they stand above, else by the oracle."""
    if method in SCORES:
        return np.array(SCORES[method], np.float64)
    return reference.METHODS[method](ACTIVATIONS[None].astype(float), GRADIENTS[None, None].astype(float))[0][0, 0]


@pytest.mark.parametrize("method", fusedcam.METHODS)
def test_scores(method):
    gradients = MOMENTS.get(method, GRADIENTS)
    got = fusedcam.cam(ACTIVATIONS, gradients, method=method, relu=False, normalize=None)
    assert got.dtype == np.float32
    np.testing.assert_array_max_ulp(got, scores_of(method).astype(np.float32), 2)


@pytest.mark.parametrize("method", fusedcam.METHODS)
def test_the_oracle_by_hand(method):
    wide = [array.astype(float) for array in (ACTIVATIONS[None], MOMENTS.get(method, GRADIENTS))]
    gradients = wide[1][:, None, None] if method in MOMENTS else wide[1][None, None]
    np.testing.assert_allclose(reference.METHODS[method](wide[0], gradients)[0][0, 0], scores_of(method), rtol=1e-12)


@pytest.mark.parametrize("method", fusedcam.METHODS)
def test_heatmap(method):
    scores = np.maximum(scores_of(method), 0)
    heat = (scores - scores.min()) / (scores.max() - scores.min())
    gradients = MOMENTS[method][:, None] if method in MOMENTS else GRADIENTS[None]
    got = fusedcam.cam(ACTIVATIONS[None], gradients, method=method)
    np.testing.assert_array_max_ulp(got, np.array([heat], np.float32), 2)


def test_cam_step_by_step():
    # weights 1 and -2: 1*1 - 2*0 = 1, 2 - 2 = 0, 3 - 2 = 1, 4 - 0 = 4
    assert fusedcam.cam(ACTIVATIONS, GRADIENTS, normalize=None).tolist() == [[1, 0], [1, 4]]
    assert fusedcam.cam(ACTIVATIONS, GRADIENTS).tolist() == [[0.25, 0], [0.25, 1]]
    weights = np.array([1, -2], np.float32)
    assert fusedcam.cam(ACTIVATIONS, weights=weights, normalize=None).tolist() == [[1, 0], [1, 4]]
    # weights -1 and 2: -1, 0, -1, -4
    assert fusedcam.cam(ACTIVATIONS, -GRADIENTS, normalize=None).tolist() == [[0, 0], [0, 0]]
    assert fusedcam.cam(ACTIVATIONS, -GRADIENTS, relu=False).tolist() == [[0.75, 1], [0.75, 0]]
    assert fusedcam.cam(ACTIVATIONS, -GRADIENTS, relu=False, normalize=None).tolist() == [[-1, 0], [-1, -4]]


def test_cam_channels_last_and_two_classes():
    both = np.stack([GRADIENTS, -GRADIENTS])
    expected = [[[1, 0], [1, 4]], [[0, 0], [0, 0]]]
    assert fusedcam.cam(ACTIVATIONS, both, normalize=None).tolist() == expected
    last = fusedcam.cam(ACTIVATIONS.transpose(1, 2, 0), both.transpose(0, 2, 3, 1), layout="last", normalize=None)
    assert last.tolist() == expected


def test_resize():
    # Four samples over two pixels lie at -1/4 (clamped), 1/4, 3/4 and 5/4 (clamped).
    row = np.array([[0, 4]], np.float32)
    assert fusedcam.resize(row, (1, 4)).tolist() == [[0, 1, 3, 4]]
    assert fusedcam.resize(row.T, (4, 1)).tolist() == [[0], [1], [3], [4]]
    # Two samples over four pixels lie between the first two and between the last two.
    assert fusedcam.resize(np.array([[0, 2, 4, 8]], np.float32), (1, 2)).tolist() == [[1, 6]]
    assert fusedcam.resize(row, (1, 4), normalize="max").tolist() == [[0, 0.25, 0.75, 1]]


def test_colorize():
    # 255 * 0.498 + 1/2 = 127.49, so row 127; NaN is black.
    ramp = np.stack([np.arange(256), np.arange(256)[::-1], np.full(256, 9)], 1).astype(np.uint8)
    heat = np.array([[0, 0.498], [1, np.nan]], np.float32)
    expected = [[[0, 255, 9], [127, 128, 9]], [[255, 0, 9], [0, 0, 0]]]
    assert fusedcam.colorize(heat, colormap=ramp).tolist() == expected
    assert fusedcam.colorize(heat, colormap="grey")[..., 0].tolist() == [[0, 127], [255, 0]]


def test_mask():
    # The map 2, 4, 6 becomes 0, 1/2, 1; at twice the width, by quarters, 0, 1/8, 3/8, 5/8, 7/8, 1.
    heat = np.array([[2, 4, 6]], np.float32)
    image = np.array([[[8, 8, 8]], [[-2, 4, 6]]], np.float32)
    assert fusedcam.mask(image, heat).tolist() == [[[0, 4, 8]], [[0, 2, 6]]]
    wide = np.full((1, 1, 6), 8, np.float32)
    assert fusedcam.mask(wide, heat).tolist() == [[[0, 1, 3, 5, 7, 8]]]
    two = fusedcam.mask(wide, np.stack([heat, -heat]), noise=np.full((2, 1, 6), 0.5, np.float32))
    assert two.tolist() == [[[[4, 5, 7, 9, 11, 12]]], [[[12, 11, 9, 7, 5, 4]]]]


def test_overlay():
    # A quarter of white or black over grey 100: 75 + 255 / 4 = 138.75, and 75. NaN shows the image.
    image = np.full((2, 2, 3), 100, np.uint8)
    heat = np.array([[1, 0], [np.nan, 1]], np.float32)
    got = fusedcam.overlay(image, heat, colormap="grey", alpha=0.25)
    assert got.tolist() == [[[139] * 3, [75] * 3], [[100] * 3, [139] * 3]]
