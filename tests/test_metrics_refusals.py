"""What the measures refuse: the argument, what came, what is accepted, and before the model has run."""

import re

import numpy as np
import pytest
import torch

from fusedcam.torch.metrics import (
    confidence_change,
    deletion,
    energy_pointing_game,
    gaussian_blur,
    grid_pointing_game,
    insertion,
    linear_imputation,
    mosaic,
    pointing_game,
    road,
)
from metric_models import Pixels

IMAGES, MAPS = torch.ones(2, 3, 4, 5), torch.linspace(0, 1, 40).reshape(2, 4, 5)
SCORED = {"deletion": deletion, "insertion": insertion, "road": road, "confidence_change": confidence_change}


def spoilt(value: float) -> torch.Tensor:
    maps = MAPS.clone()
    maps[1, 2, 3] = value
    return maps


def refused(error, message, call):
    with pytest.raises(error, match=re.escape(message)):
        call()


@pytest.mark.parametrize("name", SCORED)
@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        (
            {"images": np.ones((2, 3, 4, 5))},
            TypeError,
            "images is of type ndarray; accepted is a floating-point tensor",
        ),
        ({"images": IMAGES.int()}, TypeError, "images is a tensor of torch.int32"),
        ({"images": IMAGES[0]}, ValueError, "images has shape (3, 4, 5); accepted is [N, C, H, W]"),
        ({"images": IMAGES[..., :0]}, ValueError, "images has shape (2, 3, 4, 0)"),
        ({"heatmaps": MAPS.numpy()}, TypeError, "heatmaps is of type ndarray; accepted is a floating-point tensor"),
        ({"heatmaps": MAPS > 0}, TypeError, "heatmaps is a tensor of torch.bool"),
        ({"heatmaps": MAPS[0]}, ValueError, "heatmaps has shape (4, 5); accepted is [N, H, W] or [N, K, H, W]"),
        (
            {"heatmaps": MAPS[:, :2, :2]},
            ValueError,
            "heatmaps has shape (2, 2, 2) for images (2, 3, 4, 5); accepted is [2, 4, 5] or [2, K, 4, 5]",
        ),
        ({"heatmaps": MAPS[:1]}, ValueError, "heatmaps has shape (1, 4, 5) for images (2, 3, 4, 5)"),
        ({"heatmaps": MAPS[:, :0, None]}, ValueError, "heatmaps has shape (2, 0, 1, 5)"),
        ({"heatmaps": MAPS.to("meta")}, ValueError, "heatmaps is on meta; accepted is the device of images, cpu"),
        ({"heatmaps": spoilt(float("nan"))}, ValueError, "heatmaps has NaN or infinite values in image 1"),
        ({"targets": [0, 1, 1]}, ValueError, "targets: 3 came for 2 images"),
        ({"targets": []}, ValueError, "targets: 0 came for 2 images"),
        ({"targets": "1"}, TypeError, "targets: a class is given as '1'"),
        ({"targets": [[0, 1], [1, 0]]}, ValueError, "heatmaps has one map for each of (2,) and targets one score for"),
        ({"heatmaps": MAPS[:, None]}, ValueError, "heatmaps has one map for each of (2, 1) and targets one score"),
        ({"heatmaps": MAPS[:, None], "targets": None}, ValueError, "targets is None; accepted are targets [N, K]"),
        ({"model": None}, TypeError, "model is of type NoneType; accepted is a callable that takes images"),
        ({"softmax": 1}, TypeError, "softmax is 1; accepted is a bool"),
        ({"batch_size": 0}, ValueError, "batch_size is 0; accepted is an int from 1"),
        ({"batch_size": 2.0}, TypeError, "batch_size is 2.0; accepted is an int from 1"),
    ],
    ids=lambda value: "+".join(value) if isinstance(value, dict) else "",
)
def test_before_the_model_runs(name, changed, error, message):
    model = Pixels(np.ones((2, 3, 4, 5)), dtype=torch.float32)
    given = {"model": model, "images": IMAGES, "heatmaps": MAPS, "targets": [0, 1], **changed}
    refused(error, message, lambda: SCORED[name](**given))
    assert not model.batches


