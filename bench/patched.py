"""What the peers' own README examples take as they are and patched: ResNet-50, 224 x 224, layer4, random weights.

    python bench/patched.py --batch 1 8 32     # in turn; ratios within a round, median and quartiles; renews the page

Beside it the overlay alone, the peak of what PyTorch allocates, and what 500 patched calls leave behind.
"""

import argparse
import gc
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

import fusedcam
from memory import peak_bytes
from models import Bottleneck, resnet50
from peers import import_pytorch_grad_cam
from records import machine, save
from timing import quartiles

SIDE = 224


def pytorch_grad_cam(model: torch.nn.Module, x: torch.Tensor, picture: np.ndarray) -> Callable[[], Any]:
    package = import_pytorch_grad_cam()
    image, targets = package.utils.image, package.utils.model_targets

    def call() -> Any:
        with package.GradCAM(model=model, target_layers=[model.layer4]) as cam:
            heat = cam(input_tensor=x, targets=[targets.ClassifierOutputTarget(281)] * len(x))
        return image.show_cam_on_image(picture, heat[0], use_rgb=True)

    return call


def torchcam(model: torch.nn.Module, x: torch.Tensor, picture: np.ndarray) -> Callable[[], Any]:
    from PIL import Image
    from torchcam import utils
    from torchcam.methods import LayerCAM

    below = Image.fromarray(np.uint8(255 * picture))

    def call() -> Any:
        with LayerCAM(model, "layer4") as extract:
            maps = extract([281] * len(x), model(x))
        return utils.overlay_mask(below, Image.fromarray(maps[0][0].numpy()), alpha=0.5)

    return call


def captum(model: torch.nn.Module, x: torch.Tensor, picture: np.ndarray) -> Callable[[], Any]:
    from captum.attr import LayerAttribution, LayerGradCam

    def call() -> Any:
        maps = LayerGradCam(model, model.layer4).attribute(x, 281)
        return LayerAttribution.interpolate(maps, (SIDE, SIDE), "bilinear").detach()

    return call


EXAMPLES = {"pytorch_grad_cam": pytorch_grad_cam, "torchcam": torchcam, "captum": captum}


def in_turn(call: Callable[[], Any], peer: str, rounds: int, repeats: int = 1) -> dict[str, np.ndarray]:
    """Seconds a call, as it is and patched, one of each a round."""
    seconds = {"as it is": np.empty(rounds), "patched": np.empty(rounds)}
    for at in range(-1, rounds):  # the first warms up
        for name in sorted(seconds, reverse=at % 2 == 1):
            if name == "patched":
                fusedcam.patch(peer)
            call()
            start = time.perf_counter()
            for _ in range(repeats):
                call()
            seconds[name][at] = (time.perf_counter() - start) / repeats
            fusedcam.unpatch(peer)
    return seconds


def measure(peer: str, batch: int, rounds: int) -> dict[str, Any]:
    model = resnet50()
    random = np.random.default_rng(0)
    picture = random.random((SIDE, SIDE, 3), np.float32)
    call = EXAMPLES[peer](model, torch.randn(batch, 3, SIDE, SIDE), picture)
    seconds = in_turn(call, peer, rounds)
    peaks = {"as it is": peak_bytes(call)}
    with fusedcam.patched(peer):
        peaks["patched"] = peak_bytes(call)
    return {
        "peer": peer,
        "batch": batch,
        "ms": {name: quartiles(1e3 * figures) for name, figures in seconds.items()},
        "times as fast": quartiles(seconds["as it is"] / seconds["patched"]),
        "MB": {name: round(peak / 1e6, 1) for name, peak in peaks.items()},
    }


def overlays(rounds: int) -> dict[str, Any]:
    image = import_pytorch_grad_cam().utils.image
    from PIL import Image
    from torchcam import utils

    random = np.random.default_rng(0)
    picture, mask = random.random((SIDE, SIDE, 3), np.float32), random.random((SIDE, SIDE), np.float32)
    below, small = Image.fromarray(np.uint8(255 * picture)), Image.fromarray(mask[:7, :7].copy())
    calls = {
        "pytorch_grad_cam": lambda: image.show_cam_on_image(picture, mask, use_rgb=True),
        "torchcam": lambda: utils.overlay_mask(below, small, alpha=0.5),
    }
    found = {}
    for peer, call in calls.items():
        seconds = in_turn(call, peer, rounds, repeats=50)
        found[peer] = {
            "us": {name: quartiles(1e6 * figures) for name, figures in seconds.items()},
            "times as fast": quartiles(seconds["as it is"] / seconds["patched"]),
        }
    return found


