"""What each peer answers at the edges, and patched: the same, or what is said here and in docs/coming-from.md.

The numbers are those of the list in which the peers' answers were found; 22, 23, 32 and 34 have a case for each answer.
"""

import contextlib
import gc
import warnings
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

import fusedcam
from peer_models import both, difference, images, network, pytorch_grad_cam, quiet

PEERS = ["pytorch_grad_cam", "torchcam", "captum"]
nan, inf = torch.nan, torch.inf


class Given(nn.Module):
    """A layer whose output is the input, and a score whose gradient with respect to it is `gradients`."""

    def __init__(self, gradients, pool=1):
        super().__init__()
        self.layer = nn.AvgPool2d(pool)
        self.gradients = gradients
        self.unused = nn.Parameter(torch.ones(()))

    def forward(self, x):
        score = (self.layer(x) * self.gradients).sum(tuple(range(1, x.ndim)))
        return torch.stack([score, -score], 1)


def explain(peer, model, x, layer="layer", targets=0, **options):
    """The map or maps of class 0."""
    package = pytorch_grad_cam()
    from captum.attr import LayerGradCam
    from torchcam.methods import GradCAM

    module = dict(model.named_modules())[layer]
    if peer == "pytorch_grad_cam":
        target = package.utils.model_targets.ClassifierOutputTarget(0)
        return package.GradCAM(model, [module])(x, [target] * len(x) if targets == 0 else targets)
    if peer == "torchcam":
        with GradCAM(model, layer, input_shape=x.shape[1:]) as extract:
            return extract(targets, model(x))[0].detach()
    return LayerGradCam(model, module).attribute(x, targets, **options).detach()


