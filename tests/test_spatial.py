"""Explainers of signals, volumes, tokens and layers with channels last, against plain autograd and the oracle."""

import numpy as np
import pytest
import torch
from torch import nn

from capture_models import plain_gradients, unchanged
from fusedcam.torch import (
    FEM,
    EigenCAM,
    EigenGradCAM,
    Explainer,
    GradCAM,
    GradCAMPlusPlus,
    HiResCAM,
    LayerCAM,
    XGradCAM,
)
from fusedcam.torch.forms import Form, Grid, _grids
from spatial_models import CLASSES, Convolutions, ViT, Windows, wanted

RULES = [GradCAM, GradCAMPlusPlus, XGradCAM, HiResCAM, LayerCAM]
EVERY = [list(range(CLASSES))]
RAW = {"size": None, "relu": False, "normalize": None}


@pytest.fixture(autouse=True)
def _double(keep_threads):
    print("seed:", torch.seed())
    torch.set_num_threads(1)  # handing over layers this small takes longer than they do
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


def captured(model, layer, x):
    """What the layer returned, and every class's gradient, by recording everything."""
    for module in model.modules():
        if isinstance(module, nn.ReLU):  # plain autograd sees the output after it was overwritten
            module.inplace = False
    found = plain_gradients(model, layer, x, lambda scores: scores)
    for module in model.modules():
        if isinstance(module, nn.ReLU):
            module.inplace = True
    return [part.numpy() for part in found]


def assert_same(got, expected):
    assert got.shape == expected.shape
    scale = max(1, abs(expected).max())
    np.testing.assert_allclose(got.numpy(), expected, rtol=0, atol=1e-9 * scale)


def on_grid(array, height, width, skipped):
    """[..., T, C] -> [..., C, h, w], by its definition."""
    result = np.empty((*array.shape[:-2], array.shape[-1], height, width))
    for row in range(height):
        for column in range(width):
            result[..., row, column] = array[..., skipped + row * width + column, :]
    return result


@pytest.mark.parametrize("cls", RULES)
@pytest.mark.parametrize("spatial", [1, 3])
def test_signals_and_volumes(spatial, cls):
    model = Convolutions(spatial).eval()
    x = torch.rand(2, 2, *(13, 9, 8)[:spatial])
    activations, gradients = captured(model, model.body, x)
    if cls in (GradCAMPlusPlus, XGradCAM, LayerCAM):  # which assume activations of at least 0
        model.body.register_forward_hook(lambda module, inputs, output: output.exp())
        activations, gradients = captured(model, model.body, x)
    explain = cls(model, "body", spatial=spatial)
    with unchanged(model):
        heat = explain(x, targets=EVERY * 2)
    assert_same(heat, wanted(activations, gradients, cls.method, tuple(x.shape[2:])))
    raw = explain(x, targets=[1, 3], **RAW)
    own = wanted(activations, gradients, cls.method, relu=False, normalize=None)
    assert_same(raw, own[[0, 1], [1, 3]])
    size = (7, 4, 20)[:spatial]
    assert_same(
        explain(x, targets=2, size=size, normalize="max"),
        wanted(activations, gradients, cls.method, size, normalize="max")[:, 2],
    )
    assert_same(explain(x, targets=2, size=6), wanted(activations, gradients, cls.method, (6,) * spatial)[:, 2])
    assert explain.plan.shape == activations.shape


@pytest.mark.parametrize("spatial", [1, 2, 3])
def test_the_last_map_of_any_rank(spatial):
    model = Convolutions(spatial).eval()
    x = torch.rand(2, 2, *(13, 9, 8)[:spatial])
    activations, gradients = captured(model, model.act, x)
    explain = GradCAM(model, spatial=spatial)
    assert_same(explain(x, targets=1), wanted(activations, gradients, size=tuple(x.shape[2:]))[:, 1])
    assert explain.plan.layer == "act"
    if spatial == 1:
        with pytest.raises(ValueError, match=r"no layer returned a map \[N, C, D, H, W\] with D \* H \* W > 1"):
            GradCAM(model, spatial=3)(x, size=2)


