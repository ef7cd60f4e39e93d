"""LeGrad: where a vision transformer's score is sensitive to what its tokens attend to."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from . import state
from .attention import Attentions
from .capture import without_autocast_cache
from .derivatives import Edge, derivatives, stacked
from .explainer import Explainer, Finish, Run
from .finishing import finished
from .outputs import detached, normal, rebuilt, tensors
from .plan import Plan
from .recording import watching
from .targets import chosen_classes, score_function
from .whole import Before, meeting

__all__ = ["LeGrad"]

Head = Callable[[Tensor], Tensor]


class LeGrad(Explainer):
    """Explains a vision transformer's scores by LeGrad (Bousselham et al. 2024, https://arxiv.org/abs/2404.03214): the
    gradient of a block's own score by its attention maps, after its ReLU averaged over heads, queries and blocks.

    Attention is seen in `nn.MultiheadAttention`, `scaled_dot_product_attention` and in softmaxes over [N, heads, T, T];
    windows of tokens, as Swin has them, are not. Recording begins at the first block's attention. torch-cam needs
    `nn.MultiheadAttention` and torchvision's names.

    Args:
        model: maps a batch of N images to any output.
        blocks: modules or their dotted names, each of which returns tokens [N, T, D] (or a container whose first such
            tensor is meant) and holds one self-attention. None takes every self-attention of a run, without `head`.
        head: from a block's tokens [N, T, D] to its scores, in the form of the model's output. The paper's is the mean
            over tokens, the model's last normalisation and its classifier. None explains the model's one score for all
            blocks, which the paper does not, but needs to know nothing about the model.
        prefix: how many tokens come before those of the grid, such as the class token.
        grid: (height, width) of the tokens; None for a square.
        eval: as in `GradCAM`.

    Raises:
        ValueError, TypeError: naming the argument that does not fit; when called, also tokens that are no such grid.
    """

    def __init__(
        self,
        model: nn.Module,
        blocks: Sequence[nn.Module | str] | None = None,
        *,
        head: Head | None = None,
        prefix: int = 1,
        grid: tuple[int, int] | None = None,
        eval: bool = False,
    ):
        super().__init__(model, None, eval=eval)
        if isinstance(blocks, nn.Module | str) or not isinstance(blocks, Sequence | None):
            raise TypeError(
                f"blocks is of type {type(blocks).__name__}; accepted is a list of modules or names, or None"
            )
        if blocks is not None and not blocks:
            raise ValueError("blocks is an empty list; accepted is at least one, or None for all attention")
        if head is not None and not callable(head):
            raise TypeError(
                f"head is of type {type(head).__name__}; accepted is a callable from tokens to scores, or None"
            )
        if head is not None and blocks is None:
            raise ValueError("head needs blocks, whose tokens it takes; blocks is None")
        if isinstance(prefix, bool) or not isinstance(prefix, int):
            raise TypeError(f"prefix is {prefix!r}; accepted is an int")
        if prefix < 0:
            raise ValueError(f"prefix is {prefix}; accepted is 0 or more")
        if grid is not None and (len(grid) != 2 or not all(isinstance(one, int) and one > 0 for one in grid)):
            raise ValueError(f"grid is {grid!r}; accepted is (height, width), both 1 or more, or None for a square")
        self._blocks = None if blocks is None else [self._capture._find(block) for block in blocks]
        self._head, self._prefix, self._grid = head, prefix, grid

    def _explain(self, run: Run, finish: Finish) -> Tensor:
        n = len(run.x)
        with torch.inference_mode(False):
            score = score_function(run.targets, n)
        with state.evaluating(self.model, self.eval):
            trace, output = self._run(run)
        if self._warn_of_probabilities:
            self._warn_of_probabilities = False
            state.warn_of_probabilities(output)
        with torch.inference_mode(False):
            if self._head is None:
                parts = [_Part([*trace.edges], output)]
            else:
                parts = trace.parts
                if run.targets is None:  # what the model itself chooses, in every block
                    score = score_function(chosen_classes(None, output, n), n)
            rows: list[Tensor] = []
            for part in parts:
                with torch.enable_grad():
                    scores = score(part.output)
                rows += self._sensitivities(scores, part.edges, n)
        maps = torch.stack(rows).mean(0)
        names = ", ".join(self._capture._names[block] for block in self._blocks or ())
        self._last.output = detached(output)
        self._last.plan = Plan(names, 0, 1, tuple(trace.edges[0].shape), "from the layer", ())
        return finished(maps, finish)

    def _run(self, run: Run) -> tuple["_Trace", Any]:
        """One run of the model, recorded from the first attention on."""
        blocks = self._blocks or []
        trace = _Trace(len(run.x), blocks, self._head)
        mode = Attentions(trace.n, trace.wanted, trace.keep)
        with torch.inference_mode(False), torch.no_grad(), without_autocast_cache():
            args = [normal(value) for value in run.args]
            kwargs = {key: normal(value) for key, value in run.kwargs.items()}
            with meeting(trace, blocks), watching(trace, blocks), mode:
                output = self.model(*args, **kwargs)
        found = len(trace.edges) if self._blocks is None else len(trace.parts)
        if not trace.edges or found < len(blocks):
            where = f"in {found} of {len(blocks)} blocks" if blocks else "nowhere in the model"
            raise RuntimeError(
                f"self-attention over all tokens was seen {where}: it was compiled, uses another kernel for it, or "
                "attends within windows"
            )
        return trace, output

    def _sensitivities(self, scores: Tensor, edges: list["_Attention"], n: int) -> list[Tensor]:
        """For each attention map the mean, over heads and queries, of the positive gradient, [N, (K,) H, W]."""
        if not scores.requires_grad:
            raise ValueError("the score does not depend on the attention, as far as autograd can see")
        columns: list[list[Tensor]] = []
        for gradients in derivatives(scores, [one.edge for one in edges]):
            column = []
            for gradient in gradients:
                if gradient is None:
                    raise ValueError("the score does not depend on every attention, as far as autograd can see")
                tokens = gradient.shape[-1]
                column.append(self._on_grid(gradient.reshape(n, -1, tokens, tokens).clamp(min=0).mean((1, 2))))
            columns.append(column)
        return [stacked(list(rows), scores) for rows in zip(*columns, strict=True)]

    def _on_grid(self, tokens: Tensor) -> Tensor:
        """[N, T] -> [N, H, W]."""
        count = tokens.shape[1] - self._prefix
        side = int(max(count, 0) ** 0.5)
        height, width = self._grid or (side, side)
        if count < 1 or height * width != count:
            asked = f"grid is {self._grid}" if self._grid else "grid is None, for a square"
            raise ValueError(f"{asked}; the model has {tokens.shape[1]} tokens, of which {self._prefix} are the prefix")
        return tokens[:, self._prefix :].reshape(-1, height, width)


class _Attention(NamedTuple):
    edge: Edge
    shape: torch.Size


class _Part(NamedTuple):
    """What is differentiated: attention maps, and the scores' form of output."""

    edges: list[_Attention]
    output: Any


