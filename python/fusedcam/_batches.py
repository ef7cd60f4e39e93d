"""What methods of many forward passes share: how many channels a batch holds, which channels, and a bar to watch."""

import math
import os
from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

Progress = bool | Callable[[Iterable[Any]], Iterable[Any]]

__all__ = [
    "Progress",
    "check_count",
    "check_noise",
    "check_options",
    "free_memory",
    "rows_together",
    "steps_of",
    "track",
]

_BESIDE = 64
"""Bytes that a network is taken to hold while it runs, for each byte of what it is given."""
_SHARE = 4
"""One part in so many of the free memory is for that."""


def check_options(op: str, batch_size: Any, top_channels: Any, progress: Any) -> None:
    """Refuses what is no such option; `op` stands before the message.

    Raises:
        TypeError, ValueError: naming the option, what came and what is accepted.
    """
    for name, value in (("batch_size", batch_size), ("top_channels", top_channels)):
        if value is not None:
            check_count(op, name, value, "an int of at least 1, or None")
    if not isinstance(progress, bool) and not callable(progress):
        raise TypeError(
            f"{op}progress is {progress!r}; accepted is True, False, or a callable that takes the batches and hands "
            "them on, as tqdm.tqdm and rich.progress.track do"
        )


def check_noise(op: str, samples: Any, std: Any, noise: Any, seed: Any) -> None:
    """Refuses what is no noise of SS-CAM's."""
    check_count(op, "samples", samples)
    if not isinstance(std, int | float) or isinstance(std, bool):
        raise TypeError(f"{op}std is {std!r}; accepted is a number")
    if not (0 <= std < math.inf):
        raise ValueError(f"{op}std is {std!r}; accepted is a finite number of at least 0")
    if noise not in ("mask", "image"):
        raise ValueError(f"{op}noise is {noise!r}; accepted: 'mask', 'image'")
    if not isinstance(seed, int) or isinstance(seed, bool):
        raise TypeError(f"{op}seed is {seed!r}; accepted is an int")
    if not 0 <= seed < 2**63:
        raise ValueError(f"{op}seed is {seed}; accepted is an int from 0 to 2**63 - 1")


def check_count(op: str, name: str, value: Any, accepted: str = "an int of at least 1") -> None:
    """Refuses what is no count of at least one."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{op}{name} is {value!r}; accepted is {accepted}")
    if value < 1:
        raise ValueError(f"{op}{name} is {value}; accepted is {accepted}")


def steps_of(samples: int, cumulative: bool) -> list[float]:
    """IS-CAM's factors: i / samples, or their running sums."""
    factors = [i / samples for i in range(1, samples + 1)]
    return list(accumulate(factors)) if cumulative else factors


def rows_together(batch_size: int | None, row_bytes: int, free: int, most: int) -> int:
    """Rows of a batch: `batch_size`, or as many as a part of the free memory holds, `most` at most."""
    if batch_size is not None:
        return batch_size
    return max(1, min(most, free // (_SHARE * _BESIDE * max(1, row_bytes))))


def free_memory() -> int:
    """Bytes of this machine's memory that may be had, within the limit of the process's control group."""
    free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    try:
        facts = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
        free = 1024 * int(facts["MemAvailable"].split()[0])
        limit, used = (Path("/sys/fs/cgroup", name).read_text() for name in ("memory.max", "memory.current"))
        return min(free, max(0, int(limit) - int(used)))
    except (OSError, KeyError, ValueError):  # another system, or no limit ("max")
        return free


def track(progress: Progress, batches: Sequence[Any], title: str) -> Iterable[Any]:
    """The batches, with a bar where one is wanted: rich's, else tqdm's, or the caller's.

    Raises:
        ModuleNotFoundError: a bar is wanted and neither is there.
    """
    if progress is False:
        return batches
    if callable(progress):
        return progress(batches)
    try:
        from rich.progress import track as bar
    except ModuleNotFoundError:
        try:
            from tqdm import tqdm
        except ModuleNotFoundError:
            raise ModuleNotFoundError("progress=True needs rich or tqdm: pip install rich", name="rich") from None
        wrapped: Iterable[Any] = tqdm(batches, desc=title)
        return wrapped
    return bar(batches, description=title)
