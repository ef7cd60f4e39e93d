"""Frames per second of `explain.stream` beside the plain loop, with a ResNet-50 and pictures of a video's size.

    python bench/stream.py                          # writes JSON beside the other results
    python bench/stream.py --frames 8 --rounds 5 --side 720 1280

A round runs every way once over the same frames, one after the other in changing order; ratios are taken within a
round: median and quartiles. "the model alone" is the explanation without a picture, which no way of drawing can beat.
The loop that somebody would write makes a heatmap of the picture's size first and blends it, by NumPy's arithmetic and
a table of colours.
"""

import argparse
import os
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

import fusedcam
from fusedcam.torch import GradCAM
from models import resnet50
from records import add_output, machine, save
from timing import digits, interleaved, quartiles, threads

LOOP = "the plain loop"
Pairs = list[tuple[Tensor, Tensor]]


def video(frames: int, size: tuple[int, int]) -> Pairs:
    """Normalised inputs of 224 x 224, and the pictures that they were made from."""
    images = torch.randint(256, (frames, *size, 3), dtype=torch.uint8)
    return [(torch.randn(3, 224, 224), image) for image in images]


def consumed(pictures: Iterator[Any]) -> None:
    """Reads every frame's first pixel, as what shows or stores it would all of them."""
    for one in pictures:
        one[0, 0, 0].item()


def by_loop(explain: GradCAM, pairs: Pairs) -> Iterator[Tensor]:
    for x, image in pairs:
        raw = explain(x[None], targets=1, size=None, normalize=None)[0]
        yield fusedcam.overlay(image, raw, normalize="minmax")


def by_numpy(explain: GradCAM, pairs: Pairs) -> Iterator[np.ndarray]:
    table = fusedcam.colorize(np.linspace(0, 1, 256, dtype=np.float32)[None])[0]
    for x, image in pairs:
        heat = explain(x[None], targets=1, size=tuple(image.shape[:2]))[0].numpy()
        colours = table[(255 * heat + 0.5).astype(np.uint8)]
        yield (0.5 * image.numpy() + 0.5 * colours + 0.5).astype(np.uint8)


def alone(explain: GradCAM, pairs: Pairs) -> Iterator[Tensor]:
    for x, _ in pairs:
        yield explain(x[None], targets=1, size=None, normalize=None)


def ways(explain: Any, pairs: Pairs) -> dict[str, Callable[[], None]]:
    makers: dict[str, Callable[[], Iterator[Any]]] = {
        LOOP: lambda: by_loop(explain, pairs),
        "stream": lambda: explain.stream(pairs, targets=1),
        "stream, copy=False": lambda: explain.stream(pairs, targets=1, copy=False),
        "stream, overlap=False": lambda: explain.stream(pairs, targets=1, overlap=False),
        "stream, batch=4": lambda: explain.stream(pairs, targets=1, batch=4),
        "a loop with NumPy's blending": lambda: by_numpy(explain, pairs),
        "the model alone": lambda: alone(explain, pairs),
    }
    return {name: (lambda make=make: consumed(make())) for name, make in makers.items()}


def measure(size: tuple[int, int], frames: int, count: int, rounds: int) -> dict[str, Any]:
    pairs = video(frames, size)
    with threads(count):
        explain = GradCAM(resnet50(), "layer4")
        first = [one.clone() for one in explain.stream(pairs, targets=1, copy=False)]  # type: ignore[attr-defined]
        same = all(map(torch.equal, first, by_loop(explain, pairs)))
        seconds = interleaved(ways(explain, pairs), rounds, sample=0)
    return {
        "size": size,
        "frames": frames,
        "threads": count,
        "same bits": same,
        "ways": {
            name: {
                "frames per second": digits(frames / float(np.median(figures)), 3),
                "ms a frame": quartiles(1e3 * figures / frames),
                "times as fast": quartiles(seconds[LOOP] / figures) if name != LOOP else None,
            }
            for name, figures in seconds.items()
        },
    }


def show(row: dict[str, Any]) -> None:
    print(
        f"{row['frames']} frames of {row['size'][0]} x {row['size'][1]}, {row['threads']} thread(s), the same bits: "
        f"{row['same bits']}, load {os.getloadavg()[0]:.1f}:"
    )
    for name, figures in row["ways"].items():
        low, middle, high = figures["ms a frame"]
        ratio = figures["times as fast"]
        text = "{1:.3f}x ({0:.3f} to {2:.3f})".format(*ratio) if ratio else ""
        rate = figures["frames per second"]
        print(f"  {name:30}{rate:8.1f} a second{middle:9.2f} ms ({low:.2f} to {high:.2f}){text:>28}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, nargs="+", default=sorted({1, torch.get_num_threads()}))
    parser.add_argument("--frames", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--side", type=int, nargs=2, action="append", help="[default: 480 x 640 and 1080 x 1920]")
    add_output(parser)
    given = parser.parse_args()
    facts = machine()
    rows = []
    for count in given.threads:
        for size in given.side or [(480, 640), (1080, 1920)]:
            rows.append(measure(tuple(size), given.frames, count, given.rounds))
            show(rows[-1])
    save({"machine": facts, "rows": rows}, "stream", given.output)


if __name__ == "__main__":
    main()
