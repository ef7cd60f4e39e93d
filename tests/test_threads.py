"""Threads, processes and interpreters: the bits stay the same, and nothing hangs or crashes.

What depends on the order of imports, on a fork or on the end of a process runs in a process of its own: `fresh` runs a
function of this file there. Times are no assertions; GUARD only ends what hangs.
"""

import inspect
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch

import fusedcam
from fusedcam import _cpu

GUARD = 60  # seconds
TORCH_LIBRARIES = Path(torch.__file__).parent / "lib"


def allowed() -> int:
    """As many threads as a container lets us have, however many there are."""
    before = torch.get_num_threads()
    torch.set_num_threads(64)
    most = fusedcam.info()["threads"]
    torch.set_num_threads(before)
    return most


pytestmark = pytest.mark.skipif(allowed() < 4, reason="the control group has less than four processors' time")
RENAMED = sorted(Path(torch.__file__).parent.parent.glob("*.libs/libgomp-*"))


def fresh(function: Callable[..., None], folder: Path, *arguments: object, **environment: str) -> str:
    """What the function prints when it runs in a new process whose working directory is `folder`."""
    script = folder / f"{function.__name__}.py"
    call = f"{function.__name__}{arguments!r}" if arguments else f"{function.__name__}()"
    script.write_text(f'{inspect.getsource(function)}\n\nif __name__ == "__main__":\n    {call}\n')
    with subprocess.Popen(
        [sys.executable, script.name],
        cwd=folder,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # so that what it has started ends with it
    ) as process:
        try:
            printed, errors = process.communicate(timeout=GUARD)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            raise
    assert process.returncode == 0, f"exit status {process.returncode}\n{printed}{errors}"
    assert not errors
    return printed


@pytest.fixture
def large(rng) -> tuple[np.ndarray, np.ndarray]:
    """Activations and gradients of 1.6 MB: shared out over threads, without Python's lock."""
    A, G = rng.normal(size=(2, 4, 131, 20, 19)).astype(np.float32)
    return A, G


@pytest.fixture
def stored(large, tmp_path) -> np.ndarray:
    """What `cam` returns for the arrays that processes find in arrays.npy."""
    np.save(tmp_path / "arrays.npy", np.stack(large))
    return fusedcam.cam(*large, size=90)


@pytest.mark.usefixtures("keep_threads")
@pytest.mark.parametrize("N", [1, 2, 4])
@pytest.mark.parametrize("op", ["cam", "resize", "colorize", "overlay", "mask"])
def test_any_number_of_threads(op, N, large, rng):
    heat = rng.random((N, 9, 11), np.float32)
    image = rng.integers(256, size=(N, 801, 607, 3), dtype=np.uint8)
    call = {
        "cam": lambda: fusedcam.cam(large[0][:N], large[1][:N], size=(607, 801)),
        "resize": lambda: fusedcam.resize(heat, (801, 607), normalize="minmax"),
        "colorize": lambda: fusedcam.colorize(heat, size=(801, 607), normalize="max"),
        "overlay": lambda: fusedcam.overlay(image, heat, normalize="minmax"),
        "mask": lambda: fusedcam.mask(image[..., 0, None].swapaxes(1, 3).astype(np.float32), heat),
    }[op]
    results = []
    for threads in (1, 2, 3, 4):
        torch.set_num_threads(threads)
        assert fusedcam.info()["threads"] == threads
        results.append(call())
    assert all(np.array_equal(result, results[0]) for result in results)


