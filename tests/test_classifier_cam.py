"""CAM by the classifier's weights, against the paper's formula; what it verifies and what it refuses."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from capture_models import CLASSES, CONTAINERS, Net, Shared, unchanged
from fusedcam.torch import CAM, GradCAM, classifier
from reference import bilinear
from spatial_models import Convolutions, ViT, Windows, normalized

RAW = {"size": None, "normalize": None}


@pytest.fixture(autouse=True)
def _seed(keep_threads):
    print("seed:", torch.seed())
    torch.set_num_threads(1)


@pytest.fixture
def x():
    return torch.rand(3, 3, 21, 18)


def maps(activations, weight):
    """Zhou et al. 2016, equation 2: [N, C, *S] and [classes, C] to [N, classes, *S]."""
    return np.einsum("kc,nc...->nk...", weight.detach().double().numpy(), activations.detach().double().numpy())


class Plain(nn.Module):
    """Features, pooling, a classifier; `tail` makes something of its scores."""

    def __init__(self, tail=lambda scores: scores, conv=False, bias=True):
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU())
        self.other = nn.Linear(6, CLASSES)
        self.fc = nn.Conv2d(6, CLASSES, 1, bias=bias) if conv else nn.Linear(6, CLASSES, bias=bias)
        self.more = nn.Linear(4, 6)
        self.tail, self.conv = tail, conv

    def forward(self, x):
        pooled = self.features(x).mean((2, 3), keepdim=self.conv)
        return self.tail(self.fc(pooled))


def test_the_papers_formula(x):
    model = Plain().eval()
    explain = CAM(model, "features")
    with unchanged(model):
        raw = explain(x, targets=[list(range(CLASSES))] * 3, **RAW)
    wanted = maps(model.features(x), model.fc.weight)
    np.testing.assert_allclose(raw, wanted, rtol=0, atol=1e-5)
    scores = model(x).detach()
    torch.testing.assert_close(raw.mean((2, 3)) + model.fc.bias.detach(), scores, rtol=0, atol=1e-5)
    assert torch.equal(explain.output, scores)
    assert explain.plan.recording == "nothing"

    first = scores.argmax(1)
    torch.testing.assert_close(explain(x, **RAW), raw[torch.arange(3), first])
    torch.testing.assert_close(explain(x, targets=2, **RAW), raw[:, 2])
    torch.testing.assert_close(explain(x, targets=torch.tensor([4, 0, 1]), **RAW), raw[torch.arange(3), [4, 0, 1]])
    rows = explain(x, targets=[[1, 1], [0, 4], [2, 3]], **RAW)
    torch.testing.assert_close(rows, torch.stack([raw[0, [1, 1]], raw[1, [0, 4]], raw[2, [2, 3]]]))
    heat = explain(x, targets=2)
    np.testing.assert_allclose(heat, normalized(bilinear(wanted[:, 2], (21, 18)), "minmax", 2), rtol=0, atol=1e-4)
    positive = normalized(bilinear(np.maximum(wanted[:, 2], 0), (21, 18)), "minmax", 2)
    np.testing.assert_allclose(explain(x, targets=2, relu=True), positive, rtol=0, atol=1e-4)


def test_it_is_grad_cam_up_to_a_factor(x):
    """Selvaraju et al. 2017, section 3.1: alpha is the class's row over the number of pixels."""
    model = Plain().eval()
    raw = CAM(model)(x, targets=3, **RAW)
    pixels = raw[0].numel()
    torch.testing.assert_close(GradCAM(model)(x, targets=3, relu=False, **RAW) * pixels, raw, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    "model",
    [
        Plain(bias=False),
        Plain(conv=True),
        Plain(conv=True, tail=lambda scores: scores.flatten(1)),
        Plain(tail=lambda scores: scores.softmax(1)),
        Plain(tail=lambda scores: scores.log_softmax(1)),
        Plain(tail=lambda scores: {"features": scores.new_zeros(3, 6), "logits": scores}),
        *(Plain(tail=lambda scores, kind=kind: kind(scores.sum(), scores)) for kind, _ in CONTAINERS.values()),
        Plain().bfloat16(),
        Plain().half(),
        Plain().double(),
    ],
    ids=lambda model: type(model).__name__,
)
def test_what_a_model_makes_of_its_scores(model, x):
    model, x = model.eval(), x.to(model.fc.weight.dtype)
    raw = CAM(model, "features")(x, targets=[[1, 4]] * 3, **RAW)
    wanted = maps(model.features(x), model.fc.weight.flatten(1))[:, [1, 4]]
    assert raw.dtype == (torch.float64 if x.dtype == torch.float64 else torch.float32)
    np.testing.assert_allclose(raw, wanted, rtol=0, atol=1e-5)
    again = CAM(model, "features", "fc")(x, targets=[[1, 4]] * 3, **RAW)
    assert torch.equal(raw, again)
    # Whose first choice is that of the scores.
    chosen = model.features(x).double().mean((2, 3)) @ model.fc.weight.flatten(1).double().mT
    chosen = chosen if model.fc.bias is None else chosen + model.fc.bias.double()
    torch.testing.assert_close(
        CAM(model, "features")(x, **RAW), CAM(model, "features")(x, targets=chosen.argmax(1), **RAW)
    )


