"""The code map on the engine: complete, equal to a plain count, also when threads collide."""

from __future__ import annotations

import threading
import warnings
from dataclasses import fields, replace
from pathlib import Path

import pytest

from helpers import run_threads
from support import PATIENCE
from theus.examples import codemap as app
from theus.examples.codemap import CodeMap, Finding, Summary, count_plainly, differences
from theus.examples.pysource import Links, Module, Source

FILES = {
    "shop/__init__.py": "from . import cart\n",
    "shop/cart.py": (
        "import json\nfrom shop import prices\n\n"
        "class Cart:\n    def total(self, items):\n"
        "        return sum(prices.of(i) for i in items if i)\n"
    ),
    "shop/prices.py": (
        "from .cart import Cart\nimport sys\n\n"
        "def of(item):\n    import shop\n    return 1 if item else 0\n"
    ),
    "shop/broken.py": "def half(:\n",
    "run.py": "import shop.cart\nimport json, sys\n",
}


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for path, text in FILES.items():
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text(text)
    return tmp_path


def ignore(done: object) -> None:
    """The callback of those who do not watch the progress."""


def mapped(root: Path, threads: int = 4) -> Summary:
    codemap = CodeMap(root)
    with codemap.engine:
        codemap.run(threads=threads, finished=ignore)
        return codemap.summary()


def test_the_map_says_what_the_files_say(tree: Path) -> None:
    summary = mapped(tree)
    assert summary.totals == {
        "modules": 4,
        "functions": 2,
        "classes": 1,
        "complexity": 5,
        "imports": 4,
        "lazy_imports": 1,
    }
    assert summary.size == {
        "files": 4,
        "lines": 15,
        "bytes": sum(map(len, FILES.values())) - len("def half(:\n"),
    }
    assert summary.modules["shop.cart"] == {
        "path": "shop/cart.py",
        "lines": 6,
        "functions": [{"name": "Cart.total", "line": 5, "complexity": 3}],
        "classes": ["Cart"],
        "imports": ["shop.prices"],
        "lazy_imports": [],
        "outside": ["json"],
    }
    assert summary.importers == {
        "shop": {"shop.prices"},
        "shop.cart": {"shop", "shop.prices", "run"},
        "shop.prices": {"shop.cart"},
    }
    assert summary.outside == {"json": 2, "sys": 2}
    assert summary.ranking == [(3, "shop.cart", "Cart.total", 5), (2, "shop.prices", "of", 4)]
    assert summary.cycles() == [("shop.cart", "shop.prices")]
    assert summary.names == {"total": 1, "of": 1}
    assert list(summary.problems) == ["shop/broken.py"]
    assert summary.problems["shop/broken.py"]["line"] == 1


def test_everything_in_a_summary_is_a_builtin_of_its_own(tree: Path) -> None:
    summary = mapped(tree)
    for part in fields(Summary):
        assert type(getattr(summary, part.name)) in (dict, list)
    summary.modules["shop.cart"]["functions"].append("mine")
    assert type(summary.importers["shop"]) is set


@pytest.mark.parametrize("threads", [1, 8])
def test_threads_come_to_what_a_plain_count_comes_to(tmp_path: Path, threads: int) -> None:
    for n in range(120):
        imports = "".join(f"import m{n * k % 120}, x{k}\n" for k in range(2, 8))
        bodies = "".join(
            f"def f{k}(x):\n" + "    if x: pass\n" * (n % 7) + "    return x\n" for k in range(5)
        )
        (tmp_path / f"m{n}.py").write_text(imports + bodies)
    codemap = CodeMap(tmp_path)
    with codemap.engine:
        codemap.run(threads=threads, finished=ignore)
        found, facts = codemap.summary(), codemap.facts()
        assert differences(found, count_plainly(codemap, finished=ignore)) == []
        assert found.totals["functions"] == 600
        assert found.names == {f"f{k}": 120 for k in range(5)}
        assert facts.version == codemap.engine.version
        assert facts.commits >= 240  # at least the module itself and the totals
        assert facts.unchanged >= 120  # at least the PURE process


def test_losers_of_a_race_run_again_and_nothing_is_lost(tree: Path) -> None:
    """Both transactions are open before either can commit, so one must lose."""
    meet = threading.Barrier(2, timeout=PATIENCE)
    waited = threading.local()

    class Slow(Finding):
        def counts(self) -> dict[str, int]:
            if not getattr(waited, "already", False):
                waited.already = True
                meet.wait()
            return super().counts()

    codemap = CodeMap(tree)
    module = Module(lines=1, functions=(), classes=("A", "B"), imports=frozenset())
    links = Links((), (), ())
    with codemap.engine as engine:
        run_threads(
            2,
            lambda n: engine.run_process(
                app.add_to_totals, Slow(Source(f"m{n}", f"m{n}.py", ""), 1, module, links)
            ),
        )
        totals, facts = codemap.summary().totals, codemap.facts()
    assert totals["modules"] == 2
    assert totals["classes"] == 4
    assert facts.conflicts >= 1
    assert facts.retries >= 1
    assert sum(facts.conflicts_by_path.values()) >= 1
    assert all(path.startswith("domain.totals") for path in facts.conflicts_by_path)


def test_an_interruption_leaves_whole_modules_behind(tree: Path) -> None:
    def interrupt(done: object) -> None:
        raise KeyboardInterrupt

    codemap = CodeMap(tree)
    with codemap.engine:
        with pytest.raises(KeyboardInterrupt):
            codemap.run(threads=1, finished=interrupt)
        found = codemap.summary()
    assert 1 <= len(found.modules) + len(found.problems) <= len(FILES)
    assert found.totals["modules"] == found.size["files"] == len(found.modules)
    assert codemap.seconds > 0


def test_warnings_about_other_peoples_code_stay_inside(tmp_path: Path) -> None:
    (tmp_path / "m.py").write_text("x = '\\d'\ny = 1if x else 2\nassert (x, y)\n")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert mapped(tmp_path).totals["modules"] == 1
    assert caught == []


def test_a_file_and_an_empty_folder_are_trees_too(tree: Path, tmp_path: Path) -> None:
    assert list(mapped(tree / "shop/cart.py").modules) == ["shop.cart"]
    (tmp_path / "empty").mkdir()
    assert mapped(tmp_path / "empty") == Summary()


# ---- the check ------------------------------------------------------------------------


def test_equal_summaries_have_no_differences(tree: Path) -> None:
    assert differences(mapped(tree, 1), mapped(tree, 3)) == []


def test_a_number_that_differs_is_named(tree: Path) -> None:
    good = mapped(tree)
    lost = replace(good, totals={**good.totals, "functions": 1})
    assert differences(lost, good) == ["total of functions: 1 in the engine, 2 counted"]
    missing = replace(good, importers={k: v for k, v in good.importers.items() if k != "shop"})
    assert differences(missing, good) == ["importers of shop: nothing in the engine, 1 counted"]
    assert differences(good, missing) == ["importers of shop: 1 in the engine, nothing counted"]


def test_equal_numbers_do_not_hide_unequal_contents(tree: Path) -> None:
    good = mapped(tree)
    other = replace(good, problems={"shop/broken.py": {"reason": "another", "line": 1}})
    assert differences(other, good) == ["problems: equal numbers, but unequal contents"]
