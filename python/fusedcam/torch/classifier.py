"""CAM: a class's row of the classifier's weights, where the layer is pooled and then classified."""

from typing import Any, cast

import torch
from torch import Tensor, nn

from ..functional import cam
from . import state
from .explainer import Explainer, Finish, Run
from .forward import Forward, activations_of
from .outputs import are_probabilities, describe, tensors
from .targets import chosen_classes

__all__ = ["CAM"]

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


class CAM(Explainer):
    """Explains a model's scores by CAM, class activation mapping (Zhou et al. 2016, equations 1 and 2,
    https://arxiv.org/abs/1512.04150).

    The score of a pixel is sum_c w_c A_c, with the class's row w of the classifier's weights, for networks that end in
    a global average pool and one linear classifier: their score before softmax is the map's mean plus the class's
    bias. The first call checks that. One run of inference; nothing is recorded. As in the paper there is no ReLU;
    torch-cam has the same.

    Args:
        model: maps a batch of N images to scores [N, classes], or a container of them, or their softmax.
        target_layer: as in `Explainer`, one layer.
        classifier: the module or its dotted name, a `torch.nn.Linear` or a convolution of one pixel. None is the last
            one in the model that fits.
        options: `call`, `eval`, `spatial`, `layout` and `tokens`, as in `Explainer`.

    Raises:
        ValueError: as `Explainer`; several layers; when called also a classifier from which the model's scores do not
            come by way of the layer's mean, and classes that it does not have.
        TypeError: as `Explainer`; a classifier of another kind; when called also a callable as a target.
    """

    def __init__(
        self,
        model: nn.Module,
        target_layer: nn.Module | str | None = None,
        classifier: nn.Module | str | None = None,
        **options: Any,
    ):
        super().__init__(model, target_layer, **options)
        if len(self._capture.layers) > 1:
            raise ValueError("target_layer has several layers, of which one alone is what is classified")
        self._classifier = None if classifier is None else self._capture._find(classifier, "classifier")
        if self._classifier is not None and not _is_linear(self._classifier):
            raise TypeError(
                f"classifier is a {type(self._classifier).__name__}; accepted is a Linear, or a convolution of one "
                "pixel without groups"
            )
        self._fits: dict[nn.Module, nn.Module] = {}
        """Of a layer, the classifier that was seen to be its own."""

    def __call__(self, x: Tensor, *args: Any, relu: bool = False, **options: Any) -> Tensor:
        """As a call of `Explainer`, without a ReLU where none is asked for."""
        return super().__call__(x, *args, relu=relu, **options)

    def _explain(self, run: Run, finish: Finish) -> Tensor:
        n = run.x.shape[0]
        with state.evaluating(self.model, self.eval):
            forward = activations_of(self._capture, run.args, run.kwargs, n)
        with torch.inference_mode(False), torch.no_grad():
            rows, bias = _weights(self._classifier_of(forward, n))
            scores = _scores(forward.activations, rows, bias)
            classes = chosen_classes(run.targets, scores, n)
            weights = rows.to(forward.activations)[classes]
            heat: Tensor = cam(forward.activations, weights=weights, **finish._asdict())
        self._note_all([forward])
        return heat

    def _classifier_of(self, forward: Forward, n: int) -> nn.Module:
        """The module whose scores the model's are."""
        layer = self._capture._find(forward.plan.layer)
        if layer in self._fits:
            return self._fits[layer]
        channels = forward.activations.shape[1]
        wanted = [self._classifier] if self._classifier else [*self.model.modules()][::-1]
        candidates = [one for one in wanted if _is_linear(one) and _weights(one)[0].shape[1] == channels]
        where = f"layer {self._capture.name_of(layer)} with {channels} channels"
        if not candidates:
            if self._classifier:
                took = _weights(self._classifier)[0].shape[1]
                raise ValueError(f"classifier takes {took} features; accepted are those of {where}")
            raise ValueError(f"classifier: no Linear or convolution of one pixel takes the features of {where}")
        for candidate in candidates:
            if not n:
                return candidate
            if _is_output(*_weights(candidate), forward):
                self._fits[layer] = candidate
                return candidate
        names = " or ".join(self._capture.name_of(one) for one in candidates[:2])
        raise ValueError(
            f"classifier: the model's output, {describe(forward.output)}, is not what {names} makes of the mean of "
            f"{where}; CAM needs a global average pool and the classifier alone behind it (and evaluation mode, where "
            "there is dropout); GradCAM needs neither"
        )


def _is_linear(module: nn.Module) -> bool:
    """Whether it is one for each pixel alone."""
    if isinstance(module, _CONVOLUTIONS):
        padded = not isinstance(module.padding, str) and any(module.padding)
        return {*module.kernel_size, *module.stride, module.groups} == {1} and not padded
    return isinstance(module, nn.Linear)


def _weights(module: nn.Module) -> tuple[Tensor, Tensor | None]:
    """[classes, C], and the bias [classes]."""
    weight, bias = cast(Tensor, module.weight), cast(Tensor | None, module.bias)
    return weight.detach().flatten(1), None if bias is None else bias.detach()


def _scores(activations: Tensor, rows: Tensor, bias: Tensor | None) -> Tensor:
    """What the classifier makes of the mean over the pixels, [N, classes], in float64."""
    scores = activations.flatten(2).double().mean(2) @ rows.double().mT
    return scores if bias is None else scores + bias.double()


def _is_output(rows: Tensor, bias: Tensor | None, forward: Forward) -> bool:
    """Whether the model returned the scores that the classifier makes of the layer's mean, or their softmax or its
    logarithm, to the precision of its type."""
    scores = _scores(forward.activations, rows, bias)
    size = _scores(forward.activations.abs(), rows.abs(), None if bias is None else bias.abs()).amax(1, keepdim=True)
    ahead = scores.log_softmax(1)
    for output in tensors(forward.output):
        if not output.is_floating_point() or output.shape[:2] != scores.shape or output.numel() != scores.numel():
            continue
        eps = max(torch.finfo(one.dtype).eps for one in (output, forward.activations))
        allowed = max(4 * eps, 1e-4) * size  # the latter for TF32
        found = output.double().reshape(scores.shape)
        if bool(((found - scores).abs() <= allowed).all()):
            return True
        if scores.shape[1] < 2:  # whose softmax is 1
            continue
        if are_probabilities(found):
            found = torch.where(found > 1e-6, found.log(), ahead)  # less may have lost its digits
        if bool(((found - ahead).abs() <= allowed).all()):
            return True
    return False
