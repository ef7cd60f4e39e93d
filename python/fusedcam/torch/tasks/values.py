"""Embeddings and regression, and a part of an output for any target: what is a value, not a class."""

import operator
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..targets import forgiving, mirrored, score_function
from .reading import check_option, part_of, scored_tensor

__all__ = ["PartScore", "RegressionScore", "SimilarityScore"]


@dataclass(frozen=True, eq=False)
class SimilarityScore:
    """An embedding's similarity to references: of an output e [N, D] and a reference r [D] the cosine
    e . r / (|e| |r|), or the product e . r.

    Args:
        references: a tensor or an array, [D]; [K, D] for K scores an image; or [N, K, D], each image its own K. They
            are not differentiated.
        measure: "cosine" or "dot".

    Raises:
        ValueError, TypeError: naming the argument that does not fit; when called, also an output of other extents.
    """

    references: Any
    measure: Literal["cosine", "dot"] = "cosine"

    def __post_init__(self) -> None:
        check_option("measure", self.measure, ("cosine", "dot"))
        if not isinstance(self.references, Tensor | np.ndarray):
            raise TypeError(f"references is of type {type(self.references).__name__}; accepted is a tensor or an array")
        references = torch.as_tensor(self.references)
        if not references.is_floating_point():
            raise TypeError(f"references has dtype {references.dtype}; accepted is a floating-point dtype")
        if references.ndim not in (1, 2, 3) or 0 in references.shape[-2:]:
            raise ValueError(
                f"references has shape {tuple(references.shape)}; accepted is [D], [K, D] or [N, K, D], none of them 0"
            )
        if not bool(references.isfinite().all()):
            raise ValueError("references has infinities or NaN; accepted are finite numbers")
        if self.measure == "cosine" and not bool(references.any(-1).all()):
            raise ValueError("references has one of zeros, whose angle to anything is not defined")

    def __call__(self, output: Any) -> Tensor:
        """Scores [N], or [N, K] for K references, of an output [N, D]."""
        embeddings = scored_tensor(output, "[N, D]", (2,))
        references = torch.as_tensor(self.references).detach().to(embeddings)
        n, width = embeddings.shape
        if references.shape[-1] != width or (references.ndim == 3 and len(references) != n):
            accepted = f"[{width}], [K, {width}] or [{n}, K, {width}]"
            raise ValueError(
                f"references has shape {tuple(references.shape)}; accepted is {accepted} for the output {[n, width]}"
            )
        several = references if references.ndim == 3 else references.reshape(1, -1, width)
        if self.measure == "cosine":
            scores = F.cosine_similarity(embeddings[:, None], several, dim=2)
        else:
            scores = (embeddings[:, None] * several).sum(2)
        return scores[:, 0] if references.ndim == 1 else scores


Element = int | tuple[int, ...]


@dataclass(frozen=True, eq=False)
class RegressionScore:
    """An element of what the model returned for an image, as it is: of an output y [N, ...] the score y[n, element].

    Args:
        element: which of y[n]: an int for an output [N, D], a tuple for one of more dimensions, as (t, d) for
            [N, T, D]; a list of K of them for K scores an image. Below 0 they count from the end. None: the output is
            [N] or [N, 1].

    Raises:
        ValueError, TypeError: naming the argument that does not fit; when called, also an element out of range.
    """

    element: Element | Sequence[Element] | None = None

    def __post_init__(self) -> None:
        for one in self._elements:
            for index in one:
                if isinstance(index, bool | np.bool_) or not hasattr(index, "__index__"):
                    raise TypeError(f"element has {index!r}; accepted is an int, a tuple of ints or a list of those")
        if isinstance(self.element, list | tuple) and not self.element:
            raise ValueError("element is empty; accepted is at least one")

    def __call__(self, output: Any) -> Tensor:
        """Scores [N], or [N, K] for a list of K elements, of an output [N, ...]."""
        values = scored_tensor(output, "[N, ...]", range(1, 65))
        if self.element is None:
            if values.ndim > 2 or (values.ndim == 2 and values.shape[1] != 1):
                raise ValueError(
                    f"element is None, but the model returned {list(values.shape)}; accepted is an element of "
                    f"{tuple(values.shape[1:])}, the shape of an image's output"
                )
            return values.reshape(-1)
        found = []
        for one in self._elements:
            place = tuple(map(operator.index, one))
            inside = tuple(values.shape[1:])
            if len(place) != len(inside) or any(
                not -extent <= index < extent for index, extent in zip(place, inside, strict=True)
            ):
                raise ValueError(f"element {place} is not in {inside}, the shape of an image's output")
            found.append(values.movedim(0, -1)[place])
        return torch.stack(found, 1) if isinstance(self.element, list) else found[0]

    @property
    def _elements(self) -> list[tuple[Any, ...]]:
        if self.element is None:
            return []
        listed = self.element if isinstance(self.element, list) else [self.element]
        return [one if isinstance(one, tuple) else (one,) for one in listed]


@dataclass(frozen=True, eq=False)
class PartScore:
    """Any targets, of a part of what the model returned: `PartScore("logits", 281)`.

    Args:
        part: a key of a mapping, the name of an attribute (a dataclass's or a named tuple's field), or the index of a
            list or tuple; a list of these leads inwards.
        targets: as in a call of an explainer, of that part in place of the output: None for each image's first choice,
            classes, a callable (of this module, say) or a list of N callables.

    Raises:
        TypeError: `part` is something else. When called, whatever the targets raise, and ValueError if there is no such
            part.
    """

    part: str | int | Sequence[str | int]
    targets: Any = None

    def __post_init__(self) -> None:
        if not self._path or any(isinstance(one, bool) or not isinstance(one, str | int) for one in self._path):
            raise TypeError(f"part is {self.part!r}; accepted is a name, an index, or a list of these")

    def __call__(self, output: Any) -> Tensor:
        """Scores [N] or [N, K]."""
        inner = self._part(output)
        if callable(self.targets):
            score: Tensor = self.targets(inner)
            return score
        if not (isinstance(inner, list | tuple) or (isinstance(inner, Tensor) and inner.ndim)):
            raise ValueError(
                f"part {self.part!r} is of type {type(inner).__name__}; accepted is a tensor [N, ...] or a list of N"
            )
        return score_function(self.targets, len(inner))(inner)

    def absent(self, output: Any) -> Tensor:
        """Where the score is 0 since nothing was found, as the targets say; bools [N] or [N, K]."""
        absent = getattr(self.targets, "absent", None)
        if absent is None:
            return torch.zeros_like(self(output), dtype=torch.bool)
        found: Tensor = absent(self._part(output))
        return found

    def forgiving(self) -> "PartScore":
        """The same with targets that count what they do not find as 0."""
        return replace(self, targets=forgiving(self.targets))

    def mirrored(self) -> "PartScore":
        """For mirror images, as the targets say."""
        return replace(self, targets=mirrored(self.targets))

    @property
    def _path(self) -> list[str | int]:
        return list(self.part) if isinstance(self.part, list | tuple) else [self.part]  # type: ignore[list-item]

    def _part(self, output: Any) -> Any:
        for name in self._path:
            output = part_of(output, name)
        return output
