"""A run recorded from the input on: for methods that differentiate with respect to the input itself."""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from .capture import without_autocast_cache
from .explainer import Run
from .outputs import normal
from .recording import Watch, _lock, plain_checkpoints, watching
from .state import explain_failure, unchanged_buffers

__all__ = ["Before", "meeting", "recorded"]


class _Never(Exception):
    """Such a run is not repeated."""


def recorded(model: nn.Module, run: Run, watch: Watch, layers: Iterable[nn.Module]) -> tuple[Tensor, Any]:
    """x as the leaf of a new graph, and the output that leads to it; `watch` sees the calls of `layers`.

    Raises:
        TypeError: x is not of floats.
        RuntimeError: the model was scripted.
    """
    if not run.x.is_floating_point():
        raise TypeError(f"x is of {run.x.dtype}; accepted is a tensor of floats, since scores are differentiated by it")
    if any(isinstance(module, torch.jit.ScriptModule) for module in model.modules()):
        raise RuntimeError("the model was scripted, which hides what it is made of; explain what it was made of")
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        stack.enter_context(without_autocast_cache())
        stack.enter_context(plain_checkpoints())
        stack.enter_context(unchanged_buffers(model, _Never))
        stack.enter_context(watching(watch, layers))
        x = normal(run.x).detach().requires_grad_()
        rest = [normal(value) for value in run.args[1:]]
        kwargs = {key: normal(value) for key, value in run.kwargs.items()}
        try:
            # A clone, as a model that writes to its input may change no leaf, nor what the caller has.
            return x, model(x.clone(), *rest, **kwargs)
        except RuntimeError as error:
            explain_failure(model, error)


class Before(Watch):
    """A watch that is told of calls before they begin, too."""

    def before(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        if self.acts:
            self.begin(module, args)

    def begin(self, module: nn.Module, args: Any) -> None:
        raise NotImplementedError


@contextmanager
def meeting(watch: Before, layers: Iterable[nn.Module]) -> Iterator[None]:
    """Within the block `watch` is told before the calls of `layers`; that it acts is for `watching` to see to."""
    handles = []
    try:
        with _lock:
            for layer in layers:
                handles.append(layer.register_forward_pre_hook(watch.before, with_kwargs=True))
        yield
    finally:
        with _lock:
            for handle in handles:
                handle.remove()
