"""fusedcam on a GPU beside everything a user would pick instead, and beside a kernel that only loads and stores.

    python bench/bench.py --device cuda      # writes bench/results/<device>.json and prints the table
    python bench/bench.py --device cpu --case "(1, 2048"    # tries this program out; its times mean nothing

Inputs and outputs rotate over more memory than a cache holds, and a whole rotation is timed, so that nothing is found
in the cache that a user would not find there; the case "warm" finds its inputs there. Of each round the ratio to
fusedcam's time; medians and quartiles. The percentage is of the rate of the loading and storing kernel. Peers that work
on the host get one pair of arrays and few rounds.
"""

import itertools
import time
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

import gpu_peers
import peers
from gpu_peers import Call
from records import save
from timing import quartiles

ROTATED = 240e6  # bytes
HOST_ROUNDS = 5


class Case(NamedTuple):
    """Activations' N, C, H and W, or images and raw maps where C is 0; and the side of the result."""

    title: str
    shape: tuple[int, int, int, int]
    side: int
    warm: bool = False
    autotuned: bool = False

    def bytes(self) -> int:
        """Inputs read once and the result written once."""
        N, C, H, W = self.shape
        picture = self.side * self.side
        return N * (4 * H * W + 6 * picture) if C == 0 else 4 * N * (2 * C * H * W + picture)

    def pair(self, device: torch.device) -> tuple[Tensor, Tensor]:
        N, C, H, W = self.shape
        if C:
            return torch.randn(self.shape, device=device), torch.randn(self.shape, device=device)
        images = torch.randint(256, (N, self.side, self.side, 3), dtype=torch.uint8, device=device)
        return images, torch.randn((N, H, W), device=device).relu()


CASES = (
    Case("(1, 2048, 7, 7) -> 224", (1, 2048, 7, 7), 224, autotuned=True),
    Case("(8, 2048, 7, 7) -> 224, warm", (8, 2048, 7, 7), 224, warm=True),
    Case("(64, 2048, 7, 7) -> 224", (64, 2048, 7, 7), 224, autotuned=True),
    Case("(32, 512, 28, 28) -> 224", (32, 512, 28, 28), 224),
    Case("(8, 256, 56, 56) -> 512", (8, 256, 56, 56), 512),
    Case("(1024, 2048, 7, 7) -> 224", (1024, 2048, 7, 7), 224),
    Case("overlay 64 x 224 x 224 x 3", (64, 0, 7, 7), 224),
)


class Peer(NamedTuple):
    call: Call
    pairs: list[tuple[Tensor, Tensor]]
    host: bool = False
    checked: bool = True  # its error is shown


def peers_of(case: Case, pairs: list[tuple[Tensor, Tensor]], compiled: bool) -> dict[str, Peer]:
    if case.shape[1] == 0:
        return {
            "fusedcam": Peer(gpu_peers.fused_overlay, pairs),
            "eager": Peer(gpu_peers.eager_overlay, pairs),
            "show_cam_on_image": Peer(gpu_peers.show_cam_on_image, pairs[:1], True, False),
        }
    found = {
        "fusedcam": Peer(gpu_peers.fused, pairs),
        "fusedcam, constant gradients": Peer(
            gpu_peers.fused, [(a, g.mean((2, 3), keepdim=True).expand_as(g)) for a, g in pairs]
        ),
        "eager": Peer(peers.torch_cam, pairs),
        "bmm": Peer(gpu_peers.matrix_product, pairs),
        "copy of one input": Peer(gpu_peers.copied, pairs, checked=False),
        "pytorch-grad-cam": Peer(peers.pytorch_grad_cam, pairs[:1], True),
        "torch-cam": Peer(peers.torchcam, pairs[: 1 if case.warm else None]),
    }
    if compiled:
        torch.compiler.reset()  # else it would compile for any shape from the second case on
        found["torch.compile"] = Peer(torch.compile(peers.torch_cam, dynamic=False), pairs)
        if case.autotuned and pairs[0][0].is_cuda:
            autotuned = torch.compile(peers.torch_cam, dynamic=False, mode="max-autotune")
            found["torch.compile, max-autotune"] = Peer(autotuned, pairs, checked=False)
    return found


def seconds(peer: Peer, side: int) -> float:
    """Of one call, over a whole rotation."""
    if not peer.pairs[0][0].is_cuda or peer.host:
        begin = time.perf_counter()
        kept = [peer.call(a, g, side) for a, g in peer.pairs]
        return (time.perf_counter() - begin) / len(kept)
    begin_event, end_event = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin_event.record()
    kept = [peer.call(a, g, side) for a, g in peer.pairs]
    end_event.record()
    end_event.synchronize()
    return begin_event.elapsed_time(end_event) / 1e3 / len(kept)


