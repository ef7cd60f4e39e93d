"""What follows a layer, read off the graph: where it is pooled over all of space, and classified by one linear map.

Behind a mean over all of space the gradient is the same at every pixel. So the scores are differentiated with respect
to the mean, and the gradient is a view of that with zero strides: the dense one, H * W times as large, never exists.
Where one linear map makes the scores of the mean, its rows are that gradient, and nothing is differentiated.
"""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, Node, get_gradient_edge

from .derivatives import Edge, all_derivatives
from .forms import Form, Grid
from .plan import Shortcut
from .state import forward_hooks
from .targets import OutputColumns

__all__ = ["Found", "Head", "Layer", "constant_over_space"]

# Nodes that hand values on as they are, in another order at most.
_MOVES = frozenset(
    f"{name}Backward{number}"
    for name, numbers in {
        "Alias": "0",
        "AsStrided": "01",
        "Clone": "0",
        "Permute": "0",
        "ReshapeAlias": "0",
        "Slice": "0",
        "Squeeze": "0123",
        "T": "0",
        "ToCopy": "0",
        "Transpose": "01",
        "UnsafeView": "0",
        "Unsqueeze": "01",
        "View": "01",
    }.items()
    for number in numbers
)
_ARGUMENTS = [
    f"_saved_{name}"
    for name in ("dim", "dim0", "dim1", "dims", "end", "size", "start", "step", "storage_offset", "stride")
]
_MEANS = frozenset(["MeanBackward0", "MeanBackward1", "AvgPool2DBackward0", "AvgPool3DBackward0"])
_LINEAR = {"AddmmBackward0": 1, "MmBackward0": 0, "ConvolutionBackward0": 0}
"""And which of their inputs is what they map."""


class Layer(NamedTuple):
    """A layer's output in the graph."""

    activations: Tensor
    """As the layer returned them, detached."""
    edge: Edge
    grid: Grid | None
    hooked: bool
    """Whether somebody else's hooks wait for the gradient."""


class Found(NamedTuple):
    gradients: Tensor | None
    """[N, C, *S] or [N, K, C, *S]; None where the graph does not lead to the layer."""
    shortcut: Shortcut


class Pool(NamedTuple):
    node: Node
    """Whose output is the mean, N * C values in this order."""
    dtype: torch.dtype
    pixels: int
    """How many are averaged."""


class Graph:
    """That behind scores: who uses what its nodes return."""

    def __init__(self, scores: Tensor):
        self._users: dict[tuple[Node, int], list[tuple[Node, int]]] = {}
        waiting = [scores.grad_fn]
        seen = set(waiting)
        while waiting:
            node = waiting.pop()
            assert node is not None
            for place, (used, output) in enumerate(node.next_functions):
                if used is None:
                    continue
                self._users.setdefault((used, output), []).append((node, place))
                if used not in seen:
                    seen.add(used)
                    waiting.append(used)

    def between(self, starts: Sequence[tuple[Node, int]]) -> set[Node]:
        """The nodes that lie between the scores and these outputs."""
        found: set[Node] = set()
        waiting = [*starts]
        while waiting:
            for node, _ in self._users.get(waiting.pop(), []):
                if node not in found:
                    found.add(node)
                    waiting += [(node, output) for output in range(len(node._input_metadata))]
        return found

    def chain(self, start: tuple[Node, int]) -> Iterator[tuple[Node, int]]:
        """The only user of an output, as which of its inputs it uses it, the only user of its output, and so on."""
        while len(users := self._users.get(start, [])) == 1:
            yield users[0]
            start = users[0][0], 0


