"""mask against the float64 oracle, its own bits by resize and NumPy, and torch; half types rounded as NumPy does."""

import hypothesis
import ml_dtypes
import numpy as np
import pytest
import torch
from hypothesis import strategies as st

import fusedcam
import reference
from conftest import DTYPES, LAYOUTS, POSITIVE, SAME, dense, sliced, to_torch

MODES = ["minmax", "max", None]
HALVES = {"float16": np.float16, "bfloat16": ml_dtypes.bfloat16}


def type_of_sums(array):
    return np.float64 if array.dtype == np.float64 else np.float32


def equivalent(image, heatmap, normalize, noise=None):
    """The docstring's formula, in the types it says; image [N, C, H, W] and heatmap [N, M, h, w]."""
    masks = fusedcam.resize(heatmap, image.shape[-2:], normalize=normalize)
    if noise is not None:
        masks = masks + noise
    wide = type_of_sums(image)
    with np.errstate(invalid="ignore", over="ignore"):
        return (masks.astype(wide)[:, :, None] * image.astype(wide)[:, None]).astype(image.dtype)


def same(got, wanted):
    """The bits, but for NaN's."""
    assert got.dtype == wanted.dtype
    assert got.shape == wanted.shape
    nan = np.isnan(wanted.astype(np.float64))
    assert np.array_equal(np.isnan(got.astype(np.float64)), nan)
    kind = f"u{wanted.itemsize}"
    equal = np.ascontiguousarray(got).view(kind) == np.ascontiguousarray(wanted).view(kind)
    assert (equal | nan).all()


@hypothesis.settings(max_examples=300)
@hypothesis.given(
    seed=st.integers(0, 2**32 - 1),
    counts=st.tuples(st.integers(1, 3), st.integers(1, 4), st.integers(1, 4)),
    grid=st.tuples(st.integers(1, 15), st.integers(1, 15)),
    size=st.tuples(st.integers(1, 40), st.integers(1, 40)),
    dtypes=st.tuples(st.sampled_from(list(DTYPES)), st.sampled_from(list(DTYPES))),
    layouts=st.tuples(st.sampled_from(list(LAYOUTS)), st.sampled_from(list(LAYOUTS)), st.sampled_from(list(SAME))),
    dropped=st.tuples(st.booleans(), st.booleans()),
    tensor=st.booleans(),
    noisy=st.booleans(),
    out=st.sampled_from([None, "dense", "sliced", "transposed"]),
    normalize=st.sampled_from(MODES),
)
def test_random_calls(seed, counts, grid, size, dtypes, layouts, dropped, tensor, noisy, out, normalize):
    rng = np.random.default_rng(seed)
    N, M, C = (1 if dropped[0] else counts[0]), (1 if dropped[1] else counts[1]), counts[2]
    image = LAYOUTS[layouts[0]](rng.normal(size=(N, C, *size)).astype(DTYPES[dtypes[0]]))
    heatmap = LAYOUTS[layouts[1]](rng.normal(size=(N, M, *grid)).astype(DTYPES[dtypes[1]]))
    noise = LAYOUTS[layouts[2]](rng.normal(size=(N, M, *size)).astype(type_of_sums(heatmap))) if noisy else None
    wanted = equivalent(image, heatmap, normalize, noise)

    tensor = tensor and {*layouts} <= {*POSITIVE}
    wrap = to_torch if tensor else np.asarray
    axes = (0, slice(None))[not dropped[0]], (0, slice(None))[not dropped[1]]
    given = {"normalize": normalize}
    if noisy:
        given["noise"] = wrap(noise[axes])
    if out:
        given["out"] = wrap((SAME[out])(np.full(wanted[axes].shape, np.nan, image.dtype)))
    result = fusedcam.mask(wrap(image[axes[0]]), wrap(heatmap[axes]), **given)
    assert isinstance(result, torch.Tensor if tensor else np.ndarray)
    assert not out or result is given["out"]
    if tensor:
        assert result.dtype == getattr(torch, dtypes[0])
        result = (
            result.view(torch.int16).numpy().view(ml_dtypes.bfloat16) if dtypes[0] == "bfloat16" else result.numpy()
        )
    same(result, wanted[axes])


@pytest.mark.parametrize("normalize", MODES)
def test_against_float64(rng, dtype, normalize):
    image = rng.normal(size=(2, 3, 37, 29))
    heatmap = rng.normal(size=(2, 4, 7, 6)).astype(dtype)
    noise = rng.normal(size=(2, 4, 37, 29)).astype(type_of_sums(heatmap))
    for single in (np.float32, np.float64):
        x = image.astype(single)
        got = fusedcam.mask(x, heatmap, normalize=normalize, noise=noise)
        exact = reference.mask(x, reference.wide(heatmap), normalize, noise.astype(np.float64))
        precise = single == np.float64 and dtype == np.float64
        bound = (1e-14 if precise else 3e-6) * (1 + abs(reference.wide(heatmap)).max()) * (1 + abs(image).max())
        assert abs(got - exact).max() <= bound
        assert abs(exact).max() > 1


