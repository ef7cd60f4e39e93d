"""Methods made of others or of more than one gradient: FinerCAM, RefineCAM, ShapleyCAM, FullGrad."""

from collections.abc import Callable, Sequence
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn

from ...torch.fullgrad import folded_bias
from ...torch.trail import Trail
from .. import native, pgc_maps
from ..capturing import predicting
from ..pgc_targets import ClassifierOutputTarget, FinerWeightedTarget, check_count, finer_targets, loss
from .base import BaseCAM, Run, Transform, projected
from .methods import GradCAM, GradCAMPlusPlus

__all__ = ["FinerCAM", "FullGrad", "RefineCAM", "ShapleyCAM"]


class FinerCAM:
    """What sets a class apart from those most similar to it (Zhang et al. 2025, https://arxiv.org/abs/2501.11309)."""

    def __init__(
        self,
        model: nn.Module,
        target_layers: Sequence[nn.Module],
        reshape_transform: Transform | None = None,
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

        def choose(output: Tensor) -> Any:
            if targets is not None:
                return targets
            return finer_targets(output, alpha, comparison_categories, target_idx, FinerWeightedTarget)

        return self.base_cam.given(self.base_cam.explain(input_tensor, choose, eigen_smooth))

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
        reshape_transform: Transform | None = None,
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
        self, input_tensor: Tensor, targets: Sequence[Callable[[Any], Any]] | None = None, eigen_smooth: bool = False
    ) -> Any:
        """As BaseCAM's, but that `eigen_smooth` is the layers' `aug_smooth`, as the peer has it."""
        maps = torch.stack([cam(input_tensor, targets, eigen_smooth) for cam in self.base_cam_per_layer]).prod(0)
        result: Tensor = pgc_maps.scaled(maps, None)
        return result if self.device == "keep" else result.cpu().numpy()


class ShapleyCAM(BaseCAM):
    """w_c = mean of g - H A / 2, H the Hessian of the score (Cai 2025, https://arxiv.org/abs/2501.06261)."""

    def gradients(self, trail: Trail, score: Callable[[], Tensor]) -> list[Tensor]:
        steps = trail.steps[: len(self.target_layers)]
        edges: Any = [step.edge for step in steps]
        with torch.inference_mode(False), torch.enable_grad():
            firsts = torch.autograd.grad(score(), edges, create_graph=True)
            found = []
            for step, edge, first in zip(steps, edges, firsts, strict=True):
                second = None
                if first.requires_grad:
                    (second,) = torch.autograd.grad(first, edge, step.output, retain_graph=True, allow_unused=True)
                found.append((first if second is None else first - 0.5 * second).detach())
        return found

    def weights(self, run: Run) -> Tensor:
        return run.gradients.mean(tuple(range(2, run.gradients.ndim)))

    def raw_map(self, run: Run) -> Tensor:
        return pgc_maps.weighted(run.activations, self.weights(run))


class FullGrad(BaseCAM):
    """|x dx| and |bias dy| of every convolution and batch normalisation, each channel from 0 to 1, summed (Srinivas and
    Fleuret 2019, https://arxiv.org/abs/1905.00780). `target_layers` is not used."""

    def __init__(
        self,
        model: nn.Module,
        target_layers: Sequence[nn.Module] = (),
        reshape_transform: Transform | None = None,
        *,
        device: Literal["keep"] | None = None,
    ):
        kinds = (nn.Conv2d, nn.BatchNorm2d)
        layers = [one for one in model.modules() if type(one) in kinds and one.bias is not None]
        super().__init__(model, layers, reshape_transform, device=device)

    def explain(self, x: Tensor, choose: Callable[[Any], Any], eigen_smooth: bool) -> Tensor:
        x = (x if self.device is None else x.to(self.device)).detach().requires_grad_()
        edges: dict[nn.Module, Any] = {}
        handles = []

        def keep(module: nn.Module, inputs: Any, output: Tensor) -> None:
            edges[module] = torch.autograd.graph.get_gradient_edge(output)

        try:
            for layer in self.target_layers:
                handles.append(layer.register_forward_hook(keep))
            with predicting(self.model), torch.inference_mode(False), torch.enable_grad():
                output = self.model(x)
                targets = choose(output)
                check_count(targets, output, len(x))
                score = loss(targets, output, ClassifierOutputTarget)
                found = torch.autograd.grad(score, [x, *edges.values()])
        finally:
            for handle in handles:
                handle.remove()
        self.outputs = output.detach()
        size = (x.shape[-2], x.shape[-1])
        with torch.no_grad():
            maps = [pgc_maps.scaled((x * found[0]).abs().flatten(0, 1), size).reshape(x.shape)]
            for layer, gradient in zip(edges, found[1:], strict=True):
                bias = folded_bias(layer)
                assert bias is not None
                maps.append(_summed((bias[:, None, None] * gradient).abs(), size)[:, None])
            if not eigen_smooth:
                return pgc_maps.scaled(torch.cat(maps, 1).sum(1), None)  # type: ignore[no-any-return]
            small = (size[0] // 8, size[1] // 8)
            each = torch.cat(maps, 1)
            coarse = pgc_maps.scaled(each.flatten(0, 1), small).reshape(*each.shape[:2], *small)
            return pgc_maps.scaled(pgc_maps.scaled(projected(coarse), size), None)  # type: ignore[no-any-return]


def _summed(channels: Tensor, size: tuple[int, int]) -> Tensor:
    """[N, C, h, w], each channel from 0 to 1, summed and enlarged: [N, H, W]. What is linear comes last."""
    each = pgc_maps.scaled(channels.flatten(0, 1), None).reshape(channels.shape)
    result: Tensor = native.resize(each.sum(1), size)
    return result
