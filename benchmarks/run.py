"""Runs benchmarks, each in its own process; prints the tables, or writes them to RESULTS.md."""

from __future__ import annotations

import argparse
import ast
import datetime
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from harness import machine_line, show

HERE = Path(__file__).resolve().parent
BUILD = HERE.parent / "build" / "bench"
RESULTS = HERE / "RESULTS.md"
ITSELF = "Run by itself on "
MARK = "<!-- from here on written by run.py --write -->\n"

IN_C = {
    "bench_ring": "What does the commit record add to a commit?",
    "bench_slots": "What do a slot and a lease cost, beside the usual design of such a table?",
}


# ---- one benchmark ----------------------------------------------------------------------------


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


def in_c(name: str) -> str:
    """The output of a benchmark in C, which is built if need be."""
    for command in (
        ["cmake", "-S", str(HERE.parent), "-B", str(BUILD), "-DTHEUS_BUILD_BENCHMARKS=ON"],
        ["cmake", "--build", str(BUILD), "--target", name],
    ):
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    done = subprocess.run([BUILD / name], check=True, stdout=subprocess.PIPE, text=True)
    return f"## {IN_C[name]}\n\n```\n{done.stdout}```\n"


def conditions() -> str:
    """When and on what, and how busy that was."""
    load = "/".join(f"{load:.1f}" for load in os.getloadavg())
    today = datetime.date.today().isoformat()
    return f"{today}, {machine_line()}; load average at the start {load}.\n"


# ---- several ----------------------------------------------------------------------------------


def made(names: list[str], quick: bool) -> Iterator[str]:
    """The part of each, as it is done; none for what cannot be run here."""
    for number, name in enumerate(names, 1):
        print(f"{number} of {len(names)}: {name}", file=sys.stderr, flush=True)
        if name not in IN_C:
            document = run(HERE / f"{name}.py", ["--quick"] if quick else [])
            if document["rows"]:
                yield table(document)
        elif shutil.which("cmake") is None:
            print("skipped: cmake is not installed", file=sys.stderr)
        else:
            yield in_c(name)


def heading(name: str) -> str:
    """The first line of its part."""
    if name in IN_C:
        return f"## {IN_C[name]}"
    question = ast.get_docstring(ast.parse((HERE / f"{name}.py").read_text("utf-8"))) or name
    return f"## {question.partition(chr(10))[0]}"


def write(names: list[str], first: str, parts: list[str], alone: bool) -> None:
    """Puts the parts into RESULTS.md, in the order of `names`. Those that were not made now stay,
    and where the line above all parts does not tell how one was made, it says so itself. What no
    benchmark asks any more goes."""
    kept, _, before = RESULTS.read_text("utf-8").partition(MARK)
    old_first, *old = re.split(r"^(?=## )", before.strip() + "\n", flags=re.MULTILINE)
    old_first = old_first.strip() + "\n"

    def by_itself(part: str, how: str) -> str:
        return part if ITSELF in part else part.replace("\n", f"\n\n{ITSELF}{how}", 1)

    sections = {part.partition("\n")[0]: part.strip() + "\n" for part in old}
    if not alone:
        sections = {head: by_itself(part, old_first) for head, part in sections.items()}
    for part in parts:
        sections[part.partition("\n")[0]] = by_itself(part, first) if alone else part
    ordered = [sections[head] for head in map(heading, names) if head in sections]
    everything = "\n".join([old_first if alone else first, *ordered])
    RESULTS.write_text(f"{kept}{MARK}\n{everything}", encoding="utf-8")


def main() -> None:
    known = [*sorted(file.stem for file in HERE.glob("bench_*.py")), *IN_C]
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="those alone: bench_cas, say")
    parser.add_argument("--quick", action="store_true", help="short turns, rough numbers")
    parser.add_argument("--write", action="store_true", help="put the tables into RESULTS.md")
    options = parser.parse_args()
    for name in options.names:
        if name not in known:
            parser.error(f"there is no {name}, only {', '.join(known)}")

    first, parts = conditions(), made(options.names or known, options.quick)
    if options.write:
        write(known, first, list(parts), alone=bool(options.names))
        return
    print(first, end="")
    for part in parts:
        print("\n" + part, end="", flush=True)


if __name__ == "__main__":
    main()
