"""How far every method of every peer is from itself patched, on three networks: a table.

    python tests/peer_values.py [pytorch_grad_cam] [torchcam] [captum]

EfficientNet-Lite0 with its weights, a residual and a dense network with random ones; one image and five, not square;
one layer and two; volumes where the peer has them. Per method the largest difference, the largest of what is allowed
(2e-6, or four times what the peer's own answer moves when its input's last bit does), and the native calls. Fails
where a difference is larger than allowed, or nothing native was called where it is expected.
"""

import sys
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch

from fusedcam.torch.pretrained import load
from peer_models import allowed, both, difference, images, network, pytorch_grad_cam
from test_patched_values import METHODS, TORCHCAM, VOLUMES

NETWORKS: dict[str, tuple[Callable[[], torch.nn.Module], tuple[int, ...], tuple[str, str]]] = {
    "Lite0": (lambda: load("efficientnet-lite0").model.eval(), (3, 96, 128), ("_bn1", "_blocks.10")),
    "residual": (lambda: network("residual"), (3, 72, 104), ("layer3", "layer1")),
    "dense": (lambda: network("dense"), (3, 72, 104), ("layer3", "layer1")),
    "volumes": (lambda: network("volumes"), (3, 8, 24, 32), ("layer3", "layer1")),
}


class Case(NamedTuple):
    peer: str
    method: str
    where: str
    call: Callable[[torch.Tensor], Any]
    x: torch.Tensor


def cases(wanted: set[str]) -> Iterator[Case]:
    package = pytorch_grad_cam()
    for name, (make, shape, layers) in NETWORKS.items():
        model = make()
        for n in (1, 5):
            x = images(n, *shape)
            for chosen in (layers[:1], layers[::-1]):
                modules = [model.get_submodule(one) for one in chosen]
                where = f"{name}, {n}, {' '.join(chosen)}"
                if "pytorch_grad_cam" in wanted:
                    for method in VOLUMES if name == "volumes" else METHODS:
                        if (method == "ShapleyCAM" and len(chosen) > 1) or (
                            name == "Lite0"
                            and method in ("SESS", "AblationCAM")  # minutes; fails in the package itself
                        ):
                            continue
                        call = lambda x, m=method, l=modules: getattr(package, m)(model, l)(x, None)  # noqa: B023, E731, E741
                        yield Case("pytorch_grad_cam", method, where, call, x)
                if "torchcam" in wanted:
                    for method in TORCHCAM:
                        if method == "CAM" and (len(chosen) > 1 or name == "Lite0"):
                            continue
                        if n > 1 and name == "Lite0" and method in ("SSCAM", "ISCAM"):
                            continue
                        yield Case("torchcam", method, where, _torchcam(method, model, chosen, shape, name), x)
                if "captum" in wanted and len(chosen) == 1:
                    yield Case("captum", "LayerGradCam", where, _captum(model, modules[0]), x)


def _torchcam(method: str, model: Any, layers: Any, shape: Any, name: str) -> Callable[[torch.Tensor], Any]:
    from torchcam import methods

    head = "classifier" if name == "dense" else "fc"
    options = {"CAM": {"fc_layer": head}, "SSCAM": {"num_samples": 2}, "ISCAM": {"num_samples": 2}}.get(method, {})

    def call(x: torch.Tensor) -> Any:
        torch.manual_seed(0)
        with getattr(methods, method)(model, list(layers), input_shape=shape, **options) as extract:
            maps = extract(4, model(x))
            return extract.fuse_cams(maps, shape[1:]).detach()

    return call


def _captum(model: Any, layer: Any) -> Callable[[torch.Tensor], Any]:
    from captum.attr import LayerGradCam

    return lambda x: LayerGradCam(model, layer).attribute(x, 4).detach()


def main(wanted: list[str]) -> int:
    warnings.simplefilter("ignore")
    table: dict[tuple[str, str], list[Any]] = {}
    bad = []
    for case in cases(set(wanted or ["pytorch_grad_cam", "torchcam", "captum"])):
        plain, ours, calls = both(case.peer, lambda case=case: case.call(case.x))
        gap, bound = difference(plain, ours), 2e-6
        if gap > bound:
            bound = allowed(case.call, case.x, plain)
        row = table.setdefault((case.peer, case.method), [0.0, 2e-6, 0, ""])
        if gap >= row[0]:
            row[0], row[3] = gap, case.where
        row[1], row[2] = max(row[1], bound), row[2] + calls
        if gap > bound:
            bad.append(f"{case.peer} {case.method}, {case.where}: {gap:.2g} of {bound:.2g}")
    print("| peer | method | largest difference | where | allowed there, at most | native calls |")
    print("|---|---|---:|---|---:|---:|")
    for (peer, method), (gap, bound, calls, where) in table.items():
        print(f"| {peer} | {method} | {gap:.1e} | {where} | {bound:.1e} | {calls} |")
        if not calls:
            bad.append(f"{peer} {method}: no native call")
    print(*bad, sep="\n")
    return int(bool(bad))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
