"""overlay, to the last bit: blending and rounding, kinds of images and batches, NaN, and what it does in one pass."""

import hypothesis
import ml_dtypes
import numpy as np
import pytest
import torch
from hypothesis import strategies as st
from PIL import Image

import fusedcam
import reference
from conftest import DTYPES, LAYOUTS, POSITIVE, SAME, negative, to_numpy, to_torch

GREY = np.arange(256, dtype=np.uint8)[:, None].repeat(3, 1)
IMAGES = {"uint8": np.uint8, **DTYPES}


def random_image(rng, shape, dtype) -> np.ndarray:
    """uint8, or floats somewhat beyond [0, 1]."""
    if dtype == np.uint8:
        return rng.integers(256, size=shape, dtype=np.uint8)
    return rng.uniform(-0.2, 1.2, shape).astype(dtype)


def arrange(image: np.ndarray, kind: str) -> np.ndarray:
    """[..., H, W, 3 or 1] in one of the accepted forms."""
    if kind == "first":
        return np.moveaxis(image, -1, -3)
    return image[..., 0] if kind == "bare" else image


@hypothesis.settings(max_examples=400)
@hypothesis.given(
    seed=st.integers(0, 2**32 - 1),
    batch=st.sampled_from([(), (1,), (3,)]),
    size=st.tuples(st.integers(4, 20), st.integers(4, 20)),
    grid=st.sampled_from([None, (1, 1), (1, 5), (7, 7), (23, 2)]),
    dtypes=st.tuples(st.sampled_from(list(IMAGES)), st.sampled_from(list(DTYPES))),
    kind=st.sampled_from(["last", "first", "grey", "grey first", "bare"]),
    layouts=st.tuples(st.sampled_from(list(LAYOUTS)), st.sampled_from(list(LAYOUTS))),
    tensor=st.booleans(),
    alpha=st.one_of(st.sampled_from([0, 0.25, 0.5, 1]), st.floats(0, 1)),
    normalize=st.sampled_from(["minmax", "max", None]),
    holes=st.booleans(),
    out=st.sampled_from([None, *POSITIVE[:4]]),
)
def test_random_calls(seed, batch, size, grid, dtypes, kind, layouts, tensor, alpha, normalize, holes, out):
    """Equal to resize, colorize and blending in float64, each as a step of its own."""
    rng = np.random.default_rng(seed)
    image = random_image(rng, (*batch, *size, 1 if kind.startswith(("grey", "bare")) else 3), IMAGES[dtypes[0]])
    image = LAYOUTS[layouts[0]](arrange(image, "first" if kind.endswith("first") else kind))
    heat = rng.normal(0.5, 0.5, (*batch, *(grid or size)))
    if holes:
        heat[rng.uniform(size=heat.shape) < 0.1] = np.nan
    heat = LAYOUTS[layouts[1]](heat.astype(DTYPES[dtypes[1]]))
    table = rng.integers(256, size=(256, 3), dtype=np.uint8)

    channels_last = image[..., None] if kind == "bare" else image
    if kind.endswith("first"):
        channels_last = np.moveaxis(image, -3, -1)
    values = fusedcam.resize(heat, size, normalize=normalize)
    expected = reference.overlay(channels_last, values.astype(np.float64), table, alpha)
    wrap = to_torch if tensor and {*layouts} <= {*POSITIVE} else np.asarray
    given = {} if out is None else {"out": wrap(SAME[out](np.full(expected.shape, 77, np.uint8)))}
    got = fusedcam.overlay(wrap(image), wrap(heat), colormap=table, alpha=alpha, normalize=normalize, **given)
    assert isinstance(got, type(wrap(heat)))
    assert out is None or got is given["out"]
    assert to_numpy(got).dtype == np.uint8
    assert np.array_equal(to_numpy(got), expected)


def test_every_blend_is_rounded_upwards_at_a_half():
    """All 256 pixels under all 256 colours."""
    image = np.broadcast_to(np.arange(256, dtype=np.uint8)[:, None, None], (256, 256, 3))
    heat = np.broadcast_to(np.arange(256) / 255, (256, 256)).astype(np.float32)
    for alpha in (0, 0.1, 0.25, 0.3, 0.5, 0.7, 1):
        expected = np.floor((1 - alpha) * image + alpha * GREY[None] + 0.5)
        assert np.array_equal(fusedcam.overlay(image, heat, colormap=GREY, alpha=alpha), expected)
    halves = fusedcam.overlay(np.full((1, 1, 3), 100, np.uint8), np.full((1, 1), 7 / 255), colormap=GREY)
    assert halves.tolist() == [[[54] * 3]]  # 53.5


def test_float_images_are_rounded_to_nearest():
    levels = np.arange(0, 1, 1 / 2048)
    for dtype in (np.float32, np.float64, np.float16, ml_dtypes.bfloat16):
        image = np.broadcast_to(levels.astype(dtype)[None, :, None], (2, 2048, 3))
        got = fusedcam.overlay(image, np.zeros((1, 1), np.float32), alpha=0)
        assert np.array_equal(got, np.floor(255 * image.astype(np.float64) + 0.5))


