"""GradCAM leaves no trace: modes, hooks, threads, exceptions, random state, memory formats, half types and autocast."""

import copy
import gc
import pickle
import threading
import warnings
import weakref

import pytest
import torch
from torch import nn

from capture_models import CLASSES, Net, expected, unchanged
from fusedcam.torch import GradCAM


@pytest.fixture(autouse=True)
def _seed():
    print("seed:", torch.seed())


@pytest.fixture
def net():
    return Net().eval()


@pytest.fixture
def x():
    return torch.rand(2, 3, 15, 15)


def recorded(model, x):
    """What a plain call of the model returns: values, and whether it is recorded."""
    output = model(x)
    return output.detach().clone(), output.requires_grad


def test_a_plain_call_inside_the_with_is_plain(net, x):
    values, _ = recorded(net, x)
    with GradCAM(net, "body") as explain, GradCAM(net, "last") as other:
        for mode, records in ((torch.enable_grad, True), (torch.no_grad, False), (torch.inference_mode, False)):
            with mode(), unchanged(net):
                explain(x)
                assert torch.is_grad_enabled() == (mode is torch.enable_grad)
                got, records_here = recorded(net, x)
                assert torch.equal(got, values)
                assert records_here == records
                other(x)
    assert not any(module._forward_hooks for module in net.modules())


def test_two_extractors_on_one_model(net, x):
    with GradCAM(net, "body") as first, GradCAM(net, "last") as second:
        a, b = first(x, targets=1), second(x, targets=1)
        torch.testing.assert_close(first(x, targets=1), a, rtol=0, atol=0)
    torch.testing.assert_close(a, GradCAM(net, "body")(x, targets=1), rtol=0, atol=0)
    torch.testing.assert_close(b, GradCAM(net, "last")(x, targets=1), rtol=0, atol=0)


@pytest.mark.parametrize("shared", [True, False], ids=["one extractor", "an extractor each"])
@pytest.mark.parametrize("habit", ["plain", "no_grad", "checkpoint, reentrant"])
@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
def test_threads_on_one_model(habit, shared, x):
    net = Net(habit).eval()
    layers = ["stem", "body", "last", "body"]
    explainers = [GradCAM(net, layer) for layer in layers]
    if shared:
        explainers = [GradCAM(net, "body")] * len(layers)
    inputs = [torch.rand(2, 3, 15, 15) for _ in layers]
    alone = [explain(x, targets=i).clone() for i, (explain, x) in enumerate(zip(explainers, inputs, strict=True))]
    plain = recorded(net, x)
    failures = []
    start = threading.Barrier(len(layers) + 1)

    def explain_often(i):
        try:
            start.wait()
            for _ in range(30):
                heat = explainers[i](inputs[i], targets=i)
                torch.testing.assert_close(heat, alone[i], rtol=0, atol=1e-5)
                torch.testing.assert_close(explainers[i].output, net(inputs[i]).detach(), rtol=0, atol=1e-5)
                assert torch.is_grad_enabled()
        except BaseException as error:
            failures.append(error)

    def infer_often():
        try:
            start.wait()
            for _ in range(100):
                values, records = recorded(net, x)
                torch.testing.assert_close(values, plain[0], rtol=0, atol=1e-5)
                assert records == plain[1]
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=explain_often, args=(i,)) for i in range(len(layers))]
    threads.append(threading.Thread(target=infer_often))
    with unchanged(net):
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not failures, failures


def test_a_nested_call(net, x):
    explain = GradCAM(net, "body")
    alone = explain(x, targets=1)
    inner = GradCAM(net, "last")
    inner_alone = inner(x, targets=2)
    seen = []

    def score(output):
        seen.append(inner(x, targets=2))
        seen.append(explain(x, targets=1))
        return output[:, 1]

    with unchanged(net):
        torch.testing.assert_close(explain(x, targets=score), alone)
    torch.testing.assert_close(seen[0], inner_alone)
    torch.testing.assert_close(seen[1], alone)

    class Nested(Net):
        def forward(self, x):
            seen.append(inner_of_it(x, targets=2) if nested else None)
            return super().forward(x)

    model = Nested().eval()
    model.load_state_dict(net.state_dict())
    inner_of_it = GradCAM(model, "body")
    for nested in (False, True):  # the model explains itself while it is explained, by the same layer
        outer = GradCAM(model, "body")
        with unchanged(model):
            if nested:
                inner_of_it = GradCAM(net, "body")
            torch.testing.assert_close(outer(x, targets=1), alone)
        assert outer.plan.calls == 1


