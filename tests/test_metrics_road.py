"""ROAD and its imputation against a direct solution of the equations, and pytorch-grad-cam's."""

import numpy as np
import pytest
import torch
from scipy import sparse
from scipy.sparse.linalg import spsolve

from conftest import channels_last, to_torch
from fusedcam.torch.metrics import gaussian_blur, linear_imputation, road
from metric_models import random_model, ranks, scores_of, softmax
from peer_models import pytorch_grad_cam

THEIR_WARNING = pytest.mark.filterwarnings("ignore:__array_wrap__ must accept:DeprecationWarning")

WEIGHTS = {(y, x): 1 / 6 if 0 in (y, x) else 1 / 12 for y in (-1, 0, 1) for x in (-1, 0, 1) if (y, x) != (0, 0)}


def direct(image: np.ndarray, removed: np.ndarray) -> np.ndarray:
    """[C, H, W] in float64: every removed pixel is the weighted mean of the neighbours that there are."""
    height, width = removed.shape
    number = np.full(removed.shape, -1)
    number[removed] = np.arange(removed.sum())
    matrix = sparse.lil_matrix((removed.sum(), removed.sum()))
    known = np.zeros((removed.sum(), len(image)))
    for y, x in np.argwhere(removed):
        row = number[y, x]
        there = {
            (y + dy, x + dx): weight
            for (dy, dx), weight in WEIGHTS.items()
            if 0 <= y + dy < height and 0 <= x + dx < width
        }
        matrix[row, row] = 1
        for place, weight in there.items():
            share = weight / sum(there.values())
            if removed[place]:
                matrix[row, number[place]] -= share
            else:
                known[row] += share * image[(slice(None), *place)]
    filled = image.astype(np.float64)
    filled[:, removed] = np.atleast_2d(spsolve(matrix.tocsc(), known).T).reshape(len(image), -1)
    return filled


def masks(rng, height: int, width: int) -> dict[str, np.ndarray]:
    """Holes of every kind, each of which leaves at least one pixel."""
    y, x = np.mgrid[:height, :width]
    noise = rng.random((height, width))
    found = {
        "nothing": np.zeros((height, width), bool),
        "one pixel kept": noise > noise.min(),
        "half, scattered": noise > np.median(noise),
        "disc": (y - height / 2) ** 2 + (x - width / 2.5) ** 2 < (0.3 * height * width),
        "all but a corner": y + x < height + width - 3,
        "stripes": y % 2 == 0,
        "a line kept": y != height // 2,
        "chequered": (y + x) % 2 == 0,
    }
    return {name: mask for name, mask in found.items() if not mask.all()}


