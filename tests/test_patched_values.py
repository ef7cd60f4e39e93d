"""Every method of every peer gives the same maps patched, by native calls."""

import numpy as np
import pytest
import torch

import fusedcam
from peer_models import CLASSES, allowed, both, difference, images, network, pytorch_grad_cam

METHODS = (
    "GradCAM",
    "GradCAMPlusPlus",
    "XGradCAM",
    "HiResCAM",
    "GradCAMElementWise",
    "LayerCAM",
    "EigenCAM",
    "EigenGradCAM",
    "SegEigenCAM",
    "ScoreCAM",
    "AblationCAM",
    "RandomCAM",
    "FullGrad",
    "KPCA_CAM",
    "FEM",
    "ShapleyCAM",
    "FinerCAM",
    "RefineCAM",
    "SESS",
)
VOLUMES = ("GradCAM", "GradCAMPlusPlus", "XGradCAM", "HiResCAM", "GradCAMElementWise", "LayerCAM", "EigenCAM", "FEM")


def check(peer, call, x, expects_calls=True, **options):
    """`call` takes images."""
    plain, ours, calls = both(peer, lambda: call(x), **options)
    several = isinstance(plain, list)
    for index, (one, other) in enumerate(zip(plain, ours, strict=True) if several else [(plain, ours)]):
        gap = difference(one, other)
        if gap > 2e-6:
            assert gap <= allowed(lambda x, index=index: call(x)[index] if several else call(x), x, one)
    assert bool(calls) == expects_calls


@pytest.fixture(scope="module")
def package():
    return pytorch_grad_cam()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # ShapleyCAM's own, unpatched
@pytest.mark.parametrize("kind", ["residual", "dense"])
@pytest.mark.parametrize("layers", [("layer3",), ("layer1", "layer3"), ("layer3", "layer2")], ids=" ".join)
@pytest.mark.parametrize("method", METHODS)
def test_pytorch_grad_cam(package, method, layers, kind):
    if (method == "ShapleyCAM" and len(layers) > 1) or (method == "AblationCAM" and layers[0] > layers[-1]):
        pytest.skip("pytorch-grad-cam's own code fails with several layers, or in another order than they run in")
    model = network(kind)
    target = package.utils.model_targets.ClassifierOutputTarget
    for n, targets in ((1, None), (3, [target(k) for k in (2, 0, 5)])):

        def call(x, targets=targets):
            cam = getattr(package, method)(model, [getattr(model, name) for name in layers])
            if method == "SESS":
                cam.num_scales = 2
            return cam(x, targets)

        check("pytorch_grad_cam", call, images(n, 3, 40, 56))


@pytest.mark.parametrize("method", VOLUMES)
def test_pytorch_grad_cam_of_volumes(package, method):
    model = network("volumes")
    call = lambda x: getattr(package, method)(model, [model.layer3])(x, None)  # noqa: E731
    check(
        "pytorch_grad_cam",
        call,
        images(2, 3, 8, 16, 24),
        expects_calls=method in ("GradCAM", "GradCAMPlusPlus", "XGradCAM"),
    )


@pytest.mark.parametrize(
    "smooth", [{"aug_smooth": True}, {"eigen_smooth": True}, {"aug_smooth": True, "eigen_smooth": True}]
)
@pytest.mark.parametrize("method", ["GradCAM", "LayerCAM"])
def test_pytorch_grad_cam_smoothed(package, method, smooth):
    model = network("residual")
    check(
        "pytorch_grad_cam",
        lambda x: getattr(package, method)(model, [model.layer3])(x, None, **smooth),
        images(2, 3, 32, 48),
    )


