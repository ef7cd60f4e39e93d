"""The grid pointing game of every method on EfficientNet-Lite0, at four layers: the known shares come out."""

import pytest
import skimage.data
import torch
from PIL import Image

import fusedcam
import fusedcam.torch
from fusedcam.torch.metrics import grid_pointing_game, mosaic
from fusedcam.torch.pretrained import SIDE, Classifier, load

TILES = {"Egyptian cat": "chelsea", "espresso": "coffee", "tripod": "camera", "moped": "stereo_motorcycle"}

# The mean over the four classes of the share in the class's own tile; chance is 0.25. Behind the last map Grad-CAM,
# XGrad-CAM and HiResCAM are one. Grad-CAM++ and LayerCAM drop negative gradients, which tell classes apart there.
# XGrad-CAM divides by a sum that comes near zero on the two signed maps.
SHARES = {
    "_swish": {"gradcam": 0.818, "gradcam++": 0.429, "xgradcam": 0.818, "layercam": 0.430, "hirescam": 0.818},
    "_conv_head": {"gradcam": 0.891, "gradcam++": 0.732, "xgradcam": 0.372, "layercam": 0.399, "hirescam": 0.811},
    "_blocks.15": {"gradcam": 0.891, "gradcam++": 0.727, "xgradcam": 0.415, "layercam": 0.785, "hirescam": 0.811},
    "_blocks.10": {"gradcam": 0.284, "gradcam++": 0.259, "xgradcam": 0.324, "layercam": 0.434, "hirescam": 0.471},
}
CASES = [(layer, method, share) for layer, row in SHARES.items() for method, share in row.items()]
# Methods without a figure of old: they are looked at all the same, for the side of chance that they are on.
OTHERS = {"gradcam+": (0.4, 0.9), "gradcam_elementwise": (0.25, 0.9)}


@pytest.fixture(scope="module")
def lite0() -> Classifier:
    return load("efficientnet-lite0")


@pytest.fixture(scope="module")
def image(lite0) -> torch.Tensor:
    """[1, 3, 448, 448]"""
    found = [getattr(skimage.data, name)() for name in TILES.values()]
    photos = [Image.fromarray(pixels[0] if isinstance(pixels, tuple) else pixels) for pixels in found]
    whole = mosaic(torch.cat([lite0.prepare(photo) for photo in photos]))
    assert whole.shape == (1, 3, 2 * SIDE, 2 * SIDE)
    return whole


def test_every_method_has_a_figure():
    """Smooth Grad-CAM++ draws random numbers."""
    for row in SHARES.values():
        assert {*row, *OTHERS, "smoothgradcam++"} == {*fusedcam.METHODS}


@pytest.mark.parametrize("method", OTHERS)
def test_other_methods_before_pooling(lite0, image, method):
    classes = [lite0.find(name) for name in TILES]
    explainer = getattr(fusedcam.torch, fusedcam.METHODS[method].class_name)
    shares = grid_pointing_game(explainer(lite0.model)(image, targets=[classes], normalize=None))[0]
    low, high = OTHERS[method]
    assert low < shares.mean().item() < high, shares


@pytest.mark.parametrize(("layer", "method", "share"), CASES)
def test_shares(lite0, image, layer, method, share):
    classes = [lite0.find(name) for name in TILES]
    explainer = getattr(fusedcam.torch, fusedcam.METHODS[method].class_name)
    heat = explainer(lite0.model, layer)(image, targets=[classes], normalize=None)
    shares = grid_pointing_game(heat)[0]
    assert shares.mean().item() == pytest.approx(share, abs=0.001), shares


def test_shares_of_each_class(lite0, image):
    """Before pooling."""
    classes = [lite0.find(name) for name in TILES]
    heat = fusedcam.torch.GradCAM(lite0.model)(image, targets=[classes], normalize="max")
    assert grid_pointing_game(heat)[0].tolist() == pytest.approx([0.916, 0.874, 0.745, 0.738], abs=0.001)
