"""Models in wrappers of PyTorch, and layers whose weights are computed: the plain model's map, and no trace."""

import copy
import os
import subprocess
import sys

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper
from torch.nn.utils import parametrizations, parametrize
from torch.utils.checkpoint import checkpoint, checkpoint_sequential

from capture_models import CLASSES, Net, expected, unchanged
from fusedcam.torch import EXPLAINERS, AblationCAM, EigenCAM, GradCAM, GuidedBackprop, ScoreCAM

pytestmark = pytest.mark.usefixtures("doubles")


@pytest.fixture
def net():
    return Net().eval()


@pytest.fixture
def x():
    return torch.rand(3, 3, 21, 18)


def wanted(net, layer, x, **options):
    return expected(net, net.get_submodule(layer), x, lambda output: output[:, 1], **options)[:, 0]


def close(got, heat):
    torch.testing.assert_close(got, heat, rtol=0, atol=1e-9)


@pytest.fixture
def group(tmp_path):
    """Of this process alone."""
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    yield
    dist.destroy_process_group()


# Wrappers


@pytest.mark.parametrize("wrap", [nn.DataParallel, nn.parallel.DistributedDataParallel], ids=lambda wrap: wrap.__name__)
@pytest.mark.usefixtures("group")
def test_data_parallel(wrap, net, x):
    """By the wrapped model's names or its own, and compiled inside and outside of the wrapper."""
    heat = wanted(net, "body", x)
    torch.compiler.reset()
    plain = wrap(net)
    for model in (plain, wrap(torch.compile(net, backend="eager")), torch.compile(plain, backend="eager")):
        for layer in ("body", "module.body", net.body, "module._orig_mod.body"):
            with unchanged(model), GradCAM(model, layer) as explain:
                close(explain(x, targets=1), heat)
            assert explain.plan.layer == "body"
        close(GradCAM(model)(x, targets=1), wanted(net, "last", x))
    with pytest.raises(ValueError, match=r"the model has no module 'module.bodi'; close: body"):
        GradCAM(plain, "module.bodi")


@pytest.mark.usefixtures("group")
def test_every_explainer_of_a_wrapped_model(net, x):
    model = nn.parallel.DistributedDataParallel(net)
    for kind in (*EXPLAINERS.values(), EigenCAM, ScoreCAM, AblationCAM):
        targets = None if kind is EigenCAM else 1
        close(kind(model, "module.body")(x, targets=targets), kind(net, "body")(x, targets=targets))
    close(GuidedBackprop(model)(x, targets=1), GuidedBackprop(net)(x, targets=1))


@pytest.mark.usefixtures("group")
def test_a_static_graph_is_not_trained_through(net, x):
    model = nn.parallel.DistributedDataParallel(net, static_graph=True)
    with pytest.raises(ValueError, match="accepted is static_graph=False"):
        GradCAM(model, "module.body", create_graph=True)(x, targets=1)
    close(GradCAM(model, "module.body")(x, targets=1), wanted(net, "body", x))


@pytest.mark.usefixtures("group")
def test_training_goes_on_after_an_explanation(x):
    """The reducer of DistributedDataParallel waits for no gradient of ours."""
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    steps = []
    for explained in (False, True):
        ours = nn.parallel.DistributedDataParallel(copy.deepcopy(model), find_unused_parameters=True)
        optimiser = torch.optim.SGD(ours.parameters(), 0.1)
        for _ in range(3):
            if explained:
                GradCAM(ours, "0", eval=True)(x, targets=1)
            optimiser.zero_grad()
            ours(x).pow(2).sum().backward()
            optimiser.step()
        steps.append(ours.state_dict())
    for name, value in steps[0].items():
        assert torch.equal(value, steps[1][name]), name