@pytest.mark.parametrize("where", ["before", "layer", "after", "score", "interrupt"])
def test_an_exception_in_the_middle(where, net, x):
    explain = GradCAM(net, "body")
    alone = explain(x, targets=1).clone()
    error = KeyboardInterrupt if where == "interrupt" else OverflowError

    def fail(*args):
        raise error("in the middle")

    module = {"before": net.stem, "layer": net.body, "after": net.head, "interrupt": net.last}.get(where)
    handle = module.register_forward_hook(fail) if module else None
    for mode in (torch.enable_grad, torch.no_grad, torch.inference_mode):
        with mode(), unchanged(net), pytest.raises(error, match="in the middle"):
            explain(x, targets=fail if where == "score" else 1)
    if handle:
        handle.remove()
    torch.testing.assert_close(explain(x, targets=1), alone)


def test_nothing_is_kept_alive(net, x):
    seen = []
    handle = net.body.register_forward_hook(lambda module, inputs, output: seen.append(weakref.ref(output)))
    gc.disable()  # by reference counts alone
    try:
        explain = GradCAM(net, "body")
        heat = explain(x, targets=1)
        seen.append(weakref.ref(heat))
        del heat
        assert [ref() for ref in seen] == [None] * 2
        model = weakref.ref(net)
    finally:
        gc.enable()
    handle.remove()
    assert explain.output.grad_fn is None
    assert model() is net


def test_the_model_can_be_copied_and_saved_inside_the_with(net, x):
    with GradCAM(net, "body") as explain:
        heat = explain(x, targets=1)
        twin = copy.deepcopy(net)
        again = pickle.loads(pickle.dumps(net))
    for other in (twin, again):
        torch.testing.assert_close(GradCAM(other, "body")(x, targets=1), heat)


def test_frozen_parameters_and_inputs_with_gradients(net, x):
    wanted = expected(net, net.body, x, lambda output: output[:, 1])[:, 0]
    x = x.clone().requires_grad_()
    (x * 1).sum().backward()
    before = x.grad.clone()
    for frozen in (False, True):
        net.requires_grad_(not frozen)
        with unchanged(net):
            torch.testing.assert_close(GradCAM(net, "body")(x, targets=1), wanted, rtol=0, atol=1e-4)
    assert torch.equal(x.grad, before)


def test_pending_gradients_of_a_training_loop_are_left_alone(x):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    twin = copy.deepcopy(model)
    for net, explained in ((model, True), (twin, False)):
        loss = net(x).pow(2).sum()
        net(x[:1]).sum().backward()
        if explained:
            GradCAM(net, "0", eval=True)(x, targets=1)
        loss.backward()
    for a, b in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=0, atol=0)
    for a, b in zip(model.buffers(), twin.buffers(), strict=True):
        assert torch.equal(a, b)


