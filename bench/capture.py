"""What an explanation costs beside the inference that it contains: time and memory of a ResNet-50 at 224 x 224.

    python bench/capture.py --batch 1 8        # interleaved; ratios within a round, median and quartiles

pytorch-grad-cam's whole call stands beside it. Memory is the peak of what PyTorch allocates during the call, after a
first call has found out what there is to know about the model.
"""

import argparse
import os
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from fusedcam.torch import GradCAM
from memory import peak_bytes
from models import resnet50
from peers import import_pytorch_grad_cam
from records import machine, save
from timing import interleaved, quartiles

SIDE = 224


def measure(model: nn.Module, layer: str, x: Tensor, rounds: int) -> dict[str, Any]:
    explain = GradCAM(model, layer)
    package = import_pytorch_grad_cam()
    peer = package.GradCAM(model, [model.get_submodule(layer)])
    target = [package.utils.model_targets.ClassifierOutputTarget(1)] * len(x)
    calls = {
        "inference": partial(infer, model, x),
        "fusedcam": partial(explain, x, targets=1),
        "pytorch-grad-cam": partial(peer, x, target),
    }
    seconds = interleaved(calls, rounds, sample=0)
    peaks = {name: peak_bytes(call) for name, call in calls.items()}
    head = sum(activation_bytes(model, layer, x))
    model.zero_grad(set_to_none=True)
    return {
        "batch": len(x),
        "ms": {name: quartiles(1e3 * figures) for name, figures in seconds.items()},
        "over inference": {
            name: quartiles(seconds[name] / seconds["inference"]) for name in calls if name != "inference"
        },
        "MB": {name: round(peak / 1e6, 2) for name, peak in peaks.items()},
        "MB allowed": round((peaks["inference"] + head) / 1e6, 2),
    }


def infer(model: nn.Module, x: Tensor) -> Tensor:
    with torch.no_grad():
        result: Tensor = model(x)
    return result


def activation_bytes(model: nn.Module, layer: str, x: Tensor) -> list[int]:
    """Of the layer's output (for the one clone of it) and of what the modules behind it return."""
    names = [name for name, _ in model.named_children()]
    sizes: list[int] = []
    hooks = [
        model.get_submodule(name).register_forward_hook(lambda module, inputs, output: sizes.append(output.nbytes))
        for name in names[names.index(layer) :]
    ]
    infer(model, x)
    for hook in hooks:
        hook.remove()
    return sizes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--rounds", type=int, default=15)
    given = parser.parse_args()
    model = resnet50()
    rows = [measure(model, "layer4", torch.rand(n, 3, SIDE, SIDE), given.rounds) for n in given.batch]
    facts = machine()
    save({"machine": facts, "rows": rows}, "capture")
    for row in rows:
        print(f"ResNet-50, layer4, batch {row['batch']}, {facts['threads']} threads, load {os.getloadavg()[0]:.1f}:")
        for name, (low, middle, high) in row["ms"].items():
            ratio = "{1:.3f} ({0:.3f} to {2:.3f})".format(*row["over inference"][name]) if name != "inference" else ""
            print(f"  {name:18}{middle:8.1f} ms ({low:.1f} to {high:.1f}) {ratio:>26}{row['MB'][name]:9.1f} MB")
        print(f"  allowed for fusedcam: {row['MB allowed']:.1f} MB")


if __name__ == "__main__":
    main()
