"""Beside pytorch-grad-cam: equal up to the sign where the formulas agree, and different where they are said to."""

from importlib import import_module

import numpy as np
import pytest
import torch

import fusedcam
from fusedcam.torch import FEM, KPCACAM, DeepFeatureFactorization, EigenCAM, EigenGradCAM, SegEigenCAM
from fusedcam.torch.eigen_smoothing import eigen_smoothed
from fusedcam.torch.pretrained import load
from peer_models import Residual, pytorch_grad_cam
from test_real_model import TILES, photo

RAW = {"size": None, "relu": False, "normalize": None}


@pytest.fixture(scope="module")
def peer():
    return pytorch_grad_cam()


@pytest.fixture
def net():
    print("seed:", torch.seed())
    return Residual().eval()


@pytest.fixture
def x():
    return torch.rand(2, 3, 40, 32)


def both_signs(got, wanted):
    for one, other in zip(np.asarray(got), np.asarray(wanted), strict=True):
        error = min(abs(one - other).max(), abs(one + other).max())
        assert error <= 1e-5 * abs(other).max()


def peers_scores(cam, net, x, targets=None):
    """The peer's raw maps, by its own capture; of float64, since two singular values may be close."""
    captured = cam.activations_and_grads
    output = captured(x)
    if cam.uses_gradients:
        net.zero_grad()
        output[:, targets].sum().backward()
        grads = captured.gradients[0].double().numpy()
    else:
        grads = None
    return cam.get_cam_image(x, None, None, captured.activations[0].double().numpy(), grads, False)


@pytest.mark.parametrize(
    ("ours", "theirs"), [(EigenCAM, "eigen_cam"), (EigenGradCAM, "eigen_grad_cam"), (SegEigenCAM, "seg_eigen_cam")]
)
def test_centred_as_theirs(peer, net, x, ours, theirs):
    cls = getattr(import_module(f"pytorch_grad_cam.{theirs}"), ours.__name__)
    targets = {} if ours is EigenCAM else {"targets": 3}
    with cls(net, [net.layer3]) as cam:
        wanted = peers_scores(cam, net, x, 3)
    got = ours(net, "layer3", center=True)(x, **targets, **RAW)
    both_signs(got, wanted)
    if ours is SegEigenCAM:  # whose sign is the paper's
        np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-5 * abs(wanted).max())


def test_kernel_as_theirs(peer, net, x):
    from pytorch_grad_cam.kpca_cam import KPCA_CAM

    with KPCA_CAM(net, [net.layer3]) as cam:
        both_signs(KPCACAM(net, "layer3")(x, **RAW), peers_scores(cam, net, x))


def test_fem_is_not_theirs(peer, net, x):
    """They weight the activations by how many are far above the mean, the authors the far ones by the mean."""
    from pytorch_grad_cam.fem import FEM as Theirs

    with Theirs(net, [net.layer2]) as cam:
        theirs = peers_scores(cam, net, x)
    ours = FEM(net, "layer2")(x, **RAW).numpy()
    assert (abs(ours / ours.max() - theirs / theirs.max()) > 0.1).any()


def test_eigen_smooth_as_theirs(peer, net, x):
    from pytorch_grad_cam.utils.svd_on_activations import get_2d_projection

    a, g = torch.rand(2, 9, 5, 6), torch.randn(2, 9, 5, 6)
    weighted = g.double().numpy().mean((2, 3))[:, :, None, None] * a.double().numpy()
    got = eigen_smoothed(a, g, relu=False, normalize=None)
    both_signs(got, get_2d_projection(weighted))
    both_signs(fusedcam.eigencam(weighted, center=True, relu=False, normalize=None), get_2d_projection(weighted))


# EfficientNet-Lite0 on photographs


@pytest.fixture(scope="module")
def lite0():
    return load("efficientnet-lite0")


@pytest.fixture(scope="module")
def tiles(lite0):
    return torch.cat([lite0.prepare(photo(name)) for name in TILES.values()])


def test_concepts_of_four_photographs(lite0, tiles):
    """One concept for each, which the classifier names and which shows in its own photograph."""
    explain = DeepFeatureFactorization(lite0.model, "_swish", n_components=4, classifier=lite0.model._fc)
    found = explain.factorize(tiles, normalize=None)
    names = [name for name, *_ in lite0.names]
    first = [labels[0][0] for labels in found.labels(names)]
    assert sorted(first) == sorted(names[lite0.find(name)] for name in TILES)
    strongest = found.heatmaps.sum((2, 3)).argmax(0).tolist()
    assert [names[lite0.find([*TILES][n])] for n in strongest] == first


@pytest.mark.parametrize("layer", ["_swish", "_conv_head"])
def test_eigencam_lights_what_gradcam_does(lite0, tiles, layer):
    """Not turned over, with either centring's sign for the last map."""
    gradcam = fusedcam.torch.GradCAM(lite0.model, "_swish")(tiles, size=7).flatten(1).numpy()
    for cls in (EigenCAM, EigenGradCAM, SegEigenCAM):
        heat = cls(lite0.model, layer)(tiles, size=7).flatten(1).numpy()
        for got, wanted in zip(heat, gradcam, strict=True):
            assert np.corrcoef(got, wanted)[0, 1] > 0.6
