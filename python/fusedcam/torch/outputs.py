"""What modules return: tensors, and containers of tensors that only their own type knows how to rebuild."""

import copy
import dataclasses
from collections.abc import Callable, Iterator, Mapping, MutableMapping
from typing import Any

import torch
from torch import Tensor

from .forms import IMAGES, Form

__all__ = [
    "are_probabilities",
    "describe",
    "detached",
    "find_map",
    "normal",
    "rebuilt",
    "replaced",
    "rows",
    "shares_memory",
    "tensors",
]


def find_map(output: Any, n: int, form: Form = IMAGES, *, tokens: bool = False) -> Tensor | None:
    """The first map of floats with N = n in what a module returned, of the form that is meant, or tokens."""
    for tensor in tensors(output):
        if form.is_map(tensor, n) or (tokens and form.are_tokens(tensor, n)):
            return tensor
    return None


def replaced(output: Any, old: Tensor, new: Tensor) -> Any:
    """`output` with `new` wherever it holds `old`, and with views of `new` in place of views of `old`."""

    def change(tensor: Tensor) -> Tensor:
        if tensor is old:
            return new
        if tensor.dtype == old.dtype and _shares_memory(tensor, old) and new.stride() == old.stride():
            offset = new.storage_offset() + tensor.storage_offset() - old.storage_offset()
            reach = sum((extent - 1) * step for extent, step in zip(tensor.shape, tensor.stride(), strict=True))
            if tensor.numel() and offset >= 0 and offset + reach < new.numel():
                return new.as_strided(tensor.shape, tensor.stride(), offset)
        return tensor

    return rebuilt(output, change)


def detached(output: Any) -> Any:
    """`output` without the graph behind its tensors."""
    return rebuilt(output, lambda tensor: tensor.detach())


def rows(output: Any, start: int, count: int, total: int) -> Any:
    """`count` rows of `output`, which is of `total`: of its tensors, or of a list with an entry for each row."""
    if isinstance(output, list | tuple) and len(output) == total and not isinstance(output[0], Tensor):
        return output[start : start + count]

    def cut(tensor: Tensor) -> Tensor:
        return tensor[start : start + count] if tensor.ndim and tensor.shape[0] == total else tensor

    return rebuilt(output, cut)


def normal(value: Any) -> Any:
    """Tensors made in inference mode cannot take part in a recording; their clones can."""
    return value.clone() if isinstance(value, Tensor) and value.is_inference() else value


def describe(output: Any) -> str:
    """What came, for an error message."""
    if isinstance(output, Tensor):
        return f"{str(output.dtype).removeprefix('torch.')} {list(output.shape)}"
    if isinstance(output, list | tuple):
        return f"{type(output).__name__} of ({', '.join(describe(item) for item in output)})"
    return type(output).__name__


def are_probabilities(rows: Tensor) -> bool:
    """Whether every row of [..., classes] is non-negative and sums to 1 but for rounding, as after a softmax.

    Half types' are sums of float32 that are rounded once or twice each, in proportion, so that however many they are
    they miss 1 by a few eps.
    """
    types = torch.finfo(rows.dtype), torch.finfo(torch.float32)
    tolerance = max(1e-5, 8 * types[0].eps, rows.shape[-1] ** 0.5 * types[1].eps)
    rows = rows.detach().double()
    return bool(((rows >= 0).all(-1) & ((rows.sum(-1) - 1).abs() < tolerance)).all())


def tensors(output: Any) -> Iterator[Tensor]:
    """Those in what a module takes or returns."""
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, list | tuple):
        for item in output:
            yield from tensors(item)
    elif isinstance(output, Mapping):
        for item in output.values():
            yield from tensors(item)
    elif dataclasses.is_dataclass(output):
        for field in dataclasses.fields(output):
            yield from tensors(getattr(output, field.name))


def shares_memory(inputs: Any, output: Tensor) -> bool:
    """Whether a tensor among `inputs` lies in the same memory."""
    return any(_shares_memory(one, output) for one in tensors(inputs))


def _shares_memory(first: Tensor, second: Tensor) -> bool:
    try:
        memory = first.untyped_storage().data_ptr()
        return memory == second.untyped_storage().data_ptr() and memory != 0
    except (RuntimeError, NotImplementedError):  # sparse, or a subclass without storage
        return False


def rebuilt(output: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """A container of the same type in which `change` was applied to every tensor; other objects as they are."""
    if isinstance(output, Tensor):
        return change(output)
    if isinstance(output, list | tuple):
        items = [rebuilt(item, change) for item in output]
        if isinstance(output, list) or not hasattr(output, "_fields"):
            return type(output)(items)
        return type(output)(*items)  # a named tuple
    if isinstance(output, MutableMapping):
        result = copy.copy(output)  # keeps what a subclass carries beside its items
        for key, item in output.items():
            result[key] = rebuilt(item, change)
        return result
    if dataclasses.is_dataclass(output) and not isinstance(output, type):
        record = copy.copy(output)
        for field in dataclasses.fields(output):
            # Past the setter, which a frozen class refuses.
            object.__setattr__(record, field.name, rebuilt(getattr(output, field.name), change))
        return record
    return output
