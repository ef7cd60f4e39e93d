"""Scores differentiated, a class at a time, with respect to whatever a graph leads to."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, Node

__all__ = ["Edge", "derivatives", "nodes_of", "stacked"]

Edge = Tensor | GradientEdge


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
