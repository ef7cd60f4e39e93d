"""The rarer methods beside the peers' own: ResNet-50 at 224 x 224 and a vision transformer, random weights.

    python bench/rare.py --batch 1 4 --only FullGrad SESS      # interleaved; ratios within a round

What each peer is given is what it documents: pytorch-grad-cam and torch-cam bring finished maps, Captum and
GuidedBackpropReLUModel gradients; the latter explains the first image of a batch. torch-cam's SmoothGradCAMpp makes
weights of its moments, too, which is nothing beside its runs.
"""

import argparse
import contextlib
import io
import os
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

import fusedcam.torch as ours
from fusedcam.torch.explainer import Run
from memory import peak_bytes
from models import resnet50
from peers import import_pytorch_grad_cam
from records import add_output, machine, save
from timing import interleaved, quartiles, threads

SIDE = 224
LAYERS = ["layer2", "layer3", "layer4"]
Calls = dict[str, Callable[[], Any]]


class Block(nn.Module):
    """A transformer's block with the names that torch-cam asks for (Dosovitskiy et al. 2020,
    https://arxiv.org/abs/2010.11929)."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.self_attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: Tensor) -> Tensor:
        y = self.ln_1(x)
        x = x + self.self_attention(y, y, y, need_weights=False)[0]
        return x + self.mlp(self.ln_2(x))


class ViT(nn.Module):
    """Of the size called S: 12 blocks of 384 features and 6 heads on patches of 16 pixels."""

    def __init__(self, width: int = 384, heads: int = 6, depth: int = 12):
        super().__init__()
        self.patch = nn.Conv2d(3, width, 16, 16)
        self.token = nn.Parameter(torch.zeros(1, 1, width))
        self.place = nn.Parameter(torch.randn(1, 1 + (SIDE // 16) ** 2, width))
        self.blocks = nn.Sequential(*(Block(width, heads) for _ in range(depth)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 1000)

    def pooled(self, tokens: Tensor) -> Tensor:
        return self.head(self.norm(tokens.mean(1)))

    def forward(self, x: Tensor) -> Tensor:
        x = self.patch(x).flatten(2).transpose(1, 2)
        x = self.blocks(torch.cat([self.token.expand(len(x), -1, -1), x], 1) + self.place)
        return self.head(self.norm(x)[:, 0])


def calls_for(model: nn.Sequential, vit: ViT, x: Tensor) -> dict[str, Calls]:
    """By method: ours first, then the peers'."""
    import captum.attr
    from torchcam import methods as torchcam

    package = import_pytorch_grad_cam()
    from pytorch_grad_cam.sess import SESS

    n, modules = len(x), [model.get_submodule(name) for name in LAYERS]
    classes, columns = [1] * n, torch.ones(n, dtype=torch.int64)
    target = package.utils.model_targets.ClassifierOutputTarget(1)
    against = package.utils.model_targets.FinerWeightedTarget(1, [2, 3, 4], 1)
    gradcam = ours.GradCAM(model, "layer4")
    blocks = list(vit.blocks)[-4:]

    def theirs(kind: Any, layers: Any, target: Any = target, smooth: bool = False, **options: Any) -> Callable[[], Any]:
        """pytorch-grad-cam's, made anew: its hooks would else be on the model during everyone's calls."""
        more = {"aug_smooth": True} if smooth else {}
        return lambda: kind(model, layers, **options)(x, [target] * n, **more)

    def extracted(kind: Any, model: nn.Module, layers: Any, **options: Any) -> Callable[[], Any]:
        def call() -> Any:
            with kind(model, layers, **options) as extract:
                return extract(classes, model(x))

        return call

    def attributed(attribution: Any, **options: Any) -> Callable[[], Any]:
        return lambda: attribution.attribute(x.clone().requires_grad_(), columns, **options)

    last = modules[-1:]
    guided = captum.attr.GuidedGradCam(model, modules[-1])
    return {
        "FinerCAM": {
            "fusedcam": partial(ours.FinerCAM(model, "layer4", similar=[2, 3, 4]), x, targets=1),
            "pytorch-grad-cam": theirs(package.FinerCAM, last, against),
            "torch-cam": extracted(torchcam.FinerCAM, model, "layer4"),
        },
        "ShapleyCAM": {
            "fusedcam": partial(ours.ShapleyCAM(model, "layer4"), x, targets=1),
            "pytorch-grad-cam": theirs(package.ShapleyCAM, last),
        },
        "RefineCAM": {
            "fusedcam": partial(ours.RefineCAM(model, LAYERS), x, targets=1),
            "pytorch-grad-cam": theirs(package.RefineCAM, modules, base_method=package.GradCAM),
            "torch-cam": extracted(torchcam.RefineCAM, model, LAYERS, base_method=torchcam.GradCAM),
        },
        "FullGrad": {
            "fusedcam": partial(ours.FullGrad(model), x, targets=1),
            "pytorch-grad-cam": theirs(package.FullGrad, []),
        },
        "SESS, 2 scales": {
            "fusedcam": partial(ours.SESS(gradcam, scales=2), x, targets=1),
            "pytorch-grad-cam": theirs(SESS, last, num_scales=2),
        },
        "GuidedBackprop": {
            "fusedcam": partial(ours.GuidedBackprop(model), x, targets=1),
            "pytorch-grad-cam": lambda: package.GuidedBackpropReLUModel(model)(x.clone(), 1),
            "Captum": attributed(captum.attr.GuidedBackprop(model)),
        },
        "GuidedGradCAM": {
            "fusedcam": partial(ours.GuidedGradCAM(model, "layer4"), x, targets=1),
            "Captum": attributed(guided, interpolate_mode="bilinear"),
        },
        "LeGrad, 4 blocks": {
            "fusedcam": partial(ours.LeGrad(vit, blocks, head=vit.pooled), x, targets=1),
            "torch-cam": extracted(torchcam.LeGrad, vit, blocks, score_projection=vit.pooled),
        },
        "aug_smooth": {
            "fusedcam": partial(ours.Smoothed(gradcam), x, targets=1),
            "one by one": lambda: [gradcam(x * factor, targets=1) for factor in (0.9, 1.0, 1.1) * 2],
            "pytorch-grad-cam": theirs(package.GradCAM, last, smooth=True),
        },
        "Smooth Grad-CAM++, 4 copies": {
            "fusedcam": partial(ours.noisy_moments, gradcam, Run((x,), {}, 1), samples=4),
            "torch-cam": extracted(torchcam.SmoothGradCAMpp, model, "layer4", num_samples=4),
        },
    }