@pytest.mark.parametrize("spatial", [1, 3])
def test_methods_that_are_no_rule_of_any_rank(spatial):
    """They do not ask where a pixel lies: the same as of the pixels in a row."""
    model = Convolutions(spatial).eval()
    x = torch.rand(2, 2, *(13, 9, 8)[:spatial])
    activations, gradients = captured(model, model.body, x)
    product = activations * gradients[:, 2]
    for cls, array, options in ((EigenCAM, activations, {}), (EigenGradCAM, product, {"targets": 2})):
        pixels = array.reshape(2, array.shape[1], -1)
        raw = cls(model, "body", spatial=spatial)(x, **options, **RAW)
        for got, image in zip(raw, pixels, strict=True):
            _, _, vectors = np.linalg.svd(image.T, full_matrices=False)
            line = image.T @ vectors[0]
            line = -line if -line.min() > line.max() else line
            assert_same(got, line.reshape(activations.shape[2:]))
    mean = activations.reshape(2, activations.shape[1], -1).mean(2)
    deviation = activations.reshape(2, activations.shape[1], -1).std(2)
    spread = (slice(None), slice(None), *(None,) * spatial)
    above = activations - mean[spread] > deviation[spread]
    fem = FEM(model, "body", k=1.0, spatial=spatial)(x, **RAW)
    assert_same(fem, (mean[spread] * above).sum(1))
    heat = FEM(model, "body", spatial=spatial)(x)
    assert heat.shape == (2, *x.shape[2:])


@pytest.mark.parametrize("cls", RULES)
@pytest.mark.parametrize("prefix", [1, 2, 5], ids=["class", "distilled", "registers"])
def test_tokens(prefix, cls):
    model = ViT(prefix).eval()
    x = torch.rand(2, 3, 16, 16)
    layer = model.blocks[-1].norm1
    if cls in (GradCAMPlusPlus, XGradCAM, LayerCAM):
        layer.register_forward_hook(lambda module, inputs, output: output.exp())
    activations, gradients = (on_grid(array, 4, 4, prefix) for array in captured(model, layer, x))
    explain = cls(model, "blocks.1.norm1")
    with unchanged(model):
        heat = explain(x, targets=EVERY * 2)
    assert_same(heat, wanted(activations, gradients, cls.method, (16, 16)))
    raw = explain(x, targets=1, **RAW)
    assert_same(raw, wanted(activations, gradients, cls.method, relu=False, normalize=None)[:, 1])
    assert (explain.plan.tokens, explain.plan.skipped) == ((4, 4), prefix)
    assert explain.plan.shape == (2, 16 + prefix, 8)
    assert f"[2, {16 + prefix}, 8], tokens on a grid of 4 x 4 after {prefix} skipped" in str(explain.plan)


@pytest.mark.parametrize("pooled", [False, True])
def test_tokens_of_images_that_are_no_squares(pooled):
    model = ViT(1, pooled=pooled).eval()
    for side in ((12, 20), (20, 12), (8, 24)):
        x = torch.rand(1, 3, *side)
        height, width = side[0] // 4, side[1] // 4
        activations, gradients = (
            on_grid(array, height, width, 1) for array in captured(model, model.blocks[1].norm1, x)
        )
        for tokens in (None, (height, width)):
            explain = GradCAM(model, "blocks.1.norm1", tokens=tokens)
            assert_same(explain(x, targets=[[0, 3]]), wanted(activations, gradients, size=side)[:, [0, 3]])
            assert (explain.plan.tokens, explain.plan.skipped) == ((height, width), 1)
    # Another grid than the model's, where it is asked for: the last 12 tokens.
    x = torch.rand(1, 3, 16, 16)
    activations, gradients = (on_grid(array, 6, 2, 5) for array in captured(model, model.blocks[1].norm1, x))
    explain = GradCAM(model, "blocks.1.norm1", tokens=(6, 2))
    assert_same(explain(x, targets=2, size=None), wanted(activations, gradients)[:, 2])


