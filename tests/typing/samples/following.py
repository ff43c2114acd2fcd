"""What a type checker knows about changes, waits, readers and restored versions."""

from typing import assert_type

from theus import CommitRecord, State, TheusEngine
from theus.changes import Changes, Commit, RecordReader

engine = TheusEngine({"domain": {"n": 1}}, ring_mode="block", ring_timeout_ms=100)

with engine.changes(("domain", "n"), since=1) as changes:
    assert_type(changes, Changes)
    for change in changes:
        assert_type(change, Commit)
        assert_type(change.before, State | None)
        assert_type(change.missed, int)
    assert_type(changes.poll(1.5), Commit | None)

with engine.reader() as records:
    assert_type(records, RecordReader)
    assert_type(next(records), CommitRecord)
    assert_type(records.lost, int)


async def follow() -> int:
    async for change in engine.changes():
        assert_type(change.state, State)
    return (await engine.wait_for_async(lambda state: state.version > 3)).version


assert_type(engine.wait_for(lambda state: "domain" in state, timeout=2), State)
assert_type(engine.restore(engine.state), int)
assert_type(engine.state.shares(engine.state.at(1), "domain"), bool)

engine.changes(since="1")  # error: [arg-type]
engine.wait_for(True)  # error: [arg-type]
engine.restore("1")  # error: [arg-type]
