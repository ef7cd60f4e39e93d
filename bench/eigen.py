"""Eigen-CAM's projection beside other ways to the first principal component: time and error, warm and interleaved.

    python bench/eigen.py                      # on one thread and on all; writes JSON beside the other results
    python bench/eigen.py --threads 1 --rounds 5

All return raw scores. The error is the largest difference from numpy.linalg.svd in float64, as a share of the map's
largest magnitude and up to the sign; ratios of times are taken within a round, median and quartiles. pytorch-grad-cam
centres and computes the whole decomposition, which for maps of 56 x 56 takes seconds an image: it has fewer rounds.
"""

import argparse
import os
from functools import partial
from typing import Any

import numpy as np
import torch
from threadpoolctl import threadpool_limits
from torch import Tensor

import fusedcam
from peers import import_pytorch_grad_cam
from records import add_output, machine, save
from timing import digits, interleaved, quartiles, threads

SHAPES = [(1, 2048, 7, 7), (8, 2048, 7, 7), (1, 256, 56, 56), (8, 256, 56, 56)]
OWN, PEER = "fusedcam.eigencam", "pytorch-grad-cam"
SLOW = 56 * 56  # pixels from which on the peer is measured apart, in few rounds


def activations(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    """Behind a ReLU: six things in the image, each with channels of its own, and noise."""
    N, C, H, W = shape
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:H, :W] / H
    centres = rng.random((N, 6, 2, 1, 1))
    things = np.exp(-8 * ((y - centres[:, :, 0]) ** 2 + (x - centres[:, :, 1]) ** 2))
    channels = np.maximum(rng.normal(size=(N, 6, C)), 0)
    maps = np.einsum("nkc,nkhw->nchw", channels, things) + rng.normal(-0.3, 0.3, shape)
    return np.maximum(maps, 0).astype(np.float32)


def pixels(a: np.ndarray, center: bool) -> Tensor:
    matrix = torch.from_numpy(a).flatten(2).mT
    return matrix - matrix.mean(1, keepdim=True) if center else matrix


def by_svd(a: np.ndarray, center: bool) -> Tensor:
    matrix = pixels(a, center)
    return (matrix @ torch.linalg.svd(matrix, full_matrices=False).Vh[:, :1].mT).reshape(len(a), *a.shape[2:])


def by_lowrank(a: np.ndarray, center: bool, q: int) -> Tensor:
    matrix = pixels(a, center)
    _, _, V = torch.pca_lowrank(matrix, q=q, center=False)
    return (matrix @ V[..., :1]).reshape(len(a), *a.shape[2:])


def ways(a: np.ndarray, center: bool) -> dict[str, Any]:
    calls = {
        OWN: partial(fusedcam.eigencam, a, center=center, relu=False, normalize=None),
        "torch.linalg.svd": partial(by_svd, a, center),
        "torch.pca_lowrank, q=6": partial(by_lowrank, a, center, 6),
        "torch.pca_lowrank, q=1": partial(by_lowrank, a, center, 1),
    }
    if center:
        module = import_pytorch_grad_cam().utils.svd_on_activations
        calls[PEER] = partial(module.get_2d_projection, a)
    return calls


def exactly(a: np.ndarray, center: bool) -> tuple[np.ndarray, float]:
    """The scores, and the second singular value over the first, at most."""
    scores, ratios = [], []
    for image in a.astype(np.float64):
        matrix = image.reshape(len(image), -1).T
        if center:
            matrix = matrix - matrix.mean(0)
        _, S, V = np.linalg.svd(matrix, full_matrices=False)
        scores.append((matrix @ V[0]).reshape(image.shape[1:]))
        ratios.append(S[1] / S[0])
    return np.array(scores), max(ratios)


def error(got: Any, exact: np.ndarray) -> float:
    got = np.asarray(got, np.float64)
    largest = [
        min(abs(one - other).max(), abs(one + other).max()) / abs(other).max()
        for one, other in zip(got, exact, strict=True)
    ]
    return digits(max(largest), 2)


def measure(shape: tuple[int, ...], center: bool, count: int, rounds: int) -> dict[str, Any]:
    a = activations(shape)
    exact, ratio = exactly(a, center)
    with threads(count), threadpool_limits(count, "blas"):
        calls = ways(a, center)
        apart = shape[2] * shape[3] >= SLOW and PEER in calls
        quick = {name: call for name, call in calls.items() if not (apart and name == PEER)}
        seconds = interleaved(quick, rounds)
        times = {name: quartiles(seconds[name] / seconds[OWN]) for name in quick if name != OWN}
        if apart:
            few = interleaved({OWN: calls[OWN], PEER: calls[PEER]}, 3, sample=0)
            seconds[PEER], times[PEER] = few[PEER], quartiles(few[PEER] / few[OWN])
        errors = {name: error(call(), exact) for name, call in calls.items()}
    return {
        "shape": shape,
        "center": center,
        "threads": count,
        "second singular value over the first": digits(ratio, 3),
        "ways": {
            name: {"ms": quartiles(1e3 * seconds[name]), "times": times.get(name), "error": errors[name]}
            for name in calls
        },
    }


def show(row: dict[str, Any]) -> None:
    print(
        f"{tuple(row['shape'])}, {'centred' if row['center'] else 'as it is'}, {row['threads']} thread(s), second over "
        f"first singular value {row['second singular value over the first']}, load {os.getloadavg()[0]:.1f}:"
    )
    for name, figures in row["ways"].items():
        low, middle, high = figures["ms"]
        ratio = "{1:.3g}x ({0:.3g} to {2:.3g})".format(*figures["times"]) if figures["times"] else ""
        print(f"  {name:24}{middle:10.3f} ms ({low:.3f} to {high:.3f}){ratio:>28}   error {figures['error']:.1g}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, nargs="+", default=sorted({1, torch.get_num_threads()}))
    parser.add_argument("--rounds", type=int, default=15)
    add_output(parser)
    given = parser.parse_args()
    facts = machine()
    rows = []
    for count in given.threads:
        for shape in SHAPES:
            for center in (False, True):
                rows.append(measure(shape, center, count, given.rounds))
                show(rows[-1])
    save({"machine": facts, "rows": rows}, "eigen", given.output)


if __name__ == "__main__":
    main()