@pytest.mark.parametrize("spatial", [1, 3])
def test_signals_and_volumes(spatial):
    model = Convolutions(spatial).eval()
    x = torch.rand(2, 2, *(13, 9, 8)[:spatial])
    raw = CAM(model, spatial=spatial)(x, targets=1, **RAW)
    with torch.no_grad():
        activations = F.relu(model.body(F.relu(model.stem(x))))
    np.testing.assert_allclose(raw, maps(activations, model.head.weight)[:, 1], rtol=0, atol=1e-5)


def test_channels_last(x):
    model = Windows().eval()
    x = torch.rand(2, 3, 12, 16)
    seen = []
    handle = model.last.register_forward_hook(lambda module, inputs, output: seen.append(output.movedim(-1, 1)))
    model(x)
    handle.remove()
    raw = CAM(model, "last", layout="last")(x, targets=1, **RAW)
    np.testing.assert_allclose(raw, maps(seen[0], model.head.weight)[:, 1], rtol=0, atol=1e-5)


def test_it_verifies_once(monkeypatch, x):
    model = Plain().eval()
    explain = CAM(model)
    explain(x)
    monkeypatch.setattr(classifier, "_is_output", lambda *parts: 1 / 0)
    with torch.no_grad():
        model.fc.weight.add_(1)  # another classifier is read anew
    raw = explain(x, targets=0, **RAW)
    np.testing.assert_allclose(raw, maps(model.features(x), model.fc.weight)[:, 0], rtol=0, atol=1e-4)
    assert CAM(model)(torch.rand(0, 3, 21, 18)).shape == (0, 21, 18)


def test_what_does_not_fit(x):
    net = Net().eval()  # a ReLU lies between the layer "last" and the pooling
    with unchanged(net):
        with pytest.raises(
            ValueError, match=r"output, float32 \[3, 5\], is not what head makes of the mean of layer last"
        ):
            CAM(net, "last")(x)
        with pytest.raises(ValueError, match="no Linear or convolution of one pixel takes the features of layer body"):
            CAM(net, "body")(x)
        with pytest.raises(ValueError, match="classifier takes 7 features; accepted are those of layer body with 6"):
            CAM(net, "body", "head")(x)
    plain = Plain().eval()
    with pytest.raises(ValueError, match="is not what other makes of the mean of layer features with 6 channels"):
        CAM(plain, "features", plain.other)(x)
    with pytest.raises(ValueError, match="targets: class 5 is out of range; the model has classes 0 to 4"):
        CAM(plain, "features")(x, targets=5)
    with pytest.raises(TypeError, match="a class is given as <function"):
        CAM(plain, "features")(x, targets=lambda scores: scores[:, 0])
    with pytest.raises(TypeError, match=r"classifier is a Sequential; accepted is a Linear, or a convolution of one"):
        CAM(plain, "features", "features")
    with pytest.raises(TypeError, match=r"classifier is a Conv2d; accepted"):
        CAM(plain, "features", "features.0")
    with pytest.raises(
        TypeError, match=r"classifier is of type int; accepted is a module of the model, its dotted name$"
    ):
        CAM(plain, "features", 3)
    with pytest.raises(ValueError, match="classifier: the model has no module 'f'"):
        CAM(plain, "features", "f")
    with pytest.raises(ValueError, match="target_layer has several layers, of which one alone"):
        CAM(plain, ["features", "features.0"])
    for model in (Plain(tail=lambda scores: scores * 2), Plain(tail=lambda scores: scores.sigmoid())):
        with pytest.raises(ValueError, match="is not what fc or other makes"):
            CAM(model.eval(), "features")(x)
    # Of one class, whose softmax tells nothing.
    single = nn.Sequential(nn.Conv2d(3, 6, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 1), nn.Softmax(1))
    with pytest.raises(ValueError, match="is not what 3 makes"):
        CAM(single.eval(), "0")(x)
    with pytest.raises(ValueError, match="CAM needs a global average pool"):
        CAM(ViT().eval(), "blocks.1")(torch.rand(2, 3, 16, 16))
    dropping = nn.Sequential(nn.Conv2d(3, 64, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(), nn.Linear(64, 9))
    with pytest.warns(UserWarning, match="training mode"), pytest.raises(ValueError, match="and evaluation mode"):
        CAM(dropping, "0")(x)
    assert CAM(dropping, "0", eval=True)(x).shape == (3, 21, 18)


def test_shared_modules(x):
    """The ReLU's call on pooled features changes none of them."""
    model = Shared().eval()
    seen = []
    handle = model.act.register_forward_hook(lambda module, inputs, output: seen.append(output))
    model(x)
    handle.remove()
    for explain in (CAM(model, "act", call=2), CAM(model)):
        raw = explain(x, targets=1, **RAW)
        np.testing.assert_allclose(raw, maps(seen[2], model.head.weight)[:, 1], rtol=0, atol=1e-5)
