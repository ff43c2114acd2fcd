"""The anomalies of the isolation literature, each played step by step, with its verdict.

    row                                          serializable       snapshot
    G0 dirty write, G1a, G1b, G1c, OTV, PMP      prevented          prevented
    P4 lost update                               one aborts         one aborts
    G-single read skew                           prevented          prevented
    read-only anomaly (three transactions)       prevented          happens
    G2-item write skew                           one aborts         happens
    G2 phantoms                                  one aborts         happens
    ancestor replaced / descendant written       conflict           conflict
    sibling paths                                no conflict        no conflict
    list index shift                             conflict           conflict
    stale CAS                                    refused            refused
    own reads                                    own writes only    own writes only
    savepoint abort                              outer unaffected, reads kept
    add beside a read-modify-write               RMW aborts, add never

"happens" is asserted too: the weaker level is offered under its honest name.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from support import begin, domain
from theus import TheusEngine
from theus.errors import ConflictError

BOTH = pytest.mark.parametrize("isolation", ["serializable", "snapshot"])


def bank(**accounts: Any) -> Any:
    return TheusEngine({"domain": accounts})


def refused(tx: Any, *path: Any) -> ConflictError:
    """The commit is refused, with the place if one is given; nothing of it is left."""
    with pytest.raises(ConflictError, match="CAS Version Mismatch") as caught:
        tx.commit()
    assert not tx.active
    if path:
        assert caught.value.path == path
    return caught.value


# ---- G0 to G1: nothing of an unfinished or undone transaction is ever seen ---------


@BOTH
def test_g0_dirty_write(isolation: str) -> None:
    """Two writers of the same two keys: the result is all of one of them, never a mix."""
    engine = bank(x=0, y=0)
    one, two = begin(engine, isolation), begin(engine, isolation)
    one.domain["x"] = 1
    two.domain["x"] = 2
    two.domain["y"] = 2
    one.domain["y"] = 1
    one.commit()
    assert domain(engine) == {"x": 1, "y": 1}
    try:
        two.commit()
        assert domain(engine) == {"x": 2, "y": 2}
    except ConflictError:
        assert domain(engine) == {"x": 1, "y": 1}


def test_g0_blind_writes_serialize_without_a_conflict() -> None:
    """Who reads nothing can be placed after anybody."""
    engine = bank(x=0)
    one, two = begin(engine), begin(engine)
    one.set(("domain", "x"), 1)
    two.set(("domain", "x"), 2)
    one.commit()
    two.commit()
    assert domain(engine) == {"x": 2}


def test_g0_blind_writes_conflict_under_snapshot() -> None:
    """First committer wins, as snapshot isolation says."""
    engine = bank(x=0)
    one, two = begin(engine, "snapshot"), begin(engine, "snapshot")
    one.set(("domain", "x"), 1)
    two.set(("domain", "x"), 2)
    one.commit()
    refused(two, "domain", "x")
    assert domain(engine) == {"x": 1}


@BOTH
def test_g1a_aborted_read(isolation: str) -> None:
    engine = bank(x=0)
    writer, reader = begin(engine, isolation), begin(engine, isolation)
    writer.domain["x"] = 101
    assert reader.domain["x"] == 0
    writer.rollback()
    assert reader.domain["x"] == 0
    reader.commit()
    assert domain(engine) == {"x": 0} and engine.version == 1


@BOTH
def test_g1b_intermediate_read(isolation: str) -> None:
    engine = bank(x=0)
    writer, reader = begin(engine, isolation), begin(engine, isolation)
    writer.domain["x"] = 101
    assert reader.domain["x"] == 0
    writer.domain["x"] = 11
    writer.commit()
    assert reader.domain["x"] == 0
    reader.commit()
    assert begin(engine, isolation).domain["x"] == 11


@BOTH
def test_g1c_circular_information_flow(isolation: str) -> None:
    """Each writes one and reads the other's: neither sees the other's write."""
    engine = bank(x=0, y=0)
    one, two = begin(engine, isolation), begin(engine, isolation)
    one.domain["x"] = 11
    two.domain["y"] = 22
    assert one.domain["y"] == 0
    assert two.domain["x"] == 0
    one.commit()
    if isolation == "serializable":
        refused(two, "domain", "x")
    else:
        two.commit()


@BOTH
def test_otv_observed_transaction_vanishes(isolation: str) -> None:
    """What one reader saw of a transaction does not vanish half way through."""
    engine = bank(x=0, y=0)
    one, two = begin(engine, isolation), begin(engine, isolation)
    one.domain.update(x=11, y=19)
    two.domain["x"] = 12
    one.commit()
    reader = begin(engine, isolation)
    assert reader.domain["x"] == 11
    two.domain["y"] = 18
    try:
        two.commit()
    except ConflictError:
        pass  # a legal answer, and not what this test is about
    assert reader.domain["y"] == 19
    reader.commit()


@BOTH
def test_pmp_predicate_many_preceders_for_reads(isolation: str) -> None:
    """Asking the same question twice gives the same answer."""
    engine = bank(rows={"a": 10, "b": 20})
    reader, writer = begin(engine, isolation), begin(engine, isolation)

    def thirty() -> list[str]:
        return [key for key, value in reader.domain["rows"].items() if value == 30]

    assert thirty() == []
    writer.domain["rows"]["c"] = 30
    writer.commit()
    assert thirty() == []
    reader.commit()


@BOTH
def test_pmp_predicate_many_preceders_for_writes(isolation: str) -> None:
    """Deleting "all that are 20" while another adds ten to all: one aborts."""
    engine = bank(rows={"a": 10, "b": 20})
    adder, deleter = begin(engine, isolation), begin(engine, isolation)
    for key in adder.domain["rows"]:
        adder.domain["rows"][key] += 10
    rows = deleter.domain["rows"]
    for key in [key for key, value in rows.items() if value == 20]:
        del rows[key]
    adder.commit()
    refused(deleter)
    assert domain(engine)["rows"] == {"a": 20, "b": 30}


@BOTH
def test_p4_lost_update(isolation: str) -> None:
    engine = bank(x=100)
    one, two = begin(engine, isolation), begin(engine, isolation)
    one.domain["x"] += 1
    two.domain["x"] += 1
    one.commit()
    error = refused(two, "domain", "x")
    assert (error.expected, error.found) == (1, 2)
    assert error.winner.version == 2
    assert domain(engine) == {"x": 101}


# ---- read skew, and the anomaly of the reader --------------------------------------


@BOTH
def test_g_single_read_skew(isolation: str) -> None:
    engine = bank(x=10, y=20)
    reader, writer = begin(engine, isolation), begin(engine, isolation)
    assert reader.domain["x"] == 10
    writer.domain["x"] = 12
    writer.domain["y"] = 18
    writer.commit()
    assert reader.domain["y"] == 20
    reader.commit()


@BOTH
def test_g_single_a_decision_on_the_old_version_is_not_mixed_with_the_new(isolation: str) -> None:
    """Read one account, write the other, while both are changed: the commit is refused."""
    engine = bank(x=10, y=20)
    one, two = begin(engine, isolation), begin(engine, isolation)
    total = one.domain["x"]
    two.domain.update(x=12, y=18)
    two.commit()
    one.domain["y"] = total
    if isolation == "serializable":
        refused(one, "domain", "x")
    else:
        refused(one, "domain", "y")


@BOTH
def test_read_only_anomaly(isolation: str) -> None:
    """Fekete, O'Neil and O'Neil 2004: a withdrawal with a penalty, a deposit, a statement.

    The statement shows the deposit and no withdrawal, so the withdrawal came after the deposit
    and owes no penalty. Under snapshot isolation it is charged all the same.
    """
    engine = bank(checking=0, savings=0)
    withdrawal = begin(engine, isolation)
    enough = withdrawal.domain["checking"] + withdrawal.domain["savings"] >= 10
    deposit = begin(engine, isolation)
    deposit.domain["savings"] += 20
    deposit.commit()
    statement = begin(engine, isolation, read_only=True)
    assert (statement.domain["checking"], statement.domain["savings"]) == (0, 20)
    statement.commit()
    withdrawal.domain["checking"] -= 10 if enough else 11
    if isolation == "serializable":
        refused(withdrawal, "domain", "savings")
        assert domain(engine) == {"checking": 0, "savings": 20}
    else:
        withdrawal.commit()
        assert domain(engine) == {"checking": -11, "savings": 20}


# ---- write skew and phantoms: where the two levels part ----------------------------


@BOTH
def test_g2_item_write_skew(isolation: str) -> None:
    """Two doctors on call; each may leave if the other stays."""
    engine = bank(alice=True, bob=True)
    alice, bob = begin(engine, isolation), begin(engine, isolation)
    for tx, me in ((alice, "alice"), (bob, "bob")):
        if tx.domain["alice"] and tx.domain["bob"]:
            tx.domain[me] = False
    alice.commit()
    if isolation == "serializable":
        refused(bob, "domain", "alice")
        assert domain(engine) == {"alice": False, "bob": True}
    else:
        bob.commit()
        assert domain(engine) == {"alice": False, "bob": False}, "write skew"


PHANTOM_READS: dict[str, Callable[[Any], Any]] = {
    "len": len,
    "bool": bool,
    "keys": lambda rows: list(rows.keys()),
    "in": lambda rows: "new" in rows,
    "get": lambda rows: rows.get("new"),
    "iteration": list,
    "values": lambda rows: list(rows.values()),
    "items": lambda rows: list(rows.items()),
    "to_dict": lambda rows: rows.to_dict(),
    "copy": lambda rows: rows.copy(),
    "equality": lambda rows: rows == {"a": 1},
    "reversed": lambda rows: list(reversed(rows)),
    "keys_and": lambda rows: rows.keys() & {"new"},
    "or": lambda rows: rows | {},
    "freeze": lambda rows: rows.freeze(),
}


def missing(rows: Any) -> None:
    with pytest.raises(KeyError):
        rows["new"]


PHANTOM_READS["missing item"] = missing


@BOTH
@pytest.mark.parametrize("look", sorted(PHANTOM_READS))
def test_g2_phantom(isolation: str, look: str) -> None:
    """One asks about a set of rows and writes elsewhere; the other adds a row."""
    engine = bank(rows={"a": 1}, count=0)
    counter, writer = begin(engine, isolation), begin(engine, isolation)
    if look == "bool":
        del writer.domain["rows"]["a"]
    else:
        writer.domain["rows"]["new"] = 2
    PHANTOM_READS[look](counter.domain["rows"])
    counter.domain["count"] = 1
    writer.commit()
    if isolation == "serializable":
        assert refused(counter).path[:2] == ("domain", "rows")
    else:
        counter.commit()
        assert domain(engine)["count"] == 1, "the phantom was let through"


@BOTH
@pytest.mark.parametrize("look", ["len", "iteration", "values", "in", "equality"])
def test_g2_phantom_in_both_directions(isolation: str, look: str) -> None:
    """Both count, both insert: exactly one of two serializable ones gets through."""
    engine = bank(rows={"a": 1})
    pair = begin(engine, isolation), begin(engine, isolation)
    for number, tx in enumerate(pair):
        PHANTOM_READS[look](tx.domain["rows"])
        tx.domain["rows"]["new" if look == "in" else f"row {number}"] = number
    pair[0].commit()
    if isolation == "serializable" or look == "in":
        refused(pair[1])
        assert len(domain(engine)["rows"]) == 2
    else:
        pair[1].commit()
        assert len(domain(engine)["rows"]) == 3


SET_AND_LIST_READS: dict[str, Callable[[Any], Any]] = {
    "set in": lambda d: 9 in d["tags"],
    "set len": lambda d: len(d["tags"]),
    "set iteration": lambda d: set(d["tags"]),
    "set comparison": lambda d: d["tags"] <= {1, 2},
    "list len": lambda d: len(d["xs"]),
    "list iteration": lambda d: list(d["xs"]),
    "list in": lambda d: 9 in d["xs"],
    "list last": lambda d: d["xs"][-1],
    "list slice": lambda d: d["xs"][1:],
    "list count": lambda d: d["xs"].count(9),
    "list sort": lambda d: d["xs"].sort(),  # sorted already: nothing to write, but all was read
}


@BOTH
@pytest.mark.parametrize("look", sorted(SET_AND_LIST_READS))
def test_g2_phantom_in_sets_and_lists(isolation: str, look: str) -> None:
    engine = bank(tags={1, 2}, xs=[1, 2], count=0)
    counter, writer = begin(engine, isolation), begin(engine, isolation)
    SET_AND_LIST_READS[look](counter.domain)
    counter.domain["count"] = 1
    writer.domain["tags"].add(9)
    writer.domain["xs"].append(9)
    writer.commit()
    if isolation == "serializable":
        refused(counter)
    else:
        counter.commit()


def test_a_clear_takes_every_row_or_none() -> None:
    """Emptying a dict depends on its key set: the row that came in between is not left over."""
    engine = bank(rows={"a": 1})
    cleaner, writer = begin(engine), begin(engine)
    cleaner.domain["rows"].clear()
    writer.domain["rows"]["new"] = 2
    writer.commit()
    try:
        cleaner.commit()
        assert domain(engine) == {"rows": {}}
    except ConflictError:
        assert domain(engine) == {"rows": {"a": 1, "new": 2}}


# ---- nested paths ------------------------------------------------------------------


@BOTH
def test_nested_sibling_paths_do_not_conflict(isolation: str) -> None:
    """a.b.c and a.b.d: read-modify-write of each, both commit, both writes stand."""
    engine = bank(a={"b": {"c": 0, "d": 0}})
    one, two = begin(engine, isolation), begin(engine, isolation)
    one.domain["a"]["b"]["c"] += 1
    two.domain["a"]["b"]["d"] += 1
    one.commit()
    two.commit()
    assert domain(engine) == {"a": {"b": {"c": 1, "d": 1}}}
    assert engine.stats().conflicts == 0 and engine.stats().rebases == 1


@BOTH
def test_nested_ancestor_replaced_under_a_written_descendant(isolation: str) -> None:
    engine = bank(a={"b": {"c": 0}})
    below, above = begin(engine, isolation), begin(engine, isolation)
    below.domain["a"]["b"]["c"] = 1
    above.domain["a"] = {"b": {"c": 0, "new": True}}
    above.commit()
    refused(below)
    assert domain(engine) == {"a": {"b": {"c": 0, "new": True}}}


@BOTH
def test_nested_descendant_written_under_a_replaced_ancestor(isolation: str) -> None:
    """The other order. Read first, so that the replacement is not blind."""
    engine = bank(a={"b": {"c": 0}})
    below, above = begin(engine, isolation), begin(engine, isolation)
    above.domain["a"] = {"was": above.domain["a"]["b"]["c"]}
    below.domain["a"]["b"]["c"] = 1
    below.commit()
    refused(above)
    assert domain(engine) == {"a": {"b": {"c": 1}}}


@BOTH
def test_nested_container_to_scalar_to_container(isolation: str) -> None:
    """The path exists again when the writer commits, but it is another container."""
    engine = bank(a={"b": {"c": 0}})
    slow = begin(engine, isolation)
    assert slow.domain["a"]["b"]["c"] == 0
    slow.domain["a"]["b"]["c"] = 5
    for value in (1, {"b": {"c": 7}}):
        with engine.transaction() as tx:
            tx.domain["a"] = value
    refused(slow)
    assert domain(engine) == {"a": {"b": {"c": 7}}}


@BOTH
def test_nested_delete_and_reinsert_of_the_same_object(isolation: str) -> None:
    """A value that was taken out and put back is the same value: readers of it go on."""
    value = "a text of its own"
    engine = bank(rows={"a": value}, seen=None)
    reader = begin(engine, isolation)
    reader.domain["seen"] = reader.domain["rows"]["a"]
    for undo in (False, True):
        with engine.transaction() as tx:
            if undo:
                tx.domain["rows"]["a"] = value
            else:
                del tx.domain["rows"]["a"]
    reader.commit()
    assert domain(engine) == {"rows": {"a": value}, "seen": value}


@BOTH
def test_nested_a_parent_moved_to_another_key(isolation: str) -> None:
    """A writer holds a draft of what another transaction moves away: refused, not misplaced."""
    engine = bank(a={"x": 1})
    writer, mover = begin(engine, isolation), begin(engine, isolation)
    writer.domain["a"]["x"] = 2
    mover.domain["b"] = mover.domain.pop("a")
    mover.commit()
    refused(writer)
    assert domain(engine) == {"b": {"x": 1}}


# ---- lists -------------------------------------------------------------------------


@BOTH
def test_list_index_shift(isolation: str) -> None:
    """xs[3] after an insertion at 0 is another element: the write may not land on it."""
    engine = bank(xs=[0, 1, 2, 3, 4])
    writer, shifter = begin(engine, isolation), begin(engine, isolation)
    writer.domain["xs"][3] = "three"
    shifter.domain["xs"].insert(0, "new")
    shifter.commit()
    refused(writer)
    assert domain(engine) == {"xs": ["new", 0, 1, 2, 3, 4]}


@BOTH
def test_list_index_shift_seen_from_the_shifter(isolation: str) -> None:
    engine = bank(xs=[0, 1, 2, 3, 4])
    writer, shifter = begin(engine, isolation), begin(engine, isolation)
    shifter.domain["xs"].insert(0, "new")
    writer.domain["xs"][3] = "three"
    writer.commit()
    refused(shifter)
    assert domain(engine) == {"xs": [0, 1, 2, "three", 4]}


@BOTH
def test_list_index_shift_among_equal_items(isolation: str) -> None:
    """Also where the place holds an equal value after the shift: it is another place."""
    engine = bank(xs=[0, 0, 0, 0])
    writer, shifter = begin(engine, isolation), begin(engine, isolation)
    writer.domain["xs"][3] = "three"
    shifter.domain["xs"].insert(0, 0)
    shifter.commit()
    refused(writer)
    assert domain(engine) == {"xs": [0, 0, 0, 0, 0]}


@BOTH
def test_list_positions_are_apart(isolation: str) -> None:
    """Two overwrites at two positions do not conflict, and both stand."""
    engine = bank(xs=[0, 1, 2])
    one, two = begin(engine, isolation), begin(engine, isolation)
    one.domain["xs"][0] += 10
    two.domain["xs"][2] += 10
    one.commit()
    two.commit()
    assert domain(engine) == {"xs": [10, 1, 12]}


@BOTH
def test_two_appends_by_draft_conflict(isolation: str) -> None:
    """append through a draft writes the list; tx.append is the one that commutes."""
    engine = bank(xs=[])
    one, two = begin(engine, isolation), begin(engine, isolation)
    one.domain["xs"].append(1)
    two.domain["xs"].append(2)
    one.commit()
    refused(two)
    assert domain(engine) == {"xs": [1]}


@BOTH
def test_draft_of_an_element_under_a_shift(isolation: str) -> None:
    """A dict inside a list, written by one while the other inserts before it."""
    engine = bank(xs=[{"n": 0}, {"n": 1}])
    writer, shifter = begin(engine, isolation), begin(engine, isolation)
    writer.domain["xs"][1]["n"] = 10
    shifter.domain["xs"].insert(0, {"n": -1})
    shifter.commit()
    refused(writer)
    assert domain(engine) == {"xs": [{"n": -1}, {"n": 0}, {"n": 1}]}


# ---- compare-and-swap --------------------------------------------------------------


def test_stale_cas_older_than_the_history_is_refused() -> None:
    """Even where the touched key never changed: what cannot be known is not guessed."""
    engine = bank(x=0, y=0)
    engine.history_limit(count=3)
    for n in range(10):
        engine.compare_and_swap(engine.version, data={"domain": {"x": n + 1}})
    version = engine.version
    with pytest.raises(ConflictError) as caught:
        engine.compare_and_swap(1, data={"domain": {"y": 1}})
    assert caught.value.expected == 1 and caught.value.reason == "forgotten"
    assert engine.version == version and domain(engine) == {"x": 10, "y": 0}
    engine.compare_and_swap(version - 2, data={"domain": {"y": 1}})
    assert domain(engine) == {"x": 10, "y": 1}


# ---- own reads, savepoints ---------------------------------------------------------


@BOTH
def test_own_reads(isolation: str) -> None:
    """A transaction sees its snapshot and its own writes, nothing else."""
    engine = bank(x=1, rows={"a": 1, "b": 2})
    tx = begin(engine, isolation)
    tx.domain["x"] = 2
    assert tx.domain["x"] == 2 and tx.get(("domain", "x")) == 2
    del tx.domain["x"]
    assert "x" not in tx.domain and tx.get(("domain", "x"), "gone") == "gone"
    engine.compare_and_swap(1, data={"domain": {"z": 9}})
    assert "z" not in tx.domain
    tx.domain["rows"]["c"] = 3
    assert list(tx.domain["rows"]) == ["a", "b", "c"]
    assert tx.state["domain"]["x"] == 1, "tx.state stays the snapshot"
    with pytest.raises(KeyError):
        tx.domain["x"]
    tx.rollback()


@BOTH
def test_own_reads_while_iterating(isolation: str) -> None:
    """Values may be replaced while a dict is iterated; a new key is an error, as for dict."""
    engine = bank(rows={"a": 1, "b": 2})
    tx = begin(engine, isolation)
    rows = tx.domain["rows"]
    for key in rows:
        rows[key] += 10
    assert rows == {"a": 11, "b": 12}
    with pytest.raises(RuntimeError, match="changed"):
        for key in rows:
            rows[key + "'"] = 0
    tx.rollback()
    assert domain(engine) == {"rows": {"a": 1, "b": 2}}


@BOTH
def test_savepoint_abort(isolation: str) -> None:
    """The outer transaction keeps its writes; what the inner one read still counts."""
    engine = bank(x=1, y=1, z=1)
    tx, other = begin(engine, isolation), begin(engine, isolation)
    tx.domain["z"] = 2
    with pytest.raises(RuntimeError, match="inner"):
        with tx.savepoint():
            tx.domain["z"] = tx.domain["x"] + 99
            tx.domain["y"] = 99
            raise RuntimeError("inner")
    assert (tx.domain["z"], tx.domain["y"]) == (2, 1)
    other.domain["x"] = 5
    other.commit()
    if isolation == "serializable":
        refused(tx, "domain", "x")
    else:
        tx.commit()
        assert domain(engine) == {"x": 5, "y": 1, "z": 2}


@BOTH
def test_savepoint_abort_takes_back_the_claim_on_what_it_wrote(isolation: str) -> None:
    """Undone writes do not conflict: of a list that was appended to, of a key, of a new key."""
    engine = bank(xs=[1], rows={"a": 1}, n=0)
    tx, other = begin(engine, isolation), begin(engine, isolation)
    assert tx.domain["xs"][0] == 1 and "c" not in tx.domain["rows"]  # seen before and after
    with pytest.raises(RuntimeError):
        with tx.savepoint():
            tx.domain["xs"].append(2)
            tx.domain["rows"].update(a=2, b=3)
            raise RuntimeError
    tx.domain["n"] = 1
    other.domain["xs"].append(5)
    other.domain["rows"].update(a=7, b=8)
    other.commit()
    tx.commit()
    assert domain(engine) == {"xs": [1, 5], "rows": {"a": 7, "b": 8}, "n": 1}


@BOTH
def test_deletions_are_repeated_on_a_newer_version(isolation: str) -> None:
    engine = bank(rows={"a": 1, "b": 1}, tags={1, 2}, n=0)
    tx, other = begin(engine, isolation), begin(engine, isolation)
    del tx.domain["rows"]["a"]
    tx.domain["tags"].discard(1)
    other.domain["rows"]["b"] = 2
    other.domain["tags"].add(3)
    other.commit()
    tx.commit()
    assert domain(engine) == {"rows": {"b": 2}, "tags": {2, 3}, "n": 0}


@BOTH
@pytest.mark.parametrize("remove", ["del", "pop", "popitem"])
def test_g0_a_key_stored_and_removed_again_was_written(isolation: str, remove: str) -> None:
    """Without effect on its own version, but not on one where others stored the key meanwhile."""
    engine = bank(rows={"a": 1}, n=0)
    tx, other = begin(engine, isolation), begin(engine, isolation)
    rows = tx.domain["rows"]
    rows["new"] = 1
    if remove == "del":
        del rows["new"]
    elif remove == "pop":
        assert rows.pop("new") == 1
    else:
        assert rows.popitem() == ("new", 1)
    tx.domain["n"] = 1
    other.domain["rows"]["new"] = 5
    other.commit()
    try:
        tx.commit()
        assert isolation == "serializable", "snapshot: first committer wins"
        assert domain(engine) == {"rows": {"a": 1}, "n": 1}
    except ConflictError:
        assert domain(engine) == {"rows": {"a": 1, "new": 5}, "n": 0}


@BOTH
def test_keys_stand_in_the_order_of_commits(isolation: str) -> None:
    """Each transaction inserts two keys; the one that commits later comes later."""
    engine = bank(rows={"x": 0})
    pair = begin(engine, isolation), begin(engine, isolation)
    for name, tx in zip("ab", pair, strict=True):
        tx.domain["rows"][name + "2"] = 2
        tx.domain["rows"][name + "1"] = 1
    pair[1].commit()
    pair[0].commit()
    assert list(engine.state["domain"]["rows"]) == ["x", "b2", "b1", "a2", "a1"]


# ---- deferred operations commute ---------------------------------------------------


@BOTH
def test_commute_add_beside_a_read_modify_write(isolation: str) -> None:
    """add after RMW: both count. RMW after add: the RMW aborts."""
    engine = bank(n=0)
    adder, rmw = begin(engine, isolation), begin(engine, isolation)
    adder.add(("domain", "n"), 5)
    rmw.domain["n"] += 1
    rmw.commit()
    adder.commit()
    assert domain(engine) == {"n": 6}
    adder, rmw = begin(engine, isolation), begin(engine, isolation)
    adder.add(("domain", "n"), 5)
    rmw.domain["n"] += 1
    adder.commit()
    refused(rmw, "domain", "n")
    assert domain(engine) == {"n": 11}


@BOTH
def test_commute_many_adds_and_appends(isolation: str) -> None:
    """Ten transactions open at once add and append to the same two places: none aborts."""
    engine = bank(n=0, log=[])
    crowd = [begin(engine, isolation) for _ in range(10)]
    for number, tx in enumerate(crowd):
        tx.add(("domain", "n"), 1)
        tx.append(("domain", "log"), number)
    for tx in reversed(crowd):
        tx.commit()
    assert domain(engine) == {"n": 10, "log": list(reversed(range(10)))}
    assert engine.stats().conflicts == 0


@BOTH
def test_commute_a_read_makes_an_add_ordinary(isolation: str) -> None:
    """Who adds and then reads has seen the value, and conflicts like everybody else."""
    engine = bank(n=0)
    tx, other = begin(engine, isolation), begin(engine, isolation)
    tx.add(("domain", "n"), 5)
    assert tx.domain["n"] == 5
    other.add(("domain", "n"), 1)
    other.commit()
    refused(tx, "domain", "n")
    assert domain(engine) == {"n": 1}


@BOTH
def test_commute_an_add_stays_deferred_when_the_body_reads_elsewhere(isolation: str) -> None:
    """Reading or writing a sibling key is no read of the key that was added to."""
    engine = bank(n=0, m=0, k=0)
    tx, other = begin(engine, isolation), begin(engine, isolation)
    tx.add(("domain", "n"), 5)
    assert tx.domain["m"] == 0
    tx.domain["k"] = 1
    other.add(("domain", "n"), 1)
    other.commit()
    tx.commit()
    assert domain(engine) == {"n": 6, "m": 0, "k": 1}


@BOTH
def test_g0_a_blind_write_of_the_same_value_is_still_a_write(isolation: str) -> None:
    """Storing what was there anyway, beside a change: it wins over others, or aborts."""
    engine = bank(x=1, z=1)
    tx, other = begin(engine, isolation), begin(engine, isolation)
    tx.set(("domain", "x"), 1)
    tx.set(("domain", "z"), 5)
    other.set(("domain", "x"), 2)
    other.commit()
    try:
        tx.commit()
        assert isolation == "serializable", "snapshot: first committer wins"
        assert domain(engine) == {"x": 1, "z": 5}
    except ConflictError:
        assert domain(engine) == {"x": 2, "z": 1}
