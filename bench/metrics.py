"""Measures of heatmaps beside the peers' own: deletion and insertion, confidence, ROAD and its imputation alone.

    python bench/metrics.py --images 4 --rounds 7     # interleaved; ratios within a round, median and quartiles

Each peer's measure gets the same maps and the same model, EfficientNet-Lite0 on photographs, or with --small a network
whose run costs next to nothing, so that what is left is the measure's own work. torch-cam's takes an extractor, which
returns the maps that are there already.
"""

import argparse
import os
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from fusedcam.torch import GradCAM
from fusedcam.torch.metrics import confidence_change, deletion, insertion, linear_imputation, road
from fusedcam.torch.pretrained import SIDE, load
from peers import import_pytorch_grad_cam
from records import add_output, machine, save
from timing import digits, interleaved, quartiles, threads

PHOTOS = ("chelsea", "coffee", "camera", "astronaut", "rocket")
STEPS = 16
BATCH = 32


class Given:
    """An extractor for torch-cam's measures."""

    def __init__(self, model: nn.Module, maps: Tensor):
        self.model, self.maps = model, maps

    def __call__(self, class_idx: Any, scores: Any) -> list[Tensor]:
        return [self.maps]

    def fuse_cams(self, cams: list[Tensor]) -> Tensor:
        return cams[0]

    def _hooks_off(self) -> Any:
        return nullcontext()


class Small(nn.Module):
    """Colours and places weighed: [N, 3, H, W] -> [N, 10]."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(3 * 7 * 7, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(nn.functional.adaptive_avg_pool2d(x, 7).flatten(1))


def photographs(count: int) -> Tensor:
    import skimage.data
    from PIL import Image

    classifier = load("efficientnet-lite0")
    chosen = (PHOTOS[at % len(PHOTOS)] for at in range(count))
    found = [Image.fromarray(getattr(skimage.data, name)()).convert("RGB") for name in chosen]
    return torch.cat([classifier.prepare(photo) for photo in found])


def torchcam_curves(model: nn.Module, images: Tensor, maps: Tensor, classes: list[int]) -> list[float]:
    from torchcam.metrics import DeletionInsertionMetric

    metric = DeletionInsertionMetric(Given(model, maps), partial(torch.softmax, dim=1), steps=STEPS, batch_size=BATCH)
    with torch.no_grad():
        metric.update(images, classes)
    return [*metric.summary().values()]


def our_curves(model: nn.Module, images: Tensor, maps: Tensor, classes: list[int]) -> list[float]:
    options: dict[str, Any] = {"step": -(-SIDE * SIDE // STEPS), "baseline": "zeros", "batch_size": BATCH}
    return [float(one(model, images, maps, classes, **options).area.mean()) for one in (deletion, insertion)]


def torchcam_confidence(model: nn.Module, images: Tensor, maps: Tensor, classes: list[int]) -> list[float]:
    from torchcam.metrics import ClassificationMetric

    metric = ClassificationMetric(Given(model, maps), partial(torch.softmax, dim=1))
    with torch.no_grad():
        metric.update(images, classes)
    return [*metric.summary().values()]


def our_confidence(model: nn.Module, images: Tensor, maps: Tensor, classes: list[int]) -> list[float]:
    change = confidence_change(model, images, maps, classes, batch_size=BATCH)
    return [float(change.drop.mean()), float(change.increase.double().mean())]


def pytorch_grad_cam_road(model: nn.Module, images: Tensor, maps: Tensor, classes: list[int]) -> list[float]:
    targets = import_pytorch_grad_cam().utils.model_targets
    from pytorch_grad_cam.metrics.road import ROADCombined

    chosen = [targets.ClassifierOutputSoftmaxTarget(k) for k in classes]
    return [float(one) for one in ROADCombined()(images, maps.numpy(), chosen, model)]


def our_road(model: nn.Module, images: Tensor, maps: Tensor, classes: list[int]) -> list[float]:
    morf, lerf = (road(model, images, maps, classes, order=o, batch_size=BATCH).mean for o in ("morf", "lerf"))
    return ((lerf - morf) / 2).tolist()


def pytorch_grad_cam_imputation(images: Tensor, removed: Tensor) -> Tensor:
    import_pytorch_grad_cam()
    from pytorch_grad_cam.metrics.road import NoisyLinearImputer

    impute = NoisyLinearImputer(noise=0)
    return torch.stack([impute(one, (~gone).float()) for one, gone in zip(images, removed, strict=True)])


def compare(title: str, ours: Callable[[], Any], theirs: Callable[[], Any], rounds: int) -> dict[str, Any]:
    """One line, and what it says: milliseconds, how many times slower the peer is, how far apart the numbers are."""
    seconds = interleaved({"ours": ours, "theirs": theirs}, rounds, sample=0)
    low, middle, high = times = quartiles(seconds["theirs"] / seconds["ours"])
    gap = float(np.abs(np.asarray(ours()) - np.asarray(theirs())).max())
    print(
        f"{title:44}{quartiles(1e3 * seconds['ours'])[1]:9.1f} ms{middle:8.2f}x ({low:.2f} to {high:.2f})"
        f"   apart by {digits(gap, 2)}",
        flush=True,
    )
    milliseconds = {name: quartiles(1e3 * figures) for name, figures in seconds.items()}
    return {"case": title, "ms": milliseconds, "times": times, "apart": gap}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--small", action="store_true", help="a network that costs next to nothing")
    add_output(parser)
    given = parser.parse_args()
    facts, rows = machine(), []
    images = photographs(given.images)
    lite0 = load("efficientnet-lite0").model
    explain = GradCAM(lite0)
    maps = explain(images)
    model = Small().eval() if given.small else lite0
    classes = [1] * len(images) if given.small else explain.output.argmax(1).tolist()
    load_now = os.getloadavg()[0]
    print(f"{len(images)} images, {given.threads} threads, load {load_now:.1f}; ours, and the peer as so many of ours:")
    with threads(given.threads):
        data = (model, images, maps, classes)
        for title, ours, theirs in (
            (f"deletion and insertion, {STEPS} steps: torch-cam", our_curves, torchcam_curves),
            ("drop and increase: torch-cam", our_confidence, torchcam_confidence),
            ("ROAD combined: pytorch-grad-cam", our_road, pytorch_grad_cam_road),
        ):
            rows.append(compare(title, partial(ours, *data), partial(theirs, *data), given.rounds))
        for share in (0.1, 0.5, 0.9):
            edge = maps.flatten(1).quantile(1 - share, 1)[:, None, None]
            removed = maps > edge
            ours, theirs = (
                partial(linear_imputation, images, removed),
                partial(pytorch_grad_cam_imputation, images, removed),
            )
            rows.append(compare(f"imputation of {share:.0%}: pytorch-grad-cam", ours, theirs, given.rounds))
    save(
        {"machine": facts, "images": given.images, "threads used": given.threads, "rows": rows}, "metrics", given.output
    )


if __name__ == "__main__":
    main()
