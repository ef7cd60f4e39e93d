"""EigenCAM, EigenGradCAM, SegEigenCAM, FEM and eigen_smoothed: values on networks against the papers' formulas."""

import numpy as np
import pytest
import torch
from torch import nn

import fusedcam
import reference
from capture_models import CLASSES, Net, plain_gradients, unchanged
from cases import MOMENTS
from fusedcam.torch import FEM, EigenCAM, EigenGradCAM, SegEigenCAM
from fusedcam.torch.eigen_smoothing import eigen_smoothed
from projections import assert_principal, fem
from reference import bilinear, normalize

RAW = {"size": None, "relu": False, "normalize": None}
CENTER = pytest.mark.parametrize("center", [False, True], ids=["as-it-is", "centred"])
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)


@pytest.fixture(autouse=True)
def _seed():
    print("seed:", torch.seed())


@pytest.fixture
def net():
    return Net().eval()


@pytest.fixture
def x():
    return torch.rand(3, 3, 21, 18)


def of_all(scores):
    """Every class's score."""
    return scores


def every_class(n):
    return [list(range(CLASSES))] * n


@CENTER
@DTYPES
def test_eigencam(net, x, center, dtype):
    net, x = net.to(dtype), x.to(dtype)
    activations, _ = plain_gradients(net, net.body, x, of_all)
    with unchanged(net):
        raw = EigenCAM(net, "body", center=center)(x, **RAW)
    assert raw.dtype == (torch.float64 if dtype is torch.float64 else torch.float32)
    for got, image in zip(raw.numpy(), activations.double().numpy(), strict=True):
        assert_principal(got, image, center)
        assert got.max() >= -got.min()


@CENTER
@pytest.mark.parametrize("cls", [EigenGradCAM, SegEigenCAM])
def test_with_gradients(net, x, cls, center):
    activations, gradients = plain_gradients(net, net.body, x, of_all)
    explain = cls(net, "body", center=center)
    with unchanged(net):
        raw = explain(x, targets=every_class(3), **RAW)
    assert raw.shape == (3, CLASSES, *activations.shape[2:])
    weight = torch.abs if cls is SegEigenCAM else torch.asarray
    products = activations[:, None].double() * weight(gradients.double())
    for n, k in np.ndindex(3, CLASSES):
        assert_principal(raw[n, k].numpy(), products[n, k].numpy(), center)
        assert raw[n, k].max() >= -raw[n, k].min()
    one = explain(x, targets=[2, 0, 1], **RAW)
    torch.testing.assert_close(one, torch.stack([raw[0, 2], raw[1, 0], raw[2, 1]]), rtol=1e-4, atol=1e-7)
    assert explain.plan.recording == "from the layer"


def test_of_a_segmentation(x):
    """A score of many pixels, whose gradient is no constant over the map."""
    net = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 4, 3)).eval()
    score = lambda output: output[:, 2, :5].sum((1, 2))  # noqa: E731
    activations, gradients = plain_gradients(net, net[1], x, score)
    raw = SegEigenCAM(net, "1")(x, targets=score, **RAW)
    for got, image in zip(raw.numpy(), (activations * gradients[:, 0].abs()).double().numpy(), strict=True):
        assert_principal(got, image)


@pytest.mark.parametrize("cls", [EigenCAM, EigenGradCAM, SegEigenCAM, FEM])
def test_from_scores_on_as_every_explainer(net, x, cls):
    explain = cls(net.double(), "body")
    x = x.double()
    raw = explain(x, **RAW).numpy()
    for options in ({}, {"size": 9, "normalize": "max"}, {"size": (8, 30), "relu": False}):
        scores = raw if not options.get("relu", True) else np.maximum(raw, 0)
        size = options.get("size", (21, 18))
        wanted = normalize(bilinear(scores, (9, 9) if size == 9 else size), options.get("normalize", "minmax"))
        np.testing.assert_allclose(explain(x, **options), wanted, rtol=0, atol=1e-9)


@pytest.mark.parametrize("cls", [EigenCAM, FEM])
def test_bad_images_keep_to_themselves(net, x, cls):
    explain = cls(net, "body")
    clean = explain(x)
    x[1, 0, 5, 5] = torch.nan
    heat = explain(x)
    assert torch.equal(heat[[0, 2]], clean[[0, 2]])
    assert heat[1].isnan().all()
    assert explain(x, nan="zero").isfinite().all()
    assert torch.equal(explain(x, nan="zero")[[0, 2]], clean[[0, 2]])
    with pytest.raises(ValueError, match="nan='raise' and"):
        explain(x, nan="raise")


@pytest.mark.parametrize("cls", [EigenCAM, EigenGradCAM, SegEigenCAM])
def test_center_is_a_bool(net, cls):
    with pytest.raises(TypeError, match=r"^center is 1; accepted is True or False$"):
        cls(net, center=1)


