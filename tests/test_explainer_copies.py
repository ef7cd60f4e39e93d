"""Copies and pickles of explainers: of another model than theirs, with the same maps, and nothing of the last call."""

import copy
import pickle
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from torch import nn

import fusedcam.torch
from capture_models import CLASSES, Net
from fusedcam.torch import (
    CAM,
    EXPLAINERS,
    FEM,
    SSCAM,
    AblationCAM,
    Deconvnet,
    EigenCAM,
    EigenGradCAM,
    Explainer,
    FinerCAM,
    FullGrad,
    GradCAM,
    GuidedBackprop,
    GuidedGradCAM,
    RefineCAM,
    ScoreCAM,
    ShapleyCAM,
    Smoothed,
)

pytestmark = pytest.mark.usefixtures("doubles")

WAYS = {"deepcopy": copy.deepcopy, "pickle": lambda one: pickle.loads(pickle.dumps(one))}


class Pooled(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Conv2d(3, 7, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(7, CLASSES))


KINDS = {
    **{
        kind.__name__: lambda kind=kind: kind(Net().eval(), "body")
        for kind in (*EXPLAINERS.values(), Explainer, ScoreCAM, AblationCAM, EigenCAM, EigenGradCAM, FEM, ShapleyCAM)
    },
    "CAM": lambda: CAM(Pooled().eval(), "1"),
    "FullGrad": lambda: FullGrad(Net().eval()),
    "FinerCAM": lambda: FinerCAM(Net().eval(), "body"),
    "RefineCAM": lambda: RefineCAM(Net().eval(), ["stem", "body"]),
    "SSCAM": lambda: SSCAM(Net().eval(), "body", seed=3),
    "GuidedBackprop": lambda: GuidedBackprop(Net().eval()),
    "Deconvnet": lambda: Deconvnet(Net().eval()),
    "GuidedGradCAM": lambda: GuidedGradCAM(Net().eval(), "body"),
    "Smoothed": lambda: Smoothed(GradCAM(Net().eval(), "body")),
    "the last map": lambda: GradCAM(Net().eval()),
    "several layers": lambda: GradCAM(Net().eval(), ["stem", "body"], fuse="max"),
    "with a graph": lambda: GradCAM(Net().eval(), "body", create_graph=True),
    "a layer by itself": lambda: (lambda net: GradCAM(net, net.body))(Net().eval()),
    "by the classifier's rows": lambda: GradCAM(Pooled().eval(), "1"),
}


def model_of(explain):
    return explain.explainer.model if isinstance(explain, Smoothed) else explain.model


def maps(explain, x):
    options = {} if isinstance(explain, GuidedBackprop | Deconvnet) else {"relu": False}
    if isinstance(explain, EigenCAM | FEM):
        return explain(x, **options)
    return explain(x, targets=1, **options)


@pytest.mark.parametrize("called", [False, True], ids=["before a call", "after a call"])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", KINDS)
def test_a_copy_explains_a_model_of_its_own(name, way, called):
    """With the same values; and changing one model leaves the other's maps as they were."""
    explain, way = KINDS[name](), WAYS[way]
    x = torch.rand(2, 3, 21, 18)
    if called:
        maps(explain, x)
    twin = way(explain)
    assert type(twin) is type(explain)
    model, other = model_of(explain), model_of(twin)
    assert other is not model
    assert not {*other.modules()} & {*model.modules()}
    wanted = maps(explain, x)
    torch.testing.assert_close(maps(twin, x), wanted, rtol=0, atol=0)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(torch.randn_like(parameter))
    torch.testing.assert_close(maps(explain, x), wanted, rtol=0, atol=0)
    changed = KINDS[name]()
    model_of(changed).load_state_dict(other.state_dict())
    torch.testing.assert_close(maps(twin, x), maps(changed, x), rtol=0, atol=0)


@pytest.mark.parametrize("way", WAYS)
def test_a_copy_knows_no_call(way):
    explain = GradCAM(Net().eval(), "body")
    explain(torch.rand(2, 3, 21, 18), targets=1)
    twin = WAYS[way](explain)
    with pytest.raises(AttributeError, match="plan is there after a call on this thread has succeeded"):
        _ = twin.plan
    assert explain.plan.layer == "body"
    x, plans = torch.rand(1, 3, 21, 18), []
    twin(torch.rand(3, 3, 21, 18), targets=1)
    thread = threading.Thread(target=lambda: plans.append((twin(x, targets=1), twin.plan)))
    thread.start()
    thread.join()
    assert plans[0][1].shape[0] == 1
    assert twin.plan.shape[0] == 3


@pytest.mark.parametrize("way", WAYS)
def test_what_was_verified_of_a_model_is_not_of_its_copy(way):
    """The rows of the classifier are seen to be the gradients anew."""
    explain = GradCAM(Pooled().eval(), "1")
    x = torch.rand(1, 3, 21, 18)
    explain(x, targets=1)
    assert explain._capture.head._verified is not None
    twin = WAYS[way](explain)
    assert twin._capture.head._verified is None
    twin(x, targets=1)
    assert twin.plan.shortcut == explain.plan.shortcut == "linear"
    assert WAYS[way](GradCAM(Pooled().eval(), "1", shortcut=False))._capture.head.shortcut is False


@pytest.mark.parametrize("way", WAYS)
def test_a_model_and_its_explainer_are_copied_together(way):
    net = Net().eval()
    explain = GradCAM(net, "body")
    other, twin = WAYS[way]((net, explain))
    assert twin.model is other
    assert copy.copy(explain).model is net


def test_another_process_reads_a_pickle(tmp_path):
    explain = GradCAM(Net().eval(), "body")
    x = torch.rand(2, 3, 21, 18)
    heat = explain(x, targets=1)
    (tmp_path / "explainer").write_bytes(pickle.dumps((explain, x)))
    script = (
        "import pickle, sys, torch\n"
        "torch.set_num_threads(1)\n"
        "explain, x = pickle.load(open(sys.argv[1], 'rb'))\n"
        "torch.save(explain(x, targets=1), sys.argv[2])\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "explainer"), str(tmp_path / "heat")]
    subprocess.run(command, check=True, cwd=Path(__file__).parent)
    assert torch.equal(torch.load(tmp_path / "heat"), heat)


@pytest.mark.parametrize("name", sorted(EXPLAINERS))
def test_classes_are_found_by_name(name):
    assert pickle.loads(pickle.dumps(EXPLAINERS[name])) is getattr(fusedcam.torch, name)


def test_a_model_that_cannot_be_pickled_says_so():
    net = Net().eval()
    net.rule = lambda x: x
    with pytest.raises((AttributeError, pickle.PicklingError), match="lambda"):
        pickle.dumps(GradCAM(net, "body"))
