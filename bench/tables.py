"""Results as text: a line while they are measured, the README's table, the aims."""

import json
import re
from pathlib import Path
from typing import Any

from peers import STRONGEST

HERE = Path(__file__).resolve().parent
README = HERE.parent / "README.md"
COLUMNS = ("NumPy", "pytorch-grad-cam", "torch-cam")


def line(row: dict[str, Any]) -> str:
    peers = row["peers"]
    own = peers["fusedcam"]
    low, middle, high = own["us"]
    words = [f"{row['op']} {row['case']}, {row['threads']} thread(s), {row['caches']}"]
    words.append(f"{middle:.4g} us ({low:.4g} to {high:.4g})")
    words += [f"{name} {figures['times'][1]:.3g}x" for name, figures in peers.items() if "times" in figures]
    words += [
        f"{name}: {figures['% of memory']}% of memory" for name, figures in peers.items() if "% of memory" in figures
    ]
    aims = ", ".join(f"{got:.3g} of {aim}" for got, aim in zip(reached(row), row["aims"], strict=True) if aim and got)
    return "; ".join(words) + (f"; AIMS {aims}" if aims else "")


def strongest(row: dict[str, Any]) -> str | None:
    """The peer among those that a user would write instead that comes closest."""
    there = [name for name in STRONGEST if name in row["peers"]]
    return min(there, key=lambda name: row["peers"][name]["times"][1], default=None)


def reached(row: dict[str, Any]) -> tuple[float | None, float | None]:
    """How many times slower pytorch-grad-cam and the strongest of the rest are; of half types, the batched product."""
    peer, best = row["peers"].get("pytorch-grad-cam"), strongest(row)
    if "float16" in row["case"]:
        best = "torch bmm"
    return peer and peer["times"][1], best and row["peers"][best]["times"][1]


def ratio(figures: dict[str, Any]) -> str:
    low, middle, high = figures["times"]
    return (
        f"{middle:.3g}x ({low:.3g} to {high:.3g}), {figures['error']:.1g}" if "error" in figures else f"{middle:.3g}x"
    )


def markdown(results: dict[str, Any]) -> str:
    """fusedcam's time, of each peer how many times slower it is, and the errors; and the calls end to end."""
    facts = results["machine"]
    lines = [
        f"{facts['cpu']}, up to {facts['threads']} threads, {facts['simd']}; torch {facts['torch']}, "
        f"NumPy {facts['numpy']}.",
    ]
    rows = results.get("rows", [])
    if rows:
        heads = ["op", "case", "threads", "caches", "fusedcam", "of memory", *COLUMNS, "strongest of the rest"]
        lines += ["", f"| {' | '.join(heads)} |", f"|---|---|---:|---|{'---:|' * (len(heads) - 4)}"]
    for row in rows:
        peers, best = row["peers"], strongest(row)
        own = peers["fusedcam"]
        low, middle, high = own["us"]
        cells = [row["op"], row["case"], str(row["threads"]), row["caches"]]
        cells.append(f"{middle:.3g} us ({low:.3g} to {high:.3g}), {own['error']:.1g}")
        cells.append(f"{own['% of memory']:.0f}%" if "% of memory" in own else "")
        cells += [ratio(peers[name]) if name in peers else "" for name in COLUMNS]
        cells.append(f"{best}: {ratio(peers[best])}" if best else "")
        lines.append(f"| {' | '.join(cells)} |")
    if "end to end" in results:
        lines += [
            "",
            "| photo to picture | fusedcam | pytorch-grad-cam | where fusedcam's time goes |",
            "|---|---:|---:|---|",
        ]
    for row in results.get("end to end", []):
        low, middle, high = (ms / 1000 for ms in row["peers"]["fusedcam"]["us"])
        stages = ", ".join(f"{name} {share:.1f}%" for name, share in row["stages"].items())
        times = ratio(row["peers"]["pytorch-grad-cam"])
        lines.append(f"| {row['case']} | {middle:.3g} ms ({low:.3g} to {high:.3g}) | {times} | {stages} |")
    return "\n".join(lines)


def few(results: dict[str, Any]) -> dict[str, Any]:
    """What the README shows: one thread on both sides, warm caches."""
    keep = [row for row in results["rows"] if row["caches"] == "warm" and row["threads"] == 1]
    return results | {"rows": keep}


def with_tables(text: str) -> str:
    """The Markdown, with the table of each JSON file between the file's name and the end of the table."""
    return re.sub(
        r"<!-- bench/(results/.*\.json) -->\n(?:.*\n)*?<!-- end -->",
        lambda found: (
            f"<!-- bench/{found[1]} -->\n{markdown(few(json.loads((HERE / found[1]).read_text())))}\n<!-- end -->"
        ),
        text,
    )


def renew_readme() -> None:
    README.write_text(with_tables(README.read_text()))
