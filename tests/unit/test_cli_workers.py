"""`theus demo --workers`: what workers find is what the threads find, and what it says of them."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from theus._compat import HAS_INTERPRETERS
from theus.cli import demo as command
from theus.cli import main
from theus.examples import texts
from theus.examples.codemap import CodeMap
from theus.examples.pysource import Module, Problem, Source, parse_source

pytest.importorskip("numpy")

KINDS = ["threads"]
if sys.platform.startswith("linux"):
    KINDS += ["processes"] + ["interpreters"] * HAS_INTERPRETERS

FILES = {
    "a.py": "import b\n\ndef f(x):\n    return x or 1\n",
    "b.py": "import a, sys\n\nclass C:\n    pass",
    "bad.py": "x = (\n",
    "empty.py": "",
    "nul.py": "x = 1\0\n",
    "odd.py": "x = '\\d'\n",
    "ü.py": "# -*- coding: latin-1 -*-\ndef g(): pass\n",
}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    return tmp_path


def run(capsys: pytest.CaptureFixture[str], *args: str | Path) -> tuple[Any, str, str]:
    with pytest.raises(SystemExit) as ended:
        main(["demo", *map(str, args)], prog_name="theus")
    return ended.value.code, *capsys.readouterr()


def document(capsys: pytest.CaptureFixture[str], *args: str | Path) -> dict[str, Any]:
    status, out, err = run(capsys, *args, "--json")
    assert (status, err) == (0, "")
    found = json.loads(out)
    assert isinstance(found, dict)
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_workers_find_what_threads_find(
    tree: Path, kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    ours = document(capsys, tree, "--workers", "1", "--pool", kind)
    plain = document(capsys, tree, "--threads", "2")
    workers = ours["workers"]
    assert plain["workers"] is None
    for part in ("totals", "size", "modules", "importers", "outside", "names", "problems"):
        assert ours[part] == plain[part], part
    assert ours["check"] == {"complete": True, "differences": []}
    assert ours["heavy"]["leaked"] == 0
    assert (workers["pool"], workers["workers"]) == (kind, 1)
    assert workers["bytes_shared"] == sum(len(text.encode()) for text in FILES.values())
    assert (workers["bytes_encoded"] == 0) == (kind == "threads")
    assert workers["speedup"] is None


def test_the_report_compares_one_worker_with_all(
    tree: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, out, err = run(capsys, tree, "--workers", "2", "--pool", "threads")
    assert (status, err) == (0, "")
    for words in (
        "Workers: threads",
        "with one worker\n",
        "with 2, to parse",
        "times as fast",
        "bytes shared",
        "bytes pickled",
        "equal those of a plain sequential count",
    ):
        assert words in "\n".join(line.rstrip() for line in out.splitlines()), words


def test_nothing_to_parse_is_no_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("notes.txt", "empty.py"):
        (tmp_path / name).touch()
        found = document(capsys, tmp_path, "--workers", "2", "--pool", "threads")
        assert found["check"] == {"complete": True, "differences": []}
        assert found["workers"] is None or found["workers"]["bytes_shared"] == 0


def test_what_cannot_be_had_is_said(
    tree: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: CodeMap) -> None:
        raise NotImplementedError("no such workers here")

    monkeypatch.setattr(CodeMap, "open_pool", refuse)
    status, out, err = run(capsys, tree, "--workers", "2")
    assert (status, out) == (1, "")
    assert "no workers: no such workers here" in err

    monkeypatch.setattr(command, "_cores", lambda: 2)
    assert document(capsys, tree)["no_workers"] == "there is little to read"
    monkeypatch.setattr(command, "WORTH_WORKERS", 1)
    assert document(capsys, tree)["no_workers"] == "no such workers here"
    assert "No workers: no such workers here." in run(capsys, tree)[1]
    assert document(capsys, tree, "--threads", "2")["no_workers"] is None


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("--workers", "-1"), "--workers"),
        (("--workers", "many"), "--workers"),
        (("--workers", "0", "--pool", "threads"), "at least 1"),
        (("--pool", "boats"), "boats"),
    ],
)
def test_odd_arguments_are_refused(
    tree: Path, arguments: tuple[str, ...], why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    status, out, err = run(capsys, tree, *arguments)
    assert (status, out) == (2, "")
    assert why in err


def test_a_finding_that_is_lost_on_the_way_is_named(
    tree: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The check is real for workers, too."""
    whole = CodeMap._merge

    def lossy(self: CodeMap, source: Source, size: int, parsed: texts.Parsed) -> None:
        if source.name != "a":
            whole(self, source, size, parsed)

    monkeypatch.setattr(CodeMap, "_merge", lossy)
    status, out, err = run(capsys, tree, "--workers", "1", "--pool", "threads")
    assert (status, out) == (1, "")
    assert "total of functions: 1 in the engine, 2 counted" in err


# ---- the parts --------------------------------------------------------------------------


def test_shares_hold_every_file_once_and_are_alike() -> None:
    sources = [Source(f"m{n}", f"m{n}.py", "") for n in range(100)]
    sizes = [1000 + n for n in range(100)]
    dealt = texts.shares(sources, sizes, 2)
    assert [source for share in dealt for source in share.sources] == sources
    assert [sources[share.first] for share in dealt] == [share.sources[0] for share in dealt]
    assert 2 * texts.SHARES_EACH - 2 <= len(dealt) <= 2 * texts.SHARES_EACH
    assert texts.shares([], [], 2) == []
    empty = texts.shares(sources, [0] * 100, 2)
    assert [len(share.sources) for share in empty] == [100]
    large = texts.shares(sources, [texts.LARGEST_SHARE] * 100, 2)
    assert [len(share.sources) for share in large] == [1] * 100


@pytest.mark.parametrize("text", [*FILES.values(), "\n", "\r\n\r\n", "x\r\ny"])
def test_a_view_is_parsed_as_bytes_are(text: str) -> None:
    data = text.encode()
    room = memoryview(b"(((" + data + b")))")[3:-3]
    found = parse_source("x.py", data)
    assert parse_source("x.py", room) == found
    if isinstance(found, Module):
        assert found.lines == data.count(b"\n") + (data != b"" and not data.endswith(b"\n"))
    else:
        assert type(found) is Problem