@pytest.mark.parametrize("name", SCORED)
@pytest.mark.parametrize(
    ("model", "targets", "error", "message"),
    [
        (
            lambda x: x.flatten(1)[:, :2],
            [0, 2],
            ValueError,
            "targets: class 2 is out of range; the model has classes 0",
        ),
        (lambda x: x.flatten(1)[:, :1], 0, ValueError, "softmax is True for a model of one class"),
        (lambda x: x, 0, ValueError, "targets: classes need an output [N, classes]"),
        (lambda x: {"scores": x}, None, ValueError, "the model returned dict"),
        (lambda x: x, lambda output: output, ValueError, "targets: the score has shape"),
        (lambda x: x, lambda output: 3, TypeError, "targets: the score is a int"),
        (
            lambda x: x.flatten(1)[:, :2],
            lambda output: output,
            ValueError,
            "heatmaps has one map for each of (2,) and targets one score for each of (2, 2)",
        ),
    ],
    ids=["class", "one class", "no scores", "dict", "shape", "type", "two scores"],
)
def test_what_the_model_returns(name, model, targets, error, message):
    refused(error, message, lambda: SCORED[name](model, IMAGES, MAPS, targets))


def test_a_map_of_one_class_is_no_map_for_two():
    maps = MAPS[:, None].expand(-1, 3, -1, -1)
    for targets in ([[0, 1], [1, 0]], [0, 1]):
        refused(ValueError, "heatmaps has one map for each of (2, 3)", lambda t=targets: deletion(len, IMAGES, maps, t))


OPTIONS = [
    (deletion, {"step": 0}, ValueError, "step is 0; accepted is an int from 1"),
    (deletion, {"step": True}, TypeError, "step is True; accepted is an int from 1"),
    (insertion, {"baseline": "grey"}, ValueError, 'baseline is \'grey\'; accepted is "zeros", "mean", "blur"'),
    (insertion, {"baseline": 0.5}, TypeError, "baseline is a float; accepted is"),
    (deletion, {"baseline": lambda images: 0}, TypeError, "baseline returned a int; accepted is"),
    (deletion, {"baseline": torch.ones(3, 2, 5)}, ValueError, "baseline has shape (3, 2, 5), which does not broadcast"),
    (road, {"order": "most"}, ValueError, 'order is \'most\'; accepted is "morf" or "lerf"'),
    (road, {"fractions": []}, ValueError, "fractions is []; accepted are numbers from 0 to below 1, ascending"),
    (road, {"fractions": [0.5, 0.2]}, ValueError, "fractions is [0.5, 0.2]; accepted are numbers"),
    (road, {"fractions": [0.5, 1]}, ValueError, "fractions is [0.5, 1]; accepted are numbers"),
    (road, {"fractions": [float("nan")]}, ValueError, "fractions is [nan]; accepted are numbers"),
    (road, {"fractions": [0.1, 0.99]}, ValueError, "fractions has 0.99, which leaves none of 20 pixels"),
    (road, {"fractions": 0.5}, TypeError, "fractions is 0.5; accepted are numbers"),
    (road, {"fractions": ["half"]}, TypeError, "fractions is ['half']; accepted are numbers"),
    (road, {"noise": -1}, ValueError, "noise is -1; accepted is a number from 0"),
    (road, {"seed": 0.5}, TypeError, "seed is 0.5; accepted is an int"),
    (confidence_change, {"heatmaps": 2 * MAPS}, ValueError, "heatmaps has values from 0 to 2; accepted is 0 to 1"),
    (confidence_change, {"heatmaps": MAPS - 1}, ValueError, "heatmaps has values from -1 to 0; accepted is 0 to 1"),
]


@pytest.mark.parametrize(
    ("metric", "changed", "error", "message"), OPTIONS, ids=lambda value: getattr(value, "__name__", "")
)
def test_options(metric, changed, error, message):
    model = Pixels(np.ones((2, 3, 4, 5)), dtype=torch.float32)
    refused(
        error, message, lambda: metric(**{"model": model, "images": IMAGES, "heatmaps": MAPS, "targets": 0, **changed})
    )
    assert not model.batches


