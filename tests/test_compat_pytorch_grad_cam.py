"""pytorch-grad-cam's classes of our own: the same maps as the package's, and what ours do better."""

import inspect
import subprocess
import sys

import numpy as np
import pytest
import torch

import fusedcam
from fusedcam.compat import pytorch_grad_cam as ours
from peer_models import CLASSES, allowed, difference, images, network, pytorch_grad_cam, quiet

METHODS = [name for name in ours.__all__ if name.endswith(("CAM", "PlusPlus", "FEM", "FullGrad", "ElementWise"))]
METHODS.remove("BaseCAM")


@pytest.fixture(scope="module")
def package():
    return pytorch_grad_cam()


def layers_of(model, names):
    return [getattr(model, name) for name in names]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # the package's ShapleyCAM's
@pytest.mark.parametrize("kind", ["residual", "dense"])
@pytest.mark.parametrize("layers", [("layer3",), ("layer1", "layer3")], ids=" ".join)
@pytest.mark.parametrize("method", METHODS)
def test_the_packages_maps(package, method, layers, kind):
    if method == "ShapleyCAM" and len(layers) > 1:
        pytest.skip("the package's own code fails with several layers")
    model = network(kind)
    classes = [2, 0, 5]
    for targets in (None, classes):
        n = 3 if targets else 1
        x = images(n, 3, 40, 56)
        pick = package.utils.model_targets.ClassifierOutputTarget

        def theirs(x, targets=targets, pick=pick):
            with quiet():
                return getattr(package, method)(model, layers_of(model, layers))(x, targets and [*map(pick, targets)])

        cam = getattr(ours, method)(model, layers_of(model, layers))
        with quiet():
            found = cam(x, targets and [*map(ours.ClassifierOutputTarget, targets)])
        expected = theirs(x)
        gap = difference(expected, found)
        assert gap <= 2e-6 or gap <= allowed(theirs, x, expected)


@pytest.mark.parametrize("method", ["GradCAM", "XGradCAM", "LayerCAM", "GradCAMPlusPlus"])
def test_volumes(package, method):
    model, x = network("volumes"), images(2, 3, 8, 16, 24)
    expected = getattr(package, method)(model, [model.layer3])(x, None)
    assert difference(expected, getattr(ours, method)(model, [model.layer3])(x)) <= 2e-6


@pytest.mark.parametrize("smooth", [{"aug_smooth": True}, {"eigen_smooth": True}], ids=str)
@pytest.mark.parametrize("method", ["GradCAM", "HiResCAM", "LayerCAM"])
def test_smoothed(package, method, smooth):
    model, x = network("residual"), images(2, 3, 40, 56)
    with quiet():
        expected = getattr(package, method)(model, [model.layer3])(x, None, **smooth)
    assert difference(expected, getattr(ours, method)(model, [model.layer3])(x, None, **smooth)) <= 2e-6


@pytest.mark.parametrize("ratio", [0.25, 0.5])
def test_some_channels_ablated(package, ratio):
    model, x = network("residual"), images(2, 3, 40, 56)
    with quiet(), np.errstate(invalid="ignore"):
        expected = package.AblationCAM(model, [model.layer3], batch_size=5, ratio_channels_to_ablate=ratio)(x, None)
    cam = ours.AblationCAM(model, [model.layer3], batch_size=5, ratio_channels_to_ablate=ratio)
    assert difference(expected, cam(x)) <= 2e-6


def test_targets(package):
    """Every target's score and gradient are the package's."""
    theirs = package.utils.model_targets
    scores = images(2, CLASSES).double()
    mask = np.random.default_rng().random((4, 5)) > 0.5
    for name, arguments, outputs in (
        ("ClassifierOutputTarget", (3,), (scores, scores[0])),
        ("ClassifierOutputSoftmaxTarget", (3,), (scores, scores[0])),
        ("ClassifierOutputReST", (3,), (scores, scores[0])),
        ("BinaryClassifierOutputTarget", (1,), (scores[0, 0],)),
        ("BinaryClassifierOutputTarget", (0,), (scores[0, 0],)),
        ("SoftmaxOutputTarget", (), (scores,)),
        ("RawScoresOutputTarget", (), (scores,)),
        ("SemanticSegmentationTarget", (2, mask), (images(CLASSES, 4, 5),)),
        ("FinerWeightedTarget", (3, [1, 6], 0.7), (scores, scores[0])),
    ):
        for output in outputs:
            expected, found = (getattr(where, name)(*arguments)(output) for where in (theirs, ours))
            torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-12)


def test_boxes():
    """Overlaps by hand: half of the first box, all of the second with another label, a third with none."""
    outputs = {
        "boxes": torch.tensor([[0.0, 0, 2, 2], [10, 10, 14, 12], [50, 50, 51, 51]]),
        "labels": torch.tensor([1, 2, 3]),
        "scores": torch.tensor([0.5, 0.25, 1.0]),
    }
    boxes = np.array([[0, 0, 2, 1], [10, 10, 14, 12], [0, 0, 2, 2]])
    score = ours.FasterRCNNBoxScoreTarget([1, 7, 1], boxes, 0.4)(outputs)
    assert score.tolist() == [0.5 + 0.5 + 1 + 0.5]
    assert ours.FasterRCNNBoxScoreTarget([1], boxes)({"boxes": torch.zeros(0, 4)}).tolist() == [0]