@pytest.mark.parametrize("method", ["GradCAM", "XGradCAM", "LayerCAM", "EigenCAM"])
def test_pytorch_grad_cam_of_tokens(package, method):
    """A transformer's tokens as a strided map, by reshape_transform."""

    class Tokens(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.norm = torch.nn.Conv2d(3, 12, 8, 8), torch.nn.LayerNorm(12)
            self.head = torch.nn.Linear(12, CLASSES)

        def forward(self, x):
            x = self.norm(self.embed(x).flatten(2).transpose(1, 2))
            return self.head((x * x).mean(1))

    torch.manual_seed(1)
    model = Tokens().eval()
    transform = lambda tokens: tokens.reshape(tokens.shape[0], 4, 6, 12).permute(0, 3, 1, 2)  # noqa: E731
    check(
        "pytorch_grad_cam",
        lambda x: getattr(package, method)(model, [model.norm], reshape_transform=transform)(x, None),
        images(3, 3, 32, 48),
    )


def test_pytorch_grad_cam_without_the_models_run(package):
    """What others call by themselves: the steps, on arrays of their own."""
    model, x = network("residual"), images(2, 3, 40, 24)
    rng = np.random.default_rng()
    shapes = [(2, 33, 5, 3), (2, 8, 20, 12)]
    arrays = [[torch.from_numpy(rng.normal(size=s).astype(np.float32)) for s in shapes] for _ in range(2)]

    def call(x):
        cam = package.GradCAM(model, [model.layer3, model.layer1])
        cam.activations_and_grads.activations, cam.activations_and_grads.gradients = map(list, arrays)
        return cam.aggregate_multi_layers(cam.compute_cam_per_layer(x, None, False))

    check("pytorch_grad_cam", call, x)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("size", [None, (9, 7), (31, 40), (224, 100)])
def test_scale_cam_image(package, dtype, size):
    maps = np.random.default_rng().normal(size=(3, 14, 18)).astype(dtype)
    bound = 2e-3 if dtype == np.float16 else 2e-6  # theirs subtracts and divides in float16
    scale = [package.utils.image.scale_cam_image]
    for given in (maps, maps[:, ::2, ::-1], list(maps), maps[0][None] * 1e-9, np.zeros_like(maps)):
        with fusedcam.patched("pytorch_grad_cam"):
            ours = package.utils.image.scale_cam_image(given, size)
        assert difference(scale[0](given, size), ours) <= bound


@pytest.mark.parametrize("weight", [0.5, 0.3, 0, 1])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_show_cam_on_image_to_the_bit(package, dtype, weight):
    rng = np.random.default_rng()
    given = []
    for colormap, use_rgb in (
        (2, True),
        (4, False),
        (20, True),
        (rng.integers(256, size=(256, 1, 3), dtype=np.uint8), True),
    ):
        height, width = rng.integers(1, 90, 2)
        image = rng.random((height, width, 3)).astype(dtype)
        masks = rng.random((height, width)) * 1.01, rng.random((width, height)).T.astype(np.float32)
        given += [(image, mask, use_rgb, colormap, weight) for mask in masks]
    pictures = lambda: [package.utils.image.show_cam_on_image(*one) for one in given]  # noqa: E731
    plain, ours, calls = both("pytorch_grad_cam", pictures)  # patched once, which takes most of the time
    assert calls == len(given)
    for one, other in zip(plain, ours, strict=True):
        assert np.array_equal(one, other)


TORCHCAM = ("GradCAM", "GradCAMpp", "SmoothGradCAMpp", "XGradCAM", "LayerCAM", "ScoreCAM", "SSCAM", "ISCAM", "CAM")


@pytest.mark.parametrize("kind", ["residual", "dense", "volumes"])
@pytest.mark.parametrize("layers", [["layer3"], ["layer1", "layer3"]], ids=" ".join)
@pytest.mark.parametrize("method", TORCHCAM)
def test_torchcam(method, layers, kind):
    from torchcam import methods

    if method == "CAM" and len(layers) > 1:
        pytest.skip("torch-cam's own takes one layer")
    model = network(kind)
    head = "classifier" if kind == "dense" else "fc"
    options = {"CAM": {"fc_layer": head}, "SSCAM": {"num_samples": 2}, "ISCAM": {"num_samples": 2}}.get(method, {})
    shape = (3, 8, 16, 24) if kind == "volumes" else (3, 40, 56)

    def call(x):
        torch.manual_seed(0)
        with getattr(methods, method)(model, layers, input_shape=shape, **options) as extract:
            maps = extract([1, 4], model(x))
            return [*maps, extract.fuse_cams(maps, shape[1:])]

    check("torchcam", lambda x: [one.detach() for one in call(x)], images(2, *shape))


@pytest.mark.parametrize("method", ["RefineCAM", "FinerCAM"])
def test_torchcams_wrappers(method):
    from torchcam import methods

    model = network("residual")

    def call(x):
        with getattr(methods, method)(model, ["layer2", "layer3"]) as extract:
            return extract([1, 4], model(x))

    check("torchcam", call, images(2, 3, 40, 56))


def test_torchcams_grad_cam_pp_by_its_paper():
    """Equation 19 in float64; by default its own defect is kept, which test_torchcam shows."""
    from torchcam.methods import GradCAMpp

    model, x = network("residual").double(), images(2, 3, 40, 56).double()
    with fusedcam.patched("torchcam", fix_known_defects=True), GradCAMpp(model, "layer3") as extract:
        ours = extract([1, 4], model(x), normalized=False)[0].numpy()
        a, g = extract.hook_a[0].numpy(), extract.hook_g[0].numpy()
    alpha = np.where(g != 0, g**2 / (2 * g**2 + a.sum((2, 3), keepdims=True) * g**3 + 1e-8), 0)
    weights = (alpha * np.maximum(g, 0)).sum((2, 3), keepdims=True)
    expected = np.maximum((weights * a).sum(1), 0)
    assert abs(ours - expected).max() < 1e-12 * abs(expected).max()


@pytest.mark.parametrize("mode", ["L", "F"])
def test_overlay_mask_to_the_bit(mode):
    from PIL import Image
    from torchcam import utils

    rng = np.random.default_rng()
    for colormap in ("jet", "viridis", "tab20"):
        mask = rng.normal(0.5, 0.4, (7, 9)).astype(np.float32)
        mask = Image.fromarray(mask if mode == "F" else np.uint8(255 * mask.clip(0, 1)))
        for image in (
            rng.integers(256, size=(50, 40, 3), dtype=np.uint8),
            rng.integers(256, size=(5, 4), dtype=np.uint8),
        ):
            call = lambda: np.asarray(utils.overlay_mask(Image.fromarray(image), mask, colormap, 0.6))  # noqa: B023, E731
            plain, ours, _ = both("torchcam", call)
            assert np.array_equal(plain, ours)


def test_masks_of_bytes_drawn_right():
    from PIL import Image
    from torchcam import utils

    rng = np.random.default_rng()
    image = Image.fromarray(rng.integers(256, size=(40, 40, 3), dtype=np.uint8))
    ramp = np.tile(np.arange(0, 255, 17, dtype=np.uint8), (15, 1))
    right = utils.overlay_mask(image, Image.fromarray(ramp.astype(np.float32) / 255))
    with fusedcam.patched("torchcam", fix_known_defects=True):
        ours = utils.overlay_mask(image, Image.fromarray(ramp))
    assert np.array_equal(np.asarray(ours), np.asarray(right))


CAPTUM = {
    "maps": {},
    "positive maps": {"relu_attributions": True},
    "products": {"attr_dim_summation": False},
    "the layer's input": {"attribute_to_layer_input": True},
    "a graph": {"grad_kwargs": {"create_graph": True}},
}


@pytest.mark.parametrize("options", CAPTUM.values(), ids=CAPTUM)
@pytest.mark.parametrize("kind", ["residual", "dense", "volumes"])
@pytest.mark.parametrize("layer", ["layer1", "layer3"])
def test_captum(layer, kind, options):
    from captum.attr import LayerAttribution, LayerGradCam

    model = network(kind)
    shape = (3, 8, 16, 24) if kind == "volumes" else (3, 40, 56)
    for target in (4, torch.tensor([1, 6])):

        def call(x, target=target):
            maps = LayerGradCam(model, getattr(model, layer)).attribute(x, target, **options).detach()
            modes = ("nearest", "trilinear") if kind == "volumes" else ("nearest", "bilinear")
            return [maps, *(LayerAttribution.interpolate(maps, shape[1:], mode) for mode in modes)]

        check(
            "captum",
            call,
            images(2, *shape),
            not (kind == "volumes" and options and "relu_attributions" not in options),
        )


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("layer", ["layer1", "layer3"])
def test_captums_maps_carry_gradients(layer, relu):
    """To whatever requires grad where an input does; else whoever goes backward is told what to do."""
    from captum.attr import LayerGradCam

    model, x = network("residual"), images(2, 3, 32, 40)
    model.layer2.requires_grad_(False)
    explain = lambda: LayerGradCam(model, getattr(model, layer)).attribute(x, 4, relu_attributions=relu)  # noqa: E731
    variables = [x, *(one for one in model.parameters() if one.requires_grad)]

    def call():
        maps = explain()
        assert maps.requires_grad
        first = torch.autograd.grad((maps * maps).sum(), variables, allow_unused=True, create_graph=True)
        second = torch.autograd.grad(first[0].square().sum(), variables, allow_unused=True)
        return [maps.detach(), *(torch.zeros(()) if one is None else one.detach() for one in (*first, *second))]

    x.requires_grad_()
    plain, ours, calls = both("captum", call)
    assert calls
    for one, other in zip(plain, ours, strict=True):
        assert difference(one, other) <= 1e-5 * max(1e-3, float(one.abs().max()))
    x.requires_grad_(False)
    with fusedcam.patched("captum"):
        maps = explain()
        assert maps.requires_grad
        with pytest.raises(RuntimeError, match="computed without a graph, since the model is in evaluation mode"):
            maps.sum().backward()
        with torch.no_grad():
            assert not explain().requires_grad


@pytest.mark.parametrize("layer", [torch.nn.Dropout(0.5), torch.nn.BatchNorm2d(33)], ids=["random", "statistics"])
def test_captum_of_a_model_in_training(layer):
    """What a second run would not repeat is left to Captum: the same random numbers, and statistics that move once."""
    from captum.attr import LayerGradCam

    model, x = network("residual"), images(4, 3, 32, 40)
    model.layer3 = torch.nn.Sequential(model.layer3, layer).train()
    model.layer3[0].eval()
    state = {name: value.clone() for name, value in model.state_dict().items()}

    def call():
        model.load_state_dict(state)
        torch.manual_seed(5)
        maps = LayerGradCam(model, model.layer3).attribute(x, 4)
        (gradient,) = torch.autograd.grad(maps.sum(), model.layer1.first.weight)
        return [maps.detach(), gradient, torch.rand(3), *(one.double() for one in model.buffers())]

    plain, ours, _ = both("captum", call)
    for one, other in zip(plain[:2], ours[:2], strict=True):
        assert difference(one, other) <= 2e-6
    assert all(map(torch.equal, plain[2:], ours[2:]))


@pytest.mark.filterwarnings("ignore:Input Tensor 0", "ignore:Setting backward hooks")
def test_captums_guided_grad_cam():
    from captum.attr import GuidedGradCam

    model = network("residual")
    for module in model.modules():
        if isinstance(module, torch.nn.ReLU):
            module.inplace = False
    check("captum", lambda x: GuidedGradCam(model, model.layer3).attribute(x, 4).detach(), images(2, 3, 40, 56))
