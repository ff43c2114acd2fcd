"""The `theus` command: what it prints where, and with which exit status it ends."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import theus
from helpers import run_fresh
from theus.cli import main
from theus.examples import codemap as app


class Ended(NamedTuple):
    status: int
    out: str
    err: str


class Command:
    """Runs `theus ...` in this process and returns what came of it."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self.capsys = capsys

    def __call__(self, *args: str | Path) -> Ended:
        with pytest.raises(SystemExit) as ended:
            main(list(map(str, args)), prog_name="theus")
        status = ended.value.code
        assert isinstance(status, int)
        return Ended(status, *self.capsys.readouterr())

    def json(self, *args: str | Path) -> dict[str, Any]:
        ended = self("demo", "--json", *args)
        assert (ended.status, ended.err) == (0, "")
        document = json.loads(ended.out)
        assert isinstance(document, dict)
        return document


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Command:
    return Command(capsys)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    (tmp_path / "a.py").write_text("import b\n\ndef f(x):\n    return x or 1\n")
    (tmp_path / "b.py").write_text("import a, sys\n\nclass C:\n    pass\n")
    (tmp_path / "bad.py").write_text("x = (\n")
    return tmp_path


# ---- the command itself ---------------------------------------------------------------


def test_without_a_command_it_shows_its_help(command: Command) -> None:
    ended = command()
    assert ended.status == 0
    assert "demo" in ended.out
    assert command("--help").out == command("-h").out == ended.out


def test_it_knows_its_version(command: Command) -> None:
    assert command("--version").out.strip().endswith(theus.__version__)


def test_it_runs_as_a_module() -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "theus", "--version"],
        cwd="/",
        capture_output=True,
        text=True,
        check=True,
    )
    assert theus.__version__ in ended.stdout
    assert ended.stderr == ""


def test_an_unknown_command_is_refused(command: Command) -> None:
    ended = command("dance")
    assert ended.status == 2
    assert "dance" in ended.err


def test_the_library_loads_without_the_command_line() -> None:
    loaded = run_fresh("import sys, theus; print(*sys.modules)").split()
    assert not {"click", "rich", "theus.cli", "theus.examples"} & {*loaded}


# ---- demo -----------------------------------------------------------------------------


def test_demo_shows_what_a_developer_wants_to_know(command: Command, tree: Path) -> None:
    ended = command("demo", tree, "--threads", "2")
    assert (ended.status, ended.err) == (0, "")
    for words in (
        "2 modules",
        "Most complex functions",
        "Most imported modules",
        "Import cycles",
        "a > b > a",
        "bad.py",
        "transactions",
        "conflicts",
        "retries",
        "a second",
        "versions",
        "equal those of a plain sequential count",
    ):
        assert words in ended.out


def test_demo_json_is_one_document_and_nothing_else(command: Command, tree: Path) -> None:
    document = command.json(tree)
    assert document["path"] == str(tree)
    assert document["files"] == 3
    assert document["totals"]["modules"] == 2
    assert document["cycles"] == [["a", "b"]]
    assert document["outside"] == {"sys": 1}
    assert document["importers"] == {"a": ["b"], "b": ["a"]}
    assert document["most_complex"] == [
        {"complexity": 2, "module": "a", "function": "f", "line": 3}
    ]
    assert list(document["problems"]) == ["bad.py"]
    assert document["check"] == {"complete": True, "differences": []}
    assert document["heavy"]["modules"] == 2 and document["heavy"]["leaked"] == 0
    assert document["heavy"]["sums"]["lines"] == document["size"]["lines"]
    assert document["heavy"]["bytes"] == 2 * 6 * 8
    assert document["engine"]["commits"] >= 5
    assert document["engine"]["transactions"] >= document["engine"]["commits"]


def test_demo_of_one_file_of_an_empty_folder_and_of_here(
    command: Command, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert list(command.json(tree / "a.py")["modules"]) == ["a"]
    (tree / "empty").mkdir()
    assert command.json(tree / "empty")["totals"]["modules"] == 0
    assert command("demo", tree / "empty").status == 0
    monkeypatch.chdir(tree)
    assert command.json(".")["path"] == str(tree)


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("nothing-here", "no such file or directory"),
        ("", "no such file or directory"),
        ("notes.txt", "neither a folder nor a Python file"),
        ("pipe.py", "neither a folder nor a Python file"),
        ("a.py/b", "not a directory"),
        ("x" * 5000, "name too long"),
    ],
)
def test_a_wrong_path_is_refused_clearly(
    command: Command, tree: Path, monkeypatch: pytest.MonkeyPatch, path: str, why: str
) -> None:
    (tree / "notes.txt").write_text("")
    os.mkfifo(tree / "pipe.py")
    monkeypatch.chdir(tree)
    for arguments in ((path,), (path, "--json")):
        ended = command("demo", *arguments)
        assert ended.status == 2
        assert ended.out == ""
        assert why in " ".join(ended.err.split())
        assert "Traceback" not in ended.err


@pytest.mark.parametrize("threads", ["0", "-1", "65", "many"])
def test_a_wrong_number_of_threads_is_refused(command: Command, tree: Path, threads: str) -> None:
    ended = command("demo", tree, "--threads", threads)
    assert ended.status == 2
    assert threads in ended.err


