"""RefineCAM: what the maps of several layers agree on, at the resolution of the finest."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from ..functional import cam
from . import state
from .derivatives import derivatives, stacked
from .explainer import Explainer, Finish, Run
from .finishing import finished
from .methods import explainer_of
from .outputs import describe, detached
from .plan import Plan
from .recording import plain_checkpoints
from .targets import score_function
from .trail import Step, Unfit, follow

__all__ = ["RefineCAM"]


class RefineCAM(Explainer):
    """Explains by RefineCAM (Domeniconi et al. 2026, https://arxiv.org/abs/2605.14641): the product of several layers'
    maps, each after its ReLU resampled and brought to the range of 0 to 1.

    One run, recorded from the first of the layers on, and one backward for all of them. torch-cam normalises before it
    resamples, pytorch-grad-cam before and after, and runs the model once a layer; both take Grad-CAM++'s maps where
    nothing else is said.

    Args:
        model: maps a batch of N images to any output.
        target_layers: two or more modules of the model or their dotted names, each of which runs once.
        method: whose maps they are, a name in `fusedcam.METHODS`.
        eval: as in `GradCAM`.

    Raises:
        ValueError: fewer than two layers, one that is there twice or that the model does not have.
        TypeError: not a list of modules or names.
    """

    def __init__(
        self,
        model: nn.Module,
        target_layers: Sequence[nn.Module | str],
        *,
        method: str = "gradcam",
        eval: bool = False,
    ):
        super().__init__(model, None, eval=eval)
        if isinstance(target_layers, nn.Module | str) or not isinstance(target_layers, Sequence):
            raise TypeError(f"target_layers is of type {type(target_layers).__name__}; accepted is a list of layers")
        if len(target_layers) < 2:
            raise ValueError(f"target_layers has {len(target_layers)}; accepted are two or more, whose maps agree")
        self._layers = [self._capture._find(layer) for layer in target_layers]
        if len({*self._layers}) < len(self._layers):
            raise ValueError("target_layers has a layer twice; accepted is each once")
        self._rule = explainer_of(method).method

    def _explain(self, run: Run, finish: Finish) -> Tensor:
        n = len(run.x)
        with torch.inference_mode(False):
            score = score_function(run.targets, n)
        with state.evaluating(self.model, self.eval), plain_checkpoints():
            try:
                output, trail = follow(
                    lambda *args: self.model(*args, **run.kwargs), self._layers, *run.args, record=True, live=False
                )
            except Unfit as error:
                raise RuntimeError(f"target_layers: {error}") from error
            steps = self._checked(trail.steps, n)
            with torch.inference_mode(False):
                with torch.enable_grad():
                    scores = score(output)
                gradients = self._gradients(scores, steps)
        if self._warn_of_probabilities:
            self._warn_of_probabilities = False
            state.warn_of_probabilities(output)
        size = finish.size
        if size is None:  # the finest layer's
            shapes = [(one.output.shape[2], one.output.shape[3]) for one in steps]
            size = max(shapes, key=lambda shape: shape[0] * shape[1])
        each = Finish(size, True, "minmax", finish.nan)
        product: Tensor | None = None
        for step, gradient in zip(steps, gradients, strict=True):
            one: Tensor = cam(step.output, gradient, method=self._rule, **each._asdict())
            product = one if product is None else product * one
        assert product is not None
        names = ", ".join(self._capture._names[layer] for layer in self._layers)
        shape = tuple(steps[-1].output.shape)
        where = "from the layer" if isinstance(steps[0].edge, Tensor) else "from the start"
        self._last.output, self._last.plan = detached(output), Plan(names, 0, 1, shape, where, ())  # type: ignore[arg-type]
        return finished(product, finish._replace(size=None))

    @property
    def _finished_last(self) -> bool:
        return False  # what is multiplied is normalised at the heatmap's size

    def _checked(self, steps: list[Step], n: int) -> list[Step]:
        if len(steps) != len(self._layers):
            raise RuntimeError(
                f"target_layers: {len(self._layers)} layers ran {len(steps)} times; accepted are layers that run once"
            )
        for step in steps:
            if step.output.ndim != 4 or len(step.output) != n:
                raise ValueError(
                    f"target_layers: one returned {describe(step.output)}; accepted are maps [N, C, H, W] with N = {n}"
                )
        return steps

    def _gradients(self, scores: Tensor, steps: list[Step]) -> list[Tensor]:
        """Of each score with respect to each layer, [N, (K,) C, H, W]."""
        edges = [step.edge for step in steps if step.edge is not None]
        columns = list(derivatives(scores, edges)) if scores.requires_grad and len(edges) == len(steps) else [[None]]
        found: list[Tensor] = []
        for rows in zip(*columns, strict=True):
            connected = [row for row in rows if row is not None]
            if len(connected) < len(rows):
                raise ValueError(
                    "the score does not depend on every layer of target_layers, as far as autograd can see"
                )
            found.append(stacked(connected, scores))
        return found
