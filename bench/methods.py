"""What each method of `fusedcam.METHODS` costs beside Grad-CAM, and how far it is from float64; renews docs/methods.md.

python bench/methods.py [--threads N] [--docs]
"""

import argparse
import sys
from functools import partial
from pathlib import Path

import numpy as np
import torch

import fusedcam
from timing import interleaved, quartiles

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
import reference
from cases import MOMENTS

DOCS = Path(__file__).resolve().parent.parent / "docs" / "methods.md"
# Within L2, and beyond every cache.
SHAPES = {"in L2": (1, 2048, 7, 7), "out of cache": (32, 512, 28, 28)}


def arrays(shape, seed=0):
    rng = np.random.default_rng(seed)
    activations = np.maximum(rng.normal(size=shape), 0).astype(np.float32)
    return activations, (rng.normal(size=shape) * 1e-3).astype(np.float32)


def given(method, gradients):
    return np.stack([gradients, gradients**2, gradients**3]) if method in MOMENTS else gradients


def error(method):
    """The largest difference of a heatmap from float64's."""
    activations, gradients = arrays((2, 64, 7, 9), 1)
    got = fusedcam.cam(activations, given(method, gradients), method=method, size=30)
    wide = [array.astype(np.float64) for array in (activations, given(method, gradients))]
    wide[1] = np.expand_dims(wide[1], -4)
    exact = reference.normalize(reference.cam(*wide, method, size=(30, 30))[0], "minmax")
    return abs(got - exact[:, 0]).max()


def measure():
    """method -> its cost beside Grad-CAM at each shape: quartiles."""
    found = {method: {} for method in fusedcam.METHODS}
    for name, shape in SHAPES.items():
        activations, gradients = arrays(shape)
        inputs = {method: given(method, gradients) for method in fusedcam.METHODS}
        calls = {
            method: partial(fusedcam.cam, activations, gradients, method=method) for method, gradients in inputs.items()
        }
        times = interleaved(calls, rounds=15)
        for method in inputs:
            found[method][name] = quartiles(np.array(times[method]) / np.array(times["gradcam"]))
    return found


def table(costs):
    rows = ["| `method` | class | score of a pixel | for | paper | " + " | ".join(SHAPES) + " |"]
    rows.append("|---|---|---|---|---|" + "---|" * len(SHAPES))
    for method in fusedcam.METHODS.values():
        cost = " | ".join(f"{costs[method.name][name][1]:.2f}" for name in SHAPES)
        words = f"{method.formula} | {method.assumes} | {method.paper}"
        rows.append(f"| `{method.name}` | `{method.class_name}` | {words} | {cost} |")
    return "\n".join(rows)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--docs", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    costs = measure()
    for method, by_shape in costs.items():
        cells = ", ".join(f"{name} {m:.2f} ({low:.2f}-{high:.2f})" for name, (low, m, high) in by_shape.items())
        print(f"{method}: {cells}; error {error(method):.1e}")
    if options.docs:
        head, _, rest = DOCS.read_text().partition("<!-- table -->\n")
        _, _, tail = rest.partition("<!-- end -->\n")
        DOCS.write_text(f"{head}<!-- table -->\n{table(costs)}\n<!-- end -->\n{tail}")


if __name__ == "__main__":
    main()
