"""What changed between two runs of the harness, beyond their noise.

    python bench/compare.py before.json after.json

A figure has changed where the two runs' ranges between the quartiles do not overlap and the medians differ by more than
the threshold. The others' times are printed as well: where they moved too, the machine did.
"""

import argparse
import json
from pathlib import Path
from typing import Any

Key = tuple[Any, ...]


def figures(results: dict[str, Any]) -> dict[Key, list[float]]:
    """Quartiles in microseconds of every call that was measured."""
    found: dict[Key, list[float]] = {}
    for row in results.get("rows", []):
        for name, peer in row["peers"].items():
            found[row["op"], row["case"], row["threads"], row["caches"], name] = peer["us"]
    for row in results.get("end to end", []):
        for name, peer in row["peers"].items():
            found["end to end", row["case"], name] = peer["us"]
    for curve, points in results.get("scaling", {}).items():
        for point in points:
            found |= {("scaling", curve, point["at"], key): us for key, us in point.items() if key != "at"}
    return found


def changes(before: dict[Key, list[float]], after: dict[Key, list[float]], least: float) -> list[tuple[float, Key]]:
    """Factors by which medians changed, greatest first, with what they belong to."""
    found = []
    for key in before.keys() & after.keys():
        (a_low, a, a_high), (b_low, b, b_high) = before[key], after[key]
        if (a_high < b_low or b_high < a_low) and max(a / b, b / a) > 1 + least:
            found.append((b / a, key))
    return sorted(found, key=lambda change: -max(change[0], 1 / change[0]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    parser.add_argument("--least", type=float, default=0.05, help="smallest change shown  [default: %(default)s]")
    arguments = parser.parse_args()
    before, after = (figures(json.loads(path.read_text())) for path in (arguments.before, arguments.after))
    found = changes(before, after, arguments.least)
    for factor, key in found:
        print(f"{factor:6.2f}x the time  {', '.join(map(str, key))}")
    common = len(before.keys() & after.keys())
    print(f"{len(found)} of {common} figures changed beyond the noise and {arguments.least:.0%}")
    if only := before.keys() ^ after.keys():
        print(f"{len(only)} figures stand in one of the two alone")


if __name__ == "__main__":
    main()