@pytest.mark.usefixtures("keep_threads")
def test_a_limit_of_our_own(large):
    """Below the runtime's setting, which it cannot raise and does not change."""
    whole = fusedcam.cam(*large, size=90)
    torch.set_num_threads(3)
    try:
        for limit, threads in ((2, 2), (np.int64(1), 1), (2**40, 3), (None, 3)):
            fusedcam.set_num_threads(limit)
            assert fusedcam.info()["threads"] == threads
            assert torch.get_num_threads() == 3
            assert np.array_equal(fusedcam.cam(*large, size=90), whole)
        for wrong, error in ((0, ValueError), (-1, ValueError), (True, TypeError), ("2", TypeError), (1.5, TypeError)):
            with pytest.raises(
                error, match=r"set_num_threads: count is .*; accepted: an integer of at least 1, or None"
            ):
                fusedcam.set_num_threads(wrong)
        assert fusedcam.info()["threads"] == 3
    finally:
        fusedcam.set_num_threads(None)


@pytest.mark.usefixtures("keep_threads")
def test_torchs_setting_holds_in_every_python_thread():
    """The runtime keeps it for each thread apart."""
    for threads in (1, 3):
        torch.set_num_threads(threads)
        with ThreadPoolExecutor(1) as pool:
            assert pool.submit(lambda: fusedcam.info()["threads"]).result() == threads


def without_torch() -> None:
    import sys

    import numpy as np

    import fusedcam

    np.save("result.npy", fusedcam.cam(*np.load("arrays.npy"), size=90))
    assert "torch" not in sys.modules
    print(fusedcam.info()["threads"], fusedcam.info()["thread_runtime"])


@pytest.mark.parametrize("threads", ["1", "2", "3", "4"])
def test_omp_num_threads(threads, stored, tmp_path):
    printed = fresh(without_torch, tmp_path, OMP_NUM_THREADS=threads)
    assert printed.split()[0] == threads
    assert np.array_equal(np.load(tmp_path / "result.npy"), stored)


@pytest.mark.parametrize("content", ["not a library", "a library without the entry points"])
def test_without_a_runtime(content, stored, tmp_path):
    """Files of the runtimes' names that are found first stand in for a system that has none."""
    hiding = tmp_path / "hiding"
    hiding.mkdir()
    for name in ("libgomp.so.1", "libomp.so.5"):
        if content == "not a library":
            (hiding / name).write_text(content)
        else:
            shutil.copy(_cpu.__file__, hiding / name)
    printed = fresh(without_torch, tmp_path, LD_LIBRARY_PATH=str(hiding), OMP_NUM_THREADS="2")
    assert printed.strip() == "1 none found; calls run on one thread"
    assert np.array_equal(np.load(tmp_path / "result.npy"), stored)


def in_order(*names: str) -> None:
    import ctypes
    from importlib import import_module
    from pathlib import Path

    import numpy as np

    arrays = np.load("arrays.npy")
    results = []
    for name in names:
        if ".so" in name:
            ctypes.CDLL(name)
        else:
            import_module(name)
        if name == "fusedcam" or results:
            import fusedcam

            results.append(fusedcam.cam(*arrays, size=90))
            runtime = fusedcam.info()["thread_runtime"]
            print(name, Path(runtime).resolve() if "/" in runtime else runtime)
    import torch

    for threads in (1, 3, 2):
        torch.set_num_threads(threads)
        assert fusedcam.info()["threads"] == threads
        results.append(fusedcam.cam(*arrays, size=90))
    np.save("result.npy", results)
    print("loaded", *{line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines() if "gomp" in line})


@pytest.mark.parametrize(
    "names",
    [
        ("torch", "fusedcam"),
        ("fusedcam", "torch"),
        pytest.param(
            (*map(str, RENAMED[:1]), "fusedcam", "torch"),
            marks=pytest.mark.skipif(not RENAMED, reason="no package brings a renamed copy of the runtime"),
            id="renamed runtime-fusedcam-torch",
        ),
    ],
    ids="-".join,
)
def test_whichever_is_imported_first(names, stored, tmp_path):
    """One runtime for both as soon as torch is there; the number of threads is torch's."""
    *runtimes, loaded = [line.split() for line in fresh(in_order, tmp_path, *names).splitlines()]
    results = np.load(tmp_path / "result.npy")
    assert all(np.array_equal(result, stored) for result in results)
    at_last = runtimes[-1][1]
    assert at_last in loaded
    own = [path for path in loaded[1:] if Path(path).parent == TORCH_LIBRARIES.resolve()]
    if own:  # otherwise torch uses what fusedcam had found first: torch asks for the runtime by the same name
        assert at_last in own
    else:
        assert len(loaded) == 2
    if len(names) == 3:
        assert [runtime for _, runtime in runtimes] == [names[0], own[0]]


