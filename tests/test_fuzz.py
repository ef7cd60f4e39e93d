"""Random calls, mangled in every way the fuzz knows, in a process of their own; and nothing is kept by any call."""

import gc
import os
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch

import fusedcam
import fuzz
from refusals import Case, attempt


def test_random_calls():
    fuzz.start(2_000)


@pytest.mark.slow
@pytest.mark.parametrize("threads", ["1", "4"])
def test_many_random_calls(threads):
    fuzz.start(10_000, OMP_NUM_THREADS=threads)


class Exporter:
    """A producer of one of DLPack's two kinds of capsules, or of neither."""

    def __init__(self, source, way):
        self.source, self.way = source, way

    def __dlpack_device__(self):
        return (1, 0)

    def __dlpack__(self, **options):
        if self.way == "raises":
            raise RuntimeError("no")
        return self.source.__dlpack__(**options if self.way == "versioned" else {})


CALLS = {
    "cam": lambda x: fusedcam.cam(x.a, x.g, size=(6, 7)),
    "cam into out": lambda x: fusedcam.cam(x.a, x.g, out=x.heat),
    "cam of weights": lambda x: fusedcam.cam(x.a, weights=x.a[0, :1, 0, :3]),
    "resize": lambda x: fusedcam.resize(x.h, [6, 7], normalize="minmax"),
    "colorize": lambda x: fusedcam.colorize(x.h, colormap="turbo", size=9),
    "overlay": lambda x: fusedcam.overlay(x.image, x.h),
    "mask": lambda x: fusedcam.mask(x.a, x.g, noise=x.a),
    "memoryview": lambda x: fusedcam.resize(memoryview(x.h), 3),
    "versioned capsule": lambda x: fusedcam.resize(Exporter(x.h, "versioned"), 3),
    "tensors": lambda x: fusedcam.cam(torch.from_numpy(x.a), torch.from_numpy(x.g), size=9),
    "legacy capsule": lambda x: fusedcam.resize(Exporter(x.h, "legacy"), 3),
    "refused shape": lambda x: fusedcam.cam(x.a, x.g[0]),
    "refused dtype": lambda x: fusedcam.cam(x.image, x.g),
    "refused object": lambda x: fusedcam.cam(object(), x.g),
    "refused capsule": lambda x: fusedcam.cam(Exporter(x.a, "raises"), x.g),
    "refused size": lambda x: fusedcam.cam(x.a, x.g, size=(3, "7")),
    "refused out": lambda x: fusedcam.cam(x.a, x.g, out=x.a),
    "refused NaN": lambda x: fusedcam.cam(x.a * np.nan, x.g, nan="raise"),
    "refused NaN of a capsule": lambda x: fusedcam.cam(
        Exporter(x.a * np.nan, "legacy"), Exporter(x.g, "legacy"), nan="raise"
    ),
    "refused NaN of a tensor": lambda x: fusedcam.cam(
        torch.from_numpy(x.a * np.nan), torch.from_numpy(x.g), nan="raise"
    ),
    "refused name": lambda x: fusedcam.overlay(x.image, x.h, colormap="no"),
}

CALLS_A_ROUND = 800


def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.fixture
def nothing_else_collected():
    """What is there before the test is left out of collections, which would take seconds with all that tests hold."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@pytest.mark.usefixtures("nothing_else_collected")
@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
def test_nothing_is_kept(call):
    """Neither Python's memory nor the process's grows with calls, and every array has the references it had."""
    x = Case()
    attempt(call, x)
    before = {name: sys.getrefcount(value) for name, value in vars(x).items()}
    kept, grown = [], []
    for _ in range(4):  # what is kept by every call shows in every round
        gc.collect()
        tracemalloc.start()
        for _ in range(200):
            attempt(call, x)
        gc.collect()
        kept.append(tracemalloc.get_traced_memory()[0])
        tracemalloc.stop()
        start = resident()
        for _ in range(CALLS_A_ROUND):
            attempt(call, x)
        grown.append(resident() - start)
    assert {name: sys.getrefcount(value) for name, value in vars(x).items()} == before
    assert min(kept) < 200 * 16, kept
    assert min(grown) < CALLS_A_ROUND * 16, grown
