"""Methods that look at activations alone: one run of inference, of models with every habit, and nothing left behind."""

import pytest
import torch
from torch import nn

from capture_models import CONTAINERS, HABITS, Net, Overwriting, Returning, Shared, unchanged
from fusedcam.torch import FEM, KPCACAM, DeepFeatureFactorization, EigenCAM
from fusedcam.torch.capture import Capture
from fusedcam.torch.forward import ActivationExplainer, activations_of

CONTEXTS = {"grad": torch.enable_grad, "no_grad": torch.no_grad, "inference_mode": torch.inference_mode}
CLASSES = [EigenCAM, FEM, KPCACAM, DeepFeatureFactorization]


class Sum(ActivationExplainer):
    """The simplest of them, in which every activation shows."""

    def _scores(self, activations, nan):
        assert not torch.is_grad_enabled()
        return activations.sum(1)


RAW = {"size": None, "relu": False, "normalize": None}


@pytest.fixture(autouse=True)
def _seed():
    print("seed:", torch.seed())


@pytest.fixture
def x():
    return torch.rand(3, 3, 21, 18)


def returned(model, layer, x, call=-1):
    """What the layer returned, by a hook of one's own."""
    seen = []
    handle = layer.register_forward_hook(lambda module, inputs, output: seen.append(output.detach().clone()))
    with torch.no_grad():
        model(x)
    handle.remove()
    return seen[call]


@pytest.mark.parametrize("context", CONTEXTS.values(), ids=CONTEXTS.keys())
@pytest.mark.parametrize("layer", ["stem", "body", "last", None])
@pytest.mark.parametrize("habit", HABITS)
@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")  # the checkpoint's, as in inference
def test_habits(habit, layer, context, x):
    model = Net(habit).eval()
    wanted = returned(model, model.get_submodule(layer or "last"), x)
    explain = Sum(model, layer)
    for _ in range(2):
        with context():
            given = x.clone()
            with unchanged(model):
                scores = explain(given, **RAW)
        assert torch.equal(scores, wanted.sum(1))
        assert not scores.requires_grad
        assert not scores.is_inference()
        assert explain.plan.layer == (layer or "last")
        assert explain.plan.recording == "nothing"
        assert "recorded nothing" in str(explain.plan)
        with torch.no_grad():
            assert torch.equal(explain.output, model(x))


@pytest.mark.parametrize("call", [0, 1, 2, -1, -2, -3, -4])
def test_calls_of_a_shared_layer(call, x):
    model = Shared().eval()
    explain = Sum(model, "act", call=call)
    if call == -1:
        with pytest.raises(ValueError, match=r"^layer act returned float32 \[3, 7\]; accepted is a map"):
            explain(x)
        return
    scores = explain(x, **RAW)
    assert torch.equal(scores, returned(model, model.act, x, call).sum(1))
    assert (explain.plan.call, explain.plan.calls) == (call % 4, 4)


@pytest.mark.parametrize("call", [4, -5])
def test_no_such_call(call, x):
    with pytest.raises(ValueError, match=f"^call is {call}, but layer act was called 4 times$"):
        Sum(Shared().eval(), "act", call=call)(x)


def test_the_last_map_of_a_shared_layer(x):
    model = Shared().eval()
    explain = Sum(model)
    scores = explain(x, **RAW)
    assert torch.equal(scores, returned(model, model.act, x, 2).sum(1))
    assert (explain.plan.layer, explain.plan.call) == ("act", 2)


@pytest.mark.parametrize(("kind", "take"), CONTAINERS.values(), ids=CONTAINERS.keys())
def test_containers(kind, take, x):
    model = Returning(kind, take).eval()
    scores = Sum(model, "layer")(x, **RAW)
    with torch.no_grad():
        assert torch.equal(scores, model.conv(x).relu().sum(1))


def test_a_layers_output_is_overwritten_afterwards(x):
    model = Overwriting().eval()
    scores = Sum(model, "layer")(x, **RAW)
    with torch.no_grad():
        assert torch.equal(scores, model.stem(x).sum(1))


def test_another_path_than_before(x):
    """The last map is searched anew where the model has changed, and the run that showed it leaves no trace."""

    class Depth(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3)
            self.norm = nn.BatchNorm2d(3)
            self.times = 1

        def forward(self, x):
            x = self.first(self.norm(x))
            for _ in range(self.times):
                x = self.second(x)
            return x.mean((2, 3))

    model = Depth().train()
    explain = Sum(model)
    with pytest.warns(UserWarning, match="training mode"):
        explain(x, **RAW)
    assert model.norm.num_batches_tracked == 1, "the survey's run is taken back"
    model.times = 3
    scores = explain(x, **RAW)
    assert explain.plan.calls == 3
    assert model.norm.num_batches_tracked == 2
    model.eval()
    assert scores.shape == (3, 13, 10)
    assert torch.equal(explain(x, **RAW), returned(model, model.second, x).sum(1))


def test_eval_mode_for_the_call(x):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Dropout(0.5), nn.BatchNorm2d(4)).train()
    with unchanged(model):
        scores = Sum(model, "1", eval=True)(x, **RAW)
    with torch.no_grad():
        assert torch.equal(scores, model[0](x).sum(1))


def test_inference_tensors(x):
    """As input, and as what the layer returns."""
    with torch.inference_mode():
        given = x + 0
        model = Net("inference_mode").eval()
        scores = EigenCAM(model, "stem")(given)
    torch.testing.assert_close(scores, EigenCAM(model, "stem")(x))


@pytest.mark.parametrize("cls", CLASSES)
def test_targets_are_refused(cls, x):
    explain = cls(Net().eval(), "last")
    message = f"^targets: {cls.__name__} looks at activations alone, and its maps are the same for every class; "
    for targets in (0, [1, 2, 3], lambda output: output[:, 0]):
        with pytest.raises(ValueError, match=message):
            explain(x, targets=targets)


def test_refusals(x):
    model = Net().eval()
    with pytest.raises(ValueError, match=r"^layer head returned float32 \[3, 5\]; accepted is a map \[N, C, H, W\]"):
        Sum(model, "head")(x)
    model.unused = nn.Conv2d(1, 1, 1).eval()
    with pytest.raises(RuntimeError, match=r"^layer unused was not called: "):
        Sum(model, "unused")(x)
    with pytest.raises(ValueError, match=r"^target_layer: no layer returned a map"):
        Sum(nn.Sequential(nn.Flatten(), nn.Linear(4, 2)).eval())(torch.rand(1, 1, 2, 2))
    with pytest.raises(AttributeError, match=r"^output is there after a call"):
        _ = Sum(model).output


def test_nothing_is_recorded_or_held(x):
    """No graph: what the layers before it returned is gone."""
    model = Net().eval()
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: saved.append(tensor), lambda packed: packed):
        forward = activations_of(Capture(model, "stem", -1), [x], {}, 3)
    assert not saved
    assert forward.activations.grad_fn is None
    assert forward.output.grad_fn is None


def test_arguments_by_name(x):
    class Scaled(Net):
        def forward(self, x, factor=1, *, shift=0):
            return super().forward(x * factor + shift)

    model = Scaled().eval()
    scores = Sum(model, "stem")(x, 2, shift=torch.tensor(3.0), **RAW)
    with torch.no_grad():
        assert torch.equal(scores, model.stem(x * 2 + 3).sum(1))
