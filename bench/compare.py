"""What changed between two runs of the harness, beyond their noise.

    python bench/compare.py before.json after.json

Whole runs differ by how fast the machine was. So the calls of others say how much a row's time moved by itself: their
median is taken out, and a call of ours has changed where it moved by more than any of them did and than the threshold,
and the quartiles of the two runs do not overlap even then.
"""

import argparse
import json
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

Quartiles = list[float]


class Row(NamedTuple):
    """Microseconds of calls of ours and of others, measured in the same rounds."""

    ours: dict[str, Quartiles]
    others: dict[str, Quartiles]


def rows(results: dict[str, Any]) -> dict[str, Row]:
    found: dict[str, Row] = {}
    for row in results.get("rows", []):
        title = f"{row['op']} {row['case']}, {row['threads']} thread(s), {row['caches']}"
        found[title] = _row({name: peer["us"] for name, peer in row["peers"].items()})
    for row in results.get("end to end", []):
        found[f"end to end, {row['case']}"] = _row({name: peer["us"] for name, peer in row["peers"].items()})
    for curve, points in results.get("scaling", {}).items():
        for point in points:
            ours = {"fusedcam": point["fusedcam"], "fusedcam, all threads": point["all threads"]}
            found[f"scaling over {curve}, {point['at']}"] = Row(ours, {"memory": point["memory"]})
    for title, points in results.get("threads", {}).items():
        for point in points:
            found[f"{title}, {point['at']} threads"] = Row({"fusedcam": point["fusedcam"]}, {})
    return found


def _row(calls: dict[str, Quartiles]) -> Row:
    ours = {name: us for name, us in calls.items() if name.startswith("fusedcam")}
    return Row(ours, {name: us for name, us in calls.items() if name not in ours})


def changes(before: Row, after: Row, least: float) -> dict[str, float]:
    """Of our calls that changed, the factor, the machine's own taken out."""
    moved = [after.others[name][1] / us[1] for name, us in before.others.items() if name in after.others]
    drift = median(moved) if moved else 1.0
    noise = max([least, *(max(factor / drift, drift / factor) - 1 for factor in moved)])
    found = {}
    for name in before.ours.keys() & after.ours.keys():
        (a_low, a, a_high), (b_low, b, b_high) = before.ours[name], (us / drift for us in after.ours[name])
        if (a_high < b_low or b_high < a_low) and max(a / b, b / a) - 1 > noise:
            found[name] = b / a
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    parser.add_argument("--least", type=float, default=0.05, help="smallest change shown  [default: %(default)s]")
    arguments = parser.parse_args()
    before, after = (rows(json.loads(path.read_text())) for path in (arguments.before, arguments.after))
    count = 0
    for title in [title for title in before if title in after]:
        for name, factor in sorted(changes(before[title], after[title], arguments.least).items()):
            count += 1
            print(f"{factor:5.2f}x the time  {title}: {name}")
    print(f"{count} calls of ours changed, in {len(before.keys() & after.keys())} rows that both runs have")
    if only := before.keys() ^ after.keys():
        print(f"{len(only)} rows stand in one of the two alone")


if __name__ == "__main__":
    main()
