"""Guards against slower kernels without a clock: how many instructions three fixed calls take, counted by callgrind.

The counts belong to a compiler. With one that instructions.json does not know, the parent commit is built and counted
instead. After a change that is meant to change them:

    python tests/test_instructions.py    # counts and renews the file
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

import fusedcam
from build_copy import ROOT, Copy, Failed

CALLS = ("cam_7x7", "cam_28x28_bfloat16", "overlay")
LEVELS = ("baseline", *(["avx2"] if fusedcam.info()["simd"].startswith("avx") else []))  # valgrind runs no AVX-512
KEPT = Path(__file__).with_name("instructions.json")
TOLERANCE = 0.03
Counts = dict[str, dict[str, int]]


def compiler() -> str:
    named = os.environ.get("CXX", "c++")
    said = subprocess.run([named, "--version"], check=True, capture_output=True, text=True).stdout
    return re.sub(r"\s*\(.*?\)", "", said.splitlines()[0])


def count(folder: Path, root: Path = ROOT) -> Counts:
    """Per level and call: the instructions of one call, the difference between two of them and one."""
    copy = Copy(folder, "FUSEDCAM_TESTS", quick=False, root=root)
    copy.build("fixed_calls")

    def total(level: str, name: str, times: int) -> int:
        said = copy.run(
            "valgrind",
            "--tool=callgrind",
            "--callgrind-out-file=/dev/null",
            "build/tests/cpp/fixed_calls",
            name,
            str(times),
            FUSEDCAM_SIMD=level,
            FUSEDCAM_SEED="1",
            OMP_NUM_THREADS="1",
        )
        return int(re.search(r"Collected : (\d+)", said)[1])

    return {level: {name: total(level, name, 2) - total(level, name, 1) for name in CALLS} for level in LEVELS}


def parent(folder: Path) -> Path:
    """The sources of the commit before this one."""
    archive = subprocess.run(["git", "-C", ROOT, "archive", "HEAD^"], check=True, capture_output=True).stdout
    folder.mkdir()
    subprocess.run(["tar", "-x", "-C", folder], input=archive, check=True)
    return folder


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("valgrind"), reason="no valgrind")
def test_instructions_of_fixed_calls(tmp_path):
    kept = json.loads(KEPT.read_text())
    before = kept.get(compiler())
    if before is None:
        try:
            before = count(tmp_path / "before", parent(tmp_path / "parent"))
        except (subprocess.CalledProcessError, Failed) as error:
            pytest.skip(f"{compiler()} is not in {KEPT.name}, and there is no parent commit to compare with: {error}")
    now = count(tmp_path / "now")
    changed = [
        f"{level} {name}: {before[level][name]} before, {found} now ({found / before[level][name] - 1:+.1%})"
        for level, calls in now.items()
        for name, found in calls.items()
        if abs(found / before[level][name] - 1) > TOLERANCE
    ]
    assert not changed, changed


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        kept = json.loads(KEPT.read_text()) if KEPT.exists() else {}
        kept[compiler()] = count(Path(place) / "now")
        KEPT.write_text(json.dumps(kept, indent=1) + "\n")
        sys.stdout.write(KEPT.read_text())