def outcome(call):
    """What comes, or the error that does."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return call()
    except (Exception, SystemError) as error:
        return error


def outcomes(peer, call, **options):
    plain, ours, _ = both(peer, partial(outcome, call), **options)
    return plain, ours


def arrays(*shape, seed=0):
    return images(*shape, seed=seed), images(*shape, seed=seed + 1)


def with_value(gradients, value):
    gradients = gradients.clone()
    gradients[0, 1, 2, 2] = value
    return gradients


a, g = arrays(2, 4, 6, 6)
ones = torch.ones(2, 4, 6, 6)
# What comes in, and how far apart the answers may be.
VALUES = {
    "1 all-zero map": (a, 0 * g, 0),
    "2 constant positive map": (ones, ones, 0),
    "2 a layer of one pixel": (torch.ones(2, 4, 1, 1), torch.ones(2, 4, 1, 1), 0),
    "3 all-negative map": (a.abs(), -g.abs(), 2e-6),
    "4 tiny map": (a, 1e-9 * g, 2e-6),
    "6 NaN in a gradient": (a, with_value(g, nan), 2e-6),
    "6 NaN in an activation": (with_value(a, nan), g, 2e-6),
    "7 +infinity in a gradient": (a, with_value(g, inf), 2e-6),
    "7 -infinity in a gradient": (a, with_value(g, -inf), 2e-6),
    "7 infinity in an activation": (with_value(a, inf), g, 2e-6),
    "8 a batch of one": (a[:1], g[:1], 2e-6),
    "10 not square": (*arrays(2, 3, 4, 11), 2e-6),
    "12 channels last": (a.contiguous(memory_format=torch.channels_last), g, 2e-6),
    "15 float64": (a.double(), g.double(), 2e-6),
}


@pytest.mark.parametrize("peer", PEERS)
@pytest.mark.parametrize("case", VALUES.values(), ids=VALUES)
def test_the_same_numbers(peer, case):
    activations, gradients, bound = case
    model = Given(gradients)
    x = activations.clone().requires_grad_(peer != "captum")
    plain, ours = outcomes(peer, lambda: explain(peer, model, x))
    assert difference(plain, ours) <= bound
    # 5: the maximum is below 1 where 1e-7 is added, and so the last colour is never used.
    if peer == "pytorch_grad_cam" and np.isfinite(ours).all() and ours.max() > 0.5:
        assert 0.9999 < ours.max() < 1
        assert np.uint8(255 * ours.max()) == 254


@pytest.mark.parametrize("peer", PEERS)
def test_8_images_do_not_depend_on_their_batch(peer):
    whole, alone = (
        explain(peer, Given(g[:n]), a[:n].clone().requires_grad_(peer != "captum"))
        for n in (2, 1)
        for _ in [fusedcam.patch(peer)]
    )
    fusedcam.unpatch()
    assert np.array_equal(np.asarray(whole[:1]), np.asarray(alone))


def test_9_empty_batch():
    """pytorch-grad-cam fails with an AttributeError; patched, it returns no maps, as torch-cam does."""
    x = torch.zeros(0, 4, 6, 8)
    plain, ours = outcomes("pytorch_grad_cam", lambda: explain("pytorch_grad_cam", Given(x), x, targets=None))
    assert isinstance(plain, ValueError | AttributeError)
    assert ours.shape == (0, 6, 8)
    assert ours.dtype == np.float32
    plain, ours = outcomes("torchcam", lambda: explain("torchcam", Given(x), x.clone().requires_grad_()))
    assert type(plain) is type(ours)
    assert isinstance(plain, Exception) or plain.shape == ours.shape
    plain, ours = outcomes("captum", lambda: explain("captum", Given(x), x))
    assert isinstance(plain, Exception)
    assert type(plain) is type(ours)


def test_11_input_smaller_than_the_map():
    class Enlarged(Given):
        def __init__(self, gradients):
            super().__init__(gradients)
            self.layer = nn.Upsample(scale_factor=3, mode="bilinear")

    model = Enlarged(images(2, 3, 21, 33))
    plain, ours = outcomes(
        "pytorch_grad_cam", lambda: explain("pytorch_grad_cam", model, images(2, 3, 7, 11).requires_grad_())
    )
    assert difference(plain, ours) <= 2e-6


@pytest.mark.parametrize("peer", PEERS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_13_14_half_types(peer, dtype):
    """pytorch-grad-cam has no bfloat16 and sums float16 in float16: patched, both come out as from float32."""
    model = Given(g.to(dtype))
    x = a.to(dtype).requires_grad_(peer != "captum")
    plain, ours = outcomes(peer, lambda: explain(peer, model, x))
    exact = explain(peer, Given(g.to(dtype).float()), a.to(dtype).float().requires_grad_(peer != "captum"))
    if peer == "pytorch_grad_cam" and dtype == torch.bfloat16:
        assert isinstance(plain, TypeError)
    else:
        assert plain.dtype == ours.dtype
        assert abs(plain - ours).max() < (2e-2 if dtype == torch.bfloat16 else 5e-3) * abs(exact).max()
    bound = 2e-6 if peer == "pytorch_grad_cam" else float(torch.finfo(dtype).eps) * abs(exact).max()
    assert abs(torch.as_tensor(ours).float() - torch.as_tensor(exact)).max() <= bound


@pytest.mark.parametrize("peer", PEERS)
def test_16_frozen_parameters(peer):
    """An error in pytorch-grad-cam and torch-cam. Patched, the former explains; of the latter users run the model."""
    model = network("residual").requires_grad_(False)
    plain, ours = outcomes(peer, lambda: explain(peer, model, images(2, 3, 32, 32), "layer3"))
    if peer == "torchcam":
        assert type(plain) is type(ours) is RuntimeError
        return
    expected = explain(peer, network("residual"), images(2, 3, 32, 32), "layer3")
    assert isinstance(plain, RuntimeError) if peer == "pytorch_grad_cam" else difference(plain, ours) <= 2e-6
    assert difference(ours, expected) <= 2e-6


@pytest.mark.parametrize("peer", PEERS)
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_17_18_without_grad(peer, mode):
    model, x = network("residual"), images(2, 3, 32, 32)

    def call():
        with mode():
            return explain(peer, model, x, "layer3")

    plain, ours = outcomes(peer, call)
    if peer == "torchcam":
        assert type(plain) is type(ours) is RuntimeError
        return
    if peer == "captum" and mode is torch.no_grad:
        assert difference(plain, ours) <= 2e-6
    else:
        assert isinstance(plain, RuntimeError)
    assert difference(ours, explain(peer, model, x, "layer3")) <= 2e-6


@pytest.mark.parametrize("peer", PEERS)
@pytest.mark.filterwarnings("ignore:the model is in training mode")
def test_19_modes(peer):
    """pytorch-grad-cam leaves the model in evaluation mode; patched, each module's mode is what it was."""
    for strict in (False, True):
        model = network("residual")
        model.layer2.train()
        before = [module.training for module in model.modules()]
        statistics = model.layer2.norm.running_mean.clone()
        with fusedcam.patched(peer, strict=strict):
            explain(peer, model, images(2, 3, 32, 32), "layer3")
        after = [module.training for module in model.modules()]
        kept = peer != "pytorch_grad_cam" or not strict
        assert (after == before) == kept
        assert peer != "pytorch_grad_cam" or torch.equal(statistics, model.layer2.norm.running_mean)
        assert kept or not any(after)


