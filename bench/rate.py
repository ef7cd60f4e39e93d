"""The rate of this machine's memory, measured in the same rounds as everything else: a loop in C that loads as many
bytes as a case has inputs and stores as many as it has outputs, on one thread."""

import ctypes
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np


@cache
def _library() -> Any:
    compiler = os.environ.get("CC") or shutil.which("cc") or "gcc"
    folder = Path(tempfile.mkdtemp())  # loaded, so it may go at once
    library = folder / "rate.so"
    # Sums in any order, so that the widest instructions do it.
    options = ["-O3", "-march=native", "-ffast-math", "-funroll-loops", "-shared", "-fPIC"]
    subprocess.run([compiler, *options, str(Path(__file__).with_name("rate.c")), "-o", str(library)], check=True)
    run = ctypes.CDLL(str(library)).load_store
    shutil.rmtree(folder)
    run.argtypes = [ctypes.c_void_p, ctypes.c_size_t] * 2
    run.restype = None
    return run


def load_store(inputs: Sequence[Any], result_bytes: int) -> Callable[[], None]:
    """A call that reads every byte of the inputs (torch tensors) and writes a resident buffer of the result's size."""
    run = _library()
    places = [(x.data_ptr(), x.numel() * x.element_size() // 4) for x in inputs]
    out = np.zeros(result_bytes // 4, np.float32)

    def call() -> None:
        for data, count in places[:-1]:
            run(data, count, None, 0)
        run(*places[-1], out.ctypes.data, len(out))

    return call