def left_behind(calls: int = 500) -> dict[str, dict[str, int]]:
    """Live tensors and resident kilobytes that patched calls add, after as many have warmed up as a tenth."""
    torch.manual_seed(0)
    model = torch.nn.Sequential()
    model.add_module("layer4", Bottleneck(3, 8, 2))
    model.add_module(
        "head", torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(32, 300))
    )
    model.eval()
    found = {}
    for peer, example in EXAMPLES.items():
        call = example(model, torch.randn(2, 3, 64, 64), np.random.default_rng(0).random((64, 64, 3), np.float32))
        with fusedcam.patched(peer):
            for _ in range(calls // 10):
                call()
            before = _held()
            for _ in range(calls):
                call()
            after = _held()
        found[peer] = {"tensors": after[0] - before[0], "resident KB": after[1] - before[1]}
    return found


def _held() -> tuple[int, int]:
    gc.collect()
    tensors = sum(isinstance(one, torch.Tensor) for one in gc.get_objects())
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return tensors, pages * os.sysconf("SC_PAGE_SIZE") // 1024


def table(results: dict[str, Any]) -> str:
    """In Markdown, for docs/coming-from.md."""
    lines = ["| example | batch | as it is | patched | times as fast | memory, as it is | patched |"]
    lines.append("|---|---:|---:|---:|---:|---:|---:|")
    for row in results["rows"]:
        (low, middle, high), ms, peaks = row["times as fast"], row["ms"], row["MB"]
        cells = [row["peer"], row["batch"], f"{ms['as it is'][1]:.4g} ms", f"{ms['patched'][1]:.4g} ms"]
        cells += [f"{middle:.3g} ({low:.3g} to {high:.3g})", f"{peaks['as it is']} MB", f"{peaks['patched']} MB"]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    for peer, one in results["overlay"].items():
        (low, middle, high), us = one["times as fast"], one["us"]
        cells = [f"{peer}, the overlay alone", 1, f"{us['as it is'][1]:.3g} us", f"{us['patched'][1]:.3g} us"]
        cells += [f"{middle:.3g} ({low:.3g} to {high:.3g})", "", ""]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    left = "; ".join(f"{peer}: {one['tensors']} tensors" for peer, one in results["500 calls"].items())
    return "\n".join([*lines, "", f"What 500 patched calls leave behind: {left}."])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 8, 32])
    parser.add_argument("--rounds", type=int, default=7)
    given = parser.parse_args()
    facts = machine()
    rows = []
    for peer in EXAMPLES:
        for batch in given.batch:
            rows.append(row := measure(peer, batch, given.rounds))
            (low, middle, high), ms, peaks = row["times as fast"], row["ms"], row["MB"]
            print(
                f"{peer}, batch {batch}: {ms['as it is'][1]:.1f} ms as it is, {ms['patched'][1]:.1f} patched, "
                f"{middle:.2f} times as fast ({low:.2f} to {high:.2f}); {peaks['as it is']} and {peaks['patched']} MB",
                flush=True,
            )
    results = {"machine": facts, "rows": rows, "overlay": overlays(15), "500 calls": left_behind()}
    print("overlay alone:", {peer: (one["us"], one["times as fast"][1]) for peer, one in results["overlay"].items()})
    print("500 calls leave:", results["500 calls"])
    save(results, "patched")
    page = Path(__file__).resolve().parent.parent / "docs" / "coming-from.md"
    before, rest = page.read_text().split("<!-- patched -->\n")
    page.write_text(f"{before}<!-- patched -->\n{table(results)}\n<!-- end -->{rest.split('<!-- end -->')[1]}")


if __name__ == "__main__":
    main()
