"""BaseCAM: a model, layers and targets in, a finished map out; methods say how a layer's map comes about."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Self

import numpy as np
import torch
from torch import Tensor, nn

from ...torch.trail import Trail, Unfit, follow
from .. import pgc_maps
from ..capturing import predicting
from ..pgc_targets import ClassifierOutputTarget, as_list, check_count, loss

__all__ = ["BaseCAM", "Run", "Transform", "projected"]

Transform = Callable[[Any], Tensor]


@dataclass(frozen=True)
class Run:
    """One layer in one run of the model."""

    layer: nn.Module
    x: Tensor
    """The model's input [N, ...]."""
    targets: Sequence[Callable[[Any], Any]]
    output: Tensor
    """What the layer returned, before `reshape_transform`."""
    activations: Tensor
    """[N, C, *S], of two or three dimensions."""
    gradients: Tensor
    """Of the targets' sum, of the activations' shape; empty for methods without gradients."""


class BaseCAM:
    """What pytorch-grad-cam's classes have in common.

    Args:
        model: maps a batch [N, ...] to an output whose [i] is image i's.
        target_layers: modules of the model; the maps of several are averaged.
        reshape_transform: from what a layer returns to a map [N, C, H, W].
        device: None for maps as NumPy arrays; "keep" for tensors on the model's device.
    """

    uses_gradients: ClassVar[bool] = True
    smooths: ClassVar[bool] = True
    """Whether `eigen_smooth` makes a difference."""

    def __init__(
        self,
        model: nn.Module,
        target_layers: Sequence[nn.Module],
        reshape_transform: Transform | None = None,
        *,
        device: Literal["keep"] | None = None,
    ):
        if isinstance(target_layers, nn.Module | str) or not all(isinstance(one, nn.Module) for one in target_layers):
            raise TypeError(f"target_layers is {type(target_layers).__name__}; accepted is a list of modules")
        if device not in (None, "keep"):
            raise ValueError(f'device is {device!r}; accepted: None, "keep"')
        self.model, self.target_layers = model, list(target_layers)
        self.reshape_transform = reshape_transform
        self.device = next((parameter.device for parameter in model.parameters()), None)
        """Where the model is; inputs are brought there."""
        self.keep = device == "keep"
        self.outputs: Any = None
        """What the model returned in the last call, detached."""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        for name in ("get_cam_weights", "get_cam_image", "compute_cam_per_layer", "aggregate_multi_layers"):
            if name in vars(cls):
                raise TypeError(
                    f"{cls.__name__} overrides {name}, which nothing here calls; override weights, products or raw_map "
                    "or use the package itself with fusedcam.patch()"
                )

    def weights(self, run: Run) -> Tensor:
        """[N, C]."""
        raise NotImplementedError(f"{type(self).__name__} has to override weights, products or raw_map")

    def products(self, run: Run) -> Tensor:
        """[N, C, *S], whose sum over C is the map, or with `eigen_smooth` their first principal component."""
        weights = self.weights(run)
        return weights[(..., *(None,) * (run.activations.ndim - 2))] * run.activations

    def raw_map(self, run: Run) -> Tensor:
        """The layer's map [N, *S] before the ReLU."""
        return self.products(run).sum(1)

    def __call__(
        self,
        input_tensor: Tensor,
        targets: Sequence[Callable[[Any], Any]] | None = None,
        aug_smooth: bool = False,
        eigen_smooth: bool = False,
    ) -> Any:
        """The maps of a batch.

        Args:
            input_tensor: [N, ...], images [N, 3, H, W] or volumes [N, C, D, H, W].
            targets: for each image a callable from its output to a score; None for its first choice.
            aug_smooth: the mean of six runs, of the image and its mirror image at 0.9, 1 and 1.1 of their values.
            eigen_smooth: the first principal component of the channels' products in place of their sum.

        Returns:
            float32 [N, H, W] (volumes [N, D, H, W]) from 0 to nearly 1.

        Raises:
            ValueError: fewer targets than images.
            RuntimeError: a layer that does not run where hooks see it, or on which the score does not depend.
        """
        if not aug_smooth:
            return self.forward(input_tensor, targets, eigen_smooth)
        maps = []
        for mirrored in (False, True):
            for factor in (0.9, 1.0, 1.1):
                image = (input_tensor.flip(-1) if mirrored else input_tensor) * factor
                one = self.explain(image, lambda output: targets, eigen_smooth)
                maps.append(one.flip(-1) if mirrored else one)
        return self.given(torch.stack(maps).mean(0))

    def forward(
        self, input_tensor: Tensor, targets: Sequence[Callable[[Any], Any]] | None = None, eigen_smooth: bool = False
    ) -> Any:
        """As a call without `aug_smooth`."""
        return self.given(self.explain(input_tensor, lambda output: targets, eigen_smooth))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        """Nothing is left to undo: hooks come and go with each call."""

    def given(self, maps: Tensor) -> Any:
        return maps if self.keep else maps.cpu().numpy()

    def explain(self, x: Tensor, choose: Callable[[Any], Any], eigen_smooth: bool) -> Tensor:
        """The finished maps, a tensor, of the targets that `choose` has for the model's output."""
        x = x if self.device is None else x.to(self.device)
        with predicting(self.model):
            try:
                output, trail = follow(
                    self.model,
                    self.target_layers,
                    x,
                    record=self.uses_gradients,
                    live=x.device.type == "cpu",
                    transform=self.reshape_transform,
                )
                targets = choose(output)
                if targets is not None and not isinstance(targets, list | tuple):
                    targets = list(targets)
                check_count(targets, output, len(x))
                self.outputs = output.detach() if isinstance(output, Tensor) else output
                gradients = self.gradients(trail, lambda: loss(targets, output, ClassifierOutputTarget))
            except Unfit as error:
                raise RuntimeError(f"{type(self).__name__}: {error}") from error
            with torch.no_grad():
                chosen = as_list(targets, output, ClassifierOutputTarget)
                small = []
                for layer, step, gradient in zip(self.target_layers, trail.steps, gradients, strict=False):
                    run = Run(layer, x, chosen, step.output, step.activations, self._map_of(gradient))
                    small.append(self._small(run, eigen_smooth))
                return _finished(small, x)

    def gradients(self, trail: Trail, score: Callable[[], Tensor]) -> list[Tensor]:
        """Of the score with respect to what each layer returned."""
        if not self.uses_gradients:
            return [step.activations.new_empty(0) for step in trail.steps]
        return trail.gradients(score, len(self.target_layers))

    def _map_of(self, tensor: Tensor) -> Tensor:
        return self.reshape_transform(tensor) if self.reshape_transform and tensor.numel() else tensor

    def _small(self, run: Run, eigen_smooth: bool) -> Tensor:
        raw = projected(self.products(run)) if eigen_smooth and self.smooths else self.raw_map(run)
        raw = raw.clamp(min=0)
        return pgc_maps.scaled(raw, None) if raw.ndim == 3 else raw


def projected(products: Tensor) -> Tensor:
    """[N, C, *S] -> [N, *S], on the first principal component."""
    return torch.from_numpy(pgc_maps.first_component(np.asarray(products.cpu()))).to(products.device)


def _finished(small: list[Tensor], x: Tensor) -> Tensor:
    if small[0].ndim == 4:
        return pgc_maps.finished_volumes(small, (x.shape[-3], x.shape[-2], x.shape[-1]))
    return pgc_maps.finished(small, (x.shape[-2], x.shape[-1])).float()
