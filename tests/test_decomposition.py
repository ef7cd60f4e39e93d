"""KPCACAM and DeepFeatureFactorization: against kernel PCA in NumPy, and on activations whose concepts are known."""

import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from sklearn.exceptions import ConvergenceWarning
from torch import nn

from capture_models import Net, unchanged
from fusedcam.torch import KPCACAM, DeepFeatureFactorization, EigenCAM
from projections import kernel_principal

RAW = {"size": None, "relu": False, "normalize": None}


@pytest.fixture(autouse=True)
def _seed():
    print("seed:", torch.seed())


def identity() -> nn.Module:
    """Its input is the layer's map."""
    return nn.Sequential(nn.Identity()).eval()


# KPCA-CAM


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16], ids=str)
@pytest.mark.parametrize("shape", [(5, 6, 7), (40, 3, 4), (6, 15, 14)], ids=str)
@pytest.mark.parametrize(("kernel", "gamma"), [("sigmoid", None), ("rbf", 0.05), ("linear", None)])
def test_kernel_pca(shape, kernel, gamma, dtype):
    maps = torch.randn(2, *shape).to(dtype) + 1
    raw = KPCACAM(identity(), "0", kernel=kernel, gamma=gamma)(maps, **RAW)
    assert raw.dtype == (torch.float64 if dtype is torch.float64 else torch.float32)
    for got, image in zip(raw.double().numpy(), maps.double().numpy(), strict=True):
        wanted = kernel_principal(image, kernel, gamma)
        error = min(abs(got - wanted).max(), abs(got + wanted).max())
        assert error <= 1e-4 * abs(wanted).max()
        assert got.max() >= -got.min()


def test_with_a_linear_kernel_it_is_eigencam_centred():
    maps = torch.randn(3, 20, 5, 6)
    linear = KPCACAM(identity(), "0", kernel="linear")(maps, **RAW)
    torch.testing.assert_close(linear, EigenCAM(identity(), "0", center=True)(maps, **RAW), rtol=1e-4, atol=1e-5)


def test_kernel_pca_is_the_same_each_time():
    """ARPACK's random start is seeded, and NumPy's own random state left alone."""
    maps = torch.randn(1, 6, 16, 16)
    explain = KPCACAM(identity(), "0")
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    assert torch.equal(explain(maps), explain(maps))
    assert np.array_equal(np.random.get_state()[1], before)  # noqa: NPY002


@pytest.mark.parametrize("side", [3, 16])
def test_kernel_pca_of_images_without_pixels_to_tell_apart(side):
    maps = torch.randn(3, 6, side, side)
    explain = KPCACAM(identity(), "0")
    clean = explain(maps)
    maps[1] = 0.3
    maps[2, 0, 0, 0] = torch.inf
    heat = explain(maps)
    assert torch.equal(heat[0], clean[0])
    assert not heat[1].any()
    assert heat[2].isnan().all()
    assert explain(maps, nan="zero")[2].amax() == 1
    with pytest.raises(ValueError, match="nan='raise' and"):
        explain(maps, nan="raise")


def test_a_network():
    net, x = Net().eval(), torch.rand(2, 3, 21, 18)
    for explain in (KPCACAM(net, "body"), DeepFeatureFactorization(net, "body", n_components=2, shift=True)):
        with unchanged(net):
            heat = explain(x)
        assert heat.shape[0] == 2
        assert heat.shape[-2:] == (21, 18)
        assert (explain.plan.layer, explain.plan.recording) == ("body", "nothing")


# Deep Feature Factorization


@pytest.fixture
def planted():
    """Activations [3, 12, 5, 6] of three concepts, each with channels of its own: shares [3, 3, 5, 6], channels."""
    shares = torch.rand(3, 3, 5, 6) ** 8  # mostly near zero
    shares /= shares.amax((0, 2, 3), keepdim=True)
    channels = torch.zeros(3, 12)
    for k in range(3):
        channels[k, 4 * k : 4 * k + 4] = torch.rand(4) + 0.5
    return shares, channels


def matched(found, channels):
    """Which of the planted concepts each of those found is."""
    similar = nn.functional.cosine_similarity(found[:, None], channels[None], dim=2)
    assert (similar.amax(1) > 0.99).all(), similar
    order = similar.argmax(1).tolist()
    assert sorted(order) == [0, 1, 2]
    return order


def activations_of_planted(shares, channels, offset=0.0):
    return torch.einsum("nkhw,kc->nchw", shares, channels) + offset


@pytest.mark.parametrize("shift", [False, True])
def test_planted_concepts(planted, shift):
    shares, channels = planted
    offset = torch.randn(12, 1, 1) if shift else 0.0
    maps = activations_of_planted(shares, channels, offset)
    explain = DeepFeatureFactorization(identity(), "0", n_components=3, shift=shift)
    found = explain.factorize(maps, **RAW)
    assert found.scores is None
    own = maps.amin((0, 2, 3)) if shift else 0.0
    order = matched(found.concepts - own, channels)
    torch.testing.assert_close(found.heatmaps, shares[:, order], rtol=0, atol=0.05)
    # Each as strong as at its strongest pixel.
    torch.testing.assert_close(found.heatmaps.amax((0, 2, 3)), torch.ones(3))
    torch.testing.assert_close(found.concepts - own, channels[order], rtol=0, atol=0.1)
    again = torch.einsum("nkhw,kc->nchw", found.heatmaps, found.concepts - own) + (own[:, None, None] if shift else 0)
    assert (again - maps).norm() <= 0.02 * (maps - (own[:, None, None] if shift else 0)).norm()
    # The largest first: by what of the activations it makes up.
    amount = found.heatmaps.sum((0, 2, 3)) * (found.concepts - own).sum(1)
    assert (amount.diff() <= 1e-5 * amount[0]).all()
    assert torch.equal(explain(maps, **RAW), found.heatmaps), "the same each time"


