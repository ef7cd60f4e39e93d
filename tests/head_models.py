"""What may follow a layer: heads that pool over all of space and classify, or do something else in between."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from fusedcam.torch.capture import Captured
from fusedcam.torch.explainer import Explainer, Run

CHANNELS, CLASSES, SIDES = 6, 5, (5, 4)


class Headed(nn.Module):
    """A convolution, `layer`, and a head on its maps [N, 6, 5, 4]."""

    def __init__(self, head: nn.Module | Callable[["Headed", Tensor], Tensor]):
        super().__init__()
        self.layer = nn.Conv2d(3, CHANNELS, 3)
        self.fc = nn.Linear(CHANNELS, CLASSES)
        self.pixel = nn.Conv2d(CHANNELS, CLASSES, 1)
        self.norm = nn.BatchNorm1d(CHANNELS)
        self.squeeze, self.excite = nn.Linear(CHANNELS, 2), nn.Linear(2, CHANNELS)
        self.dense = nn.Linear(CHANNELS * SIDES[0] * SIDES[1], CLASSES)
        self.head = head

    def forward(self, x: Tensor) -> Any:
        maps = self.layer(x)
        return self.head(maps) if isinstance(self.head, nn.Module) else self.head(self, maps)


class Mean(nn.Module):
    def __init__(self, axes: tuple[int, ...]):
        super().__init__()
        self.axes = axes

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(self.axes)


class GeM(nn.Module):
    """Generalised mean (Radenovic et al. 2017, https://arxiv.org/abs/1711.02512)."""

    def forward(self, x: Tensor) -> Tensor:
        return x.clamp(min=1e-6).pow(3).mean((2, 3)).pow(1 / 3)


def _excited(model: Headed, maps: Tensor) -> Tensor:
    gates = model.excite(model.squeeze(maps.mean((2, 3))).relu()).sigmoid()
    return model.fc((maps * gates[..., None, None]).mean((2, 3)))


def _gated_behind(model: Headed, maps: Tensor) -> Tensor:
    mean = maps.mean((2, 3))
    return model.fc(mean * model.excite(model.squeeze(mean).relu()).sigmoid())


def _scattered(model: Headed, maps: Tensor) -> Tensor:
    """Means over four channels' quarters: N * C of them, but of no channel alone."""
    mixed = maps.flatten(1).reshape(len(maps), SIDES[0] * SIDES[1], CHANNELS).mean(1)
    return model.fc(mixed)


def _tied(model: Headed, maps: Tensor) -> Tensor:
    mean = maps.mean((2, 3))
    return model.fc(mean) + model.pixel(mean[..., None, None]).flatten(1)


def _shuffled(model: Headed, maps: Tensor) -> Tensor:
    """Views alone, and yet the rows are not the gradients."""
    return model.fc(maps.mean((2, 3)).view(-1, 2, 3).transpose(1, 2).flatten(1))


def _weights_of_maps(model: Headed, maps: Tensor) -> Tensor:
    mean = maps.mean((2, 3))
    return mean @ (model.fc.weight.mT * mean.sum())


HEADS: dict[str, tuple[Callable[[], Any], str]] = {
    "linear": (lambda: nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(CHANNELS, CLASSES)), "linear"),
    "mean": (lambda: lambda m, a: m.fc(a.mean((2, 3))), "linear"),
    "mean, kept and squeezed": (lambda: lambda m, a: m.fc(a.mean((-1, -2), keepdim=True).squeeze((2, 3))), "linear"),
    "mean of one axis and the other": (lambda: lambda m, a: m.fc(a.mean(3).mean(2)), "linear"),
    "mean of flat maps": (lambda: lambda m, a: m.fc(a.flatten(2).mean(2)), "linear"),
    "full average pooling": (lambda: lambda m, a: m.fc(F.avg_pool2d(a, a.shape[2:]).flatten(1)), "linear"),
    "channels last": (
        lambda: lambda m, a: m.fc(F.adaptive_avg_pool2d(a.contiguous(memory_format=torch.channels_last), 1).flatten(1)),
        "linear",
    ),
    "permuted": (lambda: lambda m, a: m.fc(a.permute(0, 2, 3, 1).mean((1, 2))), "linear"),
    "dropout": (
        lambda: nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.5), nn.Identity(), nn.Linear(CHANNELS, CLASSES)
        ),
        "linear",
    ),
    "linear without bias": (
        lambda: nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(CHANNELS, CLASSES, bias=False)),
        "linear",
    ),
    "parametrized linear": (
        lambda: nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), weight_norm(nn.Linear(CHANNELS, CLASSES))),
        "linear",
    ),
    "convolution of one pixel": (
        lambda: nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(CHANNELS, CLASSES, 1), nn.Flatten()),
        "linear",
    ),
    "convolution in groups": (
        lambda: nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Conv2d(CHANNELS, 2 * 3, 1, groups=2), nn.Flatten()),
        "pooled",
    ),
    "hidden layer": (
        lambda: nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(CHANNELS, 9), nn.ReLU(), nn.Linear(9, CLASSES)
        ),
        "pooled",
    ),
    "two linear maps": (
        lambda: nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(CHANNELS, 9), nn.Linear(9, CLASSES)),
        "pooled",
    ),
    "batch norm behind": (lambda: lambda m, a: m.fc(m.norm(a.mean((2, 3)))), "pooled"),
    "scaled scores": (lambda: lambda m, a: 3 * m.fc(a.mean((2, 3))), "pooled"),
    "probabilities": (lambda: lambda m, a: m.fc(a.mean((2, 3))).log_softmax(1), "pooled"),
    "classes turned around": (lambda: lambda m, a: m.fc(a.mean((2, 3))).flip(1), "pooled"),
    "classes by views": (lambda: lambda m, a: m.fc(a.mean((2, 3))).mT.reshape(CLASSES, -1).T, "linear"),
    "classes mixed with images": (lambda: lambda m, a: m.fc(a.mean((2, 3))).mT.reshape(-1, CLASSES), "mixed"),
    "some classes": (lambda: lambda m, a: m.fc(a.mean((2, 3)))[:, 1:], "pooled"),
    "channels shuffled": (lambda: _shuffled, "pooled"),
    "some channels": (lambda: lambda m, a: m.excite(a.mean((2, 3))[:, 1:3]), "pooled"),
    "two classifiers": (lambda: _tied, "pooled"),
    "weights of the maps": (lambda: _weights_of_maps, "pooled"),
    "gated behind the pool": (lambda: _gated_behind, "pooled"),
    "squeeze and excite": (lambda: _excited, "none"),
    "skip": (lambda: lambda m, a: m.fc(a.mean((2, 3))) + a.amax((1, 2, 3))[:, None], "none"),
    "pooled twice": (lambda: lambda m, a: m.fc(a.mean((2, 3))) + m.fc(a.mean((2, 3)) ** 2), "none"),
    "a ReLU before": (lambda: lambda m, a: m.fc(a.relu().mean((2, 3))), "none"),
    "a ReLU in place": (lambda: lambda m, a: m.fc(a.relu_().mean((2, 3))), "none"),
    "no pooling": (lambda: lambda m, a: m.dense(a.flatten(1)), "none"),
    "max pooling": (lambda: lambda m, a: m.fc(a.amax((2, 3))), "none"),
    "GeM": (lambda: lambda m, a: m.fc(GeM()(a)), "none"),
    "a part of space": (lambda: lambda m, a: m.fc(a[:, :, 1:].mean((2, 3))), "none"),
    "padded average": (
        lambda: lambda m, a: m.fc(F.avg_pool2d(a, (7, 6), padding=(1, 1)).flatten(1)),
        "none",
    ),
    "channels mixed by the mean": (lambda: _scattered, "none"),
    "half the maps": (lambda: lambda m, a: m.fc(F.adaptive_avg_pool2d(a, (2, 1)).flatten(2).amax(2)), "none"),
    "pixels first, then the mean": (lambda: lambda m, a: m.pixel(a).mean((2, 3)), "none"),
}
"""A head, and by which shortcut gradients of its classes come; "mixed" depends on N."""


def headed(name: str) -> Headed:
    return Headed(HEADS[name][0]()).eval()


def captured(explain: Explainer, x: Tensor, targets: Any) -> Captured:
    """What one call has its map made of."""
    return explain._captured(Run((x,), {}, targets))


def close(got: Tensor, wanted: Tensor, allowed: float = 1e-12) -> None:
    torch.testing.assert_close(got, wanted, rtol=0, atol=allowed)
