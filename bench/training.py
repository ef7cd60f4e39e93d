"""Training through a map: a network with a loss on its own Grad-CAM, on images with a cue, beside plain PyTorch.

A patch of stripes lies anywhere in the picture, and their direction is the class; a coloured tile in a corner says the
same while training, and is what a network learns first. A loss that asks for the map's mass inside the patch's box
teaches it the stripes. The map is that of the class's lead over the other one, without a ReLU: what speaks
against it is mass too.
Both ways start from one network and see the same images; the time is that of whole steps, interleaved.
"""

import argparse
import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fusedcam.torch import GradCAM
from records import add_output, machine, save
from timing import digits, interleaved, quartiles, threads

SIDE, BOX = 32, 9
CONTRAST = 0.2  # of stripes, on noise up to 0.3
Batch = tuple[Tensor, Tensor, Tensor]
Step = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def images(count: int, generator: torch.Generator, cue: bool) -> Batch:
    """Pictures [N, 3, 32, 32], classes [N] and the patches' boxes [N, 32, 32]."""
    x = 0.3 * torch.rand(count, 3, SIDE, SIDE, generator=generator)
    classes = torch.randint(2, (count,), generator=generator)
    boxes = torch.zeros(count, SIDE, SIDE)
    corners = torch.randint(6, SIDE - BOX - 1, (count, 2), generator=generator)
    stripes = (torch.arange(BOX) // 2 % 2).float()
    for i, (top, left) in enumerate(corners.tolist()):
        rows = stripes if classes[i] else stripes[:, None]
        x[i, :, top : top + BOX, left : left + BOX] += CONTRAST * rows
        boxes[i, top : top + BOX, left : left + BOX] = 1
    if cue:
        x[torch.arange(count), classes * 2, :5, :5] += 0.7
    return x, classes, boxes


def network() -> nn.Sequential:
    def block(before: int, after: int, stride: int) -> list[nn.Module]:
        return [nn.Conv2d(before, after, 3, stride, 1), nn.ReLU()]

    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(48, 2)]
    return nn.Sequential(*block(3, 16, 1), *block(16, 32, 2), *block(32, 48, 1), *head)


LAYER = 5  # the last block's ReLU


def lead(classes: Tensor) -> Callable[[Tensor], Tensor]:
    """From scores [N, 2] to those of the classes over the other one's."""
    return lambda scores: (scores * (2 * F.one_hot(classes, 2) - 1)).sum(1)


def ours(model: nn.Sequential) -> Step:
    explain = GradCAM(model, str(LAYER), create_graph=True)

    def step(x: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
        return explain(x, targets=lead(classes), relu=False, normalize=None), explain.output

    return step


def plain(model: nn.Sequential) -> Step:
    def step(x: Tensor, classes: Tensor) -> tuple[Tensor, Tensor]:
        activations = model[: LAYER + 1](x)
        scores = model[LAYER + 1 :](activations)
        (gradients,) = torch.autograd.grad(lead(classes)(scores).sum(), activations, create_graph=True)
        raw = (gradients.mean((2, 3), keepdim=True) * activations).sum(1)
        return F.interpolate(raw[:, None], size=x.shape[-2:], mode="bilinear", align_corners=False)[:, 0], scores

    return step


def share_of(heat: Tensor, boxes: Tensor) -> Tensor:
    """Of each map's mass, what speaks for the class inside the box."""
    return (heat.relu() * boxes).sum((1, 2)) / heat.abs().sum((1, 2)).clamp_min(1e-6)


def update(step: Step, optimizer: torch.optim.Optimizer, batch: Batch, weight: float) -> None:
    x, classes, boxes = batch
    heat, scores = step(x, classes)
    loss = F.cross_entropy(scores, classes) + weight * (1 - share_of(heat, boxes)).mean()
    optimizer.zero_grad(set_to_none=True)
    loss.backward()
    optimizer.step()


def train(model: nn.Sequential, way: Callable[[nn.Sequential], Step], steps: int, weight: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(model.parameters(), 2e-3)
    step = way(model)
    model.train()
    for _ in range(steps):
        update(step, optimizer, images(32, generator, cue=True), weight)


def judged(model: nn.Sequential) -> dict[str, float]:
    """On images that were not trained on."""
    model = copy.deepcopy(model).eval()
    with_cue, without = (images(512, torch.Generator().manual_seed(7), cue) for cue in (True, False))
    heat = GradCAM(model, str(LAYER))(with_cue[0], targets=lead(with_cue[1]), relu=False, normalize=None)
    with torch.inference_mode():
        right = [(model(x).argmax(1) == classes).double().mean().item() for x, classes, _ in (with_cue, without)]
    return {
        "share of mass in the box": digits(share_of(heat, with_cue[2]).mean().item(), 3),
        "accuracy with the cue": digits(right[0], 3),
        "accuracy without": digits(right[1], 3),
    }


def difference(first: nn.Module, second: nn.Module) -> float:
    """The largest of parameters, relative to their own largest."""
    pairs = zip(first.parameters(), second.parameters(), strict=True)
    return max(((a - b).abs().max() / b.abs().max()).item() for a, b in pairs)


def measure(steps: int, more: int, weight: float, rounds: int) -> dict[str, Any]:
    torch.manual_seed(0)
    start = network()
    found: dict[str, Any] = {"untrained": judged(start)}
    train(start, ours, steps, 0.0, seed=1)
    found["trained on classes alone"] = judged(start)
    models = {}
    for name, way in (("ours", ours), ("plain PyTorch", plain)):
        models[name] = copy.deepcopy(start)
        train(models[name], way, more, weight, seed=2)
        found[f"then with the map, {name}"] = judged(models[name])
    # Rounding grows over a training; a few steps in float64 have the same numbers.
    doubles = []
    for way in (ours, plain):
        double = copy.deepcopy(start).double()
        optimizer, step = torch.optim.SGD(double.parameters(), 1e-2), way(double)
        generator = torch.Generator().manual_seed(3)
        for _ in range(5):
            x, classes, boxes = images(32, generator, cue=True)
            update(step, optimizer, (x.double(), classes, boxes.double()), weight)
        doubles.append(double)
    found["difference after 5 steps in float64"] = digits(difference(*doubles), 2)
    calls = {}
    batch = images(32, torch.Generator().manual_seed(4), cue=True)
    for name, way in (("ours", ours), ("plain PyTorch", plain)):
        model = copy.deepcopy(start).train()
        optimizer, step = torch.optim.Adam(model.parameters(), 0.0), way(model)
        calls[name] = lambda step=step, optimizer=optimizer: update(step, optimizer, batch, weight)
    seconds = interleaved(calls, rounds)
    found["time of a step over plain PyTorch's"] = quartiles(seconds["ours"] / seconds["plain PyTorch"])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=100, help="on classes alone")
    parser.add_argument("--more", type=int, default=300, help="steps with the map")
    parser.add_argument("--weight", type=float, default=3.0, help="of the loss on the map")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--threads", type=int, default=1)
    add_output(parser)
    given = parser.parse_args()
    facts = machine()
    with threads(given.threads):
        found = measure(given.steps, given.more, given.weight, given.rounds)
    for name, value in found.items():
        print(f"{name}: {np.round(value, 3).tolist() if isinstance(value, list | tuple) else value}")
    save({"machine": facts, "threads": given.threads, **found}, "training", given.output)


if __name__ == "__main__":
    main()