def test_tokens_without_gradients():
    model = ViT(5).eval()
    x = torch.rand(2, 3, 16, 16)
    tokens, _ = captured(model, model.blocks[0], x)
    explain = FEM(model, "blocks.0", k=1.0)
    maps = on_grid(tokens, 4, 4, 5)
    mean, deviation = maps.mean((2, 3), keepdims=True), maps.std((2, 3), keepdims=True)
    assert_same(explain(x, **RAW), (mean * (maps - mean > deviation)).sum(1))
    assert (explain.plan.tokens, explain.plan.skipped) == ((4, 4), 5)


def test_tokens_are_read_in_place():
    """What a method sees is a view of what the layer returned."""
    seen = []

    class Seeing(GradCAM):
        def _heat(self, captured, finish):
            seen.append((captured.activations, captured.gradients))
            return super()._heat(captured, finish)

    Seeing(ViT().eval(), "blocks.1.norm1")(torch.rand(2, 3, 16, 16), targets=[[1, 2]] * 2)
    (activations, gradients), *_ = seen
    assert activations.shape == (2, 8, 4, 4)
    assert activations.stride() == (17 * 8, 1, 32, 8)
    assert activations.untyped_storage().nbytes() == 2 * 17 * 8 * 8
    assert gradients.shape == (2, 2, 8, 4, 4)
    assert gradients.stride()[-3:] == (1, 32, 8)


def test_tokens_that_the_score_does_not_read():
    """Behind the last attention the class token alone is read, and no map of zeros stands for that."""
    x = torch.rand(2, 3, 16, 16)
    with pytest.raises(ValueError, match=r"zero everywhere on the grid .*class token alone, an earlier layer is meant"):
        GradCAM(ViT().eval(), "norm")(x, targets=1)
    GradCAM(ViT(pooled=True).eval(), "norm")(x, targets=1)


@pytest.mark.parametrize("layer", ["norm", "mix", "last"])
def test_channels_last(layer):
    model = Windows().eval()
    x = torch.rand(2, 3, 12, 16)
    activations, gradients = (np.moveaxis(array, -1, -3) for array in captured(model, model.get_submodule(layer), x))
    explain = GradCAM(model, layer, layout="last")
    assert_same(explain(x, targets=EVERY * 2), wanted(activations, gradients, size=(12, 16)))
    assert explain.plan.shape == (2, 6, 8, 6)
    # Channels first reads another map, as it was asked to.
    assert GradCAM(model, layer)(x, targets=1, size=None).shape == (2, 8, 6)


def test_signals_with_channels_last():
    """What a transformer reads of a text."""
    model = nn.Sequential(nn.Embedding(10, 6), Pooled(nn.LayerNorm(6))).eval()
    x = torch.randint(10, (3, 7))
    activations, gradients = captured(model, model[1].layer, x)
    activations, gradients = np.moveaxis(activations, -1, -2), np.moveaxis(gradients, -1, -2)
    explain = GradCAM(model, "1.layer", spatial=1, layout="last")
    assert_same(explain(x, targets=EVERY * 3), wanted(activations, gradients, size=(7,)))