class Moody(nn.Module):
    """Batch statistics, dropout, a module that is frozen, and a buffer that every forward changes."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4)
        self.frozen = nn.BatchNorm2d(4)
        self.drop = nn.Dropout()
        self.head = nn.Linear(4, CLASSES)
        self.register_buffer("count", torch.zeros(()))
        self.register_buffer("replaced", torch.zeros(()))
        self.train()
        self.frozen.eval()

    def train(self, mode=True):
        if not mode:
            raise AssertionError("eval() may mean more than flags; it is not called")
        return super().train(mode)

    def forward(self, x):
        self.count += 1
        self.replaced = self.replaced + torch.rand(())
        return self.head(self.drop(self.frozen(self.norm(self.conv(x))).relu().mean((2, 3))))


def test_eval_restores_everything(x):
    model = Moody()
    buffers = {name: (id(buffer), buffer.clone()) for name, buffer in model.named_buffers()}
    random = torch.get_rng_state()
    explain = GradCAM(model, "conv", eval=True)
    with warnings.catch_warnings(), unchanged_flags(model):
        warnings.simplefilter("error")
        first, second = explain(x, targets=1), explain(x, targets=1)
        failing = GradCAM(model, "conv", eval=True)
        with pytest.raises(ValueError, match="out of range"):
            failing(x, targets=99)
    assert torch.equal(first, second)
    assert torch.equal(torch.get_rng_state(), random)
    for name, buffer in model.named_buffers():
        before, values = buffers[name]
        assert id(buffer) == before, name
        assert torch.equal(buffer, values), name
    for alone in range(2):  # no batch statistics: an image alone gives what it gives in its batch
        one = explain(x[alone : alone + 1], targets=1)
        torch.testing.assert_close(one[0], first[alone], rtol=0, atol=1e-3)


class unchanged_flags:
    def __init__(self, model):
        self.model = model

    def flags(self):
        return [module.training for module in self.model.modules()]

    def __enter__(self):
        self.before = self.flags()

    def __exit__(self, *exception):
        assert self.flags() == self.before


def test_a_training_model_is_warned_of_once(x):
    model = Moody()
    explain = GradCAM(model, "conv")
    with unchanged_flags(model):
        with pytest.warns(UserWarning, match=r"training mode: batch statistics mix .* eval=True") as caught:
            explain(x)
        assert caught[0].filename == __file__
        explain(x)  # warnings are errors here
    assert model.count == 2, "without eval=True it runs as it stands"


def test_probabilities_are_warned_of_once(net, x):
    model = nn.Sequential(net, nn.Softmax(1)).eval()
    explain = GradCAM(model, "0.body")
    with pytest.warns(UserWarning, match="the rows of the model's output sum to 1") as caught:
        explain(x)
    assert caught[0].filename == __file__
    explain(x)
    GradCAM(net, "body")(x)
    GradCAM(nn.Sequential(net, nn.LogSoftmax(1)).eval(), "0.body")(x)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_dtypes_and_memory_formats(dtype, memory_format, net, x):
    net = net.to(dtype, memory_format=memory_format)
    x = x.to(dtype, memory_format=memory_format)
    heat = GradCAM(net, "body")(x, targets=1)
    assert heat.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    wanted = expected(net, net.body, x, lambda output: output[:, 1])[:, 0]
    torch.testing.assert_close(heat, wanted, rtol=0, atol=1e-9 if dtype == torch.float64 else 0.02)


@pytest.mark.parametrize("mode", [torch.enable_grad, torch.no_grad, torch.inference_mode])
def test_autocast(mode, net, x):
    explain = GradCAM(net, "body")
    with mode(), torch.autocast("cpu", torch.bfloat16):
        with unchanged(net):
            heat = explain(x, targets=1, relu=False)
        assert explain.output.dtype == torch.bfloat16
        if mode is torch.enable_grad:  # no cast weights without a graph are left behind
            net(x).sum().backward()
    assert mode is not torch.enable_grad or all(p.grad is not None for p in net.parameters())
    low = copy.deepcopy(net).bfloat16()
    wanted = GradCAM(low, "body")(x.bfloat16(), targets=1, relu=False)
    torch.testing.assert_close(heat.clone(), wanted, rtol=0, atol=0.1)


def test_inputs_made_in_inference_mode(net, x):
    wanted = GradCAM(net, "body")(x, targets=1)
    with torch.inference_mode():
        inside = x.clone()
        torch.testing.assert_close(GradCAM(net, "body")(inside, targets=1).clone(), wanted.clone())
    torch.testing.assert_close(GradCAM(net, "body")(inside, targets=torch.tensor([1, 1])), wanted)


def test_parameters_made_in_inference_mode_are_refused(x):
    with torch.inference_mode():
        net = Net().eval()
    with pytest.raises(RuntimeError, match=r"stem.weight, .* of the model was created in inference mode"):
        GradCAM(net, "stem")(x)


def test_recurrent_heads_that_cudnn_cannot_differentiate(net, x):
    class Cudnn(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x * 1

        @staticmethod
        def backward(ctx, gradient):
            raise RuntimeError("cudnn RNN backward can only be called in training mode")

    net.head.register_forward_hook(lambda module, inputs, output: Cudnn.apply(output))
    with (
        unchanged(net),
        pytest.raises(RuntimeError, match="cannot differentiate its recurrent layers in evaluation mode"),
    ):
        GradCAM(net, "body")(x)


def test_custom_functions_keep_their_backward(x):
    """After a rerun too: a straight-through estimator's gradient is what its author wrote."""

    class Round(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.round()

        @staticmethod
        def backward(ctx, gradient):
            return gradient * 3

    maps = []
    for habit in ("plain", "no_grad"):
        torch.manual_seed(0)
        net = Net(habit).eval()
        net.head.register_forward_pre_hook(lambda module, inputs: (Round.apply(inputs[0]),))
        maps.append(GradCAM(net, "body")(x, targets=1, relu=False, normalize=None))
    assert maps[0].abs().max() > 0
    torch.testing.assert_close(*maps)
