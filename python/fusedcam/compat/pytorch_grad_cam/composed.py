"""Methods made of others or of more than one gradient: FinerCAM, RefineCAM, ShapleyCAM, FullGrad."""

from collections.abc import Callable, Sequence
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn

from ...torch.trail import Trail, Unfit
from .. import native, pgc_maps
from ..capturing import predicting
from ..pgc_targets import ClassifierOutputTarget, FinerWeightedTarget, check_count, loss
from .base import BaseCAM, Run
from .methods import GradCAM, GradCAMPlusPlus

__all__ = ["FinerCAM", "FullGrad", "RefineCAM", "ShapleyCAM"]


class FinerCAM:
    """What sets a class apart from those most similar to it (Zhang et al. 2025, https://arxiv.org/abs/2501.11309)."""

    def __init__(
        self,
        model: nn.Module,
        target_layers: Sequence[nn.Module],
        reshape_transform: Callable[[Any], Tensor] | None = None,
        base_method: type[BaseCAM] = GradCAM,
        *,
        device: Literal["keep"] | None = None,
    ):
        self.base_cam = base_method(model, target_layers, reshape_transform, device=device)

    def __call__(self, *args: Any, **options: Any) -> Any:
        return self.forward(*args, **options)

    def forward(
        self,
        input_tensor: Tensor,
        targets: Sequence[Callable[[Any], Any]] | None = None,
        eigen_smooth: bool = False,
        alpha: float = 1,
        comparison_categories: Sequence[int] | None = None,
        target_idx: int | None = None,
    ) -> Any:
        """As BaseCAM's; without targets, each image's first choice, or `target_idx`, is compared with the classes whose
        scores come closest: those at `comparison_categories` in the order of closeness, by default 1 to 3."""
        if targets is None:
            model = self.base_cam.model
            parameter = next(model.parameters(), None)
            with predicting(model), torch.no_grad():
                scores = model(input_tensor if parameter is None else input_tensor.to(parameter.device))
            wanted = scores.amax(-1) if target_idx is None else scores[:, target_idx]
            order = (scores - wanted[:, None]).abs().argsort(dim=-1, stable=True).tolist()
            places = range(1, 4) if comparison_categories is None else comparison_categories
            places = [place for place in places if place < scores.shape[-1]]
            targets = [FinerWeightedTarget(row[0], [row[place] for place in places], alpha) for row in order]
        return self.base_cam.forward(input_tensor, targets, eigen_smooth)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        """Nothing is left to undo."""


class RefineCAM:
    """The product of several layers' maps (https://arxiv.org/abs/2605.14641)."""

    def __init__(
        self,
        model: nn.Module,
        target_layers: Sequence[nn.Module],
        reshape_transform: Callable[[Any], Tensor] | None = None,
        base_method: type[BaseCAM] = GradCAMPlusPlus,
        *,
        device: Literal["keep"] | None = None,
        **options: Any,
    ):
        self.base_cam_per_layer = [
            base_method(model, [layer], reshape_transform, device="keep", **options) for layer in target_layers
        ]
        self.device = device

    def __call__(self, *args: Any, **options: Any) -> Any:
        return self.forward(*args, **options)

    def forward(
        self, input_tensor: Tensor, targets: Sequence[Callable[[Any], Any]] | None = None, aug_smooth: bool = False
    ) -> Any:
        """As BaseCAM's."""
        maps = torch.stack([cam(input_tensor, targets, aug_smooth) for cam in self.base_cam_per_layer]).prod(0)
        result: Tensor = pgc_maps.scaled(maps, None)
        return result if self.device == "keep" else result.cpu().numpy()


