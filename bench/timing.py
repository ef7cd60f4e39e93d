"""How calls are timed: interleaved, after a warm-up, warm or with the caches flushed before each call.

Ratios are taken within a round, where the machine's mood is the same for all; their median and quartiles mean more, on
a shared machine, than those of the times. Numbers to be kept come from a machine with nothing else to do: threads that
share a core with a compiler wait for each other.
"""

import gc
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

Calls = dict[str, Callable[[], Any]]
FLUSHED = 160 << 20  # bytes, more than the last cache has


def interleaved(calls: Calls, rounds: int = 21, sample: float = 0.005) -> dict[str, np.ndarray]:
    """Seconds per call of each, one figure per round, averaged over about `sample` seconds of calls."""
    repeats = {}
    for name, call in calls.items():
        call()
        start = time.perf_counter()
        call()
        repeats[name] = max(1, round(sample / (time.perf_counter() - start)))
    return _rounds(calls, rounds, repeats, lambda: None)


def flushed(calls: Calls, rounds: int = 21) -> dict[str, np.ndarray]:
    """The same of single calls, each right after an operation of torch's that has written to more than the caches."""
    filler = torch.zeros(FLUSHED // 4)
    return _rounds(calls, rounds, dict.fromkeys(calls, 1), lambda: filler.add_(1))


def _rounds(calls: Calls, rounds: int, repeats: dict[str, int], before: Callable[[], Any]) -> dict[str, np.ndarray]:
    seconds = {name: np.empty(rounds) for name in calls}
    with _no_collection():
        for at in range(-1, rounds):  # round -1 warms up; the last round overwrites it
            turn = at % len(calls)  # nobody always runs after the same other
            for name in [*calls][turn:] + [*calls][:turn]:
                call = calls[name]
                before()
                # What runs before the measured calls is not the peer before: its threads may still be spinning.
                if repeats[name] > 1:
                    call()
                start = time.perf_counter()
                for _ in range(repeats[name]):
                    call()
                seconds[name][at] = (time.perf_counter() - start) / repeats[name]
    return seconds


@contextmanager
def _no_collection() -> Iterator[None]:
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


@contextmanager
def threads(count: int) -> Iterator[None]:
    """So many threads for torch, for us, who share torch's, and for OpenCV."""
    import cv2

    before = torch.get_num_threads(), cv2.getNumThreads()
    torch.set_num_threads(count)
    cv2.setNumThreads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        cv2.setNumThreads(before[1])


def digits(figure: float, count: int = 4) -> float:
    return float(f"{figure:.{count}g}")


def quartiles(figures: np.ndarray) -> list[float]:
    """First quartile, median, third quartile, to four digits."""
    return [digits(q) for q in np.quantile(figures, (0.25, 0.5, 0.75))]


def compare(calls: Calls, exact: np.ndarray | None, rounds: int = 21, cold: bool = False) -> dict[str, dict[str, Any]]:
    """Per call: microseconds, the largest error, and of all but the first how many times slower they are."""
    seconds = flushed(calls, rounds) if cold else interleaved(calls, rounds)
    first, *others = calls
    rows: dict[str, dict[str, Any]] = {name: {"us": quartiles(1e6 * seconds[name])} for name in calls}
    for name in others:
        rows[name]["times"] = quartiles(seconds[name] / seconds[first])
    for name, call in calls.items():
        result = call()
        if exact is not None and result is not None:
            got = torch.as_tensor(np.asarray(result) if isinstance(result, list) else result).double().numpy()
            rows[name]["error"] = digits(float(np.abs(got - exact).max()), 2)
    return rows
