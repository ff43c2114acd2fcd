"""Readers in other processes see a version whole, the old one or the new one, while it is written
anew as fast as that goes."""

from __future__ import annotations

import pickle
import subprocess
import sys
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from support import PATIENCE
from theus import TheusEngine

np = pytest.importorskip("numpy")
if not sys.platform.startswith("linux"):
    pytest.skip("shared memory without names is Linux's", allow_module_level=True)

READERS = 3  # beside the writer
WORDS = 2**17  # 1 MiB, the last of which is the checksum of the others

# Takes tokens, one a line, always the newest that is there. Says what it has seen.
READER = """
import os, pickle, zlib
import numpy as np
from theus import StaleArrayError

def whole(array):
    return zlib.crc32(array[:-1]) == array[-1] and array[0] == array[-2]

rest, seen, late, kept = b"", 0, 0, None
while data := os.read(0, 2**16):
    *lines, rest = (rest + data).split(b"\\n")
    if not lines:
        continue
    try:
        array = pickle.loads(bytes.fromhex(lines[-1].decode()))
    except StaleArrayError:  # another one was committed meanwhile
        late += 1
        continue
    assert whole(array), (seen, late, array)
    assert kept is None or whole(kept), "a version that somebody looks at was written"
    kept, seen = array, seen + 1
print(seen, late)
"""


@pytest.fixture
def readers() -> Iterator[list[subprocess.Popen[bytes]]]:
    made = [
        subprocess.Popen(
            [sys.executable, "-W", "error", "-c", READER],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=Path(sys.executable).parent,
        )
        for _ in range(READERS)
    ]
    yield made
    for process in made:
        process.kill()  # most often it has ended
        process.communicate()


@pytest.mark.parametrize("backend", ["anonymous", "named"])
@pytest.mark.parametrize(
    "seconds", [pytest.param(0.1, marks=pytest.mark.slow), pytest.param(60, marks=pytest.mark.long)]
)
def test_what_readers_see_is_whole(
    seconds: float,
    backend: str,
    readers: list[subprocess.Popen[bytes]],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("THEUS_SHM_BACKEND", backend)
    with TheusEngine({"heavy": {}}, history=1) as engine:

        def write(version: int) -> None:
            array = engine.heavy.alloc("x", WORDS, "u8")
            array[:-1] = version
            array[-1] = zlib.crc32(array[:-1])
            engine.compare_and_swap(engine.version, heavy={"x": array})

        version, end = 0, time.monotonic() + seconds
        while version < 30 or time.monotonic() < end:
            version += 1
            write(version)
            line = pickle.dumps(engine.state["heavy"]["x"]).hex().encode() + b"\n"
            for process in readers:
                assert process.stdin is not None
                process.stdin.write(line)
                process.stdin.flush()
        seen = 0
        for process in readers:
            out, complaints = process.communicate(timeout=PATIENCE)
            assert (process.returncode, complaints) == (0, b""), complaints
            seen += int(out.split()[0])
        assert seen >= READERS  # the last one each, at the least
