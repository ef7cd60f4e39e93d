"""Attention maps of a run, as leaves or edges of its graph, whatever the model computes them with.

A mode for PyTorch's functions meets what is called on its thread while it is on: the fused attention, whose map never
exists, is taken apart; the softmax of an attention written out is replaced by a leaf; that of `nn.MultiheadAttention`
is found in the graph.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.graph import GradientEdge
from torch.overrides import TorchFunctionMode

from .derivatives import Edge

__all__ = ["Attentions"]

_SOFTMAX: tuple[Any, ...] = (F.softmax, torch.softmax, Tensor.softmax)


class Attentions(TorchFunctionMode):
    """Meets every self-attention of a run over N images while `wanted` says so, and switches recording on at it.

    Args:
        n: images in the batch.
        wanted: asked at each attention.
        keep: given the edge of an attention map [N, heads, T, T], or [N * heads, T, T], and that shape.
    """

    def __init__(self, n: int, wanted: Callable[[], bool], keep: Callable[[Edge, torch.Size], None]):
        super().__init__()
        self.n, self.wanted, self.keep = n, wanted, keep

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention and self.wanted():
            return self._product(*args, **kwargs)
        if func is F.multi_head_attention_forward and self.wanted():
            return self._multi_head(func, args, kwargs)
        if func in _SOFTMAX and self.wanted():
            attention = func(*args, **kwargs)
            along = kwargs["dim"] if "dim" in kwargs else args[1] if len(args) > 1 else None
            return self._softmax(attention) if along in (-1, attention.ndim - 1) else attention
        return func(*args, **kwargs)

    def _softmax(self, attention: Tensor) -> Tensor:
        return self._begun(attention) if self._fits(attention.shape) else attention

    def _product(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        *,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Tensor:
        """softmax(query key^T scale + mask) value, as PyTorch documents it."""
        if enable_gqa:
            key, value = (one.repeat_interleave(query.shape[-3] // one.shape[-3], -3) for one in (key, value))
        scores = query @ key.transpose(-2, -1) * (1 / math.sqrt(query.shape[-1]) if scale is None else scale)
        if is_causal:
            attn_mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
        if attn_mask is not None:
            scores = scores.masked_fill(~attn_mask, -torch.inf) if attn_mask.dtype == torch.bool else scores + attn_mask
        attention = self._softmax(scores.softmax(-1))
        return F.dropout(attention, dropout_p) @ value

    def _multi_head(self, func: Any, args: Any, kwargs: Any) -> tuple[Tensor, Tensor | None]:
        """`nn.MultiheadAttention`'s own computation, recorded from its query on and asked for its weights: these are a
        view of the softmax that the result was made of, which is what stands before the view in the graph."""
        query, key, value, *rest = args
        if not query.requires_grad:
            torch.set_grad_enabled(True)
            leaf = query.detach().requires_grad_()
            key, value = (leaf if one is query else one for one in (key, value))
            query = leaf
        wanted, averaged = kwargs.get("need_weights", True), kwargs.get("average_attn_weights", True)
        asked = {**kwargs, "need_weights": True, "average_attn_weights": False}
        output, weights = func(query, key, value, *rest, **asked)
        node = weights.grad_fn
        while node is not None and "Softmax" not in node.name():
            node = node.next_functions[0][0]
        if node is not None and self._fits(weights.shape):
            shape = torch.Size((weights.shape[0] * weights.shape[1], *weights.shape[2:]))
            self.keep(GradientEdge(node, 0), shape)
        if not wanted:
            return output, None
        return output, weights.mean(1) if averaged else weights

    def _fits(self, shape: torch.Size) -> bool:
        """Whether it is that of a self-attention over all tokens: [N, heads, T, T] or [N * heads, T, T]."""
        if len(shape) not in (3, 4) or shape[-1] != shape[-2] or shape[-1] < 2:
            return False
        return shape[0] == self.n if len(shape) == 4 else shape[0] % self.n == 0

    def _begun(self, attention: Tensor) -> Tensor:
        """The map to go on with, which is where the graph begins, or goes on."""
        if attention.requires_grad:
            self.keep(attention, attention.shape)
            return attention
        torch.set_grad_enabled(True)
        leaf = attention.detach().requires_grad_()
        self.keep(leaf, attention.shape)
        return leaf.clone()  # which an in-place operation may change, as it may not change a leaf
