"""mypy --strict accepts the samples, and refuses exactly the lines that say so.

    ages["ann"] = 32  # error: [index]

means that mypy must report an error of that code on that line, and none elsewhere.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

SAMPLES = sorted((Path(__file__).parent / "samples").glob("*.py"))


@pytest.mark.slow
def test_samples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    api = pytest.importorskip("mypy.api", reason="mypy is not installed")
    # From elsewhere, and with copies: mypy must find the installed theus, not the source tree.
    monkeypatch.chdir(tmp_path)
    expected = set()
    for sample in SAMPLES:
        text = sample.read_text()
        (tmp_path / sample.name).write_text(text)
        for number, line in enumerate(text.splitlines(), 1):
            marked = re.search(r"# error: (\[[\w-]+\])$", line)
            if marked:
                expected.add((sample.name, number, marked.group(1)))
    out, err, _ = api.run(
        ["--strict", "--no-incremental", "--cache-dir", str(tmp_path / "cache"), "."]
    )
    found = re.findall(r"^(\S+?):(\d+): error: .*(\[[\w-]+\])$", out, flags=re.MULTILINE)
    assert not err and found, f"{out}\n{err}"
    assert {(name, int(number), code) for name, number, code in found} == expected, out
