"""Explainer: a model, a layer and images in, heatmaps out. A method is its `method`, or a step replaced."""

import threading
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, NamedTuple, Self

from torch import Tensor, nn

from ..functional import cam
from . import state
from .capture import Capture, Captured, Plan

__all__ = ["Explainer", "Finish", "Run"]


class Run(NamedTuple):
    """What is explained: a batch of N images, or what else the model takes, and whose scores."""

    args: Sequence[Any]
    """The model's arguments, the first of which is x, [N, ...]."""
    kwargs: Mapping[str, Any]
    targets: Any

    @property
    def x(self) -> Tensor:
        x: Tensor = self.args[0]
        return x


class Finish(NamedTuple):
    """What becomes of scores at the layer's resolution; the arguments of `fusedcam.cam`."""

    size: int | tuple[int, ...] | list[int] | None
    relu: bool
    normalize: Literal["minmax", "max"] | None
    nan: Literal["propagate", "zero", "raise"]


class Explainer:
    """Explains a model's scores by class activation maps of one of its layers.

    The model runs as in inference up to the layer; only what follows is recorded, and the score is differentiated with
    respect to the layer's output alone. Parameters' `.grad`, modes, `requires_grad` flags and the caller's grad mode
    stay as they are. Hooks are on the model during a call only, and act only for the call's own thread. Several
    threads may explain one model.

    Args:
        model: maps a batch of N images to any output; classes as targets need scores [N, classes], before softmax.
        target_layer: a module of the model or its dotted name; it returns a map [N, C, H, W] of floats, or a container
            whose first such tensor is meant. None picks the last call whose output is a map with H * W > 1, anew for
            each input shape, at the cost of one more run of inference then.
        call: which call of a layer that runs several times; -1 is the last. With target_layer=None it has to be -1.
        eval: run the model in evaluation mode; every module's own flag, the buffers and PyTorch's random state are
            restored afterwards.

    Raises:
        ValueError: no such layer.
        TypeError: not a module, not a name.
    """

    method: ClassVar[str] = "gradcam"
    """A key of `fusedcam.METHODS`."""

    def __init__(
        self,
        model: nn.Module,
        target_layer: nn.Module | str | None = None,
        *,
        call: int = -1,
        eval: bool = False,
    ):
        if not isinstance(model, nn.Module):
            raise TypeError(f"model is of type {type(model).__name__}; accepted is a torch.nn.Module")
        if not isinstance(call, int) or isinstance(call, bool):
            raise TypeError(f"call is {call!r}; accepted is an int, from 0, or below 0 counted from the last")
        if target_layer is None and call != -1:
            raise ValueError(f"call is {call}, which needs a target_layer; without one the last map is explained")
        self.model, self.eval = model, eval
        self._capture = Capture(model, target_layer, call)
        self._last = threading.local()
        self._warn_of_training = self._warn_of_probabilities = True

    def __call__(
        self,
        x: Tensor,
        *args: Any,
        targets: Any = None,
        size: int | tuple[int, ...] | list[int] | Literal["input"] | None = "input",
        relu: bool = True,
        normalize: Literal["minmax", "max"] | None = "minmax",
        nan: Literal["propagate", "zero", "raise"] = "propagate",
        **kwargs: Any,
    ) -> Tensor:
        """The heatmaps of a batch.

        Args:
            x: the model's first argument, [N, ...]; `args` and `kwargs` are passed to the model after it.
            targets: whose score is explained. None: each image's first choice; an int: this class for every image;
                N ints, or a tensor [N]: a class per image; N lists of K ints, or a tensor [N, K]: several per image;
                a callable from the model's output to scores [N] or [N, K]; a list of N callables, the i-th of which
                gets output[i] and returns a scalar or [K].
            size: of the heatmaps, an int or (height, width) in pixels; "input": as the last two dimensions of x; None:
                the layer's own resolution.
            relu, normalize, nan: as in `fusedcam.cam`.

        Returns:
            [N, H, W], or [N, K, H, W] for several classes, on x's device; float32 (float64 for float64 activations).

        Raises:
            ValueError: targets that do not fit the batch or the output, a layer without a map [N, C, H, W], a score
                that does not depend on the layer.
            TypeError: targets or x of another type.
            RuntimeError: the layer did not run where hooks see it, or the model cannot be recorded.
        """
        self._last.__dict__.clear()
        if not isinstance(x, Tensor) or x.ndim == 0:
            raise TypeError(f"x is of type {type(x).__name__}; accepted is a tensor [N, ...], a batch of N images")
        if size == "input":
            if x.ndim < 3:
                raise ValueError(f'size is "input", but x has shape {tuple(x.shape)}; give (height, width) or None')
            size = (x.shape[-2], x.shape[-1])
        if self._warn_of_training and not self.eval:
            self._warn_of_training = not state.warn_of_training(self.model)
        return self._explain(Run((x, *args), kwargs, targets), Finish(size, relu, normalize, nan))

    def _explain(self, run: Run, finish: Finish) -> Tensor:
        """What a call does once its arguments are read; methods that are no matter of one backward replace it."""
        captured = self._captured(run)
        heat = self._heat(captured, finish)
        self._note(captured)
        return heat

    def _captured(self, run: Run) -> Captured:
        """One run of the model and its backward."""
        with state.evaluating(self.model, self.eval):
            captured = self._capture(run.args, run.kwargs, run.x.shape[0], run.targets)
        if self._warn_of_probabilities:
            self._warn_of_probabilities = False
            state.warn_of_probabilities(captured.output)
        return captured

    def _heat(self, captured: Captured, finish: Finish) -> Tensor:
        """The maps of activations and gradients; methods that are no rule replace it."""
        heat: Tensor = cam(captured.activations, captured.gradients, method=self.method, **finish._asdict())
        return heat

    def _note(self, captured: Captured) -> None:
        """What `output` and `plan` tell of afterwards."""
        self._last.output, self._last.plan = captured.output, captured.plan

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        """Nothing is left to undo: hooks come and go with each call."""

    @property
    def output(self) -> Any:
        """What the model returned in this thread's last call, detached."""
        return self._of_last_call("output")

    @property
    def plan(self) -> Plan:
        """What this thread's last call did: the layer and call explained, where recording began, any rerun."""
        plan: Plan = self._of_last_call("plan")
        return plan

    def _of_last_call(self, name: str) -> Any:
        try:
            return getattr(self._last, name)
        except AttributeError:
            raise AttributeError(f"{name} is there after a call on this thread has succeeded") from None
