"""The harness: `make bench` times every case against its peers, on one thread and on all, with warm caches and with
flushed ones, and writes speed, error and the share of the memory's rate side by side.

    python bench/bench.py                          # the CPU's cases, end to end, scaling
    python bench/bench.py --part cases --case "(1, 2048"
    python bench/bench.py --device cuda            # gpu.py's cases
    python bench/bench.py --readme                 # measures nothing; renews the README's table
"""

import argparse
import json
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

import fusedcam
import gpu
import rate
import tables
from cases import CASES, Case
from peers import ON_NUMPY, PEERS, able
from records import RESULTS, add_output, in_files, machine, save
from timing import compare, digits, threads

HERE = Path(__file__).resolve().parent
SANITIZERS = HERE.parent / "build" / "sanitizers.json"
MEMORY, REUSED = "load and store", "fusedcam, out="


def calls_of(case: Case, compiled: bool) -> tuple[dict[str, Any], np.ndarray]:
    """What is timed, ours first, and the result in float64."""
    arrays = case.arrays()
    size = (case.size,) if case.op == "cam" else ()
    calls: dict[str, Any] = {}
    for name, peer in PEERS[case.op].items():
        if able(name, case.op, case) and (compiled or name != "torch.compile"):
            given = tuple(array.numpy() for array in arrays) if name in ON_NUMPY else arrays
            calls[name] = partial(peer, *given, *size)
    result = calls["fusedcam"]()
    if case.op == "cam":
        out = torch.empty_like(result)
        calls[REUSED] = partial(fusedcam.cam, *arrays, size=case.size, out=out)
    read = [a if 0 not in a.stride() else a[..., :1, :1].contiguous() for a in arrays]
    calls[MEMORY] = rate.load_store(read, result.numel() * result.element_size())
    return calls, exactly(case, arrays)


def exactly(case: Case, arrays: tuple[torch.Tensor, ...]) -> np.ndarray:
    """Maps of float64; of pictures, those that are made of the maps of float64."""
    wide = [(x.double() if x.is_floating_point() else x).numpy() for x in arrays]
    if case.op == "overlay":
        return PEERS["overlay"]["NumPy"](*wide)
    heat = PEERS["cam"]["NumPy"](*wide[:2], case.size if case.op == "cam" else None)
    return heat if case.op == "cam" else PEERS["overlay"]["NumPy"](wide[2], heat)


def run(case: Case, compiled: bool, rounds: int) -> list[dict[str, Any]]:
    """A row for each number of threads and state of the caches."""
    rows = []
    for count in sorted({1, torch.get_num_threads()}):
        with threads(count):
            calls, exact = calls_of(case, compiled)
            for cold in (False, True):
                found = compare(calls, exact, rounds, cold)
                del found[MEMORY]["times"]
                if count == 1:  # the loop that loads and stores runs on one
                    for name in {"fusedcam", REUSED} & found.keys():
                        found[name]["% of memory"] = digits(100 * found[MEMORY]["us"][1] / found[name]["us"][1], 3)
                rows.append(
                    {
                        "op": case.op,
                        "case": case.title,
                        "threads": count,
                        "caches": "cold" if cold else "warm",
                        "aims": case.cold_aims if cold else case.aims,
                        "peers": found,
                    }
                )
                print(tables.line(rows[-1]), flush=True)
    return rows


def on_device(arguments: argparse.Namespace, facts: dict[str, Any]) -> None:
    on_cuda = torch.device(arguments.device).type == "cuda"
    facts["device"] = torch.cuda.get_device_name() if on_cuda else f"{facts['cpu']}, no GPU"
    if SANITIZERS.exists():  # what `make gpu` has found before
        facts["sanitizers"] = json.loads(SANITIZERS.read_text())
    output = arguments.output or RESULTS / f"{in_files(facts['device'])}.json"
    gpu.main(arguments.device, arguments.case, arguments.rounds, not arguments.no_compile, output, facts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--part", action="append", choices=["cases", "end-to-end", "scaling"], help="[default: all]")
    parser.add_argument("--case", default="", help="only the cases whose title contains this")
    parser.add_argument("--rounds", type=int, default=31, help="[default: %(default)s]")
    parser.add_argument("--no-compile", action="store_true", help="without torch.compile, which takes minutes")
    add_output(parser)
    parser.add_argument("--device", help="measure on this torch device as gpu.py says")
    parser.add_argument("--readme", action="store_true", help="measure nothing; renew the README's table")
    arguments = parser.parse_args()
    if arguments.readme:
        tables.renew_readme()
        return
    facts = machine()
    if arguments.device:
        on_device(arguments, facts)
        return
    parts = arguments.part or ["cases", "end-to-end", "scaling"]
    results: dict[str, Any] = {"machine": facts}
    if "cases" in parts:
        chosen = [case for case in CASES if arguments.case in f"{case.op} {case.title}"]
        results["rows"] = [row for case in chosen for row in run(case, not arguments.no_compile, arguments.rounds)]
    if "end-to-end" in parts:
        import end_to_end  # with pictures and pretrained models, which a machine with a GPU may lack

        results["end to end"] = end_to_end.measure()
    if "scaling" in parts:
        import scaling

        results["scaling"] = scaling.measure()
        results["threads"] = scaling.over_threads()
    print(tables.markdown(results))
    output = save(results, "", arguments.output)
    if "scaling" in results:
        scaling.plot(results, output.with_suffix(".png"))


if __name__ == "__main__":
    main()
