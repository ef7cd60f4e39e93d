"""FullGrad: a score taken apart into what the input adds to it and what every bias adds."""

from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from ..functional import resize
from . import state
from .derivatives import Edge, derivatives, nodes_of, stacked
from .explainer import Explainer, Finish, Run
from .finishing import finished
from .forms import Layout
from .outputs import detached
from .plan import Plan
from .targets import score_function
from .whole import Before, meeting, recorded

__all__ = ["FullGrad", "FullGradients", "folded_bias"]

# Activation functions that take pixels one by one and are not linear along rays, as ReLU and LeakyReLU are.
_CURVED = (
    *(nn.CELU, nn.ELU, nn.GELU, nn.Hardsigmoid, nn.Hardswish, nn.Hardtanh, nn.LogSigmoid, nn.Mish, nn.SELU, nn.SiLU),
    *(nn.Sigmoid, nn.Softplus, nn.Softshrink, nn.Softsign, nn.Tanh, nn.Tanhshrink),
)


class FullGradients(NamedTuple):
    """A score as a sum, exact for networks that are piecewise linear in the modules that are looked at."""

    input: Tensor
    """x times its gradient, [N, (K,) *x.shape[1:]]."""
    biases: dict[str, Tensor]
    """By module, in the order in which they ran: each bias times the gradient where it is added, [N, (K,) ...]. A
    module's further calls are `name#1`, `name#2` and so on."""
    score: Tensor
    """[N] or [N, K]."""

    @property
    def total(self) -> Tensor:
        """The sum of all terms, which completeness says is the score."""
        rows = self.score.ndim
        terms = (self.input, *self.biases.values())
        for name, term in self.biases.items():
            if term.shape[: min(rows, term.ndim)] != self.score.shape[: term.ndim]:
                raise ValueError(
                    f"the biases of {name!r} are {list(term.shape)} for scores {list(self.score.shape)}: the model "
                    "folds something into the batch, and which term is which image's cannot be told"
                )
        return torch.stack([term.flatten(rows).sum(rows) if term.ndim > rows else term for term in terms]).sum(0)


class _Bias(NamedTuple):
    name: str
    edge: GradientEdge
    bias: Tensor
    """In the layer's output's shape."""
    layout: Layout
    """Of that, where it is a map."""

    def map_of(self, term: Tensor, n: int) -> Tensor | None:
        """The term [N, C, H, W] if it lies on a map.

        Raises:
            ValueError: a map that is not of the N images.
        """
        if term.ndim != 4:
            return None
        if len(term) != n:
            raise ValueError(
                f"layer {self.name!r} returned {list(term.shape)}; accepted are maps [N, C, H, W] with N = {n}"
            )
        return term.movedim(-1, 1) if self.layout == "last" else term


