"""Ablation-CAM: what a score loses when a channel of the layer is zero; only what follows the layer runs again."""

import itertools
from typing import Any

import torch
from torch import Tensor

from .._batches import track
from .forward_explainer import ForwardExplainer, Seen, spread
from .outputs import tensors
from .passes import Rest, Unfit

__all__ = ["AblationCAM"]

_ALONE_DIFFERS = "what follows the layer does not give the same when it runs alone"


class AblationCAM(ForwardExplainer):
    """Explains a model's scores by Ablation-CAM: the weight of a channel is by what part the score drops without it.

    Desai and Ramaswamy 2020, section 3,
    https://openaccess.thecvf.com/content_WACV_2020/html/Desai_Ablation-CAM_Visual_Explanations_for_Deep_Convolutional_Network_via_Gradient-free_Localization_WACV_2020_paper.html:
    w_k = (y - y_k) / y, with y_k the score when the layer's channel k is zero everywhere; the map is the ReLU of the
    weighted sum. Where y is 0 the weight is y - y_k. A negative score turns the weights' signs. One forward a channel,
    in batches, of what follows the layer alone: modules that ran before it return what they returned, which is held
    meanwhile. That is tried out first, and where it does not give what the whole model does, the whole model runs;
    `plan` says so.

    pytorch-grad-cam 1.5.7 sets channels of maps with negative values to their minimum less 1e7 instead, divides by 0,
    and runs the whole model.

    Tensors among the call's arguments whose first dimension is N are taken for a batch. Callables as targets see N rows
    at a time, and for several images only one channel a run.

    Args:
        model: maps a batch of N images to any output; classes as targets need scores [N, classes], before softmax.
        target_layer: a module of the model or its dotted name; it returns a map [N, C, H, W] of floats, or a container
            whose first such tensor is meant. None picks the last call whose output is a map with H * W > 1, anew for
            each input shape, at the cost of one more run of inference then.
        top_channels: only that many channels of each image are tried, those whose activations deviate the most; the
            others' weights are 0. None: all.
        batch_size: maps that the model's rest is given at once; None takes as many as fit into a part of the free
            memory, 32 at most on the CPU and 256 on CUDA.
        progress: True shows a bar, by rich or else tqdm; or a callable that takes the list of batches and hands them
            on, as `tqdm.tqdm` does.
        call: which call of a layer that runs several times; -1 is the last. With target_layer=None it has to be -1.
        eval: run the model in evaluation mode; every module's own flag, the buffers and PyTorch's random state are
            restored afterwards.

    Raises:
        ValueError: no such layer, or a number out of range.
        TypeError: an argument of another type.
    """

    title = "Ablation-CAM"

    def _weights(self, seen: Seen, reruns: list[str]) -> Tensor:
        activations, n = seen.activations, seen.n
        tried, (_, channels) = self._tried(activations), activations.shape[:2]
        if n == 0:
            return activations.new_zeros(activations.shape[:2])
        rest = Rest(self.model, seen.layer, seen.plan.call, seen.run.args, seen.run.kwargs, n)
        each = seen.scores.by_class or n == 1  # one image a run, in as many rows as there is room for
        step = self._together(activations) if each else 1
        run = rest.alone
        if not self._runs_alone(rest, activations, 0 if each else None, reruns):
            run, step = rest.whole, min(step, self._together(seen.run.x))
        order = torch.arange(channels, device=activations.device).expand(n, -1) if tried is None else tried
        groups = [order[:, start : start + step] for start in range(0, order.shape[1], step)]
        steps = list(itertools.product(range(n) if each else [None], groups))
        found = []
        for image, group in track(self.progress, steps, self.title):
            maps = _without(activations, group, image)
            output = run(maps, image)
            found.append(seen.scores(output, len(maps), image if seen.scores.by_class else None).flatten(0, 1))
        rows = torch.cat(found)  # [N k] image by image, or [k N]
        k = order.shape[1]
        dropped = rows.reshape(n, k, *rows.shape[1:]) if each else rows.reshape(k, n, *rows.shape[1:]).transpose(0, 1)
        y = seen.scores(seen.output, n)[0].unsqueeze(1)
        drop = (y - dropped).movedim(1, -1)
        y = y.movedim(1, -1)
        return spread(torch.where(y == 0, drop, drop / torch.where(y == 0, 1, y)), tried, channels)

    def _runs_alone(self, rest: Rest, activations: Tensor, image: int | None, reruns: list[str]) -> bool:
        """Whether the model's rest makes of other maps what the whole model does; else `reruns` gets the reason."""
        source = torch.Generator().manual_seed(0)  # the caller's random numbers stay as they are
        maps = activations if image is None else activations[image : image + 1].expand(2, -1, -1, -1)
        noise = torch.randn(maps.shape, generator=source).to(maps)
        noise[0] = 0
        maps = maps + noise * activations.abs().amax()
        try:
            rest.record()
            alone, whole = rest.alone(maps.clone(), image), rest.whole(maps.clone(), image)
        except Unfit as error:
            reruns.append(str(error))
            return False
        except RuntimeError as error:
            reruns.append(f"{_ALONE_DIFFERS} ({str(error).splitlines()[0]})")
            return False
        if not _alike(alone, whole):
            reruns.append(_ALONE_DIFFERS)
            return False
        return True


def _without(activations: Tensor, channels: Tensor, image: int | None) -> Tensor:
    """Copies in which those channels are zero: of one image, a channel each, or of each image."""
    if image is None:
        maps, own = activations.clone(), channels[:, 0]
    else:
        own = channels[image]
        maps = activations[image].repeat(len(own), 1, 1, 1)
    maps[torch.arange(len(own), device=own.device), own] = 0
    return maps


def _alike(first: Any, second: Any) -> bool:
    """Whether a model has returned the same but for rounding."""
    for a, b in itertools.zip_longest(tensors(first), tensors(second)):
        if a is None or b is None or a.shape != b.shape:
            return False
        if b.is_floating_point() and b.numel():
            tolerance = 1e-3 if b.dtype.itemsize >= 4 else 2e-2
            if not (a - b).abs().max() <= tolerance * b.abs().max():
                return False
    return True
