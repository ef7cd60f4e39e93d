"""The harness: `make bench` times every case against its peers and writes speed and error side by side.

Calls are interleaved, A B C, B C A, after a warm-up. Ratios are taken within a round, where the machine's
mood is the same for all; their median and quartiles mean more, on a shared machine, than those of the times.
Numbers to be kept come from a machine with nothing else to do: threads that share a core with a compiler wait
for each other. The load before the first call stands in the results.
"""

import argparse
import gc
import json
import os
import platform
import re
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

import fusedcam
import gpu
from cases import CASES, Case
from peers import PEERS

HERE = Path(__file__).resolve().parent
README = HERE.parent / "README.md"
SANITIZERS = HERE.parent / "build" / "sanitizers.json"
TITLES = {"numpy": "naive NumPy", "torch": "eager torch"}


def interleaved(calls: dict[str, Callable[[], Any]], rounds: int = 21, sample: float = 0.005) -> dict[str, np.ndarray]:
    """Seconds per call of each, one figure per round, averaged over about `sample` seconds of calls."""
    repeats = {}
    for name, call in calls.items():
        call()
        start = time.perf_counter()
        call()
        repeats[name] = max(1, round(sample / (time.perf_counter() - start)))
    seconds = {name: np.empty(rounds) for name in calls}
    collecting = gc.isenabled()
    gc.disable()
    try:
        for at in range(-1, rounds):  # round -1 warms up; the last round overwrites it
            turn = at % len(calls)  # nobody always runs after the same other
            for name in [*calls][turn:] + [*calls][:turn]:
                call = calls[name]
                start = time.perf_counter()
                for _ in range(repeats[name]):
                    call()
                seconds[name][at] = (time.perf_counter() - start) / repeats[name]
    finally:
        if collecting:
            gc.enable()
    return seconds


def quartiles(figures: np.ndarray) -> list[float]:
    """First quartile, median, third quartile, to four digits."""
    return [float(f"{q:.4g}") for q in np.quantile(figures, (0.25, 0.5, 0.75))]


def compare(calls: dict[str, Callable[[], Any]], exact: np.ndarray, rounds: int = 21) -> dict[str, dict[str, Any]]:
    """Per call: microseconds, the largest error, and of all but the first how many times slower they are."""
    seconds = interleaved(calls, rounds)
    first, *others = calls
    rows: dict[str, dict[str, Any]] = {
        name: {
            "us": quartiles(1e6 * seconds[name]),
            "error": float(f"{np.abs(torch.as_tensor(call()).double().numpy() - exact).max():.2g}"),
        }
        for name, call in calls.items()
    }
    for name in others:
        rows[name]["times"] = quartiles(seconds[name] / seconds[first])
    return rows


def run(case: Case) -> dict[str, Any]:
    peers = dict(PEERS[case.op])
    arrays = case.arrays()
    size = (case.size,) if case.op == "cam" else ()
    exact = peers["numpy"](*(wide(array) for array in arrays), *size)
    given = dict.fromkeys(peers, arrays)
    if case.dtype == torch.bfloat16:  # NumPy has no such type
        del peers["numpy"]
    else:
        given["numpy"] = tuple(array.numpy() for array in arrays)
    if case.dtype != torch.float32 or case.size is None or case.classes is not None:
        peers.pop("pytorch-grad-cam", None)  # which takes NumPy's types, one class, and returns the image's size
    calls = {name: partial(peer, *given[name], *size) for name, peer in peers.items()}
    return {"op": case.op, "case": case.title, "peers": compare(calls, exact)}


def wide(array: torch.Tensor) -> np.ndarray:
    """The same values in float64; images stay bytes."""
    return (array.double() if array.is_floating_point() else array).numpy()


def machine() -> dict[str, Any]:
    facts = fusedcam.info()
    cpu = platform.processor() or platform.machine()
    if Path("/proc/cpuinfo").exists():
        found = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
        cpu = found[1] if found else cpu
    return {
        "cpu": cpu,
        "threads": facts["threads"],
        "simd": facts["simd"],
        "fusedcam": facts["version"],
        "torch": torch.__version__,
        "numpy": np.__version__,
        "python": platform.python_version(),
        "system": platform.system(),
        "load": os.getloadavg()[0],
    }


def in_files(name: str) -> str:
    """A machine's name as it stands in files' names."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def slug(facts: dict[str, Any]) -> str:
    return in_files(f"{facts['cpu']} {facts['threads']} threads")


def table(results: dict[str, Any]) -> str:
    """The results in Markdown: fusedcam's time, of each peer how many times slower it is, and the errors."""
    facts = results["machine"]
    peers = [*dict.fromkeys(name for row in results["rows"] for name in row["peers"])]
    lines = [
        f"{facts['cpu']}, {facts['threads']} threads, {facts['simd']}; torch {facts['torch']}, NumPy {facts['numpy']}.",
        "",
        f"| op | case | {' | '.join(TITLES.get(name, name) for name in peers)} |",
        f"|---|---{'|---:' * len(peers)}|",
    ]
    for row in results["rows"]:
        cells = [row["op"], row["case"]]
        for name in peers:
            if name not in row["peers"]:
                cells.append("")
                continue
            figures = row["peers"][name]
            if "times" in figures:
                low, middle, high = figures["times"]
                unit = "x"
            elif figures["us"][1] < 1000:
                low, middle, high = figures["us"]
                unit = " us"
            else:
                low, middle, high = (us / 1000 for us in figures["us"])
                unit = " ms"
            cells.append(f"{middle:.3g}{unit} ({low:.3g} to {high:.3g}), {figures['error']:.1g}")
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def with_tables(text: str) -> str:
    """The Markdown, with the table of each JSON file between the file's name and the end of the table."""
    return re.sub(
        r"<!-- bench/(results/.*\.json) -->\n(?:.*\n)*?<!-- end -->",
        lambda found: f"<!-- bench/{found[1]} -->\n{table(json.loads((HERE / found[1]).read_text()))}\n<!-- end -->",
        text,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--case", default="", help="only the cases whose title contains this")
    parser.add_argument("--output", type=Path, help="the JSON file  [default: one per machine, in bench/results]")
    parser.add_argument("--device", help="measure on this torch device as gpu.py says  [default: the CPU's own cases]")
    parser.add_argument("--rounds", type=int, default=31, help="on that device  [default: %(default)s]")
    parser.add_argument("--no-compile", action="store_true", help="there, without torch.compile, which takes minutes")
    parser.add_argument("--readme", action="store_true", help="measure nothing; renew the README's table")
    arguments = parser.parse_args()
    if arguments.readme:
        README.write_text(with_tables(README.read_text()))
        return
    facts = machine()
    if arguments.device:
        on_cuda = torch.device(arguments.device).type == "cuda"
        facts["device"] = torch.cuda.get_device_name() if on_cuda else f"{facts['cpu']}, no GPU"
        output = arguments.output or HERE / "results" / f"{in_files(facts['device'])}.json"
        if SANITIZERS.exists():  # what `make gpu` has found before
            facts["sanitizers"] = json.loads(SANITIZERS.read_text())
        gpu.main(arguments.device, arguments.case, arguments.rounds, not arguments.no_compile, output, facts)
        return
    results = {"machine": facts, "rows": [run(case) for case in CASES if arguments.case in case.title]}
    output = arguments.output or HERE / "results" / f"{slug(facts)}.json"
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(results, indent=1) + "\n")
    print(table(results))
    print(f"\nwritten to {output}")


if __name__ == "__main__":
    main()
