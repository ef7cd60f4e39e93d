"""Methods of forward passes alone: masked batches beside the same in torch, whole calls beside pytorch-grad-cam's.

    python bench/forward.py --threads 1        # interleaved; ratios within a round, median and quartiles

The network is a ResNet-50 with random weights at 96 x 96, with the same batch size for both. pytorch-grad-cam's maps by
ScoreCAM differ, since it aligns the corners when it upsamples; by AblationCAM behind a ReLU they are the same.
"""

import argparse
import contextlib
import io
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

import fusedcam
from fusedcam.torch import AblationCAM, ScoreCAM
from models import resnet50
from peers import import_pytorch_grad_cam, numpy_bilinear, numpy_minmax, torch_bilinear, torch_minmax
from records import machine, save
from timing import compare, interleaved, quartiles, threads

SIDE, BATCH = 96, 16
MASKS = [  # channels in a batch, the layer's map, the image
    (32, 7, 224, torch.float32),
    (32, 14, 224, torch.float32),
    (16, 7, 448, torch.float32),
    (32, 7, 224, torch.bfloat16),
]
CALLS = [("ScoreCAM", "layer1"), ("AblationCAM", "layer2"), ("AblationCAM", "layer4")]


def torch_mask(image: Tensor, maps: Tensor, out: Tensor) -> Tensor:
    masks = torch_minmax(torch_bilinear(maps, (image.shape[-2], image.shape[-1])))
    return torch.mul(masks[:, :, None].to(image.dtype), image[:, None], out=out)


def exact_mask(image: Tensor, maps: Tensor) -> np.ndarray:
    wide = maps.double().numpy()
    masks = numpy_minmax(numpy_bilinear(wide, (image.shape[-2], image.shape[-1])))
    exact: np.ndarray = masks[:, :, None] * image.double().numpy()[:, None]
    return exact


def masks(rounds: int) -> list[dict[str, Any]]:
    """One batch into memory that is there already."""
    rows = []
    for channels, side, size, dtype in MASKS:
        image, maps = torch.randn(1, 3, size, size).to(dtype), torch.randn(1, channels, side, side)
        out = [torch.empty(1, channels, 3, size, size, dtype=dtype) for _ in range(3)]
        calls: dict[str, Callable[[], Any]] = {
            "fusedcam": partial(fusedcam.mask, image, maps, out=out[0]),
            "eager torch": partial(torch_mask, image, maps, out[1]),
            "a copy of the batch": partial(out[2].copy_, out[0]),
        }
        found = compare(calls, exact_mask(image, maps), rounds)
        found["a copy of the batch"].pop("error")
        rows.append({"case": f"{channels} of {side} x {side} -> {size}, {str(dtype)[6:]}", "calls": found})
    return rows


def peer_call(name: str, layer: str, model: Any, x: Tensor) -> Any:
    package = import_pytorch_grad_cam()
    target = [package.utils.model_targets.ClassifierOutputTarget(1)] * len(x)
    with contextlib.redirect_stderr(io.StringIO()):  # its bars cannot be turned off
        explain = getattr(package, name)(model, [model.get_submodule(layer)])
        explain.batch_size = BATCH
        return explain(x, target)


def whole_calls(rounds: int) -> list[dict[str, Any]]:
    model, x = resnet50(), torch.rand(1, 3, SIDE, SIDE)
    rows = []
    for name, layer in CALLS:
        ours = {"ScoreCAM": ScoreCAM, "AblationCAM": AblationCAM}[name](model, layer, batch_size=BATCH)
        calls = {"fusedcam": partial(ours, x, targets=1), "pytorch-grad-cam": partial(peer_call, name, layer, model, x)}
        apart = float(np.abs(calls["fusedcam"]().numpy() - calls["pytorch-grad-cam"]()).max())
        seconds = interleaved(calls, rounds, sample=0)
        rows.append(
            {
                "case": f"{name}, {layer}, {ours.plan.shape[1]} channels",
                "s": {name: quartiles(figures) for name, figures in seconds.items()},
                "times": quartiles(seconds["pytorch-grad-cam"] / seconds["fusedcam"]),
                "maps apart": apart,
                "plan": str(ours.plan),
            }
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    facts = machine() | {"threads used": given.threads}
    with threads(given.threads):
        tables = {"masks": masks(4 * given.rounds + 1), "calls": whole_calls(given.rounds)}
    save({"machine": facts, **tables}, "forward")
    for row in tables["masks"]:
        print(row["case"])
        for name, one in row["calls"].items():
            times = "" if "times" not in one else "{1:.2f}x ({0:.2f} to {2:.2f})".format(*one["times"])
            print(f"  {name:22}{one['us'][1]:10.0f} us {times:>26}  error {one.get('error', '')}")
    for row in tables["calls"]:
        figures = ", ".join(f"{name} {one[1]:.2f} s" for name, one in row["s"].items())
        low, middle, high = row["times"]
        print(f"{row['case']}: {figures}; {middle:.1f}x ({low:.1f} to {high:.1f}), maps apart {row['maps apart']:.1e}")


if __name__ == "__main__":
    main()