def test_heatmaps_are_drawn_one_by_one(planted):
    maps = activations_of_planted(*planted)
    heat = DeepFeatureFactorization(identity(), "0", n_components=3)(maps, size=(10, 9))
    assert heat.shape == (3, 3, 10, 9)
    assert (heat.amin((2, 3)) == 0).all()
    assert (heat.amax((2, 3)) == 1).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_labels(planted, dtype):
    shares, channels = planted
    maps = activations_of_planted(shares, channels).to(dtype)
    classifier = nn.Linear(12, 4).to(dtype)
    with torch.no_grad():
        classifier.weight[:3] = channels
        classifier.weight[3] = classifier.bias[:] = 0
    explain = DeepFeatureFactorization(identity(), "0", n_components=3, classifier=classifier)
    found = explain.factorize(maps)
    order = matched(found.concepts.float(), channels)
    assert found.concepts.dtype == dtype
    assert not found.scores.requires_grad
    assert torch.equal(found.scores, classifier(found.concepts).detach())
    names = ["cat", "cup", "tripod", "nothing"]
    for k, labels in zip(order, found.labels(names), strict=True):
        assert [len(labels), labels[0][0]] == [2, names[k]]
    probabilities = found.scores.double().softmax(1)
    for row, labels in zip(probabilities, found.labels(top=4), strict=True):
        assert sorted(label for label, _ in labels) == [0, 1, 2, 3]
        assert all(row[label] == p for label, p in labels)
        np.testing.assert_allclose([p for _, p in labels], row.sort(descending=True).values, rtol=1e-12)
    for wrong, message in (
        ({"top": 0}, "top is 0; accepted is from 1 to the number of classes, 4"),
        ({"top": 5}, "top is 5; accepted is from 1 to the number of classes, 4"),
        ({"names": names[:3]}, "names are 3; accepted is one for each of the 4 classes"),
    ):
        with pytest.raises(ValueError, match=f"^{message}$"):
            found.labels(**wrong)
    with pytest.raises(ValueError, match=r"^labels are there where"):
        found._replace(scores=None).labels()


def test_bad_images_are_left_out(planted):
    maps = activations_of_planted(*planted)
    explain = DeepFeatureFactorization(identity(), "0", n_components=3)
    clean = explain.factorize(maps[[0, 2]], **RAW)
    maps[1, 3, 2, 2] = torch.nan
    found = explain.factorize(maps, **RAW)
    assert torch.equal(found.concepts, clean.concepts)
    assert torch.equal(found.heatmaps[[0, 2]], clean.heatmaps)
    assert found.heatmaps[1].isnan().all()
    assert explain(maps, nan="zero").isfinite().all()
    with pytest.raises(ValueError, match=r"^nan='raise' and the activations hold NaN"):
        explain(maps, nan="raise")
    assert explain.factorize(maps[1:2], **RAW).concepts.isnan().all()


def test_nothing_there():
    found = DeepFeatureFactorization(identity(), "0", n_components=2).factorize(torch.zeros(2, 4, 3, 3))
    assert not found.heatmaps.any()
    assert not found.concepts.any()


def test_refusals(planted):
    maps = activations_of_planted(*planted)
    for options, kind, message in (
        ({"n_components": 0}, ValueError, "n_components is 0; accepted is at least 1"),
        ({"n_components": 2.0}, TypeError, "n_components is 2.0; accepted is an int of at least 1"),
        ({"max_iter": True}, TypeError, "max_iter is True; accepted is an int of at least 1"),
        ({"classifier": 3}, TypeError, "classifier is of type int; accepted is a module or a callable"),
    ):
        with pytest.raises(kind, match=f"^{re.escape(message)}$"):
            DeepFeatureFactorization(identity(), "0", **options)
    for options, given, message in (
        ({}, maps - 1, r"the layer's activations go down to -1\b.*; name a layer behind a ReLU, or pass shift=True to"),
        ({}, maps[:0], "x has no images, and so nothing to factorize; accepted is at least one"),
        (
            {"n_components": 13},
            maps,
            r"n_components is 13; accepted are at most the pixels and the channels, \(90, 12\)",
        ),
        ({"classifier": torch.sum}, maps, r"classifier returned \(\); accepted is a tensor \[5, classes\]"),
        ({"classifier": torch.Tensor.tolist}, maps, r"classifier returned list; accepted is a tensor \[5, classes\]"),
    ):
        with pytest.raises(ValueError, match=f"^{message}"):
            DeepFeatureFactorization(identity(), "0", **options)(given)
    with pytest.warns(ConvergenceWarning):
        DeepFeatureFactorization(identity(), "0", max_iter=1)(maps)


@pytest.mark.parametrize("name", ["KPCACAM", "DeepFeatureFactorization"])
def test_without_scikit_learn(name):
    code = (
        "import sys; sys.modules['sklearn'] = None\n"
        "import torch, fusedcam.torch as f\n"
        f"try: f.{name}(torch.nn.Conv2d(3, 1, 1))\n"
        "except ModuleNotFoundError as error: print(error)\n"
        "f.EigenCAM(torch.nn.Conv2d(3, 1, 1))"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60).stdout
    assert said.strip() == f"fusedcam.torch.{name} needs scikit-learn: pip install 'fusedcam[sklearn]'"
