"""Tests of the emulator's tests: plants one bug after the other into the CUDA kernels and prints what noticed it.

python tests/plant_cuda_bugs.py [WORD ...]    only those with such a word in their names

ThreadSanitizer sees missing barriers, since barriers are all that orders the threads there; of missing fences it knows
nothing, nor does it look at as many shapes.
"""

import re
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from build_copy import Copy, Failed
from planted_cuda import BUGS

BUILDS = {"plain": (), "ASan + UBSan": ("FUSEDCAM_SANITIZE",), "TSan": ("FUSEDCAM_SANITIZE=thread",)}
SIGNS = {  # what the tests print, and what that means
    r"AddressSanitizer": "address",
    r"runtime error: ": "undefined",
    r"ThreadSanitizer: data race": "race",
    r"deadlock": "deadlock",
    r"divergent": "divergence",
    r"shared memory|misaligned|waited for|in_block": "emulator",
    r"failed|CHECK|instead of": "value",
}


def verdict(copy: Copy) -> str:
    """How the tests failed, or a dash."""
    try:
        copy.run("ctest", "--test-dir", "build", "-R", "^cuda$", "--output-on-failure", "--timeout", "600")
    except Failed as failure:
        return next((meaning for sign, meaning in SIGNS.items() if re.search(sign, str(failure))), "crash")
    return "-"


def row(copies: list[Copy], name: str) -> tuple[str, ...]:
    file, *texts = BUGS[name]

    def tried(copy: Copy) -> str:
        before = copy.edit(f"csrc/cuda/{file}", (tuple(texts),))
        try:
            copy.build("test_cuda")
            return verdict(copy)
        finally:
            (copy.folder / "csrc" / "cuda" / file).write_text(before)

    with ThreadPoolExecutor() as pool:
        return tuple(pool.map(tried, copies))


def main(words: list[str]) -> int:
    chosen = [name for name in BUGS if not words or any(word in name for word in words)]
    with tempfile.TemporaryDirectory() as folder:
        copies = [
            Copy(Path(folder) / str(number), "FUSEDCAM_TESTS", *options)
            for number, options in enumerate(BUILDS.values())
        ]
        for copy in copies:
            copy.build("test_cuda")
            assert verdict(copy) == "-", "the tests fail without a bug"
        print(f"| planted bug | {' | '.join(BUILDS)} |\n|---{'|---' * len(BUILDS)}|", flush=True)
        caught = 0
        for name in chosen:
            found = row(copies, name)
            caught += any(how != "-" for how in found)
            print(f"| {name} | {' | '.join(found)} |", flush=True)
    print(f"\n{caught} of {len(chosen)} caught")
    return caught < len(chosen)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
