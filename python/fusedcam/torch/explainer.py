"""Explainer: a model, a layer and images in, heatmaps out. A method is its `method`, or a step replaced."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal, NamedTuple, Self

from torch import Tensor, nn

from ..functional import cam
from . import state
from .capture import Capture, Captured, Plan
from .forms import Layout, checked_form
from .fused import Fuse, check_fuse, fused
from .located import LayersMeant
from .plan import LastCall
from .stream import stream_of
from .wrapped import inside

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
    spatial: int = 2


class Explainer:
    """Explains a model's scores by class activation maps of one of its layers, or of several.

    The model runs as in inference up to the layer; only what follows is recorded, and the score is differentiated with
    respect to the layer's output alone. Parameters' `.grad`, modes, `requires_grad` flags and the caller's grad mode
    stay as they are. Hooks are on the model during a call only, and act only for the call's own thread. Several
    threads may explain one model. A copy or pickle has a model of its own, and has made no call.

    A layer returns a map [N, C, H, W] of floats, tokens [N, T, C], or a container whose first such tensor is meant. The
    tokens' grid is found from their count and the images' shape, where it is that of square patches, after no other
    token, a class token, that and one for distillation, four registers, or a class token and four registers;
    `plan` says which. Otherwise `tokens` tells.

    Several layers are recorded in one run, from the first of them on, and there is one backward. Each layer's map is
    normalised at its own resolution, resampled to the heatmap's (with size=None: to the largest extents of all), and
    the fused map is normalised again.

    Args:
        model: maps a batch of N images to any output; classes as targets need scores [N, classes], before softmax. It
            may be compiled; of one that is wrapped by DataParallel or DistributedDataParallel that one is run.
        target_layer: a module of the model or its dotted name, or a list of them. None picks the last call whose output
            is a map with H * W > 1, anew for each input shape, at the cost of one more run of inference then.
        call: which call of a layer that runs several times; -1 is the last. With target_layer=None it has to be -1.
        eval: run the model in evaluation mode; every module's own flag, the buffers and PyTorch's random state are
            restored afterwards.
        spatial: how many dimensions have pixels: 2, for images; 1, for signals [N, C, L]; 3, for volumes
            [N, C, D, H, W].
        layout: "last" where a layer returns [N, H, W, C], as Swin's do; it needs a target_layer.
        tokens: (height, width) of the grid that tokens [N, T, C] lie on, row by row; the T - height * width that come
            before them are skipped. It needs a target_layer.
        fuse: of several layers' maps: "mean", "max" or "product".
        shortcut: where the layer is used by a mean over all of space alone, differentiate with respect to that, and
            where one linear map makes the scores of it, take the gradients from its rows without a backward, as
            autograd was asked to confirm once; `plan` says which. The gradients are the same. False differentiates
            with respect to the layer's output.

    Raises:
        ValueError: no such layer, a layer twice, an argument out of range.
        TypeError: not a module, not a name.
    """

    method: ClassVar[str] = "gradcam"
    """A key of `fusedcam.METHODS`."""
    classless: ClassVar[bool] = False
    """Whether its maps are the same for every class; a call then refuses targets."""
    _trainable: Any = None
    """What captures maps that carry a gradient, where they do."""

    def __init__(
        self,
        model: nn.Module,
        target_layer: LayersMeant = None,
        *,
        call: int = -1,
        eval: bool = False,
        spatial: int = 2,
        layout: Layout = "first",
        tokens: tuple[int, int] | None = None,
        fuse: Fuse = "mean",
        shortcut: bool = True,
    ):
        if not isinstance(model, nn.Module):
            raise TypeError(f"model is of type {type(model).__name__}; accepted is a torch.nn.Module")
        if not isinstance(call, int) or isinstance(call, bool):
            raise TypeError(f"call is {call!r}; accepted is an int, from 0, or below 0 counted from the last")
        if target_layer is None and call != -1:
            raise ValueError(f"call is {call}, which needs a target_layer; without one the last map is explained")
        form = checked_form(spatial, layout, tokens)
        if target_layer is None and (form.layout, form.tokens) != ("first", None):
            name, given = ("layout", layout) if form.layout != "first" else ("tokens", tokens)
            raise ValueError(f"{name} is {given!r}, which needs a target_layer")
        check_fuse(fuse)
        if not isinstance(shortcut, bool):
            raise TypeError(f"shortcut is {shortcut!r}; accepted: True, False")
        model = inside(model)
        self.model, self.eval, self.fuse = model, eval, fuse
        self._capture = Capture(model, target_layer, call, form, shortcut=shortcut)
        self._last = LastCall()
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
                "all": every class of the output; a callable from the model's output to scores [N] or [N, K]; a list of
                N callables, the i-th of which gets output[i] and returns a scalar or [K].
            size: of the heatmaps, an int or (height, width) in pixels, or as many extents as `spatial` says; "input":
                as the last dimensions of x; None: the layer's own resolution.
            relu, normalize, nan: as in `fusedcam.cam`.

        Returns:
            [N, H, W], or [N, K, H, W] for several classes, on x's device; float32 (float64 for float64 activations).
            Signals have [N, L] in its place, volumes [N, D, H, W].

        Raises:
            ValueError: targets that do not fit the batch or the output, a layer without a map [N, C, H, W], tokens
                whose grid is not known, a score that does not depend on the layer.
            TypeError: targets or x of another type.
            RuntimeError: the layer did not run where hooks see it, or the model cannot be recorded.
        """
        self._last.__dict__.clear()
        if not isinstance(x, Tensor) or x.ndim == 0:
            raise TypeError(f"x is of type {type(x).__name__}; accepted is a tensor [N, ...], a batch of N images")
        if size == "input":
            spatial = self._capture.form.spatial
            if x.ndim <= spatial:
                accepted = ("an int", "(height, width)", "(depth, height, width)")[spatial - 1]
                raise ValueError(f'size is "input", but x has shape {tuple(x.shape)}; give {accepted} or None')
            size = tuple(x.shape[-spatial:])
        if self._warn_of_training and not self.eval:
            self._warn_of_training = not state.warn_of_training(self.model)
        return self._explain(
            Run((x, *args), kwargs, targets), Finish(size, relu, normalize, nan, self._capture.form.spatial)
        )

    stream = stream_of

    def _explain(self, run: Run, finish: Finish) -> Tensor:
        """What a call does once its arguments are read; methods that are no matter of one backward replace it."""
        if len(self._capture.layers) > 1:
            every = self._captured_layers(run)
            heat = self._fused(every, finish)
            self._note_all(every)
            return heat
        captured = self._captured(run)
        heat = self._heat(captured, finish)
        self._note(captured)
        return heat

    def _captured(self, run: Run) -> Captured:
        """One run of the model and its backward."""
        if len(self._capture.layers) > 1:
            raise ValueError(f"target_layer has several layers; {type(self).__name__} takes one")
        return self._captured_layers(run)[0]

    def _captured_layers(self, run: Run) -> list[Captured]:
        """One run of the model and its backward: what it brings of each layer."""
        with state.evaluating(self.model, self.eval):
            captured = self._capture(run.args, run.kwargs, run.x.shape[0], run.targets)
        if self._warn_of_probabilities:
            self._warn_of_probabilities = False
            state.warn_of_probabilities(captured[0].output)
        return captured

    def _heat(self, captured: Captured, finish: Finish) -> Tensor:
        """The maps of activations and gradients; methods that are no rule replace it."""
        heat: Tensor = cam(captured.activations, captured.gradients, method=self.method, **finish._asdict())
        return heat

    def _fused(self, captured: list[Captured], finish: Finish) -> Tensor:
        """The fused maps of several layers."""
        own = finish._replace(size=None)
        return fused([self._heat(one, own) for one in captured], self.fuse, finish)

    @property
    def _finished_last(self) -> bool:
        """Whether raw maps at the layer's resolution, resampled and normalised, are those of a call."""
        return len(self._capture.layers) < 2

    def _note(self, captured: Captured) -> None:
        """What `output` and `plan` tell of afterwards."""
        self._last.output, self._last.plan = captured.output, captured.plan

    def _note_all(self, every: Sequence[Any]) -> None:
        """The same of several layers, each with an output and a plan."""
        if len(every) > 1:
            self._last.output, self._last.plans = every[0].output, tuple(one.plan for one in every)
        else:
            self._last.output, self._last.plan = every[0].output, every[0].plan

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
        """What this thread's last call did: the layer and call explained, where recording began, any rerun. Of several
        layers it is `plans`."""
        if len(self._capture.layers) > 1 and hasattr(self._last, "plans"):
            raise AttributeError("plan is of one layer, and several were explained; plans has one for each")
        plan: Plan = self._of_last_call("plan")
        return plan

    @property
    def plans(self) -> tuple[Plan, ...]:
        """The same of each layer, in the order of `target_layer`."""
        plans: tuple[Plan, ...] | None = getattr(self._last, "plans", None)
        return plans or (self.plan,)

    def _of_last_call(self, name: str) -> Any:
        try:
            return getattr(self._last, name)
        except AttributeError:
            raise AttributeError(f"{name} is there after a call on this thread has succeeded") from None
