"""Runs every benchmark in a process of its own and prints the tables of RESULTS.md."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from harness import machine_line, show_ns

HERE = Path(__file__).resolve().parent


def run(file: Path, options: list[str]) -> dict[str, Any]:
    """The JSON document of one benchmark. What it says on stderr is passed through."""
    command = [sys.executable, str(file), "--json", *options]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    document = json.loads(done.stdout)
    assert isinstance(document, dict)
    return document


def table(document: dict[str, Any]) -> str:
    """One benchmark in Markdown: a line for each contender of each row."""
    lines = [f"## {document['question']}", "",
             "| work | contender | time | theus / it | bar | verdict |",
             "|---|---|---:|---:|---|---|"]
    for row in document["rows"]:
        title = row["title"]
        for name, ns in row["ns"].items():
            ratio = row["ratios"].get(name)
            bars = [bar for bar in row["bars"] if bar["contender"] == name]
            lines.append(" | ".join([
                f"| {title}", name, show_ns(ns), "" if ratio is None else f"{ratio:.2f}",
                "<br>".join(bar["bar"] for bar in bars),
                "<br>".join(verdict(bar) for bar in bars),
            ]) + " |")
            title = ""
    return "\n".join(lines)


def verdict(bar: dict[str, Any]) -> str:
    value = f"{bar['value']:.2f} x" if bar["peer"] else show_ns(bar["value"])
    return f"met: {value}" if bar["met"] else f"**missed: {value}**"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="short turns, rough numbers")
    options = ["--quick"] if parser.parse_args().quick else []
    print(f"{machine_line()}\n")
    for file in sorted(HERE.glob("bench_*.py")):
        print(table(run(file, options)) + "\n", flush=True)


if __name__ == "__main__":
    main()
