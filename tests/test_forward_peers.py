"""ScoreCAM, SSCAM, ISCAM and AblationCAM beside pytorch-grad-cam and torch-cam, where those compute the same.

| peer | method | the same | else |
|---|---|---|---|
| pytorch-grad-cam 1.5.7 | ScoreCAM | where the layer's map has the image's size | its upsampling aligns the corners |
| | AblationCAM | behind a ReLU, where the map's minimum is 0 | it sets a channel to the minimum less 1e7 |
| torch-cam 0.5.0 | ScoreCAM | where the layer's map has the image's size | it normalises channels before upsampling |
| | SSCAM | for std=0 | its noise comes from PyTorch's own generator |
| | ISCAM | with cumulative=True | |

Their eps, 1e-7 and 1e-8 beside ranges, is within the tolerance.
"""

import pytest
import torch
from torch import nn

import fusedcam
from fusedcam.torch import ISCAM, SSCAM, AblationCAM, ScoreCAM
from peer_models import pytorch_grad_cam, quiet

CLASSES = 5


@pytest.fixture(scope="module")
def package():
    return pytorch_grad_cam()


def network(stride):
    print("seed:", torch.seed())
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, stride, 1), nn.ReLU(), nn.Conv2d(8, 6, 3, 1, 1), nn.ReLU(),
        nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(24, CLASSES),
    ).eval()  # fmt: skip


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def theirs(package, name, model, layer, x, classes):
    targets = [package.utils.model_targets.ClassifierOutputTarget(k) for k in classes]
    with quiet():
        return torch.from_numpy(getattr(package, name)(model, [layer])(x, targets))


def of_torchcam(name, model, layer, x, classes, **options):
    from torchcam import methods

    with getattr(methods, name)(model, layer, input_shape=tuple(x.shape[1:]), **options) as extractor:
        with torch.inference_mode():
            scores = model(x)
        return extractor(classes, scores)[0].clone()


def worst(got, wanted):
    return float((got - wanted).abs().max())


def test_score_cam_of_pytorch_grad_cam(package):
    x, classes = torch.rand(2, 3, 14, 17), [1, 4]
    model = network(1)
    wanted = theirs(package, "ScoreCAM", model, model[3], x, classes)
    assert worst(ScoreCAM(model, "3", batch_size=4)(x, targets=classes), wanted) < 3e-6
    model = network(2)
    wanted = theirs(package, "ScoreCAM", model, model[3], x, classes)
    assert worst(ScoreCAM(model, "3")(x, targets=classes), wanted) > 1e-5, "the corners are not aligned here"


def test_ablation_cam_of_pytorch_grad_cam(package):
    x, classes = torch.rand(2, 3, 26, 20), [1, 4]
    for stride in (1, 2):
        model = network(stride)
        for layer in (1, 3):
            wanted = theirs(package, "AblationCAM", model, model[layer], x, classes)
            got = AblationCAM(model, str(layer))
            assert worst(got(x, targets=classes), wanted) < 5e-6
            assert got.plan.reruns == ()


@pytest.mark.parametrize(
    ("name", "ours", "theirs"),
    [
        ("ScoreCAM", lambda model: ScoreCAM(model, "3"), {}),
        ("SSCAM", lambda model: SSCAM(model, "3", samples=2, std=0), {"num_samples": 2, "std": 1e-12}),
        ("ISCAM", lambda model: ISCAM(model, "3", samples=4, cumulative=True), {"num_samples": 4}),
    ],
    ids=["ScoreCAM", "SSCAM", "ISCAM"],
)
def test_torchcam(name, ours, theirs):
    x, classes = torch.rand(2, 3, 14, 17), [1, 4]
    model = network(1)
    wanted = of_torchcam(name, model, model[3], x, classes, **theirs)
    assert worst(ours(model)(x, targets=classes), wanted) < 3e-6
    model = network(2)
    wanted = of_torchcam(name, model, model[3], x, classes, **theirs)
    got = ours(model)(x, targets=classes, size=None)
    assert 5e-6 < worst(got, wanted) < 0.2, "channels are brought to [0, 1] as they are upsampled"


def test_the_peers_masks(package):
    """By eps and at the layer's own size, the masked images are theirs too."""
    x, maps = torch.rand(2, 3, 14, 17), torch.rand(2, 6, 14, 17)
    low, high = maps.amin((2, 3), keepdim=True), maps.amax((2, 3), keepdim=True)
    wanted = ((maps - low) / (high - low + 0.25))[:, :, None] * x[:, None]
    torch.testing.assert_close(fusedcam.mask(x, maps, eps=0.25), wanted)
