"""Random calls of every op, well-formed and mangled, in a process that may crash.

    python tests/fuzz.py --seed 7 --calls 10000
    python tests/fuzz.py --seed 7 --first 4711 --calls 1    # the one that went wrong

Tests start it with `start`, which says how to repeat the call that went wrong.

Every call must return what it promises or raise ValueError, TypeError or what a user's own object raised. `out` lies
inside a larger buffer, of which no other byte may change; after an exception no byte of `out` itself either.
"""

import argparse
import faulthandler
import functools
import os
import random
import subprocess
import sys
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided

import fusedcam
from cases import EPS, MOMENTS
from fuzz_inputs import FLOATS, Boom, Random

Call = tuple[str, list[Any], dict[str, Any], tuple[int, ...] | None]  # the shape of the result, if it is known

OPTIONS = {
    "cam": ("weights", "method", "size", "relu", "normalize", "nan", "spatial", "layout", "eps", "weight_eps"),
    "resize": ("normalize", "eps"),
    "colorize": ("colormap", "size", "normalize"),
    "overlay": ("colormap", "alpha", "normalize"),
    "mask": ("normalize", "eps", "noise"),
}


def well_formed(rng: Random) -> Call:
    """The name of an op, arguments that fit, and the shape of the result."""
    op = rng.choice(("cam", "cam", "resize", "colorize", "overlay", "mask"))
    N, K, C, H, W = rng.choice((0, 1, 2, 3)), rng.choice((0, 1, 3)), *rng.extents(3, 60 if rng.random() < 0.01 else 7)
    dtype = rng.choice(FLOATS)
    most = 500 if rng.random() < 0.03 else 12  # large enough for threads, now and then
    size = rng.choice((None, rng.randint(1, most), rng.extents(2, most), list(rng.extents(2, most))))
    height, width = (H, W) if size is None else (size, size) if isinstance(size, int) else size
    options: dict[str, Any] = {"normalize": rng.choice(("minmax", "max", None))}
    if op == "cam":
        batch, classes = rng.choice(((), (N,))), rng.choice(((), (K,)))
        last = rng.random() < 0.3
        pixels = [(C, H, W), (H, W, C)][last]
        options |= {"size": size, "relu": rng.random() < 0.5, "nan": rng.choice(("propagate", "zero", "raise"))}
        options["layout"] = "last" if last else "first"
        arguments = [rng.array(batch + pixels, dtype)]
        if rng.random() < 0.3:
            options["weights"] = rng.array(batch + classes + (C,), dtype)
        else:
            method = options["method"] = rng.choice((*fusedcam.METHODS,))
            front = (3,) * (method in MOMENTS)
            arguments.append(rng.array(front + batch + classes + pixels, dtype))
            if method in EPS and rng.random() < 0.5:
                options["weight_eps"] = rng.choice((0, 1e-7, 1))
        shape = (*batch, *classes, height, width)
    elif op == "overlay":
        batch = rng.choice(((), (N,)))
        height, width = rng.extents(2, most)
        image = rng.choice(((height, width), (height, width, 1), (height, width, 3), (3, height, width)))
        if image[0] == 3 and image[-1] in (1, 3):  # would be read as channels last
            image = (height, width)
        arguments = [rng.array(batch + image, rng.choice((dtype, "u1"))), rng.array((*batch, H, W), dtype)]
        options |= {"alpha": rng.random(), "colormap": rng.choice(("jet", "grey", np.zeros((256, 3))))}
        shape = (*batch, height, width, 3)
    elif op == "mask":
        batch, several = rng.choice(((), (N,))), rng.choice(((), (K,)))
        height, width = rng.extents(2, most)
        kind = rng.choice((dtype, rng.choice(FLOATS)))
        arguments = [rng.array((*batch, C, height, width), kind), rng.array((*batch, *several, H, W), dtype)]
        if rng.random() < 0.5:
            sums = "f8" if np.dtype(dtype) == "f8" else "f4"
            options["noise"] = rng.array((*batch, *several, height, width), sums)
        shape = (*batch, *several, C, height, width)
    else:
        batch = tuple(rng.randint(0, 3) for _ in range(rng.randint(0, 3)))
        arguments = [rng.array((*batch, H, W), dtype)]
        if op == "resize":
            height, width = rng.extents(2, most)
            arguments.append((height, width))
        else:
            options["size"] = size
        shape = (*batch, height, width, *((3,) if op == "colorize" else ()))
    if op in ("cam", "resize", "mask") and rng.random() < 0.3:
        options["eps"] = rng.choice((0, 1e-8, 1e-3, 2.0))
    result = "u1" if op in ("colorize", "overlay") else "f8" if np.dtype(dtype) == "f8" else "f4"
    if op == "mask":
        result = arguments[0].dtype
    if rng.random() < 0.7:
        options["out"] = rng.lay_out(shape, result)
    return op, arguments, options, shape


