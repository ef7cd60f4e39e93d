"""Networks, calls and a measure for comparing a peer with itself patched."""

import contextlib
import importlib.util
import io
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fusedcam
from fusedcam.compat import native

CLASSES = 7


def pytorch_grad_cam() -> Any:
    """The package, also beside a torchvision of another build of torch's."""
    spec = importlib.util.spec_from_file_location(
        "bench_peers", Path(__file__).resolve().parent.parent / "bench" / "peers.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.import_pytorch_grad_cam()


class Block(nn.Module):
    def __init__(self, before: int, after: int, stride: int, dimensions: int = 2):
        super().__init__()
        conv, norm = (nn.Conv2d, nn.BatchNorm2d) if dimensions == 2 else (nn.Conv3d, nn.BatchNorm3d)
        self.first, self.norm = conv(before, after, 3, stride, 1), norm(after)
        self.second, self.skip = conv(after, after, 3, 1, 1), conv(before, after, 1, stride)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.second(self.relu(self.norm(self.first(x)))) + self.skip(x))


class Residual(nn.Module):
    """As a ResNet: three blocks of in-place ReLUs, pooling, a linear head."""

    def __init__(self, dimensions: int = 2):
        super().__init__()
        self.layer1 = Block(3, 8, 2, dimensions)
        self.layer2 = Block(8, 16, 2, dimensions)
        self.layer3 = Block(16, 33, 2, dimensions)
        self.fc = nn.Linear(33, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.layer3(self.layer2(self.layer1(x))).flatten(2).mean(2))


class Dense(nn.Module):
    """As a DenseNet: layers that go on with all maps before them, and an in-place ReLU right after the last one."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, 2, 1)
        self.layer1, self.layer2 = nn.Conv2d(8, 8, 3, 2, 1), nn.Conv2d(8, 8, 3, 1, 1)
        self.layer3 = nn.BatchNorm2d(16)
        self.classifier = nn.Linear(16, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = self.layer1(F.relu(self.stem(x)))
        x = self.layer3(torch.cat([x, self.layer2(F.relu(x))], 1))
        return self.classifier(F.relu(x, inplace=True).mean((2, 3)))


def network(kind: str, seed: int = 0) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = {"residual": Residual, "dense": Dense, "volumes": lambda: Residual(3)}[kind]()
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d | nn.BatchNorm3d):
                module.running_mean.normal_()
                module.running_var.uniform_(0.5, 2)
                module.bias.data.normal_()
    return model.eval()


def images(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without progress bars, and with one state of NumPy's random numbers."""
    state = np.random.get_state()  # noqa: NPY002
    np.random.seed(3)  # noqa: NPY002
    try:
        with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
            yield
    finally:
        np.random.set_state(state)  # noqa: NPY002


def both(peer: str, call: Callable[[], Any], **options: bool) -> tuple[Any, Any, int]:
    """What `call` returns, what it returns patched, and how many native calls it made then."""
    with quiet():
        plain = call()
    before = native.count()
    with fusedcam.patched(peer, **options), quiet():
        ours = call()
    return plain, ours, native.count() - before


def difference(first: Any, second: Any) -> float:
    """The largest, with the same NaNs; infinite where shapes or types differ."""
    first, second = (one.detach().numpy() if isinstance(one, Tensor) else np.asarray(one) for one in (first, second))
    if (
        first.shape != second.shape
        or first.dtype != second.dtype
        or not np.array_equal(*map(np.isnan, (first, second)))
    ):
        return np.inf
    with np.errstate(invalid="ignore"):
        gap = np.where(first == second, 0, abs(first.astype(float) - second.astype(float)))
    return float(np.nanmax(gap, initial=0))


def allowed(call: Callable[[Tensor], Any], x: Tensor, found: Any) -> float:
    """How far an answer may be off: 2e-6, or four times as far as the peer's own moves with its input's last bit."""
    with quiet():
        moved = [call(torch.nextafter(x, torch.tensor(way))) for way in (torch.inf, -torch.inf)]
    return max(2e-6, *(4 * difference(found, one) for one in moved))