def test_pictures(package):
    rng = np.random.default_rng()
    image, mask = rng.random((30, 40, 3), np.float32), rng.random((30, 40), np.float32)
    for use_rgb in (True, False):
        expected = package.utils.image.show_cam_on_image(image, mask, use_rgb)
        assert np.array_equal(ours.show_cam_on_image(image, mask, use_rgb), expected)
        inferno = package.utils.image.show_cam_on_image(image, mask, use_rgb, 14)
        assert np.array_equal(ours.show_cam_on_image(image, mask, use_rgb, 14), inferno)
        kept = ours.show_cam_on_image(torch.from_numpy(image), torch.from_numpy(mask), use_rgb)
        assert abs(kept.numpy().astype(int) - expected).max() <= 1
    expected = package.utils.image.scale_cam_image(mask[None], (7, 9))
    assert difference(expected, ours.scale_cam_image(mask[None], (7, 9))) < 2e-6
    for bad in ((image * 2, mask), (image, mask[1:]), (image, mask, True, "jet", 2), (torch.from_numpy(image), mask)):
        with pytest.raises(ValueError, match=r"show_cam_on_image: accepted are img \[H, W, 3\]"):
            ours.show_cam_on_image(*bad)


def test_signatures(package):
    """What the package's constructors and calls take by position, ours take."""
    for name in METHODS:
        for step in ("__init__", "__call__", "forward"):
            theirs, found = (
                [
                    one.name
                    for one in inspect.signature(getattr(getattr(where, name), step)).parameters.values()
                    if one.kind == one.POSITIONAL_OR_KEYWORD and one.name != "eigen_smooth"
                ]
                for where in (package, ours)
            )
            assert found[: len(theirs)] == theirs, (name, step)


def test_tensors_kept(package):
    model, x = network("residual"), images(2, 3, 40, 56)
    for method in ("GradCAM", "RefineCAM", "FinerCAM", "EigenCAM"):
        kept = getattr(ours, method)(model, [model.layer2, model.layer3], device="keep")(x)
        assert isinstance(kept, torch.Tensor)
        assert np.array_equal(kept.numpy(), getattr(ours, method)(model, [model.layer2, model.layer3])(x))


def test_the_model_is_as_it_was():
    model, x = network("residual"), images(2, 3, 40, 56)
    model.train()
    model.layer1.eval()
    modes = [module.training for module in model.modules()]
    hooks = [len(module._forward_hooks) for module in model.modules()]
    model.fc.weight.grad = kept = torch.ones_like(model.fc.weight)
    with torch.inference_mode(), quiet():
        for method in METHODS:
            cam = getattr(ours, method)(model, [model.layer3])
            cam(x)
    assert [module.training for module in model.modules()] == modes
    assert [len(module._forward_hooks) for module in model.modules()] == hooks
    assert model.fc.weight.grad is kept
    assert torch.equal(kept, torch.ones_like(kept))
    assert all(parameter.grad is None for parameter in model.parameters() if parameter is not model.fc.weight)


def test_refusals():
    model, x = network("residual"), images(2, 3, 40, 56)
    with pytest.raises(TypeError, match="target_layers is Block; accepted is a list of modules"):
        ours.GradCAM(model, model.layer3)
    with pytest.raises(ValueError, match="device is 'cuda'"):
        ours.GradCAM(model, [model.layer3], device="cuda")
    with pytest.raises(ValueError, match="1 came for 2 images"):
        ours.GradCAM(model, [model.layer3])(x, [ours.ClassifierOutputTarget(0)])
    with pytest.raises(RuntimeError, match="no layer ran where hooks see it"):
        ours.GradCAM(model, [torch.nn.Conv2d(1, 1, 1)])(x)
    with pytest.raises(RuntimeError, match="does not depend"):
        ours.GradCAM(model, [model.layer3])(x, [lambda output: torch.ones((), requires_grad=True)] * 2)
    with pytest.raises(NotImplementedError, match="BaseCAM has to override weights, products or raw_map"):
        ours.BaseCAM(model, [model.layer3])(x)


def test_a_method_of_ones_own():
    class Largest(ours.BaseCAM):
        def raw_map(self, run):
            return (run.gradients * run.activations).amax(1)

    model, x = network("residual"), images(2, 3, 40, 56)
    cam = Largest(model, [model.layer3])
    found = cam(x)
    assert found.shape == (2, 40, 56)
    assert cam.outputs.shape == (2, CLASSES)
    assert not cam.outputs.requires_grad
    assert not np.array_equal(found, ours.HiResCAM(model, [model.layer3])(x))


def test_the_package_is_not_imported():
    code = "import fusedcam.compat.pytorch_grad_cam, sys; print({'pytorch_grad_cam', 'cv2', 'scipy'} & {*sys.modules})"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said.strip() == "set()"
    assert fusedcam.compat.pytorch_grad_cam is ours
