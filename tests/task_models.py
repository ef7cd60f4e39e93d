"""Small networks of every task, and its score by a formula in loops, as a paper would have it; for float64."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rare_models import close

CLASSES = 4


class Features(nn.Module):
    """Two convolutions: what the networks below explain."""

    def __init__(self, width: int = 6):
        super().__init__()
        self.stem, self.body = nn.Conv2d(3, 5, 3, stride=2), nn.Conv2d(5, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return F.elu(self.body(torch.tanh(self.stem(x))))


class Binary(nn.Module):
    """One score an image, [N, 1], or [N]."""

    def __init__(self, flat: bool):
        super().__init__()
        self.features, self.head, self.flat = Features(), nn.Linear(6, 1), flat

    def forward(self, x: Tensor) -> Tensor:
        score = self.head(self.features(x).mean((2, 3))).sinh()
        return score[:, 0] if self.flat else score


class Segmenter(nn.Module):
    """Scores of every pixel, as torchvision's segmenters return them."""

    def __init__(self, classes: int = CLASSES):
        super().__init__()
        self.features, self.head = Features(), nn.Conv2d(6, classes, 3, padding=1)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        maps = self.head(self.features(x)).sin()
        return {"out": F.interpolate(maps, x.shape[2:], mode="bilinear"), "aux": maps}


class Detector(nn.Module):
    """A box and scores for each place of a map; returns all of them or, as torchvision's detectors, a list with each
    image's best."""

    def __init__(self, kind: str = "list"):
        super().__init__()
        self.features, self.head, self.kind = Features(), nn.Conv2d(6, 4 + CLASSES, 1), kind

    def forward(self, x: Tensor) -> "list[dict[str, Tensor]] | dict[str, Tensor] | Tensor":
        found = self.head(self.features(x))
        height, width = found.shape[2:]
        y, x_ = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        centre = torch.stack([(x_ + 0.5) / width, (y + 0.5) / height]) + 0.05 * found[:, :2].tanh()
        extent = 0.3 + 0.1 * found[:, 2:4].tanh()
        boxes = torch.cat([centre, extent], 1).flatten(2).mT
        logits = 4 * (20 * found[:, 4:]).sin().flatten(2).mT  # a class here, another there
        if self.kind == "tensor":
            return torch.cat([boxes, logits], 2)
        if self.kind == "parts":
            return {"logits": logits, "pred_boxes": boxes}
        images = []
        for box, logit in zip(boxes, logits, strict=True):
            scores, labels = logit.softmax(1).max(1)
            order = scores.argsort(descending=True)[: max(2, int((scores > scores.mean()).sum()))]
            corners = torch.cat([box[:, :2] - box[:, 2:] / 2, box[:, :2] + box[:, 2:] / 2], 1)
            images.append({"boxes": corners[order], "labels": labels[order], "scores": scores[order]})
        return images


class Embedder(nn.Module):
    def __init__(self, width: int = 5):
        super().__init__()
        self.features, self.head = Features(), nn.Linear(6, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x).mean((2, 3)))


@dataclass
class Caption:
    logits: Tensor
    loss: None = None


class Captioner(nn.Module):
    """Tokens [N, T] in, scores of the next ones out; each token attends to the image's places."""

    def __init__(self, vocabulary: int = 7, width: int = 6):
        super().__init__()
        self.features, self.words = Features(width), nn.Embedding(vocabulary, width)
        self.head = nn.Linear(2 * width, vocabulary)

    def forward(self, x: Tensor, tokens: Tensor) -> Caption:
        places = self.features(x).flatten(2).mT
        words = self.words(tokens.clamp(min=0)).cumsum(1)
        seen = (words @ places.mT).softmax(2) @ places
        return Caption(self.head(torch.cat([words, seen], 2)))


class Regressor(nn.Module):
    """Two rows of three values an image."""

    def __init__(self) -> None:
        super().__init__()
        self.features, self.head = Features(), nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x).mean((2, 3))).tanh().reshape(-1, 2, 3)


def over_region(maps: Tensor, k: int, region: Tensor) -> Tensor:
    """One image's [classes, H, W]: the sum over the pixels of a bool region [H, W]."""
    return (
        sum(maps[k, y, x] for y in range(maps.shape[1]) for x in range(maps.shape[2]) if region[y, x]) + 0 * maps.sum()
    )


def overlap(a: Tensor, b: Tensor) -> Tensor:
    """Intersection over union of left, top, right, bottom."""
    wide, high = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    if wide <= 0 or high <= 0:
        return 0 * b.sum()
    return wide * high / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - wide * high)


def matched(
    given: Tensor, label: int | None, image: dict[str, Tensor], threshold: float
) -> tuple[Tensor, Tensor] | None:
    """The overlap and the score of the predicted box that meets a given one."""
    best = None
    for box, other, score in zip(image["boxes"], image["labels"], image["scores"], strict=True):
        common = overlap(given, box)
        if (label is None or other == label) and common > threshold and (best is None or common > best[0]):
            best = common, score
    return best


def log_probability(logits: Tensor, tokens: list[int], ignored: int) -> list[Tensor]:
    """One image's [T, V]: of each token that is not ignored."""
    return [torch.log(row.exp()[k] / row.exp().sum()) for row, k in zip(logits, tokens, strict=True) if k != ignored]


def agree(target: Callable[[Tensor], Tensor], formula: Callable[[Tensor], Tensor], output: Tensor) -> None:
    """Scores and their gradients with respect to a tensor; scores are as wide as the formula's."""
    output = output.detach().requires_grad_()
    got, wanted = target(output), formula(output)
    assert got.shape == wanted.shape
    close(got, wanted)
    seed = torch.randn_like(wanted)
    close(*(torch.autograd.grad(scores, output, seed)[0] for scores in (got, wanted)))


def stack(rows: list) -> Tensor:
    """Scalars, or lists of them, as one tensor."""
    return torch.stack([torch.stack(row) if isinstance(row, list) else row for row in rows])