def forked(torch_too: bool) -> None:
    import os
    import signal
    import time

    import numpy as np

    import fusedcam

    if torch_too:
        import torch

        torch.set_num_threads(2)
        torch.rand(1000, 1000).relu().sum()
    arrays = np.load("arrays.npy")
    expected = fusedcam.cam(*arrays, size=90)
    few = fusedcam.cam(*arrays[:, :, :, :3, :2])
    assert fusedcam.info()["threads"] == 2
    child = os.fork()
    if child == 0:
        status = 1
        try:
            equal = [np.array_equal(fusedcam.cam(*arrays, size=90), expected) for _ in range(3)]
            equal.append(np.array_equal(fusedcam.cam(*arrays[:, :, :, :3, :2]), few))
            described = fusedcam.info()["threads"], fusedcam.info()["thread_runtime"]
            status = 0 if all(equal) and described == (1, "not used in a forked process") else 2
        finally:
            os._exit(status)
    ended, status = 0, None
    for _ in range(2000):
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            break
        time.sleep(0.01)
    else:
        os.kill(child, signal.SIGKILL)
    assert ended, "the child hangs"
    assert os.waitstatus_to_exitcode(status) == 0
    assert np.array_equal(fusedcam.cam(*arrays, size=90), expected)
    assert fusedcam.info()["threads"] == 2


@pytest.mark.parametrize("torch_too", [False, True], ids=["numpy", "torch"])
@pytest.mark.usefixtures("stored")
def test_in_a_forked_child(torch_too, tmp_path):
    fresh(forked, tmp_path, torch_too, OMP_NUM_THREADS="2", PYTHONWARNINGS="ignore::DeprecationWarning")


