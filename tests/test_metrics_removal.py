"""Deletion and insertion against closed forms, a loop in NumPy and torch-cam's."""

from contextlib import nullcontext

import numpy as np
import pytest
import torch

from conftest import channels_last, to_torch
from fusedcam.torch.metrics import deletion, gaussian_blur, insertion
from metric_models import Pixels, random_model, ranks, scores_of, softmax

METRICS = {"deletion": deletion, "insertion": insertion}


def tensors(*arrays):
    return [torch.from_numpy(array) for array in arrays]


def loop(model, x, heatmap, k, start, end, step, confidence):
    """Fractions and scores of one image, pixel after pixel: start [C, H, W] becomes end."""
    rank, image = ranks(heatmap), start.copy()
    pixels = rank.size
    fractions, scores = [0.0], [confidence(scores_of(model, image[None]))[0, k]]
    for count in range(pixels):
        image[:, rank == count] = end[:, rank == count]
        if (count + 1) % step == 0 or count + 1 == pixels:
            fractions.append((count + 1) / pixels)
            scores.append(confidence(scores_of(model, image[None]))[0, k])
    return np.array(fractions), np.array(scores)


@pytest.mark.parametrize("step", [1, 3, 4, 12, 50])
def test_areas_of_a_linear_model_are_known(rng, step):
    """A pixel's part of the score goes in the middle of its step: area = bias + sum of parts * that middle."""
    N, C, H, W = 3, 2, 3, 4
    model = random_model(rng, 5, (C, H, W))
    x, heat, classes = rng.normal(size=(N, C, H, W)), rng.normal(size=(N, H, W)), [4, 0, 4]
    images, maps = tensors(x, heat)
    options = {"targets": classes, "step": step, "softmax": False, "baseline": "zeros"}
    gone = deletion(model, images, maps, **options).area.numpy()
    back = insertion(model, images, maps, **options).area.numpy()
    weights, bias = model.weights.detach().numpy()[classes], model.bias.detach().numpy()[classes]
    parts = (weights * x).sum(1)
    first = np.stack([ranks(one) for one in heat]) // step * step
    middle = (first + np.minimum(first + step, H * W)) / 2 / (H * W)
    assert abs(gone - (bias + (parts * middle).sum((1, 2)))).max() < 1e-12
    assert abs(back - (bias + (parts * (1 - middle)).sum((1, 2)))).max() < 1e-12


@pytest.mark.parametrize("name", METRICS)
@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (5, 1), (4, 6)], ids=str)
@pytest.mark.parametrize("baseline", ["zeros", "mean", "blur", "tensor", "callable"])
def test_curves_against_a_loop(rng, name, shape, baseline):
    N, C, step = 2, 3, int(rng.integers(1, 5))
    model = random_model(rng, 4, (C, *shape))
    x, heat = rng.normal(size=(N, C, *shape)), rng.normal(size=(N, *shape))
    images, maps = tensors(x, heat)
    ground = {
        "zeros": ("zeros", np.zeros_like(x)),
        "mean": ("mean", np.broadcast_to(x.mean((2, 3), keepdims=True), x.shape)),
        "blur": ("blur", blurred(x, 11, 5)),
        "tensor": (torch.full((C, 1, 1), 2.5), np.full_like(x, 2.5)),
        "callable": (lambda images: -images, -x),
    }[baseline]
    curve = METRICS[name](model, images, maps, [1, 3], step=step, baseline=ground[0])
    for n, k in enumerate([1, 3]):
        ends = (x[n], ground[1][n]) if name == "deletion" else (ground[1][n], x[n])
        fractions, scores = loop(model, x, heat[n], k, *ends, step, softmax)
        assert abs(curve.fractions.numpy() - fractions).max() < 1e-12
        assert abs(curve.scores[n].numpy() - scores).max() < 1e-12
        area = ((scores[1:] + scores[:-1]) / 2 * np.diff(fractions)).sum()
        assert abs(curve.area[n].item() - area) < 1e-12
        assert abs(curve.mean[n].item() - scores.mean()) < 1e-12