class ShapleyCAM(BaseCAM):
    """w_c = mean of g - H A / 2, H the Hessian of the score (Cai 2025, https://arxiv.org/abs/2501.06261)."""

    def gradients(self, trail: Trail, score: Callable[[], Tensor]) -> list[Tensor]:
        edges = [step.edge for step in trail.steps[: len(self.target_layers)]]
        if not all(isinstance(edge, Tensor) for edge in edges):
            raise Unfit("of several layers the second ones' activations are no variables of their own")
        with torch.inference_mode(False), torch.enable_grad():
            firsts = torch.autograd.grad(score(), edges, create_graph=True)  # type: ignore[arg-type]
            found = []
            for edge, first in zip(edges, firsts, strict=True):
                assert isinstance(edge, Tensor)
                second = None
                if first.requires_grad:
                    (second,) = torch.autograd.grad(first, edge, edge.detach(), retain_graph=True, allow_unused=True)
                found.append((first if second is None else first - 0.5 * second).detach())
        return found

    def weights(self, run: Run) -> Tensor:
        return run.gradients.mean(tuple(range(2, run.gradients.ndim)))

    def raw_map(self, run: Run) -> Tensor:
        flat = run.activations.reshape(*run.activations.shape[:2], -1, run.activations.shape[-1])
        raw = pgc_maps.weighted(flat, self.weights(run))
        return raw.reshape(run.activations.shape[0], *run.activations.shape[2:])


class FullGrad(BaseCAM):
    """|x dx| and |bias dy| of every convolution and batch normalisation, each channel from 0 to 1, summed (Srinivas and
    Fleuret 2019, https://arxiv.org/abs/1905.00780). `target_layers` is not used."""

    def __init__(self, model: nn.Module, target_layers: Sequence[nn.Module] = (), *args: Any, **options: Any):
        kinds = (nn.Conv2d, nn.BatchNorm2d)
        layers = [one for one in model.modules() if type(one) in kinds and one.bias is not None]
        super().__init__(model, layers, *args, **options)

    def _explain(self, x: Tensor, targets: Any, eigen_smooth: bool) -> Tensor:
        if eigen_smooth:
            raise ValueError("FullGrad: eigen_smooth is True; accepted is False")
        parameter = next(self.model.parameters(), None)
        x = (x if parameter is None else x.to(parameter.device)).detach().requires_grad_()
        edges: dict[nn.Module, Any] = {}
        handles = []

        def keep(module: nn.Module, inputs: Any, output: Tensor) -> None:
            edges[module] = torch.autograd.graph.get_gradient_edge(output)

        try:
            for layer in self.target_layers:
                handles.append(layer.register_forward_hook(keep))
            with predicting(self.model), torch.inference_mode(False), torch.enable_grad():
                output = self.model(x)
                check_count(targets, output)
                score = loss(targets, output, ClassifierOutputTarget)
                found = torch.autograd.grad(score, [x, *edges.values()])
        finally:
            for handle in handles:
                handle.remove()
        self.outputs = output.detach()
        size = (x.shape[-2], x.shape[-1])
        with torch.no_grad():
            total = _summed((x * found[0]).abs(), size)
            for layer, gradient in zip(edges, found[1:], strict=True):
                total = total + _summed((_bias(layer)[:, None, None] * gradient).abs(), size)
            return pgc_maps.scaled(total, None)  # type: ignore[no-any-return]


def _bias(layer: Any) -> Tensor:
    """A convolution's, or what a batch normalisation adds."""
    bias: Tensor = layer.bias
    if isinstance(layer, nn.BatchNorm2d):
        assert layer.running_mean is not None
        assert layer.running_var is not None
        return bias - layer.running_mean * layer.weight / torch.sqrt(layer.running_var + layer.eps)
    return bias


def _summed(channels: Tensor, size: tuple[int, int]) -> Tensor:
    """[N, C, h, w], each channel from 0 to 1, summed and enlarged: [N, H, W]. What is linear comes last."""
    each = pgc_maps.scaled(channels.flatten(0, 1), None).reshape(channels.shape)
    result: Tensor = native.resize(each.sum(1), size)
    return result
