"""EfficientNet-Lite0 on photographs: Grad-CAM is CAM where it must be, and finds the object that is named."""

import numpy as np
import pytest
import skimage.data
import torch
from PIL import Image

import fusedcam
from fusedcam.torch import AblationCAM, GradCAM, ScoreCAM
from fusedcam.torch.metrics import grid_pointing_game, mosaic, pointing_game
from fusedcam.torch.pretrained import SIDE, Classifier, load

TILES = {"Egyptian cat": "chelsea", "espresso": "coffee", "tripod": "camera", "moped": "stereo_motorcycle"}


@pytest.fixture(scope="module")
def lite0() -> Classifier:
    return load("efficientnet-lite0")


def photo(name: str) -> Image.Image:
    pixels = getattr(skimage.data, name)()
    return Image.fromarray(pixels[0] if isinstance(pixels, tuple) else pixels)


@pytest.fixture(scope="module")
def tiles(lite0) -> torch.Tensor:
    return torch.cat([lite0.prepare(photo(name)) for name in TILES.values()])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_before_pooling_gradcam_is_cam(lite0, tiles, dtype):
    """Behind global average pooling and a linear layer, dy/dA is the class's row of weights over H*W."""
    model = load("efficientnet-lite0").model.to(dtype)
    classes = [lite0.find(name) for name in TILES]
    with GradCAM(model, "_swish") as explain:  # the one ReLU6, whose last call feeds the pooling
        raw = explain(tiles.to(dtype), targets=classes, size=None, relu=False, normalize=None)
    with torch.no_grad():
        activations = model.extract_features(tiles.to(dtype))
    rows = model._fc.weight.detach()[classes]
    cam = fusedcam.cam(activations, weights=rows, relu=False, normalize=None)

    # Both are compared with the float64 sum, within the error rule: d = 1e-6 * S, S the sum of magnitudes.
    wide, exact_rows = activations.double().numpy(), rows.double().numpy()[:, :, None, None]
    exact = (exact_rows * wide).sum(1)
    unit = 1e-6 if dtype is torch.float32 else 1e-6 * 2**-29
    d = unit * (abs(exact_rows) * wide).sum(1).max((1, 2), keepdims=True)
    H, W = activations.shape[2:]
    assert (abs(cam.double().numpy() - exact) <= d).all()
    assert (abs(H * W * raw.double().numpy() - exact) <= d).all()
    assert abs(exact).max() > 1  # the scores are not lost in the bound


def test_before_pooling_ablation_cam_has_a_closed_form(lite0, tiles):
    """There y - y_k is the channel's mean times its weight in the class's row; what comes before runs no more."""
    classes, model = [lite0.find(name) for name in TILES], lite0.model
    rows: list[int] = []
    with (
        AblationCAM(model, "_swish") as explain,
        model._blocks[3].register_forward_hook(lambda *io: rows.append(len(io[2]))),
    ):
        raw = explain(tiles, targets=classes, size=None, relu=False, normalize=None)
    assert explain.plan.reruns == ()
    assert rows == [4, 4, 2, 2, *[32] * (4 * 1280 // 32)], "a hook sees what it returned, in more rows"
    with torch.no_grad():
        activations = model.extract_features(tiles).double()
    parts = activations.mean((2, 3)) * model._fc.weight.detach()[classes].double()
    y = explain.output.double()[torch.arange(4), classes]
    wanted = fusedcam.cam(activations, weights=parts / y[:, None], relu=False, normalize=None)
    assert (raw.double() - wanted).abs().max() < 2e-4 * wanted.abs().max()


def test_score_cam_finds_the_tripod(lite0, tiles):
    """By the 8 channels that deviate the most: its peak lies where the tripod stands, below the middle."""
    explain = ScoreCAM(lite0.model, top_channels=8)
    heat = explain(tiles[2:3], targets=lite0.find("tripod"))[0]
    y, x = np.unravel_index(int(heat.argmax()), heat.shape)
    assert SIDE / 4 < x < 3 * SIDE / 4
    assert y > SIDE / 2


def test_mosaic_lights_the_named_quadrant(lite0, tiles):
    """Grid pointing game: in a 2x2 mosaic each class's positive mass and peak lie in its own photograph."""
    with GradCAM(lite0.model) as explain:
        heat = explain(mosaic(tiles), targets=[[lite0.find(name) for name in TILES]], normalize="max")[0]
    shares = grid_pointing_game(heat)
    assert shares.mean() > 0.7, shares
    corners = torch.tensor([[0, 0], [SIDE, 0], [0, SIDE], [SIDE, SIDE]])
    assert pointing_game(heat, torch.cat([corners, corners + SIDE], 1), tolerance=0).all()


@pytest.mark.parametrize(
    ("name", "first"),
    [
        ("chelsea", "Egyptian cat"),
        ("coffee", "espresso"),
        ("camera", "tripod"),
        ("stereo_motorcycle", "moped"),
    ],
)
def test_first_choice(lite0, name, first):
    with GradCAM(lite0.model) as explain:
        heat = explain(lite0.prepare(photo(name)))
    assert lite0.names[int(explain.output.argmax())][0] == first
    assert heat.shape == (1, SIDE, SIDE)
    assert heat.min() == 0
    assert heat.max() == 1


def test_prepare_is_the_square_middle_scaled(lite0):
    pixels = np.zeros((SIDE, 3 * SIDE, 3), np.uint8)
    pixels[:, SIDE : 2 * SIDE] = np.random.default_rng().integers(256, size=(SIDE, SIDE, 3))
    prepared = lite0.prepare(Image.fromarray(pixels))
    expected = (pixels[:, SIDE : 2 * SIDE].astype(np.float32) - 127) / 128  # no resampling at its own size
    assert np.array_equal(prepared[0].permute(1, 2, 0).numpy(), expected)
