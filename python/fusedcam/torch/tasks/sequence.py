"""Captioning and other sequences: how likely the model takes the tokens that are given."""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from .reading import check_flag, check_option, scored_tensor, wide

__all__ = ["SequenceScore"]


@dataclass(frozen=True, eq=False)
class SequenceScore:
    """The log-probability of a sequence of tokens y, of an output s [N, T, V] before the softmax: sum over t of
    log p(y_t) = s_t(y_t) - log sum_v exp(s_t(v)), over tokens that are not ignored.

    Args:
        tokens: ids [N, T], or [T] for all images: a tensor, an array or lists; padding has `ignore_index`.
        ignore_index: the id of what is not scored, as in `torch.nn.functional.cross_entropy`.
        shift: what is returned at t foretells the token at t + 1, as language models have it, whose first token is
            then not scored and whose last output is not used.
        form: "log_softmax", or "raw": s_t(y_t).
        reduction: "sum", or "mean": divided by how many tokens of the image are scored.
        each: a score, and so a map, for each token in place of their sum: [N, T], or [N, T - 1] with `shift`. Ignored
            tokens have 0 and a map of zeros. It needs reduction="sum".

    Raises:
        ValueError, TypeError: naming the argument that does not fit; an image without a token that is scored; when
            called, also tokens of other extents than the output's and ids that the model does not have.
    """

    tokens: Any
    ignore_index: int = -100
    shift: bool = False
    form: Literal["log_softmax", "raw"] = "log_softmax"
    reduction: Literal["sum", "mean"] = "sum"
    each: bool = False

    def __post_init__(self) -> None:
        check_flag("shift", self.shift)
        check_flag("each", self.each)
        check_option("form", self.form, ("log_softmax", "raw"))
        check_option("reduction", self.reduction, ("sum", "mean"))
        if isinstance(self.ignore_index, bool) or not isinstance(self.ignore_index, int):
            raise TypeError(f"ignore_index is {self.ignore_index!r}; accepted is an int")
        if self.each and self.reduction != "sum":
            raise ValueError('reduction is "mean", of what `each` keeps apart; accepted: "sum"')
        tokens = self._tokens()
        scored = (tokens != self.ignore_index)[..., self.shift :]
        empty = (~scored.any(-1)).reshape(-1).nonzero()
        if len(empty):
            whose = f"image {int(empty[0])}" if tokens.ndim == 2 else "the sequence"
            raise ValueError(
                f"tokens: {whose} has none that is scored"
                f"{', the first being skipped by shift' if self.shift else ''}; accepted is at least one"
            )

    def __call__(self, output: Any) -> Tensor:
        """Scores [N], or [N, T] with `each`, of an output [N, T, V] or of its part "logits"."""
        logits = wide(scored_tensor(output, "[N, T, V]", (3,), ("logits",)))
        tokens = self._tokens_of(logits)
        if self.shift:
            logits, tokens = logits[:, :-1], tokens[:, 1:]
        scored = tokens != self.ignore_index
        wrong = tokens[scored & ((tokens < 0) | (tokens >= logits.shape[2]))]
        if wrong.numel():
            raise ValueError(f"tokens: {int(wrong[0])} is out of range; 0 to {logits.shape[2] - 1} are accepted")
        found = logits.gather(2, tokens.where(scored, 0)[..., None])[..., 0]
        if self.form == "log_softmax":
            found = found - logits.logsumexp(2)
        found = torch.where(scored, found, 0)
        if self.each:
            return found
        return found.sum(1) / scored.sum(1) if self.reduction == "mean" else found.sum(1)

    def absent(self, output: Any) -> Tensor:
        """Where a score is 0 since the token is ignored, bools [N], or [N, T] with `each`."""
        logits = scored_tensor(output, "[N, T, V]", (3,), ("logits",))
        ignored = self._tokens_of(logits)[:, self.shift :] == self.ignore_index
        return ignored if self.each else ignored.all(1)

    def _tokens(self) -> Tensor:
        """[N, T] or [T]."""
        if not isinstance(self.tokens, Tensor | np.ndarray | list | tuple):
            raise TypeError(f"tokens is of type {type(self.tokens).__name__}; accepted are ids [N, T] or [T]")
        try:
            tokens = torch.as_tensor(self.tokens)
        except (TypeError, ValueError, RuntimeError) as error:
            raise ValueError(
                f"tokens are no ids [N, T]: {error}; shorter sequences are filled by ignore_index"
            ) from None
        if tokens.ndim not in (1, 2) or 0 in tokens.shape[-1:]:
            raise ValueError(f"tokens has shape {tuple(tokens.shape)}; accepted is [N, T] or [T]")
        if tokens.is_floating_point() or tokens.is_complex() or tokens.dtype == torch.bool:
            raise TypeError(f"tokens has dtype {tokens.dtype}; accepted are integers")
        return tokens.long()

    def _tokens_of(self, logits: Tensor) -> Tensor:
        """[N, T], on the output's device."""
        n, steps = logits.shape[:2]
        tokens = self._tokens().to(logits.device)
        if tuple(tokens.shape) not in ((n, steps), (steps,)):
            raise ValueError(
                f"tokens has shape {tuple(tokens.shape)}; accepted is {(n, steps)} or {(steps,)} for the output "
                f"{list(logits.shape)}"
            )
        return tokens.expand(n, steps)