class Replayed:
    """A rotation of fusedcam's calls captured in a CUDA graph: what is left without the calls' own time."""

    def __init__(self, peer: Peer, side: int) -> None:
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.kept = [peer.call(a, g, side) for a, g in peer.pairs]

    def seconds(self) -> float:
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        self.graph.replay()
        end.record()
        end.synchronize()
        return begin.elapsed_time(end) / 1e3 / len(self.kept)


def rate_seconds(case: Case, device: torch.device) -> partial[float]:
    """The time of loading and storing a case's bytes, in rotation as the case is."""
    run = gpu_peers.LoadStore()
    count = rotation(case)
    stored = case.shape[0] * case.side * case.side * (3 if case.shape[1] == 0 else 4)
    pairs = [
        (
            torch.empty(case.bytes() - stored, dtype=torch.uint8, device=device),
            torch.empty(stored, dtype=torch.uint8, device=device),
        )
        for _ in range(count)
    ]
    return partial(seconds, Peer(lambda a, b, side: run(a, b), pairs), case.side)


def rotation(case: Case) -> int:
    return 1 if case.warm else max(1, min(256, int(np.ceil(ROTATED / case.bytes()))))


def measure(case: Case, device: torch.device, rounds: int, compiled: bool) -> dict[str, dict[str, object]]:
    pairs = [case.pair(device) for _ in range(rotation(case))] * (20 if case.warm else 1)
    found = peers_of(case, pairs, compiled)
    skipped = {name: gpu_peers.optional(peer.call, *peer.pairs[0], case.side) for name, peer in found.items()}
    rows: dict[str, dict[str, object]] = {}
    for name, reason in skipped.items():
        if reason:
            print(f"SKIPPED {name}: {reason}")
            rows[name] = {"skipped": reason}
    measured = {name: partial(seconds, peer, case.side) for name, peer in found.items() if not skipped[name]}
    if device.type == "cuda":
        measured["fusedcam in a CUDA graph"] = Replayed(found["fusedcam"], case.side).seconds
        measured["load and store"] = rate_seconds(case, device)
    times: dict[str, list[float]] = {name: [] for name in measured}
    for call in measured.values():  # warm up, and compile
        call()
    for at, (name, call) in itertools.product(range(rounds), measured.items()):
        if at < HOST_ROUNDS or not (name in found and found[name].host):
            times[name].append(call())
    exact = exactly(case, pairs[0])
    for name, took in times.items():
        figures, own = np.array(took), np.array(times["fusedcam"][: len(took)])
        rows[name] = {"us": quartiles(1e6 * figures), "times": quartiles(figures / own)}
        if "load and store" in times:
            rows[name]["% of load and store"] = quartiles(
                100 * np.array(times["load and store"])[: len(took)] / figures
            )
        if name in found and found[name].checked:
            rows[name]["error"] = error(found[name], case.side, exact)
    return rows


def exactly(case: Case, pair: tuple[Tensor, Tensor]) -> np.ndarray:
    """The first images' results in float64."""
    few = [x[:4].cpu().numpy() for x in pair]
    if case.shape[1] == 0:
        return peers.numpy_overlay(few[0], few[1].astype(np.float64))
    return peers.numpy_cam(few[0].astype(np.float64), few[1].astype(np.float64), case.side)


def error(peer: Peer, side: int, exact: np.ndarray) -> float:
    """The largest difference; of constant gradients too, whose mean is theirs."""
    a, g = peer.pairs[0]
    got = torch.as_tensor(peer.call(a, g, side))[: len(exact)].cpu().double().numpy()
    return float(f"{np.abs(got - exact).max():.2g}")


def show(rows: dict[str, dict[str, dict[str, object]]]) -> None:
    for title, row in rows.items():
        print(title)
        for name, figures in row.items():
            print(f"  {name:30}", ", ".join(f"{key} {value}" for key, value in figures.items()))


def main(device_name: str, case: str, rounds: int, compiled: bool, output: Path, facts: dict[str, object]) -> None:
    device = torch.device(device_name)
    rows = {c.title: measure(c, device, rounds, compiled) for c in CASES if case in c.title}
    show(rows)
    save({"machine": facts, "rows": rows}, output=output)