BOTH = """
import sys
from datetime import timedelta
import torch
import torch.distributed as dist
from torch import nn
from fusedcam.torch import GradCAM

rank, store = int(sys.argv[1]), sys.argv[2]
dist.init_process_group("gloo", init_method=store, rank=rank, world_size=2, timeout=timedelta(seconds=60))
torch.manual_seed(0)
net = nn.Sequential(
    nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 6, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()
)
x = torch.rand(2, 3, 9, 9)
"""
ONE = """
model = nn.parallel.DistributedDataParallel(net)
model(x + rank).sum().backward()  # from now on buffers are sent
model.eval()
if rank == 0:
    heat = GradCAM(model, "module.0")(x, targets=1)
    assert torch.equal(heat, GradCAM(net, "0")(x, targets=1))
model.train()
model(x + rank).sum().backward()
total = sum(p.grad.double().sum() for p in model.parameters())
both = [torch.zeros_like(total), torch.zeros_like(total)]
dist.all_gather(both, total)
assert torch.equal(*both)
"""
TRAINED = """
import copy
import torch.nn.functional as F

classes, mask = torch.tensor([1, 2]), torch.rand(2, 9, 9)


def loss(explain, images):
    heat = explain(images, targets=classes, relu=False)
    return ((heat - mask) ** 2).mean() + F.cross_entropy(explain.output, classes)


net.double()
alone, wanted = copy.deepcopy(net).eval(), []
for other in range(2):
    found = loss(GradCAM(alone, "0", create_graph=True), x.double() * (1 + other))
    wanted.append(torch.autograd.grad(found, list(alone.parameters())))
model = nn.parallel.DistributedDataParallel(net).eval()
for compiled in (model, torch.compile(model, backend="eager")):
    model.zero_grad()
    loss(GradCAM(compiled, "module.0", create_graph=True), x.double() * (1 + rank)).backward()
    for parameter, first, second in zip(net.parameters(), *wanted):
        torch.testing.assert_close(parameter.grad, (first + second) / 2)
"""
SHARDED = """
import copy
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

net.eval()
model, mesh = copy.deepcopy(net), init_device_mesh("cpu", (2,))
for part in (model[0], model[3], model):
    fully_shard(part, mesh=mesh)
for layer in ("0", "3", None):
    heat = GradCAM(model, layer)(x + rank, targets=1 + rank)
    torch.testing.assert_close(heat, GradCAM(net, layer)(x + rank, targets=1 + rank), rtol=0, atol=1e-5)
assert all(parameter.grad is None for parameter in model.parameters())
"""


@pytest.mark.parametrize(
    "script",
    [pytest.param(ONE, marks=pytest.mark.slow), TRAINED, pytest.param(SHARDED, marks=pytest.mark.slow)],
    ids=["one explains", "both train", "both explain"],
)
def test_two_processes(script, tmp_path):
    """One does not wait for the other, to which a run of DistributedDataParallel would send the buffers; where
    parameters are sharded, both explain images of their own; where maps are trained through, gradients are averaged."""
    (tmp_path / "rank.py").write_text(f"{BOTH}{script}dist.destroy_process_group()\n")
    ranks = [
        subprocess.Popen(
            [sys.executable, "rank.py", str(rank), f"file://{tmp_path}/store"],
            stderr=subprocess.PIPE,
            cwd=tmp_path,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            encoding="utf-8",
        )
        for rank in range(2)
    ]
    try:
        for one in ranks:
            _, errors = one.communicate(timeout=120)
            assert one.returncode == 0, errors
    finally:
        for one in ranks:
            one.kill()


