"""What surrounds a peer's run of a model: gradients and hooks that stay as they are, evaluation mode for its length."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from ..torch.state import evaluating

__all__ = ["as_it_was", "lifted", "predicting"]


@contextmanager
def predicting(model: nn.Module) -> Iterator[None]:
    """The model is in evaluation mode within the block, and afterwards as it was."""
    with evaluating(model, any(module.training for module in model.modules())):
        yield


@contextmanager
def as_it_was(model: nn.Module) -> Iterator[None]:
    """The block may write to parameters' `.grad`; afterwards it is what it was."""
    before = [(parameter, parameter.grad) for parameter in model.parameters()]
    for parameter, _ in before:
        parameter.grad = None
    try:
        yield
    finally:
        for parameter, grad in before:
            parameter.grad = grad


@contextmanager
def lifted(handles: Iterable[Any]) -> Iterator[None]:
    """The hooks of these handles are off their modules within the block, and afterwards in their old order."""
    before = []
    for handle in handles:
        hooks = handle.hooks_dict_ref()
        if hooks is not None and handle.id in hooks:
            before.append((hooks, list(hooks.items())))
            del hooks[handle.id]
    try:
        yield
    finally:
        for hooks, items in reversed(before):
            now = dict(hooks)
            hooks.clear()
            hooks.update(items)
            for key, hook in now.items():
                hooks.setdefault(key, hook)