class FullGrad(Explainer):
    """Explains a model's scores by FullGrad (Srinivas and Fleuret 2019, https://arxiv.org/abs/1905.00780): the sum of
    psi(x dx) and of psi(b db) over the channels of all biases b, where dx and db are the score's derivatives and psi(m)
    is the map |m|, brought to the range of 0 to 1 and resampled bilinearly to x's resolution.

    Biases are those of convolutions and linear layers, and the implicit ones that the paper has beside them: of batch
    normalisation, b - mean w / deviation, and of activation functions h that are no ReLU, h(z) - h'(z) z. Only those
    that lie on a map [N, C, H, W] are drawn, and those of linear layers on [N, H, W, C] with the activation functions
    right behind them; `gradients` returns all. What adds a constant otherwise, a functional call
    a parameter of the model's own or a product of two branches, is not seen, and then the terms' sum is not the score.
    pytorch-grad-cam and the authors' code leave activation functions out; the authors' code brings all channels of a
    layer to one range.

    Args:
        model: maps a batch of N images to any output.
        rescale: what is brought to the range of 0 to 1, each "channel" or each "layer".
        eval: as in `GradCAM`.

    Raises:
        ValueError, TypeError: naming the argument that does not fit; when called, also a batch normalisation that uses
            the batch's own statistics.
    """

    def __init__(self, model: nn.Module, *, rescale: Literal["channel", "layer"] = "channel", eval: bool = False):
        super().__init__(model, None, eval=eval)
        if rescale not in ("channel", "layer"):
            raise ValueError(f'rescale is {rescale!r}; accepted: "channel", "layer"')
        self.rescale = rescale

    def gradients(self, x: Tensor, *args: Any, targets: Any = None, **kwargs: Any) -> FullGradients:
        """The terms themselves, neither made positive nor rescaled.

        Args:
            x: the model's first argument, [N, ...] of floats; `args` and `kwargs` are passed to the model after it.
            targets: as in a call.

        Returns:
            The terms, on x's device.

        Raises:
            ValueError, TypeError, RuntimeError: as a call.
        """
        if not isinstance(x, Tensor) or x.ndim == 0:
            raise TypeError(f"x is of type {type(x).__name__}; accepted is a tensor [N, ...], a batch of N images")
        run = Run((x, *args), kwargs, targets)
        columns: list[list[Tensor]] = []
        names: list[str] = []
        for scores, terms, biases in self._columns(run):
            columns.append(terms)
            names = [bias.name for bias in biases]
            score = scores.detach()
        first, *rest = (stacked(list(rows), score) for rows in zip(*columns, strict=True))
        return FullGradients(first, dict(zip(names, rest, strict=True)), score)

    def _explain(self, run: Run, finish: Finish) -> Tensor:
        x = run.x
        if x.ndim != 4:
            raise ValueError(f"x has shape {tuple(x.shape)}; accepted are images [N, C, H, W]")
        rows = []
        score = x  # of which only the rank will matter
        for score, (first, *rest), biases in self._columns(run):  # noqa: B007
            total = self._rescaled(first.abs())
            for bias, term in zip(biases, rest, strict=True):
                drawn = bias.map_of(term, len(x))
                if drawn is not None:
                    total = total + resize(self._rescaled(drawn.abs()), (x.shape[-2], x.shape[-1]))
            rows.append(total)
        return finished(stacked(rows, score), finish)

    def _rescaled(self, term: Tensor) -> Tensor:
        """Of [N, C, h, w] each channel, or all channels of an image, from 0 to 1, summed: [N, h, w]."""
        each = term.flatten(0, 1) if self.rescale == "channel" else term.flatten(1, 2)
        ranged: Tensor = resize(each, (each.shape[-2], each.shape[-1]), normalize="minmax")
        return ranged.reshape(term.shape).sum(1)

    def _columns(self, run: Run) -> Iterator[tuple[Tensor, list[Tensor], list[_Bias]]]:
        """For each column of the scores: the scores, the input's term and those of the biases."""
        with torch.inference_mode(False):
            score = score_function(run.targets, len(run.x))
        with state.evaluating(self.model, self.eval):
            biases = _Biases({module: name for name, module in self.model.named_modules()})
            with meeting(biases, biases.curved):
                x, output = recorded(self.model, run, biases, biases.layers)
        if self._warn_of_probabilities:
            self._warn_of_probabilities = False
            state.warn_of_probabilities(output)
        with torch.inference_mode(False):
            with torch.enable_grad():
                scores = score(output)
            if not scores.requires_grad:
                raise ValueError("the score does not depend on x, as far as autograd can see")
            for _ in nodes_of(scores):
                pass  # no part of it is compiled, which would have biases that nobody sees
            edges: list[Edge] = [x, *(bias.edge for bias in biases.found)]
            for first, *rest in derivatives(scores, edges):
                if first is None:
                    raise ValueError("the score does not depend on x, as far as autograd can see")
                with torch.no_grad():
                    terms = [x.detach() * first]
                    for bias, gradient in zip(biases.found, rest, strict=True):
                        # A branch that the score does not use adds nothing.
                        terms.append(bias.bias * gradient if gradient is not None else torch.zeros_like(bias.bias))
                yield scores, terms, biases.found
            self._last.output = detached(output)
            self._last.plan = Plan("", 0, 1, tuple(x.shape), "from the start", ())


