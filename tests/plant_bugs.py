"""Tests of the tests: plants one bug after the other in a copy of the sources and demands that a value test fails.

python tests/plant_bugs.py              all of them, and a copy without a bug
python tests/plant_bugs.py clamp alpha  those with such words in their names
"""

import json
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from importlib import import_module
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import NamedTuple

import pytest

from build_copy import Copy, use
from planted import BUGS, NONE, Bug

TESTS = ["minimal", "cam", "cam_bits", "nan", "resize", "colorize", "overlay", "mask", "moving_inputs"]
# What takes long to import: each trial forks from this process and has it already. hypothesis is left out, since pytest
# warns when its plugins come too early.
SHARED = ["cv2", "matplotlib", "ml_dtypes", "numpy", "PIL.Image", "torch"]
TRIALS_AT_ONCE = os.cpu_count() or 1
PATIENCE = 600  # seconds for one trial: a bug may also be an endless loop


class Failures:
    """A plugin of pytest: the id of each failed test, whether by an assertion, and its message."""

    def __init__(self) -> None:
        self.found: list[tuple[str, bool, str]] = []

    def pytest_runtest_makereport(self, item: pytest.Item, call: pytest.CallInfo) -> None:
        if call.excinfo and not call.excinfo.errisinstance(pytest.skip.Exception):
            asserted = call.excinfo.errisinstance((AssertionError, pytest.fail.Exception))
            self.found.append((item.nodeid, call.when == "call" and asserted, call.excinfo.exconly()[:300]))


def attempt(copy: Copy, bug: Bug) -> None:
    """Builds with the bug and tests, in a process of its own. What comes out is left in files."""
    log = os.open(copy.folder / "log", os.O_CREAT | os.O_TRUNC | os.O_WRONLY)
    os.dup2(log, 1)
    os.dup2(log, 2)
    if bug.level:
        os.environ["FUSEDCAM_SIMD"] = bug.level
    copy.build("_cpu")
    use(copy.package)
    os.chdir(copy.folder)
    failures = Failures()
    status = pytest.main(
        ["-x", "-q", "-p", "no:cacheprovider", "--hypothesis-profile=planted"]
        + [f"tests/test_{name}.py" for name in sorted(TESTS, key=lambda name: name not in bug.likely)],
        plugins=[failures],
    )
    (copy.folder / "verdict").write_text(json.dumps([int(status), failures.found]))


class Trial(NamedTuple):
    """A bug in a copy, and the process that tries it."""

    bug: Bug
    copy: Copy
    before: str
    start: float
    process: BaseProcess

    @classmethod
    def begin(cls, bug: Bug, copy: Copy) -> "Trial":
        before = copy.edit(bug.file, bug.edits)
        (copy.folder / "verdict").unlink(missing_ok=True)
        process = multiprocessing.get_context("fork").Process(target=attempt, args=(copy, bug))
        process.start()
        return cls(bug, copy, before, time.monotonic(), process)

    def end(self) -> tuple[list[tuple[str, bool, str]], str | None]:
        """The failures, and why there is no telling."""
        self.process.join()
        (self.copy.folder / self.bug.file).write_text(self.before)
        verdict = self.copy.folder / "verdict"
        status, failures = json.loads(verdict.read_text()) if verdict.exists() else (None, [])
        if status in (0, 1):
            return failures, None
        log = (self.copy.folder / "log").read_text(errors="replace")
        return [], f"the trial ended with status {self.process.exitcode}, pytest with {status}:\n{log[-1500:]}"


def trials(bugs: list[Bug], copies: list[Copy]) -> Iterator[Trial]:
    """One trial a copy at a time, each as it has ended."""
    waiting, idle, running = list(bugs), list(copies), list[Trial]()
    while waiting or running:
        while waiting and idle:
            running.append(Trial.begin(waiting.pop(0), idle.pop()))
        if not wait([trial.process.sentinel for trial in running], PATIENCE):
            for trial in running:
                trial.process.kill()
        for trial in [trial for trial in running if not trial.process.is_alive()]:
            running.remove(trial)
            idle.append(trial.copy)
            yield trial


def missed(trial: Trial) -> str | None:
    """Why the tests did not show the bug, or None where an assertion did."""
    failures, trouble = trial.end()
    if trouble:
        return trouble
    if trial.bug is NONE:
        if not failures:
            print("without a bug every test passes", flush=True)
        return f"{failures[0]}" if failures else None
    if not failures:
        return "every test passed"
    (test, asserted, message), *_ = failures
    if not asserted:
        return f"{test} failed otherwise than by an assertion: {message}"
    print(f"  caught  {trial.bug.name:42} {time.monotonic() - trial.start:4.0f} s  {test}", flush=True)
    return None


def main(words: list[str]) -> int:
    chosen = [bug for bug in BUGS if not words or any(word in bug.name for word in words)]
    for name in SHARED:
        import_module(name)
    with tempfile.TemporaryDirectory() as folder:
        copies = [Copy(Path(folder) / str(number)) for number in range(TRIALS_AT_ONCE)]
        for bug in BUGS:  # a text that is gone shows now, not in ten minutes
            before = copies[0].edit(bug.file, bug.edits)
            (copies[0].folder / bug.file).write_text(before)
        reasons: dict[str, str] = {}
        for trial in trials([NONE, *chosen], copies):
            if reason := missed(trial):
                reasons[trial.bug.name] = reason
    for name, reason in reasons.items():
        print(f"  MISSED  {name}: {reason}")
    print(f"{len(chosen) - len(reasons.keys() - {NONE.name})} of {len(chosen)} bugs made a test fail")
    return bool(reasons) or not chosen


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
