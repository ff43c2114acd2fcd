"""Every Python example of the README runs, and prints what the README says."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from helpers import ROOT, run_fresh

README = (ROOT / "README.md").read_text()

# A python block, and the text block that shows its output if one follows at once.
EXAMPLES = re.findall(r"```python\n(.*?)```\n(?:\n```text\n(.*?)```)?", README, flags=re.DOTALL)


def test_the_examples_were_found() -> None:
    assert len(EXAMPLES) == README.count("```python") >= 2
    assert EXAMPLES[0][1], "the first example shows its output"


@pytest.mark.parametrize(("code", "output"), EXAMPLES, ids=lambda text: text.strip()[:20])
def test_the_example_runs(code: str, output: str) -> None:
    assert run_fresh(code) == output


@pytest.mark.slow
def test_the_example_in_a_file_of_its_own_runs(tmp_path: Path) -> None:
    found = re.search(r"```py\n(.*?)```\n\n```text\n(.*?)```", README, flags=re.DOTALL)
    assert found is not None
    file = tmp_path / "example.py"
    file.write_text(found[1])
    done = subprocess.run([sys.executable, "-P", file], capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == (found[2], "")


def test_the_two_commands_are_there_to_the_letter() -> None:
    venv = "python3 -m venv .venv && .venv/bin/pip install -q"
    assert f"{venv} '.[arrays]' && .venv/bin/theus demo\n" in README
    assert f"{venv} '.[test]' && .venv/bin/pytest -n auto --dist loadfile\n" in README


def test_the_map_names_folders_that_exist() -> None:
    chart = re.search(r"## Map\n\n(.*?)\n\n", README, flags=re.DOTALL)
    assert chart is not None
    room = ROOT
    for line in chart.group(1).splitlines():
        folder = line.strip().split()[0]
        if line.startswith("      "):
            assert (room / folder).is_dir(), f"{room.name}/{folder}"
        else:
            room = ROOT / folder
            assert room.is_dir(), folder
