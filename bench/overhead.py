"""What a call costs before any arithmetic: `cam` on 1x1x2x2 arrays against one small operation on the same.

Interleaved; the ratio is taken within each round, and its median and quartiles are printed. Beside it stands what no
call can do without: a call of these arguments that does nothing, and an empty result. Then maps that are differentiated
against plain PyTorch's, on small arrays and on a layer's; and what importing costs beyond NumPy, in fresh processes.
"""

import argparse
import subprocess
import sys
from timeit import Timer
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F

import fusedcam
from records import add_output, machine, save
from timing import interleaved, quartiles

CAM = 'cam(a, g, size=2, method="gradcam")'
AGAINST = {
    "torch.relu": ("relu(a)", "nothing(a, g, size=2, method='gradcam'); torch_empty((1, 1, 2, 2))"),
    "np.add": ("add(a, g)", "nothing(a, g, size=2, method='gradcam'); numpy_empty((1, 1, 2, 2))"),
}
ROUNDS, CALLS = 201, 2000

IMPORTS = {"NumPy": "import numpy", "fusedcam after NumPy": "import fusedcam; fusedcam.cam"}
PROCESSES = 31


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_output(parser)
    given = parser.parse_args()
    facts = machine()
    rows: list[dict[str, Any]] = []
    a, g = torch.randn(1, 1, 2, 2), torch.randn(1, 1, 2, 2)
    names = {"cam": fusedcam.cam, "relu": torch.relu, "add": np.add, "nothing": lambda a, g, size, method: None}
    names |= {"numpy_empty": np.empty, "torch_empty": torch.empty}
    for title, (statement, least) in AGAINST.items():
        own = {"a": a, "g": g} if title.startswith("torch") else {"a": a.numpy(), "g": g.numpy()}
        timers = [Timer(call, globals=names | own) for call in (CAM, statement, least)]
        figures = np.array([[timer.timeit(CALLS) / CALLS for timer in timers] for _ in range(ROUNDS)])
        cam, other, floor = 1e9 * np.median(figures, axis=0)
        low, middle, high = times = quartiles(figures[:, 0] / figures[:, 1])
        rows.append({"case": f"cam over {title}", "ns": [cam, other, floor], "ratio": times})
        print(f"{CAM} {cam:.0f} ns, {title} {other:.0f} ns: ratio {middle:.2f} ({low:.2f} to {high:.2f})")
        print(f"  an empty call and an empty result {floor:.0f} ns: {floor / other:.2f} of {title}")
    for shape, size in (((1, 1, 2, 2), 2), ((1, 512, 7, 7), 224), ((8, 256, 28, 28), 224)):
        rows += differentiated(shape, size)
    for title, times in import_times().items():
        low, middle, high = found = quartiles(np.array(times))
        rows.append({"case": f"import {title}", "ms": found})
        print(f"import {title}: {middle:.1f} ms ({low:.1f} to {high:.1f})")
    save({"machine": facts, "rows": rows}, "overhead", given.output)


def differentiated(shape: tuple[int, ...], size: int) -> list[dict[str, Any]]:
    """Prints and returns the forward of maps that require grad, and forward and backward, over plain PyTorch's."""
    a, g = torch.rand(shape, requires_grad=True), torch.randn(shape, requires_grad=True)
    slopes = torch.randn(shape[0], size, size)

    def plain() -> torch.Tensor:
        raw = F.relu((g.mean((2, 3), keepdim=True) * a).sum(1))
        big = F.interpolate(raw[:, None], size=size, mode="bilinear", align_corners=False)[:, 0]
        low, high = big.amin((1, 2), keepdim=True), big.amax((1, 2), keepdim=True)
        return (big - low) / (high - low)

    def ours() -> torch.Tensor:
        return fusedcam.cam(a, g, size=size)

    calls = {
        "forward": ours,
        "plain forward": plain,
        "forward and backward": lambda: torch.autograd.grad(ours(), (a, g), slopes),
        "plain forward and backward": lambda: torch.autograd.grad(plain(), (a, g), slopes),
    }
    seconds = interleaved(calls)
    rows = []
    for name in ("forward", "forward and backward"):
        low, middle, high = times = quartiles(seconds[name] / seconds[f"plain {name}"])
        own, other = (1e6 * np.median(seconds[key]) for key in (name, f"plain {name}"))
        print(
            f"requires grad, {shape} -> {size}, {name}: {own:.1f} us, plain PyTorch {other:.1f} us: "
            f"{middle:.2f} ({low:.2f} to {high:.2f})"
        )
        rows.append(
            {
                "case": f"requires grad, {shape} -> {size}, {name}, over plain PyTorch",
                "us": [own, other],
                "ratio": times,
            }
        )
    return rows


def import_times() -> dict[str, list[float]]:
    """Milliseconds; every process measures one statement after the other."""
    clock = "from time import perf_counter as now\nstart = now()\n"
    code = clock + "\n".join(
        f"{statement}\nprint(1e3 * (now() - start))\nstart = now()" for statement in IMPORTS.values()
    )
    rounds = [
        [float(line) for line in subprocess.check_output([sys.executable, "-c", code], text=True).splitlines()]
        for _ in range(PROCESSES + 1)
    ][1:]  # the first reads the files from the disk
    return dict(zip(IMPORTS, map(list, zip(*rounds, strict=True)), strict=True))


if __name__ == "__main__":
    main()
