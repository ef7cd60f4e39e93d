"""Small networks whose maps are no [N, C, H, W]: tokens, channels last, signals, volumes; and the oracle for them."""

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

import reference

CLASSES = 5


class Block(nn.Module):
    """A transformer's."""

    def __init__(self, width: int, heads: int = 2):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, tokens: Tensor) -> Tensor:
        before = self.norm1(tokens)
        tokens = tokens + self.attention(before, before, before, need_weights=False)[0]
        return tokens + self.mlp(self.norm2(tokens))


class ViT(nn.Module):
    """Dosovitskiy et al.'s, with a class token and registers in front, or a mean over its patches."""

    def __init__(self, prefix: int = 1, patch: int = 4, width: int = 8, pooled: bool = False):
        super().__init__()
        self.patch_embed = nn.Conv2d(3, width, patch, stride=patch)
        self.prefix = nn.Parameter(torch.randn(1, prefix, width))
        self.blocks = nn.ModuleList([Block(width), Block(width)])
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, CLASSES)
        self.pooled = pooled

    def forward(self, x: Tensor) -> Tensor:
        patches = self.patch_embed(x).flatten(2).mT
        row = torch.arange(patches.shape[1], device=x.device)[:, None]
        tokens = torch.cat([self.prefix.expand(len(x), -1, -1), patches + row / 7], 1)
        for block in self.blocks:
            tokens = block(tokens)
        tokens = self.norm(tokens)
        return self.head(tokens[:, self.prefix.shape[1] :].mean(1) if self.pooled else tokens[:, 0])


class Windows(nn.Module):
    """Channels last from the patches on, as torchvision's Swin has it."""

    def __init__(self, width: int = 6):
        super().__init__()
        self.embed = nn.Conv2d(3, width, 2, stride=2)
        self.norm = nn.LayerNorm(width)
        self.mix = nn.Linear(width, width)
        self.last = nn.LayerNorm(width)
        self.head = nn.Linear(width, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        maps = self.norm(self.embed(x).permute(0, 2, 3, 1))
        maps = self.last(maps + F.gelu(self.mix(maps)).roll(1, 2))
        return self.head(maps.permute(0, 3, 1, 2).mean((2, 3)))


class Convolutions(nn.Module):
    """Two convolutions over signals, images or volumes, a ReLU in place, pooling, a classifier."""

    def __init__(self, spatial: int):
        super().__init__()
        conv = (nn.Conv1d, nn.Conv2d, nn.Conv3d)[spatial - 1]
        self.spatial = spatial
        self.stem, self.body = conv(2, 4, 3, padding=1), conv(4, 5, 3, stride=2)
        self.act = nn.ReLU(inplace=True)
        self.head = nn.Linear(5, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.act(self.body(self.act(self.stem(x)))).flatten(2).mean(2))


def wanted(
    activations: NDArray,  # [N, C, *S]
    gradients: NDArray,  # [N, K, C, *S]
    method: str = "gradcam",
    size: tuple[int, ...] | None = None,
    relu: bool = True,
    normalize: str | None = "minmax",
    **options: float,
) -> NDArray:
    """[N, K, *S'] in float64: the oracle's formula, which does not ask where a pixel lies, on maps of any rank."""
    space = activations.shape[2:]
    flat = activations.reshape(*activations.shape[:2], 1, -1)
    scores, _ = reference.METHODS[method](flat, gradients.reshape(*gradients.shape[:3], 1, -1), **options)
    scores = scores.reshape(*scores.shape[:2], *space)
    scores = np.maximum(scores, 0) if relu else scores
    return normalized(reference.bilinear(scores, size or space), normalize, len(space))


def normalized(maps: NDArray, mode: str | None, rank: int) -> NDArray:
    flat = maps.reshape(*maps.shape[:-rank], 1, -1)
    return reference.normalize(flat, mode).reshape(maps.shape)


def fused(maps: list[NDArray], fuse: str, size: tuple[int, ...], normalize: str | None, rank: int = 2) -> NDArray:
    """Several layers' finished maps, each at its own resolution, as one."""
    drawn = np.stack([reference.bilinear(each, size) for each in maps])
    one = {"mean": drawn.mean(0), "max": drawn.max(0), "product": drawn.prod(0)}[fuse]
    return normalized(one, normalize, rank)
