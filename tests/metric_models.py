"""A model that is linear in its pixels, so that what a pixel's removal does is known, and orders in NumPy."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn


class Pixels(nn.Module):
    """Scores [M, classes]: weights [classes, C, H, W] times the image, plus a bias. Notes the batches that it sees."""

    def __init__(self, weights: NDArray, bias: NDArray | None = None, dtype: torch.dtype = torch.float64):
        super().__init__()
        self.weights = nn.Parameter(torch.from_numpy(np.asarray(weights)).to(dtype))
        self.bias = nn.Parameter(torch.from_numpy(np.zeros(len(weights)) if bias is None else bias).to(dtype))
        self.batches: list[int] = []
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        assert not torch.is_grad_enabled()
        self.batches.append(len(x))
        return x.flatten(1) @ self.weights.flatten(1).T + self.bias


def random_model(rng: np.random.Generator, classes: int, shape: tuple[int, ...], scale: float = 1) -> Pixels:
    return Pixels(scale * rng.normal(size=(classes, *shape)), rng.normal(size=classes))


def softmax(scores: NDArray) -> NDArray:
    powers = np.exp(scores - scores.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def scores_of(model: Pixels, x: NDArray) -> NDArray:
    """[N, classes] in float64."""
    weights, bias = (parameter.detach().double().numpy() for parameter in (model.weights, model.bias))
    return np.einsum("nchw,kchw->nk", x.astype(np.float64), weights) + bias


def ranks(heatmap: NDArray) -> NDArray:
    """[H, W]: 0 for the highest value; of equal ones the first in rows from the top left is first."""
    height, width = heatmap.shape
    places = sorted(np.ndindex(height, width), key=lambda place: (-heatmap[place], place))
    result = np.empty((height, width), int)
    for rank, place in enumerate(places):
        result[place] = rank
    return result