BOXES = torch.tensor([[0, 0, 5, 4], [1, 1, 2, 3]])
REGIONS = [
    (MAPS > 2, ValueError, "regions has no pixel for heatmap 0"),
    (MAPS[:1] > 0, ValueError, "regions has masks (1, 4, 5) for heatmaps (2, 4, 5)"),
    ((MAPS > 0).to("meta"), ValueError, "regions is on meta"),
    (BOXES[:1], ValueError, "regions has boxes (1, 4) for heatmaps (2, 4, 5)"),
    (BOXES + 1, ValueError, "regions has the box [1.0, 1.0, 6.0, 5.0]; accepted is (left, top, right, bottom)"),
    (BOXES - 1, ValueError, "regions has the box [-1.0, -1.0, 4.0, 3.0]"),
    (BOXES.flip(1), ValueError, "regions has the box [4.0, 5.0, 0.0, 0.0]"),
    (BOXES * float("nan"), ValueError, "regions has the box [nan, nan, nan, nan]"),
    (torch.tensor([[0, 0, 5, 4], [1.6, 1, 2.4, 3]]), ValueError, "regions has no pixel for heatmap 1"),
    ([BOXES], ValueError, "regions has boxes for 1 images and heatmaps has shape (2, 4, 5)"),
    ([BOXES, BOXES[0]], ValueError, "regions has boxes (4,) for image 1; accepted is [B, 4]"),
    ([BOXES, BOXES[:0]], ValueError, "regions has no pixel for heatmap 1"),
    ([[0, 0, 5, 4]] * 2, TypeError, "regions is of type list; accepted is boolean masks"),
    (BOXES.to(torch.complex64), TypeError, "regions has boxes of torch.complex64"),
]


@pytest.mark.parametrize("game", [pointing_game, energy_pointing_game], ids=lambda game: game.__name__)
@pytest.mark.parametrize(("regions", "error", "message"), REGIONS, ids=[message[:45] for *_, message in REGIONS])
def test_regions(game, regions, error, message):
    refused(error, message, lambda: game(MAPS, regions))


LOCALISATION = [
    (lambda: pointing_game(spoilt(float("inf")), BOXES), ValueError, "heatmaps has NaN or infinite values in image 1"),
    (lambda: energy_pointing_game(spoilt(float("nan")), BOXES), ValueError, "heatmaps has NaN or infinite values"),
    (lambda: pointing_game(MAPS, BOXES, tolerance=-1), ValueError, "tolerance is -1; accepted is a number of pixels"),
    (lambda: pointing_game(MAPS, BOXES, tolerance="15"), ValueError, "tolerance is '15'"),
    (lambda: mosaic(IMAGES), ValueError, "tiles has shape (2, 3, 4, 5); accepted is [4, C, H, W]"),
    (lambda: mosaic(IMAGES.numpy()), TypeError, "tiles is of type ndarray"),
    (lambda: mosaic([]), TypeError, "tiles is of type list"),
    (lambda: mosaic([*IMAGES] * 2), ValueError, "tiles has shapes [(3, 4, 5), (3, 4, 5), (3, 4, 5), (3, 4, 5)]"),
    (lambda: mosaic(IMAGES.split(1)), ValueError, "tiles has shape (2, 3, 4, 5)"),
    (lambda: mosaic(IMAGES, 2), TypeError, "grid is 2; accepted is (rows, columns)"),
    (lambda: mosaic(IMAGES, (2, 0)), ValueError, "grid is (2, 0); accepted is (rows, columns) from 1"),
    (lambda: grid_pointing_game(MAPS), ValueError, "heatmaps has 2 maps for the 4 cells of a mosaic"),
    (lambda: grid_pointing_game(MAPS, (1, 2)), ValueError, "heatmaps has 4 x 5 pixels; accepted are multiples of"),
    (lambda: grid_pointing_game(spoilt(float("nan")), (2, 1)), ValueError, "heatmaps has NaN"),
    (lambda: gaussian_blur(IMAGES, 4), ValueError, "kernel_size is 4; accepted is an odd int"),
    (lambda: gaussian_blur(IMAGES, sigma=0), ValueError, "sigma is 0; accepted is a number above 0"),
    (lambda: gaussian_blur(MAPS), ValueError, "images has shape (2, 4, 5)"),
    (lambda: linear_imputation(IMAGES, MAPS), TypeError, "removed is torch.float32; accepted is a boolean tensor"),
    (lambda: linear_imputation(IMAGES, None), TypeError, "removed is NoneType"),
    (lambda: linear_imputation(IMAGES, MAPS[:, :2] > 0), ValueError, "removed has shape (2, 2, 5) on cpu; accepted is"),
    (lambda: linear_imputation(IMAGES, MAPS > 0.5), ValueError, "removed has no pixel left of image 1"),
    (lambda: linear_imputation(IMAGES, MAPS > 9, tolerance=0), ValueError, "tolerance is 0; accepted is a number from"),
]


@pytest.mark.parametrize(("call", "error", "message"), LOCALISATION, ids=[message[:45] for *_, message in LOCALISATION])
def test_the_others(call, error, message):
    refused(error, message, call)
