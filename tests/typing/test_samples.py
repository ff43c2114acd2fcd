"""Type checkers accept the samples, and refuse exactly the lines that say so.

    ages["ann"] = 32  # error: [index]

means that mypy must report an error of that code on that line, and pyright one of any kind, and
neither any elsewhere.
"""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

import theus

SAMPLES = sorted((Path(__file__).parent / "samples").glob("*.py"))


def copied(tmp_path: Path) -> set[tuple[str, int, str]]:
    """The samples in another folder, where a checker finds the installed theus and not the source
    tree; and the lines that are wrong, with the code that mypy has for them."""
    expected = set()
    for sample in SAMPLES:
        text = sample.read_text()
        (tmp_path / sample.name).write_text(text)
        for number, line in enumerate(text.splitlines(), 1):
            marked = re.search(r"# error: (\[[\w-]+\])$", line)
            if marked:
                expected.add((sample.name, number, marked.group(1)))
    return expected


@pytest.mark.slow
def test_mypy(tmp_path: Path) -> None:
    pytest.importorskip("mypy", reason="mypy is not installed")
    expected = copied(tmp_path)
    options = ["--strict", "--no-incremental", "--cache-dir", str(tmp_path / "cache")]
    done = subprocess.run(
        [sys.executable, "-m", "mypy", *options, "."], cwd=tmp_path, capture_output=True, text=True
    )
    out = done.stdout
    found = re.findall(r"^(\S+?):(\d+): error: .*(\[[\w-]+\])$", out, flags=re.MULTILINE)
    assert not done.stderr and found, f"{out}\n{done.stderr}"
    assert {(name, int(number), code) for name, number, code in found} == expected, out


@pytest.mark.slow
def test_pyright(tmp_path: Path) -> None:
    """By the checker of basedpyright, which brings its own node: the lint lane installs it."""
    if importlib.util.find_spec("basedpyright") is None:
        pytest.skip("basedpyright is not installed")
    expected = {(name, number) for name, number, _ in copied(tmp_path)}
    settings = {
        "typeCheckingMode": "strict",
        "extraPaths": [str(Path(theus.__file__).parent.parent)],
        "reportUnusedExpression": False,
    }
    (tmp_path / "pyrightconfig.json").write_text(json.dumps(settings))
    done = subprocess.run(
        [sys.executable, "-m", "basedpyright", "--outputjson"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.stdout.lstrip().startswith("{"), done.stderr
    told = json.loads(done.stdout)
    assert told["summary"]["filesAnalyzed"] == len(SAMPLES)
    found = {
        (Path(one["file"]).name, one["range"]["start"]["line"] + 1)
        for one in told["generalDiagnostics"]
    }
    assert found == expected, json.dumps(told["generalDiagnostics"], indent=1)