def test_a_hand_made_case():
    """Four pixels worth 8, 4, 2 and 1, which the map has in the order 4, 8, 1, 2."""
    model = Pixels(np.ones((1, 1, 2, 2)))
    images, maps = torch.tensor([[[[8.0, 4], [2, 1]]]]).double(), torch.tensor([[[3.0, 4], [1, 2]]])
    curve = deletion(model, images, maps, 0, step=1, softmax=False)
    assert curve.fractions.tolist() == [0, 0.25, 0.5, 0.75, 1]
    assert curve.scores.tolist() == [[15, 11, 3, 2, 0]]
    assert curve.area.tolist() == [(7.5 + 11 + 3 + 2) / 4]
    curve = insertion(model, images, maps, 0, step=3, softmax=False, baseline="zeros")
    assert curve.fractions.tolist() == [0, 0.75, 1]
    assert curve.scores.tolist() == [[0, 13, 15]]
    assert curve.area.tolist() == [6.5 * 0.75 + 14 * 0.25]


def test_a_perfect_map_beats_every_other(rng):
    C, H, W = 3, 5, 7
    model = random_model(rng, 3, (C, H, W), scale=0.1)
    x = rng.normal(size=(1, C, H, W))
    parts = (model.weights.detach().numpy()[1] * x).sum(1)
    others = rng.permuted(np.repeat(parts.reshape(1, -1), 20, 0), axis=1).reshape(-1, H, W)
    images, maps = tensors(np.repeat(x, 22, 0), np.concatenate([parts, others, -parts]))
    options = {"targets": 1, "step": 1, "softmax": False, "baseline": "zeros"}
    gone = deletion(model, images, maps, **options).area
    back = insertion(model, images, maps, **options).area
    assert gone.argmin() == 0
    assert gone.argmax() == 21
    assert back.argmax() == 0
    assert back.argmin() == 21


def test_equal_values_go_from_the_top_left(rng):
    model, images = random_model(rng, 2, (1, 4, 5)), torch.from_numpy(rng.normal(size=(1, 1, 4, 5)))
    in_order = -torch.arange(20.0).reshape(1, 4, 5)
    for flat in (torch.zeros(1, 4, 5), torch.full((1, 4, 5), -3.0), torch.tensor([0.0, -0.0] * 10).reshape(1, 4, 5)):
        for metric in METRICS.values():
            expected = metric(model, images, in_order, 1, step=1).scores
            assert torch.equal(metric(model, images, flat, 1, step=1).scores, expected)


@pytest.mark.parametrize("name", METRICS)
@pytest.mark.parametrize("batch_size", [1, 2, 5, 1000])
def test_batches(rng, name, batch_size):
    model = random_model(rng, 4, (2, 3, 3))
    images, maps = tensors(rng.normal(size=(3, 2, 3, 3)), rng.normal(size=(3, 3, 3)))
    expected = METRICS[name](model, images, maps, [0, 2, 3]).scores
    model.batches.clear()
    got = METRICS[name](model, images, maps, [0, 2, 3], batch_size=batch_size).scores
    assert abs(got - expected).max() < 1e-12
    assert max(model.batches) <= batch_size
    assert sum(model.batches) == 3 * 4  # the images as they are, and three steps of a row


def test_the_default_step_is_a_row(rng):
    model = random_model(rng, 2, (1, 4, 6))
    images, maps = tensors(rng.normal(size=(1, 1, 4, 6)), rng.normal(size=(1, 4, 6)))
    assert deletion(model, images, maps).fractions.tolist() == [0, 0.25, 0.5, 0.75, 1]


# Whose score