def test_alpha_0_is_the_image_and_1_the_colours(rng):
    image = random_image(rng, (9, 8, 3), np.uint8)
    heat = rng.uniform(size=(3, 4)).astype(np.float32)
    assert np.array_equal(fusedcam.overlay(image, heat, alpha=0), image)
    assert np.array_equal(fusedcam.overlay(image, heat, alpha=1), fusedcam.colorize(heat, size=(9, 8)))


def test_defaults_are_jet_and_a_half(rng):
    image, heat = random_image(rng, (9, 8, 3), np.uint8), rng.uniform(size=(3, 4)).astype(np.float32)
    assert np.array_equal(fusedcam.overlay(image, heat), fusedcam.overlay(image, heat, colormap="jet", alpha=0.5))


@pytest.mark.parametrize("normalize", ["minmax", "max"])
def test_raw_scores_in_one_pass(rng, normalize):
    """From a layer's scores to the picture as if the map at full size had been made: range of the resampled map."""
    A, G = rng.normal(size=(2, 3, 20, 7, 7)).astype(np.float32)
    images = random_image(rng, (3, 224, 200, 3), np.uint8)
    raw = fusedcam.cam(A, G, normalize=None)
    heat = fusedcam.cam(A, G, size=(224, 200), normalize=normalize)
    got = fusedcam.overlay(images, raw, normalize=normalize)
    assert np.array_equal(got, fusedcam.overlay(images, heat))


@pytest.mark.parametrize("image_dtype", IMAGES.values(), ids=IMAGES)
def test_nan_shows_the_image_alone(rng, image_dtype):
    image = random_image(rng, (2, 4, 5, 3), image_dtype)
    heat = np.ones((2, 4, 5), np.float32)
    heat[0, 1, 2] = np.nan
    got = fusedcam.overlay(image, heat, colormap=np.full((256, 3), 7, np.uint8), alpha=1)
    plain = fusedcam.overlay(image, heat, alpha=0)
    assert np.array_equal(got[0, 1, 2], plain[0, 1, 2])
    got[0, 1, 2] = 7
    assert (got == 7).all()
    filled = fusedcam.overlay(image, heat, normalize="minmax")
    assert np.array_equal(filled[0], plain[0])


@pytest.mark.parametrize("alpha", [0.5, 0.3])
def test_nan_anywhere_in_a_row(rng, alpha):
    """Where many pixels are coloured at once, and where what is left of a row is."""
    for width in (*range(1, 40), 64, 70, 129):
        image = random_image(rng, (width, width, 3), np.uint8)
        heat = rng.uniform(size=(width, width)).astype(np.float32)
        expected = fusedcam.overlay(image, heat, alpha=alpha)
        np.fill_diagonal(heat, np.nan)
        expected[np.eye(width, dtype=bool)] = image[np.eye(width, dtype=bool)]
        assert np.array_equal(fusedcam.overlay(image, heat, alpha=alpha), expected)


def test_one_heatmap_on_every_kind_of_the_same_image(rng):
    image = random_image(rng, (6, 7, 1), np.uint8)
    heat = rng.uniform(size=(6, 7)).astype(np.float32)
    expected = fusedcam.overlay(image.repeat(3, 2), heat)
    assert expected.shape == (6, 7, 3)
    for same in (image, image[..., 0], np.moveaxis(image, 2, 0), np.moveaxis(image.repeat(3, 2), 2, 0)):
        assert np.array_equal(fusedcam.overlay(same, heat), expected)
    assert np.array_equal(fusedcam.overlay(negative(image), heat), expected)


def test_channels_last_where_both_fit(rng):
    image = random_image(rng, (3, 5, 3), np.uint8)
    heat = rng.uniform(size=(3, 5)).astype(np.float32)
    expected = reference.overlay(image, heat.astype(np.float64), GREY, 0.5)
    assert np.array_equal(fusedcam.overlay(image, heat, colormap=GREY), expected)


@pytest.mark.parametrize("tensor", [False, True], ids=["numpy", "torch"])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_pil_images(rng, mode, tensor):
    pixels = random_image(rng, (8, 9, 3) if mode == "RGB" else (8, 9), np.uint8)
    heat = rng.uniform(size=(2, 3)).astype(np.float32)
    got = fusedcam.overlay(Image.fromarray(pixels), torch.from_numpy(heat) if tensor else heat)
    assert isinstance(got, torch.Tensor if tensor else np.ndarray)
    assert np.array_equal(to_numpy(got), fusedcam.overlay(pixels, heat))


@pytest.mark.usefixtures("keep_threads")
@pytest.mark.parametrize(("batch", "size"), [((12,), (120, 131)), ((), (401, 333)), ((2,), (300, 310))])
def test_threads_share_the_work(rng, batch, size):
    image = random_image(rng, (*batch, *size, 3), np.uint8)
    heat = rng.normal(size=(*batch, 7, 7)).astype(np.float32)
    values = fusedcam.resize(heat, size, normalize="minmax")
    expected = reference.overlay(image, values.astype(np.float64), GREY, 0.3)
    for threads in (1, 2, 3, 5):
        torch.set_num_threads(threads)
        got = fusedcam.overlay(image, heat, colormap=GREY, alpha=0.3, normalize="minmax")
        assert np.array_equal(got, expected), f"{threads} threads"


def test_an_empty_batch():
    got = fusedcam.overlay(np.empty((0, 8, 9, 3), np.uint8), np.empty((0, 3, 4), np.float32))
    assert got.shape == (0, 8, 9, 3)
