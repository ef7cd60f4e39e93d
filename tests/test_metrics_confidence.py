"""Average drop and increase in confidence against NumPy and the peers' own."""

from contextlib import nullcontext

import numpy as np
import pytest
import torch

from fusedcam.torch.metrics import confidence_change
from metric_models import Pixels, random_model, scores_of, softmax
from peer_models import pytorch_grad_cam

THEIR_WARNING = pytest.mark.filterwarnings("ignore:__array_wrap__ must accept:DeprecationWarning")


def case(rng, N=6, K=None, shape=(3, 4, 5), classes=4):
    """A model, images and maps from 0 to 1 that lower some confidences and raise others."""
    model = random_model(rng, classes, shape, scale=0.3)
    x = rng.normal(size=(N, *shape))
    heat = rng.random(size=(N, *(() if K is None else (K,)), *shape[1:]))
    return model, torch.from_numpy(x), torch.from_numpy(heat)


def test_drop_and_increase(rng):
    model, images, maps = case(rng, N=20)
    x, heat = images.numpy(), maps.numpy()
    rows = np.arange(20)
    before, after = softmax(scores_of(model, x)), softmax(scores_of(model, x * heat[:, None]))
    classes = np.where(rows < 10, (after - before).argmax(1), (after - before).argmin(1))  # of both kinds
    change = confidence_change(model, images, maps, classes)
    before, after = before[rows, classes], after[rows, classes]
    assert abs(change.original.numpy() - before).max() < 1e-12
    assert abs(change.masked.numpy() - after).max() < 1e-12
    assert abs(change.drop.numpy() - np.maximum(0, before - after) / before).max() < 1e-12
    assert np.array_equal(change.increase.numpy(), after > before)
    assert change.increase.any()
    assert not change.increase.all()


def test_hand_made():
    """Confidences 8 -> 2, 1 -> 4, 5 -> 5, 0 -> 3 and -2 -> -1, as scores of a model that sums."""
    model = Pixels(np.ones((1, 1, 1, 2)))
    images = torch.tensor([[6.0, 2], [-3, 4], [5, 0], [-3, 3], [-1, -1]]).double().reshape(5, 1, 1, 2)
    maps = torch.tensor([[0.0, 1], [0, 1], [1, 0.5], [0, 1], [1, 0]]).double().reshape(5, 1, 2)
    change = confidence_change(model, images, maps, 0, softmax=False)
    assert change.original.tolist() == [8, 1, 5, 0, -2]
    assert change.masked.tolist() == [2, 4, 5, 3, -1]
    assert change.drop[:3].tolist() == [0.75, 0, 0]
    assert change.drop[3:].isnan().all()  # a part of nothing, or of less, is not defined
    assert change.increase.tolist() == [False, True, False, True, True]


def test_maps_of_all_and_of_nothing(rng):
    model, images, maps = case(rng)
    all_of_it = confidence_change(model, images, torch.ones_like(maps), 1)
    assert not all_of_it.drop.any()
    assert not all_of_it.increase.any()
    nothing = confidence_change(model, images, torch.zeros_like(maps), 1)
    assert abs(nothing.masked - model.bias.detach().softmax(0)[1]).max() < 1e-12


@pytest.mark.parametrize("batch_size", [1, 4, 100])
def test_classes_of_one_image(rng, batch_size):
    model, images, maps = case(rng, N=3, K=2)
    classes = [[0, 3], [1, 2], [2, 2]]
    change = confidence_change(model, images, maps, classes, batch_size=batch_size)
    for k in range(2):
        single = confidence_change(model, images, maps[:, k], [row[k] for row in classes])
        for got, expected in zip(change, single, strict=True):
            assert abs(got[:, k] - expected).max() < 1e-12
        assert abs(change.drop[:, k] - single.drop).max() < 1e-12


def test_the_first_choice(rng):
    model, images, maps = case(rng)
    classes = scores_of(model, images.numpy()).argmax(1)
    assert torch.equal(
        confidence_change(model, images, maps).masked, confidence_change(model, images, maps, classes)[1]
    )


@THEIR_WARNING
def test_pytorch_grad_cams(rng):
    """It gives the difference where the paper divides by the confidence, and the same increase."""
    package = pytorch_grad_cam()
    from pytorch_grad_cam.metrics.cam_mult_image import DropInConfidence, IncreaseInConfidence

    model, images, maps = case(rng, N=20)
    classes = rng.integers(4, size=20)
    change = confidence_change(model, images, maps, classes)
    targets = [package.utils.model_targets.ClassifierOutputSoftmaxTarget(int(k)) for k in classes]
    given = (images, maps.numpy(), targets, model)
    assert abs(change.drop * change.original - DropInConfidence()(*given)).max() < 1e-6
    assert np.array_equal(change.increase, IncreaseInConfidence()(*given))


def test_torchcams(rng):
    """It divides by the confidence plus 1e-7, and reports the means."""
    from torchcam.metrics import ClassificationMetric

    model, images, maps = case(rng, N=20)
    classes = rng.integers(4, size=20).tolist()

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

    peer = ClassificationMetric(Given(), lambda scores: scores.softmax(1))
    with torch.no_grad():
        peer.update(images, classes)
    theirs, change = peer.summary(), confidence_change(model, images, maps, classes)
    assert abs(change.drop.mean() - theirs["avg_drop"]) < 1e-5
    assert change.increase.double().mean() == theirs["conf_increase"]