@pytest.mark.parametrize("shape", [(1, 2), (2, 1), (1, 40), (37, 1), (5, 4), (16, 16), (17, 23), (40, 9)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_imputation_against_a_direct_solution(rng, shape, dtype):
    """All masks in one batch, of images with an offset and a scale of their own, to 2e-5 of the scale."""
    cases = masks(rng, *shape)
    removed = np.stack([*cases.values()])
    scale = 10.0 ** rng.integers(-3, 4, size=(len(cases), 1, 1, 1))
    x = scale * (rng.normal(size=(len(cases), 2, *shape)) + 3)
    images = torch.from_numpy(x).to(dtype)
    got = linear_imputation(images, torch.from_numpy(removed))
    assert got.dtype == dtype
    rounding = torch.finfo(dtype).eps
    for number, name in enumerate(cases):
        exact = direct(images[number].double().numpy(), removed[number])
        error = abs(got[number].double().numpy() - exact).max()
        assert error <= scale[number].item() * (2e-5 + 20 * rounding), name
        assert torch.equal(got[number][:, ~removed[number]], images[number][:, ~removed[number]]), name


@pytest.mark.parametrize("tolerance", [1e-3, 1e-6, 1e-10])
def test_imputation_is_as_exact_as_asked(rng, tolerance):
    """The estimate by which it stops is within a factor of twenty of the error, also where three pixels are left."""
    x = rng.normal(size=(3, 1, 56, 56))
    removed = np.stack([masks(rng, 56, 56)[name] for name in ("disc", "all but a corner", "half, scattered")])
    got = linear_imputation(torch.from_numpy(x), torch.from_numpy(removed), tolerance=tolerance).numpy()
    for n in range(3):
        kept = x[n, 0][~removed[n]]
        assert abs(got[n] - direct(x[n], removed[n])).max() <= 20 * tolerance * abs(kept - kept.mean()).max()


def test_imputation_on_a_hand_made_case():
    """One missing pixel in the middle, and one in a corner, whose three neighbours count 1/6, 1/6 and 1/12."""
    image = torch.arange(9.0).reshape(1, 1, 3, 3) ** 2
    middle = torch.zeros(1, 3, 3, dtype=torch.bool)
    middle[0, 1, 1] = True
    filled = linear_imputation(image, middle)[0, 0, 1, 1].item()
    assert filled == pytest.approx((1 + 9 + 25 + 49) / 6 + (0 + 4 + 36 + 64) / 12, rel=1e-6)
    corner = torch.zeros(1, 3, 3, dtype=torch.bool)
    corner[0, 0, 0] = True
    filled = linear_imputation(image, corner)[0, 0, 0, 0].item()
    assert filled == pytest.approx((1 + 9 + 16 / 2) / 2.5, rel=1e-6)


def test_imputation_of_awkward_images(rng):
    """A constant image stays one, a linear one stays linear inside, NaN stays in its channel, layouts do not matter."""
    removed = torch.from_numpy(rng.random((4, 12, 15)) < 0.6)
    removed[0, 0], removed[:, -1] = True, False
    constant = torch.full((4, 3, 12, 15), 7.25)
    assert torch.equal(linear_imputation(constant, removed), constant)
    ramp = torch.arange(15.0).repeat(1, 1, 12, 1)
    inner = torch.zeros(1, 12, 15, dtype=torch.bool)
    inner[:, 1:-1, 1:-1] = True
    assert abs(linear_imputation(ramp, inner) - ramp).max() < 1e-4
    x = rng.normal(size=(4, 3, 12, 15)).astype(np.float32)
    expected = linear_imputation(torch.from_numpy(x), removed)
    assert abs(linear_imputation(to_torch(channels_last(x)), removed) - expected).max() < 1e-5
    assert linear_imputation(torch.from_numpy(x).half(), removed).dtype == torch.float16
    unseen = torch.from_numpy(x).masked_fill(removed[:, None], torch.nan)
    assert torch.equal(linear_imputation(unseen, removed), expected)
    x[1, 2, -1, 3] = np.nan
    spoilt = linear_imputation(torch.from_numpy(x), removed)
    assert spoilt[1, 2].isnan().any()
    spoilt[1, 2], expected[1, 2] = 0, 0
    assert abs(spoilt - expected).max() < 1e-5


def test_imputation_and_blur_are_the_same_under_autocast(rng):
    images, removed = torch.from_numpy(rng.normal(size=(2, 3, 20, 30))).float(), rng.random((2, 20, 30)) < 0.7
    gaps = torch.from_numpy(removed)
    expected, blurred = linear_imputation(images, gaps), gaussian_blur(images)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(linear_imputation(images, gaps), expected)
        assert torch.equal(gaussian_blur(images), blurred)


def test_imputation_of_many_images_is_that_of_each(rng):
    """More than are solved at a time on a CPU, with holes in different places."""
    x = rng.normal(size=(9, 3, 150, 170)).astype(np.float32)
    removed = np.zeros((9, 150, 170), bool)
    for n, (y, x0) in enumerate(rng.integers(0, 140, size=(8, 2))):  # the last has none
        removed[n, y : y + 10, x0 : x0 + 20] = True
    images, gaps = torch.from_numpy(x), torch.from_numpy(removed)
    got = linear_imputation(images, gaps)
    assert torch.equal(got[8], images[8])
    for n in range(8):
        assert abs(got[n] - torch.from_numpy(direct(x[n], removed[n]))).max() < 2e-5
        assert abs(got[n] - linear_imputation(images[n : n + 1], gaps[n : n + 1])[0]).max() < 2e-5


@THEIR_WARNING
def test_imputation_of_a_photograph_as_pytorch_grad_cams(rng):
    """Its sparse solver on a 96 x 96 photograph, with its own masks (1 is kept)."""
    import skimage.data

    pytorch_grad_cam()
    from pytorch_grad_cam.metrics.road import NoisyLinearImputer

    photo = skimage.data.astronaut()[::5, ::5][:96, :96].transpose(2, 0, 1).astype(np.float32) / 128 - 1
    coarse = torch.from_numpy(rng.random((1, 1, 7, 7)).astype(np.float32))
    heat = torch.nn.functional.interpolate(coarse, size=photo.shape[1:], mode="bilinear")[0, 0]
    for fraction in (0.1, 0.5, 0.9):
        kept = heat < heat.flatten().quantile(1 - fraction)
        theirs = NoisyLinearImputer(noise=0)(torch.from_numpy(photo), kept.float())
        ours = linear_imputation(torch.from_numpy(photo)[None], ~kept[None])[0]
        assert abs(ours - theirs).max() < 1e-5
        assert abs(ours - torch.from_numpy(photo)).max() > 0.1  # something was filled in


@pytest.mark.parametrize("order", ["morf", "lerf"])
def test_curve_against_numpy(rng, order):
    """Fractions that round to whole pixels; the noise is the same for all and stays off kept pixels."""
    N, C, H, W = 3, 2, 6, 7
    model = random_model(rng, 4, (C, H, W), scale=0.2)
    x, heat, classes = rng.normal(size=(N, C, H, W)), np.round(rng.normal(size=(N, H, W))), [3, 0, 1]
    images, maps = torch.from_numpy(x), torch.from_numpy(heat)
    noise = torch.randn(C, H, W, generator=torch.Generator().manual_seed(7)).double().numpy() * 0.5
    fractions = (0, 0.1, 0.3, 0.31, 0.9)
    options = {"order": order, "fractions": fractions, "noise": 0.5, "seed": 7, "batch_size": 4}
    curve = road(model, images, maps, classes, **options)
    counts = [round(fraction * H * W) for fraction in fractions]
    assert curve.fractions.tolist() == [count / (H * W) for count in counts]
    for n in range(N):
        rank = ranks(heat[n]) if order == "morf" else H * W - 1 - ranks(heat[n])
        for at, count in enumerate(counts):
            filled = direct(x[n], rank < count) + np.where(rank < count, noise, 0)
            expected = softmax(scores_of(model, filled[None]))[0, classes[n]]
            assert abs(curve.scores[n, at] - expected) < 1e-5
    assert abs(curve.mean - curve.scores.mean(1)).max() < 1e-12


def test_orders_are_each_others_reverse(rng):
    model, heat = random_model(rng, 3, (1, 5, 5)), torch.from_numpy(rng.normal(size=(4, 5, 5)))
    images = torch.from_numpy(rng.normal(size=(4, 1, 5, 5)))
    scores = road(model, images, heat, 1, order="lerf").scores
    assert torch.equal(scores, road(model, images, -heat, 1, order="morf").scores)
    assert not torch.equal(scores, road(model, images, heat, 1, order="morf").scores)


def test_noise_is_repeatable_and_its_own(rng):
    model = random_model(rng, 3, (1, 5, 5))
    images, heat = torch.from_numpy(rng.normal(size=(2, 1, 5, 5))), torch.from_numpy(rng.normal(size=(2, 5, 5)))
    before = torch.get_rng_state()
    scores = road(model, images, heat, 1).scores
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(road(model, images, heat, 1).scores, scores)
    assert abs(road(model, images[1:], heat[1:], 1).scores - scores[1:]).max() < 1e-9  # nor the batch's
    assert not torch.equal(road(model, images, heat, 1, seed=1).scores, scores)
    assert not torch.equal(road(model, images, heat, 1, noise=0).scores, scores)


def test_classes_of_one_image(rng):
    model = random_model(rng, 4, (2, 5, 6))
    images = torch.from_numpy(rng.normal(size=(2, 2, 5, 6)))
    maps = torch.from_numpy(rng.normal(size=(2, 3, 5, 6)))
    classes = [[0, 1, 3], [2, 2, 0]]
    curve = road(model, images, maps, classes, batch_size=5)
    assert curve.scores.shape == (2, 3, 9)
    for k in range(3):
        single = road(model, images, maps[:, k], [row[k] for row in classes])
        assert abs(curve.scores[:, k] - single.scores).max() < 1e-6


@THEIR_WARNING
def test_pytorch_grad_cams_averages(rng):
    """Its average of differences is ours less the image's own score, and its combined one half of lerf less morf."""
    package = pytorch_grad_cam()
    from pytorch_grad_cam.metrics import road as theirs

    N, C, H, W = 3, 2, 10, 10  # so that its percentiles fall on whole pixels: 100 - percentile are removed
    model = random_model(rng, 4, (C, H, W), scale=0.2)
    images = torch.from_numpy(rng.normal(size=(N, C, H, W)).astype(np.float32))
    model.float()
    maps = rng.permuted(np.tile(np.linspace(0, 1, H * W, dtype=np.float32), (N, 1)), axis=1).reshape(N, H, W)
    classes = [0, 1, 3]
    targets = [package.utils.model_targets.ClassifierOutputSoftmaxTarget(k) for k in classes]
    given = (images, torch.from_numpy(maps), classes)
    morf, lerf = (road(model, *given, order=order, noise=0) for order in ("morf", "lerf"))
    original = road(model, *given, fractions=[0]).scores[:, 0]
    kinds = (theirs.RemoveMostRelevantFirst, theirs.RemoveLeastRelevantFirst)
    silent = theirs.NoisyLinearImputer(noise=0)
    metrics = [theirs.PerturbationConfidenceMetric(kind(p, silent)) for kind in kinds for p in range(10, 100, 10)]
    changes = np.array([metric(images, maps, targets, model) for metric in metrics]).reshape(2, 9, N)
    assert abs(morf.scores.flip(1).T - original - changes[0]).max() < 1e-5
    assert abs(lerf.scores.flip(1).T - original - changes[1]).max() < 1e-5
    combined = theirs.ROADCombined()(images, maps, targets, model)  # with its noise of 0.01
    assert abs((lerf.mean - morf.mean) / 2 - combined).max() < 0.02
