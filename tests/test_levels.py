"""The instruction sets that the CPU's kernels are compiled for: chosen by the processor, or by FUSEDCAM_SIMD."""

import hashlib
import os
import re
import subprocess
import sys

import numpy as np
import pytest

import fusedcam

ALL = ["avx512", "avx2", "baseline"]
LEVELS = ALL[ALL.index(fusedcam.info()["simd"]) :]


def results():
    """A digest of calls of every op, with maps of awkward sizes."""
    rng = np.random.default_rng(5)
    digest = hashlib.sha256()
    for dtype in (np.float32, np.float16, np.float64):
        for shape in ((2, 70, 7, 7), (1, 33, 14, 14), (1, 9, 1, 1), (2, 17, 2, 3), (1, 5, 40, 33)):
            a, g = rng.normal(size=(2, *shape)).astype(dtype)
            for size in (None, (61, 50), (3, 2)):
                digest.update(fusedcam.cam(a, g, size=size).tobytes())
                digest.update(fusedcam.cam(a.swapaxes(2, 3), g.swapaxes(2, 3), size=size).tobytes())
            raw = fusedcam.cam(a, g, normalize=None)
            digest.update(fusedcam.resize(raw, (40, 77), normalize="max").tobytes())
            images = rng.integers(0, 256, (len(raw), 37, 53, 3), np.uint8)
            digest.update(fusedcam.overlay(images, raw, normalize="minmax").tobytes())
            digest.update(fusedcam.colorize(raw, size=45, normalize="minmax").tobytes())
            floats = rng.normal(size=(len(raw), 3, 37, 53)).astype(dtype)
            digest.update(fusedcam.mask(floats, a[:, :4]).tobytes())
    return digest.hexdigest()


def in_a_process(level, program):
    environment = {**os.environ, "FUSEDCAM_SIMD": level}
    done = subprocess.run([sys.executable, *program], env=environment, capture_output=True, text=True)
    return done.returncode, done.stdout.strip(), done.stderr


@pytest.mark.parametrize("level", LEVELS)
def test_every_level_gives_the_same_bits(level):
    program = [__file__]
    assert in_a_process(level, program) == (0, f"{level} {results()}", "")


@pytest.mark.slow
@pytest.mark.parametrize("level", LEVELS[1:])
def test_the_values_of_the_other_levels(level, request):
    """Against the oracle, by the tests of the ops."""
    names = ("cam", "cam_bits", "minimal", "nan", "resize", "colorize", "overlay", "mask", "exchange")
    files = [str(request.path.with_name(f"test_{name}.py")) for name in names]
    status, said, _ = in_a_process(level, ["-m", "pytest", "-q", "-p", "no:cacheprovider", *files])
    assert status == 0, said[-3000:]


def test_an_unknown_level_is_refused():
    status, _, said = in_a_process("mmx", ["-c", "import fusedcam; fusedcam.info()"])
    assert status == 1
    names = ", ".join(f"'{level}'" for level in LEVELS)
    assert re.search(rf"ValueError: FUSEDCAM_SIMD is 'mmx'; accepted on this processor: {names}", said)


if __name__ == "__main__":
    print(fusedcam.info()["simd"], results())