def mangle(rng: Random, op: str, arguments: list[Any], options: dict[str, Any]) -> Call:
    """One to three arguments replaced, dropped or added."""
    inputs = [value for value in arguments if isinstance(value, np.ndarray)]
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        kind = rng.random()
        if kind < 0.4 and arguments:
            position = rng.randrange(len(arguments))
            arguments[position] = rng.choice((rng.near, rng.near, rng.alter))(arguments[position])
        elif kind < 0.65:
            name = rng.choice(sorted(options))
            options[name] = rng.choice((rng.near, rng.alter))(options[name])
        elif kind < 0.8:
            name = rng.choice((*OPTIONS[op], "out"))
            options[name] = rng.alter(options.get(name))
        elif kind < 0.9:
            options["out"] = rng.near(rng.choice([*inputs, options.get("out")]))
        elif kind < 0.93:
            options[rng.choice(("typo", "é", "activations", "heatmap", "image"))] = rng.junk()
        elif kind < 0.96:
            arguments.append(rng.junk())
        elif arguments:
            arguments.pop()
    return op, arguments, options, None


def memory(view: np.ndarray) -> np.ndarray:
    """All bytes of the buffer that the array lies in."""
    while isinstance(view.base, np.ndarray) or hasattr(view.base, "base"):
        view = view.base
    return view.ravel("K").view(np.uint8)


def elements(view: np.ndarray, buffer: np.ndarray) -> np.ndarray:
    """The bytes of an array's elements, in a copy of its buffer."""
    start = view.__array_interface__["data"][0] - memory(view).__array_interface__["data"][0]
    return as_strided(buffer[start:], (*view.shape, view.itemsize), (*view.strides, 1))


def differentiate(rng: Random, op: str, arguments: list[Any], options: dict[str, Any]) -> None:
    """The derivative of a call that returned: into arrays of the inputs' shapes, and nothing around them."""
    layout, spatial = options.get("layout", "first"), 2
    first = arguments[0]
    if op == "cam":
        weights = options.get("weights")
        second = arguments[1] if weights is None else weights
        if weights is not None and first.ndim == 4:  # a row for all images has its derivative summed by the caller
            second = np.broadcast_to(second, (len(first), *second.shape[1:]))
        given = {"weights" if weights is not None else "gradients": second}
        more = {name: options[name] for name in ("method", "weight_eps") if name in options}
        raw = fusedcam.cam(first, **given, **more, layout=layout, normalize=None, nan="propagate")
        outs = [rng.lay_out(first.shape, first.dtype), rng.lay_out(second.shape, second.dtype)]
        rest = (
            weights is not None,
            options.get("method", "gradcam"),
            spatial,
            layout,
            options.get("weight_eps", 0),
            None,
        )
        call = functools.partial(fusedcam._native.cam_backward, first, second, np.ones_like(raw), *outs, *rest)
    else:
        result = fusedcam.resize(first, arguments[1], normalize=options["normalize"])
        outs = [rng.lay_out(first.shape, first.dtype)]
        rest = (tuple(arguments[1]), options["normalize"], options.get("eps", 0))
        call = functools.partial(fusedcam._native.resize_backward, first, np.ones_like(result), *outs, *rest)
    before = [memory(value).copy() for value in outs]
    call()
    for value, old in zip(outs, before, strict=True):
        new = memory(value).copy()
        elements(value, old)[...] = elements(value, new)[...] = 0
        assert old.tobytes() == new.tobytes(), "memory was written to that is not a derivative's"


def run(seed: int, index: int) -> bool:
    """One call. True when it returned something."""
    rng = Random(f"{seed}/{index}")
    op, arguments, options, shape = well_formed(rng)
    if rng.random() < 0.6:
        op, arguments, options, shape = mangle(rng, op, arguments, options)
    out = options.get("out")
    given = [value for value in [*arguments, *options.values()] if isinstance(value, np.ndarray)]
    given = [value for value in given if not value.dtype.hasobject]
    before = [memory(value).copy() for value in given]
    error = result = None
    try:
        result = getattr(fusedcam, op)(*arguments, **options)
    except Exception as raised:
        error = raised
    if error is not None:
        assert type(error) in (ValueError, TypeError, Boom), repr(error)
        assert shape is None or "nan='raise' and the class activation maps hold" in str(error), (
            f"refused what fits: {error}"
        )
    else:
        assert out is None or result is out
        assert shape is None or np.asarray(result).shape == shape
    for value, old in zip(given, before, strict=True):
        new = memory(value).copy()
        if value is result:  # the elements of `out` may change, and nothing around them
            elements(value, old)[...] = elements(value, new)[...] = 0
        assert old.tobytes() == new.tobytes(), "memory was written to that is not out's"
    if error is None and shape is not None and op in ("cam", "resize") and np.asarray(result).size:
        differentiate(rng, op, arguments, options)
    return error is None


def start(calls: int, *command: str, **environment: str) -> None:
    """That many calls with a fresh seed in a process of their own; `command` stands before the program's name."""
    seed = random.SystemRandom().randrange(2**32)
    process = subprocess.run(
        [sys.executable, *command, __file__, "--seed", str(seed), "--calls", str(calls)],
        capture_output=True,
        text=True,
        errors="replace",
        env=os.environ | environment,
    )
    begun = [line for line in process.stdout.split("\n") if line.isdecimal()]
    again = f"python tests/fuzz.py --seed {seed} --first {begun[-1] if begun else 0}"
    assert process.returncode == 0, f"{process.stderr}\nstatus {process.returncode}, again by: {again}"
    assert len(begun) == calls, again


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--calls", type=int, default=1)
    given = parser.parse_args()
    faulthandler.enable()
    returned = 0
    for index in range(given.first, given.first + given.calls):
        os.write(1, b"%d\n" % index)
        returned += run(given.seed, index)
    print(f"{returned} of {given.calls} calls returned")


if __name__ == "__main__":
    main()
