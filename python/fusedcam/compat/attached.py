"""Maps that carry a gradient which is computed when somebody asks for it.

Captum's carry one always, for which it records the whole model at each call, and which hardly anyone asks for.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ..torch.outputs import tensors
from ..torch.trail import Unfit
from .capturing import modes_of

__all__ = ["alike", "attached", "tensors_of"]


def tensors_of(values: Any) -> list[Tensor]:
    """The tensors in arguments, however they are nested."""
    return [*tensors(values)]


def attached(maps: Tensor, again: Callable[[Any, Any], Tensor], model: nn.Module, inputs: Any, more: Any) -> Tensor:
    """`maps` with the gradients of `again(inputs, more)`, which computes them with all that comes before.

    They go to tensors among the arguments, to the model's parameters and to what else its modules hold.
    """
    arguments = [one for one in tensors_of((inputs, more)) if one.requires_grad]
    held = [one for module in model.modules() for one in vars(module).values() if isinstance(one, Tensor)]
    variables = {id(one): one for one in (*model.parameters(), *held) if one.requires_grad}
    variables = {key: one for key, one in variables.items() if all(one is not argument for argument in arguments)}
    modes = modes_of(model)

    def run(given: list[Tensor]) -> Tensor:
        replaced = {id(old): new for old, new in zip(arguments, given, strict=True)}
        before = [module.training for module in model.modules()]
        try:
            for module, training in zip(model.modules(), modes, strict=True):
                module.training = training
            return again(_with(inputs, replaced), _with(more, replaced))
        finally:
            for module, training in zip(model.modules(), before, strict=True):
                module.training = training

    # Something to hang a graph on, where there is nothing else: the maps require grad in any case.
    anchor = torch.empty(0, requires_grad=True)
    result: Tensor = _Attached.apply(maps, run, len(arguments), anchor, *arguments, *variables.values())  # type: ignore[no-untyped-call]
    return result


class _Attached(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, maps: Tensor, run: Any, count: int, anchor: Tensor, *variables: Tensor) -> Tensor:
        ctx.run, ctx.count = run, count
        ctx.save_for_backward(*variables)
        return maps.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        variables = ctx.saved_tensors  # which refuses those that have been written to meanwhile
        more = torch.is_grad_enabled()
        arguments, held = variables[: ctx.count], variables[ctx.count :]
        with torch.enable_grad():
            # Apart from what the arguments were made of, whose graph is the caller's.
            own = arguments if more else [one.detach().requires_grad_() for one in arguments]
            maps = ctx.run(list(own))
            wanted = [*own, *held]
            found = torch.autograd.grad(maps, wanted, gradient, allow_unused=True, create_graph=more) if wanted else ()
        return None, None, None, None, *found


def _with(values: Any, replaced: dict[int, Tensor]) -> Any:
    """The arguments with other tensors in the places of some."""
    if isinstance(values, Tensor):
        return replaced.get(id(values), values)
    if isinstance(values, tuple | list):
        return type(values)(_with(one, replaced) for one in values)
    return values


@contextmanager
def alike(model: Any, inputs: list[Tensor]) -> Iterator[None]:
    """A block whose run of the model another one would repeat.

    Raises:
        Unfit: the model trains, and has buffers that a run may change or has drawn random numbers, which are as before.
    """
    if not isinstance(model, nn.Module) or not any(modes_of(model)):
        yield
        return
    if any(True for _ in model.buffers()):
        raise Unfit("running statistics would move twice")
    devices = {one.device for one in inputs if one.is_cuda}
    before = [torch.get_rng_state(), *(torch.cuda.get_rng_state(device) for device in devices)]
    yield
    after = [torch.get_rng_state(), *(torch.cuda.get_rng_state(device) for device in devices)]
    if not all(map(torch.equal, before, after)):
        torch.set_rng_state(before[0])
        for device, state in zip(devices, before[1:], strict=True):
            torch.cuda.set_rng_state(state, device)
        raise Unfit("random numbers would not come again")
