"""AblationCAM runs only what follows the layer, where that gives the same: what runs, whose hooks act, threads."""

import threading

import pytest
import torch
from torch import Tensor, nn

from ablation_models import EVERY, Residual, all_classes, close, expected
from capture_models import CLASSES, Net, unchanged
from fusedcam.torch import AblationCAM

pytestmark = pytest.mark.usefixtures("doubles")


@pytest.fixture
def x():
    return torch.randn(3, 3, 21, 18)


@pytest.mark.parametrize("write", ["", "before", "layer's output", "skip", "statement", "concatenated"])
def test_only_what_follows_runs_again(x, write):
    model = Residual(write).eval()
    wanted = expected(model, model.layer, x, all_classes)
    for module in (model.stem, model.before, model.head):
        module.rows.clear()
    explain = AblationCAM(model, "layer", batch_size=4)
    got = explain(x, targets=EVERY)
    close(got, wanted)
    assert explain.plan.reruns == ()
    # The images, what there is to keep, and two rows of the whole model to see that the rest alone gives the same.
    assert model.stem.rows == model.before.rows == [3, 3, 2]
    assert model.head.rows == [3, 3, 2, 2, *[4, 2] * 3]


def test_the_whole_model_runs_where_its_rest_alone_differs(x):
    """What the layer before returned was changed by a module whose own result nobody used."""
    model = Residual("statement before").eval()
    wanted = expected(model, model.layer, x, all_classes)
    model.stem.rows.clear()
    explain = AblationCAM(model, "layer", batch_size=4)
    close(explain(x, targets=EVERY), wanted)
    assert explain.plan.reruns == ("what follows the layer does not give the same when it runs alone",)
    assert model.stem.rows == [3, 3, 2, *[4, 2] * 3]


class Mixing(nn.Module):
    """What follows the layer depends on Python's state, on how often it ran."""

    def __init__(self):
        super().__init__()
        self.conv, self.head, self.runs = nn.Conv2d(3, 4, 3), nn.Linear(4, CLASSES), 0

    def forward(self, x: Tensor) -> Tensor:
        self.runs += 1
        return self.head(self.conv(x).mean((2, 3))) * self.runs


def test_a_rest_that_differs_is_found_out(x):
    explain = AblationCAM(Mixing().eval(), "conv")
    explain(x)
    assert explain.plan.reruns == ("what follows the layer does not give the same when it runs alone",)


def test_hooks_of_others_stay_and_act_once(x):
    model = Net().eval()
    model.last.register_forward_hook(lambda module, inputs, output: output * 2 + 1)
    model.stem.register_forward_hook(lambda module, inputs, output: output * 3)
    wanted = expected(model, model.last, x, all_classes)
    with unchanged(model):
        explain = AblationCAM(model, "last", batch_size=4)
        close(explain(x, targets=EVERY), wanted)
    assert explain.plan.reruns == ()


def test_a_forward_of_the_instances_own_comes_back(x):
    model = Net().eval()
    own = lambda y, conv=model.stem: nn.Conv2d.forward(conv, y) + 1  # noqa: E731
    model.stem.forward = own
    wanted = expected(model, model.last, x, all_classes)
    close(AblationCAM(model, "last")(x, targets=EVERY), wanted)
    assert model.stem.forward is own
    assert "forward" not in vars(model.last)


def test_a_run_that_fails_leaves_nothing(x):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5)).eval()
    explain = AblationCAM(model, "0")
    first, calls = explain(x), iter(range(99))

    def fail(*io):
        if next(calls) == 4:
            raise KeyError("late")

    with model[1].register_forward_pre_hook(fail), unchanged(model), pytest.raises(KeyError, match="late"):
        explain(x)
    assert not any("forward" in vars(module) for module in model.modules())
    assert torch.equal(explain(x), first)


def test_threads_at_the_same_time(x):
    """Each with its own runs; those that only use the model meanwhile see it as it is."""
    model = Residual().eval()
    wanted = {layer: AblationCAM(model, layer)(x, targets=1) for layer in ("layer", "before")}
    plain_output, found, stop = model(x).detach(), [], threading.Event()

    def work(layer):
        explain = AblationCAM(model, layer, batch_size=2)
        for _ in range(4):
            found.append((layer, explain(x, targets=1), explain.plan.reruns))

    def use():
        while not stop.is_set():
            with torch.no_grad():
                found.append(("", model(x), ()))

    users = threading.Thread(target=use)
    users.start()
    workers = [threading.Thread(target=work, args=(layer,)) for layer in ("layer", "before", "layer")]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    stop.set()
    users.join()
    for layer, heat, reruns in found:
        close(heat, wanted[layer] if layer else plain_output)
        assert reruns == ()
    assert len([layer for layer, *_ in found if layer]) == 12
    assert not any("forward" in vars(module) for module in model.modules())