@pytest.mark.parametrize("layer", ["stem", "body", "last", None])
@pytest.mark.usefixtures("group")
def test_fully_sharded(layer, net, x):
    """FSDP2, whose parameters are gathered before and freed after each layer; afterwards it trains as ever."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    heat = wanted(net, layer or "last", x)
    model = copy.deepcopy(net)
    mesh = init_device_mesh("cpu", (1,))
    for part in (model.stem, model.body, model.last, model):
        fully_shard(part, mesh=mesh)
    explain = GradCAM(model, layer)
    for _ in range(2):
        close(explain(x, targets=1), heat)
        assert all(parameter.grad is None for parameter in model.parameters())
    model(x).pow(2).sum().backward()
    net(x).pow(2).sum().backward()
    for ours, plain in zip(model.parameters(), net.parameters(), strict=True):
        close(ours.grad.full_tensor(), plain.grad)


# Computed weights


def weight_norm_of_old(module):
    with pytest.warns(FutureWarning):
        return nn.utils.weight_norm(module)


PARAMETRIZED = {
    "weight norm": parametrizations.weight_norm,
    "spectral norm": parametrizations.spectral_norm,
    "orthogonal": parametrizations.orthogonal,
    "weight norm of old": weight_norm_of_old,
    "spectral norm of old": nn.utils.spectral_norm,
}


@pytest.mark.parametrize("layer", ["stem", "body", "last", None])
@pytest.mark.parametrize("name", PARAMETRIZED)
def test_parametrized(name, layer, net, x):
    """At the layer, before and after it, with as many images as channels."""
    with torch.no_grad():  # which leaves weights that can be copied
        for part in (net.stem, net.body, net.last, net.head):
            PARAMETRIZED[name](part)
    net.eval()
    x = torch.rand(7, 3, 21, 18)
    plain = copy.deepcopy(net)
    heat = wanted(plain, layer or "last", x)
    before = copy.deepcopy(net.state_dict())
    for context in (torch.enable_grad, torch.no_grad):
        with context(), unchanged(net):
            close(GradCAM(net, layer)(x, targets=1), heat)
            copy.deepcopy(net)  # no graph is left behind in a weight
    for key, value in net.state_dict().items():
        assert torch.equal(value, before[key]), key
    if "old" not in name:
        with parametrize.cached():
            close(GradCAM(net, layer)(x, targets=1), heat)


def test_a_computed_weight_is_no_map(x):
    """A kernel [7, 6, 3, 3] looks like a map of seven images."""
    last = parametrizations.weight_norm(nn.Conv2d(6, 7, 3))
    model = nn.Sequential(nn.Conv2d(3, 6, 3, stride=6), last, nn.Flatten(), nn.Linear(7, CLASSES)).eval()
    x = torch.rand(7, 3, 15, 15)
    assert last(model[0](x)).shape[-2:] == (1, 1)
    explain = GradCAM(model)
    close(explain(x, targets=1), wanted(model, "0", x))
    assert explain.plan.layer == "0"


def test_spectral_norm_in_training(x):
    """Each run moves its vectors on; with eval=True an explanation does not."""
    model = nn.Sequential(parametrizations.spectral_norm(nn.Conv2d(3, 4, 3)), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    twin = copy.deepcopy(model)
    heat = wanted(copy.deepcopy(model).eval(), "0", x)
    close(GradCAM(model, "0", eval=True)(x, targets=1), heat)
    for key, value in twin.state_dict().items():
        assert torch.equal(value, model.state_dict()[key]), key
    explain = GradCAM(model, "0")
    with pytest.warns(UserWarning, match="training mode"):
        explain(x, targets=1)
    twin(x)
    for key, value in twin.state_dict().items():
        torch.testing.assert_close(value, model.state_dict()[key], rtol=0, atol=0, msg=key)


# Checkpoints


class Checkpointed(nn.Module):
    """Some of its parts in checkpoints."""

    def __init__(self, net, where, reentrant):
        super().__init__()
        self.net, self.where, self.reentrant = net, where, reentrant

    def forward(self, x):
        net = self.net
        for name in ("stem", "body", "last"):
            x = self.run(name, lambda x, name=name: net.get_submodule(name)(x).relu(), x)
        return self.run("head", lambda x: net.head(x.mean((2, 3))), x)

    def run(self, name, function, x):
        return checkpoint(function, x, use_reentrant=self.reentrant) if name in self.where else function(x)


@pytest.mark.parametrize("reentrant", [False, True], ids=["", "reentrant"])
@pytest.mark.parametrize(
    "where", [["stem"], ["body"], ["last"], ["head"], ["stem", "body", "last", "head"]], ids=" ".join
)
@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")  # the checkpoint's, as in inference
def test_checkpoints(where, reentrant, net, x):
    """Before, at and after the layer, for each layer."""
    model = Checkpointed(net, where, reentrant).eval()
    for layer in ("net.stem", "net.body", "net.last"):
        plain = Checkpointed(net, [], reentrant).eval()
        heat = wanted(plain, layer, x, relu=False)
        for context in (torch.enable_grad, torch.no_grad):
            with context(), unchanged(model):
                close(GradCAM(model, layer)(x, targets=1, relu=False), heat)


@pytest.mark.parametrize("reentrant", [False, True], ids=["", "reentrant"])
@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
def test_sequential_checkpoints_and_wrapped_modules(reentrant, net, x):
    parts = nn.Sequential(net.stem, net.body, nn.ReLU(), net.last, nn.ReLU())
    heats = {layer: wanted(net, layer, x) for layer in ("stem", "body", "last")}
    net.features = lambda x: checkpoint_sequential(parts, 2, x, use_reentrant=reentrant)
    for layer, heat in heats.items():
        close(GradCAM(net, layer)(x, targets=1), heat)
    del net.features
    conv = net.body
    net.body = checkpoint_wrapper(net.body).eval()
    for given in ("body", "body._checkpoint_wrapped_module", conv, net.body):
        close(GradCAM(net, given)(x, targets=1), heats["body"])
    net.body = conv
    close(GradCAM(net, "body._checkpoint_wrapped_module")(x, targets=1), heats["body"])
