"""mypy --strict accepts the samples, and refuses exactly the lines that say so.

    ages["ann"] = 32  # error: [index]

means that mypy must report an error of that code on that line, and none elsewhere.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

SAMPLES = sorted((Path(__file__).parent / "samples").glob("*.py"))


@pytest.mark.slow
def test_samples(tmp_path: Path) -> None:
    pytest.importorskip("mypy", reason="mypy is not installed")
    # From elsewhere, and with copies: mypy must find the installed theus, not the source tree.
    expected = set()
    for sample in SAMPLES:
        text = sample.read_text()
        (tmp_path / sample.name).write_text(text)
        for number, line in enumerate(text.splitlines(), 1):
            marked = re.search(r"# error: (\[[\w-]+\])$", line)
            if marked:
                expected.add((sample.name, number, marked.group(1)))
    options = ["--strict", "--no-incremental", "--cache-dir", str(tmp_path / "cache")]
    done = subprocess.run(
        [sys.executable, "-m", "mypy", *options, "."], cwd=tmp_path, capture_output=True, text=True
    )
    out = done.stdout
    found = re.findall(r"^(\S+?):(\d+): error: .*(\[[\w-]+\])$", out, flags=re.MULTILINE)
    assert not done.stderr and found, f"{out}\n{done.stderr}"
    assert {(name, int(number), code) for name, number, code in found} == expected, out
