"""SESS: against windows explained one by one and put together by NumPy, pytorch-grad-cam's, refusals."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import reference
from capture_models import Net, unchanged
from fusedcam.torch import SESS, EigenCAM, GradCAM, RefineCAM
from peer_models import images, network, pytorch_grad_cam
from rare_models import Curved, close, double  # noqa: F401

pytestmark = pytest.mark.usefixtures("double")


def starts(length, step, side):
    found = [start for start in range(0, length, step) if start + side < length]
    return [*found, length - side]


def gaussian(heat):
    """By 11 x 11 pixels, a deviation of 5, mirrored at the edges, tap by tap."""
    taps = np.exp(-(np.arange(-5, 6) ** 2) / 50)
    taps /= taps.sum()
    wide = np.pad(heat, 5, mode="reflect")
    H, W = heat.shape
    return sum(taps[i] * taps[j] * wide[i : i + H, j : j + W] for i in range(11) for j in range(11))


def put_together(model, image, k, lengths, side, step, ratio=0.0, theta=0.0, pool="mean", smooth=True):
    """The authors' steps for one image, each window by itself."""
    H, W = image.shape[-2:]
    found = []
    for length in lengths:
        size = (length * H // min(H, W), length * W // min(H, W))
        enlarged = F.interpolate(image[None], size, mode="bilinear", antialias=True) if size != (H, W) else image[None]
        for top in starts(size[0], step, side):
            for left in starts(size[1], step, side):
                window = enlarged[..., top : top + side, left : left + side]
                probability = model(window).softmax(1)[0, k].item()
                canvas = np.zeros(size)
                canvas[top : top + side, left : left + side] = GradCAM(model, "last")(window, targets=k)[0].numpy()
                found.append((probability, reference.bilinear(canvas, (H, W))))
    found = sorted(found, key=lambda pair: pair[0])[int(len(found) * ratio) :]
    maps = np.array([probability / found[-1][0] * heat for probability, heat in found])
    if pool == "max":
        fused = maps.max(0)
    else:
        count = (maps > theta).sum(0)
        fused = np.where(count > 0, np.where(maps > theta, maps, 0).sum(0) / np.maximum(count, 1), 0)
    return gaussian(fused) if smooth else fused


CASES = {
    "plain": {},
    "filtered": {"pre_filter_ratio": 0.4},
    "threshold": {"theta": 0.3},
    "max": {"pool": "max"},
    "max, filtered": {"pool": "max", "pre_filter_ratio": 0.5},
    "not smoothed": {"smooth": False, "chunk": 3},
    "overlapping": {"step": 12, "chunk": 5},
    "small windows": {"window": 12, "scales": [12, 26]},
}


@pytest.mark.parametrize("case", CASES)
def test_steps(case):
    model, x = Net().eval(), torch.rand(2, 3, 21, 26)
    options = {"scales": [21, 30], **CASES[case]}
    names = {"pre_filter_ratio": "ratio"}
    side = options.get("window", 21)
    own = ("scales", "chunk", "window")
    ours = {"step": side, **{names.get(key, key): value for key, value in options.items() if key not in own}}
    rows = [[1, 4], [0, 2]]
    wanted = [
        [put_together(model, image, k, options["scales"], side, **ours) for k in row]
        for image, row in zip(x, rows, strict=True)
    ]
    explain = SESS(GradCAM(model, "last"), **options)
    with unchanged(model), torch.no_grad():
        heat = explain(x, targets=rows, normalize=None)
        one = explain(x, targets=[row[1] for row in rows], normalize=None)
    close(heat, np.array(wanted))
    close(one, heat[:, 1], 1e-12)
    close(explain(x, targets=rows), reference.normalize(np.array(wanted), "minmax"))
    smaller = reference.bilinear(np.array(wanted), (9, 5))
    close(explain(x, targets=rows, size=(9, 5)), reference.normalize(smaller, "minmax"))


def test_first_choice_is_the_whole_images():
    model, x = Net().eval(), torch.rand(2, 3, 21, 26)
    first = model(x).argmax(1)
    explain = SESS(GradCAM(model), scales=3, scale_step=0.3)
    close(explain(x), explain(x, targets=first), 1e-12)


def test_the_run_that_explains_brings_the_probabilities():
    model, x = Net().eval(), torch.rand(2, 3, 21, 26)
    seen = []
    model.register_forward_hook(lambda module, inputs, output: seen.append(len(output)))
    windows = sum(len(starts(21 * n // 21, 21, 21)) * len(starts(26 * n // 21, 21, 21)) for n in (21, 30))
    SESS(GradCAM(model, "last"), scales=[21, 30], chunk=100)(x, targets=[0, 1])
    assert seen == [2 * windows]
    seen.clear()
    SESS(GradCAM(model, "last"), scales=[21, 30], chunk=100, pre_filter_ratio=0.5)(x, targets=[0, 1])
    assert seen == [2 * windows, 2 * (windows - windows // 2)]


def test_small_images_and_other_explainers():
    model, x = Net().eval(), torch.rand(1, 3, 13, 13)
    heat = SESS(RefineCAM(model, ["stem", "last"]), scales=2, window=9, step=4)(x)
    assert heat.shape == (1, 13, 13)
    assert heat.max() <= 1
    larger = SESS(GradCAM(model, "stem"), scales=1, window=30)(x)  # than the image, which is enlarged to it
    assert larger.shape == (1, 13, 13)
    # The Gaussian reaches over the whole of a map this small.
    assert SESS(GradCAM(Curved().eval(), "layer"), scales=2)(torch.rand(2, 3, 5, 9)).shape == (2, 5, 9)


@pytest.mark.parametrize(
    "options",
    [{}, {"pre_filter_ratio": 0.3}, {"theta": 0.2}, {"pool": "max"}, {"smooth": False}],
    ids=str,
)
def test_pytorch_grad_cam(options):
    package = pytorch_grad_cam()
    from pytorch_grad_cam.sess import SESS as Theirs

    model, x = network("residual"), images(2, 3, 40, 56)
    target = package.utils.model_targets.ClassifierOutputTarget
    expected = Theirs(model, [model.layer3], num_scales=3, **options)(x, [target(1), target(2)])
    close(SESS(GradCAM(model, "layer3"), scales=3, **options)(x, targets=[1, 2]), expected, 5e-6)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"scales": 0}, ValueError, "scales is 0; accepted is 1 or more"),
        ({"scales": []}, ValueError, "scales is an empty list"),
        ({"scales": [1.5]}, TypeError, "scales is 1.5"),
        ({"scale_step": -1}, ValueError, "scale_step is -1"),
        ({"window": 0}, ValueError, "window is 0"),
        ({"step": 2.0}, TypeError, "step is 2.0"),
        ({"chunk": 0}, ValueError, "chunk is 0"),
        ({"pre_filter_ratio": 1}, ValueError, "pre_filter_ratio is 1; accepted is 0 to below 1"),
        ({"theta": float("nan")}, ValueError, "theta is nan"),
        ({"pool": "sum"}, ValueError, 'pool is \'sum\'; accepted: "mean", "max"'),
    ],
    ids=str,
)
def test_refusals(options, error, message):
    with pytest.raises(error, match=message):
        SESS(GradCAM(Net().eval()), **options)


def test_explainers_without_classes_are_refused():
    with pytest.raises(TypeError, match="explainer is of type EigenCAM, whose maps are the same for every class"):
        SESS(EigenCAM(Net().eval()))


def test_no_images():
    assert SESS(GradCAM(Net().eval(), "last"))(torch.rand(0, 3, 21, 18)).shape == (0, 21, 18)


def test_refusals_when_called():
    model, x = Net().eval(), torch.rand(2, 3, 21, 26)
    with pytest.raises(TypeError, match="explainer is of type Net; accepted is an Explainer"):
        SESS(model)
    explain = SESS(GradCAM(model), scales=[20])
    with pytest.raises(ValueError, match="scales has 20; accepted is the window's side or more, 21"):
        explain(x)
    with pytest.raises(TypeError, match="targets: a class is given as"):
        explain(x, targets=lambda output: output[:, 0])
    with pytest.raises(ValueError, match="class 9 is out of range"):
        SESS(GradCAM(model), scales=1)(x, targets=9)
    with pytest.raises(ValueError, match=r"x is torch.float64 of shape \(2, 3, 21\); accepted are images"):
        explain(x[..., 0], size=3)
    with pytest.raises(AttributeError, match="output is not one run's"):
        _ = explain.output
