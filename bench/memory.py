"""How much memory a call holds at its most, counted allocation by allocation: exact, and the same on every run."""

from collections.abc import Callable, Iterator
from typing import Any

from torch.profiler import ProfilerActivity, profile


def peak_bytes(call: Callable[[], Any]) -> int:
    """The most that PyTorch's CPU tensors made during the call held at a time, in bytes."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        result = call()
    del result
    held = most = 0
    for _, size in sorted(_allocations(record.profiler.kineto_results.experimental_event_tree())):
        held += size
        most = max(most, held)
    return most


def _allocations(events: list[Any]) -> Iterator[tuple[int, int]]:
    """When, and how many bytes; negative when they are given back."""
    for event in events:
        if hasattr(event.extra_fields, "alloc_size"):
            yield event.start_time_ns, event.extra_fields.alloc_size
        yield from _allocations(event.children)
