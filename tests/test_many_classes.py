"""Many classes at once where something stands in the way: hooks, functions without vmap, classes without a gradient."""

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from capture_models import expected, plain_gradients
from fusedcam.torch import CAM, SESS, AblationCAM, FinerCAM, GradCAM, ScoreCAM, Smoothed, derivatives
from head_models import CHANNELS, CLASSES, Headed, Mean, captured, close, headed

pytestmark = pytest.mark.usefixtures("doubles")


@pytest.fixture
def x():
    return torch.rand(3, 3, 7, 6)


def counted(model):
    """How often the layer runs from now on."""
    calls = []
    model.layer.register_forward_hook(lambda *_: calls.append(1))
    return calls


# Scores that the layer has no part in


def test_a_row_of_zeros_costs_two_runs(x):
    """A class whose row is zero is seen to be of no interest to the layer, whatever the number of such classes."""
    model = Headed(nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(CHANNELS, 1000))).eval()
    with torch.no_grad():
        model.head[2].weight[[7, 30]] = 0
        model.head[2].weight[5, 0] = 0
    explain = GradCAM(model, "layer")
    explain(x, targets=[[1, 5]] * 3)
    assert explain.plan.shortcut == "linear"
    calls = counted(model)
    with pytest.raises(ValueError, match="for image 0, class number 7 of its list, its gradient is zero everywhere"):
        explain(x, targets="all")
    assert len(calls) == 3
    with pytest.raises(ValueError, match="for image 2, class number 1 of its list"):
        explain(x, targets=[[1, 2], [4, 5], [9, 30]])
    with pytest.raises(ValueError, match="for image 1 its gradient is zero"):
        explain(x, targets=[6, 7, 8])


@pytest.mark.parametrize("size", [(7, 6), (300, 200)])
def test_dead_classes_are_maps_of_zeros(size):
    """Behind a dead ReLU all gradients are zero, and another output of the layer brings them to life, mean or not."""
    x = torch.rand(3, 3, *size)
    hidden = nn.Linear(CHANNELS, 2 * CHANNELS)
    model = Headed(nn.Sequential(Mean((2, 3)), hidden, nn.ReLU(), nn.Linear(2 * CHANNELS, CLASSES))).eval()
    with torch.no_grad():
        hidden.weight.copy_(torch.cat([torch.eye(CHANNELS), -torch.eye(CHANNELS)]))
        hidden.bias.fill_(-2)
    explain = GradCAM(model, "layer")
    assert not explain(x, targets="all").any()
    assert explain.plan.shortcut == "pooled"


def test_another_heads_classes(x):
    class Two(Headed):
        def forward(self, x):
            maps = self.layer(x)
            return torch.cat([self.fc(maps.mean((2, 3))), self.pixel(x.repeat(1, 2, 1, 1)).mean((2, 3))], 1)

    model = Two(nn.Identity()).eval()
    explain = GradCAM(model, "layer")
    wanted = plain_gradients(model, model.layer, x, lambda output: output[:, :CLASSES])[1]
    found = captured(explain, x, [[*range(CLASSES)]] * 3)
    assert found.plan.shortcut == "pooled"
    close(found.gradients, wanted)
    with pytest.raises(ValueError, match=f"class number {CLASSES} of its list"):
        explain(x, targets="all")


def test_a_score_with_a_way_of_its_own(x):
    """A target that looks at the layer's output past the pool, and one that has no way to it."""
    model = headed("linear")
    seen = []
    model.head[0].register_forward_hook(lambda module, inputs, output: seen.append(inputs[0]))
    explain = GradCAM(model, "layer")
    found = captured(explain, x, lambda output: output + seen[-1].square().mean((1, 2, 3))[:, None])
    assert found.plan.shortcut == "none"
    own = 2 * found.activations / found.activations[0].numel()
    close(found.gradients, model.head[2].weight.detach()[None, :, :, None, None] / 20 + own[:, None])
    with pytest.raises(ValueError, match="does not depend on layer layer"):
        explain(x, targets=lambda output: output.detach())


# Hooks


def test_hooks_on_the_activation_see_each_gradient(x):
    """They are the user's, and get whole gradients of one class after the other."""
    model, seen = headed("linear"), []
    watch = lambda module, inputs: inputs[0].register_hook(seen.append)  # noqa: E731
    handle = model.head[0].register_forward_pre_hook(lambda module, inputs: watch(module, inputs) and None)
    explain = GradCAM(model, "layer")
    found = captured(explain, x, "all")
    assert found.plan.shortcut == "none"
    close(torch.stack(seen, 1), found.gradients)
    handle.remove()
    model.head[0].register_forward_pre_hook(lambda m, inputs: inputs[0].register_hook(lambda g: 3 * g) and None)
    close(captured(explain, x, "all").gradients, 3 * found.gradients)


@pytest.mark.parametrize("place", ["pool", "flat", "scores"])
def test_hooks_further_on(place, x):
    """Of tensors that change the gradient between the layer and the scores."""
    model = headed("linear")
    model.head[{"pool": 0, "flat": 1, "scores": 2}[place]].register_forward_hook(
        lambda module, inputs, output: output.register_hook(lambda gradient: 3 * gradient) and None
    )
    for targets in ("all", 1, lambda output: output * 1):
        found = captured(GradCAM(model, "layer"), x, targets)
        assert found.plan.shortcut != "linear"
        wanted = 3 * model.head[2].weight.detach()[None, :, :, None, None].expand(3, -1, -1, 5, 4) / 20
        close(found.gradients, wanted[:, 1] if targets == 1 else wanted)