class _Biases(Before):
    """Collects the biases that a run adds, and where."""

    def __init__(self, names: dict[nn.Module, str]):
        self.names = names
        self.layers = [module for module in names if _is_known(module)]
        self.curved = [module for module in self.layers if isinstance(module, _CURVED)]
        self.found: list[_Bias] = []
        self._calls: dict[nn.Module, int] = {}
        self._given: dict[nn.Module, Tensor] = {}
        self._behind_linear: set[nn.Module] = set()
        self._of_linear: Tensor | None = None  # what the last linear layer returned

    def begin(self, module: nn.Module, args: Any) -> None:
        if args and isinstance(args[0], Tensor):
            if args[0] is self._of_linear:
                self._behind_linear.add(module)
            given = args[0].detach()
            self._given[module] = given.clone() if getattr(module, "inplace", False) else given

    def hook(self, module: nn.Module, inputs: Any, output: Any) -> None:
        if not self.acts or not isinstance(output, Tensor) or not output.requires_grad:
            return
        call = self._calls.get(module, 0)
        self._calls[module] = call + 1
        with torch.no_grad():
            bias = self._curvature(module) if isinstance(module, _CURVED) else _spread(module, output)
        last = isinstance(module, nn.Linear) or module in self._behind_linear
        self._behind_linear.discard(module)
        self._of_linear = output if isinstance(module, nn.Linear) else None
        if bias is not None:
            name = self.names[module] + (f"#{call}" if call else "")
            self.found.append(_Bias(name, get_gradient_edge(output), bias, "last" if last else "first"))

    def _curvature(self, module: nn.Module) -> Tensor | None:
        """h(z) - h'(z) z of an activation function h."""
        if module not in self._given:
            return None
        z = self._given.pop(module).requires_grad_()
        with torch.enable_grad():
            values: Tensor = module.forward(z.clone())  # no hooks, ours among them
            (slope,) = torch.autograd.grad(values.sum(), z)
        return values.detach() - slope * z.detach()


def _is_known(module: nn.Module) -> bool:
    """Whether it is one of those whose bias is found. A batch normalisation of someone else's may do more than that."""
    if isinstance(module, _BatchNorm) and not isinstance(module, nn.SyncBatchNorm):
        return type(module).forward is _BatchNorm.forward
    return isinstance(module, (_ConvNd, nn.Linear, nn.SyncBatchNorm, *_CURVED))


def _spread(module: Any, output: Tensor) -> Tensor | None:
    """A layer's bias in the shape of its output.

    Raises:
        ValueError: a batch normalisation that uses the batch's own statistics, which make it no linear function.
    """
    if isinstance(module, _BatchNorm) and (module.training or module.running_mean is None):
        raise ValueError(
            "FullGrad needs batch normalisation by its running statistics; call model.eval() or pass eval=True"
        )
    bias = folded_bias(module)
    if bias is None:
        return None
    after = 0 if isinstance(module, nn.Linear) else output.ndim - 2
    return bias.detach().reshape(-1, *(1,) * after).expand_as(output)


def folded_bias(module: Any) -> Tensor | None:
    """What a layer adds: a convolution's or linear layer's bias, and of batch normalisation with its running statistics
    b - mean w / sqrt(variance + eps); None for nothing."""
    bias: Tensor | None = module.bias
    if not isinstance(module, _BatchNorm) or module.running_mean is None or module.running_var is None:
        return bias
    shift = module.running_mean / torch.sqrt(module.running_var + module.eps)
    shift = shift if module.weight is None else module.weight * shift
    folded: Tensor = -shift if bias is None else bias - shift
    return folded