class Pooled(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.layer, self.head = layer, nn.Linear(6, CLASSES)

    def forward(self, x):
        return self.head(self.layer(x).square().mean(1))


@pytest.mark.parametrize(
    ("count", "side", "grid"),
    [
        (196, (224, 224), ((14, 14), 0)),
        (197, (224, 224), ((14, 14), 1)),
        (198, (224, 224), ((14, 14), 2)),
        (200, (224, 224), ((14, 14), 4)),
        (201, (224, 224), ((14, 14), 5)),
        (1370, (518, 518), ((37, 37), 1)),
        (5, (32, 32), ((2, 2), 1)),
        (1, (32, 32), ((1, 1), 0)),
        (393, (224, 448), ((14, 28), 1)),
        (1201, (640, 480), ((40, 30), 1)),
        (37, (224, 448), ((4, 8), 5)),  # 4 x 9 after 1 would leave a rest
        (14 * 15 + 1, (230, 250), ((14, 15), 1)),  # patches of 16, and what is left over
    ],
)
def test_grids(count, side, grid):
    assert Form().grid(torch.empty(2, count, 8), torch.empty(2, 3, *side)) == Grid(*grid)


@pytest.mark.parametrize("count", [195, 199, 202, 9, 3, 2])
def test_no_grid_or_several(count):
    found = {9: "2 x 2 after 5 or 3 x 3 after 0"}.get(count, "no grid")
    with pytest.raises(ValueError, match=rf"with T = {count}; {found} fits images of .* pass tokens=\(height, width\)"):
        Form().grid(torch.empty(2, count, 8), torch.empty(2, 3, 224, 224))


def test_every_grid_that_is_found_is_right(rng):
    """Of any patch, and whatever comes before: the true one is among those that fit."""
    for _ in range(200):
        patch, rows, columns = (int(n) for n in rng.integers(2, 20, 3))
        prefix = int(rng.choice([0, 1, 2, 4, 5]))
        x = torch.empty(1, 3, patch * rows, patch * columns)
        found = _grids(rows * columns + prefix, *x.shape[-2:])
        assert Grid((rows, columns), prefix) in found or rows * columns == 1


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"spatial": 4}, ValueError, "spatial is 4; accepted: 1, 2, 3"),
        ({"spatial": True}, TypeError, "spatial is True"),
        ({"spatial": "2"}, TypeError, "spatial is '2'"),
        ({"layout": "NHWC"}, ValueError, 'layout is \'NHWC\'; accepted: "first", "last"'),
        ({"tokens": 14}, TypeError, r"tokens is 14; accepted is \(height, width\)"),
        ({"tokens": (14,)}, ValueError, r"tokens is \(14,\)"),
        ({"tokens": (0, 14)}, ValueError, r"tokens is \(0, 14\)"),
        ({"tokens": (1.5, 2)}, TypeError, r"tokens is \(1.5, 2\)"),
        ({"tokens": (2, 2), "spatial": 1}, ValueError, r"tokens is \(2, 2\) and spatial is 1"),
        ({"tokens": (2, 2), "target_layer": None}, ValueError, r"tokens is \(2, 2\), which needs a target_layer"),
        ({"layout": "last", "target_layer": None}, ValueError, "layout is 'last', which needs a target_layer"),
        ({"weight_eps": -1.0}, ValueError, "weight_eps is -1.0"),
        ({"weight_eps": "1e-7"}, TypeError, "weight_eps is '1e-7'"),
        (
            {"weight_eps": 1e-7},
            ValueError,
            "weight_eps is 1e-07, but GradCAM divides by nothing; accepted with GradCAMP",
        ),
        ({"eigen_smooth": 1}, TypeError, "eigen_smooth is 1"),
    ],
)
def test_refused(options, error, message):
    with pytest.raises(error, match=message):
        GradCAM(ViT(), **{"target_layer": "norm", **options})


def test_refused_when_called():
    x = torch.rand(2, 3, 16, 16)
    model = ViT().eval()
    with unchanged(model):
        with pytest.raises(ValueError, match=r"tokens is \(5, 5\), a grid of 25, but the layer returned 17 tokens"):
            GradCAM(model, "norm", tokens=(5, 5))(x)
        with pytest.raises(ValueError, match=r"layer norm returned float64 \[2, 17, 8\]; accepted is a map \[N, C, D"):
            GradCAM(model, "norm", spatial=3)(x, size=None)
        with pytest.raises(ValueError, match=r"layer patch_embed returned .*; accepted is tokens \[N, T, C\]"):
            GradCAM(model, "patch_embed", tokens=(4, 4))(x)
        with pytest.raises(ValueError, match=r"T = 23; no grid fits images of 16 x 24 .* pass tokens"):
            GradCAM(nn.Sequential(nn.Flatten(2), nn.Linear(384, 24)).eval(), "0")(torch.rand(2, 23, 16, 24), targets=1)
    signals = Convolutions(1).eval()
    with pytest.raises(ValueError, match=r"x is no batch of images .* spatial=1 for signals"):
        GradCAM(signals, "body")(torch.rand(2, 2, 16))
    with pytest.raises(ValueError, match=r'size is "input", but x has shape \(2, 2, 16\); give \(depth, height'):
        GradCAM(signals, "body", spatial=3)(torch.rand(2, 2, 16))
    assert issubclass(GradCAM, Explainer)
