"""The peers' own test suites, as they are and with fusedcam patched in, side by side.

    python tests/peer_suites.py --pytorch-grad-cam CHECKOUT --torchcam CHECKOUT --captum CHECKOUT

Of each checkout only the tests are used: what is tested is the installed package. Fails where patched another test
fails than before, or where there is no native call: a suite that checks shapes alone passes without any.
"""

import argparse
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).resolve().parent


class Suite(NamedTuple):
    folders: tuple[str, ...]
    tests: tuple[str, ...]


SUITES = {
    "pytorch_grad_cam": Suite(("tests", "examples"), ("tests",)),
    "torchcam": Suite(("tests",), tuple(f"tests/test_{n}.py" for n in
        ("utils", "methods_core", "methods_gradient", "methods_activation", "methods_utils", "explain", "metrics"))),
    "captum": Suite(("tests",), ("tests/attr/layer/test_grad_cam.py", "tests/attr/test_guided_grad_cam.py")),
}  # fmt: skip


class Outcome(NamedTuple):
    counts: dict[str, int]
    failed: frozenset[str]
    native_calls: int
    seconds: float


def run(folder: Path, suite: Suite, patched: bool) -> Outcome:
    """One suite; the same random numbers both times."""
    plugins = ["-p", "peer_offline", *(["-p", "fusedcam.compat.pytest_patch"] if patched else [])]
    options = ["-q", "-W", "ignore", "-p", "no:cacheprovider", "-c", "/dev/null", "--rootdir", ".", "-rfE"]
    program = f"import sys; sys.path.insert(0, {str(HERE)!r}); import pytest; sys.exit(pytest.main(sys.argv[1:]))"
    done = subprocess.run(
        [sys.executable, "-c", program, *plugins, *options, *suite.tests],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
    )
    last = [line for line in done.stdout.splitlines() if re.search(r"\d+ (passed|failed|error).* in ", line)]
    if not last:
        sys.exit(f"the suite did not run:\n{done.stdout[-3000:]}{done.stderr[-3000:]}")
    counts = {word: int(count) for count, word in re.findall(r"(\d+) (passed|failed|skipped|error)", last[-1])}
    failed = frozenset(re.findall(r"^(?:FAILED|ERROR) (\S+)", done.stdout, re.MULTILINE))
    calls = re.search(r"^(\d+) native calls$", done.stdout, re.MULTILINE)
    seconds = re.search(r"in ([\d.]+)s", last[-1])
    return Outcome(counts, failed, int(calls[1]) if calls else 0, float(seconds[1]) if seconds else 0)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for peer in SUITES:
        parser.add_argument(f"--{peer.replace('_', '-')}", type=Path, metavar="CHECKOUT")
    given = {peer: path for peer, path in vars(parser.parse_args()).items() if path}
    bad = not given
    print("| suite | | passed | failed | skipped | errors | native calls | seconds |")
    print("|---|---|---:|---:|---:|---:|---:|---:|")
    for peer, checkout in given.items():
        with tempfile.TemporaryDirectory() as place:
            for name in SUITES[peer].folders:
                shutil.copytree(checkout / name, Path(place) / name)
            before, after = (run(Path(place), SUITES[peer], patched) for patched in (False, True))
        for title, outcome in (("as it is", before), ("patched", after)):
            numbers = [outcome.counts.get(word, 0) for word in ("passed", "failed", "skipped", "error")]
            cells = [peer, title, *numbers, outcome.native_calls, f"{outcome.seconds:.0f}"]
            print(f"| {' | '.join(map(str, cells))} |")
        for test in sorted(after.failed ^ before.failed):
            print(f"{'fails patched' if test in after.failed else 'fails only as it is'}: {test}")
        bad |= bool(after.failed - before.failed) or not after.native_calls or not before.counts.get("passed")
        bad |= after.counts.get("passed", 0) < before.counts["passed"]
    return int(bad)


if __name__ == "__main__":
    sys.exit(main())