def measure(name: str, calls: Calls, rounds: int) -> dict[str, Any]:
    with contextlib.redirect_stdout(io.StringIO()):  # pytorch-grad-cam's remarks
        seconds = interleaved(calls, rounds, sample=0)
        peaks = {who: peak_bytes(call) for who, call in calls.items()}
    return {
        "method": name,
        "ms": {who: quartiles(1e3 * figures) for who, figures in seconds.items()},
        "times as long": {who: quartiles(seconds[who] / seconds["fusedcam"]) for who in calls if who != "fusedcam"},
        "MB": {who: round(peak / 1e6, 1) for who, peak in peaks.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--only", nargs="+", help="methods whose names begin so")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="PyTorch's and ours")
    add_output(parser)
    given = parser.parse_args()
    rows = []
    with threads(given.threads):
        model, vit = resnet50(), ViT().eval()
        for batch in given.batch:
            x = torch.randn(batch, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
            for name, calls in calls_for(model, vit, x).items():
                if not given.only or name.startswith(tuple(given.only)):
                    rows.append({"batch": batch, **measure(name, calls, given.rounds)})
                    tell(rows[-1])
        facts = machine()
    if given.output or not given.only:
        save({"machine": facts, "rows": rows}, "rare", given.output)


def tell(row: dict[str, Any]) -> None:
    print(f"{row['method']}, batch {row['batch']}, load {os.getloadavg()[0]:.1f}:")
    for name, (low, middle, high) in row["ms"].items():
        ratio = "{1:.2f} times ({0:.2f} to {2:.2f})".format(*row["times as long"][name]) if name != "fusedcam" else ""
        print(f"  {name:18}{middle:8.1f} ms ({low:.1f} to {high:.1f}) {ratio:>30}{row['MB'][name]:9.1f} MB", flush=True)


if __name__ == "__main__":
    main()
