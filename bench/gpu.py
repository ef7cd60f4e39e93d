"""fusedcam on a GPU beside eager torch, torch with a batched matrix product, and torch.compile; speed and error.

    python bench/gpu.py                  # writes bench/results/<device>.json and prints the table
    python bench/gpu.py --device cpu     # tries this program out; its times mean nothing

Inputs and outputs rotate over more memory than a cache holds, and a whole rotation is timed, so that nothing is found
in the cache that a user would not find there. Of each round the ratio to fusedcam's time; medians and quartiles.
"""

import argparse
import itertools
import json
import re
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

import fusedcam

ROTATED = 240e6  # bytes
CASES = {  # N, C, H, W and the side of the result
    "(1, 2048, 7, 7) -> 224": (1, 2048, 7, 7, 224),
    "(64, 2048, 7, 7) -> 224": (64, 2048, 7, 7, 224),
    "(32, 512, 28, 28) -> 224": (32, 512, 28, 28, 224),
    "(8, 256, 56, 56) -> 512": (8, 256, 56, 56, 512),
    "(1024, 2048, 7, 7) -> 224": (1024, 2048, 7, 7, 224),
}
Pair = tuple[torch.Tensor, torch.Tensor]
Peer = Callable[[torch.Tensor, torch.Tensor, int], torch.Tensor]


def finish(scores: torch.Tensor, side: int) -> torch.Tensor:
    heat = torch.nn.functional.interpolate(scores.relu()[:, None], (side, side), mode="bilinear")[:, 0]
    low, high = heat.amin((1, 2), keepdim=True), heat.amax((1, 2), keepdim=True)
    return torch.where(high > low, (heat - low) / (high - low), 0)


def eager(a: torch.Tensor, g: torch.Tensor, side: int) -> torch.Tensor:
    return finish((g.mean((2, 3), keepdim=True) * a).sum(1), side)


def matrix_product(a: torch.Tensor, g: torch.Tensor, side: int) -> torch.Tensor:
    return finish(torch.bmm(g.mean((2, 3))[:, None], a.flatten(2)).view(len(a), *a.shape[2:]), side)


def fused(a: torch.Tensor, g: torch.Tensor, side: int) -> torch.Tensor:
    return fusedcam.cam(a, g, size=side)


def copied(a: torch.Tensor, g: torch.Tensor, side: int) -> torch.Tensor:
    """As many bytes as the inputs have, read and written: what the memory can do."""
    return a.clone()


def seconds(peer: Peer, pairs: list[Pair], side: int, device: torch.device) -> float:
    """Of one call, over a whole rotation."""
    if device.type != "cuda":
        begin = time.perf_counter()
        kept = [peer(a, g, side) for a, g in pairs]
        return (time.perf_counter() - begin) / len(kept)
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    kept = [peer(a, g, side) for a, g in pairs]
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) / 1e3 / len(kept)


def measure(shape: tuple[int, ...], device: torch.device, rounds: int, compiled: bool) -> dict[str, dict[str, object]]:
    N, C, H, W, side = shape
    bytes_of_one = 4 * (2 * N * C * H * W + N * side * side)
    count = max(1, min(256, int(np.ceil(ROTATED / bytes_of_one))))
    pairs = [(torch.randn(N, C, H, W, device=device), torch.randn(N, C, H, W, device=device)) for _ in range(count)]
    constant = [(a, g.mean((2, 3), keepdim=True).expand_as(g)) for a, g in pairs]
    peers: dict[str, tuple[Peer, list[Pair]]] = {
        "fusedcam": (fused, pairs),
        "fusedcam, constant gradients": (fused, constant),
        "eager": (eager, pairs),
        "bmm": (matrix_product, pairs),
        "copy": (copied, pairs),
    }
    if compiled:
        torch.compiler.reset()  # else it would compile for any shape from the second case on
        peers["torch.compile"] = (torch.compile(eager, dynamic=False), pairs)
    a, g = (x[:4].cpu().double() for x in pairs[0])
    exact = eager(a, g, side)
    times: dict[str, list[float]] = {name: [] for name in peers}
    for peer, given in peers.values():  # warm up, and compile
        seconds(peer, given, side, device)
    for _, (name, (peer, given)) in itertools.product(range(rounds), peers.items()):
        times[name].append(seconds(peer, given, side, device))
    rows: dict[str, dict[str, object]] = {}
    for name, (peer, given) in peers.items():
        found = np.array(times[name])
        rows[name] = {
            "us": quartiles(1e6 * found),
            "times": quartiles(found / np.array(times["fusedcam"])),
            "GB/s": float(f"{bytes_of_one / 1e9 / np.median(found):.4g}"),
        }
        if name != "copy":
            x, y = given[0]
            rows[name]["error"] = float(f"{(peer(x, y, side)[:4].cpu().double() - exact).abs().max():.2g}")
    rows["copy"]["GB/s"] = float(f"{8 * N * C * H * W / 1e9 / np.median(times['copy']):.4g}")
    return rows


def quartiles(figures: np.ndarray) -> list[float]:
    return [float(f"{q:.4g}") for q in np.quantile(figures, (0.25, 0.5, 0.75))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--rounds", type=int, default=31)
    parser.add_argument("--case", default="", help="only the cases whose title contains this")
    parser.add_argument("--no-compile", action="store_true", help="without torch.compile, which takes a minute")
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()
    device = torch.device(given.device)
    name = torch.cuda.get_device_name() if device.type == "cuda" else "no GPU"
    facts = {"device": name, "torch": torch.__version__, "fusedcam": fusedcam.__version__}
    rows = {
        title: measure(shape, device, given.rounds, not given.no_compile)
        for title, shape in CASES.items()
        if given.case in title
    }
    for title, peers in rows.items():
        print(title)
        for peer, row in peers.items():
            print(f"  {peer:30}{row['us']} us, {row['times']} times, {row['GB/s']} GB/s, error {row.get('error', '')}")
    slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")
    output = given.output or Path(__file__).parent / "results" / f"{slug}.json"
    output.write_text(json.dumps({"machine": facts, "rows": rows}, indent=1) + "\n")
    print(f"written to {output}")


if __name__ == "__main__":
    main()
