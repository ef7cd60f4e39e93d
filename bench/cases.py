"""What is measured: shapes x dtypes of each op, as real networks have them, and random arrays of them."""

from typing import NamedTuple

import torch


class Case(NamedTuple):
    """One row of the table."""

    op: str
    title: str
    shape: tuple[int, int, int, int]  # N, C, H, W of the activations
    size: int | None = 224
    classes: int | None = None  # K
    dtype: torch.dtype = torch.float32

    def arrays(self, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
        """What the op takes: activations and gradients, or images and raw heatmaps."""
        random = torch.Generator().manual_seed(seed)
        N, C, H, W = self.shape
        if self.op == "overlay":
            images = torch.randint(256, (N, self.size, self.size, 3), generator=random, dtype=torch.uint8)
            return images, torch.randn(N, H, W, generator=random).relu()
        activations = torch.randn(self.shape, generator=random).relu()
        gradients = (N, C, H, W) if self.classes is None else (N, self.classes, C, H, W)
        # A channel's gradients share a direction, of a size as real networks have it.
        direction = torch.randn(*gradients[:-2], 1, 1, generator=random)
        noise = torch.randn(gradients, generator=random)
        return activations.to(self.dtype), (1e-4 * (direction + noise)).to(self.dtype)


CASES = (
    Case("cam", "EfficientNet-Lite0, 1 image", (1, 1280, 7, 7)),
    Case("cam", "ResNet-50, 1 image", (1, 2048, 7, 7)),
    Case("cam", "ResNet-50, 16 images", (16, 2048, 7, 7)),
    Case("cam", "ResNet-50, 16 images, bfloat16", (16, 2048, 7, 7), dtype=torch.bfloat16),
    Case("cam", "ResNet-50, 16 images, 7x7 maps", (16, 2048, 7, 7), size=None),
    Case("cam", "ResNet-50, 1 image, 20 classes", (1, 2048, 7, 7), classes=20),
    Case("cam", "VGG-16, 16 images", (16, 512, 14, 14)),
    Case("cam", "ResNet-50 layer1, 4 images", (4, 256, 56, 56)),
    Case("overlay", "1 image", (1, 1, 7, 7)),
    Case("overlay", "16 images", (16, 1, 7, 7)),
)
