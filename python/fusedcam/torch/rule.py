"""RuleExplainer: what the methods that are rules have in common, the native call and its options."""

import math
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..functional import cam
from ..methods import METHODS
from .capture import Captured
from .checking import DIVIDING
from .eigen_smoothing import eigen_smoothed
from .explainer import Explainer, Finish, Run
from .finishing import finished, weighted
from .forms import Layout
from .forward import on_plane
from .fused import Fuse
from .head import constant_over_space
from .located import LayersMeant
from .state import evaluating
from .trainable import TrainableCapture

__all__ = ["RuleExplainer"]


class RuleExplainer(Explainer):
    """Base of the methods that `fusedcam.cam` knows by name.

    Args:
        model, target_layer, call, eval, spatial, layout, tokens, fuse, shortcut: as in `Explainer`.
        weight_eps: added to what the method's weights are divided by, as in `fusedcam.cam`; for methods that divide.
            Peers add 1e-6 to 1e-8, which outweighs small gradients.
        eigen_smooth: draw the weighted activations' projection on their first principal component in place of their
            sum, as pytorch-grad-cam defines it: centred, and with the sign that agrees with the sum (`EigenCAM` does
            neither); for methods without moments, and with weight_eps=0.
        create_graph: the maps carry a gradient, so that a loss on them can train the model; for methods without
            moments, and with eigen_smooth=False. The whole forward is recorded and the backward is too, in whatever
            mode the model is in; `output` is the model's own, whose scores a further loss may use. A gradient that is
            zero everywhere is taken as it is.

    Raises:
        ValueError, TypeError: as `Explainer`; an option that the method does not have.
    """

    sums_products: ClassVar[bool] = True
    """Whether what is added up over the channels is known of each alone, as `eigen_smooth` needs it."""

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
        weight_eps: float = 0.0,
        eigen_smooth: bool = False,
        create_graph: bool = False,
    ):
        super().__init__(
            model,
            target_layer,
            call=call,
            eval=eval,
            spatial=spatial,
            layout=layout,
            tokens=tokens,
            fuse=fuse,
            shortcut=shortcut,
        )
        if isinstance(weight_eps, bool) or not isinstance(weight_eps, int | float):
            raise TypeError(f"weight_eps is {weight_eps!r}; accepted is a number")
        if not 0 <= weight_eps < math.inf:
            raise ValueError(f"weight_eps is {weight_eps}; accepted is a finite number of at least 0")
        if weight_eps and self.method not in DIVIDING:
            known = ", ".join(METHODS[name].class_name for name in DIVIDING)
            raise ValueError(
                f"weight_eps is {weight_eps}, but {type(self).__name__} divides by nothing; accepted with {known}"
            )
        if not isinstance(eigen_smooth, bool):
            raise TypeError(f"eigen_smooth is {eigen_smooth!r}; accepted: True, False")
        if eigen_smooth and not self.sums_products:
            raise ValueError(f"eigen_smooth is True, which {type(self).__name__} does not have; accepted is False")
        if eigen_smooth and weight_eps:
            raise ValueError(f"eigen_smooth is True and weight_eps {weight_eps}; accepted with it is 0")
        if not isinstance(create_graph, bool):
            raise TypeError(f"create_graph is {create_graph!r}; accepted: True, False")
        if create_graph and (eigen_smooth or not self.sums_products):
            other = "eigen_smooth is True" if eigen_smooth else f"{type(self).__name__} has none"
            raise ValueError(f"create_graph is True, but {other}; accepted is False")
        self.weight_eps, self.eigen_smooth = float(weight_eps), eigen_smooth
        self._trainable: TrainableCapture | None = None
        if create_graph:
            self._trainable = TrainableCapture(model, target_layer, call, self._capture.form)
            self._warn_of_training = self._warn_of_probabilities = False  # training is what it is for

    def _explain(self, run: Run, finish: Finish) -> Tensor:
        if self._trainable is None:
            return super()._explain(run, finish)
        with torch.inference_mode(False), torch.enable_grad():
            return super()._explain(run, finish)

    def _captured_layers(self, run: Run) -> list[Captured]:
        if self._trainable is None:
            return super()._captured_layers(run)
        with evaluating(self.model, self.eval):
            return self._trainable(run.args, run.kwargs, run.x.shape[0], run.targets)

    def _heat(self, captured: Captured, finish: Finish) -> Tensor:
        activations, gradients = captured.activations, captured.gradients
        if self.eigen_smooth:
            return _smoothed(activations, gradients, self.method, finish)
        if self.method == "gradcam" and (weights := constant_over_space(gradients, finish.spatial)) is not None:
            return weighted(activations, weights, finish)
        heat: Tensor = cam(activations, gradients, method=self.method, weight_eps=self.weight_eps, **finish._asdict())
        return heat

    def _fused(self, captured: list[Captured], finish: Finish) -> Tensor:
        """In one native call, where all layers have one type, as under autocast they need not."""
        if self.eigen_smooth or len({one.activations.dtype for one in captured}) > 1:
            return super()._fused(captured, finish)
        heat: Tensor = cam(
            [one.activations for one in captured],
            [one.gradients for one in captured],
            method=self.method,
            weight_eps=self.weight_eps,
            fuse=self.fuse,
            **finish._asdict(),
        )
        return heat


def _smoothed(activations: Tensor, gradients: Tensor, method: str, finish: Finish) -> Tensor:
    raw: dict[str, Any] = {"size": None, "relu": False, "normalize": None, "nan": finish.nan}
    return finished(on_plane(eigen_smoothed, activations, gradients, method=method, **raw), finish)
