"""The C++ tests as they are compiled for users and under AddressSanitizer and UndefinedBehaviorSanitizer, and the fuzz
under these; what is planted beyond an array's end has to be reported."""

import importlib.util
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

import fuzz
from build_copy import Copy, Edits, Failed

pytestmark = pytest.mark.slow

# All scratch memory of a call is one allocation, in which a sanitizer sees no borders: here every piece is one.
PIECES: Edits = (
    ("#include <new>\n", "#include <new>\n#include <vector>\n"),
    ("        next_ += bytes<T>(count);\n", ""),
    (
        "T* piece = reinterpret_cast<T*>(next_);",
        "T* piece = reinterpret_cast<T*>(pieces_.emplace_back(count * sizeof(T)).data());",
    ),
    (
        "    std::byte* next_ = inline_;\n",
        "    std::byte* next_ = inline_;\n    std::vector<std::vector<std::byte>> pieces_;\n",
    ),
)


def library(name: str) -> str:
    return subprocess.run(
        ["c++", f"-print-file-name={name}"], capture_output=True, text=True, check=True
    ).stdout.strip()


def cpp_tests(copy: Copy) -> None:
    copy.run("ctest", "--test-dir", "build", "-R", "^ops", "--output-on-failure", UBSAN_OPTIONS="print_stacktrace=1")


def sanitized_fuzz(copy: Copy, calls: int, threads: str) -> None:
    """Python itself is not compiled for the sanitizers, so they are loaded before it; libstdc++ too, or they would look
    for its functions too early. CPython keeps memory at its end that looks lost: leaks are not reported (test_fuzz.py
    looks for them). Memory comes from malloc alone, so that every object has a border."""
    fuzz.start(
        calls,
        str(Path(fuzz.__file__).with_name("build_copy.py")),
        str(copy.package),
        LD_PRELOAD=f"{library('libasan.so')} {library('libstdc++.so')}",
        ASAN_OPTIONS="detect_leaks=0:allocator_may_return_null=1",
        UBSAN_OPTIONS="print_stacktrace=1",
        PYTHONMALLOC="malloc",
        OMP_NUM_THREADS=threads,
    )


@pytest.fixture(scope="module")
def sanitized(tmp_path_factory: pytest.TempPathFactory) -> Copy:
    copy = Copy(
        tmp_path_factory.mktemp("sanitized"), "FUSEDCAM_TESTS", "FUSEDCAM_SANITIZE", "FUSEDCAM_WARNINGS_AS_ERRORS"
    )
    copy.edit("csrc/cpu/workspace.hpp", PIECES)
    copy.build("_cpu", "test_ops")
    return copy


def test_cpp_tests_under_sanitizers(sanitized):
    cpp_tests(sanitized)


@pytest.mark.parametrize("threads", ["1", "4"])
def test_random_calls_under_sanitizers(sanitized, threads):
    sanitized_fuzz(sanitized, 20_000, threads)


# In a file that is compiled quickly: what is planted, and what has to be said of it.
PLANTED = {
    "read beyond an array": (
        "image[x * step + c * colour_step]",
        "image[x * step + (c + 9) * colour_step]",
        "READ of size",
    ),
    "write beyond an array": (
        "c * out.strides[2]] = whole",
        "(c + 1) * out.strides[2]] = whole",
        "WRITE of size|memory was written to that is not out's",
    ),
    "write beyond scratch": ("index32(row, width, index)", "index32(row, width + 1, index)", "(READ|WRITE) of size"),
    "overflow": (
        "    const Painter<T> painter(call);\n",
        "    const Painter<T> painter(call);\n    if (INT64_MAX - 1 + call.out.extent(-2) == 0) return;\n",
        "signed integer overflow",
    ),
}


@pytest.fixture(params=PLANTED.values(), ids=PLANTED.keys())
def planted(request: pytest.FixtureRequest, sanitized: Copy) -> Iterator[str]:
    file = "csrc/cpu/overlay.cpp"
    old, new, report = request.param
    before = sanitized.edit(file, ((old, new),))
    sanitized.build("_cpu", "test_ops")
    yield report
    (sanitized.folder / file).write_text(before)


def test_what_is_planted_is_reported(sanitized, planted):
    with pytest.raises(Failed, match=planted):
        cpp_tests(sanitized)
    with pytest.raises(AssertionError, match=planted):
        sanitized_fuzz(sanitized, 5_000, "1")


def test_cpp_tests_as_compiled_for_users(tmp_path):
    """No warning, the tests, and DLPack's structs as torch's header has them."""
    copy = Copy(tmp_path, "FUSEDCAM_TESTS", "FUSEDCAM_WARNINGS_AS_ERRORS", quick=False)
    torch = importlib.util.find_spec("torch")
    assert torch is not None
    assert torch.origin is not None
    header = Path(torch.origin).with_name("include") / "ATen" / "dlpack.h"
    copy.run("cmake", "-Bbuild", f"-DFUSEDCAM_DLPACK_HEADER={header}")
    copy.build("_cpu", "test_ops", "abi_check")
    cpp_tests(copy)


def test_no_race_between_threads(tmp_path):
    """The loops that are shared out, over std::thread: ThreadSanitizer cannot see into the OpenMP runtime."""
    copy = Copy(tmp_path, "FUSEDCAM_TESTS", "FUSEDCAM_WARNINGS_AS_ERRORS", "FUSEDCAM_SANITIZE=thread")
    copy.build("test_ops")
    cpp_tests(copy)


def test_a_race_is_reported(tmp_path):
    copy = Copy(tmp_path, "FUSEDCAM_TESTS", "FUSEDCAM_SANITIZE=thread")
    shared = "Workspace rows(Workspace::bytes<T>(grid_.row_size()));"
    old = "const Resampled<T> resampled(grid_, finish(k, sums), wide);\n            const Rescale<T> rescale"
    copy.edit(
        "csrc/cpu/cam.cpp",
        ((shared, ""), (old, f"{shared}\n            {old}"), ("rows.take<T>(grid_.row_size()));", "wide);")),
    )
    copy.build("test_ops")
    with pytest.raises(Failed, match="ThreadSanitizer: data race"):
        cpp_tests(copy)
