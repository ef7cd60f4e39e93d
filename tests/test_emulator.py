"""The CUDA kernels, their launchers and the binding on an emulator: as they are, and under the sanitizers.

What passes here has been executed, though not on a GPU: see tests/emulator/.
"""

import sys
from pathlib import Path

import pytest

from build_copy import Copy, Failed
from planted_cuda import BUGS
from test_sanitizers import library

TESTS = Path(__file__).parent


def built(folder, *options, edits=()):
    copy = Copy(folder, "FUSEDCAM_TESTS", "FUSEDCAM_WARNINGS_AS_ERRORS", *options)
    copy.edit("CMakeLists.txt", edits)
    copy.build("_cpu", "_cuda", "test_cuda", "test_emulator")
    claim(copy)
    return copy


def claim(copy):
    """That the copy's package has CUDA kernels."""
    (copy.package / "fusedcam" / "_build.py").write_text('WITHOUT_CUDA = ""\nCUDA_ARCHITECTURES = "emulated"\n')


def kernels(copy, which="^(cuda|emulator)$", **environment):
    said = copy.run("ctest", "--test-dir", "build", "-R", which, "--output-on-failure", **environment)
    assert "100% tests passed" in said
    return said


def calls(copy, **environment):
    command = (sys.executable, TESTS / "build_copy.py", copy.package, TESTS / "emulated_calls.py")
    assert "emulated calls are right" in copy.run(*command, **environment)


def test_as_they_are(tmp_path):
    # The CPU's kernels are others' matter: one set, not optimised, which takes half the time to compile.
    copy = built(tmp_path, "FUSEDCAM_X86_LEVELS=OFF", edits=(("COMPILE_OPTIONS -O1)", "COMPILE_OPTIONS -O0)"),))
    kernels(copy)
    calls(copy)


@pytest.fixture(scope="module")
def sanitized(tmp_path_factory):
    return built(tmp_path_factory.mktemp("emulator"), "FUSEDCAM_SANITIZE")


@pytest.mark.slow
@pytest.mark.parametrize(("file", "old", "new"), BUGS.values(), ids=BUGS.keys())
def test_planted_bugs_are_caught(sanitized, file, old, new):
    """By a wrong value or by a sanitizer's report."""
    before = sanitized.edit(f"csrc/cuda/{file}", ((old, new),))
    try:
        sanitized.build("test_cuda")
        with pytest.raises(Failed):
            kernels(sanitized, "^cuda$")
    finally:
        (sanitized.folder / "csrc" / "cuda" / file).write_text(before)


@pytest.mark.slow
def test_under_address_and_undefined_behaviour_sanitizers(sanitized):
    sanitized.build("_cuda", "test_cuda")
    claim(sanitized)
    kernels(sanitized, UBSAN_OPTIONS="print_stacktrace=1")
    calls(
        sanitized,
        LD_PRELOAD=f"{library('libasan.so')} {library('libstdc++.so')}",
        ASAN_OPTIONS="detect_leaks=0",
        PYTHONMALLOC="malloc",
    )


@pytest.mark.slow
def test_under_thread_sanitizer(tmp_path):
    """Barriers are the only order between CUDA threads that it sees: a race detector for the kernels."""
    copy = Copy(tmp_path, "FUSEDCAM_TESTS", "FUSEDCAM_WARNINGS_AS_ERRORS", "FUSEDCAM_SANITIZE=thread")
    copy.build("test_cuda", "test_emulator")
    kernels(copy)
