"""Memory of an explanation: inference's, the head's activations and one clone of the layer's output; and no growth."""

import gc
import importlib.util
import os
from pathlib import Path

import pytest
import torch
from torch import nn

from capture_models import Net
from fusedcam.torch import GradCAM
from fusedcam.torch.pretrained import load


def _peak_bytes():
    """bench/memory.py's, without the rest of bench/, whose modules have names that the tests' have too."""
    path = Path(__file__).resolve().parent.parent / "bench" / "memory.py"
    spec = importlib.util.spec_from_file_location("bench_memory", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.peak_bytes


peak_bytes = _peak_bytes()


def infer(model, x):
    with torch.no_grad():
        return model(x)


def allowed(model, layers, x):
    """Inference's peak, and the bytes that `layers` return: the target's, for its clone, and those behind it."""
    sizes = []
    hooks = [layer.register_forward_hook(lambda m, i, output: sizes.append(output.nbytes)) for layer in layers]
    infer(model, x)
    for hook in hooks:
        hook.remove()
    return peak_bytes(lambda: infer(model, x)) + sum(sizes)


def recorded_whole(model, x):
    """What holding the activations of every layer takes, which is what the bound has to exclude."""
    return peak_bytes(lambda: model(x).sum().backward())


class Deep(nn.Module):
    """A wide trunk that is dear to record, a narrow tail that is not, one ReLU for all of it."""

    def __init__(self):
        super().__init__()
        self.trunk = nn.ModuleList([nn.Conv2d(3, 32, 3, padding=1), *(nn.Conv2d(32, 32, 3, padding=1),) * 6])
        self.last = nn.Conv2d(32, 16, 3, 4)
        self.act = nn.ReLU()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.head = nn.Linear(16, 5)

    def forward(self, x):
        for conv in self.trunk:
            x = self.act(conv(x))
        return self.head(self.pool(self.act(self.last(x))).flatten(1))


@pytest.mark.parametrize("layer", ["last", "act", None])
@pytest.mark.parametrize("first", [True, False], ids=["first call", "later call"])
def test_peak(layer, first):
    """A shared activation is recorded at its last call: not even the first explanation holds the trunk."""
    model, x = Deep().eval().requires_grad_(True), torch.rand(2, 3, 96, 96)
    bound = allowed(model, [model.last, model.last, model.pool, model.head], x)  # twice: conv and its ReLU
    assert bound < 0.6 * recorded_whole(model, x)
    explain = GradCAM(model, layer)
    if not first:
        explain(x)
    assert peak_bytes(lambda: explain(x, size=None)) <= bound


def test_peak_of_a_real_network():
    """EfficientNet-Lite0, whose one ReLU6 runs in the stem too."""
    model, x = load("efficientnet-lite0").model, torch.rand(1, 3, 224, 224)
    explain = GradCAM(model, "_swish")
    bound = allowed(model, [model._conv_head, model._avg_pooling, model._fc], x)
    first = peak_bytes(lambda: explain(x, size=None))
    assert explain.plan.calls == 2
    assert max(first, peak_bytes(lambda: explain(x, size=None))) <= bound
    assert bound < 0.5 * recorded_whole(model, x)


def resident():
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.usefixtures("keep_threads")
def test_a_thousand_calls_hold_no_more_than_the_first():
    torch.set_num_threads(1)  # handing over layers this small takes longer than they do
    model, x = Net().eval(), torch.rand(2, 3, 21, 18)
    explain = GradCAM(model, "body")
    for _ in range(50):
        explain(x)
    gc.collect()
    objects, tensors, memory = len(gc.get_objects()), _tensors(), resident()
    for _ in range(1000):
        explain(x, targets=[[1, 2], [3, 4]])
    gc.collect()
    assert _tensors() == tensors
    assert len(gc.get_objects()) < objects + 100
    assert resident() - memory < 2**20  # a kilobyte a call would show


def _tensors():
    return sum(type(thing) is torch.Tensor for thing in gc.get_objects())