@pytest.mark.parametrize("peer", PEERS)
@pytest.mark.parametrize("method", ["GradCAM", "FinerCAM", "ShapleyCAM", "EigenCAM", "FullGrad"])
def test_20_gradients_of_parameters(peer, method):
    """pytorch-grad-cam wipes and overwrites them; patched, they stay, be it those that are None."""
    if peer != "pytorch_grad_cam" and method != "GradCAM":
        pytest.skip("pytorch-grad-cam's methods")
    model, x = network("residual"), images(2, 3, 32, 32)
    grads = {}
    for name, parameter in model.named_parameters():
        if "layer2" not in name:
            parameter.grad = grads[name] = torch.randn_like(parameter)
    values = {name: grad.clone() for name, grad in grads.items()}
    with fusedcam.patched(peer), quiet():
        if peer == "pytorch_grad_cam":
            getattr(pytorch_grad_cam(), method)(model, [model.layer3])(x, None)
        else:
            explain(peer, model, x, "layer3")
    for name, parameter in model.named_parameters():
        assert parameter.grad is grads.get(name)
        assert parameter.grad is None or torch.equal(parameter.grad, values[name])


@pytest.mark.parametrize("peer", PEERS)
def test_21_in_place_relu_after_the_layer(peer):
    """Three peers, three answers, kept: activations after it with gradients before it; both after; both before."""
    model, x = network("dense"), images(3, 3, 32, 48)
    plain, ours = outcomes(peer, lambda: explain(peer, model, x, "layer3"))
    assert difference(plain, ours) <= 2e-6


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.layer = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x):
        x = self.layer(torch.relu(self.layer(self.stem(x))))
        return x.abs().mean((2, 3))


@pytest.mark.parametrize("peer", PEERS)
def test_22_a_layer_that_runs_twice(peer):
    """The first call in pytorch-grad-cam, the last in torch-cam; Captum takes the last."""
    torch.manual_seed(0)
    model, x = Twice().eval(), images(2, 3, 12, 16)
    plain, ours = outcomes(peer, lambda: explain(peer, model, x))
    assert type(plain) is type(ours)
    assert isinstance(plain, Exception) or difference(plain, ours) <= 2e-6


@pytest.mark.parametrize("names", [("layer3", "layer1"), ("layer1", "layer3")], ids=" ".join)
def test_23_layers_in_another_order(names):
    model, x = network("residual"), images(2, 3, 32, 48)
    cam = lambda: pytorch_grad_cam().GradCAM(model, [getattr(model, name) for name in names])(x, None)  # noqa: E731
    plain, ours = outcomes("pytorch_grad_cam", cam)
    assert difference(plain, ours) <= 2e-6