@pytest.mark.parametrize("k", [2, 0.5, 0, -1.0])
@DTYPES
def test_fem(x, k, dtype):
    # A bias per channel, so that their means differ, and one of each sign.
    conv = nn.Conv2d(3, 8, 3)
    nn.init.uniform_(conv.bias, -1, 1)
    conv, x = conv.to(dtype), x.to(dtype)
    activations = conv(x).detach()
    raw = FEM(nn.Sequential(conv).eval(), "0", k=k)(x, **RAW)
    assert raw.dtype == (torch.float64 if dtype is torch.float64 else torch.float32)
    wanted = np.stack([fem(image, k) for image in activations.double().numpy()])
    np.testing.assert_allclose(raw, wanted, rtol=1e-5, atol=1e-6)
    assert wanted.any()


def test_fem_by_hand():
    """One of six pixels stands out in the first channel, none in the second, and the third is constant."""
    maps = torch.zeros(1, 3, 2, 3)
    maps[0, 0, 1, 2] = 6
    maps[0, 1] = torch.tensor([[1, 2, 3], [3, 2, 1]])
    maps[0, 2] = 0.1
    model = nn.Sequential(nn.Identity()).eval()
    assert FEM(model, "0")(maps, **RAW).tolist() == [[[0, 0, 0], [0, 0, 1]]]
    assert FEM(model, "0", k=0)(maps, **RAW).tolist() == [[[0, 0, 2], [2, 0, 1]]]


@pytest.mark.parametrize(
    ("k", "kind"), [("2", TypeError), (True, TypeError), (float("nan"), ValueError), (float("inf"), ValueError)]
)
def test_fem_refuses(net, k, kind):
    with pytest.raises(kind, match=r"^k is .*; accepted is a .*number of standard deviations$"):
        FEM(net, k=k)


# eigen_smooth

# By the papers: what is added up over the channels, from activations and gradients [C, H, W] in float64.
PRODUCTS = [method for method in fusedcam.METHODS if method not in MOMENTS]


def products_of(method, activations, gradients):
    """What the method adds up over the channels, [C, H, W]: by the oracle, each channel an image."""
    return reference.METHODS[method](activations[:, None], gradients[:, None, None])[0][:, 0]


@CENTER
@DTYPES
@pytest.mark.parametrize("method", PRODUCTS)
def test_eigen_smoothed(rng, method, center, dtype):
    activations = torch.from_numpy(np.maximum(rng.normal(0.3, 1, (2, 6, 5, 4)), 0)).to(dtype)
    gradients = torch.from_numpy(rng.normal(0.2, 1, (2, 3, 6, 5, 4))).to(dtype)
    options = {"method": method, "center": center, "relu": False, "normalize": None}
    raw = eigen_smoothed(activations, gradients, **options)
    assert raw.dtype == (torch.float64 if dtype is torch.float64 else torch.float32)
    assert raw.shape == (2, 3, 5, 4)
    for n, k in np.ndindex(2, 3):
        products = products_of(method, activations[n].double().numpy(), gradients[n, k].double().numpy())
        got = raw[n, k].double().numpy()
        assert_principal(got, products, center)
        assert (got * products.sum(0)).sum() >= 0, "it smoothes the method's map, and does not turn it over"
    one = eigen_smoothed(activations, gradients[:, 1], **options)
    torch.testing.assert_close(one, raw[:, 1], rtol=1e-5, atol=1e-7)
    whole = eigen_smoothed(activations, gradients, method=method, center=center, size=(7, 9))
    wanted = normalize(bilinear(np.maximum(raw.double().numpy(), 0), (7, 9)), "minmax")
    np.testing.assert_allclose(whole, wanted, rtol=0, atol=1e-5)


def test_eigen_smoothed_where_a_channel_is_dead():
    """XGrad-CAM's denominator is 0 there, and no weight of Grad-CAM++'s depends on activations."""
    a, g = torch.rand(1, 4, 3, 5), torch.randn(1, 4, 3, 5)
    a[:, 2] = 0
    for method in PRODUCTS:
        got = eigen_smoothed(a, g, method=method, normalize=None)
        without = eigen_smoothed(a[:, [0, 1, 3]], g[:, [0, 1, 3]], method=method, normalize=None)
        torch.testing.assert_close(got, without, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("method", PRODUCTS)
def test_eigen_smoothed_of_what_is_not_finite(method):
    a, g = torch.rand(2, 4, 3, 5), torch.randn(2, 4, 3, 5)
    clean = eigen_smoothed(a, g, method=method)
    g[1, 2, 0, 0] = torch.nan
    heat = eigen_smoothed(a, g, method=method)
    assert torch.equal(heat[0], clean[0])
    assert heat[1].isnan().all()
    assert eigen_smoothed(a, g, method=method, nan="zero").isfinite().all()
    with pytest.raises(ValueError, match="nan='raise' and"):
        eigen_smoothed(a, g, method=method, nan="raise")


def test_eigen_smoothed_refuses():
    a = torch.rand(2, 4, 3, 5)
    with pytest.raises(ValueError, match=r"^cam: method is 'cam'; accepted: 'gradcam', "):
        eigen_smoothed(a, a, method="cam")
    for gradients in (a[:1], a[:, None, :2], a[None], a[..., 0]):
        with pytest.raises(ValueError, match=r"^gradients have shape .* and activations \(2, 4, 3, 5\); accepted are"):
            eigen_smoothed(a, gradients)
