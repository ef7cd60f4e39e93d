"""What the methods without gradients share: one run to look at the layer, then batches of runs, weights and the map."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .._batches import Progress, check_options, free_memory, rows_together
from ..functional import cam
from . import state
from .capture import without_autocast_cache
from .explainer import Explainer, Finish, Run
from .outputs import detached, normal
from .passes import Keeper, place_of
from .plan import Plan
from .recording import watching
from .targets import RowScores

__all__ = ["ForwardExplainer", "Seen", "spread"]

_MOST_ROWS = {"cpu": 32, "cuda": 256}  # where a batch's size is not given


class Seen(NamedTuple):
    """What one run of inference has shown."""

    layer: nn.Module
    plan: Plan
    activations: Tensor
    """[N, C, H, W]"""
    output: Any
    """The model's, for the N images."""
    scores: RowScores
    run: Run
    """With arguments that do not require grad."""

    @property
    def n(self) -> int:
        return len(self.activations)


class _Ended(Exception):
    """The masked runs are done; buffers go back to what they were before."""


class ForwardExplainer(Explainer):
    """What the methods without gradients share: one run to look at the layer, batches of runs, weights, the map.

    Args:
        model, target_layer, call, eval: as of every `Explainer`; one layer, which returns a map [N, C, H, W]: signals,
            volumes and tokens are not masked.
        top_channels: only that many channels of each image are tried, those whose activations deviate the most
            (Faster Score-CAM, https://github.com/tabayashi0117/Score-CAM); the others' weights are 0. None: all.
        batch_size: rows that the model is given at once, but never fewer than images; None takes as many as fit into a
            part of the free memory, 32 at most on the CPU and 256 on CUDA.
        progress: True shows a bar, by rich or else tqdm; or a callable that takes the list of batches and hands them
            on, as `tqdm.tqdm` does.

    Raises:
        ValueError, TypeError: naming the argument that does not fit.
    """

    title: str

    def __init__(
        self,
        model: nn.Module,
        target_layer: nn.Module | str | None = None,
        *,
        top_channels: int | None = None,
        batch_size: int | None = None,
        progress: Progress = False,
        call: int = -1,
        eval: bool = False,
    ):
        check_options("", batch_size, top_channels, progress)
        super().__init__(model, target_layer, call=call, eval=eval)
        if len(self._capture.layers) > 1:
            raise ValueError(f"target_layer has several layers; accepted is one by {type(self).__name__}")
        self.top_channels, self.batch_size, self.progress = top_channels, batch_size, progress

    def _explain(self, run: Run, finish: Finish) -> Tensor:
        args, kwargs = ([normal(value) for value in run.args], {k: normal(value) for k, value in run.kwargs.items()})
        run = Run([detached(value) for value in args], {k: detached(value) for k, value in kwargs.items()}, run.targets)
        with (
            torch.inference_mode(False),
            torch.no_grad(),
            without_autocast_cache(),
            state.evaluating(self.model, self.eval),
        ):
            seen = self._look(run)
            reruns = list(seen.plan.reruns)
            with self._untouched():
                weights = self._weights(seen, reruns)
            maps = seen.activations if seen.activations.dtype == torch.float64 else seen.activations.float()
            heat: Tensor = cam(maps, weights=weights.to(maps.dtype), **finish._asdict())
        self._last.output, self._last.plan = detached(seen.output), replace(seen.plan, reruns=tuple(reruns))
        return heat

    def _look(self, run: Run) -> Seen:
        """One run of inference: the layer's map and the model's output."""
        n = run.x.shape[0]
        with self._untouched():
            layer, call, name, searched = place_of(self._capture, run.args, run.kwargs, n)
        keeper = Keeper(n, call)
        with watching(keeper, [layer]):
            output = self.model(*run.args, **run.kwargs)
        right = self._capture.checked_call(layer, call, keeper.calls)
        activations = keeper.activations
        if isinstance(activations, str):
            raise ValueError(
                f"layer {self._capture.name_of(layer)} returned {activations}; accepted is a map [N, C, H, W] of "
                f"floats with N = {n}"
            )
        reruns = ("the last map had to be found first",) if searched else ()
        plan = Plan(name, right, keeper.calls, tuple(activations.shape), "nothing", reruns)
        return Seen(layer, plan, activations, output, RowScores(run.targets, output, n), run)

    def _weights(self, seen: Seen, reruns: list[str]) -> Tensor:
        """[N, C], or [N, K, C]; `reruns` gets what `plan` shall tell."""
        raise NotImplementedError

    @contextmanager
    def _untouched(self) -> Iterator[None]:
        """The runs within the block leave buffers, such as running statistics, and random numbers as they are."""
        training = any(module.training for module in self.model.modules())
        devices = {parameter.device for parameter in self.model.parameters() if parameter.is_cuda}
        with (
            torch.random.fork_rng(devices) if training else nullcontext(),
            suppress(_Ended),
            state.unchanged_buffers(self.model, _Ended),
        ):
            yield
            raise _Ended

    def _together(self, rows: Tensor) -> int:
        """How many rows like these a batch holds."""
        if self.batch_size is not None:
            return self.batch_size
        device = rows.device
        if device.type == "cuda":
            unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
            free = torch.cuda.mem_get_info(device)[0] + unused
        else:
            free = free_memory()
        each = rows[0].numel() * rows.element_size() if len(rows) else 1
        return rows_together(None, each, free, _MOST_ROWS.get(device.type, 32))

    def _tried(self, activations: Tensor) -> Tensor | None:
        """[N, k]: which channels; None for all."""
        if self.top_channels is None or self.top_channels >= activations.shape[1]:
            return None
        spread = activations.double().flatten(2).std(2, correction=0)
        order = torch.argsort(spread, dim=1, descending=True, stable=True)
        return order[:, : self.top_channels].sort(1).values


def spread(weights: Tensor, tried: Tensor | None, channels: int) -> Tensor:
    """Weights [N, k] or [N, K, k] of the channels tried, as of all."""
    if tried is None:
        return weights
    places = tried if weights.ndim == 2 else tried[:, None].expand(*weights.shape)
    return weights.new_zeros((*weights.shape[:-1], channels)).scatter(-1, places, weights)
