"""Ablation-CAM by whole runs of a model, and a network whose modules note how often they run."""

import copy
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fusedcam
from capture_models import CLASSES
from fusedcam.torch.outputs import find_map, replaced


def close(got, wanted, atol=1e-9):
    torch.testing.assert_close(got, wanted, rtol=0, atol=atol)


def plain(model, layer, x, score, call=-1, **kwargs):
    """Activations [N, C, H, W], scores [N, K] and scores without each channel [N, K, C], by whole runs of the model."""
    seen: list[Any] = []
    with torch.no_grad():
        with layer.register_forward_hook(lambda *io: seen.append(copy.deepcopy(find_map(io[2], len(x))))):
            y = score(model(x, **kwargs))
        right = range(len(seen))[call]
        columns = []
        for channel in range(seen[call].shape[1]):
            count = iter(range(99))

            def ablate(module, inputs, output, channel=channel, count=count):
                if next(count) != right:
                    return None
                maps = find_map(output, len(x))
                return replaced(output, maps, maps.index_fill(1, torch.tensor([channel]), 0))

            with layer.register_forward_hook(ablate):
                columns.append(score(model(x, **kwargs)))
    return seen[call], y, torch.stack(columns, -1)


def expected(model, layer, x, score, call=-1, **kwargs):
    """[N, K, H, W]"""
    activations, y, y_k = plain(model, layer, x, score, call, **kwargs)
    return fusedcam.cam(activations, weights=(y[..., None] - y_k) / y[..., None], size=tuple(x.shape[-2:]))


def all_classes(output):
    return output


EVERY = [list(range(CLASSES))] * 3


class Counting(nn.Module):
    """A module that notes how many rows each of its runs had."""

    def __init__(self, inner: nn.Module):
        super().__init__()
        self.inner, self.rows = inner, []

    def forward(self, x: Tensor) -> Tensor:
        self.rows.append(len(x))
        return self.inner(x)


class Residual(nn.Module):
    """A stem, a block around the layer with a skip connection, and a head; `write` writes in place here and there."""

    def __init__(self, write: str = ""):
        super().__init__()
        self.write = write
        self.stem = Counting(nn.Conv2d(3, 6, 3, padding=1))
        self.relu = nn.ReLU(inplace=True)
        self.before = Counting(nn.Conv2d(6, 6, 3, padding=1))
        self.layer = nn.Conv2d(6, 6, 1)
        self.norm = nn.BatchNorm2d(6)
        self.head = Counting(nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(24, CLASSES)))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        if self.write == "before":
            x.mul_(2)
        if self.write == "statement before":
            self.relu(x)
        else:
            x = self.relu(x)
        inner = self.layer(self.before(x))
        if self.write == "layer's output":
            inner.add_(1)
        if self.write == "skip":
            x.mul_(3)
        if self.write == "statement":
            self.relu(x)
        if self.write == "concatenated":
            return self.head(torch.cat([x, inner], 1)[:, 3:9])
        return self.head(F.relu(self.norm(inner) + x, inplace=True))