@pytest.mark.parametrize("name", METRICS)
def test_targets(rng, name):
    """However they are given: a class for all, one each, several, callables of the whole output or of a row."""
    N, K, classes = 3, 2, [[3, 0], [1, 4], [2, 2]]
    model = random_model(rng, 5, (2, 3, 4))
    images, maps = tensors(rng.normal(size=(N, 2, 3, 4)), rng.normal(size=(N, K, 3, 4)))
    metric = METRICS[name]
    single = [[metric(model, images, maps[:, k], [row[k] for row in classes]).scores] for k in range(K)]
    expected = torch.stack([one for (one,) in single], 1)
    for targets in (
        classes,
        torch.tensor(classes),
        [lambda row, c=c: row.softmax(0)[c] for c in classes],
    ):
        curve = metric(model, images, maps, targets, batch_size=4)
        assert curve.scores.shape == (N, K, 4)
        assert abs(curve.scores - expected).max() < 1e-12
        assert curve.area.shape == (N, K)
    for targets in (3, np.int64(3), [3, 3, 3], lambda output: output.softmax(1)[:, 3]):
        scores = metric(model, images, maps[:, 0], targets).scores
        assert abs(scores[0] - expected[0, 0]).max() < 1e-12
    both = metric(model, images, maps, lambda output: output[:, [3, 0]].exp()).scores
    assert abs(both[0].log() - metric(model, images[:1], maps[:1], [[3, 0]], softmax=False).scores[0]).max() < 1e-9


@pytest.mark.parametrize("name", METRICS)
def test_the_first_choice_is_the_whole_images(rng, name):
    """Without targets the class in question stays, also where another comes first in between."""
    model = random_model(rng, 6, (1, 6, 6))
    images, maps = tensors(rng.normal(size=(8, 1, 6, 6)), rng.normal(size=(8, 6, 6)))
    classes = scores_of(model, images.numpy()).argmax(1)
    got = METRICS[name](model, images, maps, baseline="zeros", batch_size=3).scores
    assert torch.equal(got, METRICS[name](model, images, maps, classes, baseline="zeros", batch_size=3).scores)
    assert (got.amin(1) < 0.5).any()  # others did come first


# Types, state, peers


def test_memory_layouts_and_types(rng):
    x, heat = rng.normal(size=(2, 3, 5, 6)).astype(np.float32), rng.normal(size=(2, 5, 6)).astype(np.float32)
    model = Pixels(0.1 * rng.normal(size=(4, 3, 5, 6)), dtype=torch.float32)
    expected = deletion(model, *tensors(x, heat), 1)
    assert expected.scores.dtype == expected.fractions.dtype == torch.float32
    laid_out = deletion(model, to_torch(channels_last(x)), to_torch(np.asfortranarray(heat)), 1)
    assert torch.equal(laid_out.scores, expected.scores)
    for dtype in (torch.float16, torch.bfloat16):
        half = Pixels(model.weights.detach().numpy(), dtype=dtype)
        curve = deletion(half, torch.from_numpy(x).to(dtype), torch.from_numpy(heat), 1)
        assert curve.scores.dtype == torch.float32  # a softmax in halves would lose the small changes
        assert abs(curve.scores - expected.scores).max() < 0.05


def test_state_is_left_as_it_was(rng):
    """No graph, no gradient, no random numbers, no mode."""
    model = random_model(rng, 3, (1, 4, 4))
    images, maps = tensors(rng.normal(size=(2, 1, 4, 4)), rng.normal(size=(2, 4, 4)))
    images.requires_grad_(), maps.requires_grad_()
    before, values = torch.get_rng_state(), images.detach().clone()
    curve = insertion(model, images, maps, 1)
    assert not curve.scores.requires_grad
    assert torch.is_grad_enabled()
    assert images.grad is None
    assert model.weights.grad is None
    assert torch.equal(images.detach(), values)
    assert torch.equal(torch.get_rng_state(), before)
    model.train()
    with pytest.warns(UserWarning, match="the model is in training mode") as caught:
        deletion(model, images, maps, 1)
    assert caught[0].filename == __file__
    assert model.training


def test_probabilities_are_not_softened_again(rng):
    model = random_model(rng, 3, (1, 2, 2))
    images, maps = tensors(rng.normal(size=(2, 1, 2, 2)), rng.normal(size=(2, 2, 2)))
    sure = lambda x: model(x).softmax(1)  # noqa: E731
    with pytest.warns(UserWarning, match="pass softmax=False") as caught:
        deletion(sure, images, maps, 1)
    assert len(caught) == 1
    assert caught[0].filename == __file__
    assert torch.equal(deletion(sure, images, maps, 1, softmax=False).scores, deletion(model, images, maps, 1).scores)


