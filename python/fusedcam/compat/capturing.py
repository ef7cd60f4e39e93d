"""What surrounds a peer's run of a model: gradients and hooks that stay as they are, evaluation mode for its length."""

import copy
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from ..torch.state import evaluating

__all__ = ["as_it_was", "lifted", "modes_of", "predicting"]


def modes_of(model: nn.Module) -> tuple[bool, ...]:
    """Whether each module is in training mode."""
    return tuple(module.training for module in model.modules())


@contextmanager
def predicting(model: nn.Module, *, unless: bool = False) -> Iterator[None]:
    """The model is in evaluation mode within the block, and afterwards as it was; `unless` leaves it alone."""
    with evaluating(model, not unless and any(modes_of(model))):
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


def _itself(hook: Any) -> Any:
    return hook


class _Lifted:
    """In a hook's place while it is lifted on some threads; it still acts on the others."""

    def __init__(self, hook: Any):
        self.hook = hook
        self.threads: list[int] = []

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return None if threading.get_ident() in self.threads else self.hook(*args, **kwargs)

    def __deepcopy__(self, memo: Any) -> Any:
        return copy.deepcopy(self.hook, memo)  # a copy's hooks are lifted nowhere

    def __reduce__(self) -> Any:
        return _itself, (self.hook,)

    @property
    def __self__(self) -> Any:
        return getattr(self.hook, "__self__", None)


_lock = threading.Lock()


@contextmanager
def lifted(handles: Iterable[Any]) -> Iterator[None]:
    """The hooks of these handles do not act on this thread within the block. They keep their places."""
    thread = threading.get_ident()
    taken = []
    with _lock:
        for handle in handles:
            hooks = handle.hooks_dict_ref()
            if hooks is not None and handle.id in hooks:
                if not isinstance(hooks[handle.id], _Lifted):
                    hooks[handle.id] = _Lifted(hooks[handle.id])
                hooks[handle.id].threads.append(thread)
                taken.append((hooks, handle.id, hooks[handle.id]))
    try:
        yield
    finally:
        with _lock:
            for hooks, key, place in taken:
                place.threads.remove(thread)
                if not place.threads and hooks.get(key) is place:
                    hooks[key] = place.hook
