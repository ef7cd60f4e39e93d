"""Networks for the rarer methods: ReLUs of every spelling, curved heads, vision transformers; formulas they share."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

import reference
from capture_models import CLASSES


@pytest.fixture
def double():
    """Fresh numbers, in float64: a map's small range must not hide behind a wide tolerance. On one thread, as networks
    this small are fastest."""
    print("seed:", torch.seed())
    before = torch.get_default_dtype(), torch.get_num_threads()
    torch.set_default_dtype(torch.float64)
    torch.set_num_threads(1)
    yield
    torch.set_default_dtype(before[0])
    torch.set_num_threads(before[1])


def close(got: Any, wanted: Any, atol: float = 1e-9) -> None:
    got, wanted = torch.as_tensor(got).detach(), torch.as_tensor(wanted).detach()
    torch.testing.assert_close(got.clone(), wanted.clone().to(got.dtype), rtol=0, atol=atol)


def gradcam(activations: Any, weights: Any, size: tuple[int, int], relu: bool = True) -> NDArray:
    """[C, H, W] and weights [C] -> [*size], not normalised."""
    raw = np.einsum("c,chw->hw", np.asarray(weights), np.asarray(activations))
    return reference.bilinear(np.maximum(raw, 0) if relu else raw, size)


class Spelled(nn.Module):
    """Two convolutions and a head, with a ReLU after each but the last, written as `relu` says."""

    def __init__(self, relu: Callable[[Tensor], Tensor]):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 5, 3, padding=1), nn.Conv2d(5, 6, 3)
        self.hidden, self.head = nn.Linear(6, 8), nn.Linear(8, CLASSES)
        self.relu = relu

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.second(self.relu(self.first(x))))
        return self.head(self.relu(self.hidden(x.mean((2, 3)))))


class Last(nn.Module):
    """The same values as [N, C, H, W], as [N, H, W, C] and as tokens behind three others; a curved head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 6, 4, stride=4), nn.Linear(6, CLASSES)
        self.first, self.last, self.tokens = nn.Identity(), nn.Identity(), nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        x = self.last(self.first(self.stem(x)).permute(0, 2, 3, 1)).flatten(1, 2)
        x = self.tokens(torch.cat([torch.ones_like(x[:, :3]), x], 1))[:, 3:]
        return self.head(x.tanh().mean(1)).sigmoid()


class Curved(nn.Module):
    """A head whose score bends: its Hessian by the layer's output is not zero."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 4, 3, stride=2)
        self.mix = nn.Conv2d(4, 5, 1)
        self.head = nn.Linear(5, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        return self.behind(self.layer(x))

    def behind(self, maps: Tensor) -> Tensor:
        return self.head((self.mix(maps).tanh() * maps.sum(1, keepdim=True).sigmoid()).mean((2, 3))).tanh()


KINDS = ("module", "fused", "masked", "grouped", "causal", "written", "function", "packed")


class Block(nn.Module):
    """A transformer's block; `kind` says what its attention is written as."""

    def __init__(self, width: int, heads: int, kind: str):
        super().__init__()
        self.kind, self.heads = kind, heads
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.self_attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        y = self.ln_1(x)
        if self.kind == "module":
            attended, _ = self.self_attention(y, y, y, need_weights=False)
        else:
            q, k, v = self.projected(y)
            attended = self.joined(self.attend(q, k, v))
        x = x + attended
        return x + self.mlp(self.ln_2(x))

    def projected(self, x: Tensor) -> list[Tensor]:
        """Queries, keys and values, each [N, heads, T, D]."""
        own = self.self_attention
        parts = F.linear(x, own.in_proj_weight, own.in_proj_bias).chunk(3, -1)
        parts = [part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in parts]
        if self.kind == "grouped":
            parts[1:] = [part[:, :1] for part in parts[1:]]
        return parts

    def joined(self, heads: Tensor) -> Tensor:
        return self.self_attention.out_proj(heads.transpose(1, 2).flatten(2))

    def mask(self, tokens: int) -> Tensor | None:
        """What is added to the scores."""
        if self.kind == "causal":
            return torch.full((tokens, tokens), -torch.inf).triu(1)
        if self.kind == "masked":
            return torch.linspace(-1, 1, tokens * tokens).reshape(tokens, tokens)
        return None

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        if self.kind in ("written", "function", "packed"):
            scores = q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5
            if self.kind == "function":
                return torch.softmax(scores, dim=3) @ v
            if self.kind == "packed":  # all heads of all images along one axis
                return (F.softmax(scores.flatten(0, 1), -1) @ v.flatten(0, 1)).reshape(v.shape)
            return scores.softmax(-1) @ v
        options: dict[str, Any] = {"fused": {}, "grouped": {"enable_gqa": True, "scale": 0.3}}.get(self.kind, {})
        if self.kind == "causal":
            options = {"is_causal": True}
        elif self.kind == "masked":
            options = {"attn_mask": self.mask(q.shape[2])}
        return F.scaled_dot_product_attention(q, k, v, **options)


class ViT(nn.Module):
    """Patches of 8 pixels, a class token, blocks, and the class token's scores."""

    def __init__(self, kind: str = "module", depth: int = 3, width: int = 12, heads: int = 3, tokens: int = 17):
        super().__init__()
        self.patch = nn.Conv2d(3, width, 8, 8)
        self.token = nn.Parameter(torch.randn(1, 1, width))
        self.place = nn.Parameter(torch.randn(1, tokens, width))
        self.blocks = nn.ModuleList(Block(width, heads, kind) for _ in range(depth))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, CLASSES)

    def embedded(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        return torch.cat([self.token.expand(len(x), -1, -1), x], 1) + self.place

    def pooled(self, tokens: Tensor) -> Tensor:
        """The paper's score of a block's tokens."""
        return self.head(self.norm(tokens.mean(1)))

    def forward(self, x: Tensor) -> Tensor:
        x = self.embedded(x)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x)[:, 0])
