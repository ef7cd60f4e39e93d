"""Small networks, each with one habit that makes capturing hard, and the gradient as plain autograd has it."""

from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import fusedcam

CLASSES = 5


class Net(nn.Module):
    """Three convolutions, pooling and a classifier; `habit` says how forward goes about it."""

    def __init__(self, habit: str = "plain", conv: Callable[..., nn.Module] = nn.Conv2d):
        super().__init__()
        self.habit = habit
        self.stem = conv(3, 4, 3, stride=2)
        self.body = conv(4, 6, 3, padding=1)
        self.last = conv(6, 7, 3)
        self.head = nn.Linear(7, CLASSES)
        with torch.no_grad():
            self.head.bias[0] -= 2  # a score below 0, or half types' rows might sum to 1, as those of a softmax do

    def features(self, x: Tensor) -> Tensor:
        return F.relu(self.last(self.tail_of_body(self.stem(x))))

    def tail_of_body(self, x: Tensor) -> Tensor:
        return F.relu(self.body(x))

    def tail_of_last(self, x: Tensor) -> Tensor:
        return F.relu(self.last(x))

    def forward(self, x: Tensor) -> Any:
        if self.habit == "no_grad":
            with torch.no_grad():
                x = self.features(x)
        elif self.habit == "inference_mode":
            with torch.inference_mode():
                x = self.features(x)
        elif self.habit.startswith("checkpoint"):
            reentrant = self.habit == "checkpoint, reentrant"
            x = checkpoint(self.tail_of_body, self.stem(x), use_reentrant=reentrant)
            x = checkpoint(self.tail_of_last, x, use_reentrant=reentrant)
        elif self.habit == "in-place":
            x = self.body(self.stem(x)).mul_(2).relu_()
            x = self.last(x).add_(1).relu_()
        else:
            x = self.features(x)
        return self.head(x.mean((2, 3)))


HABITS = ["plain", "no_grad", "inference_mode", "checkpoint", "checkpoint, reentrant", "in-place"]


class Shared(nn.Module):
    """One activation module for all layers, as EfficientNet-Lite has it; the last call is on [N, C]."""

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleList([nn.Conv2d(3, 4, 3), nn.Conv2d(4, 6, 3), nn.Conv2d(6, 7, 3)])
        self.act = nn.ReLU6()
        self.head = nn.Linear(7, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        for conv in self.convs:
            x = self.act(conv(x))
        return self.head(self.act(x.mean((2, 3))))


class Overwriting(nn.Module):
    """The layer returns its input itself, to which forward writes afterwards."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 4, 3)
        self.layer = nn.Identity()
        self.head = nn.Linear(4, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        before = self.stem(x)
        after = self.layer(before)
        before.mul_(3)
        return self.head((after * after).mean((2, 3)))


class Pair(NamedTuple):
    extra: Tensor
    maps: Tensor


@dataclass(frozen=True)
class Record:
    extra: Tensor
    maps: Tensor


class Returning(nn.Module):
    """A layer that returns its map inside `kind`, and a model that returns its scores so."""

    def __init__(self, kind: Callable[[Tensor, Tensor], Any], take: Callable[[Any], Tensor]):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.layer = _Wrap(kind)
        self.head = nn.Linear(4, CLASSES)
        self.kind, self.take = kind, take

    def forward(self, x: Tensor) -> Any:
        scores = self.head(self.take(self.layer(F.relu(self.conv(x)))).mean((2, 3)))
        return self.kind(scores.sum(), scores)


class _Wrap(nn.Module):
    def __init__(self, kind: Callable[[Tensor, Tensor], Any]):
        super().__init__()
        self.kind = kind

    def forward(self, x: Tensor) -> Any:
        return self.kind(x.mean((1, 2, 3)), x)


CONTAINERS: dict[str, tuple[Callable[[Tensor, Tensor], Any], Callable[[Any], Tensor]]] = {
    "tuple": (lambda extra, maps: (extra, maps), lambda output: output[1]),
    "list": (lambda extra, maps: [extra, maps], lambda output: output[1]),
    "nested": (lambda extra, maps: (extra, [{"maps": maps}]), lambda output: output[1][0]["maps"]),
    "dict": (lambda extra, maps: {"extra": extra, "maps": maps}, lambda output: output["maps"]),
    "named-tuple": (Pair, lambda output: output.maps),
    "dataclass": (Record, lambda output: output.maps),
}


def plain_gradients(model: nn.Module, layer: nn.Module, x: Tensor, score: Callable[[Any], Tensor], call: int = -1):
    """Activations and gradients [N, K, C, H, W] by recording everything; for models without a habit."""
    seen: list[Tensor] = []
    handle = layer.register_forward_hook(lambda module, inputs, output: seen.append(output))
    try:
        with torch.inference_mode(False), torch.enable_grad():
            scores = score(model(x))
            columns = scores.reshape(len(x), -1).unbind(1)
            rows = [torch.autograd.grad(column.sum(), seen[call], retain_graph=True)[0] for column in columns]
    finally:
        handle.remove()
    return seen[call].detach(), torch.stack(rows, 1)


def expected(model: nn.Module, layer: nn.Module, x: Tensor, score: Callable[[Any], Tensor], **options: Any) -> Tensor:
    """[N, K, H, W]: the heatmaps that the plain gradients give."""
    activations, gradients = plain_gradients(model, layer, x, score, options.pop("call", -1))
    return fusedcam.cam(activations, gradients, **{"size": tuple(x.shape[-2:]), **options})


@contextmanager
def unchanged(model: nn.Module):
    """What an explanation must leave as it is."""

    def state() -> list[Any]:
        return [
            torch.is_grad_enabled(),
            torch.is_inference_mode_enabled(),
            torch.is_autocast_enabled("cpu"),
            torch.is_autocast_cache_enabled(),
            [module.training for module in model.modules()],
            [(id(p), p.requires_grad, p.grad is None, p._version) for p in model.parameters()],
            [(id(b), b._version) for b in model.buffers()],
            [len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules()],
        ]

    before = state()
    yield
    assert state() == before
