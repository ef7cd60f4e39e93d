"""What is measured: shapes x dtypes of each op, as real networks have them, and random arrays of them."""

from typing import NamedTuple

import torch
from torch import Tensor


class Case(NamedTuple):
    """One row of the table. `op` is cam, overlay (a raw map and an image to a picture) or picture (activations,
    gradients and an image to a picture)."""

    op: str
    shape: tuple[int, int, int, int]  # N, C, H, W of the activations
    size: int | None = 224
    classes: int | None = None  # K
    dtype: torch.dtype = torch.float32
    constant: bool = False  # gradients that are the same at every pixel, with zero strides
    aims: tuple[float | None, float | None] = (None, None)  # times slower: pytorch-grad-cam, the strongest of the rest
    cold_aims: tuple[float | None, float | None] = (None, None)

    @property
    def title(self) -> str:
        N, C, H, W = self.shape
        shape = f"{N} x {H} x {W}" if self.op == "overlay" else f"({N}, {C}, {H}, {W})"
        words = [f"{shape} -> {self.size or 'same'}"]
        if self.classes:
            words.append(f"{self.classes} classes")
        if self.dtype != torch.float32:
            words.append(str(self.dtype).removeprefix("torch."))
        if self.constant:
            words.append("constant gradients")
        return ", ".join(words)

    def arrays(self, seed: int = 0) -> tuple[Tensor, ...]:
        """What the op takes: activations and gradients; images and raw heatmaps; or all but the heatmaps."""
        random = torch.Generator().manual_seed(seed)
        N, C, H, W = self.shape
        if self.op == "overlay":
            return self._images(random), torch.randn(N, H, W, generator=random).relu()
        activations = torch.randn(self.shape, generator=random).relu()
        gradients = (N, C, H, W) if self.classes is None else (N, self.classes, C, H, W)
        # A channel's gradients share a direction, of a size as real networks have it.
        direction = torch.randn(*gradients[:-2], 1, 1, generator=random)
        noise = 0 if self.constant else torch.randn(gradients, generator=random)
        a, g = activations.to(self.dtype), (1e-4 * (direction + noise)).to(self.dtype).expand(gradients)
        return (a, g, self._images(random)) if self.op == "picture" else (a, g)

    def _images(self, random: torch.Generator) -> Tensor:
        return torch.randint(256, (self.shape[0], self.size, self.size, 3), generator=random, dtype=torch.uint8)


BFLOAT16, FLOAT16 = torch.bfloat16, torch.float16
CASES = (
    Case("cam", (1, 1280, 7, 7)),
    Case("cam", (1, 2048, 7, 7), aims=(20, 10), cold_aims=(5, 3)),
    Case("cam", (8, 2048, 7, 7), aims=(10, 4)),
    Case("cam", (64, 2048, 7, 7), aims=(7, 2.1)),
    Case("cam", (16, 768, 14, 14), aims=(6, 2.5)),
    Case("cam", (32, 512, 28, 28), aims=(4.5, 1.4)),
    Case("cam", (8, 256, 56, 56), 512, aims=(5.5, 2)),
    Case("cam", (1, 2048, 32, 32), 1024, aims=(6, 2.5)),
    Case("cam", (64, 2048, 7, 7), None, dtype=BFLOAT16, aims=(None, 4)),
    Case("cam", (64, 2048, 7, 7), None, dtype=FLOAT16, aims=(None, 7)),
    Case("cam", (64, 2048, 7, 7), constant=True),
    Case("cam", (1, 2048, 7, 7), classes=20),
    Case("overlay", (8, 1, 7, 7)),
    Case("picture", (8, 2048, 7, 7), aims=(18, None)),
    Case("picture", (64, 2048, 7, 7), aims=(15, None)),
)
