"""The numbers of `fusedcam evaluate`: every metric of one method's heatmaps of one photograph, or of a mosaic."""

import math
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ..methods import METHODS

if TYPE_CHECKING:
    from ..torch import Explainer

__all__ = ["GRID", "METRICS", "Measured", "Measures", "find_explainers", "of_mosaic", "of_photo", "side_of_mosaic"]

METRICS = {
    "deletion": "lower",
    "insertion": "higher",
    "average-drop": "lower",
    "increase": "higher",
    "road-morf": "lower",
    "road-lerf": "higher",
    "grid-pointing": "higher",
}
"""Each with what is better."""

GRID = "grid-pointing"
"""The one that is of all photos together."""


class Measures(NamedTuple):
    """What is asked for."""

    metrics: tuple[str, ...]
    steps: int
    batch_size: int


class Measured(NamedTuple):
    """What was found in a photo by one method."""

    first: int
    """The model's first choice."""
    confidences: dict[int, float]
    """Of each class in question."""
    numbers: dict[str, list[float]]
    """By metric: one for each class in question."""


def find_explainers(wanted: tuple[str, ...], model: Any, layer: str | None) -> dict[str, "Explainer"]:
    """Explainers of the model by their class's name, in the order in which they were asked for; all for nothing."""
    from ..torch.methods import EXPLAINERS

    names = {_plain(name): name for name in EXPLAINERS} | {_plain(key): one.class_name for key, one in METHODS.items()}
    for name in wanted:
        if _plain(name) not in names:
            raise ValueError(f"method is {name!r}; accepted: {', '.join(EXPLAINERS)}")
    chosen = [names[_plain(name)] for name in wanted] or [*EXPLAINERS]
    return {name: EXPLAINERS[name](model, layer) for name in chosen}


def of_photo(explainer: "Explainer", x: Any, classes: list[int], measures: Measures) -> Measured:
    """Every metric but the one that is of all photos.

    Args:
        explainer: of one method.
        x: the photo as the model takes it, a tensor [1, C, H, W].
        classes: those in question; none for the model's first choice.
        measures: what is asked for.
    """
    from ..torch.metrics import confidence_change, deletion, insertion, road
    from ..torch.outputs import are_probabilities

    heatmaps = explainer(x, targets=[classes] if classes else None)
    heatmaps = heatmaps.reshape(1, -1, *heatmaps.shape[-2:])
    output = explainer.output
    first = int(output.max(1).indices)
    classes = classes or [first]
    softmax = output.shape[1] > 1 and not are_probabilities(output)  # a lone class's share is always 1
    step = math.ceil(heatmaps[0, 0].numel() / measures.steps)
    given: tuple[Any, ...] = (explainer.model, x, heatmaps, [classes])
    options: dict[str, Any] = {"softmax": softmax, "batch_size": measures.batch_size}
    change = cache(partial(confidence_change, *given, **options))
    ways = {
        "deletion": lambda: deletion(*given, step=step, **options).area,
        "insertion": lambda: insertion(*given, step=step, **options).area,
        "average-drop": lambda: change().drop,
        "increase": lambda: change().increase.double(),
        "road-morf": lambda: road(*given, order="morf", **options).mean,
        "road-lerf": lambda: road(*given, order="lerf", **options).mean,
    }
    numbers = {name: ways[name]()[0].tolist() for name in measures.metrics if name != GRID}
    confidences = (output.softmax(1) if softmax else output)[0, classes]
    return Measured(first, dict(zip(classes, confidences.tolist(), strict=True)), numbers)


def of_mosaic(explainer: "Explainer", tiles: list[Any], classes: list[int], photos: tuple[Path, ...]) -> list[float]:
    """The grid pointing game's number for each photo, in a mosaic of all.

    Args:
        explainer: of one method.
        tiles: the photos as the model takes them.
        classes: of each photo, the model's first choice.
        photos: what the tiles are called.
    """
    from ..torch.metrics import grid_pointing_game, mosaic

    side = side_of_mosaic(len(tiles))
    same = [photo for photo, k in zip(photos, classes, strict=True) if classes.count(k) > 1]
    if same:
        raise ValueError(f"{GRID} needs photos of different first choices; of {', '.join(map(str, same))} they are not")
    heatmaps = explainer(mosaic(tiles, (side, side)), targets=[classes])
    numbers: list[float] = grid_pointing_game(heatmaps, (side, side))[0].tolist()
    return numbers


def side_of_mosaic(count: int) -> int:
    """Tiles on a side of a square mosaic."""
    side = math.isqrt(count)
    if side < 2 or side * side != count:
        raise ValueError(f"{GRID} is of {count} photos; accepted are 4, 9, 16 and so on")
    return side


def _plain(name: str) -> str:
    return name.casefold().replace("-", "").replace("++", "plusplus")