def data_loader() -> None:
    import numpy as np
    import torch

    import fusedcam

    arrays = torch.from_numpy(np.load("arrays.npy"))
    torch.set_num_threads(2)
    expected = [fusedcam.cam(*arrays, size=90 + i) for i in range(6)]

    class Explained(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return len(expected)

        def __getitem__(self, i: int) -> torch.Tensor:
            return fusedcam.cam(*arrays, size=90 + i)

    loader = torch.utils.data.DataLoader(
        Explained(), batch_size=None, num_workers=2, timeout=30, multiprocessing_context="fork"
    )
    for got, wanted in zip(loader, expected, strict=True):
        assert torch.equal(got, wanted)


@pytest.mark.usefixtures("stored")
def test_in_the_workers_of_a_data_loader(tmp_path):
    fresh(data_loader, tmp_path, PYTHONWARNINGS="ignore::DeprecationWarning")


def spawned() -> None:
    import multiprocessing

    import numpy as np

    import fusedcam

    A, G = np.load("arrays.npy")
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        got = pool.starmap(fusedcam.cam, [(A, G), (G, A)], chunksize=1)
    for result, arrays in zip(got, [(A, G), (G, A)], strict=True):
        assert np.array_equal(result, fusedcam.cam(*arrays))


@pytest.mark.usefixtures("stored")
def test_in_spawned_processes(tmp_path):
    fresh(spawned, tmp_path)


def test_python_threads_at_the_same_time(large, rng):
    A, G = large
    image = rng.integers(256, size=(4, 300, 200, 3), dtype=np.uint8)
    calls = [
        lambda: fusedcam.cam(A, G, size=90),
        lambda: fusedcam.cam(A[1], G[1], normalize=None),
        lambda: fusedcam.cam(A[:, :3, :2, :2], G[:, :3, :2, :2]),
        lambda: fusedcam.cam(torch.from_numpy(A), torch.from_numpy(G), size=90).numpy(),
        lambda: fusedcam.overlay(image, A[:, 0], normalize="minmax"),
        lambda: fusedcam.colorize(A[:1, 0, :3], normalize="max"),
    ]
    expected = [call() for call in calls]
    with ThreadPoolExecutor(6) as pool:
        futures = [(i, pool.submit(calls[i])) for i in rng.permutation(20 * list(range(len(calls))))]
        for i, future in futures:
            assert np.array_equal(future.result(GUARD), expected[i]), i


@pytest.fixture
def progress():
    """Steps of another thread, which runs only when this one gives up Python's lock of its own accord."""
    before = sys.getswitchinterval()
    steps, stop = [0], threading.Event()

    def count() -> None:
        while not stop.is_set():
            steps[0] += 1
            time.sleep(0)

    other = threading.Thread(target=count)
    sys.setswitchinterval(1e6)
    other.start()
    yield steps
    stop.set()
    sys.setswitchinterval(before)
    other.join(GUARD)
    assert not other.is_alive()


def test_large_calls_let_other_threads_run(progress, large):
    progressed = 0
    for _ in range(1000):  # once would do, but that the other thread gets a core meanwhile is the system's choice
        before = progress[0]
        fusedcam.cam(*large, size=90)
        progressed = progress[0] - before
        if progressed:
            break
    assert progressed


def test_small_calls_keep_the_lock(progress, rng):
    """Giving it up and taking it back would cost more than the call."""
    A, G = rng.normal(size=(2, 1, 8, 3, 3))
    fusedcam.cam(A, G)
    before = progress[0]
    for _ in range(1000):
        fusedcam.cam(A, G)
    assert progress[0] == before


def left_inside_a_call() -> None:
    import threading

    import numpy as np

    import fusedcam

    A, G = np.load("arrays.npy")
    started = threading.Barrier(4)

    def work(A: np.ndarray, G: np.ndarray) -> None:
        fusedcam.cam(A, G)
        started.wait()
        while True:
            fusedcam.cam(A, G, size=400)

    for arrays in ((A, G), (G, A), (A[:1, :3], G[:1, :3])):
        threading.Thread(target=work, args=arrays, daemon=True).start()
    started.wait()
    print("left")


@pytest.mark.usefixtures("stored")
@pytest.mark.parametrize("attempt", range(3))
def test_the_process_ends_while_threads_are_inside_calls(attempt, tmp_path):
    assert fresh(left_inside_a_call, tmp_path, OMP_NUM_THREADS="2") == "left\n"


def in_a_subinterpreter(main_first: bool) -> None:
    import _xxsubinterpreters

    if main_first:
        import fusedcam

        assert fusedcam.info()["threads"]
    code = """if True:
        import warnings
        warnings.simplefilter("ignore")  # NumPy's, about subinterpreters
        try:
            import fusedcam
            fusedcam.cam
        except ImportError as error:
            print("refused:", error)
    """
    _xxsubinterpreters.run_string(_xxsubinterpreters.create(), code)
    if main_first:
        import numpy as np

        np.save("result.npy", fusedcam.cam(*np.load("arrays.npy"), size=90))


@pytest.mark.skipif(sys.version_info >= (3, 12), reason="subinterpreters have other rules from Python 3.12 on")
@pytest.mark.parametrize("main_first", [True, False], ids=["after the main one", "first"])
def test_subinterpreters_are_refused(main_first, stored, tmp_path):
    """By NumPy where the main interpreter has imported it already; it lets a subinterpreter be the first, though."""
    printed = fresh(in_a_subinterpreter, tmp_path, main_first)
    assert re.search("refused: .*(once per process|subinterpreter)", printed)
    if main_first:
        assert np.array_equal(np.load(tmp_path / "result.npy"), stored)
