"""Maps of many classes of one image beside the one inference that they take: time, and how far they are from maps that
were made one by one.

    python bench/many_classes.py                       # 1 to 1000 classes of EfficientNet-Lite0; writes JSON
    python bench/many_classes.py --classes 1000 --size none

Ways: column by column is a backward for each class up to the layer's output; batched, many classes share a backward;
pooled, they share one up to the mean over all of space; linear is `targets="all"` or a list of classes as they are
called, whose gradients are rows of the classifier. Interleaved; ratios within a round, median and quartiles. At 224 the
maps of 1000 classes are 200 MB, which to write takes longer than to explain them. pytorch-grad-cam, where it is
installed, explains a few classes alone, since each of them is one run of the model there.
"""

import argparse
import os
from collections.abc import Callable
from functools import partial
from typing import Any

import skimage.data
import torch
from PIL import Image
from torch import Tensor, nn

from end_to_end import infer, prepared
from fusedcam.torch import GradCAM, derivatives
from fusedcam.torch.pretrained import load
from peers import import_pytorch_grad_cam
from records import add_output, machine, save
from timing import digits, interleaved, quartiles, threads

COUNTS, SIZES = (1, 10, 100, 1000), (None, 224)
FEW = 10  # classes up to which the peer is measured
SLOW = 100  # classes from which on the slow ways have few rounds
PEER = "pytorch-grad-cam"


def column_by_column(explain: GradCAM, x: Tensor, targets: Any, **options: Any) -> Tensor:
    """As if no operation had a rule for vmap."""
    at_once = derivatives._columns_at_once
    derivatives._columns_at_once = lambda scores, nodes: 1
    try:
        return explain(x, targets=targets, **options)
    finally:
        derivatives._columns_at_once = at_once


def ways(model: nn.Module, x: Tensor, count: int, size: int | None) -> dict[str, Callable[[], Any]]:
    whole, short = GradCAM(model, shortcut=False), GradCAM(model)
    classes = torch.randperm(1000, generator=torch.Generator().manual_seed(0))[None, :count]
    targets = "all" if count == 1000 else classes
    calls: dict[str, Callable[[], Any]] = {
        "inference": partial(infer, model, x),
        "column by column": partial(column_by_column, whole, x, targets, size=size),
        "batched": partial(whole, x, targets=targets, size=size),
        "pooled": partial(short, x, targets=partial(_scores, classes if count < 1000 else None), size=size),
        "linear": partial(short, x, targets=targets, size=size),
    }
    for name, shortcut in (("batched", "none"), ("pooled", "pooled"), ("linear", "linear")):
        calls[name]()
        assert (whole if shortcut == "none" else short).plan.shortcut == shortcut, name
    if count <= FEW and size is not None:
        try:
            package = import_pytorch_grad_cam()
        except ImportError:
            return calls
        peer = package.GradCAM(model, [model.get_submodule(short.plan.layer)])
        target = package.utils.model_targets.ClassifierOutputTarget
        calls[PEER] = lambda: [peer(x, [target(k)]) for k in classes[0].tolist()]
    return calls


def _scores(classes: Tensor | None, output: Tensor) -> Tensor:
    """Of a callable nobody knows that it chooses classes: the graph is left to show the pooling alone."""
    return output * 1 if classes is None else output.gather(1, classes)


def one_by_one(model: nn.Module, x: Tensor, count: int) -> Tensor:
    """[1, K, H, W]: maps from a call for each class, differentiated up to the layer's output."""
    explain = GradCAM(model, shortcut=False)
    classes = torch.randperm(1000, generator=torch.Generator().manual_seed(0))[:count].tolist()
    each = range(1000) if count == 1000 else classes
    return torch.stack([explain(x, targets=k, size=None) for k in each], 1)


def measure(model: nn.Module, x: Tensor, count: int, size: int | None, rounds: int) -> dict[str, Any]:
    calls = ways(model, x, count, size)
    slow = {"column by column", "batched"} if count >= SLOW else set()
    seconds = interleaved({name: call for name, call in calls.items() if name not in slow}, rounds, sample=0)
    times = {name: quartiles(seconds[name] / seconds["inference"]) for name in seconds if name != "inference"}
    if slow:
        few = interleaved({name: calls[name] for name in ("inference", *sorted(slow))}, 3, sample=0)
        for name in sorted(slow):
            seconds[name], times[name] = few[name], quartiles(few[name] / few["inference"])
    exact = one_by_one(model, x, count) if size is None else None
    found = {name: call() for name, call in calls.items()} if exact is not None else {}
    return {
        "classes": count,
        "size": size,
        "threads": torch.get_num_threads(),
        "load": digits(os.getloadavg()[0], 2),
        "ways": {
            name: {
                "ms": quartiles(1e3 * seconds[name]),
                "over inference": times.get(name),
                "from one by one": digits(float((found[name] - exact).abs().max()), 2)
                if exact is not None and name != "inference"
                else None,
            }
            for name in calls
        },
    }


def show(row: dict[str, Any]) -> None:
    where = "at the layer's resolution" if row["size"] is None else f"at {row['size']} x {row['size']}"
    print(f"{row['classes']} classes {where}, {row['threads']} thread(s), load {row['load']}:")
    for name, figures in row["ways"].items():
        low, middle, high = figures["ms"]
        ratio = "{1:.3f}x ({0:.3f} to {2:.3f})".format(*figures["over inference"]) if figures["over inference"] else ""
        error = "" if figures["from one by one"] is None else f"   from one by one {figures['from one by one']:.1g}"
        print(f"  {name:18}{middle:10.2f} ms ({low:.2f} to {high:.2f}){ratio:>32}{error}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--classes", type=int, nargs="+", default=COUNTS)
    parser.add_argument("--size", choices=["none", "224"], nargs="+", default=["none", "224"])
    parser.add_argument("--threads", type=int, nargs="+", default=sorted({1, torch.get_num_threads()}))
    parser.add_argument("--rounds", type=int, default=15)
    add_output(parser)
    given = parser.parse_args()
    classifier = load("efficientnet-lite0")
    x = prepared(classifier, Image.fromarray(skimage.data.camera()), 1)
    facts, rows = machine(), []
    for threads_used in given.threads:
        with threads(threads_used):
            for size in SIZES:
                if str(size).lower() not in given.size:
                    continue
                for count in given.classes:
                    rows.append(measure(classifier.model, x, count, size, given.rounds))
                    show(rows[-1])
    save({"machine": facts, "rows": rows}, "many-classes", given.output)


if __name__ == "__main__":
    main()