class Head:
    """Gradients of scores with respect to layers, by the shortest way that the graph between them allows."""

    def __init__(self, model: nn.Module, form: Form, shortcut: bool):
        self.model, self.form, self.shortcut = model, form, shortcut
        self._verified: object = None
        """The linear map whose rows were seen to be the gradients, its weights' memory and version."""

    def gradients(self, scores: Tensor, score: object, output: object, layers: Sequence[Layer]) -> list[Found]:
        """Of scores [N] or [N, K], which `score` made of the model's output."""
        if scores.grad_fn is None:
            return [Found(None, "none") for _ in layers]
        graph = Graph(scores)
        hooked = any(layer.hooked for layer in layers) or (isinstance(output, Tensor) and is_hooked(output))
        pools = [self._pool(graph, layer) if self.shortcut and not layer.hooked else None for layer in layers]
        if len(layers) == 1 and pools[0] and not hooked and isinstance(score, OutputColumns):
            assert isinstance(output, Tensor)
            rows = self._rows(graph, pools[0], output, score)
            if rows is not None:
                return [Found(self._spread(rows, pools[0], layers[0]), "linear")]
        edges = [
            GradientEdge(pool.node, 0) if pool else _as_edge(layer.edge)
            for pool, layer in zip(pools, layers, strict=True)
        ]
        between = graph.between([(edge.node, edge.output_nr) for edge in edges])
        found = all_derivatives(scores, edges, between, batched=not hooked)
        return [
            self._finished(gradients, pool, layer, scores.ndim)
            for gradients, pool, layer in zip(found, pools, layers, strict=True)
        ]

    def _finished(self, gradients: Tensor | None, pool: Pool | None, layer: Layer, ndim: int) -> Found:
        if gradients is None:
            return Found(None, "none")
        if pool is None:
            return Found(self.form.channels_first(gradients, layer.grid), "none")
        rows = gradients.reshape(*gradients.shape[:ndim], self._maps(layer).shape[1])
        return Found(self._spread(rows, pool, layer), "pooled")

    def _maps(self, layer: Layer) -> Tensor:
        """[N, C, *S]"""
        return self.form.channels_first(layer.activations, layer.grid)

    def _spread(self, rows: Tensor, pool: Pool, layer: Layer) -> Tensor:
        """From gradients at the mean, [N, C] or [N, K, C], those at each pixel, as the mean's backward has them."""
        maps = self._maps(layer)
        each = self._divided(rows, pool, maps.dtype)
        return each.reshape(*each.shape, *[1] * self.form.spatial).expand(*each.shape, *maps.shape[2:])

    def _divided(self, rows: Tensor, pool: Pool, dtype: torch.dtype) -> Tensor:
        return (rows.to(pool.dtype) / pool.pixels).to(dtype)

    def _pool(self, graph: Graph, layer: Layer) -> Pool | None:
        """The mean over all of space that alone uses the layer's output."""
        edge = _as_edge(layer.edge)
        maps = self._maps(layer)
        n, channels = maps.shape[:2]
        if not maps.numel():
            return None
        for node, _ in graph.chain((edge.node, edge.output_nr)):
            name = node.name()
            if name not in _MEANS and name not in _MOVES:
                return None
            mean = node._input_metadata[0]
            if name in _MEANS and math.prod(mean.shape) == n * channels:
                if mean.shape[0] != n:  # whose gradients do not belong to images
                    return None
                break
        else:
            return None
        # These nodes hand each value of a gradient on to some pixels, as it is or divided. One gradient of which no two
        # values are the same tells whether to all of one channel alone and alike. A hook between would show.
        seed = _noise(mean.shape).to(mean.device, mean.dtype)
        with torch.autocast(mean.device.type, enabled=False):
            (dense,) = torch.autograd.grad([GradientEdge(node, 0)], [layer.edge], [seed], retain_graph=True)  # type: ignore[arg-type]
        dense = self.form.channels_first(dense, layer.grid).flatten(2)
        once = dense[..., :1]
        if not torch.equal(dense, once.expand_as(dense)):
            return None
        close = 4 * torch.finfo(dense.dtype).eps
        for pixels in {math.prod(layer.activations.shape) // (n * channels), math.prod(maps.shape[2:])}:
            pool = Pool(node, mean.dtype, pixels)
            each = self._divided(seed.reshape(n, channels), pool, dense.dtype)
            if torch.allclose(once.reshape(n, channels), each, rtol=close, atol=0):
                return pool
        return None

    def _rows(self, graph: Graph, pool: Pool, output: Tensor, score: OutputColumns) -> Tensor | None:
        """[N, C] or [N, K, C]: the gradients of an output's scores at the mean, where one linear map alone is between
        them.

        Autograd confirms that once for each version of the weights and each set of modules' hooks, which may put hooks
        on tensors between the two. Only such hooks of the model's own code that come later than that are not seen.
        """
        found = _linear_map(graph, pool, output)
        if found is None:
            return None
        weight, way = found
        key = (way, weight.shape, weight.data_ptr(), weight._version, forward_hooks(self.model))
        if key != self._verified:
            if not _is_gradient(weight, output, pool):
                return None
            # Of channels that weigh the same, other weights might show that they change places.
            if bool((weight != weight[:, :1]).any()):
                self._verified = key
        columns = score.columns(output)
        if columns is None:
            return weight.expand(len(output), *weight.shape)
        # By far faster than indexing, whose result is the same.
        return weight.index_select(0, columns.flatten()).reshape(*columns.shape, -1)


def _as_edge(edge: Edge) -> GradientEdge:
    return edge if isinstance(edge, GradientEdge) else get_gradient_edge(edge)


def _linear_map(graph: Graph, pool: Pool, output: Tensor) -> tuple[Tensor, tuple[object, ...]] | None:
    """The weights [classes, C] that make an output [N, classes] of the mean, as this run had them, and the nodes
    between with their shapes and arguments."""
    weight: Tensor | None = None
    way: list[object] = []
    for node, place in graph.chain((pool.node, 0)):
        name = node.name()
        way.append((name, *node._input_metadata[0].shape, *(getattr(node, one, None) for one in _ARGUMENTS)))
        if weight is None and _LINEAR.get(name) == place:
            weight = _weight(node)
            if weight is None:
                return None
        elif name not in _MOVES:
            return None
        if node is output.grad_fn:
            return (weight, tuple(way)) if weight is not None and len(weight) == output.shape[1] else None
    return None


def _weight(node: Node) -> Tensor | None:
    """[outputs, inputs] of a linear map, as this run had them; None where it is more than that."""
    convolution = node.name() == "ConvolutionBackward0"
    saved = getattr(node, "_raw_saved_weight" if convolution else "_raw_saved_mat2")
    if saved.unpack_hook is not None:  # a checkpoint's, which would run again
        return None
    try:
        weight: Tensor = node._saved_weight if convolution else node._saved_mat2  # type: ignore[attr-defined]
    except RuntimeError:  # overwritten since; a backward says so
        return None
    if weight is None or weight.layout != torch.strided:
        return None
    weight = weight.detach()
    if not convolution:
        return weight.mT if getattr(node, "_saved_alpha", 1) == 1 else None  # of addmm
    plain = node._saved_groups == 1 and not node._saved_transposed and weight[0, 0].numel() == 1  # type: ignore[attr-defined]
    return weight.flatten(1) if plain else None


def _is_gradient(weight: Tensor, output: Tensor, pool: Pool) -> bool:
    """Whether autograd agrees that the rows of [classes, C] are the gradients of an output [N, classes] at the mean: of
    one sum of all, each with a factor of its own."""
    factors = _noise(output.shape).to(output)
    with torch.autocast(output.device.type, enabled=False):
        (gradients,) = torch.autograd.grad([output], [GradientEdge(pool.node, 0)], [factors], retain_graph=True)
        if gradients.numel() != len(output) * weight.shape[1]:
            return False
        eps = max(torch.finfo(one.dtype).eps for one in (output, weight, gradients))
        # Of the vectors' lengths, since magnitudes would take the weights' memory once more.
        lengths = torch.linalg.vector_norm(factors, dim=1)[:, None] * torch.linalg.vector_norm(weight, dim=0)
        off = gradients.reshape(lengths.shape) - (factors.to(weight.dtype) @ weight)
        return bool((off.abs() <= max(4 * eps, 1e-3 if output.is_cuda else 1e-5) * lengths).all())  # 1e-3: TF32


def _noise(shape: Sequence[int]) -> Tensor:
    """Numbers of which no two are the same; the caller's random state stays as it is."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float32, device="cpu")


def is_hooked(tensor: Tensor) -> bool:
    """Whether somebody's hooks wait for its gradient."""
    return bool(tensor._backward_hooks) or tensor.retains_grad


def constant_over_space(gradients: Tensor, spatial: int) -> Tensor | None:
    """[N or 1, (K,) C]: what gradients [N, (K,) C, *S] are at every pixel, where their strides say that; N images that
    share memory are one."""
    space = zip(gradients.shape[-spatial:], gradients.stride()[-spatial:], strict=True)
    if not gradients.numel() or any(stride and extent > 1 for extent, stride in space):
        return None
    once = gradients.flatten(-spatial)[..., 0]
    return once[:1] if once.stride(0) == 0 else once