def test_agrees_with_torch(rng):
    """Score-CAM's batch as one writes it in torch."""
    images = torch.from_numpy(rng.normal(size=(2, 3, 60, 50)))
    maps = torch.from_numpy(rng.normal(size=(2, 5, 7, 9)))
    large = torch.nn.functional.interpolate(maps, (60, 50), mode="bilinear", align_corners=False)
    low, high = large.amin((2, 3), keepdim=True), large.amax((2, 3), keepdim=True)
    wanted = ((large - low) / (high - low))[:, :, None] * images[:, None]
    torch.testing.assert_close(fusedcam.mask(images, maps), wanted, rtol=0, atol=1e-12)
    single = fusedcam.mask(images.float(), maps.float())
    torch.testing.assert_close(single, wanted.float(), rtol=0, atol=2e-5)


@pytest.mark.parametrize("half", HALVES.values(), ids=HALVES)
def test_rounding_to_half_types(rng, half):
    """Every float16 and bfloat16, their neighbours in float32, the points halfway between, and any bits at all."""
    every = np.arange(2**16, dtype=np.uint16).view(half).astype(np.float32)
    bits = every.view(np.uint32)
    step = np.uint32(1 << (13 if half is np.float16 else 16))
    near = [
        (bits + offset).view(np.float32)
        for offset in (step // 2, step // 2 - 1, step // 2 + 1, 1, np.uint32(-1 % 2**32))
    ]
    subnormal = rng.uniform(-(2.0**-13), 2.0**-13, 2**16).astype(np.float32)
    halfway = (np.arange(2**16) % 2048 + 0.5).astype(np.float32) * 2.0**-24
    anything = rng.integers(0, 2**32, 2**18, dtype=np.uint32).view(np.float32)
    values = np.concatenate([every, *near, subnormal, halfway, -halfway, anything])[None, None]
    got = fusedcam.mask(np.ones((1, *values.shape[1:]), half), values, normalize=None)[0]
    with np.errstate(invalid="ignore", over="ignore"):
        wanted = values.astype(half)
    same(got, wanted)


def test_a_batch_buffer_whose_images_lie_channel_by_channel(rng):
    """As Score-CAM fills it: [M, N, ...] in memory."""
    images, maps = rng.normal(size=(3, 2, 20, 24)).astype(np.float32), rng.normal(size=(3, 4, 5, 6)).astype(np.float32)
    buffer = np.full((4, 3, 2, 20, 24), np.nan, np.float32)
    view = buffer.swapaxes(0, 1)
    assert fusedcam.mask(images, maps, out=view) is view
    assert np.array_equal(buffer, fusedcam.mask(images, maps).swapaxes(0, 1))


def test_out_is_written_in_full_and_nothing_beside_it(rng, dtype):
    image, maps = rng.normal(size=(3, 9, 7)).astype(dtype), rng.normal(size=(2, 4, 5)).astype(np.float32)
    expected = fusedcam.mask(image, maps)
    out = sliced(np.full(expected.shape, 7, dtype))
    poison = np.isnan(out.base.astype(np.float64))
    assert fusedcam.mask(image, maps, out=out) is out
    same(dense(out), expected)
    assert np.array_equal(np.isnan(out.base.astype(np.float64)), poison)


@pytest.mark.usefixtures("keep_threads")
@pytest.mark.parametrize(("lead", "size"), [((2, 20), (64, 61)), ((1, 1), (601, 523)), ((1, 2), (400, 390))], ids=str)
def test_threads_share_the_work_and_leave_the_bits(rng, lead, size):
    image = rng.normal(size=(lead[0], 3, *size)).astype(np.float32)
    heatmap = rng.normal(size=(*lead, 7, 9)).astype(np.float32)
    wanted = equivalent(image, heatmap, "minmax")
    for threads in (1, 2, 3, 5):
        torch.set_num_threads(threads)
        same(fusedcam.mask(image, heatmap), wanted)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity_stay_in_their_map(rng, bad):
    image, heatmap = rng.normal(size=(2, 3, 17, 13)), rng.normal(size=(2, 4, 5, 6))
    clean = fusedcam.mask(image, heatmap)
    heatmap[1, 2, 3, 3] = bad
    got = fusedcam.mask(image, heatmap)
    same(got, equivalent(image, heatmap, "minmax"))
    if np.isnan(bad):
        assert np.isnan(got[1, 2]).all()
    got[1, 2] = clean[1, 2]
    assert np.array_equal(got, clean)


def test_a_map_without_range_hides_the_image(rng):
    image = rng.normal(size=(3, 8, 9)).astype(np.float32)
    assert not fusedcam.mask(image, np.full((2, 4, 5), 3, np.float32)).any()


@pytest.mark.parametrize("shapes", [((0, 3, 8, 9), (0, 2, 4, 5)), ((3, 8, 9), (0, 4, 5)), ((2, 0, 8, 9), (2, 4, 5))])
def test_nothing_to_do(shapes):
    image, heatmap = (np.empty(shape, np.float32) for shape in shapes)
    assert fusedcam.mask(image, heatmap).size == 0


def test_eps_as_other_packages_add_it(rng):
    image, heatmap = rng.normal(size=(2, 3, 11, 12)), rng.normal(size=(2, 4, 5, 6))
    got = fusedcam.mask(image, heatmap, eps=0.5)
    masks = fusedcam.resize(heatmap, (11, 12), normalize="minmax", eps=0.5)
    assert np.array_equal(got, masks[:, :, None] * image[:, None])
    assert masks.max() < 1
