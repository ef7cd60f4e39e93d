"""Time against each thing that may grow: images, channels, pixels, the result's size, threads; and the plot."""

from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

import fusedcam
import rate
from cases import Case
from timing import interleaved, quartiles, threads

BASE = Case("cam", (4, 512, 14, 14))
CURVES: dict[str, dict[int, Case]] = {
    "images": {n: BASE._replace(shape=(n, 512, 14, 14)) for n in (1, 2, 4, 8, 16, 32, 64, 128)},
    "channels": {c: BASE._replace(shape=(4, c, 14, 14)) for c in (16, 32, 64, 128, 256, 512, 1024, 2048, 4096)},
    "pixels of a map": {s * s: BASE._replace(shape=(4, 256, s, s)) for s in (1, 2, 4, 7, 10, 14, 20, 28, 40, 56, 80)},
    "side of the result": {s: BASE._replace(size=s) for s in (7, 14, 28, 56, 112, 224, 448, 896)},
}
THREADS = [
    Case("cam", (8, 2048, 7, 7)),
    Case("cam", (64, 2048, 7, 7)),
    Case("cam", (32, 512, 28, 28)),
    Case("cam", (1, 2048, 32, 32), 1024),
]
ROUNDS = 15


def over_threads() -> dict[str, list[dict[str, Any]]]:
    """Of some cases the microseconds on 1, 2, 4, ... threads, and on all."""
    most = torch.get_num_threads()
    counts = sorted({most, *(2**power for power in range(most.bit_length()))})
    found: dict[str, list[dict[str, Any]]] = {}
    for case in THREADS:
        call = partial(fusedcam.cam, *case.arrays(), size=case.size)
        points: dict[int, list[np.ndarray]] = {count: [] for count in counts}
        for _ in range(5):  # the counts in turn, and several calls each, since threads take time to come
            for count in counts:
                with threads(count):
                    points[count].append(interleaved({"": call}, 5)[""])
        found[case.title] = [{"at": at, "fusedcam": quartiles(1e6 * np.concatenate(p))} for at, p in points.items()]
        print(f"threads, {case.title}:", [(p["at"], p["fusedcam"][1]) for p in found[case.title]], flush=True)
    return found


def measure() -> dict[str, list[dict[str, Any]]]:
    """Of every curve its points: microseconds of cam and of the loop that only loads and stores, and cam's on all
    threads."""
    found: dict[str, list[dict[str, Any]]] = {}
    most = torch.get_num_threads()
    for name, curve in CURVES.items():
        found[name] = []
        for at, case in curve.items():
            arrays = case.arrays()
            stored = case.shape[0] * (case.size or 1) ** 2 * 4
            with threads(1):
                call = partial(fusedcam.cam, *arrays, size=case.size)
                seconds = interleaved({"fusedcam": call, "memory": rate.load_store(arrays, stored)}, ROUNDS)
            with threads(most):
                seconds["all threads"] = interleaved({"": call}, ROUNDS)[""]
            point = {key: quartiles(1e6 * figures) for key, figures in seconds.items()}
            found[name].append({"at": at, **point})
        print(
            f"scaling over {name}:", [(p["at"], p["fusedcam"][1], p["all threads"][1]) for p in found[name]], flush=True
        )
    return found


def plot(results: dict[str, Any], path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(2, 3, figsize=(15, 8), layout="constrained")
    *sized, shared, spare = axes.flat
    spare.set_axis_off()
    for axis, (name, points) in zip(sized, results["scaling"].items(), strict=True):
        at = [point["at"] for point in points]
        for key, label, style in (
            ("fusedcam", "1 thread", "o-"),
            ("all threads", f"{results['machine']['threads']} threads", "s-"),
            ("memory", "the same bytes only loaded and stored, 1 thread", "k:"),
        ):
            axis.plot(at, [point[key][1] for point in points], style, label=label, markersize=4)
            axis.fill_between(at, *([point[key][q] for point in points] for q in (0, 2)), alpha=0.2)
        axis.set(xscale="log", yscale="log", xlabel=name, ylabel="microseconds")
        axis.grid(True, which="both", alpha=0.3)
    axes[0, 0].legend()
    for name, points in results["threads"].items():
        first = points[0]["fusedcam"][1]
        at = [point["at"] for point in points]
        shared.plot(at, [first / point["fusedcam"][1] for point in points], "o-", label=name, markersize=4)
    shared.plot(at, at, "k:", label="as many times")
    shared.set(xlabel="threads", ylabel="times as fast as one", xticks=at)
    shared.grid(True, alpha=0.3)
    shared.legend()
    N, C, H, W = BASE.shape
    figure.suptitle(f"fusedcam.cam around ({N}, {C}, {H}, {W}) -> {BASE.size}, {results['machine']['cpu']}")
    figure.savefig(path, dpi=110)
