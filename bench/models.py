"""Networks to explain: ResNet-50 in plain PyTorch, with random weights, since time and memory do not depend on them."""

import torch
from torch import Tensor, nn

BLOCKS = ((64, 3), (128, 4), (256, 6), (512, 3))  # width and number of each stage's bottlenecks
EXPANSION = 4


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions beside a shortcut (He et al. 2015, https://arxiv.org/abs/1512.03385, figure 5)."""

    def __init__(self, channels: int, width: int, stride: int):
        super().__init__()
        self.branch = nn.Sequential(
            nn.Conv2d(channels, width, 1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, width, 3, stride, 1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
            nn.Conv2d(width, EXPANSION * width, 1, bias=False),
            nn.BatchNorm2d(EXPANSION * width),
        )
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or channels != EXPANSION * width:
            self.shortcut = nn.Sequential(
                nn.Conv2d(channels, EXPANSION * width, 1, stride, bias=False), nn.BatchNorm2d(EXPANSION * width)
            )
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        return self.relu(self.branch(x) + self.shortcut(x))


def resnet50(seed: int = 0) -> nn.Sequential:
    """Its last stage, `layer4`, returns [N, 2048, 7, 7] for images of 224 x 224."""
    torch.manual_seed(seed)
    net = nn.Sequential()
    net.add_module("conv1", nn.Conv2d(3, 64, 7, 2, 3, bias=False))
    net.add_module("bn1", nn.BatchNorm2d(64))
    net.add_module("relu", nn.ReLU(inplace=True))
    net.add_module("maxpool", nn.MaxPool2d(3, 2, 1))
    channels = 64
    for stage, (width, count) in enumerate(BLOCKS, 1):
        blocks = nn.Sequential()
        for block in range(count):
            blocks.append(Bottleneck(channels, width, 2 if stage > 1 and block == 0 else 1))
            channels = EXPANSION * width
        net.add_module(f"layer{stage}", blocks)
    net.add_module("avgpool", nn.AdaptiveAvgPool2d(1))
    net.add_module("flatten", nn.Flatten())
    net.add_module("fc", nn.Linear(channels, 1000))
    return net.eval()
