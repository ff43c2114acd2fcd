"""Runs every benchmark in a process of its own; prints the tables, or writes them to RESULTS.md."""

from __future__ import annotations

import argparse
import datetime
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from harness import machine_line, show

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "RESULTS.md"
MARK = "<!-- from here on written by run.py --write -->\n"


def run(file: Path, options: list[str]) -> dict[str, Any]:
    """The JSON document of one benchmark. What it says on stderr is passed through."""
    command = [sys.executable, str(file), "--json", *options]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    document = json.loads(done.stdout)
    assert isinstance(document, dict)
    return document


def table(document: dict[str, Any]) -> str:
    """One benchmark in Markdown: a line for each contender of each row."""
    lines = [
        f"## {document['question']}",
        "",
        "| work | contender | time | theus / it | bar | verdict |",
        "|---|---|---:|---:|---|---|",
    ]
    for row in document["rows"]:
        title = row["title"]
        for name, ns in row["ns"].items():
            ratio = row["ratios"].get(name)
            bars = [bar for bar in row["bars"] if bar["contender"] == name]
            lines.append(
                " | ".join(
                    [
                        f"| {title}",
                        name,
                        show(ns, row["unit"]),
                        "" if ratio is None else f"{ratio:.2g}",
                        "<br>".join(bar["bar"] for bar in bars),
                        "<br>".join(verdict(bar, row["unit"]) for bar in bars),
                    ]
                )
                + " |"
            )
            title = ""
    return "\n".join(lines) + "\n"


def verdict(bar: dict[str, Any], unit: str) -> str:
    value = f"{bar['value']:.2f} x" if bar["peer"] else show(bar["value"], unit)
    return f"met: {value}" if bar["met"] else f"**missed: {value}**"


def conditions() -> str:
    """When and on what, and how busy that was."""
    load = "/".join(f"{load:.1f}" for load in os.getloadavg())
    today = datetime.date.today().isoformat()
    return f"{today}, {machine_line()}; load average at the start {load}.\n"


IN_C = {
    "bench_ring": "What does the commit record add to a commit?",
    "bench_slots": "What do a slot and a lease cost, beside the usual design of such a table?",
}


def in_c(program: Path) -> str:
    """The output of a benchmark in C."""
    done = subprocess.run([program], check=True, stdout=subprocess.PIPE, text=True)
    return f"## {IN_C[program.name]}\n\n```\n{done.stdout}```\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="short turns, rough numbers")
    parser.add_argument("--write", action="store_true", help="put the tables into RESULTS.md")
    parser.add_argument("--built", type=Path, metavar="FOLDER", help="where the ones in C are")
    options = parser.parse_args()

    parts: list[str] = []

    def done(part: str) -> None:
        if not options.write:
            print("\n" * bool(parts) + part, end="", flush=True)
        parts.append(part)

    done(conditions())
    files = sorted(HERE.glob("bench_*.py"))
    for number, file in enumerate(files, 1):
        print(f"{number} of {len(files)}: {file.name}", file=sys.stderr, flush=True)
        done(table(run(file, ["--quick"] if options.quick else [])))
    for name in IN_C if options.built else ():
        done(in_c(options.built / name))
    if options.write:
        kept = RESULTS.read_text(encoding="utf-8").partition(MARK)[0]
        RESULTS.write_text(kept + MARK + "\n" + "\n".join(parts), encoding="utf-8")


if __name__ == "__main__":
    main()