@pytest.mark.parametrize("peer", PEERS)
def test_24_a_layer_that_returns_a_tuple(peer):
    class Pair(nn.Module):
        def forward(self, x):
            return x, x

    class Model(Given):
        def forward(self, x):
            return super().forward(self.pair(x)[0])

    model = Model(g)
    model.pair = Pair()
    plain, ours = outcomes(peer, lambda: explain(peer, model, a.clone().requires_grad_(), "pair"))
    assert type(plain) is type(ours)
    if isinstance(plain, Exception):
        assert str(plain) == str(ours)


@pytest.mark.parametrize("peer", PEERS)
@pytest.mark.parametrize("output", ["dict", "dense"])
def test_25_other_outputs(peer, output):
    """Errors everywhere; of a target of one's own every peer's patched answer is its own."""

    class Model(Given):
        def forward(self, x):
            scores = super().forward(x)
            return {"out": scores} if output == "dict" else scores[:, :, None, None] * torch.ones(1, 2, 3, 3)

    plain, ours = outcomes(peer, lambda: explain(peer, Model(g), a, targets=None))
    assert isinstance(plain, Exception)
    assert isinstance(ours, Exception)
    if peer == "pytorch_grad_cam" and output == "dense":
        targets = [lambda output: output[0].sum()] * 2
        plain, ours = outcomes(peer, lambda: explain(peer, Model(g), a.clone().requires_grad_(), targets=targets))
        assert difference(plain, ours) <= 2e-6


def test_26_fewer_targets_than_images():
    """pytorch-grad-cam returns maps of zeros for the others; patched, it is an error."""
    target = pytorch_grad_cam().utils.model_targets.ClassifierOutputTarget(0)
    call = lambda: explain("pytorch_grad_cam", network("residual"), images(3, 3, 32, 32), "layer3", [target] * 2)  # noqa: E731
    plain, ours = outcomes("pytorch_grad_cam", call)
    assert not plain[2].any()
    assert isinstance(ours, ValueError)
    assert str(ours).startswith("targets: 2 came for 3 images")
    plain, ours = outcomes("pytorch_grad_cam", call, strict=True)
    assert difference(plain, ours) <= 2e-6


@pytest.mark.parametrize("peer", PEERS)
def test_27_a_score_that_is_a_vector(peer):
    targets = {"pytorch_grad_cam": [lambda output: output] * 2, "torchcam": None, "captum": None}[peer]
    plain, ours = outcomes(peer, lambda: explain(peer, Given(g), a.clone().requires_grad_(), targets=targets))
    assert isinstance(plain, Exception)
    assert type(plain) is type(ours)
    assert str(plain) == str(ours)


def test_28_forwards_by_the_user_between():
    """What hooks keep of them is not what is explained next."""
    model, x = network("residual"), images(2, 3, 32, 32)
    expected = explain("pytorch_grad_cam", model, x, "layer3")
    with fusedcam.patched("pytorch_grad_cam"):
        cam = pytorch_grad_cam().GradCAM(model, [model.layer3])
        for _ in range(3):
            model(images(1, 3, 32, 32, seed=9))
        target = pytorch_grad_cam().utils.model_targets.ClassifierOutputTarget(0)
        assert difference(cam(x, [target] * 2), expected) <= 2e-6
        assert len(cam.activations_and_grads.activations) == 1


@pytest.mark.parametrize("peer", PEERS[:2])
def test_29_after_the_block(peer):
    """An error; patched, pytorch-grad-cam explains all the same, since it needs no hooks that stay."""
    model, x = network("residual"), images(1, 3, 32, 32)

    def call():
        if peer == "torchcam":
            from torchcam.methods import GradCAM

            with GradCAM(model, "layer3") as extract:
                pass
            return extract(0, model(x))
        with pytorch_grad_cam().GradCAM(model, [model.layer3]) as cam:
            pass
        return cam(x, None)

    plain, ours = outcomes(peer, call)
    assert isinstance(plain, Exception)
    if peer == "torchcam":
        assert type(plain) is type(ours)
    else:
        assert difference(ours, pytorch_grad_cam().GradCAM(model, [model.layer3])(x, None)) <= 2e-6


