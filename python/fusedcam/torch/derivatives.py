"""Scores differentiated, a class at a time or many at once, with respect to whatever a graph leads to."""

import math
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import BackwardCFunction
from torch.autograd.graph import GradientEdge, Node

__all__ = ["Edge", "all_derivatives", "derivatives", "nodes_of", "stacked"]

Edge = Tensor | GradientEdge

_CHUNK_BYTES = {"cpu": 4 << 20}
_OTHER_CHUNK_BYTES = 256 << 20
"""Of the largest gradient on the way, for the columns of one backward. On a CPU, whose caches more would leave, 100
columns at once took 1.8 times as long as one by one through convolutions of 672 x 14 x 14, and 4 at once 0.9 times."""


def derivatives(
    scores: Tensor, edges: Sequence[Edge], *, keep: bool = False, twice: bool = False
) -> Iterator[list[Tensor | None]]:
    """For each column of scores [N] or [N, K], one after the other, its gradients with respect to the edges; None for
    an edge to which the graph does not lead.

    Args:
        keep: the graph stays after the last column.
        twice: the gradients are recorded, to be differentiated again.
    """
    with torch.enable_grad():
        columns = scores if scores.ndim == 2 else scores[:, None]
    for k in range(columns.shape[1]):
        seed = torch.zeros_like(columns)
        seed[:, k] = 1
        # As PyTorch advises, backward runs outside of autocast: its types are those that the forward used.
        with torch.autocast(columns.device.type, enabled=False):
            yield list(
                torch.autograd.grad(
                    columns,
                    edges,  # type: ignore[arg-type]
                    seed,
                    retain_graph=keep or twice or k + 1 < columns.shape[1],
                    create_graph=twice,
                    allow_unused=True,
                )
            )


def all_derivatives(
    scores: Tensor, edges: Sequence[Edge], nodes: Collection[Node], *, batched: bool = True
) -> list[Tensor | None]:
    """The gradients of scores [N] or [N, K] with respect to each edge, [N, ...] or [N, K, ...]; None for an edge to
    which the graph does not lead.

    Many columns share a backward, by vmap, where all operations have a rule for that; else each has its own.

    Args:
        nodes: those between the scores and the edges.
        batched: whether columns may share a backward.
    """
    count = scores.shape[1] if scores.ndim == 2 else 1
    # Python's own functions were written for plain tensors, and may do with them what vmap would not see.
    if batched and count > 1 and scores.numel():
        plain = any(isinstance(node, BackwardCFunction) for node in nodes)
        columns = 1 if plain else _columns_at_once(scores, nodes)
        if columns > 1:
            try:
                return _batched(scores, edges, min(columns, count))
            except RuntimeError as error:
                if "use_reentrant=True" in str(error):
                    raise
    found: list[Tensor | None] = []
    for row in zip(*derivatives(scores, edges), strict=True):
        connected = [gradient for gradient in row if gradient is not None]
        found.append(stacked(connected, scores) if len(connected) == len(row) else None)
    return found


def _columns_at_once(scores: Tensor, nodes: Collection[Node]) -> int:
    """As many as keep the gradients in each node within bounds."""
    sizes = [scores.nbytes, 1] + [_bytes(one) for node in nodes for one in node._input_metadata]
    return _CHUNK_BYTES.get(scores.device.type, _OTHER_CHUNK_BYTES) // max(sizes)


def _bytes(metadata: Any) -> int:
    count: int = math.prod(metadata.shape) * metadata.dtype.itemsize
    return count


def _batched(scores: Tensor, edges: Sequence[Edge], columns: int) -> list[Tensor | None]:
    """The same of scores [N, K], so many columns to a backward."""
    n, count = scores.shape
    found: list[Tensor | None] = []
    for start in range(0, count, columns):
        own = range(start, min(start + columns, count))
        seeds = scores.new_zeros((len(own), n, count))
        seeds.diagonal(start, 0, 2).fill_(1)  # [n, k]: seed k is one at column start + k
        with torch.autocast(scores.device.type, enabled=False):
            part = torch.autograd.grad(
                scores,
                edges,  # type: ignore[arg-type]
                seeds,
                retain_graph=True,  # for the next columns, or for one by one where vmap fails
                allow_unused=True,
                is_grads_batched=True,
            )
        if not found:
            found = [None if one is None else one.new_empty((one.shape[1], count, *one.shape[2:])) for one in part]
        for whole, gradient in zip(found, part, strict=True):
            if whole is not None:
                whole[:, start : own.stop] = gradient.movedim(0, 1)
    return found


def stacked(rows: list[Tensor], scores: Tensor) -> Tensor:
    """One tensor [N, ...] a column, as [N, ...] for scores [N] or [N, K, ...] for [N, K]."""
    return rows[0] if scores.ndim == 1 else torch.stack(rows, 1)


def nodes_of(scores: Tensor) -> Iterator[Node]:
    """The graph behind `scores`, node by node.

    Raises:
        RuntimeError: a part of it is a compiled function.
    """
    waiting = [scores.grad_fn]
    seen = set(waiting)
    while waiting:
        node = waiting.pop()
        if node is None:
            continue
        if "CompiledFunction" in node.name():
            raise RuntimeError("the model is compiled, which hides what it is made of; explain what was compiled")
        yield node
        for after, _ in node.next_functions:
            if after not in seen:
                seen.add(after)
                waiting.append(after)