HOSTILE_NAMES = ("[bold]x.py", "new\nline.py", "esc\x1b[31m.py", "\udcff\udcfe.py", "ü.py")


def test_names_of_files_cannot_upset_the_output(command: Command, tmp_path: Path) -> None:
    for name in HOSTILE_NAMES:
        (tmp_path / name).write_text("def f(:\n")
    ended = command("demo", tmp_path)
    assert (ended.status, ended.err) == (0, "")
    for shown in ("[bold]x.py", "new\\nline.py", "esc\\x1b[31m.py", "\\udcff\\udcfe.py", "ü.py"):
        assert shown in ended.out
    assert sorted(command.json(tmp_path)["problems"]) == sorted(HOSTILE_NAMES)


def test_demo_writes_to_a_terminal_that_knows_only_ascii(tree: Path) -> None:
    (tree / "ü.py").write_text("def ä(: pass\n")
    ended = subprocess.run(
        [sys.executable, "-m", "theus", "demo", str(tree)],
        cwd="/",
        capture_output=True,
        env={**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"},
    )
    assert (ended.returncode, ended.stderr) == (0, b"")
    assert b"\\xfc.py" in ended.stdout


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device here is always full")
@pytest.mark.parametrize("options", [[], ["--json"]])
def test_output_that_cannot_be_written_is_an_error(tree: Path, options: list[str]) -> None:
    with open("/dev/full", "w") as full:
        ended = subprocess.run(
            [sys.executable, "-m", "theus", "demo", str(tree), *options],
            cwd="/",
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
        )
    assert ended.returncode == 1
    assert ended.stderr == "Error: the report cannot be written: No space left on device\n"


def test_a_reader_that_leaves_early_is_no_error_worth_a_word(tree: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    ended = subprocess.run(
        [sys.executable, "-m", "theus", "demo", str(tree), "--json"],
        cwd="/",
        stdout=writer,
        stderr=subprocess.PIPE,
        text=True,
    )
    os.close(writer)
    assert ended.stderr == ""


def test_a_lost_update_ends_with_1_and_is_named(
    command: Command, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The check is real: leave one merge out, and it finds every number that is missing."""
    monkeypatch.setattr(app, "MERGES", [m for m in app.MERGES if m is not app.link_imports])
    ended = command("demo", tree)
    assert ended.status == 1
    assert ended.out == ""
    assert "importers of a: nothing in the engine, 1 counted" in ended.err
    ended = command("demo", tree, "--json")
    assert ended.status == 1
    assert (
        "importers of b: nothing in the engine, 1 counted"
        in json.loads(ended.out)["check"]["differences"]
    )


@pytest.mark.slow
def test_ctrl_c_while_the_command_is_loaded_is_quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    class Interrupts:
        def __getattr__(self, name: str) -> Any:
            raise KeyboardInterrupt

    monkeypatch.setitem(sys.modules, "theus.cli.commands", Interrupts())
    with pytest.raises(SystemExit) as caught:
        main(["demo"])
    assert caught.value.code == 130


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="needs /proc to see the threads")
@pytest.mark.parametrize("options", [[], ["--json"]])
def test_ctrl_c_leaves_at_once_with_what_was_found(options: list[str]) -> None:
    usual = signal.signal(signal.SIGINT, signal.default_int_handler)  # jobs of a shell ignore it
    try:
        demo = subprocess.Popen(
            [sys.executable, "-m", "theus", "demo", "--threads", "3", *options],
            cwd="/",
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
    finally:
        signal.signal(signal.SIGINT, usual)
    tasks = Path(f"/proc/{demo.pid}/task")
    deadline = time.monotonic() + 60
    while demo.poll() is None and len(list(tasks.iterdir())) < 4 and time.monotonic() < deadline:
        time.sleep(0.01)
    demo.send_signal(signal.SIGINT)
    out, err = demo.communicate(timeout=60)
    assert demo.returncode == 130
    assert re.fullmatch(
        r"Interrupted: this is what [\d,]+ of [\d,]+ files hold, unchecked\.\n", err
    )
    if options:
        assert json.loads(out)["check"] == {"complete": False, "differences": []}
    else:
        assert "Code map of" in out
        assert "plain sequential count" not in out


@pytest.mark.skipif(not hasattr(os, "openpty"), reason="no pseudo-terminals here")
def test_a_terminal_gets_a_progress_bar_on_stderr_only(tree: Path) -> None:
    ours, theirs = os.openpty()
    shown = b""
    try:
        ended = subprocess.run(
            [sys.executable, "-m", "theus", "demo", str(tree)],
            cwd="/",
            stdout=subprocess.PIPE,
            stderr=theirs,
            env={**os.environ, "TERM": "xterm", "COLUMNS": "80"},
            check=True,
        )
        os.set_blocking(ours, False)
        shown = os.read(ours, 65536)
    finally:
        os.close(ours)
        os.close(theirs)
    assert b"reading" in shown
    assert b"checking" in shown
    assert b"reading" not in ended.stdout