@pytest.mark.parametrize("name", ["GradCAM", "FinerCAM"])
def test_30_an_index_error_in_the_block(name):
    """pytorch-grad-cam prints and swallows it; patched, it comes through."""
    model = network("residual")

    def call():
        with getattr(pytorch_grad_cam(), name)(model, [model.layer3]):
            raise IndexError("mine")
        return "swallowed"

    plain, ours = outcomes("pytorch_grad_cam", call)
    assert plain == "swallowed"
    assert isinstance(ours, IndexError)
    plain, ours = outcomes("pytorch_grad_cam", call, strict=True)
    assert ours == "swallowed"


@pytest.mark.parametrize("peer", PEERS)
def test_31_a_model_compiled_before(peer):
    """Hooks do not fire in it, and every peer fails. Patched, pytorch-grad-cam and Captum explain it; torch-cam, where
    the user runs the model, has its own error."""
    x = images(2, 3, 32, 32)
    for modes in ([torch.enable_grad], [torch.enable_grad, torch.no_grad]):
        torch.compiler.reset()
        gc.collect()  # pytorch-grad-cam's objects write to tensors when they go, which must not be while one is traced
        model = torch.compile(network("residual"), backend="eager")
        for mode in modes:
            with mode():
                model(x)
        plain, ours = outcomes(peer, lambda model=model: explain(peer, model, x, "_orig_mod.layer3"))
        assert isinstance(plain, Exception)
        if isinstance(ours, Exception):
            assert type(plain) is type(ours)
            assert peer == "torchcam"
        else:
            assert difference(ours, explain(peer, network("residual"), x, "layer3")) <= 2e-6


def test_33_other_ranks():
    """Of signals and of single images pytorch-grad-cam makes errors; torch-cam and Captum explain signals."""
    model = Given(images(2, 4, 9))
    model.layer = nn.AvgPool1d(1)
    x = images(2, 4, 9, seed=5)
    for peer in PEERS:
        plain, ours = outcomes(peer, lambda peer=peer: explain(peer, model, x.clone().requires_grad_(peer != "captum")))
        if peer == "pytorch_grad_cam":
            assert type(plain) is type(ours) is ValueError
        else:
            assert difference(plain, ours) <= 2e-6


def test_34_masks_and_images_out_of_range():
    """pytorch-grad-cam's own answers: what exceeds 255 wraps, an image of bytes or brighter than 1 is refused."""
    package = pytorch_grad_cam()
    rng = np.random.default_rng()
    image, mask = rng.random((6, 5, 3), np.float32), rng.random((6, 5), np.float32)
    black = np.zeros_like(image)
    odd = mask.copy()
    odd[2, 2], odd[3, 3] = np.nan, -0.25
    for given in (
        (image, 1.5 * mask),
        (image, odd),
        (np.uint8(255 * image), mask),
        (1.1 * image + 0.1, mask),
        (image, mask, True, 2, 1.5),
        (black, mask, True, 2, 1.0),
        (np.where(image > 0.9, np.float32(np.nan), image), mask),
        (image - 0.5, mask),
        (image, np.uint8(200 * mask)),
        (image[..., :1], mask),
        (image, mask[:, :4]),
        (image[:0], mask[:0]),
        (image.tolist(), mask),
    ):
        plain, ours = outcomes("pytorch_grad_cam", lambda given=given: package.utils.image.show_cam_on_image(*given))
        assert type(plain) is type(ours)
        assert str(plain) == str(ours) if isinstance(plain, Exception) else np.array_equal(plain, ours)


def test_35_target_layers_that_are_no_list():
    """A TypeError, and an "Exception ignored in __del__" after it; patched, the former alone."""
    model = network("residual")
    with fusedcam.patched("pytorch_grad_cam"), warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(TypeError), contextlib.suppress(AttributeError):
            pytorch_grad_cam().GradCAM(model, model.layer3)
        gc.collect()