@pytest.mark.parametrize("of", ["flat", "pool, before it", "all modules"])
def test_hooks_that_come_after_the_rows_were_confirmed(of, x):
    model = headed("linear")
    explain = GradCAM(model, "layer")
    before = captured(explain, x, 1)
    assert before.plan.shortcut == "linear"

    def after(module, inputs, output):
        if module is model.head[1] and output.requires_grad:
            output.register_hook(lambda gradient: 3 * gradient)

    def first(module, inputs):
        return inputs[0] * 1 if not inputs[0].requires_grad else Tripled.apply(inputs[0])

    if of == "flat":
        handle = model.head[1].register_forward_hook(after)
    elif of == "all modules":
        handle = nn.modules.module.register_module_forward_hook(after)
    else:
        handle = model.head[1].register_forward_pre_hook(first)
    try:
        close(captured(explain, x, 1).gradients, 3 * before.gradients)
    finally:
        handle.remove()
    again = captured(explain, x, "all")
    assert again.plan.shortcut == "linear"
    close(again.gradients[:, 1], before.gradients)


class Tripled(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x * 1

    @staticmethod
    def backward(ctx, slopes):
        return 3 * slopes


def test_backward_hooks_of_the_pool(x):
    model, seen = headed("linear"), []
    model.head[0].register_full_backward_hook(lambda module, inputs, outputs: seen.append(inputs[0]))
    found = captured(GradCAM(model, "layer"), x, "all")
    assert found.plan.shortcut == "none"
    close(torch.stack(seen, 1), found.gradients)
    close(found.gradients, plain_gradients(model, model.layer, x, lambda output: output)[1])


def test_a_hook_that_pools_otherwise(x):
    model = headed("linear")
    explain = GradCAM(model, "layer")
    assert captured(explain, x, 1).plan.shortcut == "linear"
    model.head[0].register_forward_hook(lambda module, inputs, output: inputs[0].amax((2, 3), keepdim=True))
    found = captured(explain, x, "all")
    assert found.plan.shortcut == "none"
    close(found.gradients, plain_gradients(model, model.layer, x, lambda output: output)[1])


# Columns that share a backward, or cannot


class Counting(torch.autograd.Function):
    """Twice its input; its backward asks for numbers, as no batch of gradients has them."""

    calls = 0

    @staticmethod
    def forward(ctx, x):
        return 2 * x

    @staticmethod
    def backward(ctx, gradient):
        Counting.calls += 1
        return gradient * 2 if gradient.sum().item() < float("inf") else gradient


def test_functions_of_pythons_own_get_one_class_at_a_time(x):
    model = Headed(lambda m, a: m.fc(Counting.apply(a.mean((2, 3))).sin())).eval()
    wanted = plain_gradients(model, model.layer, x, lambda output: output)[1]
    Counting.calls = 0
    found = captured(GradCAM(model, "layer"), x, "all")
    assert (found.plan.shortcut, Counting.calls) == ("pooled", CLASSES)
    close(found.gradients, wanted)


def test_what_vmap_has_no_rule_for(x):
    """A hook of a tensor asks for a number."""

    def head(model, maps):
        hidden = maps.square()
        if hidden.requires_grad:
            hidden.register_hook(lambda gradient: gradient * (2 if gradient.abs().sum().item() > 0 else 1))
        return model.dense(hidden.flatten(1))

    model = Headed(head).eval()
    close(
        captured(GradCAM(model, "layer"), x, "all").gradients,
        plain_gradients(model, model.layer, x, lambda output: output)[1],
    )


@pytest.mark.parametrize("name", ["hidden layer", "no pooling", "GeM", "squeeze and excite"])
@pytest.mark.parametrize("columns", [1, 2, 3, 100])
def test_in_parts(name, columns, x, monkeypatch):
    model = headed(name)
    monkeypatch.setattr(derivatives, "_columns_at_once", lambda scores, nodes: columns)
    rows = torch.randint(CLASSES, (3, 8))
    score = lambda output: output.gather(1, rows)  # noqa: E731
    close(captured(GradCAM(model, "layer"), x, rows).gradients, plain_gradients(model, model.layer, x, score)[1])


@pytest.mark.parametrize("reentrant", [True, False])
def test_checkpoints_behind_the_layer(reentrant, x):
    for name, shortcut in (("linear", "pooled"), ("hidden layer", "pooled"), ("no pooling", "none")):
        plain = headed(name)
        whole = plain.head if isinstance(plain.head, nn.Module) else lambda a, plain=plain: plain.dense(a.flatten(1))
        model = Headed(lambda m, a, whole=whole: checkpoint(whole, a, use_reentrant=reentrant)).eval()
        model.layer = plain.layer
        wanted = plain_gradients(plain, plain.layer, x, lambda output: output)[1]
        found = captured(GradCAM(model, "layer"), x, "all")
        close(found.gradients, wanted)
        if not reentrant:
            assert found.plan.shortcut == shortcut


# "all" elsewhere


def test_every_class_by_other_methods(x):
    model = headed("linear")
    rows = torch.arange(CLASSES).expand(3, CLASSES)
    for kind in (CAM, FinerCAM, ScoreCAM, AblationCAM):
        explain = kind(model, "layer")
        close(explain(x, targets="all"), explain(x, targets=rows), 1e-9)
    smooth = Smoothed(GradCAM(model, "layer"), factors=(1.0, 1.1))
    close(smooth(x, targets="all"), smooth(x, targets=rows))
    sess = SESS(GradCAM(model, "layer"), scales=1, window=5)
    close(sess(x, targets="all"), sess(x, targets=rows))
    wanted = expected(model, model.layer, x, lambda output: output)
    close(GradCAM(model, "layer")(x, targets="all"), wanted, 1e-9)