class _Trace(Before):
    """Sees which block runs, and what attends within it."""

    def __init__(self, n: int, blocks: list[nn.Module], head: Head | None):
        self.n, self.blocks, self.head = n, blocks, head
        self.edges: list[_Attention] = []
        self.parts: list[_Part] = []
        self._open = 0
        self._own: list[_Attention] = []
        """Of the block that runs."""

    def wanted(self) -> bool:
        return not self.blocks or self._open > 0

    def keep(self, edge: Edge, shape: torch.Size) -> None:
        self.edges.append(_Attention(edge, shape))
        self._own.append(self.edges[-1])

    def begin(self, module: nn.Module, args: Any) -> None:
        self._open += 1

    def hook(self, module: nn.Module, inputs: Any, output: Any) -> Any:
        if not self.acts:
            return None
        self._open -= 1
        own, self._own = self._own, []
        if not own:
            return None
        if self.head is None:
            self.parts.append(_Part(own, None))
            return None
        tokens = next((one for one in tensors(output) if one.ndim == 3 and one.shape[0] == self.n), None)
        if tokens is None:
            raise ValueError(f"blocks: one returned no tokens [N, T, D] with N = {self.n}")
        self.parts.append(_Part(own, self.head(tokens)))
        torch.set_grad_enabled(False)  # the next block's score begins at its own attention
        # Copies, since the model may write to them in place, which this block's graph would not bear.
        return rebuilt(output, lambda one: one.detach().clone())