def test_every_class(rng):
    """As an explainer's maps of targets="all" are."""
    model = random_model(rng, 3, (1, 4, 5))
    images, maps = tensors(rng.normal(size=(2, 1, 4, 5)), rng.normal(size=(2, 3, 4, 5)))
    for measure in (deletion, insertion):
        got = measure(model, images, maps, "all").scores
        assert torch.equal(got, measure(model, images, maps, [[0, 1, 2], [0, 1, 2]]).scores)
    with pytest.raises(ValueError, match=r"heatmaps has one map for each of \(2, 2\) and targets one .* \(2, 3\)"):
        deletion(model, images, maps[:, :2], "all")
    with pytest.raises(ValueError, match='heatmaps has one map per image and targets is "all"'):
        deletion(model, images, maps[:, 0], "all")


def test_no_images():
    model = Pixels(np.ones((2, 1, 3, 3)))
    curve = deletion(model, torch.ones(0, 1, 3, 3), torch.ones(0, 3, 3))
    assert curve.scores.shape == (0, 4)
    assert curve.area.shape == (0,)
    assert insertion(model, torch.ones(0, 1, 3, 3), torch.ones(0, 2, 3, 3), []).area.shape == (0, 2)
    assert not model.batches


@pytest.mark.parametrize("steps", [3, 5, 20])
def test_torchcams_metric(rng, steps):
    """The same area; its steps are given by their number, and it inserts into zeros unless told otherwise."""
    from torchcam.metrics import DeletionInsertionMetric

    model, H, W = random_model(rng, 4, (3, 6, 7)), 6, 7
    images, maps = tensors(rng.normal(size=(5, 3, H, W)), np.round(2 * rng.normal(size=(5, H, W))))  # with equal values

    class Given:
        """An extractor whose maps are there already."""

        def __init__(self):
            self.model = model

        def __call__(self, class_idx, scores):
            return [maps]

        def fuse_cams(self, cams):
            return cams[0]

        def _hooks_off(self):
            return nullcontext()

    peer = DeletionInsertionMetric(Given(), lambda scores: scores.softmax(1), steps=steps)
    with torch.no_grad():
        peer.update(images, [0, 1, 2, 3, 0])
    theirs = peer.summary()
    options = {"targets": [0, 1, 2, 3, 0], "step": -(-H * W // steps), "baseline": "zeros"}
    assert abs(deletion(model, images, maps, **options).area.mean() - theirs["deletion_auc"]) < 1e-6
    assert abs(insertion(model, images, maps, **options).area.mean() - theirs["insertion_auc"]) < 1e-6


def blurred(x: np.ndarray, size: int, sigma: float) -> np.ndarray:
    """By the definition: the mean under exp(-(dy^2 + dx^2) / (2 sigma^2)), the border's pixels repeated."""
    half = size // 2
    padded = np.pad(x, ((0, 0), (0, 0), (half, half), (half, half)), "edge")
    total, weights = np.zeros_like(x), 0.0
    for dy in range(size):
        for dx in range(size):
            weight = np.exp(-((dy - half) ** 2 + (dx - half) ** 2) / (2 * sigma**2))
            total += weight * padded[:, :, dy : dy + x.shape[2], dx : dx + x.shape[3]]
            weights += weight
    return total / weights


@pytest.mark.parametrize("shape", [(2, 3, 9, 14), (1, 1, 1, 1), (3, 2, 4, 30)], ids=str)
@pytest.mark.parametrize(("size", "sigma"), [(11, 5), (1, 5), (5, 0.7), (3, 100)])
def test_gaussian_blur(rng, shape, size, sigma):
    x = rng.normal(size=shape)
    assert abs(gaussian_blur(torch.from_numpy(x), size, sigma).numpy() - blurred(x, size, sigma)).max() < 1e-12
    half = gaussian_blur(torch.from_numpy(x).half(), size, sigma)
    assert half.dtype == torch.float16
    assert abs(half.float().numpy() - blurred(x, size, sigma)).max() < 5e-3
